"""Sessions of browsers: cookies that are signed, and so hold over a restart.

A cookie is ``PAYLOAD.SIGNATURE``, both in base64url: a JSON array of what a session is, and its
HMAC-SHA256 by a key that only the file of sessions has (RFC 2104). So nothing is stored for each
session, but the ids of those that were logged out before their time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import secrets
from collections.abc import Mapping
from typing import Any, Literal, cast

import attrs

from monconn.roles import ROLES, Role

IDLE_SECONDS = 12 * 3600.0
"""How long a session lasts without any request."""
MOST_SECONDS = 7 * 86400.0
"""How long a session lasts in all."""
RENEW_SECONDS = 600.0
"""The age from which a cookie is replaced by one that lasts longer."""
MOST_LOGGED_OUT = 10_000
MOST_OF_NAME = 100
"""How many sessions of one name may be logged out before their time; with one more, all of that
name are. So those who may only view end no session of others by logging in and out."""
NoSession = Literal["ended", "unknown"]
"""A cookie whose session has ended, or that this key has not signed."""
_SKEW_SECONDS = 300.0
"""How much the wall clock may have been set back since a cookie was made."""
_MOST_CHARACTERS = 2_000
_CONTEXT = b"monconn session 1\0"


@attrs.frozen
class Session:
    """What a cookie says.

    :param id: random; it stays the same when the cookie is renewed.
    :param name: of whom actions are attributed to.
    :param opened_at: wall-clock seconds.
    :param renewed_at: wall-clock seconds.
    :param token: tells the token that it was opened with; empty for one by a link.
    :param key_id: tells the key that signs it.
    """

    id: str
    name: str
    role: Role
    opened_at: float
    renewed_at: float
    token: str = ""
    key_id: str = ""

    def ends_at(self) -> float:
        """When it ends, unless its cookie is renewed."""
        return min(self.renewed_at + IDLE_SECONDS, self.opened_at + MOST_SECONDS)


@attrs.frozen
class SessionKeys:
    """What the file of sessions has.

    :param instance: tells the cookies of this monconn from those of others; it never changes.
    :param key: signs cookies; another one ends all sessions.
    :param logged_out: ids and names of sessions that were logged out, and when they would have
        ended.
    :param ended: names all of whose sessions were logged out that were opened up to a time.
    """

    instance: str
    key: bytes = attrs.field(repr=False)
    logged_out: Mapping[str, float] = attrs.field(factory=dict)
    ended: Mapping[str, float] = attrs.field(factory=dict)

    @classmethod
    def new(cls, instance: str | None = None) -> SessionKeys:
        """New ones; with an instance's name, only the key is new."""
        return cls(instance or secrets.token_hex(4), secrets.token_bytes(32))

    @property
    def key_id(self) -> str:
        """Tells the key from others; it tells nothing of it."""
        return self.token_id(b"")[:16]

    def new_session(self, name: str, role: Role, now: float, token: str = "") -> Session:
        """A session that begins now, with an id that nobody has chosen.

        :param token: what :meth:`token_id` says of the token that it is opened with.
        """
        identity = secrets.token_urlsafe(16)
        return Session(identity, name, role, now, now, token, self.key_id)

    def sign(self, session: Session) -> str:
        """The value of a session's cookie."""
        values = attrs.astuple(session)[:-1]  # who can check the signature knows the key
        payload = json.dumps(values, separators=(",", ":")).encode()
        return f"{_encoded(payload)}.{_encoded(self._signature(payload))}"

    def read(self, cookie: str, now: float) -> Session | NoSession:
        """The session of a cookie, or why there is none."""
        payload = self._signed(cookie)
        if payload is None:
            return "unknown"
        session = _session(payload, self.key_id)
        return session if session is not None and self.is_open(session, now) else "ended"

    def is_open(self, session: Session, now: float) -> bool:
        """Whether a session that was signed by this key has not ended."""
        is_of_now = session.renewed_at - _SKEW_SECONDS <= now < session.ends_at()
        has_ended = session.opened_at <= self.ended.get(session.name, -math.inf)
        return is_of_now and not has_ended and _mark_of(session) not in self.logged_out

    def without(self, session: Session, now: float) -> SessionKeys:
        """The same with a session logged out. If too many of its name are, all of that name are; if
        too many at all, a new key logs out all."""
        kept = {each: end for each, end in self.logged_out.items() if end > now}
        ended = {name: at for name, at in self.ended.items() if at + MOST_SECONDS > now}
        # Renewed by another request meanwhile, its cookie lasts longer.
        kept[_mark_of(session)] = session.opened_at + MOST_SECONDS
        of_name = [each for each in kept if each.partition(" ")[2] == session.name]
        if len(of_name) > MOST_OF_NAME:
            ended[session.name] = max(now, session.opened_at)
            for each in of_name:
                del kept[each]
        if len(kept) + len(ended) > MOST_LOGGED_OUT:
            return SessionKeys.new(self.instance)
        return attrs.evolve(self, logged_out=kept, ended=ended)

    def token_id(self, digest: bytes) -> str:
        """What a session says of a token: it tells nothing of its digest."""
        return hmac.new(self.key, b"monconn token\0" + digest, hashlib.sha256).hexdigest()[:32]

    def _signature(self, payload: bytes) -> bytes:
        return hmac.new(self.key, _CONTEXT + payload, hashlib.sha256).digest()

    def _signed(self, cookie: str) -> bytes | None:
        if len(cookie) > _MOST_CHARACTERS or not cookie.isascii():
            return None
        head, _, tail = cookie.partition(".")
        payload, signature = _decoded(head), _decoded(tail)
        if payload is None or signature is None:
            return None
        return payload if hmac.compare_digest(signature, self._signature(payload)) else None

    # -- as a file

    def encode(self) -> bytes:
        """The content of the file."""
        content = {
            "monconn_sessions": 1,
            "instance": self.instance,
            "key": self.key.hex(),
            "logged_out": dict(self.logged_out),
            "ended": dict(self.ended),
        }
        return json.dumps(content).encode() + b"\n"


def decode_keys(content: bytes) -> SessionKeys | None:
    """What is in a file; None if it is nothing that :meth:`SessionKeys.encode` has made."""
    try:
        found = json.loads(content)
        if found["monconn_sessions"] != 1:
            return None
        instance, key = found["instance"], bytes.fromhex(found["key"])
        logged_out = {str(each): float(end) for each, end in found["logged_out"].items()}
        ended = {str(name): float(at) for name, at in found.get("ended", {}).items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    is_right = isinstance(instance, str) and instance.isalnum() and instance.isascii()
    is_right = is_right and len(key) == 32
    return SessionKeys(instance, key, logged_out, ended) if is_right else None


def _mark_of(session: Session) -> str:
    return f"{session.id} {session.name}"


def _session(payload: bytes, key_id: str) -> Session | None:
    """What was signed, which an older or a newer version may have done."""
    try:
        values: Any = json.loads(payload)
        identity, name, role, opened_at, renewed_at, token = values
    except (ValueError, TypeError, RecursionError):
        return None
    texts, times = (identity, name, token), (opened_at, renewed_at)
    if (
        role not in ROLES
        or not all(isinstance(each, str) for each in texts)
        or not all(isinstance(each, float) for each in times)
    ):
        return None
    return Session(identity, name, cast(Role, role), opened_at, renewed_at, token, key_id)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes | None:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    return data if _encoded(data) == text else None  # one writing for each value
