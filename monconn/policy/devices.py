"""What of a service's devices differs from ``devices:``, which holds for all services."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import attrs

from monconn.addresses import NAME_CHARACTERS, Network, parse_network
from monconn.errors import printable, quoted
from monconn.policy.kinds import COUNT, MAX_COUNT, POSITIVE_SECONDS, Kind
from monconn.policy.settings import validated

ADDRESS = "address"
"""In ``identity``, what a device is called by if its connections tell no name."""
USUAL_IDENTITY = ("mqtt_client_id", ADDRESS)
MOST_NAMES = 10_000
_MOST_FACTS = 8
_FACT = re.compile("[a-z][a-z0-9_]{0,31}")

Names = tuple[tuple[Network, str], ...]


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


def _check_identity(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise TypeError("must be a list such as [mqtt_client_id, address]")
    for each in value:
        if not isinstance(each, str) or not _FACT.fullmatch(each):
            raise ValueError(
                "must be a list of names of facts, such as [mqtt_client_id, address], and"
                f" {quoted(str(each))} is none"
            )
    if not value:
        raise ValueError("must not be empty: [address] is by addresses alone")
    if len(set(value)) < len(value):
        raise ValueError("must not name the same twice")
    if ADDRESS in value[:-1]:
        raise ValueError(
            "must have address last: each connection has one, and what follows would never count"
        )
    facts = [each for each in value if each != ADDRESS]
    if len(facts) > _MOST_FACTS:
        raise ValueError(f"must name at most {_MOST_FACTS} facts")
    return (*facts, ADDRESS)


def _check_names(value: Any) -> Names | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError('must be a mapping such as {"10.0.0.5": "pump-7"}')
    names: dict[Network, str] = {}
    for network, name in value:
        where = parse_network(str(network))
        if where in names:
            raise ValueError(f"must name {where} once")
        names[where] = check_name(name)
    if len(names) > MOST_NAMES:
        raise ValueError(f"must have at most {MOST_NAMES} names")
    return tuple(names.items())


def check_name(name: object) -> str:
    """A name that is given to an address.

    :raises ValueError: it cannot be shown, or is too long.
    """
    if not isinstance(name, str):
        raise TypeError("must be a mapping of addresses and names")
    if not name.strip() or name != printable(name) or len(name) > NAME_CHARACTERS:
        raise ValueError(
            f"must have names of 1 to {NAME_CHARACTERS} printable characters, not {quoted(name)}"
        )
    return name


def _parse_names(text: str) -> Names | None:
    pairs = []
    for each in text.split(","):
        network, equals, name = each.partition("=")
        if not equals:
            raise ValueError(f"must be ADDRESS=NAME,ADDRESS=NAME, not {quoted(text)}")
        pairs.append((network, name))
    return _check_names(pairs)


IDENTITY = Kind(
    "names of facts, and address; or unset",
    _check_identity,
    lambda text: _check_identity(tuple(text.split(","))),
)
NAMES = Kind("names by address or network, or unset", _check_names, _parse_names)
PREFIX_V4, PREFIX_V6 = _from_to(1, 32), _from_to(1, 128)
KEPT, TIMES, PERCENT = _from_to(1, MAX_COUNT), _from_to(0, MAX_COUNT), _from_to(1, 100)
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
    outage_devices: Annotated[int | None, TIMES] = None
    """Devices that are missing together, from which on that is one *outage*; 0 is never."""
    outage_percent: Annotated[int | None, PERCENT] = None
    """And how many percent they must be of the service's devices, or of a network's."""
    identity: Annotated[tuple[str, ...] | None, IDENTITY] = None
    """Facts about a connection that name its device, the first that is known; the last is
    ``address``."""
    names: Annotated[Names | None, NAMES] = None
    """Names of addresses and networks, for people; as a mapping in Python code."""

    def given(self) -> dict[str, Any]:
        """The values that are not None, by name."""
        values = attrs.asdict(self, recurse=False)
        return {name: value for name, value in values.items() if value is not None}
