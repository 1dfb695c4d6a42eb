"""Entries of the audit trail: what an actor did to services and connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import attrs

from monconn.errors import printable
from monconn.model.record import iso_time

ActorKind = Literal[
    "process",
    "certificate",
    "ssh",
    "token",
    "session",
    "signal",
    "code",
    "configuration",
    "nobody",
    "auto_block",
]
ActionKind = Literal[
    "close",
    "reset",
    "block",
    "unblock",
    "block_ended",
    "pause",
    "resume",
    "drain",
    "reload",
    "notify_test",
    "reset_stats",
    "subtract_stats",
    "forget",
    "tap",
    "capture_start",
    "capture_stop",
    "read_recording",
    "log_in",
    "log_out",
    "log_out_all",
    "make_token",
    "revoke_token",
    "stop",
    "stop_now",
]
ACTION_KINDS: tuple[ActionKind, ...] = get_args(ActionKind)

_NAME_CHARACTERS = 120
"""Certificate subjects and SSH user names are chosen by the peer: no line grows beyond this."""


@attrs.frozen
class Actor:
    """The originator of an action; made by the class methods.

    :param kind: how the actor is known.
    :param name: user name, certificate subject, key fingerprint or signal; may be empty.
    :param uid: of a local process, as the kernel says.
    :param pid: of a local process, as it was when it connected.
    :param user: of an SSH login, the name that the client gave (any name is accepted).
    """

    kind: ActorKind
    name: str = ""
    uid: int | None = None
    pid: int | None = None
    user: str = ""

    @classmethod
    def process(cls, uid: int, pid: int, name: str = "") -> Actor:
        """A local process behind a UNIX socket, by ``SO_PEERCRED``; name is the user's."""
        return cls("process", name, uid, pid)

    @classmethod
    def certificate(cls, subject: str) -> Actor:
        """A TLS client, by the subject of the certificate that it proved to own."""
        return cls("certificate", subject)

    @classmethod
    def ssh(cls, fingerprint: str, user: str) -> Actor:
        """An SSH login, by the fingerprint of the key and the user name that was given."""
        return cls("ssh", fingerprint, user=user)

    @classmethod
    def token(cls, name: str) -> Actor:
        """A client of the HTTP API, by the name of its token."""
        return cls("token", name)

    @classmethod
    def session(cls, name: str) -> Actor:
        """A browser that uses the HTTP API, by whom it has logged in for."""
        return cls("session", name)

    @classmethod
    def signal(cls, name: str) -> Actor:
        """A signal to this process, by its name, such as ``SIGTERM``."""
        return cls("signal", name)

    def describe(self) -> str:
        """A short text for logs; printable and of bounded length, whatever the peer sent."""
        name, user = (printable(each[:_NAME_CHARACTERS]) for each in (self.name, self.user))
        if self.kind == "process":
            return f"uid {self.uid}{f' ({name})' if name else ''}, pid {self.pid}"
        if self.kind == "ssh":
            return f"ssh key {name} (user {user})"
        return {
            "certificate": f"certificate {name}",
            "token": f"token {name}",
            "session": f"{name}, in a browser",
            "signal": f"signal {name}",
            "configuration": "the configuration",
            "nobody": "nobody",
            "auto_block": "auto_block",
        }.get(self.kind, "own code")


OWN_CODE = Actor("code")
"""The program that monconn runs in: code that calls :meth:`Monitor.close` and the like directly."""
CONFIGURATION = Actor("configuration")
"""Nobody at this moment: the configuration says so."""
NOBODY = Actor("nobody")
"""What happens by time alone, such as the end of a block."""
AUTO_BLOCK = Actor("auto_block")
"""Nobody either: what the configuration has clients blocked for has happened."""
_code_runs_for: ContextVar[Actor] = ContextVar("code_runs_for", default=OWN_CODE)


@contextmanager
def running_code_of(actor: Actor) -> Iterator[None]:
    """Have what code does directly in this block count as done by somebody else than the program.

    As at a Python prompt, whose user may call a monitor's methods.
    """
    token = _code_runs_for.set(actor)
    try:
        yield
    finally:
        _code_runs_for.reset(token)


def whose_code() -> Actor:
    """Who the running code acts for: :data:`OWN_CODE`, unless in :func:`running_code_of`."""
    return _code_runs_for.get()


@attrs.frozen
class Action:
    """One action that was carried out.

    :param kind: what was done.
    :param actor: who asked for it.
    :param at: wall-clock seconds.
    :param service: the one service that it was limited to; None for all.
    :param target: which connections or networks: a filter's text, ids, a network, an amount. Of
        what concerns payload, also what is done with it. Of
        ``forget``, only how much was removed: the client's address would be stored with it.
    :param count: how many connections were ended by it.
    :param changed: False where the state was the requested one already (blocked, not blocked).
    :param detail: how it was done, for people: for how long something is blocked, and why.
    """

    kind: ActionKind
    actor: Actor
    at: float
    service: str | None = None
    target: str = ""
    count: int = 0
    changed: bool = True
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        return {
            "action": self.kind,
            "service": self.service,
            "at": iso_time(self.at),
            "actor": self.actor.describe(),
            "target": self.target,
            "count": self.count,
            "changed": self.changed,
            "text": self.describe(),
            **({"detail": self.detail} if self.detail else {}),
        }

    def describe(self) -> str:
        """One line for logs, such as ``closed 3 connections (client:10.0.0.0/8) for uid 0``."""
        where = "all services" if self.service is None else self.service
        ended = f"{self.count} connection{'' if self.count == 1 else 's'}"
        target = printable(self.target)
        detail = f" ({printable(self.detail)})" if self.detail else ""
        text = {
            "close": f"closed {ended} ({target})",
            "reset": f"reset {ended} ({target})",
            "block": f"blocked {target} at {where}{detail}, ended {ended}",
            "unblock": f"unblocked {target} at {where}",
            "block_ended": f"the block of {target} at {where} has ended",
            "pause": f"paused {where}{f' ({target})' if target else ''}",
            "resume": f"resumed {where}{f' ({target})' if target else ''}",
            "drain": f"began to drain {where}{f' ({target})' if target else ''}, {ended} live",
            "reload": f"reloaded the configuration: {target}",
            "notify_test": f"sent a test to {target}",
            "reset_stats": f"set the totals of {where} to zero",
            "subtract_stats": f"subtracted {target} from the totals of {where}",
            "forget": f"removed what was stored of {target}",
            "tap": f"began to tap {target} at {where}",
            "capture_start": f"began to capture {target} at {where}",
            "capture_stop": f"stopped capturing {target} at {where}",
            "read_recording": f"read what was recorded of {target}",
            "log_in": f"logged in with the role {target}{detail}",
            "log_out": "logged out",
            "log_out_all": "logged all browsers out",
            "make_token": f"made the token {target}{detail}",
            "revoke_token": f"revoked the token {target}{detail}",
            "stop": f"stopping ({ended} live)",
            "stop_now": f"stopping at once ({ended} live)",
        }[self.kind]
        unchanged = "" if self.changed else " (no change)"
        whom = "" if self.actor.kind == "nobody" else f" for {self.actor.describe()}"
        return f"{text}{unchanged}{whom}"
