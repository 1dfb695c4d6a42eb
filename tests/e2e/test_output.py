"""The command's output, and that a slow reader of it cannot block the relay."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .programs import (
    HANG_SECONDS,
    SCRIPTS,
    Monconn,
    Program,
    connect,
    receive,
    until,
    write_config,
)

Launch = Callable[..., Monconn]
MANY = 300  # several times as many as get lines of their own
PATTERN = bytes(range(256)) * 256


def pairs(echo_port: int) -> tuple[str, str]:
    return "-p", f"127.0.0.1:0=127.0.0.1:{echo_port}"


@pytest.fixture
def unread(tmp_path: Path, echo_port: int) -> Iterator[tuple[Path, Path]]:
    """A configuration that dumps all bytes, and its listener: its port cannot be read."""
    listener = tmp_path / "monconn.sock"
    service = {
        "listen": f"unix:{listener}",
        "backend": f"127.0.0.1:{echo_port}",
        "print_bytes": True,
    }
    yield write_config(tmp_path, dumped=service), listener
    assert not listener.exists()


def talk_to(listener: Path) -> None:
    """Send far more through it than any pipe and any queue of ours holds, and get it back."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(HANG_SECONDS)
        until(lambda: client.connect_ex(str(listener)) == 0, "the listener")
        for _ in range(50):
            client.sendall(PATTERN)
            assert receive(client, len(PATTERN)) == PATTERN


def test_output_that_is_not_read_stalls_nothing(launch: Launch, unread: tuple[Path, Path]) -> None:
    config, listener = unread
    read_end, write_end = os.pipe()
    try:
        monconn = launch("monconn", "-c", config, stdout=write_end)
        talk_to(listener)
        assert monconn.stop() == 0
        assert b"dumped: listening on unix:" in os.read(read_end, 65536)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert str(monconn.program.err) == ""


def test_output_whose_reader_has_gone_stalls_nothing(
    launch: Launch, unread: tuple[Path, Path]
) -> None:
    config, listener = unread
    read_end, write_end = os.pipe()
    os.close(read_end)
    monconn = launch("monconn", "-c", config, stdout=write_end)
    os.close(write_end)
    talk_to(listener)
    assert monconn.stop() == 0
    assert str(monconn.program.err) == ""


def test_runs_without_any_output(
    start: Callable[..., Program], unread: tuple[Path, Path], tmp_path: Path
) -> None:
    config, listener = unread
    closed = start("/bin/sh", "-c", 'exec "$@" >&-', "sh", SCRIPTS / "monconn", "-c", config)
    talk_to(listener)
    closed.send(signal.SIGTERM)
    assert closed.status() == 0
    assert str(closed.err) == ""


@pytest.mark.parametrize("how", ["monconn", "twistd -n"])
def test_paths_reach_the_log_as_escapes(how: str, launch: Launch, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:  # a short one: a socket's path has 107 bytes
        listener = f"{folder}/l\x1b[31m\n2026-01-01 forged\u202e"
        service = {
            "listen": f"unix:{listener}",
            "backend": f"unix:{folder}/b\x9b2J",
            "print_bytes": True,
        }
        monconn = launch(how, "-c", write_config(tmp_path, odd=service))
        escaped = re.escape(f"unix:{folder}/l\\x1b[31m\\n2026-01-01 forged\\u202e")
        monconn.log.wait_for(f"odd: listening on {escaped}")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(HANG_SECONDS)
            client.connect(listener)
            client.sendall(b"hello")
            assert client.recv(1) == b""
        monconn.log.wait_for("backend_refused|backend_unreachable")
        assert monconn.stop() == 0
        assert Path(listener).exists() is False
    lines = f"{monconn.log}{monconn.program.err}".split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.startswith("2026-01-01")] == []


