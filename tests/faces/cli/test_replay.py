"""``monconn replay``: of a file of events, to real servers."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from monconn.faces.cli import replaying
from monconn.faces.cli.main import main
from monconn.model.flow import Began, Data, Ended, FlowEvent, SideEnded, to_json
from monconn.ops.flow_text import JsonEncoder

BEGAN = Began(7, 100.0, 100.0, "0-7", "mqtt", "192.0.2.7:5", None, "127.0.0.1:1883")
CLIENT_ENDS = SideEnded(7, 100.0, "client", "fin")
BACKEND_ENDS = SideEnded(7, 100.0, "backend", "fin")


def up(offset: int, data: bytes, at: float = 100.0) -> Data:
    return Data(7, at, "up", offset, data)


def down(offset: int, data: bytes, at: float = 100.0) -> Data:
    return Data(7, at, "down", offset, data)


class Serve:
    """Has functions talk to the one client that comes to each."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def __call__(self, talk: Callable[[socket.socket], object]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(20.0)

        def run() -> None:
            with listener, suppress(OSError):
                client, _ = listener.accept()
                with client:
                    client.settimeout(20.0)
                    talk(client)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def join(self) -> None:
        """Wait until all have talked."""
        for thread in self._threads:
            thread.join(20.0)
        assert not any(thread.is_alive() for thread in self._threads)


@pytest.fixture
def serve() -> Iterator[Serve]:
    serving = Serve()
    yield serving
    serving.join()


@pytest.fixture
def replay(tmp_path: Path) -> Callable[..., Result]:
    def run(events: list[FlowEvent], to: str, *arguments: str) -> Result:
        file = tmp_path / "events.jsonl"
        file.write_text("".join(f"{json.dumps(to_json(each))}\n" for each in events))
        return CliRunner().invoke(main, ["replay", str(file), "--to", to, *arguments])

    return run


