"""``monconn notify``, and the same at the manhole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import pytest_twisted
from click.testing import CliRunner
from twisted.internet.task import Clock

from monconn.config.notify import NotifyConfig, NotifyUrl
from monconn.faces.cli.main import main
from monconn.faces.manhole.commands import run
from monconn.model.actions import Action, Actor
from monconn.monitor.interfaces import Observer
from monconn.monitor.registry import Registry
from monconn.ops.operations import Operations
from monconn.sinks.notify.messages import Message
from monconn.sinks.notify.output import Done
from monconn.sinks.notify.senders import DeliveryError
from monconn.sinks.notify.service import NotifyService
from monconn.testing import make_monitor
from tests.faces.cli.test_inspect import Services, with_services

SECRET = "hunter2hunter2"


class Delivery:
    """Answers at once, by the host."""

    def __init__(self, config: NotifyConfig, _: object) -> None:
        self._is_broken = "broken" in config.url.text

    def begin(self, message: Message, done: Done) -> None:
        done("answered 200 OK", DeliveryError("answered 500") if self._is_broken else None)

    def close(self) -> None:
        pass


def outputs(clock: Any, registry: Registry, hosts: Sequence[str]) -> NotifyService:
    configs = [
        NotifyConfig(NotifyUrl(f"https://{host}/{SECRET}"), on=("outage", "blocked"))
        for host in hosts
    ]
    return NotifyService(configs, registry, None, clock, lambda text: lambda row: True, Delivery)


def with_outputs(*hosts: str) -> Callable[[Callable[[Services], None]], Any]:
    def decorate(play: Callable[[Services], None]) -> Any:
        def check(services: Services) -> None:
            port = services.port
            assert port.service is not None
            operations: Any = port.service._factory.operations
            operations._notify = port.on_reactor(outputs, port.clock, port.registry, hosts)
            play(services)

        check.__name__ = play.__name__
        return with_services(check)

    return decorate


@with_outputs("good.example", "broken.example")
def test_outputs_are_listed(services: Services) -> None:
    for arguments in (("notify",), ("notify", "list")):
        first, second = services.json(*arguments)
        assert (first["number"], first["url"]) == (1, "https://good.example/...")
        assert first["on"] == ["outage", "blocked"]
        assert first["filter"] is first["last_sent"] is first["last_error"] is None
        assert (second["state"], second["queued"], second["sent"]) == ("ready", 0, 0)
    head, *rows = services.lines("notify", "--wide")
    assert head[:4] == ["NR", "URL", "ON", "FILTER"]
    assert len(rows) == 2
    csv = services.monconn("notify", "list", "--csv").stdout
    assert csv.splitlines()[0].startswith("number,url,")


class Actions(Observer):
    def __init__(self) -> None:
        self.heard: list[Action] = []

    def acted(self, action: Action) -> None:
        self.heard.append(action)


@with_outputs("good.example", "broken.example")
def test_a_test_says_what_each_said(services: Services) -> None:
    services.web.add_observer(actions := Actions())
    result = services.monconn("notify", "test")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "1 https://good.example/...: ok, answered 200 OK",
        "2 https://broken.example/...: FAILED, answered 500",
    ]
    assert services.json("notify", "test", "1") == [
        {"number": 1, "url": "https://good.example/...", "ok": True, "answer": "answered 200 OK"}
    ]
    result = services.monconn("notify", "test", "2", "--json")
    assert result.exit_code == 1
    assert SECRET not in result.output
    assert [(each.kind, each.target) for each in actions.heard] == [
        ("notify_test", "all outputs"),
        ("notify_test", "output 1"),
        ("notify_test", "output 2"),
    ]


@with_outputs("good.example")
def test_an_output_that_there_is_not(services: Services) -> None:
    result = services.monconn("notify", "test", "7")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no output 7: there is 1" in result.stderr


@with_services
def test_no_output_at_all(services: Services) -> None:
    result = services.monconn("notify", "test")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "the configuration has no notify:" in result.stderr
    result = services.monconn("notify")
    assert result.exit_code == 0
    assert "there is no output" in result.stderr


def test_its_help_is_the_groups() -> None:
    shown = CliRunner().invoke(main, ["notify", "--help"]).output
    assert "list" in shown
    assert "test" in shown


@pytest.mark.parametrize(
    ("line", "status", "expected"),
    [
        ("notify", 0, "https://good.example/..."),
        ("notify test 1", 0, "1 https://good.example/...: ok, answered 200 OK\n"),
        ("notify test", 1, "2 https://broken.example/...: FAILED, answered 500\n"),
        ("notify test 3", 2, "there is no output 3"),
        ("notify test x", 2, "usage: notify [test] [NUMBER]"),
        ("notify tset", 2, "usage: notify [test] [NUMBER]"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_at_the_manhole(line: str, status: int, expected: str) -> None:
    clock, registry = Clock(), Registry()
    registry.add(make_monitor("web", clock))
    notify = outputs(clock, registry, ["good.example", "broken.example"])
    operations = Operations(registry, clock, notify=notify)
    answer = await run(line, operations, Actor.ssh("key", "me"))
    assert answer.status == status
    assert expected in answer.out + answer.err
    assert SECRET not in answer.out + answer.err
