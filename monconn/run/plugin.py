"""``twistd monconn`` and ``twist monconn``.

Nothing here may install a reactor when it is imported: the launcher chooses one after that.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any

from twisted.application.service import IService
from twisted.python import usage

from monconn._version import __version__
from monconn.clock import make_steady
from monconn.config.config import Config, ConfigFile, from_pairs
from monconn.config.http import USUAL_HTTP
from monconn.errors import ConfigError, ListenError, MonconnError, quoted
from monconn.log import Logger
from monconn.net.descriptors import raise_limit
from monconn.run.application import Application
from monconn.run.signals import (
    StopSignals,
    abandon_pool_threads,
    end_beside_threads,
    end_hurried,
    end_soon,
)
from monconn.run.sources import fault, load

CONFIG_VARIABLE = "MONCONN_CONFIG"
DEFAULT_CONFIG = "monconn.yaml"


class Options(usage.Options):
    """The options of the plugin: a configuration file, or pairs of addresses."""

    synopsis = "[options]"
    longdesc = "Watch the TCP connections of a service, by forwarding them."
    optParameters = [
        ["config", "c", None, "configuration file (YAML)"],
        ["http", None, None, f"with -p: address of the page and the HTTP API, as {USUAL_HTTP}"],
    ]
    optFlags = [
        ["record", None, "with -p: record the first and the last bytes of each connection"],
        ["debug", "D", "log what happens to each connection"],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["pairs"] = []

    def opt_pair(self, pair: str) -> None:
        """LISTEN=BACKEND, as :2222=127.0.0.1:22; may be given more than once"""
        self["pairs"].append(pair)

    opt_p = opt_pair

    def opt_version(self) -> None:
        """Display monconn's version and exit."""
        print(f"monconn, version {__version__}")
        raise SystemExit(0)

    def parseArgs(self, *args: str) -> None:
        """Refuse what is no option; a file without ``-c``, for example."""
        if args:
            raise usage.UsageError(f"unexpected {quoted(args[0])}: a file is given by -c FILE")

    def postOptions(self) -> None:
        """Read the configuration."""
        launcher = os.path.basename(sys.argv[0])
        pairs, record, http = self["pairs"], bool(self["record"]), self["http"]
        if problem := fault(self["config"], pairs, record, f"{launcher} monconn", http):
            raise usage.UsageError(problem)
        try:
            file = None if pairs else load(self["config"])
            if file is None:
                self["loaded"] = from_pairs(pairs, record=record, http=http)
            else:
                self["loaded"] = file.config
            self["file"] = file
        except ConfigError as error:  # UsageError would print the whole usage before it
            raise SystemExit(str(error)) from error


def makeService(options: Options) -> IService:
    """The service for ``twistd`` and ``twist``."""
    return make_service(options["loaded"], options["file"], debug=bool(options["debug"]))


def make_service(
    config: Config, file: ConfigFile | None = None, *, debug: bool = False
) -> IService:
    """The service of a configuration, with the signals that stop it, or have it read again.

    :param file: where it is from, if it is from a file.
    :param debug: log what happens to each connection.
    """
    from twisted.internet import reactor

    make_steady(reactor)
    try:
        return _TwistdApp(config, file, reactor, debug)
    except MonconnError as error:
        raise SystemExit(f"monconn: {error}") from None


def service_from_environment() -> IService:
    """The service of the file that ``MONCONN_CONFIG`` names; for ``monconn.tac``."""
    try:
        file = load(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG))
        return make_service(file.config, file)
    except ConfigError as error:
        raise SystemExit(str(error)) from error


class CannotStart(SystemExit, Exception):
    """Ends the program without a traceback.

    As it is an ``Exception``, too, ``twistd`` also removes its PID file, and passes the message to
    the process that has started it as a daemon.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = 1  # else Python prints the message, which twistd redirects into the log


class _TwistdApp(Application):
    """The application under launchers that have their own signal handlers and exit statuses."""

    _log = Logger()

    def __init__(self, config: Config, file: ConfigFile | None, reactor: Any, debug: bool) -> None:
        self._descriptors_before = raise_limit(reactor)
        super().__init__(config, reactor, file=file, failed=self._fail, debug=debug)
        self._reactor = reactor
        self._status = 0
        self._signals = StopSignals(
            reactor, self.stop_now, self.signal_received, end_hurried, self.reload_for_signal
        )

    def privilegedStartService(self) -> None:
        self.take_process()
        self._start(super().privilegedStartService)

    def take_process(self) -> None:
        """Decide what signals do to the process, and that it ends once the reactor has stopped."""
        self._signals.install()
        abandon_pool_threads(self._reactor)
        end_beside_threads(lambda: self._status)
        self._reactor.addSystemEventTrigger("after", "shutdown", lambda: end_soon(self._status))

    def startService(self) -> None:
        self._start(super().startService)
        self.log_descriptors(self._descriptors_before)

    def _start(self, start: Callable[[], object]) -> None:
        try:
            start()
        except MonconnError as error:
            self._report(error)
            raise CannotStart(str(error)) from error

    def _report(self, error: MonconnError) -> None:
        self._log.error("{problem}", problem=str(error))
        print(f"monconn: {error}", file=sys.__stderr__)

    def _fail(self, error: ListenError) -> None:
        self._report(error)
        self._status = 1
        atexit.register(os._exit, 1)  # the launchers exit with 0 after reactor.stop()
        self._signals.stop()
