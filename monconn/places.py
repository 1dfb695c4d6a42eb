"""A limited number of places for clients that have not proved who they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from ipaddress import ip_network
from typing import Generic, TypeVar

Client = TypeVar("Client", bound=Hashable)


class Places(Generic[Client]):
    """Places in which one who comes replaces another if all are taken.

    To refuse whoever comes instead would let strangers keep everybody else out. It is the first of
    those from the group that has the most: so many from one do not drive out one from another.

    :param limit: how many places there are.
    :param group_of: which group a client belongs to now.
    """

    def __init__(self, limit: int, group_of: Callable[[Client], Hashable]) -> None:
        self._limit = limit
        self._group_of = group_of
        self._clients: dict[Client, None] = {}  # in the order in which they came

    def __len__(self) -> int:
        return len(self._clients)

    def replaced_by(self, group: Hashable) -> Client | None:
        """Who would lose its place to one more of a group; None while there is room."""
        if len(self._clients) < self._limit:
            return None
        counts = Counter(map(self._group_of, self._clients))
        counts[group] += 1
        # Of several that have the most, most_common() names the one that came first.
        ((crowded, _),) = counts.most_common(1)
        return next(each for each in self._clients if self._group_of(each) == crowded)

    def enter(self, client: Client) -> Client | None:
        """Take a place.

        :returns: the one who has lost its own.
        """
        replaced = self.replaced_by(self._group_of(client))
        if replaced is not None:
            self.leave(replaced)
        self._clients[client] = None
        return replaced

    def leave(self, client: Client) -> None:
        """Give a place back; harmless for one that has none."""
        self._clients.pop(client, None)


def network_of(ip: str) -> str:
    """The network that one host may have to itself: an IPv4 address, or an IPv6 /64.

    :param ip: may be empty, and have a zone.
    """
    if ":" not in ip:
        return ip
    return str(ip_network((ip.partition("%")[0], 64), strict=False))
