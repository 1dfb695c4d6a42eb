"""Runs a configuration in the foreground until a signal stops it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

from monconn.config.config import Config
from monconn.errors import ListenError, MonconnError
from monconn.faces.cli.logs import Output, TextLog, begin_logging
from monconn.relay.sockets.loop import HAS_EPOLL
from monconn.run.application import Application
from monconn.run.signals import StopSignals

_FLUSH_SECONDS = 1.0
_OBJECTS_BEFORE_COLLECTING = 10_000
_SWITCH_SECONDS = 0.0005


def run(
    config: Config,
    *,
    debug: bool = False,
    prepare: Callable[[Application, Any, TextLog], object] | None = None,
) -> int:
    """Run services until a signal stops them, on the reactor that is installed.

    :param prepare: called with the running application, the reactor and the log, before
        the reactor runs.
    :returns: the exit status.
    """
    from twisted.internet import reactor

    output = Output(sys.stdout)
    log = begin_logging(output, debug=debug)
    failures: list[ListenError] = []

    def failed(error: ListenError) -> None:
        failures.append(error)
        signals.stop()

    try:
        app = Application(config, reactor, show=output.write, failed=failed)
        signals = StopSignals(reactor, app.stop_now)
        signals.install()
        app.privilegedStartService()
        app.startService()
    except MonconnError as error:
        return _cannot_go_on(error)
    if prepare is not None:
        prepare(app, reactor, log)
    # What stands now is there to stay, and connections leave no cycles: look for garbage less.
    gc.freeze()
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTING)
    # A thread that makes rows or text may keep the reactor waiting so long, and no longer.
    sys.setswitchinterval(_SWITCH_SECONDS)
    reactor.addSystemEventTrigger("before", "shutdown", app.stopService)
    reactor.run()
    log.stop(_FLUSH_SECONDS)
    return _cannot_go_on(failures[0]) if failures else 0


def install_reactor() -> None:
    """Choose the reactor that serves plain Ends best, unless another one is there already."""
    if HAS_EPOLL and "twisted.internet.reactor" not in sys.modules:
        from monconn.relay.sockets.reactor import install

        install()


def _cannot_go_on(error: MonconnError) -> int:
    print(f"monconn: {error}", file=sys.stderr)
    return 1
