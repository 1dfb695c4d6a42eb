"""What a connection and a chunk cost cannot grow unnoticed, however fast the machine is.

What is counted: system calls, and calls of our own Python functions. If a test here fails, more is
done for each than before: shorten it again, or raise the limit deliberately.
"""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from monconn.net.loops import ephemeral_ports

from .programs import Backend, Monconn, Program, connect, receive

COUNTING = Path(__file__).with_name("counting.py")
WATCHING = Path(__file__).with_name("watching.py")
LISTENING = r"listening on [^,]*?:(\d+)[:,]"
MESSAGE = b"x" * 64

TURN_CALLS: dict[str, float] = {
    # Once a millisecond at most, and in which traced programs do little: the processor time of
    # turns, and what the thread sleeps in that looks whether a turn goes on.
    "clock_gettime": 3,
    "clock_nanosleep": 0.5,
    # The same sleep by the name that it has before Python 3.11: time.sleep() was a select().
    "pselect6": 0.5,
    "select": 0.5,
}
CONNECTIONS = 200
CALLS_PER_CONNECTION: dict[str, float] = {
    "accept4": 2,  # the second finds the queue empty
    "getsockname": 1,  # this, ioctl and setsockopt: the two sockets as they are made
    "ioctl": 1,
    "setsockopt": 1,
    "socket": 1,
    "connect": 1,
    "epoll_ctl": 2,
    "getsockopt": 2,  # what TCP knows of each side, as it is closed
    "recvfrom": 5,  # the greeting, the message twice, two ends
    "sendto": 3,
    "shutdown": 1,
    "close": 2,
    # These depend on scheduling: events are fetched together or one by one, and timers wake us up
    # as well; a thread of its own writes the log, a line or many at a time, and futexes pass Python
    # from thread to thread.
    "epoll_wait": 10,
    "write": 2,
    "futex": 100,
    **TURN_CALLS,
}

CALLS_PER_CONNECTION_TO_AN_EPHEMERAL_PORT = {
    **CALLS_PER_CONNECTION,
    # Whether the kernel has given the backend's very port to our own socket.
    "getsockname": CALLS_PER_CONNECTION["getsockname"] + 1,
}

MESSAGES = 500
CALLS_PER_MESSAGE: dict[str, float] = {
    "recvfrom": 2,  # there and back
    "sendto": 2,
    "epoll_wait": 3,  # two, and timers
    "futex": 10,
    **TURN_CALLS,
}

MEBIBYTES = 64
# How much comes at once is up to the kernel: 800 KiB when nothing else runs.
CALLS_PER_MEBIBYTE: dict[str, float] = {
    "splice": 8,
    "getsockopt": 5,
    "recvfrom": 0.5,  # few bytes are copied
    "sendto": 0.5,
    "epoll_ctl": 2,
    "epoll_wait": 20,
    "futex": 20,
    **TURN_CALLS,
}
CALLS_PER_SPLICE: dict[str, float] = {
    "splice": 1,
    "getsockopt": 0.8,  # one before each splice into a pipe, which another leads out of, or copy
    "recvfrom": 0.3,  # a few bytes to a side without room: its next event reports room
    "sendto": 0.3,
    "epoll_ctl": 1.1,  # one after each turn's share
    "epoll_wait": 2,
    "futex": 4,
    **TURN_CALLS,
}

STRAYS = 20
"""Calls of each kind that are not due to what is measured: memory, timers and checks, the log."""

PYTHON_CALLS_PER_CONNECTION = 101
"""Four of them find out its protocol from its first chunk, which goes by way of the relay for that
(1 to 6 µs of 100; with the decoders of HTTP and TLS, whose calls are not among these, 6 to 13).
Later chunks have none of it: see the calls of a message."""
PYTHON_CALLS_OF_JSON_LOG = 4
"""More for each connection with the JSON log on: its end is queued, its updates begin and end. What
the thread does that encodes the lines is counted in tests/sinks."""
PYTHON_CALLS_PER_MESSAGE = 12
PYTHON_SLACK = 0.5
"""So that one call more is too many, though a round may miss some of its last connection."""
OF_TURNS = r"(turns|histogram):.*"
"""Once a millisecond at most, and in turns that take longer: how often that is, is up to the
machine."""
NOT_COUNTED = (
    rf"{OF_TURNS}|"
    # Waits for events: their number per connection depends on which events coincide.
    r"relay/sockets/(loop:serve|reactor:(doPoll|_serve)|end:ready|connect:ready)|clock:seconds"
    # The log: it writes a line for each connection only if there are few in a second.
    r"|(sinks/closelog|ratelimit|faces/cli/logs|log|background|units):.*"
    r"|model/record:(describe|age_seconds)"
    # Timers, and what Twisted asks a listener.
    r"|monitor/deadlines:(_tick|_set_timer)|net/listen:(fileno|logPrefix)"
    r"|sinks/jsonlog:(flush|_poll|_write_next)|clock:callLater"
)
"""What is left out for a connection."""
ROUNDS = 4
BULK_ROUNDS = 12
"""The cheapest counts: timers add calls to some, but a longer way does so to each."""
UNITS_A_ROUND = 100


