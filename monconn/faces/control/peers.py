"""Authentication of the peer of a control connection."""

from __future__ import annotations

import os
import pwd
import select
from functools import lru_cache
from typing import Any

from twisted.internet.interfaces import ISSLTransport

from monconn.model.actions import Actor
from monconn.net.sockets import peer_credentials


def is_authorized(transport: Any) -> bool:
    """Whether a peer may use the control port: this process' user, root, or one with a certificate.

    A peer whose user is not known is refused.
    """
    if ISSLTransport.providedBy(transport):
        # OpenSSL verifies the client's certificate within the handshake: nothing that the peer
        # sends is delivered before.
        return True
    peer = peer_credentials(transport.getHandle())
    return peer is not None and peer.uid in (0, os.getuid())


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
    return Actor.process(peer.uid, peer.pid, user_name(peer.uid))


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
