"""The two loops that serve the relay's sockets, each on a reactor whose turns the test makes."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from monconn.clock import MonotonicClock
from monconn.relay.sockets.loop import (
    EVENTS_A_TURN,
    FEW_EVENTS,
    HAS_EPOLL,
    HUP,
    LEAST_SOCKET_BYTES,
    LONG_SECONDS,
    LOOK_EVENTS,
    OUT,
    RDHUP,
    SHARE_SECONDS,
    SOCKET_BYTES,
    NestedSocketLoop,
    SocketLoop,
    TurnShare,
)
from tests.turning import TurnClock

from .world import PATIENCE_SECONDS, World, exactly, unread, until

if not HAS_EPOLL:
    pytest.skip("this system has no epoll", allow_module_level=True)

from twisted.internet.epollreactor import EPollReactor

from monconn.relay.sockets.reactor import MonconnReactor

IN = 1


class Turns:
    """A loop and the reactor that serves it, which is not run.

    :param kind: ``own`` for a reactor's own loop, ``nested`` for one that any reactor sees.
    """

    def __init__(self, kind: str) -> None:
        self.reactor: Any
        self.loop: SocketLoop
        if kind == "own":
            self.reactor = MonconnReactor()
            self.loop = self.reactor.socket_loop
        else:
            self.reactor = EPollReactor()
            self.loop = NestedSocketLoop(self.reactor, MonotonicClock(self.reactor))
        self._sockets: list[socket.socket] = []

    def turn(self) -> None:
        """Serve the events that are there."""
        self.reactor.iterate(0)

    def run(self) -> None:
        """Run the reactor until something stops it, which must not take long."""
        too_late = self.reactor.callLater(PATIENCE_SECONDS, self.reactor.stop)
        self.reactor.run(installSignalHandlers=False)
        assert self.reactor.seconds() < too_late.getTime()
        too_late.cancel()

    def until(self, condition: Callable[[], object]) -> None:
        """Turn until a condition holds."""
        until(lambda: self.turn() or condition())  # type: ignore[func-returns-value]

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Two connected sockets, the first of which is meant for the loop."""
        pair = socket.socketpair()
        for sock in pair:
            sock.settimeout(PATIENCE_SECONDS)
        self._sockets += pair
        return pair

    def pair_in_place_of(self, old: socket.socket) -> tuple[socket.socket, socket.socket]:
        """The same, once an old socket is closed, whose descriptor number the first gets."""
        first, second = self.pair()
        twin = socket.socket(fileno=os.dup2(first.fileno(), old.detach()))
        first.close()
        self._sockets.append(twin)
        return twin, second

    def close(self) -> None:
        """Close everything."""
        for descriptor in self.reactor.removeAll():
            descriptor.connectionLost(Failure(ConnectionAbortedError()))
        if isinstance(self.loop, NestedSocketLoop):
            self.loop.close()
        for sock in self._sockets:
            sock.close()
        self.reactor.waker.connectionLost(None)
        self.reactor._poller.close()


class End:
    """Records its events.

    :param then: called with each of them.
    """

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.events_seen: list[int] = []
        self.failures = 0
        self._then = then

    def ready(self, events: int) -> None:
        self.events_seen.append(events)
        self._then()

    def failed(self) -> None:
        self.failures += 1


class Descriptor:
    """One of Twisted's descriptors, which records what the reactor calls."""

    def __init__(self, sock: socket.socket, then: Callable[[], object] = lambda: None) -> None:
        self._sock = sock
        self._then = then
        self.handled: list[str] = []

    def fileno(self) -> int:
        return self._sock.fileno()

    def logPrefix(self) -> str:
        return "test"

    def doRead(self) -> None:
        self.handled.append("read")
        self._then()

    def connectionLost(self, reason: Failure) -> None:
        self.handled.append("lost")


@pytest.fixture(params=["own", "nested"])
def turns(request: pytest.FixtureRequest) -> Iterator[Turns]:
    turns = Turns(request.param)
    yield turns
    turns.close()


@pytest.fixture
def own() -> Iterator[Turns]:
    turns = Turns("own")
    yield turns
    turns.close()


@pytest.fixture
def nested() -> Iterator[Turns]:
    turns = Turns("nested")
    yield turns
    turns.close()


# -- both kinds