# -- what is done


def greet_and_echo(client: socket.socket) -> None:
    """A backend's part in connections and messages."""
    client.sendall(b"!")
    while piece := client.recv(65536):
        client.sendall(piece)


def sink(client: socket.socket) -> None:
    """A backend's part in bulk: say how much came."""
    count = 0
    while piece := client.recv(1 << 20):
        count += len(piece)
    client.sendall(b"%d" % count)


def greeted(port: int) -> socket.socket:
    """A client connected through to the backend, so that what follows has one order only."""
    client = connect(port)
    assert receive(client, 1) == b"!"
    return client


def exchange(client: socket.socket, count: int = 1) -> None:
    """Send a message and have it back, some times."""
    for _ in range(count):
        client.sendall(MESSAGE)
        assert receive(client, len(MESSAGE)) == MESSAGE


def make_connections(port: int, count: int) -> None:
    """One after the other, each with a message."""
    for _ in range(count):
        with greeted(port) as client:
            exchange(client)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""


def send_bulk(port: int, mebibytes: int) -> None:
    """Send much, and wait until it has arrived."""
    piece = bytes(1 << 20)
    with connect(port) as client:
        for _ in range(mebibytes):
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        assert int(receive(client, 100)) == mebibytes << 20


# -- system calls

Do = Callable[[], object]
SystemCalls = Callable[[Program, Do], dict[str, int]]


@pytest.fixture
def system_calls(
    start: Callable[..., Program], program: Callable[[str], str], tmp_path: Path
) -> SystemCalls:
    """Counts the system calls that monconn makes while something is done, by name."""
    strace = program("strace")
    table = tmp_path / "table"

    def _count(traced: Program, do: Do) -> dict[str, int]:
        tracer = start(strace, "-f", "-c", "-o", table, "-p", str(traced.process.pid))
        wait_until_attached(tracer)
        do()
        tracer.send(signal.SIGINT)
        tracer.status()
        return read_table(table.read_text())

    return _count


def wait_until_attached(tracer: Program) -> None:
    """Wait for strace; skip the test where the kernel forbids it.

    Even where CI asks for all programs: no package would mend it, and the calls in Python, which
    need no permission, are counted everywhere.
    """
    try:
        tracer.err.wait_for("attached")
    except AssertionError:
        if not re.search("not permitted|Permission denied|not implemented", str(tracer.err)):
            raise
        pytest.skip(f"this system forbids tracing: {tracer.err}")


def read_table(text: str) -> dict[str, int]:
    """What strace has counted: the fourth column is how often, the last one what."""
    rows = [line.split() for line in text.splitlines()]
    calls = {row[-1]: int(row[3]) for row in rows if len(row) > 4 and row[3].isdigit()}
    calls.pop("total")
    return calls


def too_many(calls: dict[str, int], per_unit: dict[str, float], units: int) -> list[str]:
    """Which calls are more than they may be; a kind that has no limit may not be at all."""
    limits = {name: per_unit.get(name, 0) * units + STRAYS for name in calls}
    return [
        f"{name}: {count}, at most {limits[name]:g}"
        for name, count in sorted(calls.items())
        if count > limits[name]
    ]


def in_best_round(count: Callable[[], list[str]], rounds: int = ROUNDS) -> list[str]:
    """Which calls are more than they may be, in the best of some rounds.

    What else the machine does adds calls, of timers and threads, to some rounds; what takes us
    longer does so to each.
    """
    problems: list[str] = []
    for _ in range(rounds):
        problems = count()
        if not problems:
            break
    return problems


def usual_ports() -> list[int]:
    """Ports that services use, in any order: the kernel does not give them to clients."""
    ephemeral = ephemeral_ports()
    ports = [port for port in range(1024, 65536) if port not in ephemeral]
    if not ports:
        pytest.skip("this system gives every port to clients")
    return random.sample(ports, min(len(ports), 100))


def forward(launch: Callable[..., Monconn], backend: Backend) -> Monconn:
    """``monconn -p`` in front of a backend."""
    return launch("monconn", "-p", f"127.0.0.1:0=127.0.0.1:{backend.port}")


def test_system_calls_of_a_connection(
    launch: Callable[..., Monconn], serve: Callable[..., Backend], system_calls: SystemCalls
) -> None:
    monconn = forward(launch, serve(greet_and_echo, ports=usual_ports()))
    port = monconn.port()
    make_connections(port, 5)

    def count() -> list[str]:
        calls = system_calls(monconn.program, lambda: make_connections(port, CONNECTIONS))
        assert calls["accept4"] > CONNECTIONS, "not all were counted"
        return too_many(calls, CALLS_PER_CONNECTION, CONNECTIONS)

    assert not in_best_round(count)


