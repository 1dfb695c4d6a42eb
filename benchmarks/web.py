"""What open pages cost: ``python -m benchmarks.web``.

monconn forwards 5,000 connections that stay, and 1,500 a second that come and go. Clients do what a
page does: each has a live stream, and asks for one list after each tick. Measured are the
processor time of monconn, and how many turns of its loop used how much of it; without pages, with
pages that all look at the same list, and with pages that each look at a list of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs

from benchmarks import processes
from benchmarks.bandwidth import free_port
from benchmarks.servers import LoadProcess, compile_load

CONNECTIONS = 5_000
A_SECOND = 1_500
PAGES = 50
SECONDS = 15.0
SETTLE_SECONDS = 3.0
ROWS = 100
_SLICES = 10  # of a second, in each of which new connections come
_SORTS = (
    *("id", "-id", "up", "-up", "down", "age", "-age", "idle", "-idle", "rate", "client"),
    *("-client", "backend", "up_rate", "down_rate", "first_up", "last_down", "connect", "state"),
)
_FILTERS = (
    "",
    "client:127.0.0.0/8",
    "age:1s..",
    "idle:0s..1h",
    "up:1.. service:web",
    "state:open",
    "not:client:10.0.0.0/8",
    "127",
)


@attrs.define
class Pages:
    """What the clients have seen."""

    ticks: int = 0
    events: int = 0
    missed: int = 0
    answers: int = 0
    answer_bytes: int = 0
    ages: list[int] = attrs.field(factory=list)
    took: list[float] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)


def query_of(number: int, *, differ: bool) -> str:
    """What a page asks for."""
    if not differ:
        return f"sort=rate&limit={ROWS}&max_age=1"
    sort = _SORTS[number % len(_SORTS)]
    filter = f"{_FILTERS[number % len(_FILTERS)]} not:id:{number + 1}".strip()
    return f"sort={sort}&limit={ROWS}&max_age=1&filter={quote(filter)}"


class Page:
    """One client: a stream, and a connection for its lists."""

    def __init__(self, port: int, token: str, query: str, seen: Pages) -> None:
        self._port = port
        self._head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        self._query = query
        self._seen = seen

    async def run(self) -> None:
        """Look until it is cancelled."""
        try:
            await self._look()
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self._seen.problems.append(repr(error))

    async def _look(self) -> None:
        live, sender = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        answers, requests = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        try:
            sender.write(f"GET /api/v1/live HTTP/1.1\r\n{self._head}\r\n".encode())
            while line := await live.readline():
                if line == b"event: tick\n":
                    self._seen.ticks += 1
                    await self._ask(answers, requests)
            self._seen.problems.append("a stream has ended")
        finally:
            sender.close()
            requests.close()

    async def _ask(self, answers: asyncio.StreamReader, requests: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        target = f"/api/v1/connections?{self._query}"
        requests.write(f"GET {target} HTTP/1.1\r\n{self._head}\r\n".encode())
        head = (await answers.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await answers.readexactly(int(headers["content-length"]))
        if not head.startswith("HTTP/1.1 200"):
            self._seen.problems.append(body.decode()[:200])
            return
        self._seen.answers += 1
        self._seen.answer_bytes += len(body)
        self._seen.ages.append(int(headers["age"]))
        self._seen.took.append(time.monotonic() - began)


async def read_events(port: int, token: str, seen: Pages) -> None:
    """Read the feed, until it is cancelled."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        writer.write(
            f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        is_missed = False
        while line := await reader.readline():
            if line.startswith(b"event: "):
                is_missed = line == b"event: missed\n"
                seen.events += not is_missed
            elif is_missed and line.startswith(b"data: "):
                seen.missed += json.loads(line[6:])["events"]
        seen.problems.append("the events have ended")
    finally:
        writer.close()


