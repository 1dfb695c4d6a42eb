"""Who is at the other end of a control connection."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

from twisted.internet.interfaces import ISSLTransport


def may_enter(transport: Any) -> bool:
    """Whether a peer may use the control port: this process' user, root, or who has proved itself.

    Who cannot be told is nobody.
    """
    if ISSLTransport.providedBy(transport):
        return True  # nothing is heard from it before it has shown a certificate that we trust
    handle = transport.getHandle()
    return handle.family == socket.AF_UNIX and _uid(handle) in (0, os.getuid())


def _uid(sock: socket.socket) -> int | None:
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
