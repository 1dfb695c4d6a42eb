"""Clients have taken all descriptors but those held back: the rest of the program goes on."""

from __future__ import annotations

import json
import re
import select
import signal
import socket
import sysconfig
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monconn.faces.control.client import Client
from tests.certificates import make_certificate

from .programs import HANG_SECONDS, Program, connect, receive, until
from .test_programs import run

LIMIT = 160
SERVICES = ("web", "api")


class Ours:
    """A running monconn with few descriptors.

    :param program: which has been started.
    """

    def __init__(self, program: Program, control: str) -> None:
        self.program = program
        line = program.out.wait_for(r"descriptors: limit (\S+), enough for about (\S+) connections")
        assert line[1] == str(LIMIT)
        self.most = int(line[2])
        self.control = Client(control)

    def log(self, pattern: str) -> str:
        """Wait for something in the log; the first group of it."""
        return self.program.out.wait_for(pattern)[1]

    def port(self, service: str) -> int:
        return int(self.log(rf"{service}: listening on [^,]*?:(\d+)[:,]"))

    def metrics(self) -> str:
        with urllib.request.urlopen(
            self.log(r"metrics at (http://\S+)"), timeout=HANG_SECONDS
        ) as page:
            return str(page.read().decode())

    def waits(self) -> int:
        """How often it was told that clients wait."""
        return len(re.findall("no room for more than", str(self.program.out)))

    def live(self) -> int:
        return len(list(self.control.rows("ListConnections")))

    def closed(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.control.rows("ListConnections", closed=True)]


@pytest.fixture
def ours(start: Callable[..., Program], tmp_path: Path) -> Iterator[Callable[..., Ours]]:
    """Starts monconn with few descriptors."""
    started: list[Ours] = []

    def begin(**config: Any) -> Ours:
        control = f"unix:{tmp_path / 'control'}"
        config["control"] = {"listen": control}
        path = tmp_path / "monconn.yaml"
        path.write_text(json.dumps(config))
        limited = f'ulimit -n {LIMIT}; exec "$@"'
        monconn = Path(sysconfig.get_path("scripts")) / "monconn"
        program = start("sh", "-c", limited, "sh", monconn, "-c", path)
        started.append(Ours(program, control))
        return started[-1]

    yield begin
    for each in started:
        each.control.close()


class Waiting:
    """A client that has said something, and hears it again once it is served."""

    def __init__(self, port: int) -> None:
        self.sock = connect(port)
        self.sock.sendall(b"ping")

    def is_served(self) -> bool:
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        assert receive(self.sock, 4) == b"ping"
        self.sock.close()


def until_served(clients: list[Waiting], count: int) -> tuple[list[Waiting], list[Waiting]]:
    """Wait until so many are served, and no more; them, and the others."""

    def find() -> list[Waiting]:
        return [each for each in clients if each.is_served()]

    until(lambda: len(find()) >= count, f"{count} clients that are served")
    served = find()
    assert len(served) == count
    return served, [each for each in clients if each not in served]


def test_all_else_works_while_clients_wait(
    ours: Callable[..., Ours], echo_port: int, tmp_path: Path, program: Callable[[str], str]
) -> None:
    key = tmp_path / "key"
    run(program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key)
    log = tmp_path / "log.json"
    monconn = ours(
        services={
            name: {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{echo_port}"}
            for name in SERVICES
        },
        metrics={"listen": "127.0.0.1:0"},
        history={"path": str(tmp_path / "history.db")},
        json_log={"path": str(log), "at_open": True},
        manhole={
            "listen": "127.0.0.1:0",
            "authorized_keys": f"{key}.pub",
            "host_key": str(tmp_path / "host_key"),
        },
    )
    ports = [monconn.port(name) for name in SERVICES]
    total = 3 * monconn.most
    served, waiting = until_served([Waiting(ports[n % 2]) for n in range(total)], monconn.most)
    assert monconn.live() == monconn.most

    shown = monconn.metrics()
    assert "monconn_descriptor_waits_total 1.0" in shown
    assert f"monconn_connections_possible {monconn.most}.0" in shown
    for _ in range(5):
        client = Client(f"unix:{tmp_path / 'control'}")
        assert len(list(client.rows("ListServices"))) == len(SERVICES)
        client.close()
    log.rename(tmp_path / "log.json.1")
    monconn.program.send(signal.SIGUSR1)
    until(log.exists, "a new log")
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
    ssh = [program("ssh"), "-F", "/dev/null", "-i", str(key)]
    ssh += [f"-o{each}" for each in (*options, "IdentityAgent=none")]
    ssh += ["-p", monconn.log(r"manhole at 127\.0\.0\.1:(\d+)"), "ops@127.0.0.1"]
    assert "web: connections" in run(*ssh, "stats")

    while served:
        for each in served:
            each.close()
        served, waiting = until_served(waiting, min(monconn.most, len(waiting)))
    until(lambda: not monconn.live(), "the end of the last")
    assert {row["reason"] for row in monconn.closed()} == {"client_closed"}
    logs = [tmp_path / "log.json.1", log]
    until(
        lambda: sum(each.read_text().count('"event":"closed"') for each in logs) == total,
        "all lines of the log",
    )
    assert monconn.waits() == 1


def test_whoever_will_need_a_descriptor_is_counted(
    ours: Callable[..., Ours], tmp_path: Path
) -> None:
    """Those amid their handshake, and those whose backend's queue is full, have only one yet."""
    made = make_certificate(tmp_path / "tls")
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(str(tmp_path / "full"))
        full.listen(0)
        monconn = ours(
            services={
                "tls": {
                    "listen": "127.0.0.1:0",
                    "tls": {
                        "certificate": str(made.certificate),
                        "key": str(made.key),
                    },
                    "backend": f"unix:{tmp_path / 'full'}",
                },
                "web": {"listen": "127.0.0.1:0", "backend": f"unix:{tmp_path / 'full'}"},
            },
        )
        half = monconn.most // 2
        clients = [connect(monconn.port("tls")) for _ in range(half)]
        clients += [connect(monconn.port("web")) for _ in range(monconn.most)]
        monconn.log("no room for more than (.*) connections")
        assert monconn.live() == monconn.most - half
        for each in clients:
            each.close()
