"""Who has sent a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs

from monconn.access.sessions import Session
from monconn.model.actions import Actor
from monconn.roles import Role


@attrs.frozen
class Caller:
    """Who has sent a request, once that is proved.

    :param role: what it may do.
    :param name: of its token, or of whom its session was opened for.
    :param kind: how it has proved that.
    :param is_valid: says whether it still is who it was: false once its token is revoked, or its
        session has ended. Streams ask it from time to time.
    :param session: of a browser.
    """

    role: Role
    name: str
    kind: Literal["token", "session"]
    is_valid: Callable[[], bool] = attrs.field(default=lambda: True, eq=False, repr=False)
    session: Session | None = attrs.field(default=None, eq=False, repr=False)

    def actor(self) -> Actor:
        """Whom actions are attributed to."""
        return Actor.token(self.name) if self.kind == "token" else Actor.session(self.name)
