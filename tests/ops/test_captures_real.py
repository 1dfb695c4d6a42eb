"""Captures of real connections: their files together have every byte, and Wireshark understands."""

from __future__ import annotations

import random
import stat
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest_twisted
from twisted.internet.threads import deferToThread

from monconn.config.sections import CaptureConfig
from monconn.model.actions import OWN_CODE
from monconn.monitor.registry import Registry
from monconn.ops.operations import Operations
from monconn.policy.policy import Policy
from monconn.policy.recorder import RecorderSettings
from tests.relay.world import World, exactly, reset, to_the_end, until
from tests.sinks.pcapng_reader import SYN, read

SIZE = 300_000
ROTATE = 1 << 16
UP, DOWN = random.Random(1).randbytes(SIZE), random.Random(2).randbytes(SIZE)


@pytest_twisted.ensureDeferred
async def test_no_byte_is_lost_over_files(tmp_path: Path, program: Callable[[str], str]) -> None:
    folder = tmp_path / "captures"
    files: list[Path] = []

    def play() -> None:
        with World(tmp_path, "ipv4", "splice") as world:
            registry = Registry()
            registry.add(world.monitor)
            config = CaptureConfig(str(folder), rotate_size=ROTATE, first=0)
            operations = world.on_reactor(Operations, registry, world.monitor.clock, capture=config)
            before = world.pair()
            world.on_reactor(operations.capture_start, OWN_CODE)
            pairs = [before, world.pair()]
            for client, backend in pairs:
                receiving = world.meanwhile(exactly, backend, SIZE)
                answering = world.meanwhile(exactly, client, SIZE)
                sending = world.meanwhile(backend.sendall, DOWN)
                client.sendall(UP)
                assert (receiving.result(), answering.result()) == (UP, DOWN)
                sending.result()
                client.close()
                assert to_the_end(backend)[0] == b""
                backend.close()
            until(lambda: len(world.monitor) == 0)
            (row,) = world.on_reactor(operations.capture_stop, OWN_CODE)
            assert (row.connections, row.lost_bytes) == (2, 0)
            world.on_reactor(operations.captures.stop, 10.0)
            (row,) = operations.captures.rows()
            assert (row.bytes, row.lost_bytes, row.state) == (4 * SIZE, 0, "done")
            files.extend(sorted(folder.iterdir()))
            assert len(files) == row.files

    await deferToThread(play)
    assert len(files) > 4 * SIZE // ROTATE // 2
    streams: dict[tuple[int, int], bytearray] = defaultdict(bytearray)
    for number, file in enumerate(files):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        following: dict[tuple[int, int], int] = {}
        for packet in read(file.read_bytes()).packets:
            ports = packet.source_port, packet.destination_port
            if packet.flags & SYN:
                assert number == 0 or not streams[ports], "it goes on, and is not begun anew"
            if packet.data:
                assert following.get(ports, packet.sequence) == packet.sequence
                following[ports] = packet.sequence + len(packet.data)
                streams[ports] += packet.data
    assert sorted(map(bytes, filter(None, streams.values()))) == sorted([UP, UP, DOWN, DOWN])
    for file in (files[len(files) // 2], files[-1]):
        wrong = "tcp.analysis.flags or _ws.malformed"
        argv = [program("tshark"), "-r", str(file), "-Y", wrong]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert (done.stdout, done.returncode) == ("", 0)


@pytest_twisted.ensureDeferred
async def test_what_died_is_stored_from_its_recording(tmp_path: Path) -> None:
    folder = tmp_path / "captures"

    def play() -> None:
        with World(tmp_path, "ipv4", "splice") as world:
            registry = Registry()
            registry.add(world.monitor)
            settings = RecorderSettings(first=100, last=100)
            world.on_reactor(world.monitor.apply, Policy.of(recorder=settings))
            config = CaptureConfig(str(folder), on=("abnormal",), next=1)
            operations = world.on_reactor(Operations, registry, world.monitor.clock, capture=config)
            world.on_reactor(operations.captures.start)
            client, backend = world.pair()
            client.sendall(b"last words")
            assert exactly(backend, 10) == b"last words"
            reset(backend)
            until(lambda: len(world.monitor) == 0)
            client, backend = world.pair()
            client.sendall(b"what came next")
            assert exactly(backend, 14) == b"what came next"
            until(lambda: world.monitor.connections()[0].up == 14)
            world.on_reactor(operations.captures.stop, 10.0)

    await deferToThread(play)
    (file,) = folder.iterdir()
    pieces = [each.data for each in read(file.read_bytes()).packets if each.data]
    assert pieces == [b"last words", b"what came next"]
