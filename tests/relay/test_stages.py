"""Stages between two Ends: bytes delayed, held and altered, on every data path."""

from __future__ import annotations

import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread

from monconn.model.reasons import Direction
from monconn.relay.ends import HOLD_STAGE
from monconn.relay.relay import Relay
from monconn.relay.stages import HELD_BYTES, Forward

from .world import (
    PIPES,
    World,
    ends_by_reset,
    exactly,
    is_tcp,
    reset,
    to_the_end,
    until,
    until_settled,
)

KIB = 1 << 10
DATA = random.Random(3).randbytes(600 * KIB)
DIRECTIONS: tuple[Direction, ...] = ("up", "down")


class HoldingStage:
    """Holds bytes until the test releases them, and may alter them.

    :param alter: makes other bytes of those that go on.
    """

    def __init__(self, alter: Callable[[bytes], bytes] = lambda data: data) -> None:
        self.held = 0
        self.has_ended = self.is_closed = False
        self.most_held = 0
        self._bytes = bytearray()
        self._alter = alter

    def attach(self, forward: Forward) -> None:
        self._forward = forward

    def receive(self, data: bytes) -> None:
        self._bytes += data
        self.held = len(self._bytes)
        self.most_held = max(self.held, self.most_held)

    def let_go(self, count: int | None = None) -> None:
        """Forward so many of the bytes that are held."""
        data = bytes(self._bytes[:count])
        del self._bytes[: len(data)]
        self.held = len(self._bytes)
        self._forward(self._alter(data))

    def ended(self) -> None:
        assert not self.has_ended, "ended was called twice"
        self.has_ended = True

    def flush(self) -> None:
        self.let_go()

    def close(self) -> None:
        self.is_closed = True
        self._bytes.clear()
        self.held = 0


class DelayingStage(HoldingStage):
    """Forwards each chunk some time after it came."""

    def __init__(self, seconds: float, alter: Callable[[bytes], bytes] = lambda data: data) -> None:
        super().__init__(alter)
        self._seconds = seconds
        self._due: deque[int] = deque()

    def receive(self, data: bytes) -> None:
        super().receive(data)
        self._due.append(len(data))
        self._later()

    def _later(self) -> None:
        from twisted.internet import reactor

        reactor.callLater(self._seconds, self._let_one_go)

    def _let_one_go(self) -> None:
        if self._due and not self.is_closed:
            self.let_go(self._due.popleft())

    def flush(self) -> None:
        self._due.clear()
        super().flush()


def relay_of(world: World) -> Relay:
    relay = world.monitor.live.by_id[world.live().id]
    assert isinstance(relay, Relay)
    return relay


def sides(world: World, direction: Direction) -> tuple[socket.socket, socket.socket]:
    """A sender and a receiver."""
    client, backend = world.pair()
    relay = relay_of(world)
    until(lambda: relay.record.state == "open")
    return (client, backend) if direction == "up" else (backend, client)


def staged(
    pipes: tuple[str, ...] = PIPES, families: tuple[str, ...] = ("ipv4",), **world: Any
) -> Any:
    """Play a scenario in both directions, on each data path."""

    def decorate(play: Callable[[World, Direction], None]) -> Any:
        @pytest.mark.parametrize("direction", DIRECTIONS)
        @pytest.mark.parametrize("family", families)
        @pytest.mark.parametrize("pipe", pipes)
        @pytest_twisted.ensureDeferred
        async def test(tmp_path: Path, pipe: str, family: str, direction: Direction) -> None:
            def enter_and_play() -> None:
                with World(tmp_path, family, pipe, **world) as entered:
                    play(entered, direction)

            await deferToThread(enter_and_play)

        return test

    return decorate


def counted(world: World, direction: Direction) -> int:
    record = world.live()
    return record.up if direction == "up" else record.down


@staged()
def test_bytes_are_delayed_and_the_end_comes_after_them(world: World, direction: Direction) -> None:
    sender, receiver = sides(world, direction)
    stage = DelayingStage(0.02)
    world.on_reactor(relay_of(world).add_stage, direction, stage)
    sending = world.meanwhile(sender.sendall, DATA)
    assert exactly(receiver, len(DATA)) == DATA
    sending.result()
    sender.sendall(b"the last")
    sender.shutdown(socket.SHUT_WR)
    assert to_the_end(receiver) == (b"the last", "fin")
    assert stage.has_ended
    receiver.sendall(b"answer")  # the other half is open still
    assert exactly(sender, 6) == b"answer"
    receiver.close()
    assert to_the_end(sender) == (b"", "fin")
    sender.close()
    (record,) = world.closed()
    assert {record.up, record.down} == {len(DATA) + 8, 6}
    assert stage.is_closed


