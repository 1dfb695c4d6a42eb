"""Whether a path has a listener, and which files may be removed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from monconn.unixsocket import identify, is_listening, remove_stale


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sock"


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(0)
        yield sock


def test_a_listener_is_left_alone(path: Path, listener: socket.socket) -> None:
    assert is_listening(path)
    remove_stale(path)
    assert path.exists()


def test_a_listener_whose_queue_is_full_is_left_alone(path: Path, listener: socket.socket) -> None:
    waiting = []
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        waiting.append(client)
        if client.connect_ex(str(path)):
            break
    assert is_listening(path)
    remove_stale(path)
    assert path.exists()
    for client in waiting:
        client.close()


def test_what_a_program_left_behind_is_removed(path: Path, listener: socket.socket) -> None:
    listener.close()
    assert not is_listening(path)
    remove_stale(path)
    assert not path.exists()
    remove_stale(path)  # harmless


def test_other_files_are_left_alone(path: Path) -> None:
    path.write_text("precious")
    assert not is_listening(path)
    remove_stale(path)
    assert path.read_text() == "precious"


def test_a_file_is_recognized_by_its_inode(path: Path, tmp_path: Path) -> None:
    assert identify(str(path)) is None
    path.touch()
    first = identify(str(path))
    assert first == identify(str(path))
    os.rename(path, tmp_path / "away")
    path.touch()
    assert identify(str(path)) not in (None, first)
