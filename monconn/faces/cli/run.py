"""Runs a configuration in the foreground until a signal stops it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

from monconn.clock import make_steady
from monconn.config.config import Config, ConfigFile
from monconn.errors import ListenError, MonconnError
from monconn.faces.cli.logs import Output, TextLog, begin_logging
from monconn.net.descriptors import raise_limit
from monconn.relay.sockets.loop import HAS_EPOLL
from monconn.run.application import Application
from monconn.run.signals import (
    StopSignals,
    abandon_pool_threads,
    end_hurried,
    end_soon,
    flush_streams,
)

_FLUSH_SECONDS = 1.0
_GC_THRESHOLDS = (10_000, 2, 50)
"""Of the three generations. A collection of the second takes 8 ms so, and stops everything; of ten
times as many objects as in the first it took 26 ms, while clients came in."""
_SWITCH_INTERVAL_SECONDS = 0.0005


def run(
    config: Config,
    *,
    file: ConfigFile | None = None,
    debug: bool = False,
    prepare: Callable[[Application, Any, TextLog], object] | None = None,
) -> int:
    """Run services until a signal stops them, on the reactor that is installed.

    :param file: where the configuration is from, if it is from a file.
    :param prepare: called with the running application, the reactor and the log, before
        the reactor runs.
    :returns: the exit status.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed  # its type lacks interfaces that each reactor has
    output = Output(sys.stdout)
    log = begin_logging(output, debug=debug)
    failures: list[ListenError] = []
    descriptors_before = raise_limit(reactor)

    def stop_after(error: ListenError) -> None:
        failures.append(error)
        signals.stop()

    try:
        abandon_pool_threads(reactor)
        app = Application(
            config, reactor, file=file, show=output.write, failed=stop_after, debug=debug
        )
        signals = StopSignals(
            reactor, app.stop_now, app.signal_received, end_hurried, app.reload_for_signal
        )
        signals.install()
        app.privilegedStartService()
        app.startService()
        app.log_descriptors(descriptors_before)
    except MonconnError as error:
        return _end(log, error)
    if prepare is not None:
        prepare(app, reactor, log)
    # What exists now stays until the end, and connections leave no reference cycles: collect
    # garbage less often, and do not scan the modules and the configuration again each time.
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    # How long a thread that formats log lines or rows for the history may keep the reactor's
    # thread waiting for the interpreter lock; Python's default is 5 ms.
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    reactor.addSystemEventTrigger("before", "shutdown", app.stopService)
    reactor.run()
    return _end(log, failures[0] if failures else None)


def install_reactor() -> None:
    """Install monconn's epoll reactor, unless a reactor is installed already.

    Where there is no epoll, it is Twisted's default, whose timers go by the monotonic clock, too.
    """
    if "twisted.internet.reactor" in sys.modules:
        return
    if HAS_EPOLL:
        from monconn.relay.sockets.reactor import install

        install()
    else:
        from twisted.internet import reactor

        make_steady(reactor)


def _end(log: TextLog, error: MonconnError | None) -> int:
    """Write what is still to be written, and have the process end soon, whatever hangs in it.

    :returns: the exit status.
    """
    status = 0 if error is None else 1
    end_soon(status)
    log.stop(_FLUSH_SECONDS)
    if error is not None:
        print(f"monconn: {error}", file=sys.stderr)
    flush_streams()
    return status