@staged()
def test_the_end_waits_for_what_is_held(world: World, direction: Direction) -> None:
    sender, receiver = sides(world, direction)
    stage = HoldingStage()
    world.on_reactor(relay_of(world).add_stage, direction, stage)
    sender.sendall(b"first, second")
    sender.shutdown(socket.SHUT_WR)
    until(lambda: stage.has_ended)
    assert counted(world, direction) == 13, "counted as it was taken from the sender"
    receiver.settimeout(0.05)
    with pytest.raises(TimeoutError):
        receiver.recv(1)
    receiver.settimeout(20)
    world.on_reactor(stage.let_go, 5)
    assert exactly(receiver, 5) == b"first"
    world.on_reactor(stage.let_go)
    assert to_the_end(receiver) == (b", second", "fin")


@staged()
def test_both_sides_end_while_bytes_are_held(world: World, direction: Direction) -> None:
    sender, receiver = sides(world, direction)
    stage = HoldingStage()
    world.on_reactor(relay_of(world).add_stage, direction, stage)
    sender.sendall(b"late")
    sender.shutdown(socket.SHUT_WR)
    receiver.shutdown(socket.SHUT_WR)
    until(lambda: stage.has_ended)
    assert to_the_end(sender) == (b"", "fin")
    assert len(world.monitor) == 1
    world.on_reactor(stage.let_go)
    assert to_the_end(receiver) == (b"late", "fin")
    (record,) = world.closed()
    assert record.reason in ("client_closed", "backend_closed")


@staged()
def test_a_held_byte_holds_the_sender_back_and_memory_is_bounded(
    world: World, direction: Direction
) -> None:
    sender, receiver = sides(world, direction)
    relay, stage = relay_of(world), HoldingStage()
    world.on_reactor(relay.add_stage, direction, stage)
    end = relay.client if direction == "up" else relay.backend
    sending = world.meanwhile(sender.sendall, DATA * 10)
    taken = until_settled(lambda: counted(world, direction))
    assert HELD_BYTES <= taken == stage.held <= 4 * HELD_BYTES
    assert end.holds == HOLD_STAGE
    receiving = world.meanwhile(exactly, receiver, len(DATA) * 10)
    while not receiving.done():
        world.on_reactor(stage.let_go, 50_000)
    assert receiving.result() == DATA * 10
    sending.result()
    assert stage.most_held <= 4 * HELD_BYTES
    assert end.holds == 0


@staged()
def test_a_stage_that_lets_everything_go_to_a_stalled_side_holds_the_sender_back(
    world: World, direction: Direction
) -> None:
    sender, receiver = sides(world, direction)
    relay = relay_of(world)
    world.on_reactor(relay.add_stage, direction, DelayingStage(0))
    sender.settimeout(0.3)
    with pytest.raises(TimeoutError):
        sender.sendall(DATA * 40)  # more than all buffers hold
    taken = until_settled(lambda: counted(world, direction))
    assert world.held_for(receiver, taken) <= 8 * HELD_BYTES
    end = relay.client if direction == "up" else relay.backend
    assert end.holds
    reset(receiver) if is_tcp(receiver) else receiver.close()


@staged()
def test_bytes_are_altered(world: World, direction: Direction) -> None:
    sender, receiver = sides(world, direction)
    stage = HoldingStage(lambda data: data.upper() + b"!")
    world.on_reactor(relay_of(world).add_stage, direction, stage)
    sender.sendall(b"quiet")
    until(lambda: stage.held == 5)
    world.on_reactor(stage.let_go)
    assert exactly(receiver, 6) == b"QUIET!"
    assert counted(world, direction) == 5


@staged()
def test_a_reset_comes_after_what_is_held(world: World, direction: Direction) -> None:
    sender, receiver = sides(world, direction)
    stage = HoldingStage()
    world.on_reactor(relay_of(world).add_stage, direction, stage)
    sender.sendall(b"before it")
    until(lambda: stage.held == 9)
    record = world.live()
    reset(sender)
    until(lambda: record.state == "closing")
    world.on_reactor(stage.let_go)
    assert to_the_end(receiver)[0] == b"before it"
    side = "client" if direction == "up" else "backend"
    (record,) = world.closed()
    assert record.reason == f"{side}_reset"
    assert stage.is_closed


