"""The conditions under which a service admits a client, and how fast its bytes may pass."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast, get_args

import attrs

from monconn.errors import quoted
from monconn.model.reasons import Refusal
from monconn.policy.auto_block import OptionalAutoBlock
from monconn.policy.block_files import BlockFiles
from monconn.policy.kinds import Count, Kind, Networks, WhenFull
from monconn.policy.networks import NetworkTuple
from monconn.policy.quantities import OptionalBandwidth, OptionalRate
from monconn.policy.settings import FORWARDING_ONLY, validated

Rule = Literal["block", "allow", "per_ip_limit", "per_ip_rate", "conn_limit", "ip_limit", "rate"]
"""What refuses clients; by the names of the settings, in the order in which they are asked."""
RULES: tuple[Rule, ...] = get_args(Rule)

REFUSAL_OF: dict[Rule, Refusal] = {
    "block": "blocked",
    "allow": "not_allowed",
    "per_ip_limit": "per_ip_limit",
    "per_ip_rate": "per_ip_rate",
    "conn_limit": "conn_limit",
    "ip_limit": "ip_limit",
    "rate": "rate",
}


def _check_rules(value: Any) -> tuple[Rule, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple | set | frozenset):
        raise TypeError("must be a list of rules, such as [per_ip_limit, rate]")
    for each in value:
        if each not in RULES:
            raise ValueError(
                f"must be rules, of {', '.join(RULES)}, and {quoted(str(each))} is none"
            )
    return tuple(each for each in RULES if each in value)


RULE_NAMES = Kind("rules", _check_rules, lambda text: _check_rules(text.split(",")))


@attrs.frozen(field_transformer=validated)
class Rules:
    """Limits and blocked networks of one service.

    A *client* here is what ``devices:`` says is one: an IPv4 address, and an IPv6 network of 64
    bits, unless it says otherwise. Who is judged against which counts, and when, is
    :class:`~monconn.monitor.admission.Admission`'s.

    :raises SettingError: a value is not valid.
    """

    block: Networks = ()
    """Networks whose clients are refused: those of the configuration.

    What is blocked while the service runs is apart, in
    :class:`~monconn.policy.blocks.Blocks`. Takes any iterable of networks or texts.
    """
    block_files: BlockFiles = ()
    """Files that list more of them, one a line.

    Takes their paths, and reads them: what is in them then is in force, until what watches them
    (:class:`~monconn.run.block_files.BlockFileWatch`) puts something else in its place.
    """
    allow: Networks = ()
    """The only networks whose clients may enter; all if it is empty."""
    conn_limit: Count = 0
    """Connections at once; 0 = no limit."""
    when_full: WhenFull = attrs.field(default="wait", metadata=FORWARDING_ONLY)
    """Whether a service that is full (``conn_limit``), or has let in as many as its ``rate``
    allows, leaves further clients in its accept queue, or refuses them.

    Only a listener of our own can leave them there.
    """
    ip_limit: Count = 0
    """Distinct clients at once; 0 = no limit."""
    per_ip_limit: Count = 0
    """Connections at once of each client; 0 = no limit."""
    rate: OptionalRate = None
    """How many connections may be opened in a time; takes a text such as ``20/s burst 50``."""
    per_ip_rate: OptionalRate = None
    """The same for each client."""
    bandwidth: OptionalBandwidth = attrs.field(default=None, metadata=FORWARDING_ONLY)
    """Bytes in a second of all connections together; takes a text such as ``1MiB/s``."""
    per_connection_bandwidth: OptionalBandwidth = attrs.field(
        default=None, metadata=FORWARDING_ONLY
    )
    """Bytes in a second of each connection."""
    auto_block: OptionalAutoBlock = None
    """When clients are blocked without anybody's doing; None for never."""
    dry_run: Annotated[tuple[Rule, ...], RULE_NAMES] = ()
    """The rules that refuse nobody: what they would refuse is counted and logged, and let in.

    ``block`` stands for ``block`` and ``block_files``; what is blocked while the service runs is
    refused all the same.
    """

    def __attrs_post_init__(self) -> None:
        # Made here, as that may be in a thread, and not where the rules are put in force.
        _ = cast(NetworkTuple, self.allow).members
