"""The closed lists of states, ends, reasons, refusals and kinds of event.

Code, log, JSON, metrics and history all use these values.
"""

from __future__ import annotations

from typing import Literal, get_args

Side = Literal["client", "backend"]
Direction = Literal["up", "down"]
DIRECTION_OF: dict[Side, Direction] = {"client": "up", "backend": "down"}
"""Of what a side sends."""
State = Literal["connecting", "open", "half_closed", "closing", "closed"]
SideEnd = Literal["fin", "reset", "timeout", "none"]
Pipe = Literal["splice", "copy", "tls", "stream"]
Reason = Literal[
    "client_closed",
    "client_reset",
    "client_lost",
    "backend_closed",
    "backend_reset",
    "backend_lost",
    "backend_refused",
    "backend_unreachable",
    "connect_timeout",
    "read_timeout",
    "write_timeout",
    "idle_timeout",
    "half_close_timeout",
    "lifetime",
    "operator",
    "blocked",
    "stopping",
    "error",
]
Refusal = Literal[
    "blocked",
    "not_allowed",
    "conn_limit",
    "ip_limit",
    "per_ip_limit",
    "rate",
    "per_ip_rate",
    "draining",
    "handshake_failed",
    "handshake_timeout",
    "stopping",
]
Closer = Literal["client", "backend", "operator", "monconn"]
"""Who ended a connection first."""
EventKind = Literal["opened", "refused", "half_closed", "closed", "alarm", "action"]
"""What is an event as it happens."""
HistoryEventKind = Literal["refused", "alarm", "started", "stopped", "lost", "action", "clock"]
"""What is an event in a history; connections that have ended are rows of their own."""
ServiceState = Literal["running", "paused", "draining", "stopping"]
"""What a service does: it admits clients; it neither reads nor accepts; it refuses clients and goes
on with the others; it waits for its connections, for good."""
PIPES: tuple[Pipe, ...] = get_args(Pipe)
STATES: tuple[State, ...] = get_args(State)
SERVICE_STATES: tuple[ServiceState, ...] = get_args(ServiceState)
REASONS: tuple[Reason, ...] = get_args(Reason)
REFUSALS: tuple[Refusal, ...] = get_args(Refusal)
CLOSERS: tuple[Closer, ...] = get_args(Closer)
EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)
HISTORY_EVENT_KINDS: tuple[HistoryEventKind, ...] = get_args(HistoryEventKind)

CLOSED_REASONS: dict[Side, Reason] = {"client": "client_closed", "backend": "backend_closed"}
"""The reason when a side was the first to end in order (FIN)."""
BROKEN_REASONS: dict[tuple[Side, SideEnd], Reason] = {
    ("client", "reset"): "client_reset",
    ("client", "timeout"): "client_lost",
    ("client", "none"): "error",
    ("backend", "reset"): "backend_reset",
    ("backend", "timeout"): "backend_lost",
    ("backend", "none"): "error",
}
"""The reason when a side failed; ``none`` if the failure was on our side of its connection."""

CLOSER_OF: dict[Reason, Closer] = {
    reason: next((each for each in CLOSERS if each == reason.partition("_")[0]), "monconn")
    for reason in REASONS
}
"""Who ended a connection, as far as the reason alone says: its first word, or else we did."""

ORDERLY_REASONS: frozenset[Reason | None] = frozenset(
    ("client_closed", "backend_closed", "operator", "blocked", "stopping", "lifetime")
)
"""Those of connections that ended in good order, or as we were told to end them."""

CONNECT_FAILURES: frozenset[Reason | None] = frozenset(
    ("backend_refused", "backend_unreachable", "connect_timeout")
)
"""Those of connections whose backend could not be connected to, by a fault that is not ours."""

LOST_REASONS: dict[Reason, Side] = {"client_lost": "client", "backend_lost": "backend"}
"""Which side was lost."""

# HAProxy's configuration manual, "Session state at disconnection", first letter. Those that depend
# on which side was waited for are missing here: see ConnectionRecord.code.
WHO_LETTERS: dict[Reason, str] = {
    "client_closed": "-",
    "backend_closed": "-",
    "client_reset": "C",
    "client_lost": "C",
    "backend_reset": "S",
    "backend_lost": "S",
    "backend_refused": "S",
    "backend_unreachable": "S",
    "connect_timeout": "s",
    "read_timeout": "c",
    "lifetime": "P",
    "blocked": "P",
    "operator": "K",
    "stopping": "K",
    "error": "I",
}

BlockSource = Literal["configuration", "file", "operator", "auto"]
BLOCK_SOURCES: tuple[BlockSource, ...] = get_args(BlockSource)
"""Who blocks a network: ``block`` of the configuration, its ``block_files``, a person, and
``auto_block``."""
