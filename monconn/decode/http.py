"""HTTP/1: request line and Host (RFC 9112, 3); of HTTP/2, that it is it (RFC 9113, 3.4)."""

from __future__ import annotations

import re

from monconn.decode.interfaces import MOST_BYTES, NEED_MORE, Outcome, text
from monconn.model.record import Fact

# Own code: a request of curl's takes 2 µs, in a loop, and h11, which judges all of its headers and
# refuses what a lenient backend serves, 11 µs. httptools takes 1 µs, which is not worth a compiled
# dependency.

_PREFACE = b"PRI * HTTP/2.0\r\n"
"""The first line of what an HTTP/2 client sends first; no HTTP/1 request has this method."""
# Methods may be any token (RFC 9110, 9.1); those that are registered have capitals and hyphens. No
# pattern may take more than linear time: nothing that is repeated may match what follows it.
_REQUEST_LINE = rb"([A-Z][A-Z-]{0,31}) ([!-~\x80-\xff]+) HTTP/1\.[0-9]\r?\n"
_HEAD = re.compile(_REQUEST_LINE + rb"(?:[^\n]+\n)*?(?:(?i:Host):([^\r\n]*)\r?\n|\r?\n)")
"""Up to the first Host, or to the end of the headers."""
_FIRST_LINE = re.compile(_REQUEST_LINE)
_PART_OF_LINE = re.compile(rb"[A-Z][A-Z-]{0,31}(?: (?:[!-~\x80-\xff]+(?: [HTP/1.0-9]{0,8}\r?)?)?)?")
_LONG_REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!-~\x80-\xff]*)")
_AUTHORITY = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


def decode(up: bytes, down: bytes, is_all: bool) -> Outcome | None:
    """Decode a request's head; see :data:`~monconn.decode.interfaces.Decoder`.

    What may hold a password or a token is left out: the target's query and user information.
    """
    if up.startswith(b"PRI"):
        if not _PREFACE.startswith(up[: len(_PREFACE)]):
            return None
        return NEED_MORE if len(up) < len(_PREFACE) else Outcome({"protocol": "http"})
    is_all = is_all or len(up) >= MOST_BYTES
    head = _HEAD.match(up)
    if head is not None:
        method, target, host = head.groups()
        return Outcome(_facts(method, target, host))
    line = _FIRST_LINE.match(up)
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
    return Outcome(_facts(method, target, None), is_all)


def _facts(method: bytes, target: bytes, host: bytes | None) -> dict[str, Fact]:
    """What a request says.

    :param host: its Host header; None if it has none, or it has not come yet.
    """
    facts: dict[str, Fact] = {"protocol": "http", "http_method": method.decode("ascii")}
    if method == b"CONNECT":
        host = target
    else:
        # The target's authority goes before the header (RFC 9112, 3.2.2).
        if target[:1] != b"/" and (authority := _AUTHORITY.match(target)):
            host, target = authority[1], target[authority.end() :] or b"/"
        facts["http_path"] = text(target.partition(b"?")[0].partition(b"#")[0])
    if host:
        host = host.strip(b" \t").rpartition(b"@")[2]
        if host:
            facts["http_host"] = text(host)
    return facts
