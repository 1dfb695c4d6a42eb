"""What would happen to a client now, and why: the service's state, then its rules."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Literal

import attrs

from monconn.model.reasons import Refusal, ServiceState
from monconn.monitor.admission import RuleState
from monconn.policy.rules import REFUSAL_OF, Rule

if TYPE_CHECKING:
    from monconn.monitor.monitor import Monitor

Outcome = Literal["enters", "waits", "refused"]
Cause = Rule | Literal["paused", "draining", "stopping"]
_MOST_IDS = 10


@attrs.frozen
class Why:
    """What would happen to a client of a service at one moment."""

    service: str
    ip: str
    """As connections have it."""
    client: str
    """Whom the rules per client count it as: its IP, or its network."""
    state: ServiceState
    outcome: Outcome
    by: Cause | None
    """What refuses it, or has it wait; None if it enters."""
    refusal: Refusal | None
    """Why it is refused, at once or, of one that waits, after that; None if it enters."""
    would_refuse: tuple[Refusal, ...]
    """Why it would be refused by rules that are in ``dry_run``."""
    rules: tuple[RuleState, ...]
    """Each rule that is set, in the order in which they are asked."""
    auto_block_used: int | None
    """How much it has used up of what ``auto_block`` blocks it after; None if that is not set."""
    connections: int
    """The live connections of the client, and not of its IP alone."""
    since: float | None
    """When the oldest of them was opened (wall clock)."""
    ids: tuple[int, ...]
    """Theirs, at most ten, the oldest first."""


def why_in_steps(monitor: Monitor, ip: str) -> Generator[None, None, Why]:
    """Return what would happen to a client at the end; for :func:`monconn.turns.in_turns`, as
    every live connection is looked at.

    :param ip: as :func:`~monconn.addresses.parse_client_ip` gives it.
    """
    client_of = monitor.admission.prefixes.client_of
    client = client_of(ip)
    own = []
    for record in monitor.iter_connections():
        if record.client_ip == ip or client_of(record.client_ip) == client:
            own.append(record)
        yield
    own = [record for record in own if record.id in monitor]
    now = monitor.clock.seconds()
    rules = tuple(monitor.admission.explain(ip, len(monitor), now))
    state = monitor.state
    waits = _waits_for(monitor, state, now)
    # Whoever may wait does so until these let it in: then it is asked about the others.
    waitable = ("conn_limit", "rate") if _may_wait(monitor) else ()
    refusing = [
        each.rule
        for each in rules
        if each.refuses and not each.is_dry_run and each.rule not in waitable
    ]
    refusals: list[Refusal] = [REFUSAL_OF[rule] for rule in refusing]
    outcome: Outcome = "enters"
    by: Cause | None = None
    if state in ("draining", "stopping"):
        outcome, by = "refused", state
        refusals.insert(0, "draining" if state == "draining" else "stopping")
    elif waits is not None:
        outcome, by = "waits", waits
    elif refusing:
        outcome, by = "refused", refusing[0]
    return Why(
        service=monitor.name,
        ip=ip,
        client=client,
        state=state,
        outcome=outcome,
        by=by,
        refusal=refusals[0] if refusals else None,
        would_refuse=_would_refuse(rules),
        rules=rules,
        auto_block_used=None if monitor.auto_block is None else monitor.auto_block.used(ip),
        connections=len(own),
        since=own[0].opened_at if own else None,
        ids=tuple(record.id for record in own[:_MOST_IDS]),
    )


def _may_wait(monitor: Monitor) -> bool:
    return monitor.room.holds_clients and monitor.rules.when_full == "wait"


def _waits_for(monitor: Monitor, state: ServiceState, now: float) -> Cause | None:
    """What a client would wait for in the accept queue, before any rule is asked."""
    if state == "paused":
        return "paused"
    if not monitor.room.holds_clients:
        return None
    if monitor.room.is_full():
        return "conn_limit"
    return None if monitor.admission.waits_until(now) is None else "rate"


def _would_refuse(rules: tuple[RuleState, ...]) -> tuple[Refusal, ...]:
    """As the verdict has it: those that are asked before a rule that does refuse."""
    would_refuse: list[Refusal] = []
    for each in rules:
        if each.refuses and not each.is_dry_run:
            break
        if each.refuses:
            would_refuse.append(REFUSAL_OF[each.rule])
    return tuple(would_refuse)
