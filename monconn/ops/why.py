"""The query *why*: what would happen to a client now, and which lines of which file say so."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from monconn.addresses import Network, network_of, parse_client_ip
from monconn.config.explain import Origin
from monconn.devices.service import DevicesService
from monconn.errors import AddressError, UnknownDevice, quoted
from monconn.model.record import iso_time
from monconn.model.uid import parse_uid
from monconn.monitor.admission import RuleState
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.monitor.why import why_in_steps
from monconn.ops.device import find_device
from monconn.ops.why_rows import WhyRow
from monconn.policy.blocks import Block

FindOrigin = Callable[[str, str, Any, Network | None], Origin | None]
"""Where a service's setting is written, by its key and the value in force; of a list of networks,
where the network is."""
_ID_DIGITS = 18


def why_rows(
    text: str,
    monitors: Sequence[Monitor],
    registry: Registry,
    devices: DevicesService | None,
    origin_of: FindOrigin,
) -> Generator[None, None, list[WhyRow]]:
    """Return what would happen to a client at each of some services.

    :param text: an address; or the id or uid of a connection, or a device's name: its address.
    :raises AddressError: it is none of these.
    :raises UnknownConnection: there is no such connection.
    :raises UnknownDevice: several devices are meant.
    """
    ip, device = yield from _address_of(text, monitors, registry, devices)
    rows, unreadable = [], registry.unreadable_files
    for monitor in monitors:
        why = yield from why_in_steps(monitor, ip)
        paths = [each.path for each in monitor.policy.rules.block_files]
        rows.append(
            WhyRow(
                service=why.service,
                ip=why.ip,
                device=device,
                client=why.client,
                state=why.state,
                outcome=why.outcome,
                by=why.by,
                refusal=why.refusal,
                would_refuse=list(why.would_refuse),
                connections=why.connections,
                since=None if why.since is None else iso_time(why.since),
                ids=list(why.ids),
                unreadable_files=[unreadable[each] for each in paths if each in unreadable] or None,
                rules=[_rule(monitor, each, origin_of) for each in why.rules],
                auto_block=_auto_block(monitor, why.auto_block_used, origin_of),
            )
        )
        yield
    return rows


def _address_of(
    text: str, monitors: Sequence[Monitor], registry: Registry, devices: DevicesService | None
) -> Generator[None, None, tuple[str, str | None]]:
    try:
        return parse_client_ip(text), None
    except AddressError:
        pass
    if text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS:
        return registry.record(int(text)).client_ip, None
    if parse_uid(text) is not None:
        return registry.record(registry.id_of(text)).client_ip, None
    if devices is not None and "/" not in text:
        followed = [(monitor, devices.of(monitor.name)) for monitor in monitors]
        name, _ = yield from find_device(text, followed)
        if name is not None:
            return _last_address(name, text, [each for _, each in followed]), name
    if "/" in text:
        advice = "is not one address: write one of its addresses, such as 10.1.2.3"
    else:
        advice = "is no address, no id of a connection that is known, and no known device"
    raise AddressError(f"{quoted(text)} {advice}")


def _last_address(name: str, text: str, followed: Sequence[Any]) -> str:
    """The address that a device has used last."""
    known = [device for each in followed if (device := each.get(name)) is not None]
    for device in known:
        for address in device.last_addresses():
            return str(address)
    network = network_of(name)
    if network is None:
        raise UnknownDevice(f"no address of {quoted(text)} is known")
    return str(network.network_address)


def _rule(monitor: Monitor, state: RuleState, origin_of: FindOrigin) -> dict[str, Any]:
    """The JSON of one rule."""
    key, block, lifted = state.rule, state.block, state.lifted
    named = block or lifted
    if named is None:
        value = getattr(monitor.policy.rules, key)
        origin = origin_of(monitor.name, key, value, state.network)
    elif named.origin or named.source != "configuration":
        origin = Origin(named.origin) if named.origin else None
    else:
        origin = origin_of(monitor.name, key, monitor.policy.rules.block, named.network)
    return {
        "rule": key,
        "refuses": state.refuses,
        "dry_run": state.is_dry_run,
        **_given(
            used=None if state.used is None else round(state.used, 3),
            limit=state.limit,
            rate=None if state.rate is None else str(state.rate),
            wait_seconds=None if state.wait_seconds is None else round(state.wait_seconds, 3),
            network=None if state.network is None else str(state.network),
            block=None if block is None else _block(block, monitor),
            unblocked=None if lifted is None else str(lifted.network),
        ),
        "origin": None if origin is None else origin.place,
        "is_default": origin is not None and origin.is_default,
    }


def _auto_block(monitor: Monitor, used: int | None, origin_of: FindOrigin) -> dict[str, Any] | None:
    settings = monitor.policy.rules.auto_block
    if settings is None or used is None:
        return None
    origin = origin_of(monitor.name, "auto_block", settings, None)
    return {
        "used": used,
        "limit": settings.after,
        "of": list(settings.of),
        "within_seconds": settings.within,
        "for_seconds": settings.for_,
        "origin": None if origin is None else origin.place,
        "is_default": origin is not None and origin.is_default,
    }


def _block(block: Block, monitor: Monitor) -> dict[str, Any]:
    left = block.left_seconds(monitor.clock.seconds())
    return {
        "network": str(block.network),
        "source": block.source,
        "by": block.by,
        "since": iso_time(block.since_at) if block.since_at else None,
        "until": None if left is None else iso_time(time.time() + left),
        "left_seconds": None if left is None else round(left, 3),
        "reason": block.reason,
        "hits": block.hits,
    }


def _given(**values: Any) -> dict[str, Any]:
    return {name: each for name, each in values.items() if each is not None}
