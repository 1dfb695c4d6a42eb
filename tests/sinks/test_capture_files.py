"""Capture files: one after the other, bounded, private, and never in the way."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from monconn.config.sections import CaptureConfig
from monconn.errors import FileError
from monconn.model import flow
from monconn.model.flow import Began, Data, Ended, FlowEvent, SideEnded
from monconn.sinks import capture_files
from monconn.sinks.capture_files import CaptureFile, CaptureFiles, check_folder
from tests.logged import logged_lines

WAIT_SECONDS = 10.0


class Lines:
    """An encoder whose files are lines of JSON, which a test can read."""

    def __init__(self) -> None:
        self._live: dict[int, Began] = {}

    def start(self) -> bytes:
        return b'{"event":"head"}\n'

    def encode(self, event: FlowEvent) -> bytes:
        if isinstance(event, Began):
            self._live[event.connection] = event
        elif isinstance(event, Ended):
            self._live.pop(event.connection, None)
        elif isinstance(event, Data) and event.connection in self._live:
            change: dict[str, Any] = {event.direction: event.offset + len(event.data)}
            self._live[event.connection] = attrs.evolve(self._live[event.connection], **change)
        return json.dumps(flow.to_json(event)).encode() + b"\n"

    def under_way(self, at: float) -> list[FlowEvent]:
        return list(self._live.values())


class Disk:
    """Capture files in a folder, with the thread's work done at once unless it is to hang."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.now = 0.0
        settings = {"rotate_size": 2_000, "max_total": 1 << 20, "keep": 1000} | settings
        self.files = CaptureFiles(CaptureConfig(str(folder), **settings), lambda: self.now)
        self.files.open()
        self.capture = self.files.capture(Lines)

    def state(self) -> str:
        return self.capture.state

    def names(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir())

    def written(self) -> list[list[FlowEvent | None]]:
        """The events of each file, after all that was queued is written."""
        self.flush()
        return [
            [
                flow.from_json(json.loads(line))
                for line in (self.folder / name).read_text().split("\n")[1:-1]
            ]
            for name in self.names()
        ]

    def flush(self) -> None:
        done = threading.Event()
        last = self.files.capture(Lines)
        last.handle = lambda event: done.set()  # type: ignore[method-assign]
        last.close()
        assert done.wait(WAIT_SECONDS)


def began(connection: int = 1, up: int = 0, down: int = 0) -> Began:
    at = 1_000.0 + connection
    return Began(
        connection, at, at, f"run-{connection}", "web", "10.0.0.1:4", None, "b:80", up, down
    )


def data(offset: int, size: int = 100, connection: int = 1) -> Data:
    return Data(connection, 2_000.0, "up", offset, bytes([offset % 251]) * size)


def ended(up: int, connection: int = 1) -> Ended:
    return Ended(connection, 3_000.0, up, 0, "client_closed")


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    made: list[Disk] = []

    def make(**settings: Any) -> Disk:
        made.append(Disk(tmp_path / "captures", **settings))
        return made[-1]

    yield make
    for each in made:
        each.files.stop(WAIT_SECONDS)