def test_events_reach_the_end_whose_socket_it_is(turns: Turns) -> None:
    first, other = End(), End()
    (sock, peer), (other_sock, other_peer) = turns.pair(), turns.pair()
    other_peer.sendall(b"was there before")
    turns.loop.add(sock.fileno(), first)
    turns.loop.add(other_sock.fileno(), other)
    assert len(turns.loop) == 2
    turns.turn()
    assert (first.events_seen, other.events_seen) == ([OUT], [IN | OUT])
    peer.sendall(b"x")
    turns.turn()
    assert (first.events_seen, other.events_seen) == ([OUT, IN | OUT], [IN | OUT])
    other_peer.close()
    turns.turn()
    assert len(first.events_seen) == 2
    assert other.events_seen[-1] & (HUP | RDHUP) == HUP | RDHUP


def test_an_event_is_reported_once_unless_rearmed(turns: Turns) -> None:
    end, (sock, peer) = End(), turns.pair()
    peer.sendall(b"left unread")
    turns.loop.add(sock.fileno(), end)
    for _ in range(3):
        turns.turn()
    assert end.events_seen == [IN | OUT]
    turns.loop.rearm(sock.fileno())
    for _ in range(3):
        turns.turn()
    assert end.events_seen == [IN | OUT] * 2


def test_rearming_while_served_is_served_in_a_later_turn(turns: Turns) -> None:
    sock, _ = turns.pair()
    end = End(lambda: turns.loop.rearm(sock.fileno()))
    turns.loop.add(sock.fileno(), end)
    for count in range(1, 4):
        turns.turn()
        assert len(end.events_seen) == count


def test_another_may_take_over_a_socket(turns: Turns) -> None:
    first, next_one, (sock, peer) = End(), End(), turns.pair()
    turns.loop.add(sock.fileno(), first)
    turns.turn()
    turns.loop.set_handler(sock.fileno(), next_one)
    peer.sendall(b"x")
    turns.turn()
    assert (first.events_seen, next_one.events_seen) == ([OUT], [IN | OUT])


def test_a_removed_socket_gets_no_more_events(turns: Turns) -> None:
    end, (sock, _) = End(), turns.pair()
    turns.loop.add(sock.fileno(), end)
    turns.loop.remove(sock.fileno())
    turns.turn()
    assert (end.events_seen, len(turns.loop)) == ([], 0)


def fails() -> None:
    raise ZeroDivisionError("on purpose")


def test_an_end_that_raises_costs_the_others_nothing(
    turns: Turns, logged_failures: list[Failure]
) -> None:
    ends = [End(), End(fails), End(), End(sys.exit), End()]
    for end in ends:
        turns.loop.add(turns.pair()[0].fileno(), end)
    turns.turn()
    assert [end.events_seen for end in ends] == [[OUT]] * 5
    assert [end.failures for end in ends] == [0, 1, 0, 1, 0]
    assert {failure.type for failure in logged_failures} == {ZeroDivisionError, SystemExit}
    logged_failures.clear()
    turns.turn()
    assert [len(end.events_seen) for end in ends] == [1] * 5


def replace_other(
    turns: Turns, add: Callable[[socket.socket, socket.socket], object]
) -> dict[str, End]:
    """Two Ends hang up in one batch; the first one served frees the other's descriptor number.

    :param add: called with a new socket that has this number, and its peer.
    """
    sockets = {name: turns.pair() for name in ("one", "two")}
    served: list[str] = []

    def replace(name: str) -> None:
        served.append(name)
        if len(served) == 1:
            sock, _ = sockets["two" if name == "one" else "one"]
            turns.loop.remove(sock.fileno())
            add(*turns.pair_in_place_of(sock))

    ends = {name: End(lambda name=name: replace(name)) for name in sockets}  # type: ignore[misc]
    for name, (sock, peer) in sockets.items():
        peer.close()
        turns.loop.add(sock.fileno(), ends[name])
    turns.turn()
    assert len(served) == 1, "the other is closed"
    return ends


def test_a_stale_event_is_not_delivered_to_a_reused_descriptor(turns: Turns) -> None:
    """Such a stale OUT and HUP would have a ConnectAttempt believe that it is connected."""
    newcomer = End()
    replace_other(turns, lambda sock, _: turns.loop.add(sock.fileno(), newcomer))
    assert newcomer.events_seen == []
    turns.turn()
    assert newcomer.events_seen == [OUT], "its own"


def test_a_number_that_was_removed_is_served_in_the_next_turn(turns: Turns) -> None:
    end, (sock, peer) = End(), turns.pair()
    for _ in range(2):
        turns.loop.add(sock.fileno(), End())
        turns.loop.remove(sock.fileno())
        sock, peer = turns.pair_in_place_of(sock)
    turns.loop.add(sock.fileno(), end)
    peer.sendall(b"x")
    turns.turn()
    assert end.events_seen == [IN | OUT]


