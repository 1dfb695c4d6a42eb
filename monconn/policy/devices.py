"""What of a service's devices differs from ``devices:``, which holds for all services."""

from __future__ import annotations

from typing import Annotated, Any

import attrs

from monconn.policy.kinds import COUNT, MAX_COUNT, POSITIVE_SECONDS, Kind
from monconn.policy.settings import validated


def _from_to(low: int, high: int) -> Kind:
    def checked(count: int) -> int:
        if not low <= count <= high:
            raise ValueError(f"must be from {low} to {high}")
        return count

    def check(value: Any) -> int | None:
        return None if value is None else checked(COUNT.check(value))

    return Kind(f"from {low} to {high}, or unset", check, lambda text: checked(COUNT.parse(text)))


def _check_positive_seconds(value: Any) -> float | None:
    seconds: float | None = None if value is None else POSITIVE_SECONDS.check(value)
    if seconds == 0:
        raise ValueError("must be more than 0")
    return seconds


PREFIX_V4, PREFIX_V6 = _from_to(1, 32), _from_to(1, 128)
KEPT, TIMES = _from_to(1, MAX_COUNT), _from_to(0, MAX_COUNT)
WITHIN = Kind(
    "seconds but not 0, or unset",
    _check_positive_seconds,
    lambda text: POSITIVE_SECONDS.parse(text),
)


@attrs.frozen(field_transformer=validated)
class DeviceRules:
    """Which clients of a service are one device, and when it raises alarms.

    What is None is as ``devices:`` of the configuration says, or is built in.

    :raises SettingError: a value is not valid.
    """

    prefix_v4: Annotated[int | None, PREFIX_V4] = None
    """The bits that clients of one device have in common."""
    prefix_v6: Annotated[int | None, PREFIX_V6] = None
    kept: Annotated[int | None, KEPT] = None
    """Devices that are remembered; beyond, the one seen longest ago is dropped."""
    silent_heartbeats: Annotated[int | None, TIMES] = None
    """Typical times between messages without one that make a device *silent*; 0 is never."""
    storm_connections: Annotated[int | None, TIMES] = None
    """Reconnects after failures in ``storm_within`` that make a *reconnect storm*; 0 is never."""
    storm_within: Annotated[float | None, WITHIN] = None
    """Seconds."""

    def given(self) -> dict[str, Any]:
        """The values that are not None, by name."""
        return {name: value for name, value in attrs.asdict(self).items() if value is not None}
