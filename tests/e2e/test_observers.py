"""A custom observer, as in the documentation."""

from __future__ import annotations

import json
import os
import queue
import re
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from monconn.relay.sockets.loop import HAS_EPOLL
from tests import ROOT

from .programs import Monconn, connect, receive, until, write_config

DOCS = ROOT / "docs"
PAGE = (DOCS / "observers.md").read_text()


def block(language: str, part: str = "") -> str:
    """The first block of the page in a language that has this part."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return next(each for each in found if part in each)


@pytest.mark.parametrize("how", ["monconn", "twist"])
def test_the_documented_observer_is_notified_of_connections(
    launch: Callable[..., Monconn], echo_port: int, tmp_path: Path, how: str
) -> None:
    (tmp_path / "transfers.py").write_text(block("python"))
    text = block("yaml").replace("2121", "0").replace("127.0.0.1:21\n", f"127.0.0.1:{echo_port}\n")
    (tmp_path / "monconn.yaml").write_text(text)
    monconn = launch(how, "-c", tmp_path / "monconn.yaml", env={"PYTHONPATH": str(tmp_path)})
    log = tmp_path / "transfers.log"
    for count in (10, 40_000):
        with connect(monconn.port()) as client:
            client.sendall(bytes(count))
            assert len(receive(client, count)) == count
    until(lambda: log.exists() and "moved" in log.read_text())
    assert monconn.stop() == 0
    (line,) = log.read_text().splitlines()
    assert re.fullmatch(
        r"127\.0\.0\.1 moved 40000 up, 40000 down in [\d.]+ s: client_(closed|reset)", line
    )


def test_an_observer_that_cannot_be_made_is_reported_in_one_line(
    launch: Callable[..., Monconn], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("class Mine:\n    def __init__(self): raise OSError('no')\n")
    path = write_config(tmp_path, web={"listen": "127.0.0.1:0", "backend": "127.0.0.1:9"})
    path.write_text(path.read_text()[:-1] + ', "observers": [{"use": "mine:Mine"}]}')
    monconn = launch("monconn", "-c", path, env={"PYTHONPATH": str(tmp_path)})
    assert monconn.status() == 1
    errors = str(monconn.program.err)
    assert errors == "monconn: observers: mine:Mine cannot be made: OSError: no\n"


def test_a_module_that_exits_on_import_is_reported(
    launch: Callable[..., Monconn], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("import sys\nsys.exit(0)\n")
    path = write_config(tmp_path, web={"listen": "127.0.0.1:0", "backend": "127.0.0.1:9"})
    path.write_text(path.read_text()[:-1] + ', "observers": [{"use": "mine:Mine"}]}')
    monconn = launch("monconn", "-c", path, env={"PYTHONPATH": str(tmp_path)})
    assert monconn.status() == 2
    assert '"mine:Mine" cannot be imported: SystemExit: 0' in str(monconn.program.err)


def test_an_object_that_is_no_observer_is_reported(
    launch: Callable[..., Monconn], tmp_path: Path
) -> None:
    path = write_config(tmp_path, web={"listen": "127.0.0.1:0", "backend": "127.0.0.1:9"})
    path.write_text(path.read_text()[:-1] + ', "observers": [{"use": "types:SimpleNamespace"}]}')
    monconn = launch("monconn", "-c", path, env={"PYTHONPATH": os.fspath(tmp_path)})
    assert monconn.status() == 1
    assert "types:SimpleNamespace is no observer, it has no alarmed, closed, " in str(
        monconn.program.err
    )


SLOW = """
import time

from monconn import Observer
from monconn.turns import LONG_SECONDS


class Slow(Observer):
    def opened(self, record):
        from twisted.internet import reactor

        meter = reactor.turn_meter
        while not meter.watch.what_ran(meter.count):  # for as long as the machine likes
            time.sleep(0.01)
        time.sleep(LONG_SECONDS)
