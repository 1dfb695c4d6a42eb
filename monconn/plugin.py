"""``twistd monconn`` and ``twist monconn``; nothing here installs a reactor when imported."""

from __future__ import annotations

import os

from twisted.application.service import IService
from twisted.python import usage

from monconn.app import App
from monconn.config import Config, from_pairs, load
from monconn.errors import ConfigError, ListenError
from monconn.signals import StopSignals

CONFIG_VARIABLE = "MONCONN_CONFIG"
DEFAULT_CONFIG = "monconn.yaml"


class Options(usage.Options):
    """The options of the plugin: a configuration file, or pairs of addresses."""

    synopsis = "[options]"
    longdesc = "Watch the TCP connections of a service, by forwarding them."
    optParameters = [["config", "c", None, "configuration file (YAML)"]]

    def __init__(self) -> None:
        super().__init__()
        self["pairs"] = []

    def opt_pair(self, pair: str) -> None:
        """LISTEN=BACKEND, as :2222=127.0.0.1:22; may be given more than once"""
        self["pairs"].append(pair)

    opt_p = opt_pair

    def postOptions(self) -> None:
        """Read the configuration, so that its mistakes are usage errors."""
        if bool(self["config"]) == bool(self["pairs"]):
            raise usage.UsageError("give either --config FILE, or -p LISTEN=BACKEND")
        try:
            self["loaded"] = load(self["config"]) if self["config"] else from_pairs(self["pairs"])
        except ConfigError as error:
            raise usage.UsageError(str(error)) from error


def makeService(options: Options) -> IService:  # noqa: N802 - the name that Twisted asks for
    """The service for ``twistd`` and ``twist``."""
    return make_service(options["loaded"])


def make_service(config: Config) -> IService:
    """The service of a configuration, with the signals that stop it."""
    from twisted.internet import reactor

    app = _TwistdApp(config, reactor)
    StopSignals(reactor, app.stop_now).install()
    return app


def service_from_environment() -> IService:
    """The service of the file that ``MONCONN_CONFIG`` names; for ``monconn.tac``."""
    try:
        return make_service(load(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG)))
    except ConfigError as error:
        raise SystemExit(str(error)) from error


class _TwistdApp(App):
    """Ends the program with one line, where ``twistd`` would show a traceback."""

    def privilegedStartService(self) -> None:
        try:
            super().privilegedStartService()
        except ListenError as error:
            raise SystemExit(f"monconn: {error}") from error

    def startService(self) -> None:
        try:
            super().startService()
        except ListenError as error:
            raise SystemExit(f"monconn: {error}") from error
