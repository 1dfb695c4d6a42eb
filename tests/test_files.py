"""Files that a configuration names are read within bounds, or it is said why not."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from monconn.errors import FileError
from monconn.files import path_fault, read_file, writing_fault


def test_reads_a_file_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1024)
    assert read_file(str(path), 1024) == b"x" * 1024
    with pytest.raises(FileError, match=r'/a" is too big: at most 1023 B are read$'):
        read_file(str(path), 1023)


def test_a_fifo_without_a_writer_does_not_hold_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileError, match=r'fifo" is a FIFO, and no regular file$'):
        read_file(str(tmp_path / "fifo"), 10)


def test_a_device_without_an_end_is_not_read() -> None:
    with pytest.raises(FileError, match=r'^"/dev/zero" is a device, and no regular file$'):
        read_file("/dev/zero", 10)


def test_folders_and_sockets_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r'" is a folder, and no regular file$'):
        read_file(str(tmp_path), 10)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        with pytest.raises(FileError, match=r'/s" is a socket, and no regular file$'):
            read_file(str(tmp_path / "s"), 10)


def test_a_relative_path_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"No such file or directory$"):
        read_file(str(tmp_path / "nothing"), 10)
    with pytest.raises(FileError, match=r"in which monconn is started\)$"):
        read_file("nothing-of-this-name", 10)


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b"])
def test_what_cannot_be_a_path(path: str) -> None:
    assert path_fault(path)
    with pytest.raises(FileError, match="cannot be read: ") as caught:
        read_file(path, 10)
    assert str(caught.value).isprintable()


def test_bytes_that_are_no_text_can_be_a_path() -> None:
    assert path_fault(os.fsdecode(b"/tmp/\xff")) is None


def test_links_in_a_circle_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "loop"
    path.symlink_to("loop")
    fault = writing_fault(str(path))
    assert fault is not None
    assert fault.errno == errno.ELOOP
    (tmp_path / "dangling").symlink_to("new")
    assert writing_fault(str(tmp_path / "dangling")) is None
