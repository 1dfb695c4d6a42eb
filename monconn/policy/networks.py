"""Which addresses are blocked, found at once however many there are."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from monconn.addresses import Network


class NetworkSet:
    """A set of networks that answers *is this IP in one of them?*

    Networks are kept by prefix length, so that a look-up costs one step for each
    length in use and not one for each network.

    :param networks: those to begin with.
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._by_prefix: dict[tuple[int, int], dict[int, Network]] = {}
        for network in networks:
            self.add(network)

    def add(self, network: Network) -> bool:
        """Block a network; False if it was blocked already."""
        same_length = self._by_prefix.setdefault((network.version, network.prefixlen), {})
        key = int(network.network_address)
        is_new = key not in same_length
        same_length[key] = network
        return is_new

    def remove(self, network: Network) -> bool:
        """Let exactly this network in again; False if it was not blocked."""
        length = (network.version, network.prefixlen)
        same_length = self._by_prefix.get(length, {})
        was_there = same_length.pop(int(network.network_address), None) is not None
        if not same_length:
            self._by_prefix.pop(length, None)
        return was_there

    def covers(self, ip: str) -> bool:
        """Whether an IP, as :func:`~monconn.addresses.plain_ip` gives it, is blocked."""
        if not self._by_prefix:
            return False
        try:
            address = ipaddress.ip_address(ip.partition("%")[0])
        except ValueError:  # a client on a UNIX socket has no IP
            return False
        number, bits = int(address), address.max_prefixlen
        return any(
            version == address.version
            and (number >> (bits - length) << (bits - length)) in networks
            for (version, length), networks in self._by_prefix.items()
        )

    def __iter__(self) -> Iterator[Network]:
        for networks in self._by_prefix.values():
            yield from networks.values()

    def __len__(self) -> int:
        return sum(map(len, self._by_prefix.values()))
