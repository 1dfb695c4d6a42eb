"""Answers as JSON, those of long lists in as many turns as it takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import orjson
from twisted.internet.defer import Deferred

from monconn.clock import Clock
from monconn.net.http.messages import JSON, Headers, Response
from monconn.turns import result_of

_escape = json.JSONEncoder(separators=(",", ":"), default=str).encode


def encode(value: Any) -> bytes:
    """JSON in ASCII: whoever has curl print it gets no control character or bidirectional mark.

    orjson refuses what is no Unicode, as the name of a UNIX socket may have, and integers beyond
    64 bits, as facts of a program's own may be.
    """
    try:
        text = orjson.dumps(value)
        if not text.isascii():
            text = _escape(value).encode()
    except TypeError:  # orjson.JSONEncodeError, by another name
        text = _escape(value).encode()
    return text.replace(b"\x7f", b"\\u007f")  # DEL, which JSON allows raw


def json_response(value: Any, status: int = 200, headers: Headers = ()) -> Response:
    """An answer that is short."""
    return Response(status, encode(value), JSON, headers)


def encoded_in_turns(
    clock: Clock,
    rows: Iterable[Any | None],
    others: Callable[[], Mapping[str, Any]] = dict,
    name: str = "rows",
) -> Deferred[Response]:
    """An answer that may be long; arguments are those of :func:`encode_rows`."""
    encoded = result_of(clock, encode_rows(rows, others, name))
    return encoded.addCallback(lambda body: Response(200, body, JSON))


def encode_rows(
    rows: Iterable[Any | None],
    others: Callable[[], Mapping[str, Any]] = dict,
    name: str = "rows",
) -> Generator[None, None, bytes]:
    """``{"rows": [...], ...}`` in steps.

    :param rows: plain values, and None for a step of work that has brought none.
    :param others: what else the object has; called once all rows are taken.
    """
    parts: list[bytes] = []
    for row in rows:
        if row is not None:
            parts.append(encode(row))
        yield
    beside = others()
    rest = b"," + encode(beside)[1:] if beside else b"}"
    return b'{"%s":[%s]%s' % (name.encode(), b",".join(parts), rest)
