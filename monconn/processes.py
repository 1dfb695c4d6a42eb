"""Which process listens where, what it is, as far as the kernel tells by ``/proc`` (proc(5)), and
the names of users.

Nobody is connected to for it: a listener would record that as a client. Only the processes of this
user are known so, and to root those of all users.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import pwd
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import attrs

from monconn.clock import retry_pauses
from monconn.errors import printable

_LOCK_PAUSES_SECONDS = (0.1, 0.2, 0.4, 0.8)
_LISTENING = "0A"  # TCP_LISTEN of the kernel's tcp_states.h
_ACCEPTING = 1 << 16  # __SO_ACCEPTCON of the kernel's net.h
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_FLAGS = re.compile("[0-9A-F]{8}")
_TCP_FILES = ("/proc/net/tcp", "/proc/net/tcp6")
_MOST_CHARACTERS, _MOST_DESCRIPTORS = 4 << 20, 100_000
_MOST_CHARACTERS_OF_A_TURN, _MOST_DESCRIPTORS_OF_A_TURN = 64 << 10, 1000
"""What is read while a reactor runs, whose connections must not wait for it. The kernel's tables of
TCP sockets begin with those that listen."""


@attrs.frozen
class Process:
    """A process of this host."""

    pid: int
    name: str
    """As the kernel knows it: 15 characters at most."""

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})" if self.name else f"process {self.pid}"

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process with an id; without a name if it has ended."""
        return cls(pid, printable(_read(f"/proc/{pid}/comm").strip()))

    def arguments(self) -> list[str]:
        """Its command line; empty if that may not be read."""
        text = _read(f"/proc/{self.pid}/cmdline")
        return text.removesuffix("\0").split("\0") if text else []

    def started_at(self) -> float | None:
        """When it began, in seconds since 1970; None if the system does not say."""
        try:
            booted = time.time() - float(_read("/proc/uptime").split()[0])
            # The second field is a name in parentheses, which may hold anything.
            fields = _read(f"/proc/{self.pid}/stat").rpartition(")")[2].split()
            return booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
        except (ValueError, IndexError):
            return None

    def environment(self) -> dict[str, str]:
        """The variables that it was started with; empty if they may not be read."""
        pairs = _read(f"/proc/{self.pid}/environ").split("\0")
        return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}

    def path(self, path: str) -> str:
        """What a path means to it, as its working folder may be another one."""
        try:
            return os.path.join(os.readlink(f"/proc/{self.pid}/cwd"), path)
        except OSError:
            return path


class InUse(OSError):
    """An address that has a listener already.

    :param text: what is there.
    :param holder: who listens there; None if that is not known.
    """

    def __init__(self, text: str, holder: Process | None = None) -> None:
        super().__init__(errno.EADDRINUSE, text)
        self.holder = holder


def holder_of(error: BaseException | None) -> Process | None:
    """Who has the address that an error is about, by it or one of its causes."""
    while error is not None:
        if isinstance(error, InUse) and error.holder is not None:
            return error.holder
        error = error.__cause__
    return None


def tcp_holder(ip: str, port: int) -> Process | None:
    """Who has a TCP port, at an address or one that stands for it.

    :param ip: the address to be bound; empty for all.
    """
    wanted = _plain(ip)

    def is_it(fields: list[str]) -> bool:
        local, _, local_port = fields[1].partition(":")
        if int(local_port, 16) != port:
            return False
        theirs = _plain(_decoded(local))
        return theirs == wanted or _is_every(theirs) or _is_every(wanted)

    rows = [row for file in _TCP_FILES for row in _rows(file) if len(row) > 9 and is_it(row)]
    # A connection has a port for itself, too, if the kernel has chosen that for it.
    listeners = [row for row in rows if row[3] == _LISTENING] or rows
    return _owner({row[9] for row in listeners})


