"""UNIX sockets in the file system: whether one has a listener, and removal of stale files."""

from __future__ import annotations

import errno
import os
import socket
import stat


def is_listening(path: str | os.PathLike[str]) -> bool:
    """Whether a program that this user may talk to listens at a path."""
    # EAGAIN: the queue of its listener is full, so there is one.
    return _connect(path) in (0, errno.EAGAIN)


def remove_stale(path: str | os.PathLike[str]) -> None:
    """Remove the socket that a program left at a path when it ended; nothing else.

    ``bind(2)`` fails with EADDRINUSE on any file that exists, so an unclean end would otherwise
    prevent the next start. Only a socket whose ``connect(2)`` is *refused* has no listener: no
    permission, or a full queue, means that it is in use.

    :raises OSError: it cannot be removed.
    """
    try:
        # connect(2) is refused by regular files, too.
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    if _connect(path) == errno.ECONNREFUSED:
        os.unlink(path)


def identify(path: str) -> tuple[int, int] | None:
    """Device and inode of the file at a path, to recognize it later; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _connect(path: str | os.PathLike[str]) -> int:
    """The errno of connecting to a path, 0 for success."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A UNIX socket connects, or fails, at once: nothing is left to wait for.
        probe.setblocking(False)
        return probe.connect_ex(os.fspath(path))
