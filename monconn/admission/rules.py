"""What a service asks of a client that wants to enter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from monconn.admission.bans import Bans

Refusal = Literal["blocked", "conn_limit", "ip_limit", "per_ip_limit", "rate", "stopping"]


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
    bans: Bans = attrs.field(factory=Bans)
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
        if self.is_full(connections):
            return "conn_limit"
        is_new_ip = client_ip not in connections_by_ip
        if self.ip_limit and is_new_ip and len(connections_by_ip) >= self.ip_limit:
            return "ip_limit"
        return None

    def is_full(self, connections: int) -> bool:
        """Whether no client at all may enter while so many connections are live."""
        return bool(self.conn_limit) and connections >= self.conn_limit

    def must_wait(self, connections: int) -> bool:
        """Whether the next client is to be left in the accept queue."""
        return self.when_full == "wait" and self.is_full(connections)
