"""The keys of the filter language in each listing: connections, devices, events, a history."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from monconn.model.actions import ACTION_KINDS
from monconn.model.alarms import ALARM_KINDS, DEVICE_ALARM_KINDS, SERVICE_ALARM_KINDS
from monconn.model.reasons import (
    BLOCK_SOURCES,
    CLOSERS,
    EVENT_KINDS,
    HISTORY_EVENT_KINDS,
    PIPES,
    REASONS,
    REFUSALS,
    SERVICE_STATES,
    STATES,
)
from monconn.model.record import ConnectionRecord
from monconn.ops.filters import Context, FilterError, Key, Keys, parse, port_of


def _table(*keys: Key) -> dict[str, Key]:
    return {key.name: key for key in keys}


def _joined(*texts: str | None) -> str:
    return "\n".join(text or "" for text in texts)


def _rate(record: ConnectionRecord, context: Context) -> float:
    return 0.0 if context.rates is None else sum(context.rates.of(record, context.now))


def _heard(record: ConnectionRecord, context: Context) -> float | None:
    return _longest(record, (record.client_heard, record.backend_heard), context.now)


def _unreachable(record: ConnectionRecord, context: Context) -> float | None:
    return _longest(record, (record.client_unreachable, record.backend_unreachable), context.now)


def _longest(record: ConnectionRecord, since: Iterable[float | None], now: float) -> float | None:
    """The longest time since one of these moments, as of the end of one that is closed."""
    first = min((each for each in since if each is not None), default=None)
    if first is None:
        return None
    return (now if record.closed is None else record.closed) - first


def _record_facts(record: ConnectionRecord) -> Mapping[str, Any]:
    return record.facts


def _record_text(record: ConnectionRecord) -> str:
    text = _joined(record.client, record.service, record.state, record.backend, record.reason)
    facts = _record_facts(record)
    return _joined(text, *map(str, facts.values())) if facts else text


CONNECTION_KEYS = Keys(
    _table(
        Key("id", "count", lambda r, _: r.id),
        Key("uid", "text", lambda r, _: r.uid),
        Key("service", "text", lambda r, _: r.service),
        Key("client", "network", lambda r, _: r.client, address=lambda r: r.client_ip),
        Key("state", "choice", lambda r, _: r.state, STATES),
        Key("pipe", "choice", lambda r, _: r.pipe, PIPES),
        Key("age", "seconds", lambda r, context: r.age_seconds(context.now)),
        Key("idle", "seconds", lambda r, context: r.idle_seconds(context.now)),
        Key("heard", "seconds", _heard),
        Key("unreachable", "seconds", _unreachable),
        Key("up", "bytes", lambda r, _: r.up),
        Key("down", "bytes", lambda r, _: r.down),
        Key("rate", "rate", _rate),
        Key("reason", "choice", lambda r, _: r.reason, REASONS),
        Key("closed_by", "choice", lambda r, _: r.closed_by, CLOSERS),
        Key("would_refuse", "choice", lambda r, _: r.would_refuse, REFUSALS, is_many=True),
        Key("backend", "text", lambda r, _: r.backend),
        Key(
            "port",
            "port",
            lambda r, _: (port_of(r.client), port_of(r.listener), port_of(r.backend)),
            is_many=True,
        ),
    ),
    text=_record_text,
    facts=_record_facts,
)
"""The keys of a :class:`~monconn.model.record.ConnectionRecord`, live or closed."""

MEASURED_KEYS = ("heard", "unreachable")
"""Keys whose values are as of when the kernel was last asked about the connection."""


OBSERVED_KEYS = attrs.evolve(
    CONNECTION_KEYS,
    by_name={
        **{name: key for name, key in CONNECTION_KEYS.by_name.items() if name != "rate"},
        "reason": Key(
            "reason",
            "choice",
            lambda r, _: r.reason or r.refusal,
            tuple(dict.fromkeys((*REASONS, *REFUSALS))),
        ),
        "detail": Key("detail", "text", lambda r, _: r.detail),
    },
)
"""The keys of a record as an observer is notified of an event; ``reason`` may be a refusal."""


def record_filter(
    terms: str | Sequence[str],
    *,
    now: Callable[[], float] = time.monotonic,
    services: Iterable[str] = (),
) -> Callable[[ConnectionRecord], bool]:
    """A filter as a function, for ``where`` of :meth:`Registry.observe`.

    :param terms: over :data:`OBSERVED_KEYS`.
    :param now: monotonic seconds, as the records' times are.
    :param services: names of services that exist: one that is given in full means only itself.
    :raises FilterError: the filter cannot be understood.
    """
    wanted = parse(terms, OBSERVED_KEYS, known={"service": tuple(services)})
    if any(term.key == "fact.event" for term in wanted.terms):  # as in a filter of events
        raise FilterError("event: is no key here: an observer has a method for each kind of event")
    return lambda record: wanted.matches(record, Context(now()))


def _field(name: str) -> Callable[[Any, Context], Any]:
    return lambda row, _: row.get(name)


def _row_ports(*names: str) -> Callable[[Any, Context], Any]:
    return lambda row, _: [port_of(row.get(name)) for name in names]


def _row_text(*names: str) -> Callable[[Any], str]:
    return lambda row: _joined(*(row.get(name) for name in names))


_TRAFFIC = (
    Key("up", "bytes", _field("up"), sql=("up",)),
    Key("down", "bytes", _field("down"), sql=("down",)),
)
_SERVICE = Key("service", "text", _field("service"), sql=("service",))
_DETAIL = Key("detail", "text", _field("detail"), sql=("detail",))
_CLIENT = Key(
    "client",
    "network",
    _field("client"),
    address=lambda row: row.get("client_ip"),
    sql=("client",),
    sql_address="client_address",
)


def _longest_field(name: str) -> Callable[[Any, Context], float | None]:
    """The longer of a field's two values, of the client and of the backend."""

    def get(row: Mapping[str, Any], _: Context) -> float | None:
        both = (row.get(f"{side}_{name}") for side in ("client", "backend"))
        return max((each for each in both if each is not None), default=None)

    return get


