"""monconn as the command runs it, with a socket for what only the inside knows.

``under_test.py FILE SOCKET``: each line sent to the socket is the name of one of
:data:`QUESTIONS`, and is answered by a line of JSON. Names that end in ``.hangs.test`` are never
resolved, as by a name server that does not answer.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from monconn.config.config import load
from monconn.faces.cli.run import install_reactor, run
from monconn.monitor.clients import CLIENTS_RETAINED
from monconn.run.application import Application

HANG_SECONDS = 3600.0
ANSWER_SECONDS = 60.0
ADDRESSES = 120_000
SHARED_TIMERS = ("Deadlines._tick", "Operations._forget_rates")
"""Each is one for all connections, and runs on for seconds once there are none: it is a matter of
chance whether it is there."""


class TimedEpoll:
    """The reactor's epoll, which notes how long it was between two waits: that is a turn.

    :param epoll: a ``select.epoll``.
    """

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll
        self._cpu = time.thread_time()
        self._wall = time.monotonic()
        self.longest = {"cpu_seconds": 0.0, "wall_seconds": 0.0}
        """Processor time of the loop's thread, and by the clock."""

    def poll(self, timeout: float, maximum: int) -> Any:
        """Wait, as ``epoll.poll`` does."""
        longest = self.longest
        longest["cpu_seconds"] = max(longest["cpu_seconds"], time.thread_time() - self._cpu)
        longest["wall_seconds"] = max(longest["wall_seconds"], time.monotonic() - self._wall)
        events = self._epoll.poll(timeout, maximum)
        self._cpu, self._wall = time.thread_time(), time.monotonic()
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


class Probe:
    """Answers questions about the inside; in the reactor's thread, as everything there is.

    :param app: what runs.
    :param reactor: where it runs.
    """

    def __init__(self, app: Application, reactor: Any) -> None:
        self._app = app
        self._reactor = reactor
        self._timed = TimedEpoll(reactor._poller)
        reactor._poller = self._timed

    def figures(self) -> dict[str, int]:
        """What must come back once all clients have left."""
        gc.collect()
        pipes = count_pipes()
        return {
            # Counted here, where the connection of whoever asks is open each time.
            "descriptors": len(os.listdir("/proc/self/fd")) - pipes,
            "pipe ends": pipes,
            "timers": sum(
                getattr(call.func, "__qualname__", "") not in SHARED_TIMERS
                for call in self._reactor.getDelayedCalls()
            ),
            "threads": threading.active_count(),
            "readers": len(self._reactor.getReaders()),
            "relay sockets": len(self._reactor.socket_loop),
            "live": sum(len(monitor) for monitor in self._app.registry),
            "memory blocks": sys.getallocatedblocks(),
        }

    def live(self) -> list[dict[str, Any]]:
        """A few of the connections that are live."""
        records = [each for monitor in self._app.registry for each in monitor.connections()]
        return [each.snapshot(time.monotonic()) for each in records[:3]]

    def longest_turn(self) -> dict[str, float]:
        """The longest turn since this was asked last."""
        longest = self._timed.longest
        self._timed.longest = {"cpu_seconds": 0.0, "wall_seconds": 0.0}
        return longest

    def fill_addresses(self) -> int:
        """Add services whose clients had 120,000 addresses, as if they had all been here."""
        for service in range(ADDRESSES // CLIENTS_RETAINED):
            monitor = self._app.registry.new(f"filled {service}")
            for number in range(CLIENTS_RETAINED):
                ip = f"10.{service}.{number >> 8}.{number & 255}"
                record = monitor.admit(f"{ip}:1", ip)
                assert record is not None
                monitor.clients.opened(record)
        return ADDRESSES

    def answer(self, name: str) -> Any:
        """Answer one question, from a thread of the probe's."""
        question: Callable[[], Any] = getattr(self, name)
        done: queue.Queue[Any] = queue.Queue()

        def ask() -> None:
            try:
                done.put(question())
            except Exception as error:
                done.put({"error": f"{type(error).__name__}: {error}"})

        self._reactor.callFromThread(ask)
        return done.get(timeout=ANSWER_SECONDS)


QUESTIONS = ("figures", "live", "longest_turn", "fill_addresses")


def count_pipes() -> int:
    """How many descriptors of this process are an end of a pipe."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            count += os.readlink(f"/proc/self/fd/{name}").startswith("pipe:")
    return count


def serve(probe: Probe, listener: socket.socket) -> None:
    """Answer one client after the other."""
    while True:
        client, _ = listener.accept()
        with client, client.makefile("rw") as stream:
            for line in stream:
                stream.write(json.dumps(probe.answer(line.strip())) + "\n")
                stream.flush()


def hang_for_some_names() -> None:
    """Have the look-up of ``*.hangs.test`` take far too long."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
        if text.endswith(".hangs.test"):
            time.sleep(HANG_SECONDS)
        return resolve(host, *arguments, **options)

    socket.getaddrinfo = getaddrinfo


def main() -> int:
    path, where = sys.argv[1:]
    hang_for_some_names()
    install_reactor()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
    listener.listen()

    def prepare(app: Application, reactor: Any, log: object) -> None:
        probe = Probe(app, reactor)
        threading.Thread(target=serve, args=(probe, listener), daemon=True).start()

    return run(load(path), prepare=prepare)


if __name__ == "__main__":
    sys.exit(main())
