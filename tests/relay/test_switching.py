"""Bytes keep their number and order while how they are moved changes under way."""

from __future__ import annotations

import errno
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from twisted.internet.threads import deferToThread

from monconn.model.flow import Data, FlowEvent
from monconn.model.reasons import Direction
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.policy.policy import Policy
from monconn.policy.recorder import RecorderSettings
from monconn.relay.relay import Relay
from monconn.relay.sockets.loop import HAS_EPOLL
from monconn.relay.sockets.pipes import PipePool
from monconn.relay.sockets.send_queue import SendQueue
from monconn.relay.stages import Forward
from tests.properties import examples

from .world import World, exactly, until

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Not to shrink: whether a plan fails also depends on the moment, and each try takes its time."""
KIB = 1 << 10
MOST_WRITES = 10
FIRST, LAST = 2000, 8000
SMALL_BUFFER = 32 * KIB
"""Size of the buffers between monconn and a reader: small, so that monconn must queue while it is
paused. The kernel doubles it: that is a segment of loopback's. If less than one fitted in, each
window that is full would be followed by a zero-window probe's 200 ms."""

# Bytes that are nowhere alike, so that any that are lost, repeated or swapped show.
STREAMS: dict[Direction, bytes] = {
    "up": random.Random(1).randbytes(MOST_WRITES * 600 * KIB),
    "down": random.Random(2).randbytes(MOST_WRITES * 600 * KIB),
}


@attrs.frozen
class Write:
    """One step of a sender.

    :param size: how many bytes to send.
    :param flips: whether the watcher comes, or goes, after it.
    """

    size: int
    flips: bool


@attrs.frozen
class Plan:
    """What one direction does.

    :param writes: of its sender.
    :param pauses: of its reader, in milliseconds, one after each of its reads.
    :param read_size: the most that the reader takes at once.
    """

    writes: list[Write]
    pauses: list[int]
    read_size: int

    def count(self) -> int:
        return sum(write.size for write in self.writes)


few = st.integers(1, 20) | st.integers(1, 70 * KIB)
many = few | st.integers(100 * KIB, 600 * KIB)


def plans(sizes: st.SearchStrategy[int]) -> st.SearchStrategy[Plan]:
    """Plans with writes of such sizes."""
    return st.builds(
        Plan,
        writes=st.lists(
            st.builds(Write, size=sizes, flips=st.booleans()), min_size=1, max_size=MOST_WRITES
        ),
        pauses=st.lists(st.integers(0, 10), max_size=8),
        read_size=st.sampled_from([KIB, 64 * KIB, 512 * KIB]),
    )


class PassingStage:
    """A stage that holds nothing."""

    held = 0

    def attach(self, forward: Forward) -> None:
        self.receive = forward

    def ended(self) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Period:
    """What passed while the watcher was there.

    :param record: the connection's; its counters give the offset at which watching begins.
    """

    def __init__(self, record: ConnectionRecord) -> None:
        self.starts: dict[Direction, int] = {"up": record.up, "down": record.down}
        self.ends: dict[Direction, int] = {}
        self.seen: dict[Direction, bytearray] = {"up": bytearray(), "down": bytearray()}
        self._record = record

    def add(self, direction: Direction, data: bytes) -> None:
        begin = self.starts[direction] + len(self.seen[direction])
        assert begin == getattr(self._record, direction) - len(data), "a gap, or it overlaps"
        self.seen[direction] += data

    def end(self, record: ConnectionRecord) -> None:
        self.ends = {"up": record.up, "down": record.down}

    def check(self) -> None:
        for direction, stream in STREAMS.items():
            whole = stream[self.starts[direction] : self.ends[direction]]
            assert self.seen[direction] == whole, direction