def unix_holder(path: str) -> Process | None:
    """Who listens at the path of a UNIX socket."""
    name = os.path.basename(path)
    rows = [
        row
        for row in _rows("/proc/net/unix", columns=8)
        # Others may bind paths with line breaks: what follows these looks like a row, and is none.
        if len(row) > 7 and _FLAGS.fullmatch(row[3]) and int(row[3], 16) & _ACCEPTING
        if os.path.basename(row[7]) == name
    ]
    by_inode = {row[6]: row[7] for row in rows}

    def is_it(inode: str, process: Process) -> bool:
        # As it was given to bind(2), perhaps relative.
        return os.path.realpath(process.path(by_inode[inode])) == os.path.realpath(path)

    return _owner(by_inode, is_it)


def take_flock(path: str) -> int:
    """Lock a file by flock(2), which is made if there is none, for as long as this process lives.

    :returns: a descriptor, whose closing releases the lock.
    :raises InUse: another process has it.
    :raises OSError: the file cannot be opened.
    """
    # The program before, which holds it, may be about to end.
    for pause in (*retry_pauses(_LOCK_PAUSES_SECONDS), None):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        except OSError:  # ENOLCK, EOPNOTSUPP: a file system without locks
            return descriptor
        else:
            # Whoever had it may have removed the file: then others would lock another one.
            if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)
        if pause is not None:
            time.sleep(pause)
    raise InUse("another process has locked it", flock_holder(path))


def flock_holder(path: str) -> Process | None:
    """Who has locked a file by flock(2), that is known by its path."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for row in _rows("/proc/locks", header=False):
        if row[1:2] == ["FLOCK"] and len(row) > 5 and row[5] == place:
            return Process.of(int(row[4])) if int(row[4]) > 0 else None
    return None


def _owner(
    inodes: Iterable[str], is_it: Callable[[str, Process], bool] = lambda inode, process: True
) -> Process | None:
    """The process that has one of some sockets, by the numbers of those.

    Of more than one the oldest: the others have inherited it.
    """
    wanted = set(inodes) - {"0"}
    if not wanted:
        return None
    for pid in _pids():
        for inode in _sockets_of(pid) & wanted:
            process = Process.of(pid)
            if is_it(inode, process):
                _found[:] = [pid]
                return process
    return None


_found: list[int] = []
"""Who was found last: it is likely to have more of what is looked for."""


def _is_in_loop() -> bool:
    """Whether this is the thread of a reactor that runs; Twisted is not imported to know that."""
    threadable = sys.modules.get("twisted.python.threadable")
    return threadable is not None and bool(threadable.isInIOThread())


def _pids() -> Iterator[int]:
    yield os.getpid()
    if not _is_in_loop():  # all descriptors of all processes may be many
        yield from _found
        try:
            yield from sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
        except OSError:
            return


def _sockets_of(pid: int) -> set[str]:
    folder = f"/proc/{pid}/fd"
    found: set[str] = set()
    try:
        names = os.listdir(folder)
    except OSError:  # another user's
        return found
    most = _MOST_DESCRIPTORS_OF_A_TURN if _is_in_loop() else _MOST_DESCRIPTORS
    for name in names[:most]:
        try:
            match = _SOCKET.fullmatch(os.readlink(f"{folder}/{name}"))
        except OSError:
            continue
        if match:
            found.add(match[1])
    return found


def _rows(file: str, *, header: bool = True, columns: int = 0) -> Iterator[list[str]]:
    """The rows of a table of the kernel's.

    :param columns: how many there are, if there may be spaces in the last.
    """
    for line in _read(file).split("\n")[int(header) : -1]:  # the last may be cut off
        yield line.split(None, columns - 1)


def _read(file: str) -> str:
    most = _MOST_CHARACTERS_OF_A_TURN if _is_in_loop() else _MOST_CHARACTERS
    try:
        with open(file, errors="surrogateescape", newline="") as opened:
            return opened.read(most)
    except OSError:
        return ""


def _decoded(text: str) -> str:
    """An address of ``/proc/net/tcp``: words of four bytes in the order of this machine."""
    data = b"".join(
        int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)
    )
    return str(ipaddress.ip_address(data))


def _plain(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:  # empty
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_every(address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    return address is None or address.is_unspecified


@lru_cache(maxsize=8)
def user_name(uid: int) -> str:
    """The name of a user; empty if it has none.

    May ask a directory service over the network. So the names of the users that may connect are
    resolved once, when the port opens.
    """
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
