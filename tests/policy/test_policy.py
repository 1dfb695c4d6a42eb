"""Every setting of a service is declared once, and checks itself."""

from __future__ import annotations

import ipaddress
import math
from fractions import Fraction
from typing import Any

import attrs
import pytest

from monconn.errors import MonconnError, SettingError, SettingTypeError
from monconn.policy.devices import DeviceRules
from monconn.policy.networks import NetworkSet
from monconn.policy.policy import SETTINGS, Policy
from monconn.policy.rules import Rules
from monconn.policy.sides import Keepalive, Sides
from monconn.policy.timeouts import Timeouts


def test_every_field_is_a_setting() -> None:
    names = [
        field.name
        for cls in (Rules, Timeouts, DeviceRules, Policy)
        for field in attrs.fields(cls)
        if field.init and field.name not in ("rules", "timeouts", "devices")
    ]
    assert [each.path[-1] for each in SETTINGS.values()] == names
    assert list(Policy().settings()) == list(SETTINGS)


def test_of_and_changed_take_the_keys_of_configurations() -> None:
    policy = Policy.of(max_idle=5, ip_blacklist=["10.0.0.0/8"], keepalive=False)
    assert policy == Policy(
        Rules(block=(ipaddress.ip_network("10.0.0.0/8"),)), Timeouts(max_idle=5), keepalive=False
    )
    changed = policy.changed(conn_limit=3, max_idle=0)
    assert changed.rules == attrs.evolve(policy.rules, conn_limit=3)
    assert changed.settings() == policy.settings() | {"conn_limit": 3, "max_idle": 0}
    assert Policy.of(**changed.settings()) == changed


def test_an_unknown_key() -> None:
    with pytest.raises(SettingError, match=r"^'max_ilde' is not a known setting: did you mean max"):
        Policy.of(max_ilde=5)


@pytest.mark.parametrize(
    ("cls", "key", "value", "message"),
    [
        (Timeouts, "max_idle", -5, r"^Timeouts\(max_idle=-5\): must be 0 or more seconds"),
        (Timeouts, "max_idle", math.nan, r"^Timeouts\(max_idle=nan\): must be a number of seconds"),
        (Timeouts, "max_idle", math.inf, "must be a number of seconds"),
        (Timeouts, "max_idle", 10**400, "at most a hundred years"),
        (Rules, "conn_limit", -1, r"^Rules\(conn_limit=-1\): must be from 0 to 1000000000$"),
        (Rules, "ip_limit", 10**10, "must be from 0 to"),
        (Rules, "when_full", "drop", r"^Rules\(when_full='drop'\): must be wait or refuse$"),
        (Rules, "block", ["10.0.0.256"], "neither an IP address nor a network"),
        (Timeouts, "unreachable_timeout", -1, "must be 0 or more seconds"),
        (Keepalive, "idle", 0, r"^Keepalive\(idle=0\): must be from 1 to 32767 seconds"),
        (Keepalive, "interval", 32768, "must be from 1 to 32767 seconds"),
        (Keepalive, "interval", 0.5, "must be whole seconds: the kernel takes no fraction"),
        (Keepalive, "count", 0, "must be from 1 to 127"),
        (Keepalive, "count", 128, "must be from 1 to 127"),
        (Policy, "wait_timeout", -1, r"^Policy\(wait_timeout=-1\): must be 0 or more"),
    ],
)
def test_a_wrong_value(cls: Any, key: str, value: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        cls(**{key: value})
    assert isinstance(caught.value, MonconnError)
    assert isinstance(caught.value, ValueError)
    assert not isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("cls", "key", "value", "message"),
    [
        (Timeouts, "max_idle", "15m", r"^Timeouts\(max_idle='15m'\): must be a number of seconds$"),
        (Timeouts, "max_idle", True, "must be a number of seconds"),
        (Timeouts, "connect_timeout", None, "must be a number of seconds"),
        (Rules, "conn_limit", True, r"^Rules\(conn_limit=True\): must be a whole number$"),
        (Rules, "conn_limit", 5.0, "must be a whole number"),
        (Rules, "block", "10.0.0.0/8", "must be a list of networks"),
        (Rules, "block", [5], "must be a list of networks, and 5 is none"),
        (Rules, "block", None, "must be a list of networks"),
        (Policy, "keepalive", 1, r"^Policy\(keepalive=1\): must be True or False, Keepalive"),
        (Policy, "keepalive", Sides(True, "on"), "must be True or False, Keepalive"),
        (Policy, "keepalive", {"idle": 5}, "must be True or False, Keepalive"),
        (Keepalive, "idle", "30s", r"^Keepalive\(idle='30s'\): must be a number of seconds$"),
        (Keepalive, "count", 3.0, r"^Keepalive\(count=3.0\): must be a whole number$"),
        (Timeouts, "unreachable_timeout", "20s", "must be a number of seconds"),
        (Timeouts, "unreachable_timeout", Sides(20, None), "must be a number of seconds"),
        (Policy, "rules", None, r"^Policy\(rules=None\): must be Rules\(\.\.\.\)$"),
        (Policy, "timeouts", 5, r"must be Timeouts\(\.\.\.\)$"),
        (Rules, "conn_limit", "x" * 500, r"x…\): must be a whole number$"),
    ],
)
def test_a_wrong_type(cls: Any, key: str, value: Any, message: str) -> None:
    with pytest.raises(SettingTypeError, match=message) as caught:
        cls(**{key: value})
    assert isinstance(caught.value, MonconnError)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("cls", [Rules, Timeouts, Policy])
