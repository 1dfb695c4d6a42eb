"""The actions of keys on the selected connection, and the question before each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import attrs

from monconn.errors import printable
from monconn.faces.tui.ordering import Row
from monconn.faces.tui.poller import ActionRequest

_NO_IPS = ("unix", "local")
"""Values of ``client_ip`` for clients without an IP."""


@attrs.frozen
class Plan:
    """An action that waits for confirmation.

    :param question: what is going to be done.
    :param context: lines that say to which connection.
    :param answers: the keys that confirm, and what each means.
    :param requests: what to send for each of these keys.
    """

    question: str
    context: Sequence[str]
    answers: Sequence[tuple[str, str]]
    requests: Mapping[str, ActionRequest]


def plan(key: str, row: Row) -> Plan | str:
    """Plan the action of a key on a connection.

    :param key: ``c`` to close, ``r`` to reset, ``b`` to block the client's IP, ``u`` to unblock it.
    :returns: the plan, or a message that says why there is nothing to do.
    """
    if key in ("b", "u"):
        return _plan_block(row, is_block=key == "b")
    if "closed_at" in row:
        return f"connection {row['id']} has ended already"
    verb = "reset" if key == "r" else "close"
    text = f"{verb} connection {row['id']}"
    arguments = {"ids": json.dumps([row["id"]]), "reset": key == "r"}
    return Plan(
        f"{text}?".capitalize(),
        _context(row),
        [("y", f"yes, {verb} it")],
        {"y": ActionRequest("CloseConnections", arguments, text)},
    )


def _plan_block(row: Row, *, is_block: bool) -> Plan | str:
    ip, _, _ = str(row.get("client_ip", "")).partition("%")  # a block holds on every interface
    service = str(row.get("service", ""))
    verb = "block" if is_block else "unblock"
    if not ip or ip in _NO_IPS:
        return f"connection {row['id']} has no client IP to {verb}"
    command, text = verb.capitalize(), f"{verb} {printable(ip)}"
    effect = (
        "All connections of this IP are ended, and new ones are refused."
        if is_block
        else "New connections of this IP are accepted again."
    )
    everywhere = ActionRequest(command, {"network": ip}, f"{text} at all services")
    at_service = ActionRequest(
        command, {"network": ip, "service": service}, f"{text} at {printable(service)}"
    )
    answers = [("y", "yes, at all services"), ("s", f"yes, at {printable(service)} only")]
    requests = {"y": everywhere, "s": at_service}
    if is_block:
        answers.append(("h", "yes, at all services, for 1 hour"))
        requests["h"] = ActionRequest(
            command, {"network": ip, "for_seconds": 3600}, f"{text} at all services for 1 hour"
        )
    return Plan(f"{text}?".capitalize(), [*_context(row), effect], answers, requests)


def _context(row: Row) -> list[str]:
    client, backend = printable(row.get("client")), printable(row.get("backend"))
    return [f"{client} → {backend}", f"service {printable(row.get('service'))}"]