# -- the nested one


class Costly(End):
    """Takes a third of a turn's share each time that it is resumed.

    :param rounds: how often it has more to do.
    """

    def __init__(self, share: TurnShare, clock: TurnClock, rounds: int = 1) -> None:
        super().__init__()
        self._share = share
        self._clock = clock
        self._left = rounds
        self.turns: list[int] = []

    def begin(self) -> None:
        """Do all, now and in later turns."""
        while self._left and self._share.take(self):
            self._work()

    def resume(self) -> None:
        self._work()
        self.begin()

    def _work(self) -> None:
        self.turns.append(self._share._loop.turn)
        self._left -= 1
        self._clock.work(SHARE_SECONDS / 3)


def test_the_share_of_a_turn_is_not_renewed_within_it(own: Turns) -> None:
    clock = TurnClock()
    share = TurnShare(own.loop, clock)
    works = [Costly(share, clock, rounds=2) for _ in range(10)]
    own.loop.serve([])
    for work in works:
        work.begin()
    for _ in range(20):
        own.loop.refresh()  # as bytes do that were held back
        own.loop.serve([])
        clock.turn()
    turns = Counter(turn for work in works for turn in work.turns)
    assert sum(turns.values()) == 20, "all was done"
    assert max(turns.values()) <= 4
    assert len(share) == 0
    assert not clock.getDelayedCalls()


def test_those_that_wait_for_a_share_are_served_in_turn(own: Turns) -> None:
    clock = TurnClock()
    share = TurnShare(own.loop, clock)
    works = [Costly(share, clock, rounds=5) for _ in range(4)]
    own.loop.serve([])
    for work in works:
        work.begin()
    for _ in range(4):
        own.loop.serve([])
        clock.turn()
    assert {len(work.turns) > 0 for work in works} == {True}


def test_a_share_is_renewed_though_the_loop_has_no_events(nested: Turns) -> None:
    """Any other reactor serves the loop only if it has events."""
    clock = TurnClock()
    share = TurnShare(nested.loop, clock)
    work = Costly(share, clock, rounds=10)
    work.begin()
    for _ in range(20):
        clock.turn()
    assert len(work.turns) == 10


def test_one_that_fails_as_it_is_resumed_keeps_no_other_from_its_share(
    own: Turns, logged_failures: list[Failure]
) -> None:
    clock = TurnClock()
    share = TurnShare(own.loop, clock)
    bad, good = Costly(share, clock, 4), Costly(share, clock, 4)
    own.loop.serve([])
    bad.begin()
    good.begin()
    bad._work = fails  # type: ignore[method-assign]
    for _ in range(6):
        own.loop.serve([])
        clock.turn()
    assert bad.failures == 1
    assert len(good.turns) == 4
    logged_failures.clear()


def test_each_of_many_sockets_passes_on_less_if_that_takes_long(own: Turns) -> None:
    clock = TurnClock()
    loop = SocketLoop(own.reactor._poller, clock)
    took: list[float] = []

    def pass_on() -> None:
        """A millisecond for each mebibyte."""
        seconds = loop.socket_bytes / (1 << 20) / 1000
        clock.work(seconds)
        took[-1] += seconds

    ends = [(own.pair()[0], End(pass_on)) for _ in range(100)]
    for sock, end in ends:
        loop.add(sock.fileno(), end)

    def serve(count: int) -> None:
        took.append(0.0)
        loop.serve([(sock.fileno(), IN) for sock, _ in ends[:count]])
        loop._changed.clear()

    loop.serve([])  # they are no more new
    for _ in range(20):
        serve(100)
    assert took[0] < 2 * LONG_SECONDS, "those who have been quiet before all pass on much"
    before_the_next_check = LOOK_EVENTS * LEAST_SOCKET_BYTES / (1 << 20) / 1000
    assert max(took[10:]) <= LONG_SECONDS + before_the_next_check
    assert LEAST_SOCKET_BYTES <= loop.socket_bytes < SOCKET_BYTES
    serve(FEW_EVENTS)
    assert loop.socket_bytes == SOCKET_BYTES, "few may pass on much"
    for _ in range(20):
        serve(100)
    for _ in range(20):
        serve(FEW_EVENTS + 1)
        assert loop.socket_bytes >= LEAST_SOCKET_BYTES
    assert max(took[-10:]) <= LONG_SECONDS
    loop.serve([])