"""


def test_the_log_names_an_observer_that_holds_up_the_loop(
    launch: Callable[..., Monconn], echo_port: int, tmp_path: Path
) -> None:
    if not HAS_EPOLL:
        pytest.skip("this system has no epoll: the reactor is not ours")
    (tmp_path / "mine.py").write_text(SLOW)
    service = {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{echo_port}"}
    path = write_config(tmp_path, web=service)
    path.write_text(path.read_text()[:-1] + ', "observers": [{"use": "mine:Slow"}]}')
    monconn = launch("monconn", "-c", path, env={"PYTHONPATH": str(tmp_path)})
    for _ in range(2):
        with connect(monconn.port()) as client:
            client.sendall(b"ping")
            assert receive(client, 4) == b"ping"
    assert monconn.stop() == 0
    lines = re.findall(r".*the loop was busy.*", str(monconn.program.out))
    assert len(lines) == 1, "one a minute"
    assert re.search(r"busy for \S+s \(\S+s of processor time\): mine\.", lines[0])
    assert "opened:" in lines[0]


class Posted(BaseHTTPRequestHandler):
    """A web server that stores what is posted to it."""

    bodies: queue.Queue[dict[str, Any]] = queue.Queue()

    def do_POST(self) -> None:
        self.bodies.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_the_documented_webhook_posts_what_its_filter_chooses(
    launch: Callable[..., Monconn], echo_port: int, tmp_path: Path
) -> None:
    (tmp_path / "hooks.py").write_text(block("python", "class Webhook"))
    service = {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{echo_port}"}
    path = write_config(tmp_path, files=service)
    with ThreadingHTTPServer(("127.0.0.1", 0), Posted) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        text = block("yaml", "hooks:Webhook").replace(
            "127.0.0.1:8080", f"127.0.0.1:{server.server_port}"
        )
        assert text.startswith("observers:\n")
        path.write_text(f"services: {json.loads(path.read_text())['services']!r}\n{text}")
        monconn = launch("monconn", "-c", path, env={"PYTHONPATH": str(tmp_path)})
        with connect(monconn.port()) as client:
            client.sendall(b"in order")
            client.shutdown(socket.SHUT_WR)
            assert receive(client, 8) == b"in order"
            assert client.recv(1) == b""
        with connect(monconn.port()) as client:
            client.sendall(b"reset")
            assert receive(client, 5) == b"reset"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        posted = Posted.bodies.get(timeout=30)
        assert (posted["reason"], posted["up"]) == ("client_reset", 5)
        assert monconn.stop() == 0
        server.shutdown()
    assert Posted.bodies.empty()


def test_what_is_queued_is_handled_before_the_end(
    launch: Callable[..., Monconn], echo_port: int, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "import monconn\n"
        "from twisted.internet.defer import Deferred\n"
        "class Mine(monconn.AsyncObserver):\n"
        "    async def closed(self, record):\n"
        "        from twisted.internet import reactor\n"
        "        slow = Deferred()\n"
        "        reactor.callLater(0.1, slow.callback, None)\n"
        "        await slow\n"
        "        print('handled', record.reason, flush=True)\n"
        "    async def opened(self, record):\n"
        "        print('opened', flush=True)\n"
    )
    path = write_config(
        tmp_path,
        web={"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{echo_port}", "wait_timeout": 0},
    )
    path.write_text(path.read_text()[:-1] + ', "observers": [{"use": "mine:Mine"}]}')
    monconn = launch("monconn", "-c", path, env={"PYTHONPATH": str(tmp_path)})
    with connect(monconn.port()) as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        monconn.program.out.wait_for("^opened$")
        assert monconn.stop() == 0
    assert "handled stopping" in str(monconn.program.out)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"filter": "clinet:10.0.0.0/8"}, 'observers[0].filter: filter: unknown key "clinet"'),
        ({"services": ["wbe"]}, 'observers[0].services: there is no service named "wbe"'),
        ({}, "observers[0].use: Mine.closed is an async def, which would never run"),
    ],
)
@pytest.mark.parametrize("how", ["-c", "check"])
def test_a_mistake_is_reported_by_check_and_at_the_start(
    launch: Callable[..., Monconn], tmp_path: Path, entry: dict[str, Any], message: str, how: str
) -> None:
    method = "def" if entry else "async def"
    (tmp_path / "mine.py").write_text(
        f"import monconn\nclass Mine(monconn.Observer):\n    {method} closed(self, record): pass\n"
    )
    path = write_config(tmp_path, web={"listen": "127.0.0.1:0", "backend": "127.0.0.1:9"})
    observers = json.dumps([{"use": "mine:Mine", **entry}])
    path.write_text(path.read_text()[:-1] + f', "observers": {observers}}}')
    monconn = launch("monconn", how, path, env={"PYTHONPATH": str(tmp_path)})
    assert monconn.status() == 2
    errors = str(monconn.program.err)
    assert message in errors
    assert errors.count("\n") == 1
