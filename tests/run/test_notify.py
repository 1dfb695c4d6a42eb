"""From a configuration to webhooks, with a backend that goes and comes."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from monconn.addresses import parse_network
from monconn.config.config import load
from monconn.devices import backends, service
from monconn.model.actions import CONFIGURATION
from monconn.run.application import Application
from tests import running_reactor
from tests.sinks.notify.test_senders import Server, serving

WAIT_SECONDS = 20.0


def kinds(server: Server) -> list[str]:
    return [json.loads(body)["kind"] for _, _, body in server.requests]


async def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        await deferLater(running_reactor(), 0.02)


def connect(where: str) -> None:
    host, _, port = where.rpartition(":")
    with socket.create_connection((host, int(port)), WAIT_SECONDS) as client:
        client.settimeout(WAIT_SECONDS)
        try:
            client.recv(1)
        except ConnectionResetError:
            pass


@pytest_twisted.ensureDeferred
async def test_a_backend_that_goes_and_comes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "LEAST_SECONDS", 0.05)
    monkeypatch.setattr(service, "POLL_SECONDS", 0.05)
    backend = socket.socket()
    backend.bind(("127.0.0.1", 0))  # and does not listen yet
    with serving() as server, backend:
        path = tmp_path / "monconn.yaml"
        path.write_text(
            "services:\n"
            f"  web: {{listen: 127.0.0.1:0, backend: 127.0.0.1:{backend.getsockname()[1]}}}\n"
            "defaults: {wait_timeout: 0}\n"
            "control: false\n"
            "notify:\n"
            f"- url: http://127.0.0.1:{server.port}/\n"
            "  on: [backend_down, backend_up, blocked]\n"
        )
        app = Application(load(path), running_reactor())
        app.startService()
        where = app.registry.get("web").listen
        for _ in range(3):
            await deferToThread(connect, where)
            await deferLater(running_reactor(), 0.05)
        await until(lambda: kinds(server) == ["backend_down"])
        (row,) = [row for row in app.operations.services() if row is not None]
        assert row.alarms == ["backend_down"]
        backend.listen()
        client = socket.create_connection(("127.0.0.1", int(where.rpartition(":")[2])))
        await until(lambda: kinds(server) == ["backend_down", "backend_up"])
        client.close()
        # What has just happened is sent before the program ends.
        app.operations.block(CONFIGURATION, parse_network("192.0.2.1"))
        await app.stopService()
        assert kinds(server) == ["backend_down", "backend_up", "blocked"]