def test_a_changed_copy_is_checked_as_well(cls: Any) -> None:
    key = next(field.name for field in attrs.fields(cls) if "kind" in field.metadata)
    with pytest.raises(SettingError):
        attrs.evolve(cls(), **{key: object()})


def test_what_is_stored() -> None:
    assert repr(Timeouts(max_idle=300).max_idle) == "300.0"
    assert Timeouts(max_idle=Fraction(1, 2)).max_idle == 0.5  # type: ignore[arg-type]
    networks = ["::ffff:192.0.2.0/120", ipaddress.ip_network("10.0.0.0/8")]
    expected = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("10.0.0.0/8"))
    assert Rules(block=networks).block == expected  # type: ignore[arg-type]
    assert Rules(block=NetworkSet(expected[:1])).block == expected[:1]  # type: ignore[arg-type]


def test_keepalive_and_unreachable_timeout_of_both_sides_or_of_each() -> None:
    fast = Keepalive(idle=5, interval=5.0, count=3)  # type: ignore[arg-type]
    assert repr(fast) == "Keepalive(idle=5, interval=5, count=3)"
    assert Policy().keepalive == Policy.of(keepalive=True).keepalive
    assert Policy().keepalive == Sides(Keepalive(30, 30, 9), Keepalive(30, 30, 9))
    assert Policy.of(keepalive=False).keepalive == Sides(None, None)
    assert Policy.of(keepalive=fast).keepalive == Sides(fast, fast)
    mixed = Policy.of(keepalive=Sides(client=fast, backend=False)).keepalive
    assert (mixed.of("client"), mixed.of("backend")) == (fast, None)
    assert mixed
    assert not Policy.of(keepalive=False).keepalive  # as it was when it was a bool
    assert Policy.of(unreachable_timeout=5).timeouts.unreachable_timeout == Sides(5.0, 5.0)
    timeouts = Timeouts(unreachable_timeout=Sides(client=20, backend=0))
    assert (timeouts.unreachable_timeout.client, timeouts.unreachable_timeout.backend) == (20, 0)
    assert not Timeouts().unreachable_timeout


@pytest.mark.parametrize(
    ("keepalive", "seconds"),
    [
        (True, 30),
        (False, 30),
        (Keepalive(idle=2), 2),
        (Keepalive(idle=300), 30),
        (Sides(client=False, backend=Keepalive(idle=7)), 7),
        (Sides(client=Keepalive(idle=4), backend=Keepalive(idle=7)), 4),
    ],
)
def test_the_first_check_comes_before_the_first_probe(keepalive: Any, seconds: float) -> None:
    timeouts = Timeouts(connect_timeout=0, write_timeout=0, max_idle=0)
    assert Policy.of(keepalive=keepalive).first_check_seconds <= seconds
    assert Policy(timeouts=timeouts, keepalive=keepalive).first_check_seconds == seconds
