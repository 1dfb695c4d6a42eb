"""Clients that are asked for a preface before they are admitted."""

from __future__ import annotations

import socket
import ssl
import struct
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import serverFromString
from twisted.internet.threads import deferToThread

from monconn.addresses import TcpAddress
from monconn.clock import MonotonicClock
from monconn.model.record import ConnectionRecord
from monconn.monitor.monitor import Monitor
from monconn.policy.policy import Policy
from monconn.policy.rules import Rules
from monconn.relay import preface as preface_module
from monconn.relay.forwarder import ForwardingFactory
from monconn.relay.paths import DataPaths
from monconn.relay.preface import Decision, PrefaceError
from tests.certificates import make_certificate

from .world import World, exactly, reset, to_the_end, until

PATHS = ("stream", "splice", "nested", "stream_to_plain", "plain_to_stream")


class LinePreface:
    """``KEY VALUE\\n``: the client's IP, or a fact, or the port of another backend."""

    max_bytes = 64
    timeout_seconds = 20.0

    def read(self, data: bytes, ended: bool) -> Decision | None:
        line, newline, _ = data.partition(b"\n")
        if not newline:
            return None
        key, _, value = line.decode().partition(" ")
        consumed = len(line) + 1
        if key == "ip":
            return Decision(consumed, client=f"{value}:1", client_ip=value)
        if key == "no-fact":
            return Decision(consumed, facts={value: float("nan")})
        if key == "fact":
            return Decision(consumed, facts={"protocol": value})
        if key == "port":
            return Decision(consumed, backend=TcpAddress("127.0.0.1", int(value)))
        if key == "peek":
            return Decision()
        if key == "fail":
            raise ZeroDivisionError
        raise PrefaceError("that is no preface")


class Impatient(LinePreface):
    timeout_seconds = 0.2


def in_world(preface: type[LinePreface] = LinePreface, **kwargs: Any) -> Any:
    def decorate(play: Any) -> Any:
        @pytest.mark.parametrize("pipe", PATHS)
        @pytest_twisted.ensureDeferred
        async def test(tmp_path: Path, pipe: str) -> None:
            def enter_and_play() -> None:
                with World(tmp_path, "ipv4", pipe, preface=preface(), **kwargs) as world:
                    play(world)

            await deferToThread(enter_and_play)

        return test

    return decorate


def end_in_order(client: socket.socket, backend: socket.socket) -> None:
    client.close()
    assert to_the_end(backend) == (b"", "fin")
    backend.close()


@in_world()
def test_bytes_after_the_preface_arrive_once_and_its_client_address_is_used(world: World) -> None:
    client = world.client()
    client.sendall(b"ip 192.")
    client.sendall(b"0.2.7\nhello")
    backend = world.backend()
    assert exactly(backend, 5) == b"hello"
    client.sendall(bytes(1_000_000))
    assert exactly(backend, 1_000_000) == bytes(1_000_000)
    record = world.live()
    assert (record.client, record.client_ip) == ("192.0.2.7:1", "192.0.2.7")
    assert record.up == 1_000_005, "the preface is not counted: it is not the connection's"
    end_in_order(client, backend)
    world.closed()


def they_enter_one_by_one(world: World) -> None:
    clients = [world.client() for _ in range(3)]
    until(lambda: len(world.room()) == 3)
    for client in clients:
        client.sendall(b"peek\n")
    for _ in clients:
        backend = world.backend()
        assert exactly(backend, 5) == b"peek\n"
        reset(backend)
    records = world.closed(3)
    assert {record.reason for record in records} == {"backend_reset"}
    assert (world.monitor.totals().refused, len(world.room())) == ({}, 0)


in_full_world = in_world(rules=Rules(conn_limit=1))
in_slow_world = in_world(rules=Policy.of(rate="20/s burst 1").rules)
test_they_wait_for_room_once_their_preface_is_complete = in_full_world(they_enter_one_by_one)
test_they_enter_at_the_pace_of_the_rate = in_slow_world(they_enter_one_by_one)


@in_world()
def test_peeked_bytes_all_reach_the_backend(world: World) -> None:
    client = world.client()
    client.sendall(b"peek\nand more")
    client.shutdown(socket.SHUT_WR)
    backend = world.backend()
    assert to_the_end(backend) == (b"peek\nand more", "fin")
    backend.sendall(b"answer")
    backend.close()
    assert to_the_end(client) == (b"answer", "fin")
    world.expect("client_closed", "--", "fin", "fin", up=13, down=6)


@in_world()
def test_facts_are_in_the_record(world: World) -> None:
    client = world.client()
    client.sendall(b"fact mqtt\n")
    backend = world.backend()
    assert world.live().facts == {"protocol": "mqtt"}
    end_in_order(client, backend)


