"""Authentication of the peer of a control connection."""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
from collections.abc import Callable, Collection
from typing import Any

import attrs
from twisted.internet.interfaces import ISSLTransport

from monconn.model.actions import Actor
from monconn.net.sockets import peer_credentials
from monconn.processes import user_name
from monconn.unixsocket import SocketFile

_SO_PEERGROUPS = 59  # asm-generic/socket.h, since Linux 4.13; the socket module does not name it
_GROUP = struct.Struct("I")
_GROUPS_BYTES = 1024
"""The most that Python's ``getsockopt`` takes: 256 groups. A peer with more has none here."""


@attrs.frozen
class FileAccess:
    """Whom the mode of a UNIX socket's file lets connect, besides this process' user and root.

    The kernel has checked that already, by the file as it is at the time. Here it is what was
    configured: a file that others have opened up since lets nobody in.

    :param mode: the permissions; to connect, that to write is needed (unix(7)).
    :param group: the file's; None if it is not known.
    """

    mode: int = 0o600
    group: int | None = None

    @classmethod
    def of(cls, file: SocketFile, mode: int) -> FileAccess:
        """What a file was made with; without its group if it is another one by now."""
        try:
            found = os.lstat(file.path)
        except OSError:
            return cls(mode)
        is_ours = (found.st_dev, found.st_ino) == file.inode
        return cls(mode, found.st_gid if is_ours else None)

    def allows(self, uid: int, groups: Callable[[], Collection[int]]) -> bool:
        """Whether a user may connect.

        :param groups: gives the peer's groups, if they are needed.
        """
        if uid in (0, os.getuid()) or self.mode & stat.S_IWOTH:
            return True
        return bool(self.mode & stat.S_IWGRP) and self.group is not None and self.group in groups()


OWN_USER = FileAccess()
"""Of a socket whose mode is not configured."""


def is_authorized(transport: Any, access: FileAccess = OWN_USER) -> bool:
    """Whether a peer may use the control port: this process' user, root, one whom the configured
    mode of the socket's file lets in, or one with a certificate.

    A peer whose user is not known is refused.
    """
    if ISSLTransport.providedBy(transport):
        # OpenSSL verifies the client's certificate within the handshake: nothing that the peer
        # sends is delivered before.
        return True
    sock = transport.getHandle()
    peer = peer_credentials(sock)
    return peer is not None and access.allows(peer.uid, lambda: {peer.gid, *_groups(sock)})


def _groups(sock: socket.SocketType) -> tuple[int, ...]:
    """The supplementary groups of the process at the other end; none if they are not known."""
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        return ()
    return tuple(group for (group,) in _GROUP.iter_unpack(found))


def has_hung_up(transport: Any) -> bool:
    """Whether a peer has closed its side: a transport that is not read from does not notice it."""
    fd = transport.fileno()
    if fd < 0:
        return True
    poll = select.poll()
    # Hang-ups and errors are always reported; what is only asked for is the end of TCP's input.
    poll.register(fd, getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))


def actor(transport: Any) -> Actor | None:
    """The actor that a peer's actions are attributed to; None if its user is not known."""
    if ISSLTransport.providedBy(transport):
        certificate: Any = transport.getPeerCertificate()
        # By way of cryptography, as pyOpenSSL's own names are deprecated.
        return Actor.certificate(certificate.to_cryptography().subject.rfc4514_string())
    peer = peer_credentials(transport.getHandle())
    if peer is None:
        return None
    # Those of others are not known by now, and to ask for one may block: see user_name.
    name = user_name(peer.uid) if peer.uid in (0, os.getuid()) else ""
    return Actor.process(peer.uid, peer.pid, name)
