"""Files that list networks to block."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.errors import FileError, SettingError
from monconn.policy import block_files
from monconn.policy.block_files import read_block_file, read_whole
from monconn.policy.rules import Rules
from tests.properties import examples


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "blocked"


def listed(path: Path) -> dict[str, str]:
    return {str(each): origin for each, origin in read_block_file(str(path)).origins.items()}


def test_networks_a_line_each_with_comments(file: Path) -> None:
    file.write_text(
        "# from the office\n\n10.0.0.0/8   # all\n  192.0.2.7\r\n2001:db8::/32\n"
        "::ffff:10.0.0.0/104\n"
        "198.51.100.9/24"  # not the network's own address, and no end of the line
    )
    assert listed(file) == {
        "10.0.0.0/8": f"{file}:3",
        "192.0.2.7/32": f"{file}:4",
        "2001:db8::/32": f"{file}:5",
        "198.51.100.0/24": f"{file}:7",
    }
    assert read_whole(str(file)).faults == ()


def test_a_byte_order_mark_is_no_part_of_the_first_line(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf10.0.0.0/8\r\n")
    assert listed(file) == {"10.0.0.0/8": f"{file}:1"}


def test_a_bad_line_is_told_by_its_number_and_costs_no_other(file: Path) -> None:
    file.write_bytes(b"10.0.0.1\nweb\n\xff\x00\n10.0.0.2\n")
    assert list(listed(file).values()) == [f"{file}:1", f"{file}:4"]
    first, second = read_block_file(str(file)).faults
    assert first.startswith(f'{file}:2: "web" is neither an IP address nor a network')
    assert second.startswith(f"{file}:3: ")
    with pytest.raises(FileError, match=r":2: .*; .*:3: "):
        read_whole(str(file))


def test_of_many_bad_lines_the_first_are_told(file: Path) -> None:
    file.write_text("10.0.0.1\n" + "x\n" * 500)
    faults = read_block_file(str(file)).faults
    assert len(faults) == block_files._MOST_FAULTS + 1
    assert faults[-1] == f"{file}: and 490 more lines that are no networks"
    file.write_text("10.0.0.1\n" + "x\n" * 5_000)
    with pytest.raises(FileError, match="lists no networks: 1,000 of its lines are none"):
        read_block_file(str(file))


def test_the_number_of_networks_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_files, "MOST_NETWORKS", 3)
    file.write_text("10.0.0.1\n10.0.0.2\n10.0.0.3\n10.0.0.1\n")
    assert len(listed(file)) == 3
    file.write_text("10.0.0.1\n10.0.0.2\n10.0.0.3\n10.0.0.4\n")
    with pytest.raises(FileError, match="lists too many networks: at most 3 are read"):
        read_block_file(str(file))
    monkeypatch.setattr(block_files, "MOST_BYTES", 10)
    with pytest.raises(FileError, match="is too big"):
        read_block_file(str(file))


def test_files_are_equal_if_they_say_the_same(file: Path) -> None:
    file.write_text("10.0.0.1\n")
    first = Rules(block_files=str(file))  # type: ignore[arg-type]
    assert first == Rules(block_files=[file, str(file)])  # type: ignore[arg-type]
    assert [str(each) for each in first.block_files] == [str(file)]
    file.write_text("10.0.0.2\n")
    assert first != Rules(block_files=[file])  # type: ignore[arg-type]


def test_of_a_file_what_was_read_last_is_chosen(file: Path) -> None:
    file.write_text("10.0.0.1\n")
    older = read_block_file(str(file))
    newer = read_block_file(str(file))
    assert block_files.with_newer((older,), [newer]) == (newer,)
    (chosen,) = block_files.with_newer((newer,), [older])
    assert chosen is newer
    assert block_files.with_newer((), [newer]) == ()


@pytest.mark.parametrize("value", ["/no/such", [7], 7, "", ["\0"], {"a": 1}, [None]])
def test_what_is_no_file_is_refused(value: object) -> None:
    with pytest.raises(SettingError, match="block_files"):
        Rules(block_files=value)  # type: ignore[arg-type]


def test_no_fifo_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileError, match="is a FIFO, and no regular file"):
        read_block_file(str(tmp_path / "fifo"))


@given(st.binary(max_size=300))
@settings(max_examples=examples(50), deadline=None)
def test_any_bytes_are_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(content)
    found = read_block_file(str(file))
    assert len(found.origins) + len(found.faults) <= len(content.splitlines())
