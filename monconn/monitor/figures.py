"""One service's figures: as plain values, and in a line."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from monconn.model.record import iso_time
from monconn.model.totals import Totals
from monconn.units import format_bytes, format_duration

if TYPE_CHECKING:
    from monconn.monitor.monitor import Monitor


def figures(monitor: Monitor, totals: Totals) -> dict[str, Any]:
    """A service's figures as plain values for JSON.

    :param totals: its counters.
    """
    of_pause = {}
    if (until := monitor.lifecycle.paused_until) is not None:
        of_pause = {"paused_until": iso_time(time.time() + until - monitor.clock.seconds())}
    of_recorder = {}
    if monitor.policy.recorder is not None:
        of_recorder = {
            "recordings": len(monitor.recorder),
            "recordings_dropped": monitor.recorder.dropped["room"],
        }
    of_dry_run = {}
    if monitor.policy.rules.dry_run or totals.would_refuse:
        of_dry_run = {"would_refuse": dict(totals.would_refuse)}
    accessed_at = monitor.accessed_at
    return {
        "sid": monitor.name,
        "state": monitor.state,
        **of_pause,
        "listen": monitor.listen,
        "backend": monitor.backend,
        "booted_at": iso_time(monitor.booted_at),
        "uptime": round(monitor.uptime_seconds(), 3),
        "accessed": None if accessed_at is None else iso_time(accessed_at),
        "connections": len(monitor),
        "total": totals.opened,
        "refused": sum(totals.refused.values()),
        "refused_by": dict(totals.refused),
        "up": totals.up,
        "down": totals.down,
        "closed_by": dict(totals.closed),
        **of_dry_run,
        **of_recorder,
        "alarms": list(monitor.alarms),
    }


def figures_in_steps(monitor: Monitor) -> Generator[None, None, dict[str, Any]]:
    """Return what :func:`figures` does, as of now; for :func:`monconn.turns.in_turns`, as every
    live connection is asked for its bytes."""
    totals = yield from monitor.counters.totals_in_steps()
    return figures(monitor, totals)


def describe(monitor: Monitor) -> str:
    """A service's figures in one line for people."""
    totals = monitor.totals()
    state = "" if monitor.state == "running" else f"{monitor.state}, "
    return (
        f"{monitor.name}: {state}connections {len(monitor)}, ips {monitor.client_ips()},"
        f" total {totals.opened}, refused {sum(totals.refused.values())},"
        f" up {format_bytes(totals.up)}, down {format_bytes(totals.down)},"
        f" uptime {format_duration(monitor.uptime_seconds())}"
    )
