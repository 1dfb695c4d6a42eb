"""Services of a program beside a small model of them: who may enter, for which exact reason, and
what is counted, whatever clients do and whoever changes rules, blocks and clocks meanwhile.

The model knows nothing of how it is done: tokens are a number that shrinks, networks are sets of
IPs, and whatever can be counted is counted anew each time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import attrs
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from monconn.addresses import TcpAddress
from monconn.config.config import ServiceConfig
from monconn.errors import QuestionError
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.policy.auto_block import AutoBlock
from monconn.policy.policy import Policy
from monconn.policy.quantities import Rate
from monconn.policy.rules import RULES
from monconn.run import supervisor
from tests.monitor.test_invariant import Connection
from tests.properties import examples

IPS = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "192.0.2.1", "2001:db8::1", "2001:db8::2", "unix"]
SPELLINGS = {**{ip: ip for ip in IPS}, "::ffff:10.0.0.1": "10.0.0.1", "::ffff:a00:101": "10.0.1.1"}
NETWORKS = {
    "10.0.0.1/32": {"10.0.0.1"},
    "10.0.0.0/24": {"10.0.0.1", "10.0.0.2"},
    "10.0.0.0/16": {"10.0.0.1", "10.0.0.2", "10.0.1.1"},
    "192.0.2.0/24": {"192.0.2.1"},
    "2001:db8::1/128": {"2001:db8::1"},
    "2001:db8::/64": {"2001:db8::1", "2001:db8::2"},
    "::/0": {"2001:db8::1", "2001:db8::2"},
    # Of clients, for auto_block.
    "10.0.0.2/32": {"10.0.0.2"},
    "10.0.1.1/32": {"10.0.1.1"},
    "10.0.1.0/24": {"10.0.1.1"},
    "192.0.2.1/32": {"192.0.2.1"},
    "2001:db8::2/128": {"2001:db8::2"},
}
NAMED = list(NETWORKS)[:7]
CLIENTS = {  # by the length of prefix of IPv4 and IPv6
    (32, 64): {ip: "2001:db8::/64" if ":" in ip else f"{ip}/32" for ip in IPS},
    (24, 128): {ip: f"{ip}/128" if ":" in ip else f"{ip.rpartition('.')[0]}.0/24" for ip in IPS},
}
for each in CLIENTS.values():
    each["unix"] = "unix"
SERVICES = ["web", "mqtt"]
# Everything in powers of two, so that no sum is rounded.
SECONDS = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 16.0, 64.0, 4096.0]
FOR_SECONDS = [0.5, 1.0, 2.0, 4.0, 16.0, None]
REASONS: Any = ["client_closed", "client_reset", "backend_refused"]
WAIT_SECONDS = 2.0

rates = st.sampled_from([None, None, None, Rate(1, 1.0, 2), Rate(2, 1.0, 1), Rate(1, 4.0, 3)])
limits = st.sampled_from([0, 0, 0, 1, 2, 3, 5])
few_networks: Any = st.sampled_from(
    [[], [], [], *([name] for name in NAMED), ["10.0.0.1/32", "10.0.0.0/16"]]
)
auto_blocks: Any = st.sampled_from(
    [
        None,
        None,
        {"of": ["client_reset"], "after": 2, "within": 4.0, "for_": 8.0},
        {"of": ["per_ip_limit", "client_reset"], "after": 3, "within": 1.0, "for_": 1.0},
        {"of": ["blocked", "not_allowed"], "after": 2, "within": 16.0, "for_": 2.0},
        {"of": ["rate"], "after": 1, "within": 4.0, "for_": 4.0, "never": ["10.0.0.2"]},
    ]
)
_SETTINGS: dict[str, Any] = {
    "block": few_networks,
    "allow": st.sampled_from([[], [], [], ["10.0.0.0/16", "::/0"]]),
    "conn_limit": limits,
    "ip_limit": limits,
    "per_ip_limit": limits,
    "rate": rates,
    "per_ip_rate": rates,
    "when_full": st.sampled_from(["wait", "refuse"]),
    "dry_run": st.lists(st.sampled_from(RULES), max_size=2, unique=True),
    "auto_block": auto_blocks,
    "prefixes": st.sampled_from(list(CLIENTS)),
}
policies = st.fixed_dictionaries(_SETTINGS)
KEYS = list(_SETTINGS)


class FakePort:
    """A listener whose clients come by the rules of the machine."""

    def __init__(self, config: ServiceConfig, monitor: Monitor, files: Any) -> None:
        self.listen = str(config.listen)
        self.files = files
        self._monitor = monitor
        self._cancel: Any = None

    def start(self) -> None:
        self._cancel = self._cancel or self._monitor.room.subscribe(lambda: None)

    def changed_files(self, files: Any) -> tuple[str, ...]:
        return ()

    def accept_queued(self) -> None:
        """Nobody waits."""

    def accept_in_steps(self) -> Iterator[None]:
        """Nobody waits."""
        return iter(())

    def close(self) -> Deferred[None]:
        if self._cancel is not None:
            self._cancel()
        return succeed(None)


async def open_fake_port(
    config: ServiceConfig, monitor: Monitor, paths: Any, reactor: Any, late: Any, files: Any
) -> FakePort:
    return FakePort(config, monitor, files)


def as_policy(settings: dict[str, Any]) -> Policy:
    given = {key: value for key, value in settings.items() if key != "prefixes"}
    if given["auto_block"] is not None:
        given["auto_block"] = AutoBlock(**given["auto_block"])
    v4, v6 = settings["prefixes"]
    return Policy.of(**given, prefix_v4=v4, prefix_v6=v6, wait_timeout=WAIT_SECONDS)


@attrs.define
class Tokens:
    """How many tokens are missing, which grow again."""

    rate: Rate
    missing: float = 0.0

    def pass_time(self, seconds: float) -> None:
        self.missing = max(0.0, self.missing - seconds * self.rate.count / self.rate.period_seconds)

    @property
    def has_one(self) -> bool:
        return self.missing <= self.rate.burst - 1

    def changed(self, rate: Rate) -> Tokens:
        return Tokens(rate, min(self.missing, rate.burst))


@attrs.define
class Live:
    """A connection, and what is to become of it."""

    connection: Connection
    reason: str | None = None

    @property
    def ip(self) -> str:
        return self.connection.record.client_ip

    def end(self, reason: str) -> None:
        self.reason = self.reason or reason


@attrs.define(eq=False)
class Service:
    """What the model knows of a service."""

    monitor: Monitor
    settings: dict[str, Any]
    everywhere: dict[str, float | None]
    """Until when networks are blocked at all services."""
    state: str = "running"
    paused_until: float | None = None
    stops_at: float | None = None
    live: list[Live] = attrs.Factory(list)
    pending: list[ConnectionRecord] = attrs.Factory(list)
    """Those amid a handshake: they are asked about once more."""
    blocked: dict[tuple[str, str], float | None] = attrs.Factory(dict)
    """Until when, by source and network."""
    lifted: set[str] = attrs.Factory(set)
    tokens: Tokens | None = None
    tokens_of: dict[str, Tokens] = attrs.Factory(dict)
    events: dict[str, list[tuple[float, str]]] = attrs.Factory(dict)
    refused: Counter[str] = attrs.Factory(Counter)
    would_refuse: Counter[str] = attrs.Factory(Counter)
    opened: int = 0

    def __attrs_post_init__(self) -> None:
        if self.settings["rate"] is not None:
            self.tokens = Tokens(self.settings["rate"])

    @property
    def is_registered(self) -> bool:
        return self.state != "stopping" or bool(self.live)

    def client(self, ip: str) -> str:
        return CLIENTS[self.settings["prefixes"]][ip]

    def own(self, ip: str) -> list[Live]:
        return [each for each in self.live if self.client(each.ip) == self.client(ip)]

    def own_tokens(self, ip: str) -> Tokens | None:
        if self.settings["per_ip_rate"] is None:
            return None
        return self.tokens_of.setdefault(self.client(ip), Tokens(self.settings["per_ip_rate"]))

    # -- what is blocked

    def run_time_networks(self, now: float, *, everywhere: bool = True) -> set[str]:
        found = {name for (_, name), until in self.blocked.items() if until is None or now < until}
        if everywhere:
            found |= {name for name, at in self.everywhere.items() if at is None or now < at}
        return found

    def configured_networks(self) -> set[str]:
        return set(self.settings["block"]) - self.lifted

    def is_blocked(self, ip: str, now: float) -> str | None:
        """Whether at run time, or as configured."""
        if any(ip in NETWORKS[name] for name in self.run_time_networks(now)):
            return "run time"
        is_configured = any(ip in NETWORKS[name] for name in self.configured_networks())
        return "configured" if is_configured else None

    def end_blocked(self, names: set[str]) -> None:
        for each in self.live:
            if any(each.ip in NETWORKS[name] for name in names):
                each.end("blocked")

    # -- who may enter

    def judge(
        self, ip: str, now: float, *, asks_rates: bool = True, has_waited: bool = False
    ) -> tuple[str | None, tuple[str, ...]]:
        """Why it is refused, and what dry runs would say.

        :param has_waited: until there is room, and a token.
        """
        settings, own, tokens = self.settings, self.own(ip), self.own_tokens(ip)
        if self.state in ("draining", "stopping"):
            return self.state, ()
        blocked = self.is_blocked(ip, now)
        is_allowed = not settings["allow"] or any(
            ip in NETWORKS[name] for name in settings["allow"]
        )
        clients = {self.client(each.ip) for each in self.live}
        refusing = {
            "blocked": blocked is not None,
            "not_allowed": not is_allowed,
            "per_ip_limit": 0 < settings["per_ip_limit"] <= len(own),
            "per_ip_rate": asks_rates and tokens is not None and not tokens.has_one,
            "conn_limit": 0 < settings["conn_limit"] <= len(self.live),
            "ip_limit": not own and 0 < settings["ip_limit"] <= len(clients),
            "rate": asks_rates and self.tokens is not None and not self.tokens.has_one,
        }
        if has_waited and settings["when_full"] == "wait":
            refusing |= {"conn_limit": False, "rate": False}
        would_refuse: tuple[str, ...] = ()
        for key, (refusal, refuses) in zip(RULES, refusing.items(), strict=True):
            if refuses and (
                key not in settings["dry_run"] or (key == "block" and blocked == "run time")
            ):
                return refusal, would_refuse
            if refuses:
                would_refuse += (refusal,)
        return None, would_refuse

    def take_tokens(self, ip: str) -> None:
        for tokens in (self.tokens, self.own_tokens(ip)):
            if tokens is not None and tokens.has_one:
                tokens.missing += 1

    def must_wait(self) -> bool:
        settings = self.settings
        if self.state != "running":
            return self.state == "paused"
        if settings["when_full"] == "refuse":
            return False
        is_full = 0 < settings["conn_limit"] <= len(self.live)
        has_token = self.tokens is None or self.tokens.has_one
        return (is_full and "conn_limit" not in settings["dry_run"]) or (
            not has_token and "rate" not in settings["dry_run"]
        )

    # -- auto_block

    def count(self, ip: str, what: str | None, now: float) -> None:
        settings = self.settings["auto_block"]
        if settings is None or what is None or what not in settings["of"]:
            return
        client = self.client(ip)
        events = self.events.get(client, [])
        events = [(at, each) for at, each in events if at >= now - settings["within"]]
        self.events[client] = [*events, (now, what)]
        if len(self.events[client]) < settings["after"]:
            return
        del self.events[client]
        never = settings.get("never", ())
        if client == "unix" or any(each in NETWORKS[client] for each in never):
            return
        blocked = self.is_blocked(ip, now)
        is_dry_run = blocked == "configured" and "block" in self.settings["dry_run"]
        if blocked is not None and not is_dry_run:
            if "blocked" not in settings["of"] or blocked == "configured":
                return
            if self.deciding_source(ip, now) != "auto":
                return
        self.blocked["auto", client] = now + settings["for_"]
        self.end_blocked({client})

    def deciding_source(self, ip: str, now: float) -> str:
        """Whose block of the smallest network it is that ends last; of the service, if it has
        one."""
        own = [
            (len(NETWORKS[name]), -int(name.rpartition("/")[2]), name)
            for name in self.run_time_networks(now, everywhere=False) | self.configured_networks()
            if ip in NETWORKS[name]
        ]
        if not own:
            return "operator"
        name = min(own, key=lambda each: each[1])[2]
        if name in self.configured_networks():
            return "configuration"
        ends = {
            source: float("inf") if until is None else until
            for (source, network), until in self.blocked.items()
            if network == name and (until is None or now < until)
        }
        return max(ends, key=lambda source: (ends[source], source == "operator"))


class Program(RuleBasedStateMachine):
    """A registry, beside the model's services."""

    def __init__(self) -> None:
        super().__init__()
        self.wall = 1_800_000_000.0
        self._patches: list[Any] = [
            patch.object(time, "time", lambda: self.wall),
            patch.object(supervisor, "open_port", open_fake_port),
        ]
        for each in self._patches:
            each.start()
        self.clock = Clock()
        self.clock.advance(1024)
        self.registry = Registry(clock=self.clock)
        self.supervisor = supervisor.Supervisor(
            MemoryReactorClock(), self.registry, clock=self.clock
        )
        self.all_services: dict[str, Service] = {}
        """Those that have been removed among them: a later configuration may have them again."""
        self.everywhere: dict[str, float | None] = {}

    def teardown(self) -> None:
        for each in self._patches:
            each.stop()

    @property
    def now(self) -> float:
        return float(self.clock.seconds())

    @property
    def all(self) -> list[Service]:
        return list(self.all_services.values())

    @property
    def services(self) -> dict[str, Service]:
        """Those that run."""
        return {name: each for name, each in self.all_services.items() if each.state != "stopping"}

    @property
    def registered(self) -> list[Service]:
        return [each for each in self.all if each.is_registered]

    @initialize(first=policies, second=policies)
    def boot(self, first: dict[str, Any], second: dict[str, Any]) -> None:
        self.reload({"web": first, "mqtt": second})

    # -- what clients do

    def chosen(self, number: int) -> Service:
        """A service that runs, or once in a while one that has been removed."""
        removed = [each for each in self.all if each.state == "stopping"]
        if removed and (number == 7 or not self.services):
            return removed[-1]
        return list(self.services.values())[number % len(self.services)]

    @precondition(lambda self: self.all)
    @rule(
        number=st.integers(0, 7),
        spellings=st.lists(st.sampled_from(list(SPELLINGS)), min_size=1, max_size=6),
        way=st.sampled_from(["listener", "direct", "tls"]),
    )
    def come(self, number: int, spellings: list[str], way: str) -> None:
        for spelling in spellings:
            self.come_once(self.chosen(number), spelling, way)

    @precondition(lambda self: self.services)
    @rule(
        number=st.integers(0, 6),
        spelling=st.sampled_from(list(SPELLINGS)),
        times=st.integers(1, 6),
        seconds=st.sampled_from(SECONDS[:4]),
    )
    def come_again(self, number: int, spelling: str, times: int, seconds: float) -> None:
        """As a client that is refused, or reset, and tries once more."""
        for _ in range(times):
            self.come_once(self.chosen(number), spelling, "direct")
            self.wait(seconds)

    def come_once(self, service: Service, spelling: str, way: str) -> None:
        monitor, ip = service.monitor, SPELLINGS[spelling]
        if way == "listener":
            assert monitor.room.must_wait() == service.must_wait()
            if service.must_wait():
                return  # it is left in the queue
        refusal, would_refuse = service.judge(ip, self.now)
        self.ask_why(service, spelling, refusal, would_refuse)
        record = monitor.admit("client", spelling)
        service.would_refuse.update(would_refuse)
        if refusal is not None:
            assert record is None
            self.refuse(service, ip, refusal)
            return
        assert record is not None
        assert record.client_ip == ip
        assert record.would_refuse == would_refuse
        service.take_tokens(ip)
        if way == "tls":
            service.pending.append(record)
        else:
            self.open(service, record)

    def ask_why(
        self, service: Service, spelling: str, refusal: str | None, would_refuse: tuple[str, ...]
    ) -> None:
        why = service.monitor.why(spelling)
        assert why.state == service.state
        assert why.connections == len(service.own(SPELLINGS[spelling]))
        if service.state in ("running", "paused") and service.must_wait():
            assert why.outcome == "waits"
            refusal, _ = service.judge(SPELLINGS[spelling], self.now, has_waited=True)
        else:
            assert why.outcome == ("enters" if refusal is None else "refused")
        assert why.refusal == refusal
        if service.state in ("running", "paused"):
            assert why.would_refuse == would_refuse
        figures = {each.rule: each.used for each in why.rules}
        settings, tokens = service.settings, service.own_tokens(why.ip)
        if settings["per_ip_limit"]:
            assert figures["per_ip_limit"] == why.connections
        if settings["conn_limit"]:
            assert figures["conn_limit"] == len(service.live)
        if service.tokens is not None:
            assert figures["rate"] == service.tokens.missing
        if tokens is not None:
            assert figures["per_ip_rate"] == tokens.missing
        counted = None
        if settings["auto_block"] is not None:
            first = self.now - settings["auto_block"]["within"]
            counted = sum(at >= first for at, _ in service.events.get(service.client(why.ip), []))
        assert why.auto_block_used == counted

    def open(self, service: Service, record: ConnectionRecord) -> None:
        connection = Connection(service.monitor, record)
        service.monitor.opened(connection)
        service.live.append(Live(connection))
        service.opened += 1

    def refuse(self, service: Service, ip: str, refusal: str) -> None:
        service.refused[refusal] += 1
        service.count(ip, refusal, self.now)
        self.clock.advance(0)

    @precondition(lambda self: any(each.pending for each in self.all))
    @rule(number=st.integers(0, 5))
    def complete_a_handshake(self, number: int) -> None:
        """It is asked about once more, and takes no second token."""
        services = [each for each in self.all if each.pending]
        service = services[number % len(services)]
        record = service.pending.pop(0)
        before = record.would_refuse
        refusal, would_refuse = service.judge(record.client_ip, self.now, asks_rates=False)
        admitted = service.monitor.admit("client", record.client_ip, record=record)
        service.would_refuse.update(each for each in would_refuse if each not in before)
        if refusal is not None:
            assert admitted is None
            self.refuse(service, record.client_ip, refusal)
        else:
            assert admitted is record
            self.open(service, record)

    @precondition(lambda self: any(each.live for each in self.all))
    @rule(number=st.integers(0, 50), reason=st.sampled_from(REASONS), times=st.integers(1, 4))
    def go(self, number: int, reason: Any, times: int) -> None:
        """Connections end, and their sockets are closed."""
        for _ in range(times):
            live = [(service, each) for service in self.all for each in service.live]
            if not live:
                return
            service, each = live[number % len(live)]
            record = each.connection.record
            record.end(reason, self.now)
            each.end(reason)
            service.live.remove(each)
            service.monitor.closed(each.connection)
            assert record.reason == each.reason
            service.count(each.ip, None if each.reason == "blocked" else each.reason, self.now)
            self.clock.advance(0)

    # -- clocks

    @rule(seconds=st.sampled_from(SECONDS))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall += seconds
        for service in self.all:
            for tokens in (service.tokens, *service.tokens_of.values()):
                if tokens is not None:
                    tokens.pass_time(seconds)
            until = service.paused_until
            if service.state == "paused" and until is not None and self.now >= until:
                service.state = "running"
            if service.stops_at is not None and self.now >= service.stops_at:
                for each in service.live:
                    each.end("stopping")

    @rule(seconds=st.sampled_from([-1e8, -3600.0, -1.0, 1.0, 3600.0, 1e8]))
    def step_the_wall_clock(self, seconds: float) -> None:
        self.wall += seconds

    # -- what operators do

    @rule(
        name=st.sampled_from(NAMED),
        number=st.integers(0, 2),
        seconds=st.sampled_from(FOR_SECONDS),
        keep_open=st.booleans(),
    )
    def block(self, name: str, number: int, seconds: float | None, keep_open: bool) -> None:
        until = None if seconds is None else self.now + seconds
        chosen = self.registered
        where: Any = self.registry
        if number < len(chosen):
            where, chosen = chosen[number].monitor, [chosen[number]]
            chosen[0].blocked["operator", name] = until
            if until is None:
                chosen[0].lifted.discard(name)
        else:
            self.everywhere[name] = until
        where.block(name, for_seconds=seconds, keep_open=keep_open)
        for service in () if keep_open else chosen:
            service.end_blocked({name})

    @rule(name=st.sampled_from(NAMED), number=st.integers(0, 2))
    def unblock(self, name: str, number: int) -> None:
        chosen = self.registered
        where: Any = self.registry
        is_there = False
        if number < len(chosen):
            where, chosen = chosen[number].monitor, [chosen[number]]
        else:
            until = self.everywhere.pop(name, 0.0)
            is_there = until is None or self.now < until
        for service in chosen:
            of_service = service.run_time_networks(self.now, everywhere=False)
            is_there = is_there or name in of_service | service.configured_networks()
            for source in ("operator", "auto"):
                service.blocked.pop((source, name), None)
            if name in service.settings["block"]:
                service.lifted.add(name)
        if where is self.registry:  # those that are gone may come back, and have it unblocked then
            for service in self.all:
                if not service.is_registered:
                    for source in ("operator", "auto"):
                        service.blocked.pop((source, name), None)
                    if name in service.settings["block"]:
                        service.lifted.add(name)
        assert where.unblock(name) == is_there

    @precondition(lambda self: self.services)
    @rule(
        number=st.integers(0, 1),
        what=st.sampled_from(["resume", "resume", "resume", "pause", "drain"]),
        seconds=st.sampled_from(FOR_SECONDS),
    )
    def pause_or_drain(self, number: int, what: str, seconds: float | None) -> None:
        service = list(self.services.values())[number % len(self.services)]
        if what == "drain":
            service.monitor.drain()
            service.state = "draining"
        elif what == "resume":
            assert service.monitor.resume() == (service.state != "running")
            service.state = "running"
        else:
            try:
                service.monitor.pause(seconds)
            except QuestionError:
                assert service.state == "draining"
                return
            assert service.state != "draining"
            service.state = "paused"
            service.paused_until = None if seconds is None else self.now + seconds

    # -- configurations

    @rule(
        policy=policies,
        name=st.sampled_from(SERVICES),
        others=st.sampled_from(["stay", "stay", "stay", "go"]),
    )
    def reload_services(self, policy: dict[str, Any], name: str, others: str) -> None:
        configured = {name: policy}
        if others == "stay":
            configured |= {
                each: service.settings for each, service in self.services.items() if each != name
            }
        self.reload(configured)

    @precondition(lambda self: self.services)
    @rule(number=st.integers(0, 1), policy=policies, key=st.sampled_from(KEYS))
    def change_one_setting(self, number: int, policy: dict[str, Any], key: str) -> None:
        name = list(self.services)[number % len(self.services)]
        configured = {each.monitor.name: each.settings for each in self.services.values()}
        configured[name] = {**configured[name], key: policy[key]}
        self.reload(configured)

    def reload(self, configured: dict[str, Any]) -> None:
        """Bring the services to another configuration: some are new, some go on, some end."""
        configs = [
            ServiceConfig(
                name, TcpAddress("127.0.0.1", port), TcpAddress("10.0.0.5", 80), as_policy(settings)
            )
            for port, name in enumerate(SERVICES, 1024)
            if (settings := configured.get(name)) is not None
        ]
        applied: list[Any] = []
        self.supervisor.apply(self.supervisor.services, configs).addBoth(applied.append)
        assert isinstance(applied[0], supervisor.Changes)
        for name in SERVICES:
            settings, service = configured.get(name), self.all_services.get(name)
            if service is None and settings is not None:
                monitor = self.registry.get(name)
                self.all_services[name] = Service(monitor, settings, self.everywhere)
            elif service is not None and settings is not None:
                if service.state == "stopping":  # it has come back: what has not ended goes on
                    assert self.registry.get(name) is service.monitor
                    service.state, service.stops_at = "running", None
                self.apply(service, settings)
            elif service is not None and service.state != "stopping":
                service.state, service.stops_at = "stopping", self.now + WAIT_SECONDS

    def apply(self, service: Service, settings: dict[str, Any]) -> None:
        before, now = service.settings, self.now
        blocked_before = service.run_time_networks(now, everywhere=False)
        blocked_before |= service.configured_networks()
        service.settings = settings
        service.lifted &= set(settings["block"])
        if "block" not in settings["dry_run"]:
            new = service.configured_networks() - blocked_before
            if "block" in before["dry_run"]:
                new = service.configured_networks()
            service.end_blocked(new)
        if settings["rate"] is None:
            service.tokens = None
        elif service.tokens is None:
            service.tokens = Tokens(settings["rate"])
        else:
            service.tokens = service.tokens.changed(settings["rate"])
        if settings["per_ip_rate"] is None or settings["prefixes"] != before["prefixes"]:
            service.tokens_of = {}
        elif before["per_ip_rate"] is not None:
            service.tokens_of = {
                client: tokens.changed(settings["per_ip_rate"])
                for client, tokens in service.tokens_of.items()
            }
        old, new_auto = before["auto_block"], settings["auto_block"]
        if old is None or new_auto is None or old["of"] != new_auto["of"]:
            service.events = {}

    # -- what must be so at every moment

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        names = {each.monitor.name for each in self.registered}
        assert set(self.registry.names()) == names
        for service in self.all:
            monitor = service.monitor
            assert monitor.state == service.state
            assert monitor.connections() == [each.connection.record for each in service.live]
            for each in service.live:
                assert each.connection.record.reason == each.reason
            ips = Counter(each.ip for each in service.live)
            assert monitor.connections_by_ip() == ips
            stats = monitor.stats()
            assert (stats["connections"], stats["total"]) == (len(service.live), service.opened)
            assert stats["refused_by"] == {key: n for key, n in service.refused.items() if n}
            assert monitor.totals().would_refuse == service.would_refuse
            for ip in IPS:
                assert monitor.is_blocked(ip) == (service.is_blocked(ip, self.now) is not None)
            networks = service.run_time_networks(self.now, everywhere=False)
            networks |= service.configured_networks()
            assert {str(each) for each in monitor.blocks()} == networks
            assert monitor.room.must_wait() == service.must_wait()


# At some 45 steps each: 115,000 steps in `make full`, of which no part takes long.
PARTS = examples(1, in_full=8)


@pytest.mark.hypothesis
@pytest.mark.parametrize("part", range(PARTS))
def test_everything_is_as_the_model_says(part: int, pytestconfig: pytest.Config) -> None:
    given = pytestconfig.getoption("hypothesis_seed")
    machine: Any = seed(f"{given} {part}")(type("Program", (Program,), {}))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(30, in_full=320),
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
