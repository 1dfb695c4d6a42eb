"""HTTP/1: request line and Host (RFC 9112, 3); of HTTP/2, that it is it (RFC 9113, 3.4)."""

from __future__ import annotations

import re

from monconn.decode.interfaces import MOST_BYTES, NEED_MORE, Outcome, text
from monconn.model.record import Fact

# Own code: a request of curl's takes 2.5 µs, and h11, which judges all of its headers and refuses
# what a lenient backend serves, 11 µs. httptools takes 1 µs, which is not worth a compiled
# dependency.

_PREFACE = b"PRI * HTTP/2.0\r\n"
"""The first line of what an HTTP/2 client sends first; no HTTP/1 request has this method."""
# Methods may be any token (RFC 9110, 9.1); those that are registered have capitals and hyphens.
_REQUEST_LINE = re.compile(rb"([A-Z][A-Z-]{0,31}) ([!-~\x80-\xff]+) HTTP/1\.[0-9]\r?\n")
_PART_OF_LINE = re.compile(rb"[A-Z][A-Z-]{0,31}(?: (?:[!-~\x80-\xff]+(?: [HTP/1.0-9]{0,8}\r?)?)?)?")
_LONG_REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!-~\x80-\xff]*)")
_HOST = re.compile(rb"\nHost:[ \t]*([^\r\n]*?)[ \t]*\r?\n", re.IGNORECASE)
_END_OF_HEADERS = re.compile(rb"\n\r?\n")
_AUTHORITY = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
_QUERY = re.compile(rb"[?#]")


def decode(up: bytes, down: bytes, is_all: bool) -> Outcome | None:
    """Decode a request's head; see :data:`~monconn.decode.interfaces.Decoder`.

    What may hold a password or a token is left out: the target's query and user information.
    """
    if up.startswith(b"PRI"):
        if not _PREFACE.startswith(up[: len(_PREFACE)]):
            return None
        return NEED_MORE if len(up) < len(_PREFACE) else Outcome({"protocol": "http"})
    is_all = is_all or len(up) >= MOST_BYTES
    line = _REQUEST_LINE.match(up)
    if line is None:
        if not (_PART_OF_LINE.fullmatch(up) or not up):
            return None
        if not is_all:
            return NEED_MORE
        # A target that is too long, or a request that has been broken off.
        line = _LONG_REQUEST.match(up)
        if line is None:
            return None
    method, target = line.groups()
    facts: dict[str, Fact] = {"protocol": "http", "http_method": text(method)}
    host = target if method == b"CONNECT" else None
    if authority := _AUTHORITY.match(target):
        host, target = authority[1], target[authority.end() :] or b"/"
    if method != b"CONNECT":
        facts["http_path"] = text(_QUERY.split(target, 1)[0])
    is_done = is_all or host is not None
    if host is None:
        end = _END_OF_HEADERS.search(up, line.end() - 1)
        found = _HOST.search(up, line.end() - 1, end.end() - 1 if end else len(up))
        is_done = is_done or found is not None or end is not None
        host = found[1] if found else None
    if host:
        facts["http_host"] = text(host.rpartition(b"@")[2])
    return Outcome(facts, is_done)
