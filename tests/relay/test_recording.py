"""Recorded connections: they are spliced as others are, and their last bytes are not lost."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from monconn.model.flow import Data, Ended, FlowEvent, SideEnded
from monconn.model.reasons import Direction
from monconn.monitor.recorder import Arena
from monconn.monitor.tracks import Track
from monconn.policy.policy import Policy
from monconn.policy.recorder import RecorderSettings
from monconn.relay.sockets.loop import HAS_EPOLL
from monconn.relay.sockets.pipes import PIPE_BYTES, Pipe, PipePool
from monconn.relay.sockets.send_queue import SendQueue

from .world import World, exactly, reset, to_the_end, until, until_settled

LAST = 8 << 10
BULK = random.Random(5).randbytes(4 << 20)
needs_splice = pytest.mark.skipif(
    not (HAS_EPOLL and hasattr(os, "splice")), reason="this system has no splice"
)


def recorded(world: World) -> list[FlowEvent]:
    """The recording of the world's only connection, which has ended."""
    (record,) = world.closed()
    events = world.on_reactor(world.monitor.recorder.events, record.id)
    assert events is not None
    end = events[-1]
    assert isinstance(end, Ended)
    assert (end.up, end.down, end.reason) == (record.up, record.down, record.reason)
    assert world.monitor.recorder.arena.used > 0
    return events


def last_bytes(events: list[FlowEvent], direction: Direction) -> tuple[int, bytes]:
    """Where the last bytes of a direction end, and what they are."""
    pieces = [each for each in events if isinstance(each, Data) and each.direction == direction]
    data = b"".join(each.data for each in pieces)[-LAST:]
    return pieces[-1].offset + len(pieces[-1].data), data


def world_of(folder: Path, pipe: str) -> World:
    """A service with a recorder."""
    return World(folder, "ipv4", pipe)


def record_all(world: World) -> None:
    world.on_reactor(world.monitor.apply, Policy.of(recorder=RecorderSettings(last=LAST)))


@needs_splice
@pytest.mark.parametrize("pipe", ["splice", "nested"])
@pytest_twisted.ensureDeferred
async def test_what_is_recorded_is_spliced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: str
) -> None:
    """What is copied of much is hardly more than what is recorded."""
    copied: list[int] = []
    send = SendQueue.send

    def counting(self: SendQueue, chunk: bytes) -> None:
        copied.append(len(chunk))
        send(self, chunk)

    monkeypatch.setattr(SendQueue, "send", counting)

    def play() -> None:
        with world_of(tmp_path, pipe) as world:
            record_all(world)
            client, backend = world.pair()
            receiving = world.meanwhile(exactly, backend, len(BULK))
            client.sendall(BULK)
            assert receiving.result() == BULK
            assert world.live().pipe == "splice"
            tails = [count for count in copied if count == LAST]
            assert len(tails) >= len(BULK) // PIPE_BYTES
            client.close()
            assert to_the_end(backend) == (b"", "fin")
            backend.close()
            assert last_bytes(recorded(world), "up") == (len(BULK), BULK[-LAST:])

    await deferToThread(play)


@pytest.mark.parametrize("pipe", ["splice", "copy", "stream", "tls_to_plain"])
@pytest.mark.parametrize("how", ["reset", "operator", "close"])
@pytest_twisted.ensureDeferred
async def test_the_last_bytes_of_a_sender_whose_receiver_does_not_read(
    tmp_path: Path, pipe: str, how: str
) -> None:
    """They are in a pipe, behind what the receiver has not taken, when the connection ends."""

    def send_all(client: socket.socket) -> None:
        try:
            client.sendall(BULK)
        except OSError:
            pass  # it has ended meanwhile

    def play() -> None:
        with world_of(tmp_path, pipe) as world:
            record_all(world)
            client, backend = world.pair()
            backend.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            sending = world.meanwhile(send_all, client)
            record = world.live()
            up = until_settled(lambda: record.up)
            assert up > 0
            if how == "reset":
                reset(backend)
                sending.result()
            elif how == "operator":
                world.on_reactor(world.monitor.close, record.id, reset=True)
                sending.result()
            else:
                backend.close()
                sending.result()
                client.close()
            events = recorded(world)
            assert last_bytes(events, "up") == (record.up, BULK[record.up - LAST : record.up])
            assert events[-1].kind == "ended"
            ends = [each.side for each in events if isinstance(each, SideEnded)]
            assert ends or how == "operator"

    await deferToThread(play)


