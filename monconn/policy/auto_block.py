"""Which clients of a service are blocked by themselves, for what, and for how long."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

import attrs

from monconn.addresses import address_text, parse_network
from monconn.errors import quoted
from monconn.model.reasons import REASONS, REFUSALS, Reason, Refusal
from monconn.policy.kinds import COUNT, POSITIVE_SECONDS, Kind, Networks
from monconn.policy.settings import validated
from monconn.units import duration_text, parse_duration

Counted = Refusal | Reason
_OURS = ("operator", "stopping", "draining")
"""What we do ourselves says nothing about a client."""
COUNTED: tuple[Counted, ...] = tuple(
    each for each in dict.fromkeys((*REFUSALS, *REASONS)) if each not in _OURS
)
"""What may be counted: refusals, and reasons for which connections end. ``blocked`` is the
refusal; connections that a block ends are not counted."""
MOST_COUNTED = 10_000
"""The most of ``after``: a time is remembered for each."""
_TEXT = re.compile(
    r"(?P<after>[0-9]+)\s+of\s+(?P<of>[a-z_]+(?:\s*,\s*[a-z_]+)*)"
    r"(?:\s+within\s+(?P<within>[0-9a-z.]+))?"
    r"(?:\s+for\s+(?P<for_>[0-9a-z.]+))?"
    r"(?:\s+never\s+(?P<never>[0-9a-fA-F.:/]+(?:\s*,\s*[0-9a-fA-F.:/]+)*))?"
    r"(?:\s+at_most\s+(?P<at_most>[0-9]+))?"
)
_EXAMPLE = "20 of rate, client_reset within 1m for 10m"


def _check_counted(value: Any) -> tuple[Counted, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError("must be a list of refusals and reasons, such as [rate, client_reset]")
    given = list(value)
    for each in given:
        if each in _OURS:
            raise ValueError(f"must not have {each}, which says nothing about the client")
        if each not in COUNTED:
            raise ValueError(
                "must be refusals and reasons, such as rate or client_reset (docs/reasons.md),"
                f" and {quoted(str(each))} is none"
            )
    if not given:
        raise ValueError("must not be empty: leave auto_block out to block nobody")
    return tuple(each for each in COUNTED if each in given)


def _from_1_to(most: int) -> Kind:
    def check(value: Any) -> int:
        count: int = COUNT.check(value)
        if not 1 <= count <= most:
            raise ValueError(f"must be from 1 to {most}")
        return count

    return Kind(f"count from 1 to {most}", check, lambda text: check(COUNT.parse(text)))


def _check_seconds(value: Any) -> float:
    seconds: float = POSITIVE_SECONDS.check(value)
    if not seconds:
        raise ValueError("must be more than 0")
    return seconds


COUNTED_NAMES = Kind(
    "refusals and reasons",
    _check_counted,
    lambda text: _check_counted([each.strip() for each in text.split(",")]),
)
AFTER = _from_1_to(MOST_COUNTED)
AT_MOST = _from_1_to(1_000_000)
SECONDS_NOT_0 = Kind(
    "seconds, not 0", _check_seconds, lambda text: _check_seconds(parse_duration(text))
)


@attrs.frozen(field_transformer=validated)
class AutoBlock:
    """A client is blocked for some time after it has been refused, or its connections have ended
    for some reasons, so many times within another time.

    A client is what ``devices:`` says is one, and so is what is blocked.

    :raises SettingError: a value is not valid.
    """

    of: Annotated[tuple[Counted, ...], COUNTED_NAMES]
    """The refusals and the reasons that are counted, all together."""
    after: Annotated[int, AFTER] = 20
    """How many of them."""
    within: Annotated[float, SECONDS_NOT_0] = 60.0
    """In how many seconds."""
    for_: Annotated[float, SECONDS_NOT_0] = 600.0
    """For how many seconds the client is blocked."""
    never: Networks = ()
    """Networks of which nothing is blocked."""
    at_most: Annotated[int, AT_MOST] = 1_000
    """Clients of the service that are blocked so at the same time."""

    def __str__(self) -> str:
        never = [address_text(each) for each in self.never]
        parts = {
            "after": str(self.after),
            "of": f"[{', '.join(self.of)}]",
            "within": duration_text(self.within),
            "for": duration_text(self.for_),
            "never": f"[{', '.join(never)}]" if never else "",
            "at_most": str(self.at_most),
        }
        return f"{{{', '.join(f'{key}: {text}' for key, text in parts.items() if text)}}}"


def parse_auto_block(text: str) -> AutoBlock:
    """The settings from a text such as ``20 of rate, client_reset within 1m for 10m``.

    :raises ValueError: it is none.
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"must be such as {_EXAMPLE}, not {quoted(text)}")
    given = {name: each for name, each in found.groupdict().items() if each is not None}
    readers: dict[str, Any] = {
        "of": COUNTED_NAMES.parse,
        "after": AFTER.parse,
        "within": SECONDS_NOT_0.parse,
        "for_": SECONDS_NOT_0.parse,
        "never": lambda nets: [parse_network(each) for each in nets.split(",")],
        "at_most": AT_MOST.parse,
    }
    return AutoBlock(**{name: readers[name](each) for name, each in given.items()})


def _check_auto_block(value: Any) -> AutoBlock | None:
    if value is None or value is False or isinstance(value, AutoBlock):
        return value or None
    raise TypeError("must be AutoBlock(...), or None")


AUTO_BLOCK = Kind("auto_block, or unset", _check_auto_block, parse_auto_block)
OptionalAutoBlock = Annotated[AutoBlock | None, AUTO_BLOCK]