def test_system_calls_of_a_connection_to_an_ephemeral_port(
    launch: Callable[..., Monconn], serve: Callable[..., Backend], system_calls: SystemCalls
) -> None:
    monconn = forward(launch, serve(greet_and_echo))
    port = monconn.port()
    make_connections(port, 5)

    def count() -> list[str]:
        calls = system_calls(monconn.program, lambda: make_connections(port, CONNECTIONS))
        return too_many(calls, CALLS_PER_CONNECTION_TO_AN_EPHEMERAL_PORT, CONNECTIONS)

    assert not in_best_round(count)


@pytest.mark.parametrize(
    ("host", "names", "peers"),
    # A listener on a single address knows which one each client has connected to.
    [("127.0.0.1", 1, 1), ("0.0.0.0", 2, 1)],
)
def test_system_calls_of_a_connection_whose_addresses_are_wanted(
    launch: Callable[..., Monconn],
    serve: Callable[..., Backend],
    system_calls: SystemCalls,
    tmp_path: Path,
    host: str,
    names: int,
    peers: int,
) -> None:
    backend = serve(greet_and_echo, ports=usual_ports())
    service = {"listen": f"{host}:0", "backend": f"127.0.0.1:{backend.port}"}
    config = {
        "services": {"web": service},
        "json_log": {"path": str(tmp_path / "log.json"), "format": "ecs"},
        "control": False,
    }
    (tmp_path / "monconn.yaml").write_text(json.dumps(config))
    monconn = launch("monconn", "-c", tmp_path / "monconn.yaml")
    port = monconn.port()
    make_connections(port, 5)
    limits = CALLS_PER_CONNECTION | {
        "getsockname": CALLS_PER_CONNECTION["getsockname"] + names,
        "getpeername": peers,
    }

    def count() -> list[str]:
        calls = system_calls(monconn.program, lambda: make_connections(port, CONNECTIONS))
        assert calls["getpeername"] > CONNECTIONS * peers - STRAYS, "not all were counted"
        # Others are those of the thread that writes the log: its file, and memory.
        of_sockets = {name: count for name, count in calls.items() if name in limits}
        return too_many(of_sockets, limits, CONNECTIONS)

    assert not in_best_round(count)


def test_system_calls_of_a_message(
    launch: Callable[..., Monconn], serve: Callable[..., Backend], system_calls: SystemCalls
) -> None:
    monconn = forward(launch, serve(greet_and_echo))
    with greeted(monconn.port()) as client:
        exchange(client)

        def count() -> list[str]:
            calls = system_calls(monconn.program, lambda: exchange(client, MESSAGES))
            assert calls["recvfrom"] >= 2 * MESSAGES, "not all were counted"
            return too_many(calls, CALLS_PER_MESSAGE, MESSAGES)

        assert not in_best_round(count)


def too_many_for_bulk(
    count: Callable[[], dict[str, int]], more_per_splice: dict[str, float] | None = None
) -> list[str]:
    """Which calls are more than they may be, in the best of some rounds.

    How often the receiver has no room just as more has come, so that a little is copied, is up to
    the scheduler: between 2 and 60 times in 64 MiB on a busy machine. A longer way of ours shows in
    every round.
    """
    per_mebibyte, per_splice = dict(CALLS_PER_MEBIBYTE), dict(CALLS_PER_SPLICE)
    for name, more in (more_per_splice or {}).items():
        per_mebibyte[name] = per_mebibyte.get(name, 0) + more * per_mebibyte["splice"]
        per_splice[name] = per_splice.get(name, 0) + more

    def problems() -> list[str]:
        calls = count()
        assert calls["splice"] >= 2 * MEBIBYTES, "not all were counted"
        return [
            *too_many(calls, per_mebibyte, MEBIBYTES),
            *too_many(calls, per_splice, calls["splice"]),
        ]

    return in_best_round(problems, BULK_ROUNDS)


def test_system_calls_of_bulk(
    launch: Callable[..., Monconn], serve: Callable[..., Backend], system_calls: SystemCalls
) -> None:
    monconn = forward(launch, serve(sink))
    port = monconn.port()
    send_bulk(port, 4)  # which makes the pipes, too
    assert not too_many_for_bulk(
        lambda: system_calls(monconn.program, lambda: send_bulk(port, MEBIBYTES))
    )