def received(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def answer(client: socket.socket, data: bytes) -> None:
    assert received(client, 1) == b"?"  # a close with bytes unread would be a reset
    client.sendall(data)


def test_the_same_answer(serve: Serve, replay: Callable[..., Result]) -> None:
    seen: list[bytes] = []

    def talk(client: socket.socket) -> None:
        seen.append(received(client, 5))
        client.sendall(b"hi\n")
        seen.append(client.recv(10))

    result = replay(
        [BEGAN, up(0, b"hello"), down(0, b"hi\n"), CLIENT_ENDS, BACKEND_ENDS], serve(talk)
    )
    assert result.exit_code == 0, result.output
    serve.join()
    assert seen == [b"hello", b""]
    assert "connection 7 of 192.0.2.7:5 at mqtt\n" in result.stdout
    assert "sent       5 B in 1 chunk, and an end, within " in result.stdout
    assert result.stdout.endswith("answer     the same: 3 B\n")


def test_another_answer_is_shown_beside_the_recorded_one(
    serve: Serve, replay: Callable[..., Result]
) -> None:
    recorded = bytes(range(32)) + b"HTTP/1.1 200 OK\r\nx"
    came = bytes(range(32)) + b"HTTP/1.1 500 Oh!\r\n" + b"+" * 40
    events = [BEGAN, up(0, b"?"), down(0, recorded), BACKEND_ENDS]
    result = replay(events, serve(lambda client: answer(client, came)))
    assert result.exit_code == 1
    shown = result.stdout.partition("answer     ")[2]
    assert shown.splitlines() == [
        "differs at byte 41: recorded 50 bytes, came 90",
        "",
        "- recorded, + came:",
        "  00000010  10 11 12 13 14 15 16 17  18 19 1a 1b 1c 1d 1e 1f  |................|",
        "- 00000020  48 54 54 50 2f 31 2e 31  20 32 30 30 20 4f 4b 0d  |HTTP/1.1 200 OK.|",
        "+ 00000020  48 54 54 50 2f 31 2e 31  20 35 30 30 20 4f 68 21  |HTTP/1.1 500 Oh!|",
        "- 00000030  0a 78                                             |.x|",
        "+ 00000030  0d 0a 2b 2b 2b 2b 2b 2b  2b 2b 2b 2b 2b 2b 2b 2b  |..++++++++++++++|",
        "+ 00000040  2b 2b 2b 2b 2b 2b 2b 2b  2b 2b 2b 2b 2b 2b 2b 2b  |++++++++++++++++|",
        "+ 00000050  2b 2b 2b 2b 2b 2b 2b 2b  2b 2b                    |++++++++++|",
    ]
    assert max(map(len, shown.splitlines())) <= 80


def test_each_chunk_waits_for_the_answer_that_had_come_before_it(
    serve: Serve, replay: Callable[..., Result]
) -> None:
    """A backend that is slower than the recorded one gets no chunk sooner."""
    seen: list[bytes] = []

    def talk(client: socket.socket) -> None:
        seen.append(received(client, 1))
        client.settimeout(0.2)
        with suppress(TimeoutError):
            seen.append(client.recv(10))
        client.sendall(b"AB")
        client.settimeout(20.0)
        seen.append(received(client, 1))
        client.sendall(b"C")

    events = [BEGAN, up(0, b"1"), down(0, b"AB"), up(1, b"2"), down(2, b"C"), BACKEND_ENDS]
    result = replay(events, serve(talk))
    serve.join()
    assert (result.exit_code, seen) == (0, [b"1", b"2"]), result.output


def test_at_once(serve: Serve, replay: Callable[..., Result]) -> None:
    seen: list[bytes] = []

    def talk(client: socket.socket) -> None:
        seen.append(received(client, 2))
        client.sendall(b"ABC")
        seen.append(client.recv(1))

    hour = [BEGAN, up(0, b"1"), down(0, b"AB", 3700.0), up(1, b"2", 3800.0), down(2, b"C", 3800.0)]
    result = replay([*hour, SideEnded(7, 3800.0, "client", "fin")], serve(talk), "--at-once")
    serve.join()
    assert (result.exit_code, seen) == (0, [b"12", b""]), result.output
    assert result.stderr == ""


def test_a_shorter_answer_does_not_stop_it(serve: Serve, replay: Callable[..., Result]) -> None:
    seen: list[bytes] = []

    def talk(client: socket.socket) -> None:
        client.sendall(b"A")
        seen.append(received(client, 3))

    events = [BEGAN, up(0, b"1"), down(0, b"ABC"), up(1, b"2"), up(2, b"3")]
    result = replay(events, serve(talk), "--timeout", "0.1")
    serve.join()
    assert (result.exit_code, seen) == (1, [b"123"])
    assert "the answer stayed 2 bytes short of the recorded one" in result.stdout
    assert "differs at byte 1: recorded 3 bytes, came 1\n" in result.stdout


def test_an_end_that_was_not_recorded_is_told_where_the_answer_differs(
    serve: Serve, replay: Callable[..., Result]
) -> None:
    events = [BEGAN, up(0, b"?"), down(0, b"ABC"), up(1, b"2")]
    result = replay(events, serve(lambda client: answer(client, b"A")))
    assert result.exit_code == 1
    assert "end        an end in order; recorded: no end\n" in result.stdout
    serve.join()
    result = replay(events[:-1], serve(lambda client: answer(client, b"ABC")))
    assert (result.exit_code, "recorded: no end" in result.stdout) == (0, False)


def test_a_reset_is_sent_as_one(serve: Serve, replay: Callable[..., Result]) -> None:
    seen: list[object] = []

    def talk(client: socket.socket) -> None:
        seen.append(received(client, 1))
        client.sendall(b"A")
        try:
            seen.append(client.recv(1))
        except ConnectionResetError:
            seen.append("reset")

    events = [BEGAN, up(0, b"1"), down(0, b"A"), SideEnded(7, 100.0, "client", "reset")]
    result = replay(events, serve(talk))
    serve.join()
    assert (result.exit_code, seen) == (0, [b"1", "reset"]), result.output


def test_an_end_that_does_not_come(serve: Serve, replay: Callable[..., Result]) -> None:
    def reset(client: socket.socket) -> None:
        received(client, 1)
        client.sendall(b"A")
        client.recv(1)  # so that it has been read
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    events = [BEGAN, up(0, b"1"), down(0, b"A"), CLIENT_ENDS, BACKEND_ENDS]
    result = replay(events, serve(reset))
    assert result.exit_code == 1
    assert "end        a reset; recorded: an end in order\n" in result.stdout
    assert "answer     the same: 1 B\n" in result.stdout


def test_an_endless_answer_is_cut(serve: Serve, replay: Callable[..., Result]) -> None:
    def talk(client: socket.socket) -> None:
        while True:
            client.sendall(bytes(65536))

    result = replay([BEGAN, up(0, b"1"), down(0, bytes(10)), BACKEND_ENDS], serve(talk))
    assert result.exit_code == 1
    assert "cut        after " in result.stdout
    assert "differs at byte 10: " in result.stdout


def test_a_backend_that_takes_nothing(serve: Serve, replay: Callable[..., Result]) -> None:
    done = threading.Event()
    where = serve(lambda client: done.wait(20.0))
    result = replay([BEGAN, up(0, bytes(1 << 24))], where, "--timeout", "0.1")
    done.set()
    assert result.exit_code == 0  # there was no answer, and there is none
    assert "the backend took nothing for 0.1 s" in result.stdout
    assert "bytes could not be sent" in result.stdout


def test_what_is_not_whole_wants_partial(serve: Serve, replay: Callable[..., Result]) -> None:
    seen: list[bytes] = []

    def talk(client: socket.socket) -> None:
        seen.append(received(client, 2))
        client.sendall(b"ok")

    events = [BEGAN, up(0, b"1"), up(2049, b"2"), down(0, b"ok"), Ended(7, 101.0, 2050, 2)]
    refused = replay(events, "127.0.0.1:1")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == (
        "monconn: the recording is not whole: 2,048 bytes of the client's, from byte 1 on."
        " With --partial, what is there is sent and compared\n"
    )
    result = replay(events, serve(talk), "--partial")
    serve.join()
    assert (result.exit_code, seen) == (0, [b"12"]), result.output
    assert "missing    2,048 bytes of the client's, from byte 1 on\n" in result.stdout


def test_json(serve: Serve, replay: Callable[..., Result]) -> None:
    events = [BEGAN, up(0, b"?"), down(0, b"yes"), BACKEND_ENDS]
    where = serve(lambda client: answer(client, b"yeah"))
    result = replay(events, where, "--json")
    made = json.loads(result.stdout)
    assert result.exit_code == 1
    del made["seconds"]
    assert made == {
        "connection": 7,
        "uid": "0-7",
        "to": where,
        "sent_bytes": 1,
        "missing": [],
        "notes": [],
        "is_same": False,
        "differs_at": 2,
        "recorded": {
            "bytes": 3,
            "end": "fin",
            "data": [{"offset": 0, "data": base64.b64encode(b"yes").decode()}],
        },
        "came": {
            "bytes": 4,
            "end": "fin",
            "data": [
                {"offset": 0, "data": base64.b64encode(b"yea").decode()},
                {"offset": 3, "data": base64.b64encode(b"h").decode()},
            ],
        },
    }


@pytest.mark.parametrize(
    ("to", "error"),
    [
        ("127.0.0.1:1", "127.0.0.1:1 cannot be connected to: connection refused"),
        ("unix:/no/where", "unix:/no/where cannot be connected to: no such file or directory"),
        ("systemd:x", "write HOST:PORT, unix:PATH or tls:HOST:PORT"),
    ],
)
def test_what_cannot_be_tried(replay: Callable[..., Result], to: str, error: str) -> None:
    result = replay([BEGAN, up(0, b"?")], to)
    assert (result.exit_code, result.stdout) == (2, "")
    assert error in result.stderr


def test_a_timeout_of_nothing(replay: Callable[..., Result]) -> None:
    result = replay([BEGAN, up(0, b"?")], "127.0.0.1:1", "--timeout", "0")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "must be more than 0" in result.stderr


def test_a_pause_of_ages_can_be_waited_for() -> None:
    ours, its = socket.socketpair()
    with its, replaying._Link(ours) as link:
        its.sendall(b"x")
        assert link.wait(1e15, reads=True)


def test_how_long_it_takes_is_said_once_it_begins(
    serve: Serve, replay: Callable[..., Result]
) -> None:
    long = [BEGAN, up(0, b"?", at=100.0 + 3600), BACKEND_ENDS]
    assert "takes" not in replay(long, "127.0.0.1:1").stderr
    result = replay(long, serve(lambda client: None))  # which ends at once
    assert result.stderr == "takes 1h00m, as the client did; --at-once does not\n"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "x",
        "[]",
        "[" * 100_000,
        '{"event": "data"}',
        json.dumps(to_json(BEGAN) | {"at": "x"}),
        json.dumps(to_json(BEGAN) | {"at": float("nan")}),
        json.dumps(to_json(BEGAN) | {"connection": "\x1b[2J"}),
    ],
)
def test_a_file_that_is_no_recording(tmp_path: Path, line: str) -> None:
    file = tmp_path / "file"
    file.write_text(f"{line}\n")
    result = CliRunner().invoke(main, ["replay", str(file), "--to", "127.0.0.1:1"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("monconn: ")
    assert result.stderr.count("\n") == 1


def test_what_a_tap_has_printed_is_a_recording(serve: Serve, tmp_path: Path) -> None:
    """With times of ISO 8601, and gaps as objects of their own."""
    encoder = JsonEncoder()
    events: list[FlowEvent] = [BEGAN, up(0, b"?"), down(2, b"s"), BACKEND_ENDS]
    file = tmp_path / "tapped"
    file.write_bytes(b"".join(map(encoder.encode, events)))
    assert b'"gap"' in file.read_bytes()
    where = serve(lambda client: answer(client, b"yes"))
    result = CliRunner().invoke(main, ["replay", str(file), "--to", where, "--partial"])
    assert result.exit_code == 0, result.output
    assert "missing    2 bytes of the backend's, from byte 0 on\n" in result.stdout


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["replay", str(tmp_path / "x"), "--to", ":1"])
    assert result.exit_code == 2
    assert "is no id and no uid of a connection, and no file that can be read" in result.stderr


@pytest.mark.parametrize("is_named", [True, False])
def test_a_backend_with_tls(
    replay: Callable[..., Result],
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_named: bool,
) -> None:
    """An authority of one's own is trusted if the address, or else OpenSSL's variable names it."""
    import ssl

    from tests.certificates import make_certificate

    made = make_certificate(tmp_path / "c")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    seen: list[bytes] = []

    def talk(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as tls:
            seen.append(tls.recv(10))
            tls.sendall(b"yes")
            seen.append(tls.recv(10))
            tls.unwrap()

    where = serve(talk).replace("127.0.0.1", "tls:localhost")
    if is_named:
        where += f":trustRoots={made.certificate}"
    else:
        monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
    events = [BEGAN, up(0, b"?"), down(0, b"yes"), CLIENT_ENDS, BACKEND_ENDS]
    result = replay(events, where)
    serve.join()
    assert (result.exit_code, seen) == (0, [b"?", b""]), result.output


def test_a_backend_that_ends_early_is_sent_the_rest_at_once(
    serve: Serve, replay: Callable[..., Result]
) -> None:
    seen: list[bytes] = []

    def talk(client: socket.socket) -> None:
        seen.append(received(client, 1))
        client.shutdown(socket.SHUT_WR)
        seen.append(received(client, 1))

    events = [BEGAN, up(0, b"1"), up(1, b"2", at=3700.0), BACKEND_ENDS]
    result = replay(events, serve(talk))
    serve.join()
    assert (result.exit_code, seen) == (0, [b"1", b"2"]), result.output


def test_a_backend_that_goes_on_sending_delays_no_step(
    serve: Serve, replay: Callable[..., Result]
) -> None:
    seen: list[bytes] = []

    def talk(client: socket.socket) -> None:
        client.settimeout(0.02)
        for _ in range(500):  # more often than the pause that the client made
            client.sendall(b"!")
            with suppress(TimeoutError):
                if not (data := client.recv(10)):
                    return
                seen.append(data)
            if b"".join(seen) == b"?again":
                return

    events = [BEGAN, down(0, b"!"), up(0, b"?"), up(1, b"again", 100.2), BACKEND_ENDS]
    result = replay(events, serve(talk), "--timeout", "200ms")
    serve.join()
    assert b"".join(seen) == b"?again", result.output


def test_a_backend_that_goes_on_sending_is_not_awaited_for_ever(
    serve: Serve, replay: Callable[..., Result]
) -> None:
    is_left: list[bool] = []

    def talk(client: socket.socket) -> None:
        client.settimeout(0.05)
        for _ in range(100):
            client.sendall(b"!")
            with suppress(TimeoutError):
                if not client.recv(10):
                    is_left.append(True)
                    return

    result = replay([BEGAN, down(0, b"!"), up(0, b"?")], serve(talk), "--timeout", "300ms")
    serve.join()
    assert is_left, result.output


@pytest.mark.parametrize("offset", ["3.0", "NaN", "true"])
def test_offsets_that_are_no_numbers_of_bytes(tmp_path: Path, offset: str) -> None:
    file = tmp_path / "events.jsonl"
    lines = [json.dumps(to_json(each)) for each in (BEGAN, up(0, b"?"), down(3, b"abc"))]
    file.write_text("\n".join(lines).replace('"offset": 3', f'"offset": {offset}'))
    result = CliRunner().invoke(main, ["replay", str(file), "--to", "127.0.0.1:1", "--partial"])
    assert result.exit_code == 2
    assert "an offset is no whole number" in result.stderr
