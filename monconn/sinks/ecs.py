"""The lines of the JSON log with the field names of the Elastic Common Schema (ECS).

https://www.elastic.co/guide/en/ecs/current/: what it has a field for has that name and type there;
all else keeps the name that it has in our own format, as a field of ``monconn``.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from monconn._version import __version__
from monconn.errors import AddressError
from monconn.model.actions import Action, ActionKind
from monconn.model.alarms import Alarm
from monconn.model.community_id import split_address
from monconn.model.reasons import Reason
from monconn.model.record import ConnectionRecord

ECS_VERSION = "8.11.0"
Document = dict[str, Any]

_TYPES: dict[str, list[str]] = {
    "opened": ["connection", "start", "allowed"],
    "update": ["connection", "info"],
    "half_closed": ["connection", "info"],
    "closed": ["connection", "end"],
    "refused": ["connection", "denied"],
}
"""``event.type``, by our event of a connection."""
_OUTCOMES: dict[Reason, str] = {
    "client_closed": "success",
    "backend_closed": "success",
    # Ended on purpose, which is neither.
    "operator": "unknown",
    "blocked": "unknown",
    "stopping": "unknown",
    "lifetime": "unknown",
}
_FAILURE = "failure"
"""The outcome for all other reasons."""
_CLASS_OF_ACTION: dict[ActionKind, tuple[list[str], list[str]]] = {
    "close": (["network"], ["connection", "info"]),
    "reset": (["network"], ["connection", "info"]),
    "block": (["configuration"], ["change"]),
    "unblock": (["configuration"], ["change"]),
    "block_ended": (["configuration"], ["change"]),
    "pause": (["configuration"], ["change"]),
    "resume": (["configuration"], ["change"]),
    "drain": (["configuration"], ["change"]),
    "reload": (["configuration"], ["change"]),
    "notify_test": (["configuration"], ["info"]),
    "reset_stats": (["configuration"], ["change"]),
    "subtract_stats": (["configuration"], ["change"]),
    "forget": (["database"], ["change"]),
    "tap": (["network"], ["access"]),
    "capture_start": (["network"], ["access", "start"]),
    "capture_stop": (["network"], ["end"]),
    "read_recording": (["network"], ["access"]),
    "log_in": (["authentication", "session"], ["start"]),
    "log_out": (["authentication", "session"], ["end"]),
    "log_out_all": (["session"], ["end"]),
    "make_token": (["iam"], ["creation"]),
    "revoke_token": (["iam"], ["deletion"]),
    "stop": (["process"], ["end"]),
    "stop_now": (["process"], ["end"]),
}
# Fields of a record's snapshot that are under another name in a document.
_MAPPED = frozenset(
    {
        *("service", "client", "client_ip", "backend", "up", "down", "opened_at", "closed_at"),
        *("duration_seconds", "reason", "refusal", "facts"),
    }
)
_SECOND = 1_000_000_000
_PORT = re.compile("[0-9]{1,5}")


def connection(
    event: str, at: str, record: ConnectionRecord, values: Mapping[str, Any]
) -> Document:
    """The document of a connection's event.

    :param event: its name in our own format.
    :param at: when it happened, in ISO 8601.
    :param record: of what does not change while a connection lives.
    :param values: all else: the record's snapshot as of then.
    """
    made = _document(at, record.service, "event", ["network"], _TYPES[event], f"connection_{event}")
    about, outcome = made["event"], None
    about["start"] = values["opened_at"]
    if event == "opened":
        outcome = "success"
    elif event == "refused":
        outcome, about["reason"] = _FAILURE, values["refusal"]
    elif reason := values.get("reason"):
        outcome, about["reason"] = _OUTCOMES.get(reason, _FAILURE), reason
    if outcome is not None:
        about["outcome"] = outcome
    if event != "refused":
        about["duration"] = round(values["age_seconds"] * 1000) * (_SECOND // 1000)
    if "closed_at" in values:
        about["end"] = values["closed_at"]
    up, down = values["up"], values["down"]
    is_ours = record.client_ip == "local"  # wrapped factories of clients
    client = _endpoint(record.client)
    server = _endpoint(record.client_local or record.listener)
    backend = _endpoint(record.backend_peer or record.backend)
    if record.backend_peer and (name := _endpoint(record.backend).get("address")):
        backend["address"] = name
    if record.backend_local:
        backend["local"] = _endpoint(record.backend_local)
    if backend_community_id := record.backend_community_id:
        backend["community_id"] = backend_community_id
    if is_ours:
        server = {key: backend[key] for key in ("address", "ip", "port") if key in backend}
    client["bytes"], server["bytes"] = up, down
    made.update(source=client, destination=server, client=client, server=server)
    made["network"] = network = {
        "bytes": up + down,
        "direction": "egress" if is_ours else "ingress",
    }
    if "ip" in client:
        network["transport"] = "tcp"
        network["type"] = "ipv6" if ":" in client["ip"] else "ipv4"
        found = backend_community_id if is_ours else record.community_id
        if found:
            network["community_id"] = found
    own = {key: value for key, value in values.items() if value is not None and key not in _MAPPED}
    if backend:  # else it is a wrapped factory, and there is none
        own["backend"] = backend
    made["monconn"] = own
    if outcome == _FAILURE and record.detail:
        made["error"] = {"message": record.detail}
    if facts := values.get("facts"):
        _add_facts(made, facts)
    return made


def _add_facts(made: Document, facts: Mapping[str, Any]) -> None:
    """Facts that ECS knows under their names, and all of them as labels.

    Those are texts, as a name may have a number in one connection and a text in another: an index
    would refuse every document of the second kind.
    """
    made["labels"] = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in facts.items()
    }
    tls: Document = {}
    if version := facts.get("tls_version"):
        tls = {"established": True, "version_protocol": "tls", "version": str(version)}
        if protocol := facts.get("alpn"):
            tls["next_protocol"] = str(protocol)
    if name := facts.get("tls_server_name"):
        tls["client"] = {"server_name": str(name)}
    if tls:
        made["tls"] = tls
    protocol = facts.get("protocol")
    if protocol and protocol != "unknown":
        made["network"]["protocol"] = str(protocol)
    if method := facts.get("http_method"):
        made["http"] = {"request": {"method": str(method)}}
    if host := facts.get("http_host"):
        made["url"] = _url(str(host))
    if path := facts.get("http_path"):
        made.setdefault("url", {})["path"] = str(path)


def _url(host: str) -> Document:
    """The domain, and the port if there is one, of a Host header or an authority."""
    name, _, port = host.rpartition(":")
    if name and _PORT.fullmatch(port) and int(port) < 1 << 16:
        return {"domain": name, "port": int(port)}
    return {"domain": host}


def alarm(at: str, alarm: Alarm) -> Document:
    """The document of an alarm that begins or is over."""
    action = "alarm_over" if alarm.is_over else "alarm"
    made = _document(at, alarm.service, "alert", ["network"], ["info"], action)
    made["event"]["reason"] = alarm.kind
    made["rule"] = {"name": alarm.kind}
    made["message"] = alarm.describe()
    made["monconn"] = {
        "alarm": alarm.kind,
        "device": alarm.device,
        "name": alarm.name or alarm.device,
        "addresses": list(alarm.addresses),
        "over": alarm.is_over,
        "detail": alarm.detail,
    }
    if alarm.goes_on:
        made["monconn"]["goes_on"] = True
    if not alarm.device:
        made["monconn"] |= {"subject": alarm.subject, **alarm.figures}
        return made
    if device := _device(alarm.device) or _device(next(iter(alarm.addresses), "")):
        made["source"] = made["client"] = device
    return made


def action(at: str, action: Action) -> Document:
    """The document of an action."""
    categories, types = _CLASS_OF_ACTION[action.kind]
    made = _document(at, action.service, "event", categories, types, action.kind)
    made["event"]["outcome"] = "success"
    made["message"] = action.describe()
    values = action.to_dict()
    made["monconn"] = {key: values[key] for key in ("actor", "target", "count", "changed")}
    actor = action.actor
    user = {"name": actor.user or actor.name} if actor.user or actor.name else {}
    if actor.uid is not None:
        user["id"] = str(actor.uid)
    if user and actor.kind in ("process", "ssh", "certificate", "token", "session"):
        made["user"] = user
    return made


def dropped(at: str, count: int) -> Document:
    """The document that says how many are missing before it."""
    made = _document(at, None, "pipeline_error", [], ["error"], "lines_dropped")
    made["message"] = f"{count} lines are missing before this one"
    made["error"] = {"message": made["message"]}
    made["monconn"] = {"count": count}
    return made


def _document(
    at: str,
    service: str | None,
    kind: str,
    categories: list[str],
    types: list[str],
    action: str,
) -> Document:
    event: Document = {"kind": kind, "type": types, "action": action, **_EVENT}
    if categories:
        event["category"] = categories
    made: Document = {"@timestamp": at, "ecs": _ECS, "event": event, "observer": _OBSERVER}
    if service is not None:
        made["service"] = {"name": service}
    return made


_ECS = {"version": ECS_VERSION}
_EVENT = {"module": "monconn", "dataset": "monconn.log"}
_OBSERVER = {
    "product": "monconn",
    "type": "proxy",
    "version": __version__,
    "hostname": socket.gethostname(),
}


_NO_HOSTS = frozenset({"unix", "tcp", "tcp6", "ssl", "tls", "systemd"})
"""What may stand before digits that are no port: ``unix:PID``, and types of endpoint strings."""


def as_unicode(value: Any) -> Any:
    """A document whose texts are Unicode, as an index refuses others.

    Paths of UNIX sockets may be none: each of their bytes that is no UTF-8 becomes a question mark.
    """
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {as_unicode(key): as_unicode(each) for key, each in value.items()}
    return [as_unicode(each) for each in value] if isinstance(value, list) else value


def _endpoint(text: str) -> Document:
    """``IP:PORT``, ``NAME:PORT``, ``:PORT``, a UNIX socket or an endpoint string as ECS has it.

    Whatever it is becomes the ``address``; there are an ``ip`` and a ``port`` only if it has them,
    as an index refuses the whole document if one is of another type.
    """
    host, colon, digits = text.rpartition(":")
    host = host.strip("[]")
    try:
        ip, port = split_address(text)
    except AddressError:
        is_port = colon and digits.isascii() and digits.isdecimal() and len(digits) <= 5
        if not is_port or ":" in host or host in _NO_HOSTS:
            return {"address": text} if text else {}
        return {"address": host, "port": int(digits)} if host else {"port": int(digits)}
    if ip in ("0.0.0.0", "::"):  # a listener on all addresses: which it was is not known
        return {"port": port}
    return {"address": host, "ip": ip, "port": port}


def _device(text: str) -> Document:
    """A device as a host; empty if it is a network."""
    try:
        ip = str(ip_address(text))
    except ValueError:
        return {}
    return {"address": text, "ip": ip}
