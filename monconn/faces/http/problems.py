"""Errors as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import attrs

from monconn.errors import (
    AddressError,
    Busy,
    ConfigError,
    Conflict,
    FileError,
    Forbidden,
    ListenError,
    MonconnError,
    NotConfigured,
    ReloadError,
    UnknownCapture,
    UnknownConnection,
    UnknownDevice,
    UnknownService,
)
from monconn.faces.http.encoding import encode
from monconn.net.http.messages import PROBLEM, Headers, Response
from monconn.ops.filters import FilterError

_TYPE_PREFIX = "urn:monconn:problem:"


@attrs.frozen
class ArgumentFault:
    """What is wrong with one argument.

    :param name: of the parameter.
    :param position: of a filter: where the term begins that is to blame, in characters from 0.
    :param suggestion: of a filter: what to write instead.
    """

    name: str
    detail: str
    position: int | None = None
    suggestion: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain values, without what is not known."""
        values: dict[str, Any] = {"name": self.name, "detail": self.detail}
        if self.position is not None:
            values["position"] = self.position
        if self.suggestion:
            values["suggestion"] = self.suggestion
        return values


class Problem(MonconnError):
    """Why a request is not served.

    :param status: such as 404.
    :param kind: for programs, such as ``unknown-service``; empty if the status says it all.
    :param detail: in one sentence, for people.
    :param faults: of arguments.
    :param others: further members of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        kind: str = "",
        *,
        faults: Sequence[ArgumentFault] = (),
        headers: Headers = (),
        others: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.faults = tuple(faults)
        self.headers = headers
        self.others = others or {}

    def to_json(self) -> dict[str, Any]:
        """The members of the answer."""
        phrase = HTTPStatus(self.status).phrase
        values: dict[str, Any] = {
            "type": f"{_TYPE_PREFIX}{self.kind}" if self.kind else "about:blank",
            # RFC 9457, 4.2.1: of about:blank, the title is the status's.
            "title": self.kind.replace("-", " ").capitalize() if self.kind else phrase,
            "status": self.status,
            "detail": str(self),
            **self.others,
        }
        if self.faults:
            values["errors"] = [each.to_json() for each in self.faults]
        return values

    def response(self) -> Response:
        """The answer."""
        return Response(self.status, encode(self.to_json()), PROBLEM, self.headers)


def bad_arguments(faults: Sequence[ArgumentFault]) -> Problem:
    """The problem of arguments that cannot be understood."""
    detail = "; ".join(f"{each.name}: {each.detail}" for each in faults)
    return Problem(400, detail, "bad-argument", faults=faults)


_KINDS: tuple[tuple[type[MonconnError], int, str], ...] = (
    (UnknownService, 404, "unknown-service"),
    (UnknownConnection, 404, "unknown-connection"),
    (UnknownDevice, 404, "unknown-device"),
    (UnknownCapture, 404, "unknown-capture"),
    (NotConfigured, 404, "not-configured"),
    (Forbidden, 403, "forbidden"),
    (Conflict, 409, "conflict"),
    (ReloadError, 409, "conflict"),
    (ListenError, 409, "conflict"),
    (Busy, 503, "busy"),
    (FileError, 503, "file-unavailable"),
)


def problem_of(error: MonconnError) -> Problem:
    """The problem that an error of an operation is."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, FilterError):
        detail = str(error).removeprefix("filter: ")
        fault = ArgumentFault("filter", detail, error.position, error.suggestion)
        return Problem(400, str(error), "bad-filter", faults=[fault])
    if isinstance(error, ConfigError):
        problems = [attrs.asdict(each) for each in error.problems]
        return Problem(422, str(error), "bad-configuration", others={"problems": problems})
    for kind, status, name in _KINDS:
        if isinstance(error, kind):
            headers = (("Retry-After", "1"),) if status == 503 else ()
            return Problem(status, str(error), name, headers=headers)
    if isinstance(error, AddressError):
        return bad_arguments([ArgumentFault("client", str(error))])
    # Each argument was one, as far as it can be seen by itself.
    return Problem(422, str(error), "unfit-arguments")
