"""Where lines of a log go: a file, standard output, or the system's log."""

from __future__ import annotations

import os
import stat
import sys
import syslog
from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.logger import Logger

from monconn.errors import FileError, os_error_text

FILE_MODE = 0o640
LOOK_SECONDS = 1.0
"""Between two looks at whether the file is still the one at its name."""

_NEWLINE = ord("\n")


class WriteFailed(Exception):
    """Bytes that could not be written.

    :param rest: these.
    :param why: what the system says.
    """

    def __init__(self, rest: bytes, why: OSError) -> None:
        super().__init__(os_error_text(why))
        self.rest = rest


class Sink(Protocol):
    """What takes lines; all but :meth:`open` is called in a thread, which it may keep waiting."""

    place: str
    """What to call it."""

    def open(self) -> None:
        """Get it ready.

        :raises FileError: it cannot be had.
        """

    def reopen(self) -> None:
        """Have the next :meth:`write` open it anew."""

    def write(self, lines: bytes) -> None:
        """Write whole lines.

        :raises WriteFailed: with what was not.
        """

    def close(self) -> None:
        """Write nothing more."""


def sink_for(path: str, seconds: Callable[[], float]) -> Sink:
    """The sink that a configuration names.

    :param path: a file; or ``stdout``, or ``syslog``.
    :param seconds: the monotonic time.
    """
    if path == "stdout":
        return StdoutSink()
    if path == "syslog":
        return SyslogSink()
    return FileSink(path, seconds)


class _Descriptor:
    """Writes to a file descriptor; after a line that was cut short, on a fresh line."""

    _fd = -1
    _is_mid_line = False

    def write(self, lines: bytes) -> None:
        """See :meth:`Sink.write`."""
        rest = lines
        try:
            self._follow()
            if self._is_mid_line and rest:
                os.write(self._fd, b"\n")
                self._is_mid_line = False
            while rest:
                written = os.write(self._fd, self._piece(rest))
                self._is_mid_line = rest[written - 1] != _NEWLINE
                rest = rest[written:]
        except OSError as error:
            raise WriteFailed(rest, error) from None

    def _follow(self) -> None:
        """Open another file first, if need be."""

    def _piece(self, lines: bytes) -> bytes:
        """What to write in one go."""
        return lines


class FileSink(_Descriptor):
    """Appends to a file, and follows its name: it may be moved away, for another to take its place.

    :param path: the file, made if there is none.
    :param seconds: the monotonic time.
    """

    _log = Logger()

    def __init__(self, path: str, seconds: Callable[[], float]) -> None:
        self.place = path
        self._path = os.path.abspath(os.path.expanduser(path))  # whatever folder we go to later
        self._seconds = seconds
        self._must_reopen = False
        self._is_left_behind = False
        self._looked = 0.0

    def open(self) -> None:
        """See :meth:`Sink.open`; harmless the second time."""
        if self._fd < 0:
            try:
                self._open()
            except OSError as error:
                raise FileError(f"json_log: {self.place}: {os_error_text(error)}") from None

    def _open(self) -> None:
        # Not waiting, so that a pipe without a reader is an error, and does not hang the start.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        opened = os.open(self._path, flags, FILE_MODE)
        os.set_blocking(opened, True)
        self.close()
        self._fd = opened
        self._is_mid_line = _ends_mid_line(self._path)
        self._looked = self._seconds()

    def reopen(self) -> None:
        """See :meth:`Sink.reopen`."""
        self._must_reopen = True

    def _follow(self) -> None:
        """Open what stands at our name, if that is another file by now."""
        if self._fd < 0 or not (self._must_reopen or self._has_lost_its_name()):
            return
        self._must_reopen = False
        try:
            self._open()
            self._is_left_behind = False
        except OSError as error:
            self._stay(error)

    def _has_lost_its_name(self) -> bool:
        now = self._seconds()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except OSError:
            return True

    def _stay(self, error: OSError) -> None:
        """Go on with the old file, if it has a name by which people can find it."""
        if os.fstat(self._fd).st_nlink == 0:
            self._must_reopen = True  # else the next lines would go where nobody finds them
            raise error
        if not self._is_left_behind:
            self._is_left_behind = True
            self._log.error(
                "json_log: cannot reopen {place}: {reason}; going on with the file that is open",
                place=self.place,
                reason=os_error_text(error),
            )

    def close(self) -> None:
        """See :meth:`Sink.close`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class StdoutSink(_Descriptor):
    """Writes to standard output."""

    place = "stdout"

    def open(self) -> None:
        """See :meth:`Sink.open`."""
        # Not written through the stream: a thread that waits with its lock would also keep the
        # program from ending, for then Python flushes it.
        # twistd has put a log of its own in the place of the first one.
        for stream in (sys.stdout, sys.__stdout__):
            try:
                self._fd = cast(Any, stream).fileno()
            except (AttributeError, OSError, ValueError):
                continue
            if self._fd >= 0:  # such a log has said -1
                return
        raise FileError("json_log: stdout: there is no standard output")

    def reopen(self) -> None:
        """See :meth:`Sink.reopen`: there is nothing to open."""

    def _piece(self, lines: bytes) -> bytes:
        # One at a time: others write here, and a pipe takes only a little in one piece.
        return lines[: lines.index(b"\n") + 1]

    def close(self) -> None:
        """See :meth:`Sink.close`: it is not ours to close."""


class SyslogSink:
    """Sends each line to the system's log, as a daemon's information."""

    place = "syslog"

    def open(self) -> None:
        """See :meth:`Sink.open`."""
        syslog.openlog("monconn", syslog.LOG_PID, syslog.LOG_DAEMON)

    def reopen(self) -> None:
        """See :meth:`Sink.reopen`: the system sees to that."""

    def write(self, lines: bytes) -> None:
        """See :meth:`Sink.write`; the system does not tell what it has lost."""
        for line in lines.decode().splitlines():
            syslog.syslog(syslog.LOG_INFO, line)

    def close(self) -> None:
        """See :meth:`Sink.close`."""
        syslog.closelog()


def _ends_mid_line(path: str) -> bool:
    """Whether a file's last line has no end: an earlier run may have met a full disk."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:  # it is empty, or may not be read
        return False