class Watcher(Observer):
    """Sees the payload of one connection at times; to be used in the reactor's thread.

    :param world: whose only connection it is.
    :param scope: ``service``, as an observer of the service; ``connection``, of this one alone;
        ``stage``, the same, and behind a stage that comes and goes with it.
    """

    watches_payload = True

    def __init__(self, world: World, scope: str) -> None:
        self._monitor = world.monitor
        self._record = world.live()
        self._scope = scope
        self._cancel: Callable[[], None] = lambda: None
        self.periods: list[Period] = []
        self.is_there = False

    def flip(self) -> None:
        """Start or stop watching."""
        if self.is_there:
            self._cancel()
            self.periods[-1].end(self._record)
        else:
            self._cancel = self._begin()
            self.periods.append(Period(self._record))
        self.is_there = not self.is_there

    def _begin(self) -> Callable[[], None]:
        if self._scope == "service":
            self._monitor.add_observer(self)
            return lambda: self._monitor.remove_observer(self)
        connection = self._monitor.live.by_id.get(self._record.id)
        if connection is None:  # it is over
            return lambda: None
        assert isinstance(connection, Relay)
        cancel = connection.add_watcher(partial(self.data, self._record))
        if self._scope != "stage":
            return cancel
        remove_up = connection.add_stage("up", PassingStage())
        remove_down = connection.add_stage("down", PassingStage())

        def cancel_all() -> None:
            for each in (cancel, remove_up, remove_down):
                each()

        return cancel_all

    def go(self) -> None:
        """Stop watching, if it does."""
        if self.is_there:
            self.flip()

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        self.periods[-1].add(direction, data)


def send(
    sock: socket.socket, stream: bytes, writes: Sequence[Write], flip: Callable[[], object]
) -> None:
    at = 0
    for write in writes:
        sock.sendall(stream[at : at + write.size])
        at += write.size
        if write.flips:
            flip()


def receive(sock: socket.socket, plan: Plan) -> bytes:
    received = bytearray()
    for pause in plan.pauses:
        if len(received) < plan.count():
            received += sock.recv(min(plan.read_size, plan.count() - len(received)))
            time.sleep(pause / 1000)  # the pause itself is wanted, not something that it brings
    return bytes(received) + exactly(sock, plan.count() - len(received))


def play_both(world: World, up: Plan, down: Plan, scope: str) -> None:
    # What is recorded goes on being spliced: so it must be right whatever else switches.
    is_recorded = scope != "service"
    if is_recorded:
        recorder = RecorderSettings(first=FIRST, last=LAST)
        world.on_reactor(world.monitor.apply, Policy.of(recorder=recorder))
    client, backend = world.pair()
    for sock in (client, backend):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    record = world.live()
    watcher = Watcher(world, scope)

    def flip() -> None:
        world.on_reactor(watcher.flip)

    sendings = [
        world.meanwhile(send, client, STREAMS["up"], up.writes, flip),
        world.meanwhile(send, backend, STREAMS["down"], down.writes, flip),
    ]
    at_client = world.meanwhile(receive, client, down)
    at_backend = world.meanwhile(receive, backend, up)
    assert at_backend.result() == STREAMS["up"][: up.count()]
    assert at_client.result() == STREAMS["down"][: down.count()]
    for sending in sendings:
        sending.result()
    world.on_reactor(watcher.go)
    assert (record.up, record.down) == (up.count(), down.count())
    for period in watcher.periods:
        period.check()
    if is_recorded:
        events = world.on_reactor(world.monitor.recorder.events, record.id)
        assert events is not None
        check_recorded(events, {"up": up.count(), "down": down.count()})


