"""What the clients of a control port may do."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["view", "operate"]
"""``view``: look at what is known. ``operate``: everything; whatever changes something, or shows
bytes of connections, needs it."""
ROLES: tuple[Role, ...] = get_args(Role)