def test_bytes_are_dumped(launch: Launch, echo_port: int, tmp_path: Path) -> None:
    service = {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{echo_port}", "print_bytes": True}
    monconn = launch("monconn", "-c", write_config(tmp_path, dumped=service))
    with connect(monconn.port()) as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\n"
        name = f"127.0.0.1:{client.getsockname()[1]}"
    for arrow, direction in ("→", "up"), ("←", "down"):
        monconn.log.wait_for(
            rf"^[\d:.]+ dumped {name} {arrow} 127\.0\.0\.1:{echo_port} {direction} 6 B\n"
            r"00000000  68 65 6c 6c 6f 0a +\|hello\.\|\n"
        )


def test_each_end_has_a_correct_log_line(launch: Launch, echo_port: int) -> None:
    monconn = launch("monconn", *pairs(echo_port))
    port = monconn.port()
    with connect(port) as client:
        client.sendall(PATTERN)
        client.shutdown(socket.SHUT_WR)
        assert receive(client, 2 * len(PATTERN)) == PATTERN
        orderly = client.getsockname()[1]
    with connect(port) as client:
        client.sendall(b"12345")
        assert client.recv(100) == b"12345"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset = client.getsockname()[1]
    for client_port, text in (
        (orderly, r"client_closed after \S+, up 64\.0 KiB, down 64\.0 KiB$"),
        (reset, r"client_reset after \S+, up 5 B, down 5 B"),
    ):
        service = r"127\.0\.0\.1:0"  # named by its listener as written
        at = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
        monconn.log.wait_for(rf"{at} {service}: 127\.0\.0\.1:{client_port} {text}")


def test_a_refused_backend_is_reported(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monconn = launch("monconn", *pairs(port))
    with connect(monconn.port()) as client:
        assert client.recv(100) == b""
    monconn.log.wait_for(r"backend_refused after \S+, up 0 B, down 0 B")


def test_many_ends_at_once_are_summed_up(launch: Launch, echo_port: int) -> None:
    monconn = launch("monconn", *pairs(echo_port))
    port = monconn.port()
    clients = [connect(port) for _ in range(MANY)]
    for client in clients:
        client.sendall(b"1234")
        assert client.recv(10) == b"1234"
    for client in clients:
        client.close()
    monconn.send(signal.SIGTERM)  # which sums up what is still open
    assert monconn.status() == 0
    log = str(monconn.log)
    single = len(re.findall(r" client_closed after \S+, up 4 B, down 4 B$", log, re.MULTILINE))
    sums = r" (\d+) more connections ended, up \S+ \S+, down \S+ \S+: (\d+) client_closed$"
    summed = re.findall(sums, log, re.MULTILINE)
    assert single + sum(int(count) for count, _ in summed) == MANY
    assert all(count == reason_count for count, reason_count in summed)
    assert len(log.splitlines()) < MANY / 2


def test_plain_where_no_terminal_is(launch: Launch, echo_port: int) -> None:
    monconn = launch("monconn", "-D", *pairs(echo_port))
    monconn.port()
    assert monconn.stop() == 0
    assert "\x1b" not in str(monconn.log)
    assert "Main loop terminated." in str(monconn.log)  # Twisted's message, which only -D prints


def test_coloured_on_a_terminal(launch: Launch, echo_port: int) -> None:
    master, slave = pty.openpty()
    monconn = launch("monconn", *pairs(echo_port), stdout=slave)
    os.close(slave)
    try:
        output = until(lambda: _read_until(master, b"forwarding to"), "the first lines")
        listening = rb"^\x1b\[2m\d\d:\d\d:\d\d\x1b\[0m 127\.0\.0\.1:0: listening on "
        assert re.search(listening, output, re.MULTILINE)
        assert monconn.stop() == 0
    finally:
        os.close(master)


def _read_until(descriptor: int, end: bytes) -> bytes:
    output = b""
    while end not in output:
        output += os.read(descriptor, 65536)
    return output


def test_several_services_on_either_family(launch: Launch, echo_port: int) -> None:
    monconn = launch("monconn", *pairs(echo_port), "-p", f"[::1]:0=localhost:{echo_port}")
    for host, name in ("127.0.0.1", r"127\.0\.0\.1:0"), ("::1", r"\[::1\]:0"):
        with connect(monconn.port(name), host) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
    assert str(monconn.log).count(": listening on ") == 2
