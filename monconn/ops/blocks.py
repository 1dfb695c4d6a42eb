"""Blocks as operators see them: their listing, and what an action on them does, or would do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from monconn.addresses import Network
from monconn.errors import Conflict, QuestionError, SettingError
from monconn.model.actions import Actor
from monconn.model.record import iso_time
from monconn.monitor.blocking import check_block
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.ops.filters import Context, Filter
from monconn.ops.rows import BlockRow
from monconn.policy.blocks import Block, network_order
from monconn.policy.networks import ips_within
from monconn.steps import RowSteps, sort_in_steps


@attrs.frozen
class BlockResult:
    """The result of a block or an unblock, or of its dry run.

    :param changed: False if everything was so already.
    :param count: how many connections were ended by it.
    :param services: those that it concerned.
    :param is_update: whether the network was blocked already, and its end or its reason changed.
    :param until_at: when the block ends, in wall-clock seconds as of now; None for never.
    :param is_kept: whether blocks of operators outlast the program; else they end with it.
    :param still_blocked_by: of an unblock: a wider network that goes on blocking it.
    """

    changed: bool
    count: int
    services: tuple[str, ...]
    is_update: bool = False
    until_at: float | None = None
    is_kept: bool = False
    still_blocked_by: str | None = None


def block_network(
    registry: Registry,
    network: Network,
    service: str | None,
    *,
    for_seconds: float | None,
    reason: str,
    keep_open: bool,
    actor: Actor,
) -> BlockResult:
    """Block a network at one service or at all, without a report.

    :raises UnknownService: there is no such service.
    :raises QuestionError: it cannot last so long, or the reason is too long.
    """
    where = registry if service is None else registry.get(service)
    _check(for_seconds, reason)
    change, count = where.blocking.block_and_end(
        network, for_seconds=for_seconds, reason=reason, keep_open=keep_open, actor=actor
    )
    return BlockResult(
        change.is_new or change.is_changed,
        count,
        _names(registry, service),
        is_update=change.is_changed and not change.is_new,
        until_at=_until_at(change.block, where.blocking.seconds()),
    )


def check_block_network(
    registry: Registry,
    network: Network,
    service: str | None,
    *,
    for_seconds: float | None,
    reason: str,
    keep_open: bool,
) -> BlockResult:
    """What :func:`block_network` would return; it raises the same, and changes nothing."""
    where = registry if service is None else registry.get(service)
    _check(for_seconds, reason)
    before = where.get_block(network)
    is_changed = before is None or (
        (before.keep_open, reason or before.reason) != (keep_open, before.reason)
        # The end of one that has one changes by being counted from now on.
        or not (before.until is None and for_seconds is None)
    )
    monitors = list(registry) if service is None else [registry.get(service)]
    return BlockResult(
        is_changed,
        0 if keep_open else sum(_would_end(each, network) for each in monitors),
        _names(registry, service),
        is_update=is_changed and before is not None,
        until_at=None if for_seconds is None else time.time() + for_seconds,
    )


def unblock_network(
    registry: Registry, network: Network, service: str | None, *, dry_run: bool = False
) -> BlockResult:
    """Unblock exactly a network at one service or at all, without a report.

    :raises UnknownService: there is no such service.
    :raises QuestionError: it is blocked at all services, and is to be unblocked at one.
    """
    monitors = list(registry) if service is None else [registry.get(service)]
    if service is not None and registry.get_block(network) is not None:
        raise Conflict(
            f"{network} is blocked at all services, and cannot be unblocked at {service} alone:"
            " unblock it at all of them, and then block it at those that are to go on refusing it"
        )
    if dry_run:
        places: list[Registry | Monitor] = [registry, *monitors] if service is None else [*monitors]
        changed = any(each.get_block(network) is not None for each in places)
    elif service is None:
        changed = registry.unblock_everywhere(network)
    else:
        changed = monitors[0].unblock(network, actor=None)
    return BlockResult(
        changed,
        0,
        _names(registry, service),
        still_blocked_by=_still_blocked_by(monitors, network),
    )


def _check(for_seconds: float | None, reason: str) -> None:
    try:
        check_block(for_seconds, reason)
    except SettingError as error:
        raise QuestionError(str(error)) from None


def _names(registry: Registry, service: str | None) -> tuple[str, ...]:
    return tuple(registry.names()) if service is None else (service,)


def _would_end(monitor: Monitor, network: Network) -> int:
    ips = ips_within([network], monitor.connections_by_ip())
    # Without those that are ending already.
    return sum(
        record.client_ip in ips and record.reason is None for record in monitor.iter_connections()
    )


def _still_blocked_by(monitors: Iterable[Monitor], network: Network) -> str | None:
    for monitor in monitors:
        found = monitor.find_block(str(network.network_address))
        if found is not None and found.network.prefixlen < network.prefixlen:
            return str(found.network)
    return None


def _until_at(found: Block, now: float) -> float | None:
    left = found.left_seconds(now)
    return None if left is None else time.time() + left


# -- the listing


FindPlace = Callable[[Monitor, Network], str]
"""Where a network of a service's ``block`` is written, as ``FILE:LINE``; empty if nowhere."""


def block_rows(
    registry: Registry,
    monitors: Iterable[Monitor],
    wanted: Filter,
    context: Context,
    place_of: FindPlace,
) -> RowSteps[BlockRow]:
    """One row for each network and place: first those at all services, then each service's."""
    every = registry.names()
    shared = registry.blocks.in_force()
    yield from _rows_of(shared, None, every, registry, wanted, context, place_of)
    for monitor in monitors:
        own, name = monitor.iter_blocks(), monitor.name
        yield from _rows_of(own, name, [name], monitor, wanted, context, place_of)


def _rows_of(
    blocks: Iterator[Block],
    service: str | None,
    services: list[str],
    where: Registry | Monitor,
    wanted: Filter,
    context: Context,
    place_of: FindPlace,
) -> RowSteps[BlockRow]:
    keyed: list[tuple[tuple[int, int, int], Block]] = []
    for found in blocks:
        keyed.append((network_order(found.network), found))
        yield None
    if not keyed:
        return
    ordered = yield from sort_in_steps(keyed)
    seconds = where.blocking.seconds

    def values() -> Iterator[dict[str, Any] | None]:
        for _, each in ordered:
            now = seconds()
            if each.is_over(now):
                yield None
            else:
                place = each.origin
                if isinstance(where, Monitor) and each.source == "configuration":
                    place = place_of(where, each.network)
                yield _values(each, service, place, now) | {"at": services}

    for row in values():
        if row is None or not wanted.matches(row, context):
            yield None
        else:
            del row["at"]
            yield BlockRow(**row)


def _values(found: Block, service: str | None, place: str, now: float) -> dict[str, Any]:
    until_at = _until_at(found, now)
    left = found.left_seconds(now)
    return {
        "service": service,
        "network": str(found.network),
        "source": found.source,
        "by": found.by or None,
        "since_at": iso_time(found.since_at) if found.since_at else None,
        "until_at": None if until_at is None else iso_time(until_at),
        "left_seconds": None if left is None else round(left, 3),
        "hits": found.hits,
        "reason": found.reason or None,
        "keep_open": found.keep_open,
        "origin": place or None,
    }
