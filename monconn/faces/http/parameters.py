"""What arguments of routes may be, and how they are read.

In a query and in a path each is a text; in the JSON object of a body it has its own type.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from monconn.addresses import parse_network
from monconn.errors import quoted
from monconn.faces.http.routes import Parameter
from monconn.ops.columns import Row
from monconn.ops.filters import MAX_IDS
from monconn.ops.sorting import parse_sort, sort_names
from monconn.units import parse_moment

USUAL_LIMIT = 100
MOST_ROWS = 1_000
"""The most rows of an answer."""
_MOST_SECONDS = 1e9
_LAST_MOMENT = 253402300799 - 86400  # what has a date in every zone
_NUMBER = re.compile(r"[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?")  # as JSON has them
_MOST_COUNT = 10**18 - 1  # what SQLite's and orjson's integers hold


# -- texts of queries and paths


def read_text(text: Any) -> str:
    """Any text."""
    if not isinstance(text, str):
        raise ValueError("must be a text")
    return text


def read_flag(text: str) -> bool:
    """``true`` or ``false``."""
    if text not in ("true", "false"):
        raise ValueError(f"must be true or false, not {quoted(text)}")
    return text == "true"


def _integer_reader(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}, not {quoted(text)}")
        return int(text)

    return read


read_capture_id = _integer_reader(1, 10**18 - 1)


def read_seconds(text: str) -> float:
    """A number of seconds."""
    is_number = _NUMBER.fullmatch(text) is not None
    if not is_number or not 0 <= float(text) <= _MOST_SECONDS:
        raise ValueError(f"must be a number of seconds, not {quoted(text)}")
    return float(text)


def read_moment(text: str) -> float:
    """A time, as the command line takes it, or seconds of the wall clock."""
    moment = float(text) if _NUMBER.fullmatch(text) else parse_moment(text, time.time())
    if not 0 <= moment <= _LAST_MOMENT:
        raise ValueError("must be in the years 1970 to 9999")
    return moment


def read_network(text: Any) -> str:
    """An IP or a network."""
    parse_network(read_text(text))
    return str(text)


def sort_reader(row_class: type[Row]) -> Callable[[str], str]:
    """Reads the order of a listing."""

    def read(text: str) -> str:
        parse_sort(text, row_class)
        return text

    return read


# -- plain values of bodies


def body_flag(value: Any) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _body_integer(least: int, most: int = _MOST_COUNT) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        # To a JSON schema, 3.0 is an integer.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return read


def _body_seconds(most: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value <= most:  # false for NaN
            raise ValueError(f"must be a number of seconds, more than 0, and {most:.0f} at most")
        return float(value)

    return read


def body_ids(value: Any) -> list[int]:
    """Ids of connections."""
    if not isinstance(value, list) or len(value) > MAX_IDS:
        raise ValueError(f"must be a list of {MAX_IDS} ids at most")
    read = _body_integer(1)
    return [read(each) for each in value]


# -- schemas

TEXT: Mapping[str, Any] = {"type": "string"}
FLAG: Mapping[str, Any] = {"type": "boolean"}
IDS: Mapping[str, Any] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 1, "maximum": _MOST_COUNT},
    "maxItems": MAX_IDS,
}
MOMENT_SCHEMA: Mapping[str, Any] = {"type": "string", "format": "monconn-time"}
NETWORK_SCHEMA: Mapping[str, Any] = {"type": "string", "format": "monconn-network"}
SERVICE_SCHEMA: Mapping[str, Any] = {"type": "string", "format": "monconn-service"}
ID_SCHEMA: Mapping[str, Any] = {"type": "string", "format": "monconn-connection"}


def _integer_schema(least: int, most: int = _MOST_COUNT) -> Mapping[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


# -- parameters of several routes

SERVICE = Parameter("service", read_text, SERVICE_SCHEMA, "Only of the service with this name.")
IN_SERVICE = Parameter("name", read_text, SERVICE_SCHEMA, "The service's name.", is_required=True)
CLIENT = Parameter("client", read_network, NETWORK_SCHEMA, "Only clients of this IP or network.")
SINCE = Parameter(
    "since",
    read_moment,
    MOMENT_SCHEMA,
    "From then on: a time ago (1h), a date and time (2026-01-31T08:00Z), or seconds of the clock.",
)
UNTIL = Parameter("until", read_moment, MOMENT_SCHEMA, "Until then, written as since.")
LIMIT = Parameter(
    "limit",
    _integer_reader(1, MOST_ROWS),
    {**_integer_schema(1, MOST_ROWS), "default": USUAL_LIMIT},
    "The most rows of the answer.",
)
OFFSET = Parameter(
    "offset",
    _integer_reader(0, _MOST_COUNT),
    _integer_schema(0),
    "How many rows are left out at first; such an answer has no next.",
)
CURSOR = Parameter(
    "cursor",
    read_text,
    TEXT,
    "The next of an answer: the rows that follow. Other arguments may be left out.",
)
MAX_AGE = Parameter(
    "max_age",
    read_seconds,
    {"type": "number", "minimum": 0, "maximum": _MOST_SECONDS},
    "An answer up to so many seconds old will do, and is shared by all who ask the same; such an"
    " answer has no next.",
)
DRY_RUN = Parameter("dry_run", body_flag, FLAG, "Only answer what would be done.")


def filter_of(
    listing: str, help: str = "Only those that match, in the language of filters."
) -> Parameter:
    """The filter of a listing, whose keys are those of ``/api/v1/columns`` by this name; of
    captures, those of connections but for ``rate``."""
    schema = {"type": "string", "format": f"monconn-filter-{listing}"}
    return Parameter("filter", read_text, schema, help)


def sort_of(row_class: type[Row]) -> Parameter:
    """The order of a listing."""
    names = sort_names(row_class)
    schema = {"type": "string", "enum": [*names, *(f"-{each}" for each in names)]}
    help = "By which column rows are sorted; with - before it the other way round."
    return Parameter("sort", sort_reader(row_class), schema, help)


def integer(name: str, help: str, least: int = 0, most: int = _MOST_COUNT) -> Parameter:
    """A whole number in a query."""
    return Parameter(name, _integer_reader(least, most), _integer_schema(least, most), help)


def flag(name: str, help: str) -> Parameter:
    """True or false in a query."""
    return Parameter(name, read_flag, FLAG, help)


def text(name: str, help: str, *, is_required: bool = False) -> Parameter:
    """A text in a query, a path or a body."""
    return Parameter(name, read_text, TEXT, help, is_required)


def in_body_integer(
    name: str, help: str, least: int = 0, most: int = _MOST_COUNT, *, is_required: bool = False
) -> Parameter:
    """A whole number in a body."""
    schema = _integer_schema(least, most)
    return Parameter(name, _body_integer(least, most), schema, help, is_required)


def in_body_flag(name: str, help: str) -> Parameter:
    """True or false in a body."""
    return Parameter(name, body_flag, FLAG, help)


def in_body_seconds(name: str, help: str, most: float = _MOST_SECONDS) -> Parameter:
    """A time in a body."""
    schema = {"type": "number", "exclusiveMinimum": 0, "maximum": most}
    return Parameter(name, _body_seconds(most), schema, help)
