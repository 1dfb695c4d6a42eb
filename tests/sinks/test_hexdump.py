from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from monconn.hexlines import dump
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IObserver
from monconn.sinks.hexdump import HexDump
from tests.properties import examples

WAIT_SECONDS = 10.0
HEXDUMP = shutil.which("hexdump")


@pytest.fixture
def record() -> ConnectionRecord:
    return ConnectionRecord(
        id=1,
        service="web",
        client="192.0.2.1:4711",
        client_ip="192.0.2.1",
        listener=":80",
        backend="10.0.0.5:80",
        opened_at=0.0,
        opened=0.0,
    )


# -- the layout


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"A", ["00000000  41                                                |A|"]),
        (b"12345678", ["00000000  31 32 33 34 35 36 37 38                           |12345678|"]),
        (b"123456789", ["00000000  31 32 33 34 35 36 37 38  39                       |123456789|"]),
        (
            bytes(range(0x6A, 0x8A)),
            [
                "00000000  6a 6b 6c 6d 6e 6f 70 71  72 73 74 75 76 77 78 79  |jklmnopqrstuvwxy|",
                "00000010  7a 7b 7c 7d 7e 7f 80 81  82 83 84 85 86 87 88 89  |z{|}~...........|",
            ],
        ),
        (
            "\0\t\n\x1b[1m ä".encode(),
            ["00000000  00 09 0a 1b 5b 31 6d 20  c3 a4                    |....[1m ..|"],
        ),
    ],
)
def test_dump(data: bytes, lines: list[str]) -> None:
    assert dump(data) == "".join(f"{line}\n" for line in lines)


@pytest.mark.skipif(HEXDUMP is None, reason="the program hexdump is not installed")
@settings(max_examples=examples(25), deadline=None)
@given(st.binary(max_size=200))
def test_dump_matches_hexdump(data: bytes) -> None:
    assert HEXDUMP is not None
    printed = subprocess.run(
        [HEXDUMP, "-v", "-C"],
        input=data,
        env={**os.environ, "LC_ALL": "C"},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.decode()
    *lines, length = printed.splitlines() or [""]  # its last line is the length
    assert dump(data).splitlines() == lines
    assert int(length or "0", 16) == len(data)


# -- the observer


def test_chunks_with_their_headlines(
    record: ConnectionRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1_700_000_001.25)
    written: list[str] = []
    hex_dump = HexDump(written.append)
    assert verifyObject(IObserver, hex_dump)
    assert hex_dump.watches_payload
    hex_dump.data(record, "up", b"GET /")
    hex_dump.data(record, "down", b"x" * 2048)
    assert hex_dump.stop(WAIT_SECONDS)
    up, down = written
    assert re.fullmatch(
        r"\d\d:\d\d:21\.250 web 192\.0\.2\.1:4711 → 10\.0\.0\.5:80 up 5 B\n"
        r"00000000  47 45 54 20 2f {36}\|GET /\|\n",
        up,
    )
    assert " web 192.0.2.1:4711 ← 10.0.0.5:80 down 2.0 KiB\n" in down
    assert down.count("\n") == 1 + 2048 // 16


def test_writes_in_a_thread_of_its_own(record: ConnectionRecord) -> None:
    threads: list[threading.Thread] = []
    hex_dump = HexDump(lambda text: threads.append(threading.current_thread()))
    hex_dump.data(record, "up", b"x")
    assert hex_dump.stop(WAIT_SECONDS)
    assert threads[0] is not threading.current_thread()


class StuckWriter:
    """Blocks until it is released."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, text: str) -> None:
        self.begun.set()
        assert self.let_go.wait(WAIT_SECONDS)
        self.written.append(text)


@pytest.fixture
def writer() -> Iterator[StuckWriter]:
    writer = StuckWriter()
    yield writer
    writer.let_go.set()


def test_a_blocking_writer_does_not_delay_the_reactor(
    record: ConnectionRecord, writer: StuckWriter
) -> None:
    hex_dump = HexDump(writer, queued_bytes=100)
    hex_dump.data(record, "up", b"")
    assert writer.begun.wait(WAIT_SECONDS)
    for _ in range(1000):
        hex_dump.data(record, "up", b"0123456789")  # would never return
    assert hex_dump.dropped == 990
    assert not hex_dump.stop(0.01)


def test_dropped_chunks_are_reported(record: ConnectionRecord, writer: StuckWriter) -> None:
    hex_dump = HexDump(writer, queued_bytes=100)
    hex_dump.data(record, "up", b"")
    assert writer.begun.wait(WAIT_SECONDS)
    hex_dump.data(record, "up", b"a" * 90)
    for _ in range(3):
        hex_dump.data(record, "up", b"dropped by their size")
    hex_dump.data(record, "up", b"short")
    writer.let_go.set()
    assert hex_dump.stop(WAIT_SECONDS)
    first, long, notice, short = writer.written
    assert notice == "... 3 chunks not shown: more than could be written\n"
    assert "|aaaaaaaaaaaaaaaa|" in long
    assert "|short|" in short
    assert first.endswith("up 0 B\n")
