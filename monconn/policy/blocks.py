"""The blocked networks of one service, and the source of each block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from monconn.addresses import Network
from monconn.policy.networks import NetworkSet

BlockSource = Literal["configuration", "operator"]


def network_order(network: Network) -> tuple[int, int, int]:
    """The key by which networks are sorted; networks themselves take ten times as long."""
    return network.version, int(network.network_address), network.prefixlen


class Blocks:
    """Blocks of the configuration and of the operator, stored separately, looked up together.

    What the operator does while the service runs outlasts a changed configuration, until the
    program ends: a network that the operator has blocked stays so when the configuration no
    longer names it, and one of the configuration's that the operator has unblocked stays open
    while the configuration goes on naming it.

    :param configured: the configuration's networks.
    """

    def __init__(self, configured: Iterable[Network] = ()) -> None:
        self._configured = set(configured)
        self._by_operator: set[Network] = set()
        self._lifted: set[Network] = set()  # configured, and unblocked by the operator
        # One set for look-ups: the cost is independent of the source of a block.
        self._in_force = NetworkSet(self._configured)
        self.covers = self._in_force.covers

    def block(self, network: Network) -> bool:
        """Block a network for the operator; False if it was blocked already."""
        self._by_operator.add(network)
        self._lifted.discard(network)
        return self._in_force.add(network)

    def unblock(self, network: Network) -> bool:
        """Unblock exactly this network, whatever its source; False if it was not blocked."""
        self._by_operator.discard(network)
        if network in self._configured:
            self._lifted.add(network)
        return self._in_force.remove(network)

    def configure(self, networks: Iterable[Network]) -> list[Network]:
        """Put in place what a new configuration blocks.

        :returns: the networks that were not blocked before, and are now.
        """
        networks = set(networks)
        gone = self._configured - networks
        added = networks - self._configured
        self._configured = networks
        self._lifted -= gone
        for network in gone - self._by_operator:
            self._in_force.remove(network)
        return [network for network in added if self._in_force.add(network)]

    def __contains__(self, network: object) -> bool:
        """Whether exactly this network is blocked."""
        return network in self._in_force

    def __iter__(self) -> Iterator[Network]:
        """The blocked networks, in no order."""
        return iter(self._in_force)

    def networks(self, source: BlockSource | None = None) -> list[Network]:
        """The blocked networks, in order.

        :param source: only those that this source has blocked.
        """
        if source == "operator":
            chosen: Iterable[Network] = self._by_operator
        elif source == "configuration":
            chosen = self._configured - self._lifted
        else:
            chosen = self._in_force
        return sorted(chosen, key=network_order)
