"""Queries of what is over: of the stored history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred

from monconn.errors import NotConfigured
from monconn.ops.columns import Listing, Row
from monconn.ops.filters import Filter
from monconn.ops.rows import HistoryConnectionRow, HistoryEventRow, ReportRow
from monconn.ops.sorting import parse_sort
from monconn.turns import uncancellable

if TYPE_CHECKING:
    from monconn.sinks.history.query import HistoryFilter
    from monconn.sinks.history.service import HistoryService  # SQLite and all: only if it is wanted

USUAL_BUCKETS = 60
MOST_BUCKETS = 500
"""The most parts that a time is divided into."""

T = TypeVar("T")
R = TypeVar("R", bound=Row)


class HistoryQueries:
    """Asks the history, in a thread of its own.

    :param service: stores what happened; None if there is none.
    """

    def __init__(self, service: HistoryService | None) -> None:
        self._service = service

    @property
    def is_stored(self) -> bool:
        """Whether there is a history at all."""
        return self._service is not None

    def connections(
        self, wanted: Filter, period: Mapping[str, Any]
    ) -> Deferred[Listing[HistoryConnectionRow]]:
        """Connections that have ended, newest first."""
        selection = self._selection(wanted, period, HistoryConnectionRow)
        from monconn.sinks.history import query

        return self.run(lambda db: query.connections_part(db, selection)).addCallback(
            lambda found: _listing(HistoryConnectionRow, *found)
        )

    def events(
        self, wanted: Filter, period: Mapping[str, Any]
    ) -> Deferred[Listing[HistoryEventRow]]:
        """Refusals, alarms, actions, starts and stops, newest first."""
        selection = self._selection(wanted, {**period, "events": True}, HistoryEventRow)
        from monconn.sinks.history import query

        return self.run(lambda db: query.events_part(db, selection)).addCallback(
            lambda found: _listing(HistoryEventRow, *found)
        )

    def reasons(
        self, wanted: Filter, period: Mapping[str, Any], buckets: int
    ) -> Deferred[dict[str, Any]]:
        """How many connections have ended with which reason, over time."""
        self.service()
        selection = self._selection(wanted, period, HistoryConnectionRow)
        from monconn.sinks.history.reasons import reasons

        return self.run(lambda db: reasons(db, selection, buckets))

    def report(self, period: Mapping[str, Any]) -> Deferred[ReportRow]:
        """A period in figures."""
        self.service()
        from monconn.sinks.history import query

        selection = query.make_filter(**period)
        return self.run(lambda db: query.report(db, selection)).addCallback(
            lambda made: ReportRow(**made)
        )

    def _selection(
        self, wanted: Filter, period: Mapping[str, Any], row_class: type[Row]
    ) -> HistoryFilter:
        from monconn.sinks.history import query

        order = None
        if (text := period.get("sort")) is not None:
            sort = parse_sort(text, row_class)
            order = query.Order(sort.fields[0], sort.is_descending)
        return query.make_filter(
            **{
                **{name: each for name, each in period.items() if name != "sort"},
                "order": order,
                "limit": min(period.get("limit") or query.USUAL_ROWS, query.MOST_ROWS),
                "condition": wanted.to_sql() if wanted else None,
            }
        )

    def run(self, query: Callable[[Any], T]) -> Deferred[T]:
        """Run a query in a thread of the history's, which cannot be taken back.

        So it counts among those that are under way until it is over, though who asked has left.
        """
        return uncancellable(self.service().run(query))

    def service(self) -> HistoryService:
        """What stores it.

        :raises NotConfigured: no history is stored.
        """
        if self._service is None:
            raise NotConfigured("no history is stored: docs/history.md says how to have one")
        return self._service


def _listing(
    row_class: type[R], found: list[dict[str, Any]], place: tuple[float, int] | None
) -> Listing[R]:
    return Listing((row_class(**each) for each in found), len(found), place)
