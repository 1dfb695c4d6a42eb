"""What a service asks of a client that wants to enter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from monconn.model.reasons import Refusal
from monconn.policy.networks import NetworkSet


@attrs.define
class Rules:
    """Limits and bans of one service, judged against counts that others keep.

    Holds no count of its own: the slot that a connection takes is its place among the
    live connections, so it cannot be given back twice or forgotten.
    """

    conn_limit: int = 0
    """Connections at once; 0 = no limit."""
    ip_limit: int = 0
    """Distinct client IPs at once; 0 = no limit."""
    when_full: Literal["wait", "refuse"] = "wait"
    """What a full service with a listener of its own does with the next client."""
    bans: NetworkSet = attrs.field(factory=NetworkSet)
    """Networks whose clients are refused."""

    def refusal(
        self, client_ip: str, connections: int, connections_by_ip: Mapping[str, int]
    ) -> Refusal | None:
        """Why a client may not enter now, or None if it may.

        :param connections: how many are live.
        :param connections_by_ip: the same, by client IP; only IPs that have any.
        """
        if self.bans.covers(client_ip):
            return "blocked"
        if self.conn_limit and connections >= self.conn_limit:
            return "conn_limit"
        if self.ip_limit and len(connections_by_ip) >= self.ip_limit:
            return None if client_ip in connections_by_ip else "ip_limit"
        return None

    def must_wait(self, connections: int) -> bool:
        """Whether the next client is to be left in the accept queue."""
        is_full = self.conn_limit and connections >= self.conn_limit
        return bool(is_full) and self.when_full == "wait"
