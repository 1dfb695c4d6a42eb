"""Files that list networks to block, one a line: ``block_files`` of a configuration."""

from __future__ import annotations

import codecs
import hashlib
import itertools
import os
import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import attrs

from monconn.addresses import Network, parse_network
from monconn.errors import AddressError, FileError, quoted
from monconn.files import file_name, path_fault, read_file
from monconn.policy.kinds import Kind

MOST_NETWORKS = 100_000
"""How many networks a file may list."""
MOST_BYTES = 1 << 23
SETTLED_SECONDS = 2.0
"""What was written a shorter time ago may be written again without a change of its times: the
kernel's have a resolution of some milliseconds."""
_MOST_FAULTS = 10
_MOST_BAD_LINES = 1_000
_numbers = itertools.count(1)

Signature = tuple[int, ...]
"""What is different once a file has been changed or replaced."""


@attrs.frozen
class BlockFile:
    """The content of a file when it was read. Two are equal if they say the same."""

    path: str
    digest: bytes = attrs.field(repr=False)
    """Of its bytes."""
    origins: Mapping[Network, str] = attrs.field(eq=False, repr=False)
    """Its networks, and where each stands, as ``FILE:LINE``."""
    faults: tuple[str, ...] = attrs.field(default=(), eq=False)
    """Its lines that are no networks, each as ``FILE:LINE: MESSAGE``: the first of them, and a text
    that says how many more there are."""
    signature: Signature | None = attrs.field(default=None, eq=False, repr=False)
    """None if it was written just before, and so has to be read again."""
    fault: str = attrs.field(default="", eq=False)
    """Why it could not be read again since, if so: what it listed before is used."""
    number: int = attrs.field(factory=lambda: next(_numbers), eq=False, repr=False)
    """Of two, the one that was read later has the higher."""

    def __str__(self) -> str:
        return self.path


def signature_of(path: str) -> Signature:
    """What tells whether a file is another one by now.

    :raises OSError: it cannot be found.
    """
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_block_file(path: str) -> BlockFile:
    """Read a file; what is wrong with single lines is in its ``faults``.

    One that begins with ``~`` is below a home directory.

    It blocks as long as the disk does.

    :raises FileError: it cannot be read, or lists too many networks.
    """
    path = os.path.expanduser(path)
    signature: Signature | None = None
    try:
        signature = signature_of(path)  # before it is read: what is changed meanwhile is noticed
        if abs(time.time() - os.stat(path).st_mtime) < SETTLED_SECONDS:
            signature = None
    except (OSError, ValueError):
        pass  # to read it fails for the same reason, in words
    content = read_file(path, MOST_BYTES)
    origins: dict[Network, str] = {}
    faults: list[str] = []
    more = 0
    # Some editors write a byte order mark, which would make the first line none.
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        written = line.partition(b"#")[0].strip()
        if not written:
            continue
        try:
            origins.setdefault(_network(written), f"{path}:{number}")
        except AddressError as error:
            if len(faults) < _MOST_FAULTS:
                faults.append(f"{path}:{number}: {error}")
            else:
                more += 1
            if more > _MOST_BAD_LINES:
                raise FileError(
                    f"{file_name(path)} lists no networks: {_MOST_BAD_LINES:,} of its lines"
                    " are none"
                ) from None
        if len(origins) > MOST_NETWORKS:
            raise FileError(
                f"{file_name(path)} lists too many networks: at most {MOST_NETWORKS:,} are read"
            )
    if more:
        faults.append(f"{path}: and {more:,} more lines that are no networks")
    digest = hashlib.sha256(content).digest()
    return BlockFile(path, digest, origins, tuple(faults), signature)


def _network(written: bytes) -> Network:
    try:
        return parse_network(written.decode("utf-8"))
    except UnicodeDecodeError:
        raise AddressError(f"{quoted(repr(written)[2:-1])} is no text in UTF-8") from None


def read_whole(path: str) -> BlockFile:
    """Read a file of which every line has to be right.

    :raises FileError: it cannot be read, or has a line that is no network.
    """
    file = read_block_file(path)
    if file.faults:
        raise FileError("; ".join(file.faults))
    return file


def _check_files(value: Any) -> tuple[BlockFile, ...]:
    if isinstance(value, (str, os.PathLike, BlockFile)):
        value = [value]
    if not isinstance(value, Iterable):
        raise TypeError("must be a path of a file, or a list of them")
    files: dict[str, BlockFile] = {}
    for each in value:
        if not isinstance(each, (str, os.PathLike, BlockFile)):
            raise TypeError(f"must be paths of files, and {each!r} is none")
        file = each if isinstance(each, BlockFile) else _read(os.fspath(each))
        files.setdefault(file.path, file)
    return tuple(files.values())


def _read(path: Any) -> BlockFile:
    if not isinstance(path, str) or not path.strip():
        raise TypeError("must be paths of files, as texts")
    if fault := path_fault(path):
        raise ValueError(f"must be paths of files, and {quoted(path)} cannot be one: {fault}")
    try:
        return read_whole(path)
    except FileError as error:
        raise ValueError(f"must be files that list networks: {error}") from None


def _parse_files(text: str) -> tuple[BlockFile, ...]:
    return _check_files(text.split(","))


BLOCK_FILES = Kind("files of networks", _check_files, _parse_files)
BlockFiles = Annotated[tuple[BlockFile, ...], BLOCK_FILES]


def with_newer(files: tuple[BlockFile, ...], others: Iterable[BlockFile]) -> tuple[BlockFile, ...]:
    """Files, each as it was read last.

    :param others: what was read of the same files, and perhaps of further ones.
    """
    known = {each.path: each for each in others}
    return tuple(
        other
        if (other := known.get(each.path)) is not None and other.number > each.number
        else each
        for each in files
    )