def test_system_calls_of_bulk_that_is_recorded(
    launch: Callable[..., Monconn],
    serve: Callable[..., Backend],
    system_calls: SystemCalls,
    tmp_path: Path,
) -> None:
    """The last bytes of each splice are read and sent: two calls more, and nothing else."""
    service = {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{serve(sink).port}"}
    config = {"services": {"web": {**service, "recorder": True}}, "control": False}
    (tmp_path / "monconn.yaml").write_text(json.dumps(config))
    monconn = launch("monconn", "-c", tmp_path / "monconn.yaml")
    port = monconn.port()
    send_bulk(port, 4)
    # Two splices, into the pipe and out of it, have one tail.
    assert not too_many_for_bulk(
        lambda: system_calls(monconn.program, lambda: send_bulk(port, MEBIBYTES)),
        {"read": 0.6, "sendto": 0.6},
    )


def test_system_calls_of_bulk_beside_a_connection_that_is_watched(
    start: Callable[..., Program], serve: Callable[..., Backend], system_calls: SystemCalls
) -> None:
    """To watch one connection's payload leaves splicing to all others."""
    pair = f"127.0.0.1:0=127.0.0.1:{serve(sink).port}"
    monconn = start(sys.executable, WATCHING, "-p", pair)
    port = int(monconn.out.wait_for(LISTENING)[1])
    with connect(port) as watched:
        watched.sendall(b"x" * 100)
        monconn.err.wait_for("100 bytes were watched")
        send_bulk(port, 4)
        assert not too_many_for_bulk(
            lambda: system_calls(monconn, lambda: send_bulk(port, MEBIBYTES))
        )
        watched.sendall(b"x" * 20)
        monconn.err.wait_for("20 bytes were watched")


# -- calls in Python


class Counted:
    """The command as ``counting.py`` runs it.

    :param program: which has been started.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._reports = 0
        self._before: Counter[str] = Counter()
        self.port = int(program.out.wait_for(LISTENING)[1])

    def calls(self) -> Counter[str]:
        """Our functions that were called since this was asked last, and how often."""
        self._reports += 1
        self._program.send(signal.SIGUSR1)
        report = self._program.err.wait_for(rf"^report {self._reports}: (.*\}})$")
        now: Counter[str] = Counter(json.loads(report[1]))
        before, self._before = self._before, now
        return now - before

    def cheapest_of(self, do: Do) -> Counter[str]:
        """What is called as something is done, in the round with the fewest calls."""
        do()  # the first time may make what stays
        self.calls()
        rounds = []
        for _ in range(ROUNDS):
            do()
            rounds.append(self.calls())
        return min(rounds, key=lambda calls: sum(calls.values()))


@pytest.fixture
def counted(start: Callable[..., Program], serve: Callable[..., Backend]) -> Counted:
    """monconn in front of a backend, its calls counted."""
    pair = f"127.0.0.1:0=127.0.0.1:{serve(greet_and_echo).port}"
    return Counted(start(sys.executable, COUNTING, "-p", pair))


@pytest.fixture
def counted_with_json_log(
    start: Callable[..., Program], serve: Callable[..., Backend], tmp_path: Path
) -> Counted:
    """The same with a JSON log."""
    config = tmp_path / "monconn.yaml"
    backend = f"127.0.0.1:{serve(greet_and_echo).port}"
    config.write_text(
        f"services: {{web: {{listen: '127.0.0.1:0', backend: '{backend}'}}}}\n"
        f"json_log: {{path: {tmp_path}/log.json}}\n"
    )
    return Counted(start(sys.executable, COUNTING, "-c", config))


def assert_calls_per_connection(counted: Counted, limit: int) -> None:
    calls = counted.cheapest_of(lambda: make_connections(counted.port, UNITS_A_ROUND))
    assert calls["relay/sockets/end:begin"] == UNITS_A_ROUND
    counted_calls = [n for name, n in calls.items() if not re.fullmatch(NOT_COUNTED, name)]
    assert sum(counted_calls) / UNITS_A_ROUND <= limit + PYTHON_SLACK, calls


def test_python_calls_of_a_connection(counted: Counted) -> None:
    assert_calls_per_connection(counted, PYTHON_CALLS_PER_CONNECTION)


def test_python_calls_of_a_connection_with_json_log(counted_with_json_log: Counted) -> None:
    limit = PYTHON_CALLS_PER_CONNECTION + PYTHON_CALLS_OF_JSON_LOG
    assert_calls_per_connection(counted_with_json_log, limit)


def test_python_calls_of_a_message(counted: Counted) -> None:
    with greeted(counted.port) as client:
        calls = counted.cheapest_of(lambda: exchange(client, UNITS_A_ROUND))
    assert calls["relay/sockets/send_queue:send"] == 2 * UNITS_A_ROUND
    counted_calls = [n for name, n in calls.items() if not re.fullmatch(OF_TURNS, name)]
    per_message = sum(counted_calls) / UNITS_A_ROUND
    assert per_message <= PYTHON_CALLS_PER_MESSAGE + PYTHON_SLACK, calls