# SQLite's max() of several values is NULL if one of them is.
_HEARD = Key(
    "heard",
    "seconds",
    _longest_field("last_heard_seconds"),
    sql=(
        "max(coalesce(client_last_heard_seconds, backend_last_heard_seconds),"
        " coalesce(backend_last_heard_seconds, client_last_heard_seconds))",
    ),
)
_COUNTS = (
    Key("connections", "count", _field("connections")),
    Key("total", "count", _field("total")),
    Key("reason", "choice", _field("last_reason"), REASONS),
)


def _device_client(name: str, field: str) -> Key:
    # A device may be a network: then its first address counts. Of one with a name of its own, it is
    # the address that it has used last.
    return Key(
        name, "network", _field(field), address=lambda row: _address_of(row, str(row.get(field)))
    )


def _address_of(row: Mapping[str, Any], device: str) -> str:
    if row.get("identity", "address") == "address":
        return device.partition("/")[0]
    return next(iter(row.get("addresses") or ()), device)


def _device_names(row: Mapping[str, Any], _: Context) -> tuple[Any, ...]:
    return row.get("device"), row.get("name")


_DEVICE = Key(
    "device",
    "network",
    _device_names,
    address=lambda row: _address_of(row, str(row.get("device"))),
    is_many=True,
)


DEVICE_KEYS = Keys(
    _table(
        _SERVICE,
        _device_client("client", "device"),
        _DEVICE,
        Key("keepalive", "seconds", _field("keepalive_seconds")),
        *_COUNTS,
        *_TRAFFIC,
        Key(
            "alarm",
            "choice",
            lambda row, _: row.get("alarms") or (),
            DEVICE_ALARM_KINDS,
            is_many=True,
        ),
        Key("reconnect", "seconds", _field("reconnect_seconds")),
        Key("heartbeat", "seconds", _field("heartbeat_seconds")),
        Key("silent", "seconds", _field("silent_seconds")),
        Key("heard", "seconds", _field("last_heard_seconds")),
    ),
    text=lambda row: _joined(
        *(row.get(name) for name in ("device", "name", "service", "last_reason")),
        *(row.get("addresses") or ()),
        *(row.get("alarms") or ()),
    ),
)
"""The keys of a device, as :meth:`monconn.devices.heartbeat.Device.snapshot` gives it."""

