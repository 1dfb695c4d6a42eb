"""Forgetting a client: what is removed, what stays, and what cannot be removed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred

from monconn.addresses import Network, network_of
from monconn.devices.devices import has_address
from monconn.devices.identity import is_within
from monconn.devices.service import DevicesService
from monconn.errors import FileError
from monconn.model.actions import Actor
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.ops.captures import Captures
from monconn.ops.live_queries import LiveQueries
from monconn.ops.reporting import Reporter
from monconn.policy.mentions import mentions
from monconn.policy.networks import matcher
from monconn.turns import uncancellable

if TYPE_CHECKING:
    from monconn.sinks.history.service import HistoryService  # SQLite and all: only if it is wanted

NOT_REMOVED = (
    "lines of logs (monconn's own, the JSON log, syslog and its servers)",
    "capture files, out of which no client can be cut (monconn capture list says where they are)",
    "what other programs have stored (captures, webhooks, copies of the history)",
    "addresses in the configuration (block, allow) and in block_files",
)
"""What monconn cannot remove, as it is not there or not its own any more."""


AT_ALL_SERVICES = "all services"


@attrs.frozen
class ForgetResult:
    """What was removed of a client, or of a dry run, what would be.

    :param removed: how much, by what it is: ``closed`` connections and ``ips`` in memory,
        ``devices``; if a service has a recorder, ``recordings`` of bytes; and of the history, if
        there is one, ``history_connections``, ``history_events``, ``history_hourly_sums`` and
        ``history_devices``.
    :param live: connections of the client that are live: they stay, and are recorded as they end.
    :param blocks: the services that block it by an entry of its own, which stays; or
        :data:`AT_ALL_SERVICES`.
    :param capture_files: how many files of captures there are, any of which may have bytes of it.
    :param problem: why bytes may be left in the history's file; empty if there are none.
    """

    removed: Mapping[str, int]
    live: int
    blocks: tuple[str, ...]
    problem: str = ""
    capture_files: int = 0

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "removed": dict(self.removed),
            "live": self.live,
            "blocks": list(self.blocks),
            "problem": self.problem,
            "capture_files": self.capture_files,
            "not_removed": list(NOT_REMOVED),
        }

    def summary(self) -> str:
        """What was removed, for the audit trail: without any address."""
        return amounts(self.removed)


_LABELS = {
    "closed": ("closed connection in memory", "closed connections in memory"),
    "ips": ("IP's totals in memory", "IPs' totals in memory"),
    "devices": ("device in memory", "devices in memory"),
    "recordings": ("recording of bytes", "recordings of bytes"),
    "history_connections": ("connection in the history", "connections in the history"),
    "history_events": ("event in the history", "events in the history"),
    "history_hourly_sums": ("hourly sum in the history", "hourly sums in the history"),
    "history_devices": ("device in the history", "devices in the history"),
}


def label(name: str, count: int = 0) -> str:
    """What an amount of :attr:`ForgetResult.removed` is of; itself if a newer server has more."""
    one, several = _LABELS.get(name, (name, name))
    return one if count == 1 else several


def amounts(removed: Mapping[str, int]) -> str:
    """The amounts of :attr:`ForgetResult.removed` in one line, but for those of nothing."""
    found = (f"{label(name)} {count}" for name, count in removed.items() if count)
    return ", ".join(found) or "nothing was there"


def memory_steps(
    registry: Registry,
    monitors: Sequence[Monitor],
    devices: DevicesService | None,
    network: Network,
    dry_run: bool,
) -> Generator[None, None, ForgetResult]:
    """Remove what is in memory, in steps; or only count it.

    :returns: the result as far as it is about memory.
    """
    removed = {"closed": 0, "ips": 0, "devices": 0}
    is_within = matcher([network])
    live = 0
    for monitor in [*monitors, *registry.gone.values()]:
        closed, ips = yield from forget_in_monitor(monitor, network, dry_run=dry_run)
        removed["closed"] += closed
        removed["ips"] += ips
        recordings = yield from monitor.recorder.forget_in_steps(
            concerning(network), dry_run=dry_run
        )
        if monitor.policy.recorder is not None:
            removed["recordings"] = removed.get("recordings", 0) + recordings
        for record in monitor.iter_connections():
            live += is_within(record.client_ip)
            yield
    if devices is not None and dry_run:
        for row in devices.rows_in_steps():
            if row is not None:
                removed["devices"] += has_only(network, row)
            yield
    elif devices is not None:
        for count in devices.forget_in_steps(network):
            removed["devices"] = count
            yield
    blocks = []
    every = [(monitor.name, monitor.iter_blocks()) for monitor in monitors]
    for name, found in [(AT_ALL_SERVICES, registry.blocks.in_force()), *every]:
        for block in found:
            # One that is wider names others, too.
            if block.network.version == network.version and _is_within(block.network, network):
                blocks.append(name)
                break
            yield
    return ForgetResult(removed, live, tuple(blocks))


def forget_in_monitor(
    monitor: Monitor, network: Network, *, dry_run: bool = False
) -> Generator[None, None, tuple[int, int]]:
    """Drop what a monitor remembers of a network's clients: closed connections, IPs' totals, and
    what ``per_ip_rate`` and ``auto_block`` have counted.

    Live connections, and the service's totals, stay as they are.

    :param dry_run: only count.
    :returns: how many closed connections and how many IPs there were.
    """
    is_within, concerns = matcher([network]), concerning(network)
    found: set[int] = set()
    for record in tuple(monitor.closed_records):
        if concerns(record):
            found.add(record.id)
        yield
    if found and not dry_run:
        kept = [each for each in monitor.closed_records if each.id not in found]
        monitor.closed_records.clear()
        monitor.closed_records.extend(kept)
    ips = 0
    for ip in monitor.clients.ips():
        if is_within(ip) and (dry_run or monitor.clients.forget(ip)):
            ips += 1
        yield
    if not dry_run:

        def is_one(client: str) -> bool:
            its = network_of(client)
            return its is not None and is_within(str(its.network_address))

        yield from monitor.admission.forget_in_steps(is_one)
        if monitor.auto_block is not None:
            yield from monitor.auto_block.forget_in_steps(is_one)
    return len(found), ips


def concerning(network: Network) -> Callable[[ConnectionRecord], bool]:
    """Whether a connection is one of a network's clients, or mentions one."""
    is_within, is_mentioned = matcher([network]), mentions(network)

    def concerns(record: ConnectionRecord) -> bool:
        facts = map(str, record.facts.values()) if record.has_facts else ()
        return is_within(record.client_ip) or any(map(is_mentioned, (record.detail, *facts)))

    return concerns


