"""Runs a configuration in the foreground until a signal stops it."""

from __future__ import annotations

import sys
from typing import Any, Callable

from monconn.app import App
from monconn.cli.logs import TextLog, begin_logging
from monconn.config import Config
from monconn.errors import ListenError
from monconn.signals import StopSignals

_FLUSH_SECONDS = 1.0


def run(
    config: Config,
    *,
    debug: bool = False,
    prepare: Callable[[App, Any, TextLog], object] | None = None,
) -> int:
    """Run services until a signal stops them.

    :param prepare: called with the running application, the reactor and the log, before
        the reactor runs.
    :returns: the exit status.
    """
    from twisted.internet import reactor

    log = begin_logging(debug=debug)
    app = App(config, reactor)
    try:
        app.privilegedStartService()
    except ListenError as error:
        print(f"monconn: {error}", file=sys.stderr)
        return 1
    app.startService()
    if prepare is not None:
        prepare(app, reactor, log)
    StopSignals(reactor, app.stop_now).install()
    reactor.addSystemEventTrigger("before", "shutdown", app.stopService)  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]
    log.stop(_FLUSH_SECONDS)
    return 0
