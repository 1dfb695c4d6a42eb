"""Ending connections on demand."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

import attrs
from twisted.internet.defer import Deferred, succeed

from monconn.model.actions import Actor
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.ops.filters import Filter
from monconn.ops.live_queries import LiveQueries
from monconn.ops.reporting import Reporter
from monconn.ops.rows import ConnectionRow
from monconn.ops.selection import ids_text, must_measure, sift, with_ids
from monconn.turns import result_of, uncancellable
from monconn.units import format_duration


@attrs.frozen
class CloseResult:
    """The result of :meth:`monconn.ops.operations.Operations.close`, or of its dry run.

    :param ids: the connections that were ended.
    :param unknown: the ids asked for that no live connection (of the service) has.
    :param rows: of a dry run, the connections; each is made as it is asked for.
    """

    ids: tuple[int, ...]
    unknown: tuple[int, ...] = ()
    rows: Iterable[ConnectionRow] = attrs.field(default=(), eq=False, repr=False)


@attrs.frozen
class _Chosen:
    """Live connections that are to be ended, of which some may have ended meanwhile."""

    records: list[tuple[Monitor, ConnectionRecord]]
    unknown: tuple[int, ...]
    """The ids asked for that no live connection has."""

    def result(self, rows: Iterable[ConnectionRow] = ()) -> CloseResult:
        return CloseResult(tuple(record.id for _, record in self.records), self.unknown, rows)


class Closing:
    """Chooses live connections and ends them.

    :param live: measures them.
    :param report: writes an action into the log, and notifies observers.
    """

    def __init__(self, live: LiveQueries, report: Reporter) -> None:
        self._live = live
        self._report = report

    def close(
        self,
        actor: Actor,
        monitors: Sequence[Monitor],
        wanted: Sequence[Filter],
        ids: Sequence[int] | None,
        *,
        service: str | None,
        reset: bool,
        spread_seconds: float,
        dry_run: bool,
    ) -> Deferred[CloseResult]:
        """End the connections for which all filters hold.

        :param ids: only these, also if they are ending already.
        :param service: which service was named, for the log.
        :param spread_seconds: the time over which they are ended evenly; 0 for at once.
        """
        target = (
            "" if service is None else f"service:{service}",
            *(each.to_text() for each in wanted),
            "" if ids is None else ids_text(ids),
            f"spread over {format_duration(spread_seconds)}" if spread_seconds else "",
        )

        def run() -> Generator[None, None, CloseResult | Deferred[CloseResult]]:
            chosen = yield from self._choose(monitors, wanted, ids, reset)
            if dry_run:
                yield from self._live.sample_rates()
                rows = self._live.measured_rows(record for _, record in chosen.records)
                return chosen.result(rows)
            if ids is not None and len(chosen.unknown) == len(ids):
                return chosen.result()  # nothing is live that was asked for: no action
            return uncancellable(result_of(self._live.clock, end(chosen)))

        def end(chosen: _Chosen) -> Generator[None, None, CloseResult]:
            if spread_seconds:
                yield from _end_evenly(chosen, spread_seconds, reset)
            else:
                yield from _end(chosen, reset)
            self._report(
                "reset" if reset else "close",
                actor,
                monitors,
                service,
                " ".join(each for each in target if each),
                len(chosen.records),
            )
            return chosen.result()

        needs_rates = any(each.uses("rate") for each in wanted)
        ready = self._live.rates_known() if needs_rates else succeed(None)
        return ready.addCallback(lambda _: self._live.in_line(run()))

    def _choose(
        self,
        monitors: Sequence[Monitor],
        wanted: Sequence[Filter],
        ids: Sequence[int] | None,
        reset: bool,
    ) -> Generator[None, None, _Chosen]:
        if must_measure(wanted):
            yield from self._live.measure(monitors)
        known: set[int] = set()
        chosen: list[tuple[Monitor, ConnectionRecord]] = []
        context = self._live.context()
        for monitor in monitors:
            records: Iterable[ConnectionRecord] = monitor.iter_connections()
            if ids is not None:
                records = with_ids(monitor, ids)
                known.update(record.id for record in records)
            for record in sift(records, wanted, context):
                if record is not None and (ids is not None or reset or record.reason is None):
                    chosen.append((monitor, record))
                yield
        return _Chosen(chosen, tuple(each for each in ids or () if each not in known))


def _end(chosen: _Chosen, reset: bool) -> Generator[None, None, None]:
    for monitor, record in chosen.records:
        if record.id in monitor:  # to end another may have ended this one
            monitor.close(record.id, reset=reset, actor=None)
        yield


def _end_evenly(chosen: _Chosen, seconds: float, reset: bool) -> Generator[None, None, None]:
    by_monitor: dict[Monitor, list[int]] = {}
    for monitor, record in chosen.records:
        by_monitor.setdefault(monitor, []).append(record.id)
        yield
    for monitor in by_monitor:
        monitor.ending.check_spread()  # all, or nothing
    for monitor, ids in by_monitor.items():
        monitor.ending.close_spread(ids, seconds, reset=reset)