def has_only(network: Network, row: Mapping[str, Any]) -> bool:
    """Whether a device is forgotten with the addresses of a network.

    :param row: as :meth:`~monconn.devices.service.DevicesService.rows` gives it.
    """
    if row["identity"] == "address":
        return has_address(network, row["device"])
    addresses = row["addresses"]
    return bool(addresses) and all(is_within(network, each) for each in addresses)


def _is_within(one: Network, network: Network) -> bool:
    return (
        one.network_address.packed >= network.network_address.packed
        and one.broadcast_address.packed <= network.broadcast_address.packed
    )


class Forgetting:
    """Forgets a client wherever it is stored.

    :param registry: the monitors.
    :param devices: knows the devices; None if there is none.
    :param history: stores what happened; None if there is none.
    :param captures: have files of connections, which stay.
    :param live: runs long work in turns.
    :param report: writes an action into the log, and notifies observers.
    """

    def __init__(
        self,
        registry: Registry,
        devices: DevicesService | None,
        history: HistoryService | None,
        captures: Captures,
        live: LiveQueries,
        report: Reporter,
    ) -> None:
        self._registry = registry
        self._devices = devices
        self._history = history
        self._captures = captures
        self._live = live
        self._report = report

    def forget(self, actor: Actor, network: Network, *, dry_run: bool) -> Deferred[ForgetResult]:
        """Remove what is stored of a network's clients, or only count it.

        It goes on to its end though who asked leaves.
        """
        return uncancellable(Deferred.fromCoroutine(self._forget(actor, network, dry_run)))

    async def _forget(self, actor: Actor, network: Network, dry_run: bool) -> ForgetResult:
        monitors, history = list(self._registry), self._history
        # First of all in memory: what ends alarms of its devices is stored by that.
        steps = memory_steps(self._registry, monitors, self._devices, network, dry_run)
        done = await self._live.in_line(steps)
        if not dry_run:
            await self._live.in_line(self._captures.forget_in_steps(network))
        done = attrs.evolve(done, capture_files=self._captures.file_count())
        kind = "a client" if network.num_addresses == 1 else "a network's clients"
        try:
            if history is not None:
                found = await history.forget(network, dry_run=dry_run)
                stored = {f"history_{name}": count for name, count in found.counts.items()}
                removed = {**done.removed, **stored}
                done = attrs.evolve(done, removed=removed, problem=found.problem)
        except FileError:
            if not dry_run:  # what is gone is gone
                target = f"{kind}: {done.summary()}; the history failed"
                self._report("forget", actor, monitors, None, target)
            raise
        if not dry_run:
            self._report("forget", actor, monitors, None, f"{kind}: {done.summary()}")
        return done
