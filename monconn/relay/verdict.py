"""How a relay reacts when a side ends, as a pure table: (state, event) → (state, actions).

``client_ended`` and ``backend_ended``: that side has sent its FIN, the other may still send.
``draining``: both have ended, or one takes no more bytes, and those for the other are being
delivered. ``closing``: the connection's reason is decided, and the sockets are being closed.
"""

from __future__ import annotations

from typing import Literal

RelayState = Literal[
    "connecting",
    "connecting_client_ended",
    "connecting_client_gone",
    "connecting_client_dropped",
    "connecting_client_broken",
    "open",
    "client_ended",
    "backend_ended",
    "draining",
    "closing",
]
Event = Literal[
    "connected",
    "connect_failed",
    "client_eof",
    "backend_eof",
    "client_broken",
    "client_broken_early",  # before the backend was connected, with bytes for it already read
    "backend_broken",
    "client_gone",
    "client_dropped",  # it had ended in order, and has failed after that
    "backend_gone",
    "cut",
    "cut_hard",
]
Action = Literal[
    "end_client",  # end the writing to it: deliver what we hold, then FIN
    "end_backend",
    "close_client",  # deliver what we hold, then close
    "close_backend",
    "reset_client",  # deliver what we hold, then reset
    "reset_backend",
    "abort_client",  # reset at once
    "abort_backend",
]
Outcome = tuple[RelayState, tuple[Action, ...]]

STATES: tuple[RelayState, ...] = RelayState.__args__  # type: ignore[attr-defined]
EVENTS: tuple[Event, ...] = Event.__args__  # type: ignore[attr-defined]

_CUT: Outcome = ("closing", ("close_client", "close_backend"))
_CUT_HARD: Outcome = ("closing", ("abort_client", "abort_backend"))
_CLIENT_BROKEN: Outcome = ("closing", ("reset_backend",))
_BACKEND_BROKEN: Outcome = ("closing", ("reset_client",))

_CONNECTING: dict[Event, Outcome] = {
    "client_broken": ("closing", ("abort_backend",)),
    "client_broken_early": ("connecting_client_broken", ()),
    "connect_failed": ("closing", ("close_client",)),
    "cut": ("closing", ("close_client", "abort_backend")),
    "cut_hard": _CUT_HARD,
}
_ESTABLISHED: dict[Event, Outcome] = {
    "client_broken": _CLIENT_BROKEN,
    "backend_broken": _BACKEND_BROKEN,
    "cut": _CUT,
    "cut_hard": _CUT_HARD,
}

# An event that a state does not list changes nothing.
TABLE: dict[RelayState, dict[Event, Outcome]] = {
    "connecting": {
        **_CONNECTING,
        "connected": ("open", ()),
        "client_eof": ("connecting_client_ended", ("end_backend",)),
    },
    "connecting_client_ended": {
        **_CONNECTING,
        "connected": ("client_ended", ()),
        "client_gone": ("connecting_client_gone", ()),  # its bytes are still to be delivered
        "client_dropped": ("connecting_client_dropped", ()),
    },
    "connecting_client_gone": {
        **_CONNECTING,
        "connected": ("draining", ("close_backend",)),
    },
    "connecting_client_dropped": {
        **_CONNECTING,
        "connected": ("draining", ("reset_backend",)),
    },
    "connecting_client_broken": {
        "connected": ("closing", ("reset_backend",)),
        "connect_failed": ("closing", ()),
        "cut": ("closing", ("abort_backend",)),
        "cut_hard": _CUT_HARD,
    },
    "open": {
        **_ESTABLISHED,
        "client_eof": ("client_ended", ("end_backend",)),
        "backend_eof": ("backend_ended", ("end_client",)),
    },
    "client_ended": {
        **_ESTABLISHED,
        "backend_eof": ("draining", ("close_client", "close_backend")),
        # A side that is gone takes no more bytes: what the other still sends cannot be delivered.
        "client_gone": ("draining", ("close_backend",)),
        # It has reset: once the backend has all, it hears of that, or it might answer for ever.
        "client_dropped": ("draining", ("reset_backend",)),
    },
    "backend_ended": {
        **_ESTABLISHED,
        "client_eof": ("draining", ("close_client", "close_backend")),
        # The client gets the rest at its own pace, even if the backend has reset by now: a minute
        # after it has closed, its kernel answers late bytes and keepalive probes so, as FIN_WAIT2
        # is over (net.ipv4.tcp_fin_timeout).
        "backend_gone": ("draining", ("close_client",)),
    },
    "draining": _ESTABLISHED,
    "closing": {"cut_hard": _CUT_HARD},
}
