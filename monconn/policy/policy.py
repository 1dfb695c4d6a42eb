"""Every setting of a service, once, for configuration, monitor, endpoint string and library."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

import attrs

from monconn.errors import SettingError
from monconn.policy.devices import DeviceRules
from monconn.policy.kinds import Decode, Flag, Payload, Seconds
from monconn.policy.recorder import OptionalRecorder
from monconn.policy.rules import Rules
from monconn.policy.settings import FORWARDING_ONLY, Setting, settings_of, validated
from monconn.policy.sides import KeepaliveOfSides, check_keepalive
from monconn.policy.timeouts import Timeouts

OLDER_NAMES = {"ip_blacklist": "block"}
"""Settings by the names that they had before, which the Go tool's files have: still understood."""

_FORBIDDEN = {"print_bytes": "to print bytes", "recorder": "recordings"}
"""The settings that payload: never contradicts, and what it forbids."""


def forbidden_payload(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each setting that contradicts ``payload: never`` among others, and a message.

    :param settings: values by their keys.
    """
    if settings.get("payload") == "never":
        for key, what in _FORBIDDEN.items():
            if settings.get(key):
                advice = f"write {key}: false, or payload: allowed"
                yield key, f"payload: never forbids {what}: {advice}"


@attrs.frozen(field_transformer=validated)
class Policy:
    """Every setting of a service: which clients it admits, and its limits on connections.

    A new setting is one more field here, in :class:`Rules`, :class:`Timeouts` or
    :class:`DeviceRules`: the keys of
    configuration files and endpoint strings follow from the fields.

    :raises SettingError: a value is not valid.
    """

    rules: Rules = attrs.field(default=Rules())
    timeouts: Timeouts = attrs.field(default=Timeouts())
    devices: DeviceRules = attrs.field(default=DeviceRules())
    wait_timeout: Seconds = attrs.field(default=60.0, metadata=FORWARDING_ONLY)
    """Seconds that a stopping service waits for its connections; 0 = not at all."""
    spread: Seconds = attrs.field(default=0.0, metadata=FORWARDING_ONLY)
    """Seconds over which a stopping service ends its connections evenly, in random order.

    No more than ``wait_timeout`` of it counts. 0 = it waits for them, and then ends them at once.
    """
    keepalive: KeepaliveOfSides = attrs.field(default=True, converter=check_keepalive)
    """How the kernel probes each side's peer while it is silent, so that a vanished one is noticed.

    Takes ``True``, ``False`` or a :class:`~monconn.policy.sides.Keepalive` for both sides, or
    :class:`~monconn.policy.sides.Sides` of them. As a truth value it says whether any side has it.
    """
    print_bytes: Flag = attrs.field(default=False, metadata=FORWARDING_ONLY)
    """Whether each chunk is printed as a hex dump."""
    payload: Payload = "allowed"
    """Whether bytes may be shown or stored at all: by taps, captures, recordings or observers."""

    recorder: OptionalRecorder = None
    """How much of each connection's bytes is recorded; None for nothing.

    Takes ``True``, ``False`` or a :class:`~monconn.policy.recorder.RecorderSettings`.
    """
    decode: Decode = "auto"
    """What is decoded into facts: the first bytes of each connection (``auto``), nothing
    (``off``), or MQTT's packets to the end (``mqtt``)."""

    first_check_seconds: float = attrs.field(init=False, repr=False, eq=False)
    """How long after its opening a connection must be checked for the first time.

    Sockets that did not inherit keepalive from a listener get it then, as most connections end
    before the first probe would be sent. The kernel counts from what it last heard of the peer, so
    that the first probe comes no later.
    """

    @first_check_seconds.default
    def _first_check_seconds(self) -> float:
        idle = [each.idle for each in (self.keepalive.client, self.keepalive.backend) if each]
        return min([self.timeouts.first_check_seconds, *idle])

    def __attrs_post_init__(self) -> None:
        for _, message in forbidden_payload(attrs.asdict(self, recurse=False)):
            raise SettingError(message)

    @classmethod
    def of(cls, **settings: Any) -> Policy:
        """A policy from settings by their keys, such as ``Policy.of(max_idle=60, conn_limit=5)``.

        :raises SettingError: a key is not known, or a value not valid.
        """
        return cls().changed(**settings)

    def changed(self, **settings: Any) -> Policy:
        """The same policy but for some settings, by their keys.

        :raises SettingError: a key is not known, or a value not valid.
        """
        parts: dict[str, dict[str, Any]] = {}
        for older, key in OLDER_NAMES.items():
            if older in settings:
                if key in settings:
                    raise SettingError(f"{older} is an older name of {key}: give one of them")
                settings[key] = settings.pop(older)
        for key, value in settings.items():
            if key not in SETTINGS:
                similar = difflib.get_close_matches(key, SETTINGS, 1)
                advice = f": did you mean {similar[0]}?" if similar else ""
                raise SettingError(f"{key!r} is not a known setting{advice}")
            *part, name = SETTINGS[key].path
            parts.setdefault("".join(part), {})[name] = value
        own = parts.pop("", {})
        nested = {
            part: attrs.evolve(getattr(self, part), **values) for part, values in parts.items()
        }
        return attrs.evolve(self, **own, **nested)

    def settings(self) -> dict[str, Any]:
        """Every setting's value, by its key."""
        return {key: attrgetter(".".join(each.path))(self) for key, each in SETTINGS.items()}


SETTINGS: dict[str, Setting] = {each.key: each for each in settings_of(Policy)}
"""Every setting of a service, by its key in configurations."""
