"""How much of each connection's bytes a service's flight recorder has."""

from __future__ import annotations

from typing import Annotated

import attrs

from monconn.errors import quoted
from monconn.policy.kinds import COUNT, POSITIVE_SECONDS, Kind
from monconn.policy.settings import validated
from monconn.units import parse_size

MOST_RECORDED_BYTES = 1 << 16
"""The most of one direction that may be recorded at either end. It is no more than one read of
small chunks brings (``CHUNK_BYTES``): so the first bytes are always seen before a connection is
spliced."""


def _check_bytes(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError("must be a number of bytes or a text like 2KiB")
    size = parse_size(value)
    if not 0 <= size <= MOST_RECORDED_BYTES:
        raise ValueError("must be from 0 to 64KiB")
    return size


def _check_positive_count(value: object) -> int:
    count: int = COUNT.check(value)
    if not count:
        raise ValueError("must be at least 1: recorder: false records nothing")
    return count


def _check_positive_seconds(value: object) -> float:
    seconds: float = POSITIVE_SECONDS.check(value)
    if not seconds:
        raise ValueError("must be more than 0: recorder: false records nothing")
    return seconds


RECORDED_BYTES = Kind("bytes, at most 64 KiB", _check_bytes, _check_bytes)
RECORDINGS_KEPT = Kind(
    "count from 1", _check_positive_count, lambda text: _check_positive_count(COUNT.parse(text))
)
KEPT_SECONDS = Kind(
    "seconds, not 0", _check_positive_seconds, lambda text: float(POSITIVE_SECONDS.parse(text))
)


@attrs.frozen(field_transformer=validated)
class RecorderSettings:
    """How much of each connection's bytes is recorded, and for how long after its end.

    :raises SettingError: a value is not valid.
    """

    first: Annotated[int, RECORDED_BYTES] = 2 << 10
    """The first bytes of each direction that are recorded."""
    last: Annotated[int, RECORDED_BYTES] = 8 << 10
    """The last bytes of each direction that are recorded."""
    keep: Annotated[int, RECORDINGS_KEPT] = 1_000
    """Recordings of connections that have ended."""
    keep_for: Annotated[float, KEPT_SECONDS] = 3600.0
    """Seconds for which each of these is kept."""


def _check_recorder(value: object) -> RecorderSettings | None:
    if value is None or isinstance(value, RecorderSettings):
        return value
    if isinstance(value, bool):
        return _USUAL if value else None
    raise TypeError("must be True or False, or RecorderSettings(...)")


def _parse_recorder(text: str) -> RecorderSettings | None:
    if text not in ("true", "false"):
        raise ValueError(f"must be true or false, not {quoted(text)}")
    return _check_recorder(text == "true")


_USUAL = RecorderSettings()
RECORDER = Kind("recorder", _check_recorder, _parse_recorder)
OptionalRecorder = Annotated[RecorderSettings | None, RECORDER]
"""What is recorded; None for nothing."""