def test_what_takes_too_long_is_left_to_later_turns(own: Turns) -> None:
    """As with thousands that are reset at once: each has much to read, and to throw away."""
    clock = TurnClock()
    poller = own.reactor._poller
    loop = SocketLoop(poller, clock)
    served: list[int] = []

    def work(number: int) -> None:
        served.append(number)
        clock.work(0.001)

    pairs = [own.pair() for _ in range(60)]
    for number, (sock, _) in enumerate(pairs):
        loop.add(sock.fileno(), End(partial(work, number)))
    loop.serve([])  # they are no more new
    turns = 0
    while set(served) < set(range(60)):
        before = len(served)
        loop.serve(poller.poll(1, EVENTS_A_TURN))
        assert len(served) - before <= LONG_SECONDS / 0.001 + LOOK_EVENTS
        turns += 1
    assert turns >= 3
    assert len(served) == 60, "each is served once for its event"


def test_a_nested_loop_is_in_its_reactor_only_while_it_has_sockets(nested: Turns) -> None:
    loop, (one, _), (two, _) = nested.loop, nested.pair(), nested.pair()
    readers = nested.reactor.getReaders
    assert loop not in readers()
    for _ in range(2):
        loop.add(one.fileno(), End())
        loop.add(two.fileno(), End())
        assert readers().count(loop) == 1
        loop.remove(one.fileno())
        assert loop in readers()
        loop.remove(two.fileno())
        assert loop not in readers()
        one, two = nested.pair()[0], nested.pair()[0]


# -- the reactor's own


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


def test_our_reactor_serves_twisteds_descriptors_beside_its_ends(own: Turns) -> None:
    port = own.reactor.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")
    end, (sock, peer) = End(), own.pair()
    own.loop.add(sock.fileno(), end)
    with socket.create_connection(("127.0.0.1", port.getHost().port)) as client:
        client.settimeout(PATIENCE_SECONDS)
        for count in range(1, 4):
            client.sendall(b"ping")
            peer.sendall(b"x")
            own.until(lambda: unread(client) == 4)
            own.until(partial(lambda count: end.events_seen.count(IN | OUT) == count, count))
            assert exactly(client, 4) == b"ping"
    own.until(lambda: len(own.reactor.getReaders()) == 2)  # the port and the reactor's waker


def test_our_reactor_keeps_twisteds_timers(own: Turns) -> None:
    fired: list[str] = []
    own.reactor.callLater(0.02, fired.append, "late")
    own.reactor.callLater(0, fired.append, "soon")
    own.until(lambda: fired == ["soon", "late"])


def test_our_reactor_is_woken_from_other_threads(own: Turns) -> None:
    called: list[str] = []
    calling = threading.Timer(0.05, own.reactor.callFromThread, (called.append, "woken"))
    calling.start()
    own.reactor.doIteration(None)  # for as long as nothing happens
    own.reactor.runUntilCurrent()
    calling.join()
    assert called == ["woken"]


@pytest.fixture
def busy(own: Turns) -> list[int]:
    """Run a reactor with an End that always has events; return those events."""
    sock, _ = own.pair()
    end = End(lambda: own.loop.rearm(sock.fileno()))
    own.loop.add(sock.fileno(), end)
    return end.events_seen


def test_timed_calls_come_while_ends_are_busy(own: Turns, busy: list[int]) -> None:
    calls: list[int] = []
    for number in range(3):
        own.reactor.callLater(0.01 * number, calls.append, number)
    own.reactor.callLater(0.04, own.reactor.stop)
    own.run()
    assert calls == [0, 1, 2]
    assert len(busy) > 3, "the End was served in between"


def test_calls_from_other_threads_run_while_ends_are_busy(own: Turns, busy: list[int]) -> None:
    calling = threading.Timer(0.05, own.reactor.callFromThread, (own.reactor.stop,))
    calling.start()
    own.run()
    calling.join()
    assert busy


@pytest.mark.parametrize("verb", ["stop", "crash"])
def test_an_end_can_have_the_reactor_stop(own: Turns, verb: str) -> None:
    sock, _ = own.pair()
    end = End(getattr(own.reactor, verb))
    own.reactor.callWhenRunning(own.loop.add, sock.fileno(), end)
    own.run()
    assert end.events_seen == [OUT]