@pytest.fixture
def small_send_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have monconn queue what a reader does not take: else the kernel takes some megabytes."""
    start_writing = SendQueue.connect_succeeded

    def connect_succeeded(self: SendQueue, sock: socket.SocketType, fd: int) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        start_writing(self, sock, fd)

    monkeypatch.setattr(SendQueue, "connect_succeeded", connect_succeeded)


def check_recorded(events: Sequence[FlowEvent], counts: dict[Direction, int]) -> None:
    """Check that the first and the last bytes are there, and no others."""
    for direction, count in counts.items():
        stream, at = STREAMS[direction], 0
        pieces = [each for each in events if isinstance(each, Data) and each.direction == direction]
        assert sum(len(each.data) for each in pieces) == min(FIRST + LAST, count)
        for each in pieces:
            assert each.offset == at or (at == FIRST and each.offset == count - LAST), "a gap"
            at = each.offset + len(each.data)
            assert each.data == stream[each.offset : at]
        assert at == count


@pytest.mark.skipif(not HAS_EPOLL, reason="this system has no epoll")
@pytest.mark.parametrize(
    ("pipe", "scope", "count"),
    [
        ("splice", "service", 10),
        ("splice", "connection", 20),
        ("splice", "stage", 10),
        ("copy", "service", 10),
        ("copy", "connection", 10),
        ("nested", "connection", 4),
        ("stream", "connection", 4),
        ("plain_to_stream", "stage", 4),
        ("tls_to_plain", "connection", 2),
        ("plain_to_tls", "stage", 2),
    ],
)
@pytest.mark.usefixtures("small_send_buffers")
@pytest_twisted.ensureDeferred
async def test_a_watcher_comes_and_goes_in_mid_stream(
    tmp_path: Path, pipe: str, scope: str, count: int
) -> None:
    sizes = few if "tls" in pipe else many  # OpenSSL in the tests' own sockets takes its time

    @settings(max_examples=examples(count), deadline=None, phases=PHASES)
    @given(up=plans(sizes), down=plans(sizes))
    def play(up: Plan, down: Plan) -> None:
        with World(tmp_path, "ipv4", pipe) as world:
            play_both(world, up, down, scope)

    await deferToThread(play)


# -- what is held


class Holder:
    """The owner of a send queue, without an End."""

    def filled(self) -> None: ...

    def flushed(self) -> None: ...

    def cannot_write(self) -> None:
        raise AssertionError("the peer is there")


@settings(max_examples=examples(30), deadline=None, phases=PHASES)
@given(counts=st.lists(st.integers(1, 300 * KIB), min_size=2, max_size=6), early=st.integers(0, 2))
def test_a_send_queue_sends_in_order(counts: list[int], early: int) -> None:
    """Whether it came before there was a socket, or while the kernel took no more."""
    sender, receiver = socket.socketpair()
    with sender, receiver:
        sender.setblocking(False)
        receiver.setblocking(False)
        send_queue, at, received = SendQueue(Holder(), PipePool()), 0, bytearray()
        for number, count in enumerate(counts):
            if number == early:
                send_queue.connect_succeeded(sender, sender.fileno())
                send_queue.flush()
            send_queue.send(STREAMS["up"][at : at + count])
            at += count
        if early >= len(counts):
            send_queue.connect_succeeded(sender, sender.fileno())

        def drained() -> bool:
            send_queue.flush()
            try:
                received.extend(receiver.recv(64 * KIB))
            except BlockingIOError:
                pass
            return len(received) >= at

        until(drained)
        assert received == STREAMS["up"][:at]
        assert (send_queue.held(), send_queue.sent) == (0, at)


class FailedHolder(Holder):
    def cannot_write(self) -> None: ...


@pytest.mark.skipif(not hasattr(os, "splice"), reason="there is no splice")
@pytest.mark.parametrize(
    ("spliced", "number"),
    [
        ([3, errno.EPIPE], errno.ECONNRESET),  # whatever it was, the kernel has kept it to itself
        ([errno.EPIPE], errno.EPIPE),
        ([3, errno.ETIMEDOUT], errno.ETIMEDOUT),
    ],
)
def test_the_error_of_a_splice_that_has_sent_some_is_unknown(
    monkeypatch: pytest.MonkeyPatch, spliced: list[int], number: int
) -> None:
    results = iter(spliced)

    def splice(*_: object, **__: object) -> int:
        result = next(results)
        if result > 3:
            raise OSError(result, os.strerror(result))
        return result

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        pipes = PipePool()
        send_queue = SendQueue(FailedHolder(), pipes)
        send_queue.connect_succeeded(sock, sock.fileno())
        pipe = pipes.take()
        assert pipe is not None
        pipe.held = 9
        monkeypatch.setattr(os, "splice", splice)
        send_queue.splice(pipe)
    assert send_queue.error is not None
    assert send_queue.error.errno == number
    pipes.close()
