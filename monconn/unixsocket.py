"""UNIX sockets in the file system: listening at a path, whose a file is, and what may be removed.

A socket's file outlives its program, and ``bind(2)`` fails on any file that exists: so whoever
listens has to remove what an earlier program has left, and nothing else. The kernel has no call
that removes a file only if it is a certain one. Programs that listen by this module lock the
folder while they check and bind; against others there remain the microseconds between two system
calls.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from monconn.clock import retry_pauses
from monconn.errors import Remark
from monconn.files import explained, file_name, kind_of_file, making_fault
from monconn.processes import InUse, unix_holder

_LOCK_PAUSES_SECONDS = (0.02,) * 50
"""Between tries to lock a folder; others hold it for less than a millisecond."""


@attrs.frozen
class SocketFile:
    """The file that was made for a listening socket.

    While the socket is open, its inode stays in use, also without a name: so no other file can get
    its number.
    """

    path: str
    """Absolute, as the program may change its directory."""
    inode: tuple[int, int]
    """The device, and the number on it."""
    mode: int
    """The permissions that it was made with."""

    def is_in_place(self) -> bool:
        """Whether the path still leads to it; to be asked while its socket is open."""
        return identify(self.path) == self.inode

    def remove(self) -> None:
        """Remove it if it is still at its path; to be called while its socket is open.

        Without the lock: others of ours replace only what has no listener.
        """
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self.inode:
                os.unlink(self.path)
        except OSError:
            pass


class ListeningSocket(socket.socket):
    """A listening UNIX socket that knows its file; see :func:`listen`."""

    file: SocketFile


def listen(path: str, mode: int | None, backlog: int) -> ListeningSocket:
    """Listen at a path; of programs that do so at once, one succeeds.

    :param mode: the permissions of the file; None leaves them to the umask.
    :returns: a non-blocking socket.
    :raises OSError: something else is there (EADDRINUSE, and the text says what), the folder is
        locked for long (EBUSY), or an error of the operating system.
    """
    sock = ListeningSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(path):
            try:
                sock.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                if not _remove_stale(path):
                    raise _in_use(path) from error
                sock.bind(path)
            # Before listen(2): until then all connects are refused.
            sock.file = _made(path, mode)
            # With the folder still locked: a socket that does not listen yet looks stale.
            sock.listen(backlog)
        sock.setblocking(False)
    except BaseException as error:  # only to close it
        sock.close()
        if isinstance(error, OSError) and (told := explained(error, path)) is not error:
            raise told from error
        raise
    return sock


def _made(path: str, mode: int | None) -> SocketFile:
    """The file that bind(2) has just made, with its permissions.

    :raises OSError: something else is there by now (EBUSY).
    """
    # chmod(2) follows links: whoever may write to the folder could have it open any file.
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(file).st_mode):
            raise OSError(errno.EBUSY, "another program has replaced the socket")
        if mode is not None:
            try:
                os.chmod(f"/proc/self/fd/{file}", mode)
            except FileNotFoundError:  # no /proc, as in a chroot
                os.chmod(path, mode)
        found = os.fstat(file)
    finally:
        os.close(file)
    inode = found.st_dev, found.st_ino
    return SocketFile(os.path.abspath(path), inode, stat.S_IMODE(found.st_mode))


def check(path: str) -> list[Remark]:
    """Find what :func:`listen` would fail with, without making or removing anything.

    :returns: whether a socket would be replaced.
    :raises OSError: the same as :func:`listen` would.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        if fault := making_fault(path):
            raise fault from None
        return []
    except OSError as error:
        raise explained(error, path) from None
    if not stat.S_ISSOCK(mode) or _connect(path, socket.SOCK_DGRAM) != errno.ECONNREFUSED:
        raise _in_use(path)
    if fault := making_fault(path):
        raise fault
    return [Remark(f"{file_name(path)} has no listener any more: it is replaced", False)]


def is_listening(path: str | os.PathLike[str]) -> bool:
    """Whether a program that this user may talk to listens at a path."""
    # EAGAIN: the queue of its listener is full, so there is one.
    return _connect(path) in (0, errno.EAGAIN)


def remove_stale(path: str | os.PathLike[str]) -> None:
    """Remove the socket that a program left at a path when it ended; nothing else.

    :raises OSError: it cannot be removed.
    """
    with _locked(path):
        _remove_stale(path)


def identify(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Device and inode of the file that a path leads to; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep others who use this module from binding and removing in the folder of a path.

    The folder itself is locked, so that no other file has to be left there.

    :raises OSError: EBUSY if somebody has locked it for long.
    """
    try:
        folder = os.open(
            os.path.dirname(os.fspath(path)) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        )
    except PermissionError:  # one may be allowed to write there, and not to read
        yield
        return
    try:
        _lock(folder)
        yield
    finally:
        os.close(folder)


def _lock(folder: int) -> None:
    for pause in (*retry_pauses(_LOCK_PAUSES_SECONDS), None):
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if pause is None:
                text = "another program has locked the folder (flock)"
                raise OSError(errno.EBUSY, text) from None
            time.sleep(pause)
        except OSError:  # file systems without such locks, NFS for one
            return


def _remove_stale(path: str | os.PathLike[str]) -> bool:
    """Remove a socket without a listener; returns whether nothing is at the path any more.

    Only a socket whose ``connect(2)`` is *refused* belongs to no program any more: no permission,
    or another type, means that it is in use.
    """
    try:
        before = os.lstat(path)
        if not stat.S_ISSOCK(before.st_mode):  # connect(2) is refused by regular files, too
            return False
        # A datagram socket gets EPROTOTYPE from a listener, which hears nothing of it: a service
        # would forward a connection to its backend, and record it.
        if _connect(path, socket.SOCK_DGRAM) != errno.ECONNREFUSED:
            return False
        if not os.path.samestat(before, os.lstat(path)):
            return False
        os.unlink(path)
    except FileNotFoundError:
        pass
    return True


def _in_use(path: str) -> InUse:
    """The error about what is at a path that cannot be bound."""
    text = os.strerror(errno.EADDRINUSE)
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return InUse(text)
    if not stat.S_ISSOCK(mode):
        return InUse(f"{text}: there is {kind_of_file(mode)}, which is left alone")
    holder = unix_holder(path)
    who = holder or "another program"
    return InUse(f"{text} by {who}: stop that first, or choose another path", holder)


def _connect(path: str | os.PathLike[str], kind: int = socket.SOCK_STREAM) -> int:
    """The errno of connecting a socket of a kind to a path, 0 for success."""
    with socket.socket(socket.AF_UNIX, kind) as probe:
        # A UNIX socket connects, or fails, at once: nothing is left to wait for.
        probe.setblocking(False)
        return probe.connect_ex(os.fspath(path))
