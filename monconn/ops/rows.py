"""The rows of every list: each field's meaning, unit, JSON and column, defined once.

Values come from the model's own ``snapshot`` and ``to_dict``; these classes give them types, units
and titles. A key that a snapshot gains must be added here: the tests compare them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, ClassVar, Literal, get_args

import attrs

from monconn.addresses import device_text
from monconn.ops.columns import Column, Row, TableOf, field
from monconn.units import format_duration

Order = Literal["id", "up", "down", "age", "idle", "rate", "closed"]
"""By what connections can be sorted; :class:`~monconn.ops.columns.Column` names some of them."""
ORDERS: tuple[Order, ...] = get_args(Order)
TcpFigures = Mapping[str, Any]
"""Figures of Linux' ``tcp_info``: :class:`monconn.model.tcpinfo.TcpInfo` as JSON."""


def _seconds(title: str, help: str) -> Any:
    """A field of seconds that may be unknown, and that tables show only if they are asked to."""
    return field(title, "seconds", nullable=True, importance=13, help=help)


def service_state_text(service: Mapping[str, Any]) -> str:
    """What a service does, and for how long it is still paused.

    :param service: the JSON of a row; of an older server it says nothing.
    """
    state = str(service.get("state") or "")
    until = service.get("paused_until")
    if state != "paused" or not isinstance(until, str):
        return state
    try:
        seconds = (datetime.fromisoformat(until) - datetime.now(timezone.utc)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return state
    return f"{state} {format_duration(max(0.0, seconds))}"


_SERVICE_ALARMS = Column(
    "alarms",
    "ALARMS",
    "list",
    importance=1,
    width=12,
    max_width=20,
    help="What is wrong with it: backend_down, outage.",
    is_for_some=True,
)


_WOULD_REFUSE = Column(
    "would_refuse",
    "WOULD REFUSE",
    "object",
    importance=4,
    width=14,
    max_width=60,
    help="How many, by which rule in dry_run.",
    is_for_some=True,
)


@attrs.frozen(slots=False)
class ServiceRow(Row):
    """One service in figures."""

    TABLE: ClassVar[TableOf] = (
        "sid",
        Column(
            *("state", "STATE"),
            importance=3,
            width=8,
            max_width=16,
            help="running, paused (how long), draining or stopping.",
            value=service_state_text,
        ),
        *("listen", "backend", "connections", "ip_count", "total", "refused"),
        _WOULD_REFUSE,
        *("up", "down", "uptime"),
        _SERVICE_ALARMS,
    )
    # The IPs are a list of their own.
    NOT_IN_CSV: ClassVar[frozenset[str]] = frozenset({"ips", "state", "paused_until"})

    sid: str = field("SERVICE", importance=0, width=14, max_width=30, help="The service's name.")
    state: str | None = field(
        "STATE",
        optional=True,
        importance=3,
        help="running, paused, draining or stopping.",
    )
    paused_until: str | None = field(
        "UNTIL",
        "time",
        optional=True,
        importance=13,
        help="When a pause ends by itself.",
    )
    listen: str = field(importance=9, width=15, max_width=40, help="Where it listens.")
    backend: str = field(importance=8, width=15, max_width=40, help="Whom it forwards to.")
    booted_at: str = field("STARTED", "time", importance=12, help="When counting began.")
    uptime: float = field("UPTIME", "seconds", importance=5, help="Seconds since then.")
    accessed: str | None = field(
        "LAST CLIENT", "time", nullable=True, importance=12, help="When the last client came."
    )
    connections: int = field("NOW", "count", importance=1, help="Live connections.")
    total: int = field("TOTAL", "count", importance=3, help="Connections ever opened.")
    ips: list[str] | None = field(
        "CLIENT IPS", "list", optional=True, importance=13, help="IPs with live connections."
    )
    refused: int = field("REFUSED", "count", importance=4, help="Clients not let in.")
    refused_by: Mapping[str, int] = field(
        "REFUSED BY", "object", importance=13, help="How many by which rule."
    )
    would_refuse: Mapping[str, int] | None = field(
        "WOULD REFUSE",
        "object",
        optional=True,
        importance=13,
        help="How many, by which rule in dry_run.",
    )
    closed_by: Mapping[str, int] | None = field(
        "CLOSED BY",
        "object",
        optional=True,
        importance=13,
        help="How many connections have ended, by their reason.",
    )
    up: int = field("UP", "bytes", importance=2, help="Bytes from clients to the backend.")
    down: int = field("DOWN", "bytes", importance=2, help="Bytes from the backend to clients.")
    ip_count: int | None = field(
        "IPS", "count", optional=True, importance=6, help="How many IPs have live connections."
    )
    recordings: int | None = field(
        "RECORDINGS",
        "count",
        optional=True,
        importance=13,
        help="Connections with a recording, live and closed ones.",
    )
    recordings_dropped: int | None = field(
        "DROPPED",
        "count",
        optional=True,
        importance=13,
        help="Recordings dropped as there was no room for all.",
    )
    alarms: list[str] | None = field(
        "ALARMS",
        "list",
        optional=True,
        importance=7,
        width=12,
        help="What is wrong with it: backend_down, outage.",
    )


def unreachable_text(connection: Mapping[str, Any]) -> str:
    """Which side of a live connection does not answer, and for how long; empty if both do.

    :param connection: the JSON of a row.
    """
    if connection.get("state") == "closed":
        return ""
    seconds = {
        side: connection[f"{side}_unreachable_seconds"]
        for side in ("client", "backend")
        if connection.get(f"{side}_unreachable_seconds") is not None
    }
    if not seconds:
        return ""
    who = "both" if len(seconds) == 2 else next(iter(seconds))
    return f"{who} unreachable for {format_duration(max(seconds.values()))}"


_STATE_HELP = "How far it is; unreachable; limited by bandwidth."


def _state(connection: Mapping[str, Any]) -> Any:
    state = connection.get("state")
    if state == "open" and connection.get("is_limited"):
        state = "limited"
    return unreachable_text(connection) or state


def _protocol(connection: Mapping[str, Any]) -> str | None:
    protocol = (connection.get("facts") or {}).get("protocol")
    return None if protocol is None else str(protocol)  # anyone may set facts, of other types


def _name(connection: Mapping[str, Any]) -> str | None:
    name = (connection.get("facts") or {}).get("mqtt_client_id")
    return str(name) if name else None  # anyone may set facts, and a client id may be empty


_NAME = Column(
    "mqtt_client_id",
    "NAME",
    importance=5,
    width=8,
    max_width=23,
    wanted_width=12,
    value=_name,
    help="What the client calls itself: its MQTT client id.",
    is_for_some=True,
)
_PROTOCOL = Column(
    "protocol",
    "PROTOCOL",
    importance=10,
    width=8,
    value=_protocol,
    help="What its first bytes have told.",
)


@attrs.frozen(slots=False)
class ConnectionRow(Row):
    """One connection; the table is that of live ones."""

    TABLE: ClassVar[TableOf] = (
        *("id", "client"),
        _NAME,
        "service",
        Column("state", "STATE", importance=0, width=11, value=_state, help=_STATE_HELP),
        *("up", "down", "up_rate", "down_rate", "age_seconds", "idle_seconds"),
        ("client_last_heard_seconds", "HEARD"),
        _PROTOCOL,
    )
    NOT_IN_CSV: ClassVar[frozenset[str]] = frozenset({"would_refuse"})
    # Made for show alone: calculated from the kernel's figures, or with addresses that it asks for.
    NOT_LISTED: ClassVar[frozenset[str]] = frozenset(
        {
            *("diagnosis", "community_id", "backend_community_id", "recorded", "is_paused"),
            *("client_ended_seconds", "backend_ended_seconds"),
        }
    )

    id: int = field(
        "ID", "count", importance=1, width=6, order="id", help="Its number, as show and close take."
    )
    uid: str | None = field(
        "UID", optional=True, importance=13, width=18, max_width=24, help="Unique over restarts."
    )
    # Narrower than elsewhere, so that monconn top has room for it and for IDLE in 80 columns.
    service: str = field(importance=5, width=9, max_width=18, help="The service's name.")
    client: str = field(importance=0, width=21, max_width=28, help="IP:PORT, or unix:PID.")
    client_ip: str = field(
        "CLIENT IP", importance=13, width=15, max_width=39, help="The client's IP alone."
    )
    listener: str = field(importance=13, width=15, max_width=28, help="Where the service listens.")
    backend: str = field(importance=11, width=21, max_width=28, help="Whom it is forwarded to.")
    state: str = field(importance=0, width=11, help=_STATE_HELP)
    pipe: str = field(importance=12, width=6, help="How bytes are moved.")
    up: int = field(
        "UP", "bytes", importance=3, order="up", help="Bytes from the client to the backend."
    )
    down: int = field(
        "DOWN", "bytes", importance=3, order="down", help="Bytes from the backend to the client."
    )
    opened_at: str = field("OPENED", "time", importance=13, help="When the client came.")
    age_seconds: float = field(
        "AGE",
        "seconds",
        importance=6,
        order="age",
        help="From its opening to its end, or to now.",
    )
    # Tells the device that has dropped off from the one that works.
    idle_seconds: float = field(
        "IDLE", "seconds", importance=2, order="idle", help="Since a byte last moved."
    )
    connect_seconds: float | None = _seconds("CONNECTED IN", "How long the backend took to accept.")
    first_up_seconds: float | None = _seconds(
        "FIRST UP", "From the opening to the client's first byte."
    )
    first_down_seconds: float | None = _seconds(
        "FIRST DOWN", "From the opening to the backend's first byte."
    )
    last_up_seconds: float | None = _seconds(
        "LAST UP", "From the opening to the client's last byte."
    )
    last_down_seconds: float | None = _seconds(
        "LAST DOWN", "From the opening to the backend's last byte."
    )
    client_end: str = field("CLIENT END", importance=13, help="How the client's side ended.")
    backend_end: str = field("BACKEND END", importance=13, help="How the backend's side ended.")
    client_last_heard_seconds: float | None = field(
        "CLIENT HEARD",
        "seconds",
        nullable=True,
        importance=8,
        help="Since the client's last ACK or data.",
    )
    backend_last_heard_seconds: float | None = _seconds(
        "BACKEND HEARD", "Since the backend's last ACK or data."
    )
    client_unreachable_seconds: float | None = field(
        "CLIENT UNREACHABLE",
        "seconds",
        optional=True,
        importance=13,
        help="For how long the client has not answered.",
    )
    backend_unreachable_seconds: float | None = field(
        "BACKEND UNREACHABLE",
        "seconds",
        optional=True,
        importance=13,
        help="For how long the backend has not answered.",
    )
    closed_at: str | None = field(
        "CLOSED", "time", optional=True, importance=4, order="closed", help="When it ended."
    )
    duration_seconds: float | None = field(
        "LASTED",
        "seconds",
        optional=True,
        importance=2,
        order="age",
        help="From its opening to its end.",
    )
    refusal: str | None = field(
        optional=True, importance=3, width=12, help="Why the client was not let in."
    )
    reason: str | None = field(
        optional=True, importance=0, width=19, help="Why it ended (docs/reasons.md)."
    )
    phase: str | None = field(
        optional=True, importance=13, help="The state in which that was decided."
    )
    would_refuse: list[str] | None = field(
        "WOULD REFUSE",
        "list",
        optional=True,
        importance=13,
        help="Why rules in dry_run would have refused it.",
    )
    code: str | None = field(
        optional=True, importance=9, width=4, help="The reason in HAProxy's two letters."
    )
    closed_by: str | None = field(
        "CLOSED BY", optional=True, importance=13, help="Who ended it: a side, or monconn."
    )
    detail: str | None = field(
        optional=True, importance=10, width=20, max_width=60, help="More about the reason."
    )
    facts: Mapping[str, Any] | None = field(
        "FACTS", "object", optional=True, importance=13, help="Protocol, tags and the like."
    )
    client_tcp: TcpFigures | None = field(
        "CLIENT TCP",
        "object",
        optional=True,
        importance=13,
        help="Linux' figures of the client's socket.",
    )
    backend_tcp: TcpFigures | None = field(
        "BACKEND TCP",
        "object",
        optional=True,
        importance=13,
        help="Linux' figures of the backend's socket.",
    )
    up_rate: float = field(
        "UP/S", "bytes_per_second", importance=7, help="Bytes a second from the client."
    )
    down_rate: float = field(
        "DOWN/S", "bytes_per_second", importance=7, help="Bytes a second from the backend."
    )
    diagnosis: Mapping[str, Any] | None = field(
        "LOOKS LIKE", "object", optional=True, importance=13, help="Only of a single connection."
    )
    community_id: str | None = field(
        "COMMUNITY ID",
        optional=True,
        importance=13,
        width=30,
        help="Its Community ID, of the client's side.",
    )
    backend_community_id: str | None = field(
        "BACKEND COMMUNITY ID",
        optional=True,
        importance=13,
        width=30,
        help="Its Community ID, of the backend's side.",
    )
    recorded: int | None = field(
        "RECORDED",
        "bytes",
        optional=True,
        importance=13,
        help="How many of its bytes monconn recording shows.",
    )
    is_paused: bool | None = field(
        "PAUSED",
        "flag",
        optional=True,
        importance=13,
        help="Whether its service stands still.",
    )
    client_ended_seconds: float | None = field(
        "CLIENT ENDED",
        "seconds",
        optional=True,
        importance=13,
        help="From the opening to the end of the client's side. Only of a single connection.",
    )
    backend_ended_seconds: float | None = field(
        "BACKEND ENDED",
        "seconds",
        optional=True,
        importance=13,
        help="From the opening to the end of the backend's side. Only of a single connection.",
    )
    limited_seconds: float | None = field(
        "LIMITED",
        "seconds",
        optional=True,
        importance=13,
        help="How long it was held as bandwidth was used up.",
    )
    is_limited: bool | None = field(
        "LIMITED NOW", "flag", optional=True, importance=13, help="Whether that is so now."
    )


@attrs.frozen(slots=False)
class ClosedConnectionRow(ConnectionRow):
    """One connection that is over: the same fields, and another table."""

    TABLE: ClassVar[TableOf] = (
        # The id is what explain and show take next, and when it ended is what logs are searched
        # for: both are worth more than the service and the amounts.
        attrs.evolve(ConnectionRow.fields()["id"], importance=3),
        "client",
        attrs.evolve(_NAME, importance=4),
        attrs.evolve(ConnectionRow.fields()["service"], importance=6),
        *("reason", "code"),
        attrs.evolve(ConnectionRow.fields()["up"], importance=5),
        attrs.evolve(ConnectionRow.fields()["down"], importance=5),
        *("duration_seconds", "closed_at"),
        attrs.evolve(_PROTOCOL, importance=11),
        "detail",
    )


@attrs.frozen(slots=False)
class HalfClosedRow(ConnectionRow):
    """One connection as the first of its sides has ended in order."""

    side: str | None = field(optional=True, importance=13, help="Which one: client or backend.")


@attrs.frozen(slots=False)
class IpRow(Row):
    """One client IP with live connections at a service."""

    TABLE: ClassVar[TableOf] = ("ip", "connections")

    ip: str = field("IP", importance=0, width=15, max_width=39, help="The client's IP.")
    connections: int = field("NOW", "count", importance=1, help="Live connections.")


@attrs.frozen(slots=False)
class ClientRow(Row):
    """The totals of one client IP at one service, or (without ``service``) at all of them."""

    TABLE: ClassVar[TableOf] = (
        *("ip", "connections", "total", "up", "down", "first_seen", "last_seen", "last_reason"),
    )
    NOT_IN_CSV: ClassVar[frozenset[str]] = frozenset({"service"})  # its rows are of all services

    service: str | None = field(
        optional=True, importance=8, width=10, max_width=18, help="The service's name."
    )
    ip: str = field("IP", importance=0, width=15, max_width=39, help="The client's IP.")
    connections: int = field("NOW", "count", importance=1, help="Live connections.")
    total: int = field("TOTAL", "count", importance=2, help="Connections ever opened.")
    up: int = field("UP", "bytes", importance=3, help="Bytes from the client.")
    down: int = field("DOWN", "bytes", importance=3, help="Bytes to the client.")
    first_seen: str = field("FIRST SEEN", "time", importance=7, help="When it came first.")
    last_seen: str = field(
        "LAST SEEN", "time", importance=5, help="When a connection of it last opened or closed."
    )
    last_reason: str | None = field(
        "LAST END", nullable=True, importance=4, width=19, help="Why its last connection ended."
    )


def sum_by_ip(rows: Iterable[ClientRow]) -> list[ClientRow]:
    """One row for each IP, whatever the services; the one seen last first."""
    by_ip: dict[str, ClientRow] = {}
    for row in rows:
        other = by_ip.get(row.ip)
        by_ip[row.ip] = attrs.evolve(row, service=None) if other is None else _sum(row, other)
    return sorted(by_ip.values(), key=lambda row: row.last_seen, reverse=True)


def _sum(row: ClientRow, other: ClientRow) -> ClientRow:
    earlier, later = sorted((row, other), key=lambda each: each.last_seen)
    return attrs.evolve(
        later,
        # None of its connections to that service has ended: the last end was at the other one.
        last_reason=later.last_reason or earlier.last_reason,
        service=None,
        connections=row.connections + other.connections,
        total=row.total + other.total,
        up=row.up + other.up,
        down=row.down + other.down,
        first_seen=min(row.first_seen, other.first_seen),
    )


def _device(row: Mapping[str, Any]) -> Any:
    device = row.get("device")
    if device is None:
        return None
    return device_text(str(device), str(row.get("name") or ""), row.get("addresses") or ())


_DEVICE = Column(
    "device",
    "DEVICE",
    importance=0,
    width=15,
    max_width=43,
    value=_device,
    help="The best name that is known, and its last address.",
)


@attrs.frozen(slots=False)
class DeviceRow(Row):
    """One device: how often it connects, how often it sends, and its alarms."""

    TABLE: ClassVar[TableOf] = (
        _DEVICE,
        *("service", "connections", "total", "reconnect_seconds", "heartbeat_seconds"),
        *("silent_seconds", "last_heard_seconds", "up", "down", "last_seen", "last_reason"),
        "alarms",
    )
    NOT_IN_CSV: ClassVar[frozenset[str]] = frozenset(
        {"name", "identity", "addresses", "keepalive_seconds"}
    )

    device: str = field(
        importance=0, width=15, max_width=43, help="The name it tells, or its IP or network."
    )
    name: str | None = field(
        optional=True, importance=13, width=15, max_width=43, help="The best name that is known."
    )
    identity: str | None = field(
        optional=True, importance=13, width=14, help="The fact that is its name, or address."
    )
    addresses: list[str] | None = field(
        "ADDRESSES",
        "list",
        optional=True,
        importance=13,
        width=15,
        max_width=43,
        help="Those that it used last, the last one first.",
    )
    service: str = field(importance=4, width=10, max_width=18, help="The service's name.")
    connections: int = field("NOW", "count", importance=1, help="Live connections.")
    total: int = field("TOTAL", "count", importance=8, help="Connections ever opened.")
    first_seen: str = field("FIRST SEEN", "time", importance=13, help="When it came first.")
    last_seen: str = field("LAST SEEN", "time", importance=9, help="When it was there last.")
    reconnect_seconds: float | None = field(
        "COMES EVERY", "seconds", nullable=True, importance=7, help="Median time to come back."
    )
    heartbeat_seconds: float | None = field(
        "SPEAKS EVERY", "seconds", nullable=True, importance=5, help="Median time between messages."
    )
    keepalive_seconds: float | None = field(
        "KEEPALIVE", "seconds", optional=True, importance=13, help="What it has declared (MQTT)."
    )
    silent_seconds: float | None = field(
        "SILENT FOR", "seconds", nullable=True, importance=2, help="Since its last message."
    )
    last_heard_seconds: float | None = field(
        "HEARD", "seconds", nullable=True, importance=3, help="Since its last ACK or data."
    )
    up: int = field("UP", "bytes", importance=10, help="Bytes from the device.")
    down: int = field("DOWN", "bytes", importance=10, help="Bytes to the device.")
    last_reason: str | None = field(
        "LAST END", nullable=True, importance=8, width=19, help="Why its last connection ended."
    )
    alarms: list[str] = field(
        "ALARMS", "list", importance=0, width=15, help="What is wrong with it now."
    )


@attrs.frozen(slots=False)
class BlockRow(Row):
    """One blocked network, at one service or at all."""

    TABLE: ClassVar[TableOf] = (
        "network",
        Column(
            *("service", "SERVICE"),
            importance=1,
            width=10,
            max_width=18,
            help="The service's name, or all.",
            nullable=True,
            value=lambda row: row.get("service") or "all",
        ),
        *("source", "left_seconds", "hits", "reason", "by", "since_at", "until_at", "origin"),
    )

    service: str | None = field(
        nullable=True,
        importance=1,
        width=10,
        max_width=18,
        help="The service's name; without one, all services.",
    )
    network: str = field(importance=0, width=18, max_width=43, help="The IP or the network.")
    source: str = field(
        importance=2,
        width=8,
        max_width=13,
        help="Who blocks it, such as operator or configuration.",
    )
    by: str | None = field(
        nullable=True, importance=6, width=16, max_width=40, help="Who has asked for it."
    )
    since_at: str | None = field(
        "SINCE", "time", nullable=True, importance=8, help="When it began."
    )
    until_at: str | None = field(
        "UNTIL", "time", nullable=True, importance=7, help="When it ends, if it does."
    )
    left_seconds: float | None = field(
        "LEFT", "seconds", nullable=True, importance=1, help="The time to its end, if it has one."
    )
    hits: int = field("HITS", "count", importance=3, help="Clients that it has met.")
    reason: str | None = field(
        nullable=True, importance=4, width=12, max_width=60, help="Why, as who asked for it said."
    )
    keep_open: bool = field(
        "KEPT OPEN", "flag", importance=13, help="Whether live connections were left open."
    )
    origin: str | None = field(
        nullable=True, importance=9, width=16, max_width=60, help="FILE:LINE of what is configured."
    )


@attrs.frozen(slots=False)
class HistoryConnectionRow(Row):
    """One connection that is over, from the history."""

    TABLE: ClassVar[TableOf] = (
        *("closed_at", "client", "service", "reason", "code", "up", "down", "duration_seconds"),
        "detail",
    )
    NOT_IN_CSV: ClassVar[frozenset[str]] = frozenset(
        {"pipe", "client_last_heard_seconds", "backend_last_heard_seconds", "uid"}
    )

    run_started_at: str = field("RUN", "time", importance=13, help="Ids are unique within a run.")
    id: int = field("ID", "count", importance=13, help="Its number in that run.")
    service: str = field(importance=5, width=10, max_width=18, help="The service's name.")
    client: str = field(importance=0, width=21, max_width=28, help="IP:PORT, or unix:PID.")
    client_ip: str = field(
        "CLIENT IP", importance=13, width=15, max_width=39, help="The client's IP alone."
    )
    backend: str = field(importance=13, width=21, max_width=28, help="Whom it was forwarded to.")
    opened_at: str = field("OPENED", "time", importance=13, help="When the client came.")
    closed_at: str = field("CLOSED", "time", importance=1, help="When it ended.")
    duration_seconds: float = field(
        "LASTED", "seconds", importance=2, help="From its opening to its end."
    )
    connect_seconds: float | None = _seconds("CONNECTED IN", "How long the backend took to accept.")
    first_up_seconds: float | None = _seconds(
        "FIRST UP", "From the opening to the client's first byte."
    )
    first_down_seconds: float | None = _seconds(
        "FIRST DOWN", "From the opening to the backend's first byte."
    )
    last_up_seconds: float | None = _seconds(
        "LAST UP", "From the opening to the client's last byte."
    )
    last_down_seconds: float | None = _seconds(
        "LAST DOWN", "From the opening to the backend's last byte."
    )
    up: int = field("UP", "bytes", importance=3, help="Bytes from the client to the backend.")
    down: int = field("DOWN", "bytes", importance=3, help="Bytes from the backend to the client.")
    reason: str = field(importance=0, width=19, help="Why it ended (docs/reasons.md).")
    phase: str = field(importance=13, help="The state in which that was decided.")
    code: str = field(importance=7, width=4, help="The reason in HAProxy's two letters.")
    closed_by: str = field("CLOSED BY", importance=13, help="Who ended it: a side, or monconn.")
    client_end: str = field("CLIENT END", importance=13, help="How the client's side ended.")
    backend_end: str = field("BACKEND END", importance=13, help="How the backend's side ended.")
    client_rtt_seconds: float | None = _seconds(
        "CLIENT RTT", "Smoothed round-trip time to the client."
    )
    client_retransmits: int | None = field(
        "CLIENT RETRANSMITS",
        "count",
        nullable=True,
        importance=13,
        help="Segments that were sent again to the client.",
    )
    backend_rtt_seconds: float | None = _seconds(
        "BACKEND RTT", "Smoothed round-trip time to the backend."
    )
    backend_retransmits: int | None = field(
        "BACKEND RETRANSMITS",
        "count",
        nullable=True,
        importance=13,
        help="Segments that were sent again to the backend.",
    )
    detail: str | None = field(
        optional=True, importance=8, width=20, max_width=60, help="More about the reason."
    )
    pipe: str | None = field(optional=True, importance=13, help="How bytes were copied.")
    client_last_heard_seconds: float | None = field(
        "CLIENT HEARD",
        "seconds",
        optional=True,
        importance=13,
        help="From the client's last ACK or data to the end.",
    )
    backend_last_heard_seconds: float | None = field(
        "BACKEND HEARD",
        "seconds",
        optional=True,
        importance=13,
        help="From the backend's last ACK or data to the end.",
    )
    facts: Mapping[str, Any] | None = field(
        "FACTS", "object", optional=True, importance=13, help="Protocol, tags and the like."
    )
    uid: str | None = field(
        "UID", optional=True, importance=13, width=18, max_width=24, help="Unique over restarts."
    )


def _who(event: Mapping[str, Any]) -> Any:
    # Not who asked for an action: that may be the 70 characters of a key, and ends the detail.
    return event.get("client") or _device(event)


def _what(event: Mapping[str, Any]) -> Any:
    """The one word that an event of the history is about; if there is none, which event it is."""
    if event.get("alarm"):
        return f"{event['alarm']}{' is over' if event.get('over') else ''}"
    if event.get("refusal") or event.get("action"):
        return event.get("refusal") or event.get("action")
    count = event.get("count")
    return event.get("event") if count is None else f"{event.get('event')} {count}"


@attrs.frozen(slots=False)
class HistoryEventRow(Row):
    """One event of the history: a refusal, an alarm, an action, a start or a stop."""

    TABLE: ClassVar[TableOf] = (
        *("at", "event", "service"),
        Column(
            "client",
            "CLIENT",
            importance=0,
            width=21,
            max_width=28,
            value=_who,
            help="The client that was refused, or the device.",
        ),
        Column(
            "what",
            "WHAT",
            importance=0,
            width=15,
            value=_what,
            help="The refusal, the alarm or the action.",
        ),
        "detail",
    )

    # WHAT says nearly as much.
    event: str = field(importance=6, width=8, help="Which kind of event.")
    at: str = field("AT", "time", importance=1, help="When it happened.")
    service: str | None = field(
        optional=True, importance=5, width=10, max_width=18, help="The service's name."
    )
    client: str | None = field(
        optional=True,
        nullable=True,
        importance=2,
        width=21,
        max_width=28,
        help="The client that was refused.",
    )
    client_ip: str | None = field(
        "CLIENT IP", optional=True, nullable=True, importance=13, help="The client's IP alone."
    )
    refusal: str | None = field(optional=True, importance=3, help="Why the client was not let in.")
    code: str | None = field(
        optional=True, importance=13, width=4, help="The refusal in HAProxy's two letters."
    )
    alarm: str | None = field(optional=True, importance=3, help="Which alarm.")
    device: str | None = field(optional=True, importance=2, help="Whose alarm.")
    over: bool | None = field(
        "OVER", "flag", optional=True, importance=3, help="Whether the alarm is over."
    )
    count: int | None = field(
        "COUNT",
        "count",
        optional=True,
        importance=3,
        help="How many clients, connections or items it is about.",
    )
    # In 80 columns beside a date, and what an action was stands nowhere else.
    detail: str | None = field(
        optional=True,
        importance=4,
        width=16,
        max_width=60,
        wanted_width=36,
        help="More about it.",
    )
    action: str | None = field(optional=True, importance=3, width=14, help="What was done.")
    actor: str | None = field(
        optional=True, importance=2, width=20, max_width=40, help="Who asked for it."
    )

    def to_json(self) -> dict[str, Any]:
        """The row as plain values; refusals that were counted together have a client of null."""
        made = Row.to_json(self)
        if self.event == "refused":
            made.update(client=self.client, client_ip=self.client_ip)
        return made


@attrs.frozen(slots=False)
class AlarmRow(Row):
    """An alarm of a device that begins or is over, as an event."""

    TABLE: ClassVar[TableOf] = ("at", "service", _DEVICE, "alarm", "over", "detail")
    NOT_IN_CSV: ClassVar[frozenset[str]] = frozenset(
        {"name", "addresses", "subject", "since", "attempts", "backend", "network"}
        | {"devices", "devices_of"}
    )

    alarm: str = field(importance=1, width=15)
    service: str = field(importance=3, width=10, max_width=18)
    device: str = field(importance=0, width=15, max_width=43)
    name: str | None = field(
        optional=True, importance=13, width=15, max_width=43, help="The best name that is known."
    )
    addresses: list[str] | None = field(
        "ADDRESSES", "list", optional=True, importance=13, help="Those that it used last."
    )
    at: str = field("AT", "time", importance=2)
    over: bool = field("OVER", "flag", importance=4)
    detail: str = field(importance=5, width=20, max_width=60)
    goes_on: bool | None = field(
        "GOES ON", "flag", optional=True, importance=13, help="Begun before monconn was restarted."
    )
    subject: str | None = field(
        optional=True,
        importance=13,
        width=15,
        max_width=43,
        help="What it is about: the device, the backend, the network or the service.",
    )
    since: str | None = field(
        "SINCE", "time", optional=True, importance=13, help="When what it is about began."
    )
    attempts: int | None = field(
        "ATTEMPTS",
        "count",
        optional=True,
        importance=13,
        help="Of backend_down: how many have failed.",
    )
    backend: str | None = field(
        optional=True, importance=13, width=15, max_width=40, help="The backend in common."
    )
    network: str | None = field(
        optional=True, importance=13, width=18, help="Of outage: the network in common."
    )
    devices: int | None = field(
        "DEVICES", "count", optional=True, importance=13, help="Of outage: how many are missing."
    )
    devices_of: int | None = field(
        "OF", "count", optional=True, importance=13, help="Of outage: how many there were."
    )


@attrs.frozen(slots=False)
class ActionRow(Row):
    """An action, as an event."""

    TABLE: ClassVar[TableOf] = ("at", "action", "service", "target", "count", "actor")

    action: str = field(importance=0, width=14)
    service: str | None = field(nullable=True, importance=4, help="None: all services.")
    at: str = field("AT", "time", importance=1)
    actor: str = field(importance=2, width=20, max_width=40, help="Who asked for it.")
    target: str = field(importance=3, width=20, max_width=40)
    count: int = field("COUNT", "count", importance=5, help="Connections ended by it.")
    changed: bool = field("CHANGED", "flag", importance=6)
    text: str = field(importance=13, help="The line of the log.")
    detail: str | None = field(
        optional=True, importance=13, help="Of a block, for how long, and why."
    )


@attrs.frozen(slots=False)
class ReportRow(Row):
    """A period of the history in figures; lists and objects are as ``docs/history.md`` says."""

    resolution: str = field(help="exact, or hours where single connections are forgotten.")
    since: str = field("FROM", "time")
    until: str = field("TO", "time")
    kept_since: str | None = field("STORED SINCE", "time", nullable=True)
    service: str | None = field(nullable=True)
    connections: int = field("CONNECTIONS", "count")
    up: int = field("UP", "bytes")
    down: int = field("DOWN", "bytes")
    refused: int = field("REFUSED", "count")
    reasons: Mapping[str, int] = field("REASONS", "object")
    refusals: Mapping[str, int] = field("REFUSALS", "object")
    alarms: Mapping[str, int] = field("ALARMS", "object")
    lost: int = field("LOST", "count")
    clients_by_connections: list[Mapping[str, Any]] = field("CLIENTS BY CONNECTIONS", "list")
    clients_by_bytes: list[Mapping[str, Any]] = field("CLIENTS BY BYTES", "list")
    hours: list[Mapping[str, Any]] = field("HOURS", "list")
    hours_each: int = field("HOURS EACH", "count")
    busiest: list[Mapping[str, Any]] = field("BUSIEST", "list")
    duration_seconds: Mapping[str, float] | None = field("LASTED", "object", nullable=True)
    connect_seconds: Mapping[str, float] | None = field("CONNECTED IN", "object", nullable=True)


@attrs.frozen(slots=False)
class NotifyRow(Row):
    """One output of notifications."""

    TABLE: ClassVar[TableOf] = (
        *("number", "url", "on", "filter", "state", "queued", "sent", "failed", "dropped"),
        *("last_sent", "last_error"),
    )

    number: int = field("NR", "count", importance=0, width=3, help="As notify test takes it.")
    url: str = field(
        "URL", importance=1, width=20, max_width=40, help="Where to, without what may be secret."
    )
    on: list[str] = field("ON", "list", importance=4, width=12, help="The events it is told of.")
    filter: str | None = field(
        nullable=True, importance=8, width=12, max_width=40, help="Of these, those that match."
    )
    state: str = field(importance=0, width=7, help="ready, sending, stuck (it hangs) or failing.")
    queued: int = field("QUEUED", "count", importance=2, help="Messages that wait.")
    sent: int = field("SENT", "count", importance=3, help="Messages that were delivered.")
    failed: int = field(
        "FAILED", "count", importance=3, help="Given up: refused, or not delivered in time."
    )
    dropped: int = field("DROPPED", "count", importance=3, help="As too many waited.")
    last_sent: str | None = field(
        "LAST SENT", "time", nullable=True, importance=6, help="When the last one was delivered."
    )
    last_error: str | None = field(
        "LAST ERROR",
        nullable=True,
        importance=5,
        width=20,
        max_width=60,
        help="Why the last attempt failed that did.",
    )


@attrs.frozen(slots=False)
class NotifyTestRow(Row):
    """What one output said to a test."""

    TABLE: ClassVar[TableOf] = ("number", "url", "ok", "answer")

    number: int = field("NR", "count", importance=0, width=3, help="Of the output.")
    url: str = field(
        "URL", importance=2, width=20, max_width=40, help="Where to, without what may be secret."
    )
    ok: bool = field("OK", "flag", importance=0, help="Whether it was delivered.")
    answer: str = field(importance=1, width=20, max_width=70, help="What it said.")


@attrs.frozen(slots=False)
class TokenRow(Row):
    """One token of the HTTP API."""

    TABLE: ClassVar[TableOf] = ("name", "role")

    name: str = field(
        importance=0, width=12, max_width=64, help="As monconn web --revoke takes it."
    )
    role: str = field(importance=0, width=7, help="What it may do: view or operate.")


@attrs.frozen(slots=False)
class CaptureRow(Row):
    """One capture to files."""

    TABLE: ClassVar[TableOf] = (
        *("id", "filter", "state", "connections", "live", "bytes", "lost_bytes", "file"),
        *("since", "until", "by"),
    )

    id: int = field("ID", "count", importance=0, width=4, help="Its number, as stop takes it.")
    filter: str = field(importance=1, width=12, max_width=40, help="What is captured.")
    state: str = field(
        importance=0, width=7, help="waiting, writing, failing, stuck (the disk hangs) or done."
    )
    connections: int = field("CONNS", "count", importance=5, width=5, help="Captured so far.")
    live: int = field("NOW", "count", importance=8, width=5, help="Captured connections that live.")
    bytes: int = field("BYTES", "bytes", importance=3, help="Of connections, in its files.")
    lost_bytes: int = field(
        "LOST", "bytes", importance=4, help="Of connections, that the disk did not take in time."
    )
    file: str | None = field(
        nullable=True, importance=2, width=38, max_width=44, help="What is, or was last, written."
    )
    since: str = field("SINCE", "time", importance=6, help="When it was started.")
    until: str | None = field(
        "UNTIL", "time", optional=True, importance=9, help="When it will end, or has ended."
    )
    by: str = field("BY", importance=7, width=20, max_width=40, help="Who has started it.")
    folder: str = field(importance=13, width=20, help="Where its files are.")
    files: int = field("FILES", "count", importance=12, help="How many it has begun.")
    first: int = field("FIRST", "bytes", importance=12, help="Of each direction; 0 is all.")
    left_out: int = field(
        "LEFT OUT", "count", importance=11, help="Connections that were too many at once."
    )
    triggers: int | None = field(
        "TRIGGERS", "count", optional=True, importance=9, help="How many began a capture."
    )
    skipped_triggers: int | None = field(
        "SKIPPED", "count", optional=True, importance=10, help="How many came too soon or often."
    )
    problem: str | None = field(optional=True, importance=9, help="Why nothing can be written.")
