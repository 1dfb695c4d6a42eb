"""``monconn demo``, as its user sees it."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import monconn.faces.cli.demo as demo_module
from monconn.faces.cli import demo_mqtt as mqtt
from monconn.faces.cli.demo_network import may_drop_packets

from .programs import HANG_SECONDS, SCRIPTS, Program, connect

DEVICES = [f"127.0.0.{number}" for number in range(11, 18)]
HINTS = (
    *("list", "list --closed", "devices", "device valve-4", "explain client_reset", "show 5"),
    *("tap 1", "recording 3", "top"),
)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("runtime")
def test_demo(start: Callable[..., Program], tmp_path: Path) -> None:
    state = tmp_path / "state"
    env = {"TMPDIR": str(tmp_path), "XDG_STATE_HOME": str(state)}
    demo = start(SCRIPTS / "monconn", "demo", env=env)
    port = int(demo.out.wait_for(r"nc -N 127\.0\.0\.1 (\d+)$")[1])
    demo.out.wait_for("Ctrl-C ends it")
    log_in(str(demo.out))
    with connect(port) as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"ok 6\n"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"goodbye\n"
    demo.out.wait_for(r"demo: 127\.0\.0\.1:\d+ client_closed after \S+, up 6 B, down 13 B$")
    with connect(port) as client:
        client.sendall(mqtt.connect("test", 60, "user"))
        assert client.recv(100) == b"\x20\x02\0\0"  # CONNACK, accepted
        client.sendall(mqtt.ping() + mqtt.disconnect())
        assert client.recv(100) == mqtt.alive()
        assert client.recv(100) == b""
    with connect(port) as client:
        client.sendall(mqtt.connect("test", 60, ""))
        assert client.recv(100) == mqtt.accepted()
        client.sendall(b"\xff" * 6)  # no MQTT
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    introduction = str(demo.out)
    monconn = re.escape(str(SCRIPTS / "monconn"))
    for device in DEVICES:
        assert re.search(rf"^  {re.escape(device)}  \w+-\d +\w+", introduction, re.MULTILINE)
    for hint in HINTS:
        assert re.search(rf"^  ({monconn}|\S+bin/monconn|monconn) {hint}", introduction, re.M), hint
    listed = subprocess.run(
        [SCRIPTS / "monconn", "list", "client:127.0.0.15", "--json"],
        capture_output=True,
        timeout=HANG_SECONDS,
    )
    assert [row["id"] for row in json.loads(listed.stdout)] == [5]
    demo.out.wait_for(r"demo: 127\.0\.0\.17:\d+ client_closed after ")  # the visitor
    demo.out.wait_for(r"demo: 127\.0\.0\.14:\d+ client_reset after ")  # that crashes
    demo.out.wait_for(r"warn: demo: valve-4 \(127\.0\.0\.14\) reconnect_storm alarm")
    assert len(list(tmp_path.glob("monconn-demo-*/history.db"))) == 1
    demo.send(signal.SIGINT)
    assert demo.status() == 0
    assert list(tmp_path.glob("monconn-demo-*")) == []
    assert list(state.rglob("*.sessions")) == []
    for device in DEVICES[:3]:  # those that would stay longer
        demo.out.wait_for(rf"demo: {re.escape(device)}:\d+ stopping after ")
    assert str(demo.err) == ""
    text = str(demo.out)
    assert not re.search("Traceback|error", text)
    assert set(re.findall("warn: .* alarm", text)) <= {
        "warn: demo: valve-4 (127.0.0.14) reconnect_storm alarm",
        "warn: demo: pump-3 (127.0.0.13) silent alarm",
    }
    assert "shop: 127.0.0.66:" in text  # which is kept out
    assert not re.search(r"shop: \S+ \w+_closed", text)  # too many, and nothing is wrong with them
    shown = introduction.partition("Ctrl-C ends it")[0]
    assert max(len(line) for line in shown.splitlines() if monconn not in line) <= 100
    devices = re.findall(r"^  127\.0\.0\..*", shown, re.MULTILINE)
    assert len(devices) == len(DEVICES)
    assert max(map(len, devices)) <= 80


def log_in(introduction: str) -> None:
    """Do what a browser does with the link, which stands before all else that is to be tried."""
    found = re.search(r"http://(127\.0\.0\.1:\d+)/#login/(\S+)$", introduction, re.MULTILINE)
    assert found is not None
    assert found.start() < introduction.index("Try, in a second terminal")
    connection = http.client.HTTPConnection(found[1], timeout=HANG_SECONDS)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/api/v1/session", json.dumps({"code": found[2]}), headers)
    answer = connection.getresponse()
    assert answer.status == 204
    cookie = {"Cookie": str(answer.getheader("Set-Cookie")).partition(";")[0]}
    answer.read()
    connection.request("GET", "/api/v1/session", headers=cookie)
    # The same as by monconn web.
    name = pwd.getpwuid(os.getuid()).pw_name
    assert json.loads(connection.getresponse().read())["name"] == f"uid {os.getuid()} ({name})"
    connection.close()


@pytest.mark.parametrize("may_drop", [True, False])
@pytest.mark.usefixtures("runtime")
def test_the_one_that_falls_silent(start: Callable[..., Program], may_drop: bool) -> None:
    """It vanishes where the kernel lets us have it vanish; the description says which."""
    if may_drop and not may_drop_packets():
        pytest.skip("this user must not have the kernel drop packets")
    code = f"""
