"""Which addresses are those of one client: an IP, or the network of which it has a whole one."""

from __future__ import annotations

from functools import lru_cache, partial
from socket import AF_INET, AF_INET6, AddressFamily, inet_ntop, inet_pton

USUAL_PREFIX_V4 = 32
USUAL_PREFIX_V6 = 64
"""Each site gets a /64 at least (RFC 6177), and its hosts may use any address in it."""
CACHED_NETWORKS = 4_096


class ClientPrefixes:
    """How many leading bits the addresses of one client have in common.

    :param v4: of IPv4 addresses.
    :param v6: of IPv6 addresses.
    """

    def __init__(self, v4: int = USUAL_PREFIX_V4, v6: int = USUAL_PREFIX_V6) -> None:
        self.v4, self.v6 = v4, v6
        # The same address is looked up again when its connection closes, often soon.
        self._cached_v6 = lru_cache(CACHED_NETWORKS)(partial(_network, AF_INET6, v6))

    def client_of(self, ip: str) -> str:
        """The IP or its network; anything else (``unix``, an IP with a zone) as it is."""
        if ":" not in ip:
            return ip if self.v4 == 32 else _network(AF_INET, self.v4, ip)
        return ip if self.v6 == 128 else self._cached_v6(ip)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClientPrefixes):
            return NotImplemented
        return (self.v4, self.v6) == (other.v4, other.v6)

    __hash__ = None  # type: ignore[assignment]  # nothing is looked up by them


def _network(family: AddressFamily, prefix: int, ip: str) -> str:
    try:
        packed = inet_pton(family, ip)
    except (OSError, ValueError):  # ValueError is for a NUL
        return ip
    rest = 8 * len(packed) - prefix
    number = int.from_bytes(packed, "big") >> rest << rest
    return f"{inet_ntop(family, number.to_bytes(len(packed), 'big'))}/{prefix}"