@pytest_twisted.ensureDeferred
async def test_a_half_closed_connection_is_recorded_on(tmp_path: Path) -> None:
    def play() -> None:
        with world_of(tmp_path, "splice") as world:
            record_all(world)
            client, backend = world.pair()
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert to_the_end(backend) == (b"question", "fin")
            backend.sendall(b"answer")
            backend.close()
            assert to_the_end(client) == (b"answer", "fin")
            client.close()
            kinds = [
                (each.kind, getattr(each, "side", getattr(each, "direction", None)))
                for each in recorded(world)
            ]
            assert kinds == [
                ("began", None),
                ("data", "up"),
                ("side_ended", "client"),
                ("data", "down"),
                ("side_ended", "backend"),
                ("ended", None),
            ]

    await deferToThread(play)


# -- the send queue


class Holder:
    """The owner of a send queue, without an End."""

    def filled(self) -> None: ...

    def flushed(self) -> None: ...

    def cannot_write(self) -> None: ...


def filled_pipe(pipes: PipePool, track: Track, data: bytes) -> Pipe:
    """A pipe with bytes, the last of which are recorded."""
    pipe = pipes.take()
    assert pipe is not None
    pipe.held = os.write(pipe.writer, data)
    assert pipe.held == len(data)
    pipe.tail = track.tail_of(len(data), 1.0)
    return pipe


def full_queue(sender: socket.socket, pipes: PipePool) -> SendQueue:
    """A send queue whose socket takes no more."""
    sender.setblocking(False)
    queue = SendQueue(Holder(), pipes)
    queue.connect_succeeded(sender, sender.fileno())
    while not queue.blocked:
        queue.send(bytes(10_000))
    return queue


@needs_splice
def test_the_tail_of_a_pipe_stays_between_what_comes_before_and_after() -> None:
    """However often the kernel takes no more."""
    sender, receiver = socket.socketpair()
    pipes, track = PipePool(), Track(RecorderSettings(last=LAST), Arena().charge)
    with sender, receiver:
        receiver.setblocking(False)
        sender.setblocking(False)
        queue = SendQueue(Holder(), pipes)
        queue.connect_succeeded(sender, sender.fileno())
        piped, behind = BULK[: 1 << 20], BULK[1 << 20 : 3 << 19]
        queue.splice(filled_pipe(pipes, track, piped))
        assert queue.blocked
        for at in range(0, len(behind), 1 << 18):
            queue.send(behind[at : at + (1 << 18)])
        assert queue.held() + queue.sent == len(piped) + len(behind)
        received = bytearray()

        def drained() -> bool:
            queue.flush()
            try:
                received.extend(receiver.recv(30_000))
            except BlockingIOError:
                pass
            return len(received) >= len(piped) + len(behind)

        until(drained)
        assert received == piped + behind
        assert (queue.held(), queue.blocked) == (0, False)
        assert len(pipes) == 1, "it is given back, empty"
    assert [data for *_, data in track.chunks()] == [piped[-LAST:]]
    pipes.close()


@needs_splice
@pytest.mark.parametrize("size", [100, LAST, LAST + 1, 1 << 20])
@pytest.mark.parametrize("after", ["close", "failure"])
def test_what_a_pipe_holds_at_the_end_is_recorded(size: int, after: str) -> None:
    sender, receiver = socket.socketpair()
    pipes, track = PipePool(), Track(RecorderSettings(first=0, last=LAST), Arena().charge)
    with sender, receiver:
        queue = full_queue(sender, pipes)
        if after == "failure":
            queue.error = OSError("failed")
        queue.splice(filled_pipe(pipes, track, BULK[:size]))
        if after == "close":
            assert size <= LAST or list(track.chunks()) == [], "it is not known yet"
            queue.close()
        assert len(pipes) == 1
    tail = BULK[max(0, size - LAST) : size]
    assert list(track.chunks()) == [(1.0, size - len(tail), tail)]
    pipes.close()
