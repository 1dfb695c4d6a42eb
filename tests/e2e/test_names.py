"""A name server that hangs holds up the services that need its answer, and nothing else."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from monconn.faces.control.client import Client

from .programs import HANG_SECONDS, Backend, Monconn, connect, echo, receive

HANGS = """
import socket, threading
usual = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    if name == "slow.test":
        threading.Event().wait()
    return usual("127.0.0.1" if name == "fast.test" else host, *args, **kwargs)
socket.getaddrinfo = getaddrinfo
"""
"""Names in place of the system's, as Python loads it at its start."""
SLOW = {
    "sockets": "slow.test:443",
    "own-tls": "tls:slow.test:443",
    "transports": "tcp:slow.test:443:timeout=3600",
    "hostname": "tls:slow.test:443:timeout=3600",
}
CLIENTS = 15
"""More than the reactor's pool has threads."""
OTHER_THREADS = 6
"""The reactor's, the log's, and those of the pool that have encoded metrics."""


@pytest.mark.parametrize("launcher", ["monconn", "twistd -n"])
def test_names_that_hang(
    launcher: str,
    launch: Callable[..., Monconn],
    serve: Callable[..., Backend],
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGS)
    control = f"unix:{tmp_path / 'control'}"
    port = serve(echo).port
    slow = {
        name: {"listen": "127.0.0.1:0", "backend": backend, "wait_timeout": 0}
        for name, backend in SLOW.items()
    }
    fast = {
        "fast": {"listen": "127.0.0.1:0", "backend": f"fast.test:{port}"},
        "fast-endpoint": {"listen": "127.0.0.1:0", "backend": f"tcp:fast.test:{port}:timeout=50"},
    }
    config = tmp_path / "monconn.yaml"
    config.write_text(
        json.dumps(
            {
                "services": {**slow, **fast},
                "control": {"listen": control},
                "metrics": {"listen": "127.0.0.1:0"},
            }
        )
    )
    monconn = launch(launcher, "-c", config, env={"PYTHONPATH": str(tmp_path)})
    waiting = [connect(monconn.port(name)) for name in slow for _ in range(CLIENTS)]
    client = Client(control)
    while len(list(client.rows("ListConnections"))) < len(waiting):
        pass
    client.close()

    for name in fast:
        with connect(monconn.port(name)) as sock:
            sock.sendall(b"ping")
            assert receive(sock, 4) == b"ping"
    url = monconn.log.wait_for(r"metrics at (http://\S+)")[1]
    with urllib.request.urlopen(url, timeout=HANG_SECONDS) as answer:
        assert b"monconn_connections" in answer.read()
    threads = os.listdir(f"/proc/{monconn.program.process.pid}/task")
    assert len(threads) <= len(SLOW) + OTHER_THREADS, "one for each service"
    assert monconn.stop() == 0, "no thread that hangs is waited for"
    for each in waiting:
        each.close()
