"""Settings that another one leaves without effect, or that let nobody in."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from monconn.addresses import Network, address_text
from monconn.model.reasons import Side
from monconn.policy.policy import Policy
from monconn.policy.rules import REFUSAL_OF, Rules
from monconn.policy.timeouts import Timeouts
from monconn.units import duration_text

_SHOWN = 3
_ONE_CLIENT = "counts all clients as one: those of a UNIX socket have no address"


def contradictions(policy: Policy, *, have_addresses: bool = True) -> Iterator[tuple[str, str]]:
    """Each setting that can never matter among the others: its key, and a message.

    :param have_addresses: whether clients have an IP; those of a UNIX socket have none.
    """
    rules = policy.rules
    yield from _of_dry_run(rules)
    # What refuses nobody comes before nothing.
    dry = {key: getattr(Rules(), key) for key in rules.dry_run}
    real = attrs.evolve(rules, **dry) if dry else rules
    yield from _of_networks(real, have_addresses)
    yield from _of_limits(real)
    yield from _of_auto_block(real, have_addresses)
    if not have_addresses:
        for key in ("ip_limit", "per_ip_limit", "per_ip_rate"):
            if getattr(rules, key):
                yield key, _ONE_CLIENT
    yield from _of_timeouts(policy.timeouts)
    sides: tuple[Side, ...] = ("client", "backend")
    unasked = [
        side
        for side in sides
        if policy.timeouts.unreachable_timeout.of(side) and policy.keepalive.of(side) is None
    ]
    if unasked:
        yield (
            "unreachable_timeout",
            f"finds no {' or '.join(unasked)} that is silent: with keepalive off nobody asks"
            " whether it is there",
        )


def _of_dry_run(rules: Rules) -> Iterator[tuple[str, str]]:
    unset = [
        each
        for each in rules.dry_run
        if not getattr(rules, each) and not (each == "block" and rules.block_files)
    ]
    if unset:
        is_or_are = "is" if len(unset) == 1 else "are"
        yield "dry_run", f"has {', '.join(unset)}, which {is_or_are} not set"


def _of_networks(rules: Rules, have_addresses: bool) -> Iterator[tuple[str, str]]:
    if not have_addresses:
        if rules.allow:
            yield "allow", "lets nobody in: clients of a UNIX socket have no address"
        for key in ("block", "block_files"):
            if getattr(rules, key):
                yield key, "blocks nobody: clients of a UNIX socket have no address"
        return
    if not rules.allow:
        return
    blocked = {*rules.block, *(each for file in rules.block_files for each in file.origins)}
    never = [each for each in rules.allow if not blocked.isdisjoint(_with_supernets(each))]
    if len(never) == len(rules.allow):
        yield "allow", "lets nobody in: all of it is blocked, and block goes before it"
    elif never:
        yield "allow", f"never lets in {_texts(never)}, as block goes before it"
    allowed = set(rules.allow)
    above_allowed = {above for each in rules.allow for above in _with_supernets(each)}
    outside = [
        each
        for each in rules.block
        if each not in above_allowed and allowed.isdisjoint(_with_supernets(each))
    ]
    if outside:
        yield "block", f"needs no {_texts(outside)}: allow lets none of that in"


def _with_supernets(network: Network) -> Iterator[Network]:
    for length in range(network.prefixlen, -1, -1):
        yield network.supernet(new_prefix=length)


def _texts(networks: list[Network]) -> str:
    shown = ", ".join(map(address_text, networks[:_SHOWN]))
    more = len(networks) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _of_limits(rules: Rules) -> Iterator[tuple[str, str]]:
    for key in ("ip_limit", "per_ip_limit"):
        if 0 < rules.conn_limit < getattr(rules, key):
            yield key, f"is never reached: conn_limit is {rules.conn_limit}"
    if 0 < rules.ip_limit * rules.per_ip_limit < rules.conn_limit:
        together = f"{rules.ip_limit} clients with {rules.per_ip_limit} connections each"
        yield "conn_limit", f"is never reached: there are at most {together}"
    rate, own = rules.rate, rules.per_ip_rate
    if (
        rate is not None
        and own is not None
        and own.per_second >= rate.per_second
        and own.burst >= rate.burst
    ):
        yield "per_ip_rate", f"of {own} never refuses anybody: rate is {rate} for all"
    if rules.when_full == "refuse" and not rules.conn_limit and rate is None:
        yield "when_full", "is without effect: neither conn_limit nor rate is set"


def _of_auto_block(rules: Rules, have_addresses: bool) -> Iterator[tuple[str, str]]:
    """What is counted, and never comes.

    :param rules: those that are in no dry run.
    """
    if rules.auto_block is None:
        return
    if not have_addresses:
        yield "auto_block", "blocks nobody: clients of a UNIX socket have no address"
        return
    waits = {"conn_limit", "rate"} if rules.when_full == "wait" else set()
    never = [
        refusal
        for rule, refusal in REFUSAL_OF.items()
        if rule != "block"
        and refusal in rules.auto_block.of
        and (rule in waits or not getattr(rules, rule))
    ]
    if len(never) == len(rules.auto_block.of):  # in defaults: some may be for other services
        refuse = "refuses" if len(never) == 1 else "refuse"
        why = "not set, in dry_run, or such that clients wait (when_full)"
        yield "auto_block", f"blocks nobody, as {', '.join(never)} {refuse} nobody: {why}"


def _of_timeouts(timeouts: Timeouts) -> Iterator[tuple[str, str]]:
    if timeouts.max_idle:
        for key in ("read_timeout", "half_close_timeout"):
            limit = getattr(timeouts, key)
            if limit and limit > timeouts.max_idle:
                yield (
                    key,
                    f"of {duration_text(limit)} never strikes: max_idle of"
                    f" {duration_text(timeouts.max_idle)} comes first",
                )
