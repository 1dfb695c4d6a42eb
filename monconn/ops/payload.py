"""The bytes of chosen connections: tapped, captured to files, or recorded before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred

from monconn.errors import NotConfigured, UnknownConnection
from monconn.model.actions import Actor
from monconn.model.flow import FlowEvent
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.ops.captures import CaptureResult, Captures
from monconn.ops.filter_keys import CONNECTION_KEYS
from monconn.ops.filters import Filter
from monconn.ops.live_queries import LiveQueries
from monconn.ops.reporting import Reporter
from monconn.ops.selection import ids_text, split_ids
from monconn.ops.taps import (
    Tap,
    TapResult,
    Taps,
    payload_forbidden,
    service_concerned,
    services_by_payload,
)


class Payload:
    """Gives the bytes of connections to those who may have them, and reports that.

    :param registry: the monitors.
    :param live: knows the rates of connections.
    :param taps: where bytes come from.
    :param captures: where they go.
    :param report: writes an action into the log, and notifies observers.
    """

    def __init__(
        self,
        registry: Registry,
        live: LiveQueries,
        taps: Taps,
        captures: Captures,
        report: Reporter,
    ) -> None:
        self._registry = registry
        self._live = live
        self._taps = taps
        self._captures = captures
        self._report = report

    def tap(
        self,
        actor: Actor,
        ready: Callable[[Tap], object],
        monitors: Sequence[Monitor],
        wanted: Filter,
        *,
        service: str | None,
        follow: bool,
        how: str | None,
        replaced: Tap | None,
    ) -> Deferred[TapResult]:
        """Open a tap, as :meth:`Taps.open` does.

        :param service: the one that was named.
        :raises UnknownConnection: only ids are given, and no live connection has one of them.
        :raises Forbidden: all services that are meant, or one of a connection that is given by its
            id, have ``payload: never``.
        """
        allowed, forbidden = services_by_payload(monitors, wanted)
        ids, others = (None, wanted.terms) if follow else split_ids(wanted.terms)
        target = wanted.to_text() or "all connections"
        unknown: tuple[int, ...] = ()
        if ids is not None:
            owners = {each: monitor for monitor in monitors for each in ids if each in monitor}
            unknown = tuple(each for each in ids if each not in owners)
            if len(unknown) == len(ids):
                recorded = [each for each in ids if any(m.recorder.find(each) for m in monitors)]
                hint = f": monconn recording {recorded[0]} has what was said" if recorded else ""
                raise UnknownConnection(f"no live connection has the {ids_text(ids)}{hint}")
            allowed = list(dict.fromkeys(owners.values()))
            if names := [each.name for each in allowed if each.policy.payload == "never"]:
                raise payload_forbidden(names)
            forbidden = ()  # no other is meant
            target = f"connection{ids_text(ids).removeprefix('id')}"
        details = [each for each in (how, "following" if follow else None) if each]
        if details:
            target += f" ({', '.join(details)})"

        async def run() -> TapResult:
            if wanted.uses("rate"):
                await self._live.rates_known()
            tap = self._taps.open(
                ready,
                filter=Filter(others, CONNECTION_KEYS) if others else None,
                ids=ids,
                services=None if service is None else [service],
                follow=follow,
                replaced=replaced,
            )
            concerned = service or service_concerned(allowed, wanted, follows=follow)
            self._report("tap", actor, allowed, concerned, target)
            await tap.chosen
            return TapResult(tap, unknown, forbidden)

        return Deferred.fromCoroutine(run())

    def start_capture(
        self,
        actor: Actor,
        wanted: Filter,
        *,
        first: int | None,
        seconds: float | None,
        connections: int | None,
    ) -> CaptureResult:
        """Start a capture, as :meth:`Captures.begin` does.

        :raises UnknownConnection: an id is given that no live connection has.
        :raises Forbidden: all that is meant has ``payload: never``.
        """
        ids, others = split_ids(wanted.terms)
        target = wanted.to_text() or "all"
        if ids is not None:
            target = f"connection{ids_text(ids).removeprefix('id')}"
            owners = {each: m for m in self._registry for each in ids if each in m}
            if unknown := [each for each in ids if each not in owners]:
                raise UnknownConnection(f"no live connection has the {ids_text(unknown)}")
            if never := [m.name for m in owners.values() if m.policy.payload == "never"]:
                raise payload_forbidden(list(dict.fromkeys(never)))
        return self._captures.begin(
            actor,
            target,
            Filter(others, CONNECTION_KEYS),
            ids,
            first=first,
            seconds=seconds,
            connections=connections,
        )

    def recording(
        self, actor: Actor, connection_id: int | str, *, how: str | None
    ) -> list[FlowEvent]:
        """What is recorded of a connection.

        :raises UnknownConnection: there is no such connection, or no recording of it, or not any
            more.
        :raises NotConfigured: its service has no recorder.
        :raises Forbidden: its service has ``payload: never``.
        """
        if isinstance(connection_id, str):
            connection_id = self._registry.id_of(connection_id)
        for monitor in self._registry:
            events = monitor.recorder.events(connection_id)
            if events is not None:
                target = f"connection {connection_id}" + (f" ({how})" if how else "")
                self._report("read_recording", actor, [monitor], monitor.name, target)
                return events
        for monitor in self._registry:
            if monitor.recorder.has_dropped(connection_id):
                break
        else:
            monitor = self._registry.get(self._registry.record(connection_id).service)
        if monitor.policy.payload == "never":
            raise payload_forbidden([monitor.name])
        why = monitor.recorder.why_not(connection_id)
        error = NotConfigured if monitor.policy.recorder is None else UnknownConnection
        raise error(f"connection {connection_id} is not recorded: {why}")
