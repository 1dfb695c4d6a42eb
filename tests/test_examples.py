"""Every example runs unchanged, in its file or on a page, and prints the documented output."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import twisted.internet
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock

import monconn
from monconn.config.notify import NotifyUrl
from monconn.faces.control.client import Client
from monconn.sinks.notify.messages import make_message
from monconn.sinks.notify.senders import DeliveryError, WebhookSender
from monconn.testing import connect, make_monitor
from tests import ROOT

EXAMPLES = ROOT / "examples"
DOCS = ROOT / "docs"
PATIENCE_SECONDS = 30.0

# What those print that end by themselves; a regular expression for each line.
ENDING = {
    "client.py": [
        "good morning, Ada",
        "good morning, Grace",
        r"127\.0\.0\.1:\d+ to 127\.0\.0\.1:\d+: backend_closed, up 3, down 17",
        r"127\.0\.0\.1:\d+ to 127\.0\.0\.1:\d+: backend_closed, up 5, down 19",
        r"greetings: connections 0, ips 0, total 2, refused 0, up 8 B, down 36 B, uptime .+",
    ],
    "custom_log.py": [
        r"my log: upper #1 opened by 127\.0\.0\.1",
        "my log: upper #1 up 68 65 6c 6c 6f",
        "my log: upper #1 down 48 45 4c 4c 4f",
        "my log: upper #1 closed: client_closed",
    ],
    "webhook.py": [
        "posted client_closed, answered thanks for upper, up 5",
        "all posted: True",
    ],
    "block_and_close.py": [
        "closed: the client sees 'Connection was closed cleanly.', the record says operator",
        "reset: the client sees '.* non-clean fashion.', the record says operator",
        "blocked: the client sees 'Connection was closed cleanly.', the record says blocked",
        "while blocked: {'blocked': 1}",
        "let in again: 1 connection",
    ],
    "tag_by_user.py": [
        "hello ada",
        "hello grace",
        "ada: operator",
        "grace: client_closed",
    ],
    "forwarder_in_a_program.py": [
        "started upper",
        "HELLO",
        r"changed upper \(conn_limit, max_idle\)",
        "stopped upper",
        r"\['idle_timeout'\] \[\]",
    ],
    "renew_certificates.py": [
        "started web",
        "HELLO from certificate 1",
        r"changed web \(tls\)",
        "HELLO from certificate 2",
        "STILL HERE from certificate 1",
        r"\['1.3', '1.3'\]",
    ],
}
SERVING = {
    *("wrap_echo.py", "wrap_web.py", "webhook_receiver.py"),
    *("echo_with_control.py", "echo_with_page.py"),
}
ELSEWHERE = {  # which tests/faces/cli/test_inspect.py and tests/sinks/test_metrics.py run
    "control_client.py",
    "grafana-dashboard.json",
    "prometheus-rules.yml",
}


@contextmanager
def running(name: str) -> Iterator[subprocess.Popen[str]]:
    """An example, which is killed if it takes too long."""
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / name)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        impatience = threading.Timer(PATIENCE_SECONDS, process.kill)
        impatience.start()
        try:
            yield process
        finally:
            impatience.cancel()
            process.kill()


@contextmanager
def serving(name: str) -> Iterator[subprocess.Popen[str]]:
    """An example that runs until Ctrl-C, which it has to end on in good order."""
    with running(name) as process:
        yield process
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")


def read_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """Read the output up to a line that has this pattern."""
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(pattern, line)
        if found:
            return found
    raise AssertionError(f"it never says {pattern!r}")


def test_every_example_is_run_here() -> None:
    found = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert found == {*ENDING, *SERVING, *ELSEWHERE}


@pytest.mark.parametrize("name", ENDING)
def test_an_example_prints_the_documented_output_and_ends(name: str) -> None:
    with running(name) as process:
        output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    lines = output.splitlines()
    assert len(lines) == len(ENDING[name]), output
    for line, expected in zip(lines, ENDING[name], strict=True):
        assert re.fullmatch(expected, line)


def test_the_echo_server_shows_its_connections() -> None:
    with serving("wrap_echo.py") as process:
        port = int(read_until(process, r"listening on 127\.0\.0\.1:(\d+)")[1])
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
            client.sendall(b"hello")
            assert client.recv(5, socket.MSG_WAITALL) == b"hello"
            read_until(process, r"echo: connections 1, ips 1, total 1, .* up 5 B, down 5 B")
            read_until(process, r" 1 127\.0\.0\.1:\d+ open, .* old, idle .*, up 5 B, down 5 B")
        read_until(process, r"echo: connections 0, ips 0, total 1, .* up 5 B, down 5 B")


def test_the_web_server_knows_its_own_connections() -> None:
    with serving("wrap_web.py") as process:
        url = read_until(process, r"listening on (http://127\.0\.0\.1:\d+/)")[1]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=PATIENCE_SECONDS) as page:
            assert page.read() == b"hello\n"
        ended = read_until(process, r"127\.0\.0\.1:\d+ (\w+) after")
        assert ended[1] in ("client_closed", "backend_closed")
        with opener.open(f"{url}stats", timeout=PATIENCE_SECONDS) as page:
            stats = json.load(page)
        assert (stats["sid"], stats["connections"], stats["total"]) == ("web", 1, 2)
        (live,) = stats["live"]
        assert live["state"] == "open"
        assert live["up"] > 0


def test_the_echo_server_can_be_inspected_and_controlled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with serving("echo_with_control.py") as process:
        port = int(read_until(process, r"listening on 127\.0\.0\.1:(\d+)")[1])
        where = read_until(process, r"control port at (unix:.+)")[1]
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client,
            Client(where) as control,
        ):
            client.sendall(b"hello")
            assert client.recv(5, socket.MSG_WAITALL) == b"hello"
            (row,) = control.rows("ListConnections", service="echo")
            assert (row["up"], row["down"]) == (5, 5)
            control.call("CloseConnections", ids=[row["id"]])
            assert client.recv(1) == b""
    assert not Path(where.removeprefix("unix:")).exists()


def test_a_program_with_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with serving("echo_with_page.py") as process:
        port = int(read_until(process, r"listening on 127\.0\.0\.1:(\d+)")[1])
        page = read_until(process, r"page at (http://127\.0\.0\.1:\d+)/")[1]
        with Client(f"unix:{tmp_path}/monconn/control.sock") as control:
            token = control.call("MakeToken", role="view", name="script")["token"]
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
            client.sendall(b"hello")
            assert client.recv(5, socket.MSG_WAITALL) == b"hello"
            url = f"{page}/api/v1/connections?service=echo"
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                (row,) = json.load(answer)["rows"]
            assert (row["up"], row["down"]) == (5, 5)


def test_the_receiver_takes_only_what_is_signed() -> None:
    with serving("webhook_receiver.py") as process:
        url = NotifyUrl(read_until(process, r"receiving at (http://127\.0\.0\.1:\d+)")[1])
        for key in (b"change me, please", None):
            with pytest.raises(DeliveryError, match="answered 401"):
                WebhookSender(url, key).send(make_message("outage", "forged", {}))
        WebhookSender(url, b"change me please").send(make_message("outage", "it is so", {}))
        assert process.stdout is not None
        assert process.stdout.readline() == "outage it is so\n"


# -- the pages


def test_the_librarys_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twisted.internet, "reactor", MemoryReactorClock())
    monkeypatch.setattr(monconn.registry, "_monitors", {})
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "library.md").read_text(), re.DOTALL):
        exec(block, names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_the_observers_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monconn.registry, "_monitors", {})
    page = (DOCS / "observers.md").read_text()
    names: dict[str, Any] = {"monconn": monconn}
    # Without the first one, which sets up the program's logging: a test in tests/e2e runs it.
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)[1:]:
        exec(block, names)
    connection, transport = connect(
        monconn.MonitoringFactory(names["monitor"], Factory.forProtocol(Protocol))
    )
    transport.peer_sends(b"\xff\xfb\x01")
    assert connection.record.reason == "operator"


@pytest.mark.parametrize("page", ["library.md", "coming-from-go.md"])
def test_a_page_uses_only_existing_names(page: str) -> None:
    monitor = make_monitor()
    factory = monconn.MonitoringFactory(monitor, Factory.forProtocol(Protocol))
    wrapper, transport = connect(factory)
    owners = {
        "monconn": monconn,
        "monitor": monitor,
        "record": wrapper.record,
        "wrapper": wrapper,
        "transport": transport,
    }
    text = (DOCS / page).read_text()
    found = set(re.findall(r"(?<![\w./])(monconn|monitor|record|wrapper|transport)\.(\w+)", text))
    folders = ("testing", "observers", "yaml", "config", "control", "sinks", "run")  # and files
    found -= {("monconn", each) for each in folders}
    assert len(found) > 15
    assert [f"{owner}.{name}" for owner, name in found if not hasattr(owners[owner], name)] == []
