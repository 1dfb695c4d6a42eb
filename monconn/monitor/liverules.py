"""``monitor.rules``: the rules in force, and a short way to change them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import attrs

from monconn.addresses import Network
from monconn.policy.rules import Rules

if TYPE_CHECKING:
    from monconn.monitor.monitor import Monitor


class LiveRules:
    """Reads as the monitor's :class:`Rules`; setting an attribute applies a changed policy.

    So ``monitor.rules.conn_limit = 50`` is :meth:`Monitor.apply` of a policy with that limit.

    :param monitor: the monitor that the rules belong to.
    """

    __slots__ = ("_monitor",)

    def __init__(self, monitor: Monitor) -> None:
        object.__setattr__(self, "_monitor", monitor)

    @property
    def block(self) -> LiveBlocks:
        """The blocked networks, of the configuration and of the operator."""
        return LiveBlocks(self._monitor)

    if TYPE_CHECKING:  # __setattr__ does it

        @block.setter
        def block(self, networks: Iterable[Network]) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self._monitor.policy.rules, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in attrs.fields_dict(Rules):
            raise AttributeError(f"Rules has no attribute {name!r}")
        policy = self._monitor.policy
        rules = attrs.evolve(policy.rules, **{name: value})
        self._monitor.apply(attrs.evolve(policy, rules=rules))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LiveRules):
            other = other._monitor.policy.rules
        return bool(self._monitor.policy.rules == other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return repr(self._monitor.policy.rules)


class LiveBlocks:
    """``monitor.rules.block``: like a :class:`NetworkSet`, through the monitor's own operations.

    :param monitor: the monitor that the blocks belong to.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def add(self, network: Network) -> bool:
        """Block a network; the same as :meth:`Monitor.block`."""
        return self._monitor.block(network)

    def remove(self, network: Network) -> bool:
        """Unblock a network; the same as :meth:`Monitor.unblock`."""
        return self._monitor.unblock(network)

    def covers(self, ip: str) -> bool:
        """Whether an IP is blocked."""
        return self._monitor.is_blocked(ip)

    def __iter__(self) -> Iterator[Network]:
        return iter(self._monitor.blocks())

    def __len__(self) -> int:
        return len(self._monitor.blocks())
