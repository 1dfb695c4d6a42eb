"""What a route of the API is: from a request's method and path to an operation.

Each module of a subject has its own ``ROUTES``; ``app`` finds the one that is meant, and
``openapi`` describes them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

from monconn.faces.http.caller import Caller
from monconn.faces.http.guard import Guard
from monconn.faces.http.shared import Shared
from monconn.model.actions import Actor
from monconn.net.http.messages import JSON, Answer, Request
from monconn.ops.columns import Row
from monconn.ops.operations import Operations
from monconn.roles import Role

Method = Literal["GET", "POST", "DELETE"]


@attrs.frozen
class Parameter:
    """An argument of a route: in its query, in its path, or in the JSON object of its body.

    :param name: as it is written there.
    :param read: makes the value of the text (in a query or a path) or of the plain value (in a
        body); raises :class:`ValueError` with a message for people.
    :param schema: its JSON schema.
    :param help: what it means, in one sentence.
    """

    name: str
    read: Callable[[Any], Any]
    schema: Mapping[str, Any]
    help: str
    is_required: bool = False


def _own(call: Call) -> Shared:
    return Shared(call.operations)


@attrs.frozen
class Call:
    """One request to a route, with its arguments read.

    :param caller: who asks; None for a route that everybody may ask.
    :param arguments: by the names of the parameters; those that were left out are missing.
    :param shared: what requests to one server share; the server has one for all calls.
    :param guard: begins and ends sessions.
    """

    operations: Operations
    request: Request
    caller: Caller | None
    arguments: Mapping[str, Any]
    shared: Shared = attrs.field(default=attrs.Factory(_own, takes_self=True))
    guard: Guard | None = None

    @property
    def known_caller(self) -> Caller:
        """Who asks, of a route that not everybody may ask."""
        assert self.caller is not None
        return self.caller

    @property
    def actor(self) -> Actor:
        """Whom an action is attributed to."""
        return self.known_caller.actor()


@attrs.frozen
class Route:
    """One method of one path.

    :param path: with parameters in braces, such as ``/api/v1/services/{name}``.
    :param role: what a caller must be allowed; None if nothing need be proved.
    :param summary: what it does, in one line.
    :param run: answers; may raise, or fail with, any :class:`~monconn.errors.MonconnError`.
    :param row: the class of the row, or of the rows, of the answer.
    :param is_list: whether the answer is ``{"rows": [...]}``, or one row.
    :param schema: of the answer, if it is neither.
    :param status: of the answer, if all is well; 204 if it has no body.
    :param errors: other statuses of answers, beside those that follow from its role and its
        parameters.
    :param content_type: of the answer.
    :param other_schemas: of answers with other statuses that are no problem details.
    """

    method: Method
    path: str
    role: Role | None
    summary: str
    run: Callable[[Call], Answer]
    parameters: tuple[Parameter, ...] = ()
    row: type[Row] | None = None
    is_list: bool = False
    schema: Mapping[str, Any] | None = None
    status: int = 200
    errors: tuple[int, ...] = ()
    content_type: str = JSON
    other_schemas: Mapping[int, Mapping[str, Any]] = attrs.field(factory=dict)
