"""Answers that are lists of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monconn.faces.http.parameters import USUAL_LIMIT
from monconn.faces.http.routes import Call
from monconn.net.http.messages import Answer
from monconn.ops.columns import Row
from monconn.steps import RowSteps

_OF_PART = ("cursor", "limit", "max_age")


def following(call: Call) -> Answer | None:
    """The next part of a list, if the request has a cursor.

    :raises Problem: the cursor is no such list's.
    """
    cursor = call.arguments.get("cursor")
    if cursor is None:
        return None
    limit = call.arguments.get("limit", USUAL_LIMIT)
    return call.shared.walks.following(
        call.known_caller, call.request.path, _of_list(call), cursor, limit
    )


def rows_answer(
    call: Call,
    rows: RowSteps[Row],
    others: Mapping[str, Any] | None = None,
    *,
    is_continued: bool = True,
) -> Answer:
    """The first part of a list, as JSON.

    :param others: further members of the answer.
    :param is_continued: whether there is a cursor for the rest.
    """
    limit = call.arguments.get("limit", USUAL_LIMIT)
    return call.shared.walks.first(
        call.known_caller,
        call.request.path,
        _of_list(call),
        (row and row.to_json() for row in rows),
        limit,
        others or {},
        is_continued=is_continued and "max_age" not in call.arguments,
    )


def _of_list(call: Call) -> dict[str, Any]:
    """The arguments that say which list it is."""
    return {name: each for name, each in call.arguments.items() if name not in _OF_PART}
