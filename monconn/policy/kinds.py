"""The kinds of value that a setting can have: what is valid, and how it is written as text.

A setting names its kind once, where it is declared: ``max_idle: Seconds = 900.0``, where
``Seconds`` is ``Annotated[float, SECONDS]``. The checks of Python code (:mod:`settings`), the
readers of configuration files (:mod:`monconn.config.fields`) and those of endpoint strings
(:mod:`monconn.run.endpoints`) follow from the kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network
from numbers import Real
from typing import Annotated, Any, Literal

import attrs

from monconn.addresses import Network, parse_network
from monconn.errors import quoted
from monconn.policy.networks import NetworkTuple
from monconn.units import parse_duration

MAX_COUNT = 1_000_000_000
_DIGITS = re.compile(r"[0-9]{1,10}")


@attrs.frozen(eq=False)
class Kind:
    """A kind of value."""

    name: str
    """For messages to developers."""
    check: Callable[[Any], Any]
    """The value as it is stored, from one that Python code gives.

    Raises ``TypeError`` or ``ValueError``, with a message that begins with "must be".
    """
    parse: Callable[[str], Any]
    """The value from a text, as in an endpoint string; raises ``ValueError``."""
    choices: tuple[str, ...] = ()
    """The values, if it is a choice of few words."""


def _check_seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError("must be a number of seconds")
    return parse_duration(value if isinstance(value, int) else float(value))


def _positive(seconds: float) -> float:
    if seconds == 0:
        raise ValueError("must be more than 0")
    return seconds


def _check_count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("must be a whole number")
    if not 0 <= value <= MAX_COUNT:
        raise ValueError(f"must be from 0 to {MAX_COUNT}")
    return value


def _parse_count(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise ValueError(f"must be a whole number such as 100, not {quoted(text)}")
    return _check_count(int(text))


def _check_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("must be True or False")
    return value


def _parse_flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"must be true or false, not {quoted(text)}")
    return text == "true"


def _check_networks(value: object) -> NetworkTuple:
    if isinstance(value, NetworkTuple):
        return value
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError("must be a list of networks")
    return NetworkTuple(map(_check_network, value))


def _check_network(value: object) -> Network:
    if isinstance(value, IPv4Network):
        return value
    if not isinstance(value, (str, IPv6Network)):
        raise TypeError(f"must be a list of networks, and {value!r} is none")
    return parse_network(str(value))  # which turns IPv4-mapped IPv6 into IPv4


def _parse_networks(text: str) -> NetworkTuple:
    return NetworkTuple(parse_network(each) for each in text.split(","))


def choice(name: str, *choices: str) -> Kind:
    """The kind of a setting that is one of a few words.

    :param name: for messages to developers.
    """
    *first, last = choices
    message = f"must be {', '.join(first)} or {last}"

    def check(value: object) -> str:
        if value not in choices:
            raise ValueError(message)
        return str(value)

    return Kind(name, check, check, choices)


SECONDS = Kind("seconds", _check_seconds, parse_duration)
POSITIVE_SECONDS = Kind(
    "seconds, not 0 in a configuration",
    _check_seconds,  # Python code may switch such a limit off, as tests and programs do
    lambda text: _positive(parse_duration(text)),
)
OPTIONAL_SECONDS = Kind(
    "seconds, or unset",
    lambda value: None if value is None else _check_seconds(value),
    parse_duration,
)
COUNT = Kind("count", _check_count, _parse_count)
FLAG = Kind("flag", _check_flag, _parse_flag)
NETWORKS = Kind("networks", _check_networks, _parse_networks)
WHEN_FULL = choice("when full", "wait", "refuse")
PAYLOAD = choice("payload", "allowed", "never")
DECODE = choice("decode", "auto", "off", "mqtt")

Seconds = Annotated[float, SECONDS]
"""A duration; 0 included."""
PositiveSeconds = Annotated[float, POSITIVE_SECONDS]
"""A duration that a configuration may not set to 0."""
Count = Annotated[int, COUNT]
"""A whole number from 0."""
Flag = Annotated[bool, FLAG]
Networks = Annotated[tuple[Network, ...], NETWORKS]
OptionalSeconds = Annotated[float | None, OPTIONAL_SECONDS]
"""A duration that may be unset."""
WhenFull = Annotated[Literal["wait", "refuse"], WHEN_FULL]
Payload = Annotated[Literal["allowed", "never"], PAYLOAD]
Decode = Annotated[Literal["auto", "off", "mqtt"], DECODE]
