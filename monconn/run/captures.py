"""The captures of a configuration: checked, begun at the start, and ended."""

from __future__ import annotations

from twisted.application.service import Service

from monconn.config.config import Config
from monconn.errors import ConfigError, Problem
from monconn.ops.captures import Captures, parse_filter
from monconn.ops.filter_keys import CONNECTION_KEYS
from monconn.ops.filters import Filter, FilterError
from monconn.ops.taps import payload_forbidden, services_meant


class CaptureService(Service):
    """Begins the captures of a configuration, and ends all captures.

    :param captures: those of the program.
    """

    def __init__(self, captures: Captures) -> None:
        self._captures = captures

    def startService(self) -> None:
        """Begin what is to be captured from the start.

        :raises MonconnError: the folder cannot be used, or nothing may be captured.
        """
        super().startService()
        self._captures.start()

    def stopService(self) -> None:
        """End all captures, waiting for the disk for a moment at most."""
        super().stopService()
        self._captures.stop()


def check_captures(config: Config, source: str) -> Config:
    """Check what the configuration's reader cannot: the filter, and whether it means any bytes that
    may be captured.

    :param source: the file's name, for the problems.
    :returns: the configuration.
    :raises ConfigError: with the problem.
    """
    capture = config.capture
    if capture is None or not (capture.filter or capture.on):
        return config
    key = "filter" if capture.filter else "on"
    try:
        wanted = parse_filter(capture.filter, [each.name for each in config.services])
    except FilterError as error:
        raise _problem(config, source, key, str(error)) from None
    meant = services_meant(config.services, wanted or Filter((), CONNECTION_KEYS))
    forbidden = [each.name for each in meant if each.policy.payload == "never"]
    if forbidden and len(forbidden) == len(meant):
        raise _problem(config, source, key, str(payload_forbidden(forbidden)))
    return config


def _problem(config: Config, source: str, key: str, message: str) -> ConfigError:
    assert config.capture is not None
    line = config.capture.lines.get(key)
    source = config.capture.source or source
    return ConfigError([Problem(source, line, f"capture.{key}", message)])