def test_files_follow_each_other_without_a_byte_lost(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk()
    disk.capture.put(began())
    for offset in range(0, 10_000, 100):
        disk.capture.put(data(offset))
    disk.capture.put(ended(10_000))
    files = disk.written()
    assert len(files) > 5
    at = 0
    for events in files:
        first, *rest = events
        assert isinstance(first, Began)
        assert first.up == at  # each but the first begins in mid-connection
        for event in rest:
            if isinstance(event, Data):
                assert event.offset == at
                at += len(event.data)
    assert at == 10_000
    assert isinstance(files[-1][-1], Ended)
    assert disk.capture.figures.written == 10_000
    assert disk.capture.figures.lost == 0


def test_a_new_file_is_begun_from_the_size_on(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk()
    disk.capture.put(began())
    for offset in range(0, 5_000, 100):
        disk.capture.put(data(offset))
    disk.flush()
    *sizes, _ = [(disk.folder / name).stat().st_size for name in disk.names()]
    assert all(2_000 <= size < 2_500 for size in sizes)


def test_no_file_begins_before_what_is_in_it(
    make_disk: Callable[..., Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A side's end may be older than the tap that tells it."""
    begun: list[float] = []

    def under_way(_: Lines, at: float) -> list[FlowEvent]:
        begun.append(at)
        return []

    monkeypatch.setattr(Lines, "under_way", under_way)
    disk = make_disk(rotate_size=1)
    for event in (began(), SideEnded(1, 10.0, "client", "fin", 0), data(0), ended(100)):
        disk.capture.put(event)
    disk.flush()
    assert begun == [1_001.0, 1_001.0, 2_000.0, 3_000.0]


def test_folder_and_files_are_the_users_only(make_disk: Callable[..., Disk]) -> None:
    before = os.umask(0)
    try:
        disk = make_disk()
        disk.capture.put(began())
        disk.flush()
    finally:
        os.umask(before)
    assert stat.S_IMODE(disk.folder.stat().st_mode) == 0o700
    (name,) = disk.names()
    assert stat.S_IMODE((disk.folder / name).stat().st_mode) == 0o600


def test_nothing_is_made_before_the_first_event(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk()
    disk.capture.close()
    disk.flush()
    assert disk.names() == []
    assert disk.capture.state == "done"


def test_no_more_files_are_kept_than_configured(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk(keep=3)
    disk.capture.put(began())
    for offset in range(0, 20_000, 100):
        disk.capture.put(data(offset))
    files = disk.written()
    assert len(files) == 3
    last = files[-1][-1]
    assert isinstance(last, Data)
    assert last.offset == 19_900  # the oldest ones were deleted


def test_all_files_together_stay_below_max_total(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk(max_total=8_000)
    disk.capture.put(began())
    for offset in range(0, 30_000, 100):
        disk.capture.put(data(offset))
    disk.flush()
    sizes = [(disk.folder / name).stat().st_size for name in disk.names()]
    assert 4_000 < sum(sizes) <= 8_000
    assert disk.capture.figures.lost == 0


def test_a_file_that_somebody_deletes_is_followed_by_another(
    make_disk: Callable[..., Disk],
) -> None:
    disk = make_disk()
    disk.capture.put(began())
    disk.flush()
    (disk.folder / disk.capture.name).unlink()
    disk.capture.put(data(0))
    assert [type(each) for each in disk.written()[0]] == [Began, Data]


def test_other_files_are_left_alone(make_disk: Callable[..., Disk], tmp_path: Path) -> None:
    folder = tmp_path / "captures"
    folder.mkdir()
    others = ["notes.txt", "monconn-mine.pcapng", "monconn-20200101T000000Z-000001.pcapng.gz"]
    for name in others:
        (folder / name).write_bytes(b"x" * 5_000)
    link = folder / "monconn-20200101T000000Z-000001.pcapng"
    link.symlink_to(folder / "notes.txt")
    disk = make_disk(keep=1, max_total=4_000)
    disk.capture.put(began())
    for offset in range(0, 10_000, 100):
        disk.capture.put(data(offset))
    disk.flush()
    assert set(others) < set(disk.names())
    assert link.is_symlink()
    assert (folder / "notes.txt").read_bytes() == b"x" * 5_000
    assert len(disk.names()) == len(others) + 2


def test_a_restart_counts_on_and_deletes_earlier_files(make_disk: Callable[..., Disk]) -> None:
    first = make_disk(keep=4)
    first.capture.put(began())
    for offset in range(0, 4_000, 100):
        first.capture.put(data(offset))
    first.files.stop(WAIT_SECONDS)
    before = first.names()
    second = make_disk(keep=4)
    second.capture.put(began(2))
    for offset in range(0, 4_000, 100):
        second.capture.put(data(offset, connection=2))
    second.flush()
    after = second.names()
    numbers = [int(name.rpartition("-")[2].partition(".")[0]) for name in after]
    assert numbers == sorted(numbers)
    assert len(after) == 4
    assert max(numbers) > len(before)
    assert not set(before) & set(after[-2:])


def test_a_file_of_a_high_number_does_not_end_the_counting(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk(keep=4)
    (disk.folder / "monconn-20200101T000000Z-999999999.pcapng").touch()
    disk.capture.put(began())
    for offset in range(0, 10_000, 100):
        disk.capture.put(data(offset))
    disk.flush()
    assert len(disk.names()) == 4


def test_what_another_monconn_writes_is_not_deleted(make_disk: Callable[..., Disk]) -> None:
    other = make_disk()
    other.capture.put(began())
    other.flush()
    (written,) = other.names()
    disk = make_disk(keep=2)
    disk.capture.put(began(2))
    for offset in range(0, 10_000, 100):
        disk.capture.put(data(offset, connection=2))
    disk.flush()
    assert written in disk.names()
    other.capture.put(data(0))
    assert isinstance(other.written()[0][-1], Data)


def test_a_link_is_not_followed(
    make_disk: Callable[..., Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = make_disk()
    victim = disk.folder.parent / "victim"
    monkeypatch.setattr("time.strftime", lambda *_: "20200101T000000Z")
    (disk.folder / "monconn-20200101T000000Z-000001.pcapng").symlink_to(victim)
    disk.capture.put(began())
    disk.flush()
    assert not victim.exists()
    assert disk.capture.name == "monconn-20200101T000000Z-000002.pcapng"


class FullDisk:
    """Stands for a disk that takes no more than a few bytes of each write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        self._write = os.write
        monkeypatch.setattr("os.write", self.write)

    def write(self, fd: int, content: Any) -> int:
        if not self.is_full:
            return self._write(fd, content)
        if len(content) > 10:
            return self._write(fd, content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_loses_bytes_and_leaves_whole_blocks(
    make_disk: Callable[..., Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    with logged_lines("monconn.sinks.capture_files") as lines:
        _fill(make_disk, monkeypatch)
    assert len(lines) == 2
    assert "no space left on device; bytes of captures are lost" in lines[0]
    assert "again" in lines[1]


def _fill(make_disk: Callable[..., Disk], monkeypatch: pytest.MonkeyPatch) -> None:
    full = FullDisk(monkeypatch)
    disk = make_disk()
    disk.capture.put(began())
    disk.capture.put(data(0))
    disk.flush()
    full.is_full = True
    for offset in range(100, 1_000, 100):
        disk.capture.put(data(offset))
    disk.flush()
    assert disk.state() == "failing"
    assert disk.capture.problem == "no space left on device"
    assert len(disk.names()) == 1  # nothing is left of files that could not be begun
    full.is_full = False
    disk.capture.put(data(1_000))  # too early
    disk.flush()
    disk.now += capture_files.RETRY_SECONDS
    disk.capture.put(data(1_100))
    disk.capture.put(ended(1_200))
    before, after = disk.written()
    assert [type(each) for each in before] == [Began, Data]
    again, chunk, end = after
    assert isinstance(again, Began)
    assert (again.up, chunk, type(end)) == (1_100, data(1_100), Ended)
    assert disk.capture.figures.lost == 1_000
    assert disk.capture.figures.written == 200
    assert disk.state() == "writing"


def test_it_is_known_for_how_long_a_disk_hangs(
    make_disk: Callable[..., Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = HangingDisk(monkeypatch)
    disk = make_disk()
    assert disk.files.stuck_seconds == 0
    disk.capture.put(began())
    assert hanging.is_reached.wait(WAIT_SECONDS)
    disk.now += 7
    assert disk.files.stuck_seconds == 7
    hanging.gate.set()
    disk.flush()
    assert disk.files.stuck_seconds == 0


def test_a_folder_that_is_gone_is_made_again(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk(rotate_size=1)
    disk.capture.put(began())
    disk.flush()
    for name in disk.names():
        (disk.folder / name).unlink()
    disk.folder.rmdir()
    disk.capture.put(data(0))
    assert [type(each) for each in disk.written()[0]] == [Began, Data]


class HangingDisk:
    """Writes wait until they are released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.is_reached = threading.Event()
        self._write = os.write
        monkeypatch.setattr("os.write", self.write)

    def write(self, fd: int, content: Any) -> int:
        self.is_reached.set()
        assert self.gate.wait(WAIT_SECONDS)
        return self._write(fd, content)


def test_a_disk_that_hangs_loses_bytes_and_waits_for_nobody(
    make_disk: Callable[..., Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = HangingDisk(monkeypatch)
    monkeypatch.setattr(capture_files, "QUEUED_BYTES", 3 * capture_files.EVENT_BYTES + 300)
    disk = make_disk(rotate_size=1 << 20)
    try:
        assert disk.capture.put(began(1))
        assert disk.capture.put(data(0))
        assert disk.capture.put(data(100))
        assert not disk.capture.put(data(200, 300))  # there is no room
        assert not disk.capture.put(began(2))
        assert not disk.capture.put(data(0, 10, connection=2))
        assert disk.capture.put(SideEnded(1, 2_001.0, "client", "fin"))
        assert disk.capture.put(ended(500))  # ends always find room
        assert not disk.capture.put(ended(10, connection=2))  # but of what has not begun
        assert disk.capture.figures.dropped == 310
        assert not disk.files.stop(0.0)
    finally:
        hanging.gate.set()
    assert disk.files.queue.stop(WAIT_SECONDS)
    (name,) = disk.names()
    lines = (disk.folder / name).read_text().splitlines()
    events = [flow.from_json(json.loads(line)) for line in lines[1:]]
    assert [type(each) for each in events] == [Began, Data, Data, SideEnded, Ended]


def test_a_connection_whose_beginning_was_dropped_begins_later(
    make_disk: Callable[..., Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = HangingDisk(monkeypatch)
    monkeypatch.setattr(capture_files, "QUEUED_BYTES", capture_files.EVENT_BYTES)
    disk = make_disk(rotate_size=1 << 20)
    disk.capture.put(began(1))
    assert hanging.is_reached.wait(WAIT_SECONDS)
    disk.capture.put(data(0))  # an empty queue takes whatever comes
    disk.capture.put(began(2))
    disk.capture.put(data(0, connection=2))
    monkeypatch.setattr(disk.files.queue, "_limit", 1 << 20)
    disk.capture.put(data(100, connection=2))
    disk.capture.put(ended(200, connection=2))
    hanging.gate.set()
    (events,) = disk.written()
    assert [type(each) for each in events] == [Began, Data, Began, Data, Ended]
    again = events[2]
    assert isinstance(again, Began)
    assert (again.connection, again.up, again.at) == (2, 100, 2_000.0)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.write_text(""), "it is a file, and no folder"),
        (lambda path: path.symlink_to(path.parent / "none"), "it is a link that leads nowhere"),
        (lambda path: None, "there is no folder"),
    ],
)
def test_check_says_what_a_start_would(
    tmp_path: Path, make: Callable[[Path], object], problem: str
) -> None:
    folder = tmp_path / "captures"
    make(folder)
    if problem.startswith("there is no"):
        folder = folder / "below"
    config = CaptureConfig(str(folder))
    with pytest.raises(FileError, match=problem) as checked:
        check_folder(config)
    with pytest.raises(FileError) as started:
        CaptureFiles(config).open()
    assert str(checked.value) == str(started.value)


def test_check_remarks(tmp_path: Path) -> None:
    folder = tmp_path / "captures"
    (remark,) = check_folder(CaptureConfig(str(folder)))
    assert "will be made" in remark.message
    assert not folder.exists()
    folder.mkdir(0o700)
    assert check_folder(CaptureConfig(str(folder))) == []
    folder.chmod(0o777)
    (remark,) = check_folder(CaptureConfig(str(folder)))
    assert remark.is_warning


def test_the_default_folder_is_in_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    files = CaptureFiles(CaptureConfig())
    files.open()
    assert Path(files.path) == tmp_path / "state" / "monconn" / "captures"
    assert stat.S_IMODE(os.stat(files.path).st_mode) == 0o700


def test_a_closed_capture_takes_nothing(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk()
    disk.capture.put(began())
    disk.capture.close()
    disk.capture.close()
    assert not disk.capture.put(data(0))
    assert [type(each) for each in disk.written()[0]] == [Began]
    assert disk.capture.state == "done"


def test_two_captures_have_files_of_their_own(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk()
    other: CaptureFile = disk.files.capture(Lines)
    disk.capture.put(began(1))
    other.put(began(2))
    assert [[each.connection for each in events if each] for events in disk.written()] == [[1], [2]]
    assert disk.capture.name != other.name
