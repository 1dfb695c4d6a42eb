"""Where the lines of a log go: a file, standard output, or syslog."""

from __future__ import annotations

import errno
import os
import stat
import sys
import syslog
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from monconn import files
from monconn.errors import FileError, Remark, os_error_text
from monconn.files import append_fault, explained, file_name, path_fault, writing_fault
from monconn.log import Logger

FILE_MODE = 0o640
CHECK_SECONDS = 1.0
"""The time between two checks whether the open file is still the one at its path."""

_NEWLINE = ord("\n")


class WriteFailed(Exception):
    """Bytes that could not be written.

    :param rest: the bytes.
    :param why: the error, whose text becomes this one's.
    """

    def __init__(self, rest: bytes, why: OSError) -> None:
        super().__init__(os_error_text(why))
        self.rest = rest


class Sink(Protocol):
    """An output for lines; :meth:`write` is called in a thread, which it may block."""

    place: str
    """Its name in messages."""

    def open(self) -> None:
        """Open it; called in the reactor's thread, so it must not block.

        :raises FileError: it cannot be opened.
        """

    def reopen(self) -> None:
        """Have the next :meth:`write` open it again first; called in the reactor's thread."""

    def write(self, lines: bytes) -> None:
        """Write whole lines.

        :raises WriteFailed: some of them were not written.
        """

    def close(self) -> None:
        """Close it; nothing is written after that."""


def sink_for(path: str, seconds: Callable[[], float]) -> Sink:
    """Make the sink that a configuration names.

    :param path: a file's path, ``stdout`` or ``syslog``.
    :param seconds: gives monotonic seconds.
    """
    if path == "stdout":
        return StdoutSink()
    if path == "syslog":
        return SyslogSink()
    return FileSink(path, seconds)


def check_sink(path: str) -> list[Remark]:
    """Find what a sink of a configuration could not be opened with, without opening it.

    :returns: what is not known.
    :raises FileError: it cannot be opened.
    """
    if path in ("stdout", "syslog"):
        return []
    sink = FileSink(path, time.monotonic)
    sink.check()
    if fault := writing_fault(sink.path):
        raise sink.error(fault)
    if _is_fifo(sink.path):
        # To whoever reads it, a writer that closes it is its end.
        return [Remark("it is not tried whether somebody reads this named pipe", False)]
    return []


class _Descriptor:
    """Writes to a file descriptor; after a partial write it continues on a new line."""

    _fd = -1
    _is_mid_line = False

    def write(self, lines: bytes) -> None:
        """Write whole lines.

        :raises WriteFailed: some of them were not written.
        """
        rest = lines
        try:
            self._before_write()
            if self._is_mid_line and rest:
                os.write(self._fd, b"\n")
                self._is_mid_line = False
            while rest:
                written = os.write(self._fd, self._piece(rest))
                self._is_mid_line = rest[written - 1] != _NEWLINE
                rest = rest[written:]
        except OSError as error:
            raise WriteFailed(rest, error) from None

    def _before_write(self) -> None:
        """A hook for a subclass that may have to open another file first."""

    def _piece(self, lines: bytes) -> bytes:
        """The start of the lines: the part for the next write(2)."""
        return lines


