"""One-time codes: what a link to the page has in its fragment, which is sent to no server."""

from __future__ import annotations

import hashlib
import secrets

import attrs

from monconn.clock import Clock
from monconn.roles import Role

CODE_SECONDS = 60.0
"""How long a code may be used."""
MOST_CODES = 64
"""How many codes of a role may wait; one more takes the place of the oldest. So those who may only
view make no code of others useless."""


@attrs.frozen
class Grant:
    """What a code gives.

    :param name: whom the session is for.
    :param by: who has asked for the code.
    """

    name: str
    role: Role
    by: str


class Codes:
    """The codes that wait to be used, by their digests: each once.

    :param clock: monotonic time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._grants: dict[bytes, tuple[float, Grant]] = {}  # the oldest first

    def make(self, grant: Grant, seconds: float = CODE_SECONDS) -> str:
        """A new code: 256 bits of the kernel's random numbers.

        :param seconds: how long it may be used.
        """
        self._drop_ended()
        alike = [each for each, (_, other) in self._grants.items() if other.role == grant.role]
        if len(alike) >= MOST_CODES:
            del self._grants[alike[0]]
        code = secrets.token_urlsafe(32)
        self._grants[_digest(code)] = (self._clock.seconds() + seconds, grant)
        return code

    def take(self, code: str) -> Grant | None:
        """Use a code; None if there is none, or none any more."""
        self._drop_ended()
        # Found by its digest: how long that takes tells nothing of a code.
        _, grant = self._grants.pop(_digest(code), (0.0, None))
        return grant

    def look_up(self, code: str) -> Grant | None:
        """What a code gives, without using it; None if there is none, or none any more."""
        self._drop_ended()
        _, grant = self._grants.get(_digest(code), (0.0, None))
        return grant

    def clear(self) -> None:
        """Have no code used any more."""
        self._grants.clear()

    def _drop_ended(self) -> None:
        now = self._clock.seconds()
        for digest in [digest for digest, (end, _) in self._grants.items() if end <= now]:
            del self._grants[digest]


def _digest(code: str) -> bytes:
    return hashlib.sha256(code.encode("utf-8", "replace")).digest()
