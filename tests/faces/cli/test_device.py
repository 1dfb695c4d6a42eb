"""``monconn device``: over a control port, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest_twisted
from click.testing import CliRunner, Result
from twisted.internet.threads import deferToThread

from monconn.config.sections import DevicesConfig
from monconn.devices.service import DevicesService
from monconn.faces.cli.main import main
from monconn.faces.control.service import ControlService
from monconn.faces.manhole import commands
from monconn.model.actions import OWN_CODE
from monconn.ops.operations import Operations
from tests import running_reactor
from tests.faces.control.conftest import Port


class DevicePort(Port):
    """A control port that knows devices."""

    def _start(self) -> None:
        devices = DevicesService(DevicesConfig(), self.registry, self.clock)
        self.operations = Operations(self.registry, self.clock, devices=devices)
        self.service = ControlService(
            self.config, self.registry, running_reactor(), self.clock, self.operations
        )
        self.service.startService()

    def monconn(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--control", self.where])


def with_port(check: Callable[[DevicePort], None]) -> Any:
    @pytest_twisted.ensureDeferred
    async def test(tmp_path: Path) -> None:
        def run() -> None:
            port = DevicePort(tmp_path)
            with port:
                web = port.monitor("web")
                for connection in port.connections(web, *["192.0.2.1"] * 5):
                    port.on_reactor(connection.end, "client_reset")
                port.connections(web, "192.0.2.1", "2001:db8::5")
                check(port)

        await deferToThread(run)

    test.__name__ = check.__name__
    return test


@with_port
def test_a_device_as_text(port: DevicePort) -> None:
    lines = port.monconn("device", "192.0.2.1").stdout.splitlines()
    assert lines[0] == "device     192.0.2.1 at web"
    assert any(line.startswith("now        id ") for line in lines)
    assert sum("client_reset: the client reset it" in line for line in lines) == 5
    assert lines[-1].endswith("client_reset: the client reset it")  # without a limit
    limited = port.monconn("device", "192.0.2.1", "--limit", "2").stdout.splitlines()
    assert limited[-1] == "4 more: --all"


@with_port
def test_a_device_as_json(port: DevicePort) -> None:
    made = json.loads(port.monconn("device", "2001:db8::77", "--json").stdout)
    assert made["device"] == "2001:db8::/64"
    assert [row["what"] for row in made["timeline"]] == ["open"]
    (service,) = made["services"]
    assert (service["service"], service["total"], service["alarms"]) == ("web", 1, [])


@with_port
def test_an_unknown_device(port: DevicePort) -> None:
    result = port.monconn("device", "192.0.2.9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == ('monconn: there is no device "192.0.2.9"; similar: 192.0.2.1\n')
    assert port.monconn("device", "192.0.2.1", "--service", "ftp").exit_code == 1
    assert port.monconn("device", "192.0.2.1", "--limit", "0").exit_code == 2


@with_port
def test_a_device_in_the_manhole(port: DevicePort) -> None:
    async def ask(line: str) -> commands.Answer:
        return await commands.run(line, port.operations, OWN_CODE)

    def run(line: str) -> Any:
        from twisted.internet.defer import Deferred

        return port.on_reactor(lambda: Deferred.fromCoroutine(ask(line)))

    assert run("device 192.0.2.1").out.startswith("device     192.0.2.1 at web\n")
    answer = run("device nobody")
    assert (answer.status, answer.err[:23]) == (1, 'there is no device "nob')
