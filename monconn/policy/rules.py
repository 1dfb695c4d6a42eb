"""The conditions under which a service admits a client."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from monconn.model.reasons import Refusal
from monconn.policy.kinds import Count, Networks, WhenFull
from monconn.policy.settings import FORWARDING_ONLY, validated


@attrs.frozen(field_transformer=validated)
class Rules:
    """Limits and blocked networks of one service, judged against counts that others hold.

    Holds no count of its own: the slot that a connection takes is its place among the
    live connections, so it cannot be given back twice or forgotten.

    :raises SettingError: a value is not valid.
    """

    conn_limit: Count = 0
    """Connections at once; 0 = no limit."""
    ip_limit: Count = 0
    """Distinct client IPs at once; 0 = no limit."""
    when_full: WhenFull = attrs.field(default="wait", metadata=FORWARDING_ONLY)
    """Whether a full service leaves further clients in its accept queue, or refuses them.

    Only a listener of our own can leave them there.
    """
    bans: Networks = attrs.field(default=(), metadata={"key": "ip_blacklist"})
    """Networks whose clients are refused: those of the configuration.

    What the operator blocks while the service runs is apart, in
    :class:`~monconn.policy.blocks.Blocks`. Takes any iterable of networks or texts.
    """

    def refusal(
        self,
        client_ip: str,
        connections: int,
        connections_by_ip: Mapping[str, int],
        *,
        is_blocked: bool = False,
    ) -> Refusal | None:
        """Why a client is refused now, or None if it may connect.

        The refusal that does not end by itself comes first.

        :param connections: how many are live.
        :param connections_by_ip: the same, by client IP; only IPs that have any.
        :param is_blocked: whether a block covers the client's IP.
        """
        if is_blocked:
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
