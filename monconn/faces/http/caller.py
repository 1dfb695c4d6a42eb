"""Who has sent a request."""

from __future__ import annotations

from typing import Literal

import attrs

from monconn.model.actions import Actor
from monconn.roles import Role


@attrs.frozen
class Caller:
    """Who has sent a request, once that is proved.

    :param role: what it may do.
    :param name: of its token, or of the token or user that its session was opened for.
    :param kind: how it has proved that.
    """

    role: Role
    name: str
    kind: Literal["token", "session"]

    def actor(self) -> Actor:
        """Whom actions are attributed to."""
        return Actor.token(self.name)
