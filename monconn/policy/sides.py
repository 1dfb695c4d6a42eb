"""Settings that the client's side of a connection may have apart from the backend's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import attrs

from monconn.errors import quoted
from monconn.model.reasons import Side
from monconn.policy.kinds import SECONDS, Kind
from monconn.policy.settings import validated
from monconn.units import parse_duration

T = TypeVar("T")

# The kernel's own bounds: MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL and MAX_TCP_KEEPCNT of
# include/net/tcp.h; setsockopt(2) fails with EINVAL beyond them.
_MAX_PROBE_SECONDS = 32767
_MAX_PROBES = 127


def _check_probe_seconds(value: object) -> int:
    seconds = SECONDS.check(value)
    if seconds % 1:
        raise ValueError("must be whole seconds: the kernel takes no fraction of one here")
    if not 1 <= seconds <= _MAX_PROBE_SECONDS:
        raise ValueError(f"must be from 1 to {_MAX_PROBE_SECONDS} seconds, the kernel's bounds")
    return int(seconds)


def _check_probes(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("must be a whole number")
    if not 1 <= value <= _MAX_PROBES:
        raise ValueError(f"must be from 1 to {_MAX_PROBES}, the kernel's bounds")
    return value


def _parse_probes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"must be a whole number such as 3, not {quoted(text)}")
    return _check_probes(int(text))


PROBE_SECONDS = Kind(
    "whole seconds", _check_probe_seconds, lambda text: _check_probe_seconds(parse_duration(text))
)
PROBES = Kind("number of probes", _check_probes, _parse_probes)


@attrs.frozen(field_transformer=validated)
class Keepalive:
    """How the kernel probes a silent peer: TCP keepalive, tcp(7).

    A peer that vanished is *lost* ``idle + count * interval`` seconds after it was last heard.

    :raises SettingError: a value is not valid; the kernel takes whole seconds only.
    """

    idle: Annotated[int, PROBE_SECONDS] = 30
    """Seconds without anything from the peer after which the first probe is sent."""
    interval: Annotated[int, PROBE_SECONDS] = 30
    """Seconds between probes."""
    count: Annotated[int, PROBES] = 9
    """How many probes remain unanswered before the connection is lost."""


@attrs.frozen
class Sides(Generic[T]):
    """A value for the client's side of each connection, and one for the backend's."""

    client: T
    backend: T

    def of(self, side: Side) -> T:
        """The value of one side."""
        return self.client if side == "client" else self.backend

    def __bool__(self) -> bool:
        """Whether it is switched on for either side."""
        return bool(self.client) or bool(self.backend)


KeepaliveGiven = bool | Keepalive | Sides[Any]
"""What Python code may give for keepalive: one value for both sides, or :class:`Sides` of them."""
SecondsGiven = float | Sides[float]


def check_keepalive(value: object) -> Sides[Keepalive | None]:
    """Each side's keepalive, None where it is off, from a :data:`KeepaliveGiven`.

    :raises TypeError: it is anything else.
    """
    return _each_side(value, _check_one_keepalive)


def _check_one_keepalive(value: object) -> Keepalive | None:
    if isinstance(value, Keepalive):
        return value
    if value is None or isinstance(value, bool):
        return _KEEPALIVE if value else None
    raise TypeError("must be True or False, Keepalive(...), or Sides(...) of these")


def _parse_keepalive(text: str) -> Sides[Keepalive | None]:
    if text in ("true", "false"):
        return check_keepalive(text == "true")
    parts = text.split(",")
    if len(parts) != 3:
        raise ValueError(
            "must be true or false, or idle, interval and count such as 30s,10s,3,"
            f" not {quoted(text)}"
        )
    idle, interval = map(PROBE_SECONDS.parse, parts[:2])
    return check_keepalive(Keepalive(idle, interval, PROBES.parse(parts[2])))


def check_seconds(value: object) -> Sides[float]:
    """Each side's seconds from a :data:`SecondsGiven`.

    :raises TypeError: it is anything else.
    :raises ValueError: a number is negative, or more than a century.
    """
    return _each_side(value, SECONDS.check)


def _each_side(value: object, check: Callable[[Any], T]) -> Sides[T]:
    if isinstance(value, Sides):
        return Sides(check(value.client), check(value.backend))
    both = check(value)
    return Sides(both, both)


_KEEPALIVE = Keepalive()
KEEPALIVE = Kind("keepalive", check_keepalive, _parse_keepalive)
SECONDS_OF_SIDES = Kind(
    "seconds of each side", check_seconds, lambda text: check_seconds(SECONDS.parse(text))
)

KeepaliveOfSides = Annotated[Sides[Keepalive | None], KEEPALIVE]
SecondsOfSides = Annotated[Sides[float], SECONDS_OF_SIDES]
"""A duration for each side; 0 included."""
