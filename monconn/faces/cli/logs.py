"""The log of the ``monconn`` command: readable lines that can hold nothing up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    formatEvent,
    globalLogBeginner,
)
from zope.interface import implementer

from monconn.background import BackgroundQueue

QUEUED_CHARACTERS = 1024 * 1024
_DIM = "\x1b[2m"
_COLOURS = {
    LogLevel.debug: _DIM,
    LogLevel.warn: "\x1b[33m",
    LogLevel.error: "\x1b[31m",
    LogLevel.critical: "\x1b[1;31m",
}
_PLAIN = "\x1b[0m"


class Output:
    """Standard output for several threads, each of which it may keep waiting.

    What cannot be written is dropped: the reader has gone, or the disk is full, and there is
    nobody to tell.

    :param stream: ``sys.stdout``; None if the program was started without.
    """

    def __init__(self, stream: TextIO | None) -> None:
        # Not written through the stream: a thread that waits with its lock would also keep the
        # program from ending, for then Python flushes it.
        self._fileno = None if stream is None else stream.fileno()
        self._encoding = "utf-8" if stream is None else stream.encoding
        self.is_terminal = stream is not None and stream.isatty()
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        """Write text, or wait until it can be written."""
        if self._fileno is None:
            return
        data = text.encode(self._encoding, "backslashreplace")
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._fileno, data) :]
            except OSError:
                pass


@implementer(ILogObserver)
class TextLog:
    """Writes log events as lines, in a thread: a terminal that stands still stops nothing.

    :param write: takes text; called in a thread.
    :param debug: whether to show everything; else our own words, and others' warnings.
    :param is_terminal: whether people look on as it is written.
    """

    def __init__(
        self, write: Callable[[str], object], *, debug: bool = False, is_terminal: bool = False
    ) -> None:
        self._write = write
        self._debug = debug
        self.is_terminal = is_terminal
        self._time_format = "%H:%M:%S" if is_terminal else "%Y-%m-%d %H:%M:%S"
        self._offload: BackgroundQueue[str] = BackgroundQueue(self._show, QUEUED_CHARACTERS)

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
        at = time.strftime(self._time_format, time.localtime(event.get("log_time", 0)))
        level: Any = event.get("log_level", LogLevel.info)
        text = formatEvent(event)
        if event.get("log_failure") is not None:
            text += "\n" + event["log_failure"].getTraceback().rstrip()
        if level != LogLevel.info:
            text = f"{level.name}: {text}"
        return f"{self._in(_DIM, at)} {self._in(_COLOURS.get(level, ''), text)}\n"

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self.is_terminal and colour else text

    def _show(self, text: str, dropped: int) -> None:
        if dropped:
            self._write(f"... {dropped} lines not shown: more than could be written\n")
        self._write(text)

    def stop(self, wait_seconds: float) -> bool:
        """Write what is queued; whether all of it was written in time."""
        return self._offload.stop(wait_seconds)


def begin_logging(output: Output, *, debug: bool) -> TextLog:
    """Send everything that is logged to an output."""
    log = TextLog(output.write, debug=debug, is_terminal=output.is_terminal)
    globalLogBeginner.beginLoggingTo([log], redirectStandardIO=False, discardBuffer=not debug)
    return log
