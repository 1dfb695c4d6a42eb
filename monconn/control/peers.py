"""Who is at the other end of a control connection."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import ISSLTransport


def may_enter(transport: Any) -> bool:
    """Whether a peer may use the control port: this process' user, root, or a known certificate.

    Who cannot be told is nobody.
    """
    if ISSLTransport.providedBy(transport):
        return True  # the handshake has asked for a certificate that we trust
    uid = _uid(transport)
    return uid is not None and uid in (0, os.getuid())


def _uid(transport: Any) -> int | None:
    handle = transport.getHandle()
    if handle.family == socket.AF_UNIX:
        return _uid_of_unix(handle)
    here, there = transport.getHost(), transport.getPeer()
    if not ipaddress.ip_address(there.host).is_loopback:
        return None
    return _uid_of_tcp((there.host, there.port), (here.host, here.port))


def _uid_of_unix(sock: socket.socket) -> int | None:
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _uid_of_tcp(local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """Whose socket of this machine's it is, by Linux' ``/proc/net/tcp`` (proc(5))."""
    wanted = [_as_in_proc(*local), _as_in_proc(*remote)]
    table = "tcp6" if ":" in local[0] else "tcp"
    try:
        lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if fields[1:3] == wanted:
            return int(fields[7])
    return None


def _as_in_proc(host: str, port: int) -> str:
    packed = ipaddress.ip_address(host).packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)  # each in this machine's byte order
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
