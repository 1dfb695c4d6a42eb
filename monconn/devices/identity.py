"""Which connections belong to the same device, and what that is called."""

from __future__ import annotations

from ipaddress import ip_address

from monconn.addresses import Network, name_of_text, network_of
from monconn.config.sections import DevicesConfig
from monconn.model.record import ConnectionRecord
from monconn.policy.devices import ADDRESS, Names
from monconn.policy.prefixes import ClientPrefixes


class DeviceIdentity:
    """Tells the device that a connection belongs to.

    :param config: has the facts that name a device, and the prefix lengths of the networks that
        count as one device.
    """

    def __init__(self, config: DevicesConfig) -> None:
        self.apply_config(config)

    def apply_config(self, config: DevicesConfig) -> None:
        """Tell devices apart in another way from now on."""
        self.facts = tuple(each for each in config.identity if each != ADDRESS)
        """The facts that name a device, the first that is known."""
        self.of = ClientPrefixes(config.prefix_v4, config.prefix_v6).client_of
        """The device of an IP that has told no name: the IP or its network."""

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