class FileSink(_Descriptor):
    """Appends to the file at a path, also after that was renamed and replaced (log rotation).

    :param path: the file, created if there is none.
    :param seconds: gives monotonic seconds.
    """

    _log = Logger()

    def __init__(self, path: str, seconds: Callable[[], float]) -> None:
        self.place = path
        self.path = os.path.expanduser(path)
        try:
            self.path = os.path.abspath(self.path)  # a daemon changes its directory
        except OSError:
            pass  # the working directory is gone: open says so
        self._seconds = seconds
        self._must_reopen = False
        self._cannot_reopen = False
        self._has_lost_file = False
        self._checked = 0.0

    def open(self) -> None:
        """Open the file; harmless the second time."""
        if self._fd >= 0:
            return
        self.check()
        try:
            self._open()
        except OSError as error:
            raise self.error(explained(error, self.path)) from None

    def check(self) -> None:
        """Look whether lines can be appended to what is there.

        :raises FileError: they cannot.
        """
        if fault := path_fault(self.path) or append_fault(self.path):
            raise FileError(f"json_log: {file_name(self.place)}: {fault}")

    def error(self, error: OSError) -> FileError:
        """The error of a file that cannot be opened."""
        return FileError(f"json_log: {self.place}: {os_error_text(error)}")

    def _open(self) -> None:
        if fault := append_fault(self.path):  # when it is opened again, too
            raise OSError(errno.EINVAL, fault.removeprefix("it "))
        # O_NONBLOCK: opening a FIFO without a reader fails (ENXIO) instead of blocking the start.
        # O_APPEND: the file may be truncated by others, as logrotate does with copytruncate.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            opened = os.open(self.path, flags, FILE_MODE)
        except OSError as error:
            if error.errno != errno.ENXIO or not _is_fifo(self.path):
                raise
            text = f"nobody reads this named pipe ({os_error_text(error)})"
            raise OSError(errno.ENXIO, text) from None
        os.set_blocking(opened, True)
        self.close()
        self._fd = opened
        self._is_mid_line = _ends_mid_line(self.path)
        self._checked = self._seconds()

    def reopen(self) -> None:
        """Have the next write open the path again."""
        self._must_reopen = True

    def _before_write(self) -> None:
        """Open the file at the path, if that is another one by now."""
        if self._fd < 0:
            return
        was_asked = self._must_reopen
        if not (was_asked or self._was_replaced()):
            return
        if not (was_asked or self._has_lost_file):
            self._has_lost_file = True
            files.lost["json_log"] += 1
        self._must_reopen = False
        try:
            self._open()
            self._cannot_reopen = False
        except OSError as error:
            self._continue_with_open_file(error)
        else:
            if self._has_lost_file:
                self._has_lost_file = False
                self._log.info(
                    "json_log: {place} was moved, removed or replaced; writing to a new file there",
                    place=self.place,
                )

    def _was_replaced(self) -> bool:
        # At each write, as lines in a file without a name are lost.
        if os.fstat(self._fd).st_nlink == 0:
            return True
        now = self._seconds()
        if now - self._checked < CHECK_SECONDS:
            return False
        self._checked = now
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except OSError:
            return True

    def _continue_with_open_file(self, error: OSError) -> None:
        """Keep writing to the file that is open, if it still has a name somewhere.

        :raises OSError: it was deleted, so that the lines could never be read.
        """
        if os.fstat(self._fd).st_nlink == 0:  # so that the next write tries again
            raise error
        if not self._cannot_reopen:
            self._cannot_reopen = True
            self._log.error(
                "json_log: cannot reopen {place}: {reason}; going on with the file that is open",
                place=self.place,
                reason=os_error_text(error),
            )

    def close(self) -> None:
        """Close the file; harmless if it is not open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class StdoutSink(_Descriptor):
    """Writes to standard output."""

    place = "stdout"

    def open(self) -> None:
        """Find the descriptor of standard output.

        :raises FileError: there is none.
        """
        # The descriptor and not the stream: a thread blocked in sys.stdout.write() holds the
        # stream's lock, for which the interpreter waits when it flushes stdout at its end.
        # Under twistd, sys.stdout is a log; sys.__stdout__ is the original.
        for stream in (sys.stdout, sys.__stdout__):
            try:
                self._fd = cast(Any, stream).fileno()
            except (AttributeError, OSError, ValueError):
                continue
            if self._fd >= 0:  # twistd's replacement of stdout returns -1
                return
        raise FileError("json_log: stdout: there is no standard output")

    def reopen(self) -> None:
        """Do nothing: standard output has no path."""

    def _piece(self, lines: bytes) -> bytes:
        # One line per write(2): others write here too, and only up to PIPE_BUF (4,096) bytes
        # go into a pipe without being mixed with theirs.
        return lines[: lines.index(b"\n") + 1]

    def close(self) -> None:
        """Do nothing: standard output belongs to the whole program."""


class SyslogSink:
    """Sends each line to syslog, with facility ``daemon`` and priority ``info``."""

    place = "syslog"

    def open(self) -> None:
        """Connect to syslog."""
        syslog.openlog("monconn", syslog.LOG_PID, syslog.LOG_DAEMON)

    def reopen(self) -> None:
        """Do nothing: syslog(3) reconnects by itself."""

    def write(self, lines: bytes) -> None:
        """Send each line; syslog(3) does not report what it loses."""
        for line in lines.decode().splitlines():
            syslog.syslog(syslog.LOG_INFO, line)

    def close(self) -> None:
        """Disconnect from syslog."""
        syslog.closelog()


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def _ends_mid_line(path: str) -> bool:
    """Whether a file's last line lacks its newline, as when an earlier run filled the disk."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:  # it is empty (the seek fails), or may not be read
        return False
