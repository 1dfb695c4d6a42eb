"""The log of the ``monconn`` command: readable lines that can hold nothing up."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    formatEvent,
    globalLogBeginner,
)
from zope.interface import implementer

from monconn.core.offload import Offload

QUEUED_CHARACTERS = 1024 * 1024
_COLOURS = {
    LogLevel.debug: "\x1b[2m",
    LogLevel.warn: "\x1b[33m",
    LogLevel.error: "\x1b[31m",
    LogLevel.critical: "\x1b[1;31m",
}
_PLAIN = "\x1b[0m"


@implementer(ILogObserver)
class TextLog:
    """Writes log events as lines, in a thread: a terminal that stands still stops nothing.

    :param stream: where to.
    :param debug: whether to show everything; else our own words, and others' warnings.
    """

    def __init__(self, stream: TextIO, *, debug: bool = False) -> None:
        self._stream = stream
        self._debug = debug
        self.is_terminal = stream.isatty()
        self._offload: Offload[str] = Offload(self._show, QUEUED_CHARACTERS)

    def __call__(self, event: LogEvent) -> None:
        """See ``ILogObserver``."""
        if self._wants(event):
            self.write(self._line(event))

    def write(self, text: str) -> None:
        """Queue text as it is."""
        self._offload.put(text, len(text))

    def _wants(self, event: LogEvent) -> bool:
        if self._debug:
            return True
        level = event.get("log_level", LogLevel.info)
        ours = str(event.get("log_namespace", "")).startswith("monconn")
        return bool(level >= (LogLevel.info if ours else LogLevel.warn))

    def _line(self, event: LogEvent) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(event.get("log_time", 0)))
        level: Any = event.get("log_level", LogLevel.info)
        text = formatEvent(event)
        if event.get("log_failure") is not None:
            text += "\n" + event["log_failure"].getTraceback().rstrip()
        if level != LogLevel.info:
            text = f"{level.name}: {text}"
        colour = _COLOURS.get(level, "") if self.is_terminal else ""
        return f"{at} {colour}{text}{_PLAIN if colour else ''}\n"

    def _show(self, text: str, dropped: int) -> None:
        if dropped:
            self._stream.write(f"... {dropped} lines not shown: more than could be written\n")
        self._stream.write(text)
        self._stream.flush()

    def stop(self, wait_seconds: float) -> bool:
        """Write what is queued; whether all of it was written in time."""
        return self._offload.stop(wait_seconds)


def begin_logging(*, debug: bool) -> TextLog:
    """Send everything that is logged to standard output."""
    log = TextLog(sys.stdout, debug=debug)
    globalLogBeginner.beginLoggingTo([log], redirectStandardIO=False, discardBuffer=not debug)
    return log
