"""The log of the ``monconn`` command: text lines, written in a thread of their own."""

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
from monconn.errors import printable, printable_lines

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
    """Standard output for several threads; writing may block the thread that writes.

    What cannot be written (the reader has gone, the disk is full) is dropped: there is no other
    place where it could be reported.

    :param stream: ``sys.stdout``; None if the program was started without one.
    """

    def __init__(self, stream: TextIO | None) -> None:
        # Not written through the stream: Python flushes it at exit, and would wait for ever for
        # its lock while a thread that cannot write holds it.
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
    """Writes log events as lines, in a thread, so that a stopped terminal blocks nothing else.

    :param write: takes text; called in a thread.
    :param debug: write everything; else the messages of monconn, and warnings of other modules.
    :param is_terminal: write short times, and colours.
    """

    def __init__(
        self, write: Callable[[str], object], *, debug: bool = False, is_terminal: bool = False
    ) -> None:
        self._write = write
        self._debug = debug
        self.is_terminal = is_terminal
        self._time_format = "%H:%M:%S" if is_terminal else "%Y-%m-%d %H:%M:%S"
        self._queue: BackgroundQueue[str] = BackgroundQueue(self._write_queued, QUEUED_CHARACTERS)

    def __call__(self, event: LogEvent) -> None:
        """Implements ``ILogObserver.__call__``."""
        if self._wants(event):
            self.write(self._line(event))

    def write(self, text: str) -> None:
        """Queue text as it is."""
        self._queue.put(text, len(text))

    def _wants(self, event: LogEvent) -> bool:
        if self._debug:
            return True
        level = event.get("log_level", LogLevel.info)
        is_own = str(event.get("log_namespace", "")).startswith("monconn")
        return bool(level >= (LogLevel.info if is_own else LogLevel.warn))

    def _line(self, event: LogEvent) -> str:
        at = time.strftime(self._time_format, time.localtime(event.get("log_time", 0)))
        level: Any = event.get("log_level", LogLevel.info)
        text = printable(formatEvent(event))  # not only ours: other modules log as they like
        failure = event.get("log_failure")
        if failure is not None:
            lines = printable_lines(failure.getTraceback().rstrip()).split("\n")
            # Behind a margin, no line of an exception's own text passes for one of the log.
            text += "".join(f"\n  {line}" for line in lines)
        if level != LogLevel.info:
            text = f"{level.name}: {text}"
        return f"{self._coloured(_DIM, at)} {self._coloured(_COLOURS.get(level, ''), text)}\n"

    def _coloured(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self.is_terminal and colour else text

    def _write_queued(self, text: str, dropped: int) -> None:
        if dropped:
            self._write(f"... {dropped} lines dropped: more than could be written\n")
        self._write(text)

    def stop(self, wait_seconds: float) -> bool:
        """Write what is queued; return whether all of it was written in time."""
        return self._queue.stop(wait_seconds)


def begin_logging(output: Output, *, debug: bool) -> TextLog:
    """Send everything that is logged to an output."""
    log = TextLog(output.write, debug=debug, is_terminal=output.is_terminal)
    globalLogBeginner.beginLoggingTo([log], redirectStandardIO=False, discardBuffer=not debug)
    return log
