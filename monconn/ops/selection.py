"""Which connections are meant: by a filter, by its older short forms, or by ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain

from monconn.addresses import parse_network
from monconn.errors import QuestionError, quoted
from monconn.model.reasons import STATES
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.ops.filter_keys import CONNECTION_KEYS, MEASURED_KEYS
from monconn.ops.filters import Context, Exact, Filter, Part, Range, Term

_LISTED_IDS = 10
"""Ids that a line of the log names."""


def short_forms(
    client: str | None = None,
    state: str | None = None,
    idle_over: float | None = None,
    text: str | None = None,
) -> Filter:
    """The arguments that are older than the filter language, as a filter.

    A filter of its own, since two terms with the same key in one filter are alternatives.
    """
    terms: list[Term] = []
    if client is not None:
        terms.append(Term("client", parse_network(client)))
    if _one_of(STATES, state) is not None:
        terms.append(Term("state", Exact(str(state))))
    if idle_over:
        terms.append(Term("idle", Range(idle_over, None)))
    if text:
        terms.append(Term("", Part(text.casefold())))
    return Filter(tuple(terms), CONNECTION_KEYS)


def _one_of(values: Collection[str], value: str | None) -> str | None:
    if value is not None and value not in values:
        raise QuestionError(f"{quoted(value)} is none of {', '.join(values)}")
    return value


def live_records(monitors: Iterable[Monitor]) -> Iterator[ConnectionRecord]:
    """The live connections of some monitors, in the order of their opening at each."""
    return chain.from_iterable(monitor.iter_connections() for monitor in monitors)


def sift(
    records: Iterable[ConnectionRecord], filters: Iterable[Filter], context: Context
) -> Iterator[ConnectionRecord | None]:
    """The records that pass all filters, and None for each other."""
    sifted: Iterable[ConnectionRecord | None] = records
    for each in filters:
        if each:
            sifted = each.sift(sifted, context)
    return iter(sifted)


def must_measure(filters: Iterable[Filter]) -> bool:
    """Whether the kernel is to be asked about every connection for some filters."""
    return any(each.uses(key) for each in filters for key in MEASURED_KEYS)


def by_id(registry: Registry, term: Term) -> Term:
    """The same term, but for a uid: by the id that it has here, as ids are looked up.

    :raises UnknownConnection: it is none of this process's.
    """
    if term.key != "uid" or term.is_negated or not isinstance(term.value, Exact):
        return term
    connection_id = registry.id_of(term.value.text)
    return Term("id", Range(connection_id, connection_id))


def split_ids(terms: Sequence[Term]) -> tuple[list[int] | None, tuple[Term, ...]]:
    """The ids that terms name one by one, and the other terms.

    Ids are looked up in a dictionary; as ranges, each would be tested on every connection.
    """
    named = dict.fromkeys(term for term in terms if term.key == "id" and not term.is_negated)
    ids = [
        int(term.value.low)
        for term in named
        if isinstance(term.value, Range)
        and term.value.low is not None
        and term.value.low == term.value.high
    ]
    if not named or len(ids) < len(named):
        return None, tuple(terms)
    return ids, tuple(term for term in terms if term not in named)


def with_ids(monitor: Monitor, ids: Collection[int]) -> list[ConnectionRecord]:
    """The live connections of a monitor with these ids; searches the smaller of the two sets."""
    if len(ids) <= len(monitor):
        return [monitor.connection(each) for each in dict.fromkeys(ids) if each in monitor]
    wanted = frozenset(ids)
    return [record for record in monitor.connections() if record.id in wanted]


def ids_text(ids: Sequence[int]) -> str:
    """Some ids in a line of the log."""
    listed = ", ".join(map(str, ids[:_LISTED_IDS]))
    more = f" and {len(ids) - _LISTED_IDS} more" if len(ids) > _LISTED_IDS else ""
    return f"{'id' if len(ids) == 1 else 'ids'} {listed}{more}"