@staged(grace_seconds=0.3)
def test_a_reset_waits_no_longer_than_the_grace_time(world: World, direction: Direction) -> None:
    sender, receiver = sides(world, direction)
    stage = HoldingStage()
    world.on_reactor(relay_of(world).add_stage, direction, stage)
    sender.sendall(b"never let go")
    until(lambda: stage.held)
    reset(sender)
    assert to_the_end(receiver)[1] in ends_by_reset(receiver)
    world.closed()
    assert stage.is_closed


@staged()
def test_an_abort_drops_what_is_held(world: World, direction: Direction) -> None:
    sender, receiver = sides(world, direction)
    stage = HoldingStage()
    world.on_reactor(relay_of(world).add_stage, direction, stage)
    sender.sendall(b"held")
    until(lambda: stage.held)
    world.on_reactor(world.monitor.close, world.live().id, reset=True)
    assert to_the_end(receiver)[0] == b""
    to_the_end(sender)
    world.closed()
    assert stage.is_closed
    world.on_reactor(stage.let_go)  # harmless


@staged()
def test_the_receivers_reset_drops_what_is_held(world: World, direction: Direction) -> None:
    sender, receiver = sides(world, direction)
    stage = HoldingStage()
    world.on_reactor(relay_of(world).add_stage, direction, stage)
    sender.sendall(b"held")
    until(lambda: stage.held)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.socket.close(receiver)  # and not as TLS does it in order
    to_the_end(sender)
    world.closed()
    assert stage.is_closed


@staged(pipes=("stream", "splice", "stream_to_plain"))
def test_an_ordinary_close_delivers_what_is_held(world: World, direction: Direction) -> None:
    sender, receiver = sides(world, direction)
    stage = HoldingStage()
    world.on_reactor(relay_of(world).add_stage, direction, stage)
    sender.sendall(b"held")
    until(lambda: stage.held)
    world.on_reactor(world.monitor.close, world.live().id)
    assert to_the_end(sender)[1] == "fin"
    world.on_reactor(stage.let_go)
    assert to_the_end(receiver) == (b"held", "fin")
    sender.close()
    receiver.close()
    (record,) = world.closed()
    assert record.reason == "operator"


@staged()
def test_stages_are_passed_in_order_and_removed_with_what_they_hold(
    world: World, direction: Direction
) -> None:
    sender, receiver = sides(world, direction)
    relay = relay_of(world)
    first, second = HoldingStage(lambda data: b"1" + data), HoldingStage(lambda data: b"2" + data)
    remove_first = world.on_reactor(relay.add_stage, direction, first)
    remove_second = world.on_reactor(relay.add_stage, direction, second)
    sender.sendall(b"x")
    until(lambda: first.held == 1)
    world.on_reactor(first.let_go)
    assert (first.held, second.held) == (0, 2)
    world.on_reactor(second.let_go)
    assert exactly(receiver, 3) == b"21x"
    sender.sendall(b"y")
    until(lambda: first.held == 1)
    for _ in range(2):
        world.on_reactor(remove_first)
    assert second.held == 2
    world.on_reactor(remove_second)
    assert exactly(receiver, 3) == b"21y"
    end = relay.backend if direction == "up" else relay.client
    assert end.stages is None
    sender.sendall(b"plain again")
    assert exactly(receiver, 11) == b"plain again"


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest_twisted.ensureDeferred
async def test_a_connection_splices_again_after_its_stage_was_removed(
    tmp_path: Path, direction: Direction
) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", "splice") as world:
            sender, receiver = sides(world, direction)
            remove = world.on_reactor(relay_of(world).add_stage, direction, DelayingStage(0))
            receiving = world.meanwhile(exactly, receiver, len(DATA))
            sender.sendall(DATA)
            assert receiving.result() == DATA
            assert world.live().pipe == "copy"
            world.on_reactor(remove)
            receiving = world.meanwhile(exactly, receiver, 10 * len(DATA))
            sender.sendall(10 * DATA)
            assert receiving.result() == 10 * DATA
            assert world.live().pipe == "splice"

    await deferToThread(play)


