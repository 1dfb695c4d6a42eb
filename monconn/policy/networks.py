"""Sets of networks that find an address at the same cost however many they hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from socket import AF_INET, AF_INET6, inet_pton

from monconn.addresses import Network


class NetworkSet:
    """A set of networks that answers *is this IP in one of them?*

    Networks are stored by prefix length, so that a look-up costs one step for each
    length in use (32 and 128 at most) and not one for each network.

    :param networks: the first ones.
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._by_prefix: dict[tuple[int, int], dict[int, Network]] = {}
        for network in networks:
            self.add(network)

    def add(self, network: Network) -> bool:
        """Add a network; False if it was in the set already."""
        same_length = self._by_prefix.setdefault((network.version, network.prefixlen), {})
        key = int(network.network_address)
        is_new = key not in same_length
        same_length[key] = network
        return is_new

    def remove(self, network: Network) -> bool:
        """Remove exactly this network; False if it was not in the set."""
        length = (network.version, network.prefixlen)
        same_length = self._by_prefix.get(length, {})
        was_in_set = same_length.pop(int(network.network_address), None) is not None
        if not same_length:
            self._by_prefix.pop(length, None)
        return was_in_set

    def covers(self, ip: str) -> bool:
        """Whether a network of the set has this IP.

        :param ip: as :func:`~monconn.addresses.plain_ip` gives it; a client on a UNIX socket has
            none, and is in no network.
        """
        if not self._by_prefix:
            return False
        # inet_pton takes a quarter of the time of ipaddress, which matters for each client.
        family, version, bits = (AF_INET6, 6, 128) if ":" in ip else (AF_INET, 4, 32)
        try:
            number = int.from_bytes(inet_pton(family, ip.partition("%")[0]), "big")
        except OSError:
            return False
        return any(
            each == version and (number >> (bits - length) << (bits - length)) in networks
            for (each, length), networks in self._by_prefix.items()
        )

    def __iter__(self) -> Iterator[Network]:
        for networks in self._by_prefix.values():
            yield from networks.values()

    def __len__(self) -> int:
        return sum(map(len, self._by_prefix.values()))


def ips_within(networks: Collection[Network], ips: Collection[str]) -> set[str]:
    """Those of many IPs that are in one of some networks.

    For a single network, as an operator blocks it, each IP takes less than a microsecond; a single
    address is looked up.

    :param ips: as :func:`~monconn.addresses.plain_ip` gives them; a set or a mapping.
    """
    if len(networks) != 1:
        covers = NetworkSet(networks).covers
        return {ip for ip in ips if covers(ip)}
    (network,) = networks
    if network.num_addresses == 1 and not network.is_link_local:  # those may end with %zone
        ip = str(network.network_address)
        return {ip} if ip in ips else set()
    is_v6 = network.version == 6
    family = AF_INET6 if is_v6 else AF_INET
    first, last = network.network_address.packed, network.broadcast_address.packed
    found = set()
    for ip in ips:
        if (":" in ip) == is_v6:
            try:
                if first <= inet_pton(family, ip.partition("%")[0] if is_v6 else ip) <= last:
                    found.add(ip)
            except OSError:  # a client on a UNIX socket has no IP
                continue
    return found
