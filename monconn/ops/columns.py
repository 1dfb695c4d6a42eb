"""Rows: typed fields with units, their JSON, and the columns of a table of such rows.

A row class says everything about a field once, with :func:`field`. Server and clients share the
classes: a server makes rows, a client makes the same tables from the JSON that it was sent. So
nothing here needs a monitor, a reactor or a library for terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Generic, Literal, TypeVar

import attrs

from monconn.errors import MonconnError
from monconn.units import format_bytes, format_duration, format_rate, local_time

Unit = Literal[
    "text",
    "count",
    "bytes",
    "bytes_per_second",
    "seconds",
    "time",  # ISO 8601 with zone
    "flag",
    "list",  # of texts
    "object",
]
Align = Literal["left", "right"]
TableOf = tuple["str | tuple[str, str] | Column", ...]
R = TypeVar("R", bound="Row")

_NUMBERS = frozenset({"count", "bytes", "bytes_per_second", "seconds"})
_CELL_CHARACTERS = 256
"""The most of one cell: all others of its column are padded to its width."""
_WIDTHS: dict[Unit, int] = {
    "text": 10,
    "count": 7,
    "bytes": 10,
    "bytes_per_second": 12,
    "seconds": 7,
    "time": 8,
    "flag": 3,
    "list": 10,
    "object": 10,
}


class RowError(MonconnError):
    """What a server sent as a row is none."""


@attrs.frozen
class Column:
    """One column of a table.

    :param name: the field's name, in Python and in JSON.
    :param title: in capitals.
    :param unit: what the value is, which decides alignment and format.
    :param importance: 0 for what never leaves a table (who, and why), and more for what leaves
        earlier where it must get narrower. Columns of the same importance leave together.
    :param width: characters that the column needs.
    :param max_width: characters that it can make use of.
    :param wanted_width: of free text, the characters for which less important columns leave.
    :param order: the name of the sort order by this column; empty if there is none.
    :param help: what the field means, in one sentence.
    :param nullable: whether the value may be None.
    :param value: takes the value from a row's JSON, where it is not the field alone.
    :param is_for_some: on a terminal, it leaves a usual table in which no row has a value.
    """

    name: str
    title: str
    unit: Unit = "text"
    importance: int = 5
    width: int = 0
    max_width: int = 0
    wanted_width: int = 0
    order: str = ""
    help: str = ""
    nullable: bool = False
    value: Callable[[Mapping[str, Any]], Any] | None = None
    is_for_some: bool = False

    @property
    def align(self) -> Align:
        """The alignment: right for numbers, left for all else."""
        return "right" if self.unit in _NUMBERS else "left"

    def raw(self, row: Row | Mapping[str, Any]) -> Any:
        """The value for programs.

        :param row: a row, or its JSON; a key that an older server does not send counts as None.
        """
        if self.value is not None:
            return self.value(row.to_json() if isinstance(row, Row) else row)
        return getattr(row, self.name) if isinstance(row, Row) else row.get(self.name)

    def text(self, row: Row | Mapping[str, Any]) -> str:
        """The cell for people, cut at 256 characters, which no address has."""
        text = format_value(self.raw(row), self.unit)
        if len(text) > _CELL_CHARACTERS:
            text = f"{text[: _CELL_CHARACTERS - 1]}…"
        return text


def field(
    title: str = "",
    unit: Unit = "text",
    *,
    optional: bool = False,
    nullable: bool = False,
    importance: int = 5,
    width: int = 0,
    max_width: int = 0,
    wanted_width: int = 0,
    order: str = "",
    help: str = "",
) -> Any:
    """One field of a row; see :class:`Column` for what is not explained here.

    :param title: the name in capitals if left out.
    :param optional: left out of the JSON when it is None, which is its default.
    :param nullable: may be None, and is null in JSON then; of an optional one, in some rows.
    """
    settings = {
        "title": title,
        "unit": unit,
        "importance": importance,
        "width": width or _WIDTHS[unit],
        "max_width": max_width,
        "wanted_width": wanted_width,
        "order": order,
        "help": help,
        "nullable": nullable or optional,
    }
    return attrs.field(
        default=None if optional else attrs.NOTHING,
        kw_only=True,
        metadata={"column": settings, "optional": optional, "is_null": nullable},
    )


@attrs.frozen(slots=False)
class Row:
    """One row of a list, with values as in JSON: times are ISO 8601, lists and objects as they are.

    Subclasses are frozen classes of attrs, without slots, whose fields are made by :func:`field`:
    for thousands of rows of some thirty fields, a dictionary is set and copied at half the cost.
    """

    TABLE: ClassVar[TableOf] = ()
    """The columns of the usual table: names of fields, names with other titles, or columns."""
    NOT_IN_CSV: ClassVar[frozenset[str]] = frozenset()
    """Fields that a CSV has not: those that rows have gained, as whoever reads a CSV by position
    relies on its columns."""
    NOT_LISTED: ClassVar[frozenset[str]] = frozenset()
    """Fields that only a single row by itself has: no listing offers a column of them."""

    @classmethod
    def of(cls: type[R], values: Mapping[str, Any]) -> R:
        """A row from its JSON; keys that this version does not know are left out.

        :raises TypeError: a key is missing that every version has sent.
        """
        return cls(**{name: values[name] for name in _fields(cls) if name in values})

    @classmethod
    def check(cls, values: Any) -> None:
        """Make sure that the JSON of a row, which a server sent, can be shown and calculated with.

        Keys may be missing, as of an older server, or unknown, as of a newer one.

        :raises RowError: it is no object, or a field has another type, or is out of range.
        """
        if not isinstance(values, Mapping):
            raise RowError(f"a row must be an object, not {type(values).__name__}")
        for name, column in _fields(cls).items():
            value = values.get(name)
            if value is not None and not _is_valid(value, column.unit):
                raise RowError(f"{name} of a row is no value of the kind {column.unit}")

    def to_json(self) -> dict[str, Any]:
        """The row as plain values, in the order of the fields."""
        made = vars(self).copy()  # which has the fields in their order
        for name in _optional(type(self)):
            if made[name] is None:
                del made[name]
        return made

    @classmethod
    def fields(cls) -> Mapping[str, Column]:
        """All fields by name, in the order of the JSON."""
        return _fields(cls)

    @classmethod
    def columns(cls, *names: str) -> tuple[Column, ...]:
        """The columns of a table: those of these fields, or the usual ones."""
        return tuple(cls._column(each) for each in names or cls.TABLE)

    @classmethod
    def csv_columns(cls) -> tuple[Column, ...]:
        """The columns of a CSV: all fields but objects, which have no form there."""
        return tuple(
            column
            for name, column in cls.fields().items()
            if column.unit != "object" and name not in cls.NOT_IN_CSV | cls.NOT_LISTED
        )

    @classmethod
    def known_columns(cls) -> Mapping[str, Column]:
        """All columns that a table of such rows can have, by name: each field that is listed, and
        what the usual table makes of several. Those of the usual table come first, with its
        titles."""
        return _known_columns(cls)

    @classmethod
    def find_column(cls, name: str) -> Column | None:
        """The column that people mean: by its field's name, which may lack ``_seconds`` or
        ``_at``, or by its title in the usual table (``silent for``, or ``silent_for``).

        :returns: None if there is none.
        """
        wanted = name.strip().casefold().replace(" ", "_")
        titles = {each.title.casefold().replace(" ", "_"): each for each in cls.columns()}
        known = {**cls.known_columns(), **titles}
        names = (wanted, f"{wanted}_seconds", f"{wanted}_at")
        return next((known[each] for each in names if each in known), None)

    @classmethod
    def _column(cls, entry: str | tuple[str, str] | Column) -> Column:
        if isinstance(entry, Column):
            return entry
        if isinstance(entry, str):
            return _fields(cls)[entry]
        name, title = entry
        return attrs.evolve(_fields(cls)[name], title=title)


@attrs.frozen
class Listing(Generic[R]):
    """Rows that were found.

    :param rows: in order; each is made as it is asked for, and is as things are at that moment.
    :param total: how many there are, of connections without offset and limit.
    :param place: of a history, the place of the last row, for a query of those after it.
    """

    rows: Iterator[R]
    total: int
    place: tuple[float, int] | None = None


def _make_fields(cls: type[Row]) -> dict[str, Column]:
    made = {}
    for each in attrs.fields(cls):
        settings = dict(each.metadata["column"])
        settings["title"] = settings["title"] or each.name.upper().replace("_", " ")
        made[each.name] = Column(each.name, **settings)
    return made


def _make_optional(cls: type[Row]) -> tuple[str, ...]:
    """The fields that are left out when they are None."""
    return tuple(each.name for each in attrs.fields(cls) if each.metadata["optional"])


def _make_known_columns(cls: type[Row]) -> dict[str, Column]:
    usual = {column.name: column for column in cls.columns()}
    listed = {name: each for name, each in _fields(cls).items() if name not in cls.NOT_LISTED}
    return usual | {name: each for name, each in listed.items() if name not in usual}


# mypy takes a row class for one of its rows when it asks whether it can be hashed.
_fields: Callable[[Any], dict[str, Column]] = cache(_make_fields)
_optional: Callable[[Any], tuple[str, ...]] = cache(_make_optional)
_known_columns: Callable[[Any], dict[str, Column]] = cache(_make_known_columns)


_TYPES: dict[Unit, type] = {"text": str, "time": str, "flag": bool, "list": list, "object": dict}
_MOST = 1 << 64
"""No figure is larger: floats that are not finite cannot be shown, nor integers without end."""


def _is_valid(value: Any, unit: Unit) -> bool:
    if unit in _NUMBERS:
        is_float = isinstance(value, float) and unit in ("seconds", "bytes_per_second")
        return (type(value) is int or is_float) and abs(value) < _MOST  # false for NaN
    if unit == "time" and isinstance(value, str):
        try:
            local_time(value)
        except (ValueError, OverflowError):
            return False
    return isinstance(value, _TYPES[unit])


def format_value(value: Any, unit: Unit) -> str:
    """A value as people read it; a dash for None and for the empty text."""
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if unit == "bytes":
        return format_bytes(int(value))
    if unit == "bytes_per_second":
        return format_rate(value)
    if unit == "seconds":
        return format_duration(value)
    if unit == "time":
        return local_time(value)
    if unit == "list":
        return ", ".join(map(str, value))
    if unit == "flag":
        return "yes" if value else "no"
    if unit == "object":
        return ", ".join(f"{key} {each}" for key, each in dict(value).items())
    return str(value)