SERVICE_KEYS = Keys(
    _table(
        Key("service", "text", _field("sid")),
        Key("state", "choice", _field("state"), SERVICE_STATES),
        Key("connections", "count", _field("connections")),
        Key("ips", "count", _field("ip_count")),
        Key("total", "count", _field("total")),
        Key("refused", "count", _field("refused")),
        *_TRAFFIC,
        Key("backend", "text", _field("backend")),
        Key("port", "port", _row_ports("listen", "backend"), is_many=True),
        Key(
            "alarm",
            "choice",
            lambda row, _: row.get("alarms") or (),
            SERVICE_ALARM_KINDS,
            is_many=True,
        ),
    ),
    text=_row_text("sid", "listen", "backend"),
)
"""The keys of a service, as :meth:`monconn.monitor.monitor.Monitor.stats` gives it."""

IP_KEYS = Keys(
    _table(
        _SERVICE, _device_client("client", "ip"), _device_client("ip", "ip"), *_COUNTS, *_TRAFFIC
    ),
    text=_row_text("ip", "service", "last_reason"),
)
"""The keys of a client IP, as :meth:`monconn.monitor.clients.ClientTotals.snapshot` gives it."""


def _places(row: Mapping[str, Any], _: Context) -> Sequence[str]:
    # Those of what is blocked at all services are told beside the row, whose service is none.
    places: Sequence[str] = row.get("at") or (row["service"],)
    return places


BLOCK_KEYS = Keys(
    _table(
        # What is blocked at all services is blocked at each.
        Key("service", "text", _places, is_many=True),
        _device_client("client", "network"),
        Key("source", "choice", _field("source"), BLOCK_SOURCES),
        Key("by", "text", _field("by")),
        Key("left", "seconds", _field("left_seconds")),
        Key("hits", "count", _field("hits")),
        Key("reason", "text", _field("reason")),
    ),
    text=_row_text("network", "service", "source", "by", "reason", "origin"),
)
"""The keys of a block; ``client:`` finds those whose first address is in a network."""


def _event_reason(row: Mapping[str, Any], _: Context) -> str | None:
    for name in ("reason", "refusal", "alarm", "action"):
        if row.get(name):
            return str(row[name])
    return None


def _event_client(row: Mapping[str, Any], _: Context) -> str | None:
    client: str | None = row.get("client") or row.get("device") or row.get("actor")
    return client


def _event_ip(row: Mapping[str, Any]) -> str | None:
    """The client's IP; of an alarm, the device, or the first address of one that is a network."""
    ip = row.get("client_ip") or row.get("device")
    if ip is not None and row.get("addresses") and "/" not in str(ip):
        return str(row["addresses"][0])
    return None if ip is None else str(ip).partition("/")[0]


