"""Kernel pipes for splicing, lent only while bytes are in them."""

from __future__ import annotations

import fcntl
import os
import time

from monconn.log import Logger
from monconn.monitor.tracks import Tail
from monconn.net.descriptors import PIPES

PIPE_BYTES = 1 << 20
"""The most that an unprivileged user may ask for (``/proc/sys/fs/pipe-max-size``)."""
SHORTAGE_SECONDS = 1.0
"""How long bytes are copied after a pipe could not be made, before the next attempt."""
_DROPPED_AT_ONCE = 1 << 18
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)  # in Python since 3.10, on Linux


class Pipe:
    """A pipe and how many bytes are in it."""

    __slots__ = ("held", "reader", "tail", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        self.tail: Tail | None = None
        """Which of them, the last ones, are recorded: these are to be read, and not spliced."""

    def read_tail(self) -> bytes:
        """Read the bytes that are recorded; those before them are dropped, if any are left.

        A pipe is read from its beginning: there is no way to them before.
        """
        tail, self.tail = self.tail, None
        assert tail is not None
        while self.held > tail.count:
            dropped = os.read(self.reader, min(self.held - tail.count, _DROPPED_AT_ONCE))
            self.held -= len(dropped)
        data = os.read(self.reader, self.held)
        while len(data) < self.held:  # never so far, but bytes must not be lost
            data += os.read(self.reader, self.held - len(data))
        self.held = 0
        tail.record(data)
        return data

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """Lends pipes, and reuses those that are returned empty: making one costs three system calls.

    :param retained: how many empty pipes to retain.
    :param lent: how many may be lent at once. It bounds what stalled connections hold in the
        kernel, whose pages for pipes are limited for each user
        (``/proc/sys/fs/pipe-user-pages-soft``).
    """

    _log = Logger()

    def __init__(self, retained: int = 16, lent: int = PIPES) -> None:
        self._retained = retained
        self._may_lend = lent
        self._free: list[Pipe] = []
        self._has_warned = False
        self._try_again = 0.0

    def __len__(self) -> int:
        return len(self._free)

    def take(self) -> Pipe | None:
        """An empty pipe; None if none is available and the bytes must be copied."""
        if self._free:
            pipe = self._free.pop()
        elif self._may_lend <= 0 or time.monotonic() < self._try_again:
            return None
        else:
            made = self._make()
            if made is None:
                return None
            pipe = made
        self._may_lend -= 1
        return pipe

    def _make(self) -> Pipe | None:
        try:
            pipe = Pipe()
        except OSError as error:  # EMFILE, ENFILE
            self._warn(error)
            return None
        try:
            fcntl.fcntl(pipe.writer, _F_SETPIPE_SZ, PIPE_BYTES)
        except OSError as error:  # EPERM: the user's share of pipe pages is used up
            pipe.close()
            self._warn(error)
            return None
        return pipe

    def _warn(self, error: OSError) -> None:
        self._try_again = time.monotonic() + SHORTAGE_SECONDS
        if not self._has_warned:
            self._has_warned = True
            self._log.warn("no pipe to splice with ({error}): copying instead", error=str(error))

    def give_back(self, pipe: Pipe) -> None:
        """Return a pipe. One that still holds bytes is closed, and they are dropped, but for what
        is recorded of them."""
        self._may_lend += 1
        if pipe.tail is not None:  # its receiver has failed, or was closed
            pipe.read_tail()
        if pipe.held or len(self._free) >= self._retained:
            pipe.close()
        else:
            self._free.append(pipe)

    def close(self) -> None:
        """Close the pipes that are not lent."""
        while self._free:
            self._free.pop().close()
