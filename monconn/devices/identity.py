"""Which connections belong to the same device, and what that is called."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from monconn.addresses import Network, name_of_text, network_of
from monconn.config.sections import DevicesConfig
from monconn.model.record import ConnectionRecord
from monconn.policy.devices import ADDRESS, Names

CACHED_NAMES = 4_096


class DeviceIdentity:
    """Tells the device that a connection belongs to.

    :param config: has the facts that name a device, and the prefix lengths of the networks that
        count as one device.
    """

    def __init__(self, config: DevicesConfig) -> None:
        self.facts = tuple(each for each in config.identity if each != ADDRESS)
        """The facts that name a device, the first that is known."""
        self._prefix_v4, self._prefix_v6 = config.prefix_v4, config.prefix_v6
        self._mask_v4 = _mask(config.prefix_v4, 32)
        self._mask_v6 = _mask(config.prefix_v6, 128)
        # The same address is looked up again when its connection closes, often soon.
        self._cached_v6 = lru_cache(CACHED_NAMES)(self._network_v6)

    def said(self, record: ConnectionRecord) -> tuple[str, str] | None:
        """The name that a connection has told, and the fact that it is; None if it has told none.

        A client chooses it: so it is made printable and cut, and one that could be taken for an
        address is no name. Else it would have what is known of that address.
        """
        facts = record.facts
        for fact in self.facts:
            value = facts.get(fact)
            if value is not None and (name := name_of_text(str(value))):
                return name, fact
        return None

    def of(self, client_ip: str) -> str:
        """The IP or its network; anything else (``unix``, an IP with a zone) as it is."""
        if ":" not in client_ip:
            return client_ip if self._prefix_v4 == 32 else self._network_v4(client_ip)
        return client_ip if self._prefix_v6 == 128 else self._cached_v6(client_ip)

    def _network_v6(self, client_ip: str) -> str:
        try:
            packed = inet_pton(AF_INET6, client_ip)
        except OSError:
            return client_ip
        packed = (int.from_bytes(packed, "big") & self._mask_v6).to_bytes(16, "big")
        return f"{inet_ntop(AF_INET6, packed)}/{self._prefix_v6}"

    def _network_v4(self, client_ip: str) -> str:
        try:
            packed = inet_pton(AF_INET, client_ip)
        except OSError:
            return client_ip
        packed = (int.from_bytes(packed, "big") & self._mask_v4).to_bytes(4, "big")
        return f"{inet_ntop(AF_INET, packed)}/{self._prefix_v4}"


class AddressNames:
    """Names of addresses and networks, as configured.

    :param names: of two networks that have an address, the smaller one names it.
    """

    def __init__(self, names: Names) -> None:
        self._by_prefix: dict[tuple[int, int], dict[int, str]] = {}
        for network, name in sorted(names, key=lambda each: each[0].prefixlen, reverse=True):
            length = (network.version, network.prefixlen)
            self._by_prefix.setdefault(length, {})[int(network.network_address)] = name

    def of(self, device: str) -> str | None:
        """The name of an IP or a network, which must be as large as the named one at most."""
        if not self._by_prefix:
            return None
        network = network_of(device)
        if network is None:
            return None
        bits, number = network.max_prefixlen, int(network.network_address)
        for (version, length), names in self._by_prefix.items():  # the longest prefix first
            if version == network.version and length <= network.prefixlen:
                name = names.get(number >> (bits - length) << (bits - length))
                if name is not None:
                    return name
        return None


def is_within(network: Network, ip: str) -> bool:
    """Whether a network has a client's IP, which may have a zone, or be none."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    return address in network


def _mask(prefix: int, longest: int) -> int:
    return (1 << longest) - (1 << (longest - prefix))