def _row_facts(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row.get("facts") or {}


_EVENT_WORDS = tuple(dict.fromkeys((*REFUSALS, *ALARM_KINDS, *ACTION_KINDS)))

EVENT_KEYS = Keys(
    _table(
        Key("event", "choice", _field("event"), EVENT_KINDS),
        Key("id", "count", _field("id")),
        Key("uid", "text", _field("uid")),
        _SERVICE,
        Key("client", "network", _event_client, address=_event_ip),
        _DEVICE,
        Key("state", "choice", _field("state"), STATES),
        Key("pipe", "choice", _field("pipe"), PIPES),
        Key("age", "seconds", _field("age_seconds")),
        Key("idle", "seconds", _field("idle_seconds")),
        _HEARD,
        Key("unreachable", "seconds", _longest_field("unreachable_seconds")),
        *_TRAFFIC,
        Key("reason", "choice", _event_reason, tuple(dict.fromkeys((*REASONS, *_EVENT_WORDS)))),
        Key("closed_by", "choice", _field("closed_by"), CLOSERS),
        Key(
            "would_refuse",
            "choice",
            lambda row, _: row.get("would_refuse") or (),
            REFUSALS,
            is_many=True,
        ),
        Key("backend", "text", _field("backend")),
        Key("port", "port", _row_ports("client", "listener", "backend"), is_many=True),
        _DETAIL,
    ),
    text=lambda row: _joined(
        *(row.get(name) for name in ("event", "client", "device", "name", "service", "state")),
        row.get("subject"),
        row.get("backend"),
        _event_reason(row, Context()),
        row.get("detail"),
    ),
    facts=_row_facts,
)
"""The keys of an event of the feed: a connection opened, refused or closed, or an alarm."""


def _history_idle(row: Mapping[str, Any], _: Context) -> float | None:
    duration: float | None = row.get("duration_seconds")
    if duration is None:
        return None
    return duration - max(row.get("last_up_seconds") or 0.0, row.get("last_down_seconds") or 0.0)


HISTORY_KEYS = Keys(
    _table(
        Key("id", "count", _field("id"), sql=("id",)),
        Key("uid", "text", _field("uid"), sql=("uid",)),
        _SERVICE,
        _CLIENT,
        Key("state", "choice", lambda row, _: "closed", STATES, sql=("'closed'",)),
        Key("pipe", "choice", _field("pipe"), PIPES, sql=("pipe",)),
        Key("age", "seconds", _field("duration_seconds"), sql=("duration_seconds",)),
        Key(
            "idle",
            "seconds",
            _history_idle,
            sql=(
                "(duration_seconds"
                " - max(coalesce(last_up_seconds, 0.0), coalesce(last_down_seconds, 0.0)))",
            ),
        ),
        _HEARD,
        *_TRAFFIC,
        Key("reason", "choice", _field("reason"), REASONS, sql=("reason",)),
        Key("closed_by", "choice", _field("closed_by"), CLOSERS, sql=("closed_by",)),
        Key("backend", "text", _field("backend"), sql=("backend",)),
        Key(
            "port",
            "port",
            _row_ports("client", "backend"),
            is_many=True,
            sql=("monconn_port(client)", "monconn_port(backend)"),
        ),
        _DETAIL,
    ),
    text=lambda row: _joined(
        *(row.get(name) for name in ("client", "service", "backend", "reason", "detail")),
        *map(str, _row_facts(row).values()),
    ),
    facts=_row_facts,
    sql_text=(
        "client || char(10) || service || char(10) || backend || char(10) || reason"
        " || char(10) || detail || coalesce(char(10) || monconn_fact_values(facts), '')"
    ),
    sql_facts="facts",
)
"""The keys of a connection in a history; ages and idle times are those at its end."""

HISTORY_EVENT_KEYS = Keys(
    _table(
        Key("event", "choice", _field("event"), HISTORY_EVENT_KINDS, sql=("event",)),
        _SERVICE,
        attrs.evolve(_CLIENT, get=_event_client, address=_event_ip),
        Key("reason", "choice", _event_reason, _EVENT_WORDS, sql=("word",)),
        _DETAIL,
    ),
    text=lambda row: _joined(
        row.get("event"),
        row.get("service"),
        _event_client(row, Context()),
        _event_reason(row, Context()),
        row.get("detail"),
    ),
    sql_text=" || char(10) || ".join(
        f"coalesce({name}, '')" for name in ("event", "service", "client", "word", "detail")
    ),
)
"""The keys of an event in a history: a refusal, an alarm, a start or a stop."""

KEY_HELP: Mapping[str, str] = {
    "age": "Since it was opened; to its end, once it is closed.",
    "alarm": "What is wrong with it.",
    "backend": "Whom it is forwarded to.",
    "by": "Who has asked for it.",
    "client": "The client's IP, its network, or a part of its address as text.",
    "closed_by": "Who ended it.",
    "connections": "Live connections.",
    "detail": "More about the reason.",
    "device": "The device's name or address.",
    "down": "Bytes from the backend.",
    "event": "Which kind of event.",
    "heard": "Since the last byte or acknowledgement of the side that was heard longer ago.",
    "heartbeat": "The median time between messages.",
    "hits": "Clients that it has met.",
    "id": "The connection's number.",
    "idle": "Since a byte last moved.",
    "ip": "The client's IP, or its network.",
    "ips": "How many IPs have live connections.",
    "keepalive": "What the device has declared (MQTT).",
    "left": "The time to its end.",
    "pipe": "How bytes are moved.",
    "port": "Of the client, the listener or the backend.",
    "rate": "Bytes a second now, both ways together.",
    "reason": "Why it ended, or what an event is about.",
    "reconnect": "The median time to come back.",
    "refused": "Clients not let in.",
    "service": "The service's name.",
    "silent": "Since the last message.",
    "source": "Who blocks it.",
    "state": "How far it is.",
    "total": "Connections ever opened.",
    "uid": "The connection's id that is unique over restarts.",
    "unreachable": "For how long a side has not answered.",
    "up": "Bytes from the client.",
    "would_refuse": "What a rule in dry_run would have refused it for.",
}
"""What each key means, in whatever listing: ``docs/filters.md`` says more."""