from monconn.faces.cli import demo, demo_broker, demo_devices
demo.may_drop_packets = lambda: {may_drop}
demo.UNREACHABLE_SECONDS = demo_devices.UNREACHABLE_SECONDS = demo._IDLE_SECONDS = 1.0
demo_broker.ANSWER_SECONDS = 0.5
demo_devices._Vanishing.stay = demo_devices._FallingSilent.stay = 0.5
demo.run_demo()
"""
    demo = start(sys.executable, "-c", code)
    if may_drop:
        demo.out.wait_for(r"^  127\.0\.0\.13  pump-3    vanishes ")
        demo.out.wait_for(r"127\.0\.0\.13:\d+ client_lost after .* \(unreachable_timeout; device ")
    else:
        demo.out.wait_for(r"^  127\.0\.0\.13  pump-3    silent ")
        demo.out.wait_for(r"127\.0\.0\.13:\d+ idle_timeout after ")
    assert "Traceback" not in str(demo.out)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_packets_are_whole_wherever_chunks_end(size: int) -> None:
    sent = [
        mqtt.connect("pump-3", 5, "demo"),
        mqtt.publish("pump-3/alarm", bytes(300), packet_id=2),
        mqtt.ping(),
        mqtt.publish("pump-3/firmware", bytes(200_000)),
    ]
    data = b"".join(sent)
    packets = mqtt.Packets()
    chunks = (data[at : at + size] for at in range(0, len(data), size))
    found = [packet for chunk in chunks for packet in packets.of(chunk)]
    assert [kind for kind, _, _ in found] == [1, 3, 12, 3]
    assert found[0][2][:6] == b"\0\4MQTT"
    assert mqtt.published(*found[1][1:]) == ("pump-3/alarm", b"\0\2")
    assert mqtt.published(*found[3][1:]) == ("pump-3/firmware", b"")
    assert len(found[3][2]) == 200_017


@pytest.mark.parametrize("module", ["monconn.faces.cli.demo", "monconn.run.application"])
def test_ctrl_c_while_it_starts_is_one_line(
    start: Callable[..., Program], tmp_path: Path, module: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
""")
    demo = start(SCRIPTS / "monconn", "demo", env={"PYTHONPATH": str(tmp_path)})
    assert demo.status() == -signal.SIGINT
    assert str(demo.out) == ""
    demo.err.wait_for("start$")
    assert str(demo.err) == "monconn: ended by SIGINT during its start\n"


def test_the_command_is_named_as_it_must_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "a b" / "bin" / "monconn"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path / "a b")
    assert demo_module.typed_command() == "bin/monconn"
    monkeypatch.chdir("/")
    assert demo_module.typed_command() == f"'{str(program)[1:]}'"
    monkeypatch.chdir(program.parent)
    assert demo_module.typed_command() == "./monconn"  # a bare name would be looked up
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert demo_module.typed_command() == f"'{program}'"
    (tmp_path / "monconn").symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert demo_module.typed_command() == "monconn"
