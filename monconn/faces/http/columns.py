"""What the columns and the filter keys of each listing are, for whoever shows one."""

from __future__ import annotations

from typing import Any

import attrs

from monconn.ops.columns import Column, Row
from monconn.ops.device_rows import TimelineRow
from monconn.ops.filter_keys import (
    BLOCK_KEYS,
    CONNECTION_KEYS,
    DEVICE_KEYS,
    EVENT_KEYS,
    HISTORY_EVENT_KEYS,
    HISTORY_KEYS,
    IP_KEYS,
    KEY_HELP,
)
from monconn.ops.filters import Key, Keys
from monconn.ops.rows import (
    ActionRow,
    AlarmRow,
    BlockRow,
    CaptureRow,
    ClientRow,
    ClosedConnectionRow,
    ConnectionRow,
    DeviceRow,
    HistoryConnectionRow,
    HistoryEventRow,
    IpRow,
    NotifyRow,
    ServiceRow,
)
from monconn.ops.sorting import begins_with_most, sort_names
from monconn.ops.why_rows import WhyRow


@attrs.frozen
class _Listing:
    """One listing: its rows, and what can be asked of the server about them."""

    row: type[Row]
    keys: Keys | None = None
    is_sorted: bool = False
    is_of_one: bool = False
    """Whether it is one row, with the fields that no list has."""


LISTINGS: dict[str, _Listing] = {
    "services": _Listing(ServiceRow),
    "connections": _Listing(ConnectionRow, CONNECTION_KEYS, True),
    "closed": _Listing(ClosedConnectionRow, CONNECTION_KEYS, True),
    "connection": _Listing(ConnectionRow, is_of_one=True),
    "ips": _Listing(IpRow, IP_KEYS),
    "clients": _Listing(ClientRow, IP_KEYS),
    "devices": _Listing(DeviceRow, DEVICE_KEYS),
    "timeline": _Listing(TimelineRow),
    "blocks": _Listing(BlockRow, BLOCK_KEYS),
    "history": _Listing(HistoryConnectionRow, HISTORY_KEYS, True),
    "history_events": _Listing(HistoryEventRow, HISTORY_EVENT_KEYS, True),
    "events": _Listing(HistoryEventRow, EVENT_KEYS),
    "alarms": _Listing(AlarmRow),
    "actions": _Listing(ActionRow),
    "captures": _Listing(CaptureRow),
    "outputs": _Listing(NotifyRow),
    "why": _Listing(WhyRow),
}
"""By the name of the listing; ``closed`` are the connections that ended last, ``connection`` is
a single one, and ``timeline`` the rows of one device."""


def columns_json() -> dict[str, Any]:
    """The columns and the keys of each listing, as plain values."""
    return {name: _listing_json(listing) for name, listing in LISTINGS.items()}


def _listing_json(listing: _Listing) -> dict[str, Any]:
    row, usual = listing.row, {each.name for each in listing.row.columns()}
    columns = (row.fields() if listing.is_of_one else row.known_columns()).values()
    return {
        "columns": [_column_json(each, listing, each.name in usual) for each in columns],
        "keys": [
            _key_json(each) for each in (listing.keys.by_name.values() if listing.keys else ())
        ],
        "facts": listing.keys is not None and listing.keys.facts is not None,
        "sorts": sort_names(row) if listing.is_sorted else [],
    }


def _column_json(column: Column, listing: _Listing, is_usual: bool) -> dict[str, Any]:
    is_sortable = listing.is_sorted and column.unit not in ("list", "object")
    return {
        "name": column.name,
        "title": column.title,
        "unit": column.unit,
        "help": column.help,
        "importance": column.importance,
        "width": column.width,
        "max_width": column.max_width,
        "align": column.align,
        "nullable": column.nullable,
        "usual": is_usual,
        "for_some": column.is_for_some,
        "computed": column.value is not None,
        "order": column.name if is_sortable else "",
        "descending": begins_with_most(column),
    }


def _key_json(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "kind": key.kind,
        "help": KEY_HELP[key.name],
        "choices": list(key.choices),
    }
