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

from monconn.model.reasons import Direction
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.relay.relay import Relay
from monconn.relay.sockets.loop import HAS_EPOLL
from monconn.relay.sockets.pipes import PipePool
from monconn.relay.sockets.send_queue import SendQueue
from tests.properties import examples

from .world import World, exactly, until

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Not to shrink: whether a plan fails also depends on the moment, and each try takes its time."""
KIB = 1 << 10
MOST_WRITES = 10
SMALL_BUFFER = 16 * KIB
"""Buffer size of the outer sockets: small, so that monconn must queue for a paused reader."""

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


sizes = st.integers(1, 20) | st.integers(1, 70 * KIB) | st.integers(100 * KIB, 600 * KIB)
plans = st.builds(
    Plan,
    writes=st.lists(
        st.builds(Write, size=sizes, flips=st.booleans()), min_size=1, max_size=MOST_WRITES
    ),
    pauses=st.lists(st.integers(0, 10), max_size=8),
    read_size=st.sampled_from([KIB, 64 * KIB, 512 * KIB]),
)


class Period:
    """What passed while the watcher was there.

    :param record: the connection's; its counters give the offset at which watching begins.
    """

    def __init__(self, record: ConnectionRecord) -> None:
        self.starts: dict[Direction, int] = {"up": record.up, "down": record.down}
        self.ends: dict[Direction, int] = {}
        self.seen: dict[Direction, bytearray] = {"up": bytearray(), "down": bytearray()}

    def end(self, record: ConnectionRecord) -> None:
        self.ends = {"up": record.up, "down": record.down}

    def check(self) -> None:
        for direction, stream in STREAMS.items():
            whole = stream[self.starts[direction] : self.ends[direction]]
            assert self.seen[direction] == whole, direction


class Watcher(Observer):
    """Sees the payload of one connection at times; to be used in the reactor's thread.

    :param world: whose only connection it is.
    :param scope: ``service``, as an observer of the service; ``connection``, of this one alone.
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
        connection = self._monitor._live.get(self._record.id)
        if connection is None:  # it is over
            return lambda: None
        assert isinstance(connection, Relay)
        return connection.add_watcher(partial(self.data, self._record))

    def go(self) -> None:
        """Stop watching, if it does."""
        if self.is_there:
            self.flip()

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        self.periods[-1].seen[direction] += data


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


@pytest.mark.skipif(not HAS_EPOLL, reason="this system has no epoll")
@pytest.mark.parametrize("scope", ["service", "connection"])
@pytest.mark.parametrize("pipe", ["splice", "copy"])
@pytest_twisted.ensureDeferred
async def test_a_watcher_comes_and_goes_in_mid_stream(
    tmp_path: Path, pipe: str, scope: str
) -> None:
    @settings(max_examples=examples(20), deadline=None, phases=PHASES)
    @given(up=plans, down=plans)
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
