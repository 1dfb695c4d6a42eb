"""What can be done to a connection, and what is asked before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import attrs

from monconn.errors import printable
from monconn.faces.tui.model import Row
from monconn.faces.tui.poller import ActionRequest

_NO_IPS = ("unix", "local")
"""What stands in place of an IP where there is none."""


@attrs.frozen
class Plan:
    """A deed that waits for a yes.

    :param answers: the keys that say yes, and what each means.
    :param deeds: what follows from each key.
    """

    question: str
    facts: Sequence[str]
    answers: Sequence[tuple[str, str]]
    deeds: Mapping[str, ActionRequest]


def plan(key: str, row: Row) -> Plan | str:
    """What a key would do to a connection; or why it can do nothing."""
    if key == "b":
        return _block(row)
    if "closed_at" in row:
        return f"connection {row['id']} has ended already"
    return _close(row, is_reset=key == "r")


def _close(row: Row, is_reset: bool) -> Plan:
    verb = "reset" if is_reset else "close"
    words = f"{verb} connection {row['id']}"
    deed = ActionRequest(
        "CloseConnections", {"ids": json.dumps([row["id"]]), "reset": is_reset}, words
    )
    return Plan(f"{words}?".capitalize(), _facts(row), [("y", f"yes, {verb} it")], {"y": deed})


def _block(row: Row) -> Plan | str:
    ip, service = str(row.get("client_ip", "")), str(row.get("service", ""))
    if not ip or ip in _NO_IPS:
        return f"connection {row['id']} has no client IP to block"
    words = f"block {printable(ip)}"
    here = f"{words} at {printable(service)}"
    return Plan(
        f"{words}?".capitalize(),
        [*_facts(row), "All connections of this IP are ended, and it is let in no more."],
        [("y", "yes, at all services"), ("s", f"yes, at {printable(service)} only")],
        {
            "y": ActionRequest("Block", {"network": ip}, f"{words} at all services"),
            "s": ActionRequest("Block", {"network": ip, "service": service}, here),
        },
    )


def _facts(row: Row) -> list[str]:
    client, backend = printable(row.get("client")), printable(row.get("backend"))
    return [f"{client} → {backend}", f"service {printable(row.get('service'))}"]