@pytest.mark.parametrize("pipe", ["stream", "splice", "stream_to_plain", "plain_to_stream"])
@pytest_twisted.ensureDeferred
async def test_stages_come_and_go_in_mid_stream(tmp_path: Path, pipe: str) -> None:
    """No byte is lost, repeated or reordered."""

    @settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
    @given(
        sizes=st.lists(st.integers(1, 150 * KIB), min_size=1, max_size=8),
        seed=st.integers(0, 1000),
    )
    def play(sizes: list[int], seed: int) -> None:
        chance = random.Random(seed)
        with World(tmp_path, "ipv4", pipe) as world:
            client, backend = world.pair()
            until(lambda: world.live().state == "open")
            relay = relay_of(world)
            total = min(sum(sizes), len(DATA))
            receivings = [world.meanwhile(exactly, sock, total) for sock in (backend, client)]
            removes: list[Callable[[], None]] = []
            at = 0
            for size in sizes:
                piece = DATA[at : min(at + size, total)]
                sendings = [world.meanwhile(sock.sendall, piece) for sock in (client, backend)]
                at += len(piece)
                if removes and chance.random() < 0.5:
                    world.on_reactor(removes.pop(chance.randrange(len(removes))))
                else:
                    stage = DelayingStage(chance.choice([0, 0.001, 0.01]))
                    direction = chance.choice(DIRECTIONS)
                    removes.append(world.on_reactor(relay.add_stage, direction, stage))
                for sending in sendings:
                    sending.result()
            for receiving in receivings:
                assert receiving.result() == DATA[:total]
            assert (relay.record.up, relay.record.down) == (total, total)

    await deferToThread(play)


@staged()
def test_bytes_that_arrive_while_a_full_stage_is_removed_are_not_lost(
    world: World, direction: Direction
) -> None:
    """It held the sender back, which is read from again as soon as it may be."""
    sender, receiver = sides(world, direction)
    remove = world.on_reactor(relay_of(world).add_stage, direction, stage := HoldingStage())
    sending = world.meanwhile(sender.sendall, DATA)
    until(lambda: stage.held >= HELD_BYTES)
    until_settled(lambda: counted(world, direction))
    receiving = world.meanwhile(exactly, receiver, len(DATA))
    world.on_reactor(remove)
    assert receiving.result() == DATA
    sending.result()


class PiecewiseStage(HoldingStage):
    """Forwards what it is told to flush in pieces."""

    fails = False

    def flush(self) -> None:
        if self.fails:
            raise ZeroDivisionError
        data = bytes(self._bytes)
        self._bytes.clear()
        self.held = 0
        for at in range(0, len(data), 5):
            self._forward(data[at : at + 5])


@staged()
def test_the_end_follows_the_last_piece_of_a_stage_that_is_removed(
    world: World, direction: Direction
) -> None:
    sender, receiver = sides(world, direction)
    remove = world.on_reactor(relay_of(world).add_stage, direction, stage := PiecewiseStage())
    sender.sendall(b"first, second")
    sender.shutdown(socket.SHUT_WR)
    until(lambda: stage.has_ended)
    world.on_reactor(remove)
    assert to_the_end(receiver) == (b"first, second", "fin")


@staged()
def test_a_stage_that_cannot_be_removed_at_first_stops_nobody_for_good(
    world: World, direction: Direction
) -> None:
    sender, receiver = sides(world, direction)
    remove = world.on_reactor(relay_of(world).add_stage, direction, stage := PiecewiseStage())
    world.meanwhile(sender.sendall, DATA)
    until(lambda: stage.held >= HELD_BYTES)
    stage.fails = True
    with pytest.raises(ZeroDivisionError):
        world.on_reactor(remove)
    receiving = world.meanwhile(exactly, receiver, len(DATA))
    before = until_settled(lambda: counted(world, direction))
    world.on_reactor(stage.let_go)
    until(lambda: counted(world, direction) > before)
    stage.fails = False
    world.on_reactor(remove)
    assert receiving.result() == DATA


@pytest.mark.parametrize("pipe", PIPES)
@pytest_twisted.ensureDeferred
async def test_a_reset_that_is_reported_with_more_bytes_than_a_stage_takes(
    tmp_path: Path, pipe: str
) -> None:
    """The sender is held amid the only event that reports the reset, which is passed on even so."""

    def play() -> None:
        with World(tmp_path, "ipv4", pipe, grace_seconds=0.2) as world:
            client, _ = world.pair()
            until(lambda: world.live().state == "open")
            # Else the kernel may hold the bytes back, and a reset drops what it holds.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stage = HoldingStage()
            world.on_reactor(relay_of(world).add_stage, "up", stage)

            def send_and_reset() -> None:
                """While the reactor waits, so that it finds all of this at once."""
                client.setblocking(False)
                client.send(DATA[: HELD_BYTES + 16 * KIB])
                reset(client)

            world.on_reactor(send_and_reset)
            (record,) = world.closed()
            assert (record.reason, record.client_end) == ("client_reset", "reset")
            assert record.up == stage.most_held > 0

    await deferToThread(play)
