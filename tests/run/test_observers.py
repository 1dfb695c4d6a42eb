"""The custom observers of a configuration."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from monconn.addresses import TcpAddress
from monconn.config.config import Config, ServiceConfig, parse
from monconn.config.sections import ObserverConfig
from monconn.errors import ConfigError, ObserverError
from monconn.model.record import ConnectionRecord
from monconn.monitor.async_observer import AsyncObserver
from monconn.monitor.interfaces import Observer
from monconn.monitor.registry import Registry
from monconn.run.observers import CustomObservers, check_observers

ADDRESS = TcpAddress("127.0.0.1", 0)


class Mine(Observer):
    made: list[Mine] = []

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self.made.append(self)

    def opened(self, record: ConnectionRecord) -> None:
        self.heard.append(("opened", record.client_ip))

    def refused(self, record: ConnectionRecord) -> None:
        self.heard.append(("refused", record.client_ip))


class MineLater(AsyncObserver):
    made: list[MineLater] = []

    def __init__(self, **limits: int) -> None:
        super().__init__(**limits)
        self.heard: list[str] = []
        self.made.append(self)

    async def opened(self, record: ConnectionRecord) -> None:
        self.heard.append(record.client_ip)


class NeverRuns(Observer):
    async def closed(self, record: ConnectionRecord) -> None:  # type: ignore[override]
        pass


class Stops(Observer):
    def __init__(self) -> None:
        raise GeneratorExit("no")


def config(*observers: ObserverConfig) -> Config:
    services = tuple(ServiceConfig(name, ADDRESS, ADDRESS) for name in ("web", "ssh"))
    return Config(services=services, observers=observers)


def observer(make: Any, **choice: Any) -> ObserverConfig:
    options = choice.pop("options", {})
    return ObserverConfig(f"mine:{make.__name__}", make, options, **choice)


@attrs.define
class Running:
    observers: CustomObservers
    registry: Registry
    clock: Clock

    def connect(self, service: str, ip: str) -> None:
        monitor = self.registry.get(service)
        record = monitor.admit(f"{ip}:1", ip)
        if record is not None:
            monitor.opened(type("Connection", (), {"record": record})())


def run(*observers: ObserverConfig) -> Running:
    Mine.made, MineLater.made = [], []
    registry, clock = Registry(), Clock()
    running = Running(CustomObservers(config(*observers), registry, clock), registry, clock)
    for name in ("web", "ssh"):
        registry.new(name, clock=clock)
    return running


def test_all_of_every_service() -> None:
    running = run(observer(Mine))
    running.connect("web", "10.0.0.1")
    running.connect("ssh", "10.0.0.2")
    assert Mine.made[0].heard == [("opened", "10.0.0.1"), ("opened", "10.0.0.2")]


def test_services_and_a_filter() -> None:
    running = run(
        observer(Mine, services=("ssh",)),
        observer(Mine, filter="client:10.0.0.0/8 not:service:ssh"),
        observer(Mine, filter="reason:blocked"),
    )
    for service in ("web", "ssh"):
        running.connect(service, "10.0.0.1")
        running.registry.get(service).block("192.0.2.0/24")
        running.connect(service, "192.0.2.1")
    of_ssh, near, blocked = (each.heard for each in Mine.made)
    assert of_ssh == [("opened", "10.0.0.1"), ("refused", "192.0.2.1")]
    assert near == [("opened", "10.0.0.1")]
    assert blocked == [("refused", "192.0.2.1")] * 2


def test_a_filter_may_ask_for_what_changes() -> None:
    running = run(observer(Mine, filter="age:5s.."))
    running.clock.advance(1000)
    running.connect("web", "10.0.0.1")
    assert Mine.made[0].heard == []


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ("sevice:web", "did you mean service"),
        ("up:5", "is no range"),
        ("rate:1KiB..", "unknown key"),
        ("event:closed", "an observer has a method for each kind of event"),
    ],
)
def test_a_wrong_filter_is_found_before_and_at_the_start(filter: str, message: str) -> None:
    wrong = config(observer(Mine), observer(Mine, filter=filter))
    with pytest.raises(ConfigError, match=message) as found:
        check_observers(wrong, "file.yaml")
    assert str(found.value).startswith("file.yaml: observers[1].filter: filter: ")
    with pytest.raises(ObserverError, match=f"observers: mine:Mine: filter: .*{message}"):
        CustomObservers(wrong, Registry(), Clock())


def test_an_async_def_that_would_never_run_is_found_before_and_at_the_start() -> None:
    wrong = config(observer(NeverRuns))
    with pytest.raises(ConfigError) as found:
        check_observers(wrong, "file.yaml")
    assert str(found.value) == (
        "file.yaml: observers[0].use: NeverRuns.closed is an async def, which would never run:"
        " derive the class from monconn.AsyncObserver, or write def"
    )
    with pytest.raises(ObserverError, match="observers: mine:NeverRuns: NeverRuns"):
        CustomObservers(wrong, Registry(), Clock())


def test_what_is_wrong_with_one_is_found_with_its_line() -> None:
    text = f"""services: {{web: {{listen: ":80", backend: ":81"}}}}
observers:
  - use: {__name__}:Mine
    filter: "sevice:web"
  - services: [web]
    use: {__name__}:NeverRuns
"""
    with pytest.raises(ConfigError) as found:
        check_observers(parse(text, "file.yaml"), "file.yaml")
    assert [problem.line for problem in found.value.problems] == [4, 6]


def test_one_that_cannot_be_made_for_whatever_reason() -> None:
    with pytest.raises(ObserverError, match="mine:Stops cannot be made: GeneratorExit: no"):
        CustomObservers(config(observer(Stops)), Registry(), Clock())


def test_what_is_right_passes() -> None:
    right = config(observer(Mine, filter="client:10.0.0.0/8"), observer(MineLater))
    assert check_observers(right, "file.yaml") is right


def test_those_with_a_queue_are_counted_and_stopped() -> None:
    running = run(
        observer(Mine),
        observer(MineLater, options={"queued_events": 2}),
        observer(MineLater, filter="client:10.0.0.2"),
    )
    for number in range(5):
        running.connect("web", f"10.0.0.{number}")
    assert running.observers.dropped() == {"mine:MineLater": 3}
    done: list[object] = []
    with capturedLogs() as logged:
        running.observers.stop(1.0).addCallback(done.append)
    assert [each["count"] for each in logged] == [3]
    assert not done
    running.clock.advance(0)
    assert done
    assert [each.heard for each in MineLater.made] == [["10.0.0.0", "10.0.0.1"], ["10.0.0.2"]]
    assert running.clock.getDelayedCalls() == []