async def fetch_metrics(port: int, token: str) -> dict[str, float]:
    """The metrics of monconn, by their names with labels."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        "Connection: close\r\n\r\n".encode()
    )
    text = (await reader.read()).decode()
    writer.close()
    pairs = (line.rpartition(" ") for line in text.splitlines() if line.startswith("monconn_"))
    return {name: float(value) for name, _, value in pairs}


class NewConnections:
    """Has connections come and go evenly, in a thread."""

    def __init__(self, load: LoadProcess, a_second: int) -> None:
        self._load = load
        self._pause = 1 / _SLICES
        self._thread = threading.Thread(target=self._run)
        self._stopped = threading.Event()
        self.made = 0
        self._of_slice = a_second // _SLICES

    def __enter__(self) -> NewConnections:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopped.is_set():
            self._load.run()
            self.made += self._of_slice
            due = max(due + self._pause, time.monotonic() - 1)
            self._stopped.wait(max(0.0, due - time.monotonic()))


@contextmanager
def monconn(folder: Path, backend: int, token: str) -> Iterator[tuple[int, int, int]]:
    """monconn; gives its process id, where it listens and where it serves HTTP."""
    front, web = free_port(), free_port()
    tokens = folder / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"bench view sha256:{hashlib.sha256(token.encode()).hexdigest()}\n")
    config = folder / "monconn.yaml"
    config.write_text(
        json.dumps(
            {
                "services": {
                    "web": {"listen": f"127.0.0.1:{front}", "backend": f"127.0.0.1:{backend}"}
                },
                "http": {"listen": f"127.0.0.1:{web}", "tokens": str(tokens), "metrics": True},
                "control": False,
            }
        )
    )
    output = folder / "output"
    program = [str(Path(sys.executable).with_name("monconn"))]
    if profile := os.environ.get("MONCONN_PROFILE"):
        program = profile.split()
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*program, "-c", str(config)], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        while "listening on" not in output.read_text():
            assert process.poll() is None, output.read_text()
            time.sleep(0.01)
        yield process.pid, front, web
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for line in output.read_text().splitlines():
        if "the loop was busy" in line:
            print(f"  {line}")


async def measure(
    pid: int, port: int, token: str, pages: int, readers: int, seconds: float, *, differ: bool
) -> dict[str, Any]:
    """Have pages look for some time, and return what that has cost."""
    seen = Pages()
    looking = [
        asyncio.create_task(Page(port, token, query_of(each, differ=differ), seen).run())
        for each in range(pages)
    ]
    looking += [asyncio.create_task(read_events(port, token, seen)) for _ in range(readers)]
    await asyncio.sleep(SETTLE_SECONDS)
    before = await fetch_metrics(port, token)
    await asyncio.sleep(0.1)
    ticks, answers, sent = seen.ticks, seen.answers, seen.answer_bytes
    seen.ages.clear()
    seen.events = seen.missed = 0
    seen.took.clear()
    began, used = time.monotonic(), processes.cpu_seconds(pid)
    await asyncio.sleep(seconds)
    used, passed = processes.cpu_seconds(pid) - used, time.monotonic() - began
    ticks, answers, sent = seen.ticks - ticks, seen.answers - answers, seen.answer_bytes - sent
    after = await fetch_metrics(port, token)
    for each in looking:
        each.cancel()
    await asyncio.gather(*looking, return_exceptions=True)
    return {
        "cpu": used / passed,
        "turns": {
            bound: _turns_above(after, bound) - _turns_above(before, bound)
            for bound in ("0.005", "0.01", "0.02", "0.05")
        },
        "ticks": ticks / passed,
        "answers": answers / passed,
        "bytes": sent / passed,
        "events": seen.events / passed,
        "missed": seen.missed / passed,
        "oldest": max(seen.ages, default=0),
        "age": statistics.mean(seen.ages) if seen.ages else 0.0,
        "took": sorted(seen.took),
        "problems": seen.problems,
    }


def _turns_above(metrics: dict[str, float], bound: str) -> int:
    name = "monconn_turn_cpu_seconds_bucket"
    return int(metrics[f'{name}{{le="+Inf"}}'] - metrics[f'{name}{{le="{bound}"}}'])


def _print(title: str, found: dict[str, Any]) -> None:
    turns = ", ".join(f"{count} over {float(b) * 1e3:g} ms" for b, count in found["turns"].items())
    print(f"{title}: {100 * found['cpu']:.1f} % of a processor; turns by their own time: {turns}")
    took = found["took"]
    if took:
        print(
            f"  {found['ticks']:.0f} ticks and {found['answers']:.0f} answers a second"
            f" ({found['bytes'] / 1e6:.1f} MB/s), which took {1e3 * statistics.median(took):.0f} ms"
            f" ({1e3 * took[int(len(took) * 0.99)]:.0f} ms at 99 %), {found['age']:.1f} s old"
            f" ({found['oldest']} s at most)"
        )
    if found["events"]:
        print(f"  {found['events']:.0f} events a second, and {found['missed']:.0f} missed")
    for each in dict.fromkeys(found["problems"]):
        print(f"  problem: {each}")


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=PAGES)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--a-second", type=int, default=A_SECOND, help="new connections")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--readers", type=int, default=10, help="of all events, in the last case")
    parser.add_argument("--only", choices=("none", "alike", "different", "events"))
    options = parser.parse_args()
    token = secrets.token_urlsafe(32)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        program = str(compile_load(folder))
        backend = subprocess.Popen(
            [program, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stack.callback(processes.stop, backend)
        assert backend.stdout is not None
        backend_port = int(json.loads(backend.stdout.readline())["port"])
        pid, front, web = stack.enter_context(monconn(folder, backend_port, token))
        held = [program, "messages", str(front), str(options.connections), "1", "60"]
        stack.enter_context(LoadProcess(held))
        of_slice = str(options.a_second // _SLICES)
        coming = [program, "connect", str(front), "16", of_slice, "60"]
        load = stack.enter_context(LoadProcess(coming))
        made = stack.enter_context(NewConnections(load, options.a_second))
        cases = {
            "none": (0, 0, False),
            "alike": (options.pages, 0, False),
            "different": (options.pages, 0, True),
            "events": (0, options.readers, False),
        }
        for name, (pages, readers, differ) in cases.items():
            if options.only in (None, name):
                before, began = made.made, time.monotonic()
                found = asyncio.run(
                    measure(pid, web, token, pages, readers, options.seconds, differ=differ)
                )
                who = f"{readers} readers" if readers else f"{pages} pages"
                _print(f"{who}, {name}", found)
                rate = (made.made - before) / (time.monotonic() - began)
                print(f"  {rate:.0f} new connections a second", flush=True)


if __name__ == "__main__":
    main()
