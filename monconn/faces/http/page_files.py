"""The files of the page, as they were when the program started."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from monconn.faces.http.problems import Problem
from monconn.net.http.messages import Headers, Request, Response

FOLDER = Path(__file__).with_name("page")
FIRST = "index.html"
_CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
"""By suffix; what has another is not served."""

_NO_QUALITY = re.compile(r"q=0(\.0*)?")


@attrs.frozen
class _Variant:
    """A file in one coding."""

    body: bytes
    headers: Headers
    etag: str

    @classmethod
    def of(cls, body: bytes, coding: str = "") -> _Variant:
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers: Headers = (
            ("ETag", etag),
            # It may be stored, and is asked for again each time: a newer monconn has other files.
            ("Cache-Control", "no-cache"),
            ("Vary", "Accept-Encoding"),
            # Else a browser may take for a script what is none.
            ("X-Content-Type-Options", "nosniff"),
        )
        return cls(body, (*headers, *((("Content-Encoding", coding),) if coding else ())), etag)


@attrs.frozen
class _File:
    content_type: str
    plain: _Variant
    zipped: _Variant

    @classmethod
    def of(cls, content: bytes, content_type: str) -> _File:
        return cls(
            content_type,
            _Variant.of(content),
            _Variant.of(gzip.compress(content, mtime=0), "gzip"),
        )


class PageFiles:
    """Answers requests for the page's files.

    All are read here, and none later: a path of a request never becomes one of the disk, and a disk
    that hangs holds nobody up.

    :param folder: where they are.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = dict(_read(folder))

    def __call__(self, request: Request) -> Response | None:
        """The file that a request names; None if there is none.

        :raises Problem: it may only be read.
        """
        found = self._files.get(request.path)
        if found is None:
            return None
        if request.method not in ("GET", "HEAD"):
            raise Problem(405, "there are GET, HEAD here", headers=(("Allow", "GET, HEAD"),))
        takes_zipped = _takes_gzip(request.headers.get("accept-encoding", ""))
        variant = found.zipped if takes_zipped else found.plain
        # It has the same file whatever coding it was sent in.
        etags = {found.plain.etag, found.zipped.etag, "*"}
        if etags & set(_etags(request.headers.get("if-none-match", ""))):
            return Response(304, headers=variant.headers)
        return Response(200, variant.body, found.content_type, variant.headers)


def _read(folder: Path) -> Iterator[tuple[str, _File]]:
    for path in sorted(folder.rglob("*")):
        content_type = _CONTENT_TYPES.get(path.suffix)
        if content_type is None or not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        file = _File.of(path.read_bytes(), content_type)
        yield f"/page/{name}", file
        if name == FIRST:
            yield "/", file


def _takes_gzip(accept: str) -> bool:
    for each in accept.lower().split(","):
        coding, _, parameters = each.partition(";")
        if coding.strip() == "gzip":
            # A quality of 0 excludes it (RFC 9110, 12.4.2).
            return _NO_QUALITY.fullmatch(parameters.replace(" ", "")) is None
    return False


def _etags(header: str) -> Iterator[str]:
    for each in header.split(","):
        yield each.strip().removeprefix("W/")  # compared weakly (RFC 9110, 13.1.2)