@in_world()
def test_the_preface_may_choose_the_backend(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(20)
        port = other.getsockname()[1]
        client = world.client()
        client.sendall(b"port %d\nto you" % port)
        backend, _ = other.accept()
        with backend:
            assert exactly(backend, 6) == b"to you"
            assert world.live().backend == f"127.0.0.1:{port}"
            end_in_order(client, backend)
    until(lambda: not len(world.monitor))


@in_world()
def test_admission_uses_the_address_of_the_preface(world: World) -> None:
    world.on_reactor(world.monitor.block, "192.0.2.0/24")
    client = world.client()
    client.sendall(b"ip 192.0.2.7\nhello")
    assert to_the_end(client)[0] == b""
    until(lambda: world.monitor.totals().refused["blocked"] == 1)
    assert world.monitor.totals().opened == 0


def only_record(world: World) -> ConnectionRecord:
    (record,) = until(lambda: list(world.monitor.closed_records))
    assert (record.state, len(world.monitor), len(world.deadlines)) == ("closed", 0, 0)
    assert record.client.startswith("127.0.0.1:")
    return record


@in_world(Impatient)
def test_a_silent_client_is_ended_as_a_connection_that_timed_out(world: World) -> None:
    client = world.client()
    assert to_the_end(client)[0] == b""
    record = only_record(world)
    seen = (record.reason, record.code, record.client_end, record.detail)
    assert seen == ("read_timeout", "cC", "timeout", "it sent no preface in time")


@in_world()
def test_a_client_that_ends_early_is_a_connection_that_it_closed(world: World) -> None:
    client = world.client()
    client.sendall(b"ip 192")
    client.close()
    assert only_record(world).reason == "client_closed"


@in_world()
def test_a_client_that_resets_is_a_connection_that_it_reset(world: World) -> None:
    client = world.client()
    until(lambda: len(world.room()))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert only_record(world).reason == "client_reset"


@in_world()
def test_a_reset_is_known_as_one_though_bytes_came_before_it(world: World) -> None:
    client = world.client()
    client.sendall(b"ip 192")
    until(lambda: len(world.room()))
    reset(client)
    record = only_record(world)
    assert (record.reason, record.client_end) == ("client_reset", "reset")


@pytest_twisted.ensureDeferred
async def test_a_tls_client_that_answers_nothing_is_gone_when_its_time_is_over(
    tmp_path: Path,
) -> None:
    from twisted.internet import reactor

    certificate = make_certificate(tmp_path)
    clock = MonotonicClock()
    monitor = Monitor("test", clock=clock)
    paths = DataPaths(reactor, clock)
    path = paths.from_endpoint(monitor, TcpAddress("127.0.0.1", 1))
    keys = f"privateKey={certificate.key}:certKey={certificate.certificate}"
    endpoint = serverFromString(reactor, f"ssl:0:{keys}:interface=127.0.0.1")
    port = await endpoint.listen(ForwardingFactory(monitor, path, Impatient()))

    def play() -> None:
        plain = socket.create_connection(("127.0.0.1", port.getHost().port), timeout=20)
        context = ssl.create_default_context(cafile=str(certificate.certificate))
        secure = context.wrap_socket(plain, server_hostname="localhost")
        # From here on nobody reads TLS, or answers its close_notify.
        with socket.socket(fileno=secure.detach()) as client:
            client.settimeout(20)
            to_the_end(client)

    try:
        await deferToThread(play)
        (record,) = monitor.closed_records
        assert record.reason == "read_timeout"
    finally:
        await port.stopListening()


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        (b"what?\n", "that is no preface"),
        (b"x" * 100, "no preface in "),
        (b"fail\n", "the preface"),
        (b"no-fact number\n", "the preface"),
    ],
)
@pytest.mark.parametrize("pipe", PATHS)
@pytest_twisted.ensureDeferred
async def test_an_invalid_preface_is_an_error(
    tmp_path: Path, pipe: str, sent: bytes, detail: str, logged_failures: list[object]
) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", pipe, preface=LinePreface()) as world:
            client = world.client()
            client.sendall(sent)
            to_the_end(client)
            record = only_record(world)
            assert record.reason == "error"
            assert record.detail.startswith(detail)

    await deferToThread(play)
    assert bool(logged_failures) == detail.startswith("the preface")
    logged_failures.clear()


@in_world()
def test_silent_clients_do_not_lock_out_others(world: World) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(preface_module, "MOST_WAITING", 3)
        silent = [world.client() for _ in range(4)]
        assert to_the_end(silent[0])[0] == b""
        (record,) = until(lambda: list(world.monitor.closed_records))
        assert (record.reason, record.detail) == ("read_timeout", "too many clients wait")
        silent[3].sendall(b"ip 192.0.2.9\n")
        end_in_order(silent[3], world.backend())
