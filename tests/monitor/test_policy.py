"""A monitor's policy is replaced while connections live."""

from __future__ import annotations

import ipaddress
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from monconn.errors import SettingError, SettingTypeError, UnknownConnection
from monconn.monitor.monitor import Monitor
from monconn.policy import networks
from monconn.policy.policy import Policy
from monconn.policy.rules import Rules
from monconn.policy.timeouts import Timeouts
from tests.monitor.test_monitor import Connection, enter, try_to_connect


@pytest.fixture
def monitor() -> Monitor:
    return Monitor("web", clock=Clock())


def test_the_policy_is_the_state() -> None:
    rules, timeouts = Rules(conn_limit=3), Timeouts(max_idle=5)
    monitor = Monitor("web", rules, timeouts, clock=Clock())
    assert monitor.policy == Policy(rules, timeouts)
    assert monitor.rules == rules
    assert monitor.timeouts == timeouts
    assert Monitor(policy=Policy.of(conn_limit=3, keepalive=False), clock=Clock()).policy == (
        Policy(rules=rules, keepalive=False)
    )
    both = Monitor("web", rules, policy=Policy.of(conn_limit=9, max_idle=5), clock=Clock())
    assert both.policy == Policy(rules, timeouts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": 5}, r"^Monitor\(name=5\): must be a text$"),
        ({"rules": 5}, r"^Policy\(rules=5\): must be Rules\(\.\.\.\)$"),
        ({"timeouts": Rules()}, r"^Policy\(timeouts=Rules\(.*must be Timeouts\(\.\.\.\)$"),
        ({"policy": Rules()}, r"^Monitor\(policy=Rules.*must be Policy\(\.\.\.\)$"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingTypeError, match=message):
        Monitor(**arguments)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[2J", "\u202e", "\udc80"])
def test_a_name_is_printable_text_as_in_a_configuration(name: str) -> None:
    with pytest.raises(SettingError, match="must be printable text") as raised:
        Monitor(name)
    assert str(raised.value).isprintable()


# -- ways to change it


def test_a_rule_is_changed_by_setting_it(monitor: Monitor) -> None:
    monitor.rules.conn_limit = 1
    assert monitor.policy == Policy.of(conn_limit=1)
    assert monitor.rules.conn_limit == 1
    assert monitor.rules == Rules(conn_limit=1)
    assert repr(monitor.rules) == repr(Rules(conn_limit=1))
    enter(monitor)
    assert try_to_connect(monitor) is None


def test_rules_and_timeouts_are_changed_by_setting_them(monitor: Monitor) -> None:
    monitor.rules = Rules(ip_limit=2)
    monitor.timeouts = Timeouts(max_idle=3)
    assert monitor.policy == Policy.of(ip_limit=2, max_idle=3)


@pytest.mark.parametrize("value", [-1, True, 2.5, "5", None])
def test_a_wrong_rule_changes_nothing(monitor: Monitor, value: Any) -> None:
    with pytest.raises(SettingError, match=r"^Rules\(conn_limit=.*\): must be "):
        monitor.rules.conn_limit = value
    assert monitor.policy == Policy()


def test_a_rule_that_does_not_exist(monitor: Monitor) -> None:
    with pytest.raises(AttributeError, match="no attribute 'con_limit'"):
        monitor.rules.con_limit = 5
    with pytest.raises(AttributeError):
        monitor.rules.con_limit  # noqa: B018


def test_no_policy_changes_nothing(monitor: Monitor) -> None:
    with pytest.raises(SettingTypeError, match="must be Policy"):
        monitor.apply(None)  # type: ignore[arg-type]
    assert monitor.policy == Policy()


# -- effects on connections and waiting clients


def test_waiting_clients_are_let_in_when_there_is_room(monitor: Monitor) -> None:
    monitor.rules.conn_limit = 1
    enter(monitor)
    waiting: list[bool] = []
    cancel = monitor.room.subscribe(lambda: waiting.append(monitor.room.must_wait()))
    monitor.rules.conn_limit = 2
    assert waiting == [False]
    cancel()
    cancel()  # harmless
    monitor.rules.conn_limit = 3
    assert waiting == [False]


def test_each_live_connection_is_notified_of_changed_timeouts(monitor: Monitor) -> None:
    connections = [enter(monitor) for _ in range(3)]
    monitor.timeouts = Timeouts(max_idle=3)
    assert [each.policy_changes for each in connections] == [1, 1, 1]
    monitor.timeouts = Timeouts(max_idle=3)
    monitor.rules.conn_limit = 5
    assert [each.policy_changes for each in connections] == [1, 1, 1]


def test_a_connection_that_raises_does_not_keep_a_policy_from_the_others(
    monitor: Monitor, logged_failures: list[Failure]
) -> None:
    failing, other = enter(monitor), enter(monitor)
    failing.policy_changed = lambda: 1 / 0  # type: ignore[method-assign,assignment]
    monitor.timeouts = Timeouts(max_idle=3)
    assert other.policy_changes == 1
    (failure,) = logged_failures
    assert failure.check(ZeroDivisionError)
    logged_failures.clear()


def test_a_lower_limit_ends_no_connection(monitor: Monitor) -> None:
    connections = [enter(monitor) for _ in range(3)]
    monitor.rules.conn_limit = 1
    assert [each.record.reason for each in connections] == [None] * 3


def test_newly_blocked_clients_are_ended(monitor: Monitor) -> None:
    stays, goes = enter(monitor, "10.0.0.1"), enter(monitor, "10.1.0.1")
    monitor.apply(Policy.of(ip_blacklist=["10.1.0.0/16"]))
    assert (stays.record.reason, goes.record.reason) == (None, "blocked")
    assert try_to_connect(monitor, "10.1.0.2") is None
    monitor.apply(Policy())
    enter(monitor, "10.1.0.2")


# -- sources of blocks


def blocked(monitor: Monitor) -> dict[str, list[str]]:
    return {
        "configuration": [str(network) for network in monitor.blocks("configuration")],
        "operator": [str(network) for network in monitor.blocks("operator")],
    }


def test_operator_and_configured_blocks_are_separate(monitor: Monitor) -> None:
    monitor.apply(Policy.of(ip_blacklist=["10.0.0.0/8"]))
    monitor.block("192.0.2.1")
    assert blocked(monitor) == {"configuration": ["10.0.0.0/8"], "operator": ["192.0.2.1/32"]}
    monitor.apply(Policy.of(ip_blacklist=["172.16.0.0/12"]))
    assert blocked(monitor) == {"configuration": ["172.16.0.0/12"], "operator": ["192.0.2.1/32"]}
    assert [str(each) for each in monitor.blocks()] == ["172.16.0.0/12", "192.0.2.1/32"]


def test_an_operators_block_outlasts_the_configuration(monitor: Monitor) -> None:
    monitor.apply(Policy.of(ip_blacklist=["10.0.0.0/8"]))
    assert not monitor.block("10.0.0.0/8")  # it is blocked already
    monitor.apply(Policy())
    assert try_to_connect(monitor, "10.0.0.1") is None
    assert monitor.unblock("10.0.0.0/8")
    enter(monitor, "10.0.0.1")


def test_a_configured_network_stays_unblocked_while_the_configuration_lists_it(
    monitor: Monitor,
) -> None:
    policy = Policy.of(ip_blacklist=["10.0.0.0/8"])
    monitor.apply(policy)
    assert monitor.unblock("10.0.0.0/8")
    assert not monitor.unblock("10.0.0.0/8")
    monitor.apply(policy.changed(conn_limit=5, ip_blacklist=["10.0.0.0/8", "192.0.2.1"]))
    enter(monitor, "10.0.0.1")
    assert blocked(monitor) == {"configuration": ["192.0.2.1/32"], "operator": []}
    monitor.apply(Policy())  # it no longer names it: what comes later is new
    monitor.apply(policy)
    assert try_to_connect(monitor, "10.0.0.1") is None


def test_the_operator_may_block_again_what_was_unblocked(monitor: Monitor) -> None:
    monitor.apply(Policy.of(ip_blacklist=["10.0.0.0/8"]))
    monitor.unblock("10.0.0.0/8")
    assert monitor.block("10.0.0.0/8")
    assert try_to_connect(monitor, "10.0.0.1") is None


def test_bans_of_live_rules(monitor: Monitor) -> None:
    """As it was documented: through the monitor's own operations now."""
    network = ipaddress.ip_network("10.0.0.0/8")
    bans = monitor.rules.block
    assert bans.add(network)
    assert bans.covers("10.1.2.3")
    assert (list(bans), len(bans), monitor.blocks("operator")) == ([network], 1, [network])
    assert bans.remove(network)
    monitor.rules.block = [network]
    assert blocked(monitor) == {"configuration": ["10.0.0.0/8"], "operator": []}


def test_a_block_is_checked_only_against_the_new_network_and_once_for_each_ip(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = [enter(monitor, f"10.0.{number % 10}.1") for number in range(100)]
    for number in range(200):
        monitor.block(f"192.0.2.{number}")
    checked: list[tuple[int, int]] = []
    within = networks.ips_within

    def counting(nets: Any, ips: Any) -> set[str]:
        checked.append((len(nets), len(ips)))
        return within(nets, ips)

    monkeypatch.setattr("monconn.monitor.ending.ips_within", counting)
    monitor.block("10.0.3.0/24")
    assert checked == [(1, 10)]
    ended = [each for each in connections if each.record.reason == "blocked"]
    assert {each.record.client_ip for each in ended} == {"10.0.3.1"}
    assert len(ended) == 10


# -- a stop that is revoked


def test_a_stopping_monitor_can_be_resumed() -> None:
    clock = Clock()
    monitor = Monitor("web", clock=clock)
    connection: Connection = enter(monitor)
    stopped = monitor.stop(5.0)
    assert try_to_connect(monitor) is None
    monitor.resume()
    assert stopped.called
    clock.advance(60.0)
    assert connection.record.reason is None
    enter(monitor)


def test_frozen(monitor: Monitor) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        monitor.policy.print_bytes = True  # type: ignore[misc]


def test_a_connection_that_cannot_be_watched(monitor: Monitor) -> None:
    connection = enter(monitor)
    with pytest.raises(UnknownConnection, match="cannot be watched"):
        monitor.watch(connection.record.id, print)
    with pytest.raises(UnknownConnection, match="no live connection"):
        monitor.watch(connection.record.id + 1, print)