def test_a_call_that_an_end_has_set_comes_in_time(own: Turns) -> None:
    sock, _ = own.pair()
    end = End(lambda: own.reactor.callLater(0.02, own.reactor.stop))
    own.reactor.callWhenRunning(own.loop.add, sock.fileno(), end)
    own.run()
    assert end.events_seen == [OUT]


def test_iterating_in_the_main_loop_does_not_wait_for_others(own: Turns) -> None:
    sock, _ = own.pair()
    end = End()

    def iterate() -> None:
        own.loop.add(sock.fileno(), end)
        own.reactor.iterate(0)
        assert end.events_seen == [OUT]
        own.reactor.stop()

    own.reactor.callWhenRunning(own.reactor.callLater, 0, iterate)
    own.run()


def test_iterating_waits_no_longer_than_asked(own: Turns) -> None:
    sock, _ = own.pair()
    end = End()
    own.loop.add(sock.fileno(), end)
    own.reactor.iterate(0.01)
    assert end.events_seen == [OUT]


def test_a_descriptor_that_another_has_removed_gets_no_event(own: Turns) -> None:
    handled: list[Descriptor] = []

    def remove_reader(this: int) -> None:
        handled.append(descriptors[this])
        own.reactor.removeReader(descriptors[1 - this])

    descriptors: list[Descriptor] = []
    for index in range(2):
        sock, peer = own.pair()
        peer.sendall(b"x")
        descriptors.append(Descriptor(sock, lambda index=index: remove_reader(index)))  # type: ignore[misc]
        own.reactor.addReader(descriptors[-1])
    own.turn()
    assert len(handled) == 1


def test_a_stale_event_is_not_delivered_to_a_reused_twisted_descriptor(
    own: Turns,
) -> None:
    newcomers: list[tuple[Descriptor, socket.socket]] = []

    def add(sock: socket.socket, peer: socket.socket) -> None:
        newcomers.append((Descriptor(sock), peer))
        own.reactor.addReader(newcomers[0][0])

    replace_other(own, add)
    descriptor, peer = newcomers[0]
    assert descriptor.handled == []
    peer.sendall(b"x")
    own.turn()
    assert descriptor.handled == ["read"]


@pytest_twisted.ensureDeferred
async def test_data_paths_that_are_closed_leave_others_on_the_same_reactor_alone(
    tmp_path: Path,
) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", "splice") as world:
            client, backend = world.pair()
            client.settimeout(2)
            with World(tmp_path, "ipv4", "splice") as other:
                other.pair()
            backend.sendall(b"still there?")
            assert exactly(client, 12) == b"still there?"

    await deferToThread(play)


def test_a_keyboard_interrupt_goes_through_and_loses_no_event(
    turns: Turns, logged_failures: list[Failure]
) -> None:
    interrupted: list[End] = []

    def interrupt() -> None:
        if not interrupted:
            interrupted.extend(end for end in ends if end.events_seen)
            raise KeyboardInterrupt

    ends = [End(interrupt) for _ in range(5)]
    for end in ends:
        turns.loop.add(turns.pair()[0].fileno(), end)
    with pytest.raises(KeyboardInterrupt):
        turns.loop.serve(turns.loop._epoll.poll(0))
    assert [end.failures for end in interrupted] == [1]
    turns.loop.serve(turns.loop._epoll.poll(0))
    assert [end.events_seen for end in ends] == [[OUT]] * 5
    logged_failures.clear()


def test_what_is_private_to_twisted_and_used_is_there(own: Turns) -> None:
    """A new version of Twisted may remove these; see MonconnReactor and SocketLoop."""
    assert isinstance(own.reactor._selectables, dict)
    assert own.reactor._poller is own.loop._epoll
    assert callable(own.reactor._doReadOrWrite)
    timer = own.reactor.callLater(60, lambda: None)
    assert own.reactor._newTimedCalls == [timer]
    own.turn()
    assert (own.reactor._newTimedCalls, own.reactor._pendingTimedCalls) == ([], [timer])
    assert timer.time > own.reactor.seconds()
    timer.cancel()


def test_a_timer_beyond_what_epoll_can_wait_for_is_harmless(own: Turns) -> None:
    """Its wait is a C int of milliseconds: 24 days."""
    timer = own.reactor.callLater(1e9, lambda: None)
    own.loop.add(own.pair()[0].fileno(), End())  # an event of the relay's, after which it waits
    own.reactor.callWhenRunning(own.reactor.callFromThread, own.reactor.stop)
    own.run()
    timer.cancel()
