"""Community ID: the name that Zeek, Suricata, Wireshark and others give the same TCP connection.

Version 1 with the seed 0, as all of them use it: https://github.com/corelight/community-id-spec
"""

from __future__ import annotations

import socket
import struct
from binascii import b2a_base64
from functools import lru_cache
from hashlib import sha1

from monconn.errors import AddressError

_PORTS = struct.Struct(">2H")
_SEED = b"\0\0"
_TCP = bytes((socket.IPPROTO_TCP, 0))  # the protocol, and a byte to align what follows


@lru_cache(1024)  # a line of a log needs each several times, and those of our sides are the same
def split_address(text: str) -> tuple[str, int]:
    """The IP and the port of ``IP:PORT``; the zone of a link-local IP is no part of it.

    :raises AddressError: it has another form, such as that of a UNIX socket or with a name.
    """
    host, _, port = text.rpartition(":")
    ip = host.strip("[]").partition("%")[0]
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)
    except (OSError, ValueError):  # ValueError: a NUL, or half of a surrogate pair
        is_one = False
    else:
        is_one = port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 65536
    if not is_one:
        raise AddressError(f"{text!r} is no IP with a port")
    return ip, int(port)


def community_id(one: str, other: str) -> str:
    """The Community ID of the TCP connection between two addresses, whichever is first.

    :param one: ``IP:PORT``, as it is in the packets.
    :raises AddressError: one of them has another form, or only one is IPv6.
    """
    ends = []
    for text in (one, other):
        ip, port = split_address(text)
        packed = socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)
        ends.append((packed, port))
    (first, first_port), (second, second_port) = sorted(ends)
    if len(first) != len(second):
        raise AddressError(f"{one} and {other} are no ends of one connection")
    data = _SEED + first + second + _TCP + _PORTS.pack(first_port, second_port)
    # Not for security: the standard has SHA-1, which FIPS builds of OpenSSL else refuse.
    digest = sha1(data, usedforsecurity=False).digest()
    return f"1:{b2a_base64(digest, newline=False).decode()}"
