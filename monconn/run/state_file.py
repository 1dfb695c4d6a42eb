"""The file of what outlasts the program: the blocks of operators and of ``auto_block``.

The file is JSON, one entry a line, with its version in ``monconn_state``; it is replaced as a
whole. Ends are stored as wall-clock times, as a monotonic clock begins anew with each start of the
machine.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from monconn.addresses import Network, parse_network
from monconn.config.sections import StateConfig
from monconn.errors import AddressError, FileError, Remark, os_error_text
from monconn.files import (
    file_name,
    making_fault,
    read_file,
    replace_file,
    state_path,
    writing_fault,
)
from monconn.model.reasons import BlockSource
from monconn.monitor.blocking import MAX_REASON_CHARACTERS
from monconn.processes import InUse, Process, flock_holder

VERSION = 1
MAX_BYTES = 64 << 20
"""The size up to which a file is read, and written: some 200,000 blocks."""
MAX_NAME_CHARACTERS = 1_000
_LATEST = 1e11  # seconds since 1970: the year 5138; NaN and infinity are not below it


# -- where it is


def default_path(config_path: str) -> str:
    """The file of a configuration's state if it names none.

    :param config_path: of the configuration.
    """
    return state_path("state", os.path.realpath(config_path), ".json")


def path_of(config: StateConfig) -> str:
    """The absolute path of the file, with links followed: a daemon changes its directory, and what
    a link leads to is what is replaced."""
    return os.path.realpath(os.path.expanduser(config.path or default_path(config.config_path)))


def lock_path(path: str) -> str:
    """The file that is locked by whoever has a file: that itself is replaced."""
    return f"{path}.lock"


def check_state(config: StateConfig) -> list[Remark]:
    """Find what :meth:`StateService.startService` would fail with, without making anything.

    :returns: whether nothing can be kept, where no file is configured.
    :raises FileError: the file is damaged or others may write to it, it cannot be made or written,
        or another monconn has it.
    """
    path = path_of(config)
    try:
        if config.path is None:
            first = next(each for each in (path, *map(str, Path(path).parents)) if _is_below(each))
            fault = writing_fault(path) if first == path else making_fault(first)
        else:
            fault = writing_fault(lock_path(path)) or writing_fault(path)
        if fault is not None:
            raise fault
    except OSError as error:
        if config.path is None:
            return [Remark(not_kept(path, error), True)]
        raise no_state(path, os_error_text(error)) from None
    read_state(path)
    # Not tried: a monconn that starts right now would find it locked.
    if holder := flock_holder(lock_path(path)):
        raise in_use(path, holder)
    return []


def _is_below(path: str) -> bool:
    return os.path.lexists(os.path.dirname(path))


def not_kept(path: str, error: OSError) -> str:
    """That a file cannot be used which nobody has asked for."""
    return (
        f"what is blocked while monconn runs ends with it, as {file_name(path)} cannot be used:"
        f" {os_error_text(error)} (state: FILE says another place, state: false none)"
    )


def no_state(path: str, problem: str) -> FileError:
    """The error for a file that cannot be used."""
    return FileError(f"state: {file_name(path)}: {problem}")


def in_use(path: str, holder: Process | None) -> FileError:
    """The error for a file that another monconn has."""
    who = "another process" if holder is None else str(holder)
    message = (
        f"in use by {who}: stop that first if it runs the same services,"
        " or give each its own by state: FILE"
    )
    error = no_state(path, message)
    error.__cause__ = InUse(message, holder)
    return error


# -- what is in it


@attrs.frozen
class StoredBlock:
    """One block, with its end in wall-clock seconds."""

    service: str | None
    network: Network
    source: BlockSource
    by: str
    since_at: float
    until_at: float | None
    reason: str
    keep_open: bool
    hits: int


@attrs.frozen
class StoredUnblock:
    """A configured network that an operator has unblocked at a service."""

    service: str
    network: Network
    source: BlockSource


@attrs.frozen
class State:
    """The content of a file.

    :param saved_at: wall-clock seconds.
    """

    saved_at: float
    blocks: tuple[StoredBlock, ...] = ()
    unblocked: tuple[StoredUnblock, ...] = ()


class Damaged(ValueError):
    """What is in a file is no state."""


def encode(state: State) -> Iterator[bytes]:
    """The text of a file, a line for each entry.

    In pieces: a JSON encoder that is written in C keeps the interpreter's lock until it has made
    all of a text, and the thread that moves the bytes would wait for that.
    """
    yield f'{{"monconn_state": {VERSION}, "saved_at": {state.saved_at!r},\n"blocks": ['.encode()
    yield from _lines(state.blocks)
    yield b'],\n"unblocked": ['
    yield from _lines(state.unblocked)
    yield b"]}\n"


def _lines(entries: Iterable[Any]) -> Iterator[bytes]:
    separator = b"\n"
    for each in entries:
        values = {name: getattr(each, name) for name in _names(type(each))}
        values["network"] = str(values["network"])
        yield separator + json.dumps(values).encode()
        separator = b",\n"


def _names(kind: type) -> tuple[str, ...]:
    return tuple(each.name for each in attrs.fields(kind))


def decode(data: bytes) -> State:
    """What is in a file.

    :raises Damaged: it is no state, or of a newer version.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise Damaged("it is no JSON") from None
    if not isinstance(content, dict) or "monconn_state" not in content:
        raise Damaged("it is no state of monconn's")
    if content["monconn_state"] != VERSION:
        raise Damaged(f"it is of another version than {VERSION}: a newer monconn has written it")
    return State(
        _time(content, "saved_at"),
        tuple(map(_block, _list(content, "blocks"))),
        tuple(map(_unblock, _list(content, "unblocked"))),
    )


def _block(entry: dict[str, Any]) -> StoredBlock:
    hits = entry.get("hits")
    if type(hits) is not int or not 0 <= hits < 1 << 63:
        raise Damaged("the hits of a block are no count")
    if type(entry.get("keep_open")) is not bool:
        raise Damaged("keep_open of a block is neither true nor false")
    return StoredBlock(
        service=None if entry.get("service") is None else _text(entry, "service"),
        network=_network(entry),
        source=_source(entry, ("operator", "auto")),
        by=_text(entry, "by"),
        since_at=_time(entry, "since_at"),
        until_at=None if entry.get("until_at") is None else _time(entry, "until_at"),
        reason=_text(entry, "reason", MAX_REASON_CHARACTERS),
        keep_open=entry["keep_open"],
        hits=hits,
    )


def _unblock(entry: dict[str, Any]) -> StoredUnblock:
    source = _source(entry, ("configuration", "file"))
    return StoredUnblock(_text(entry, "service"), _network(entry), source)


def _list(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise Damaged(f"{key} is no list of objects")
    return entries


def _text(entry: dict[str, Any], key: str, most: int = MAX_NAME_CHARACTERS) -> str:
    text = entry.get(key)
    if not isinstance(text, str) or len(text) > most:
        raise Damaged(f"{key} of an entry is no text of {most} characters at most")
    return text


def _time(entry: dict[str, Any], key: str) -> float:
    moment = entry.get(key)
    is_number = isinstance(moment, (int, float)) and not isinstance(moment, bool)
    if not is_number or not abs(moment) < _LATEST:  # type: ignore[arg-type]
        raise Damaged(f"{key} is no time")
    return float(moment)  # type: ignore[arg-type]


def _network(entry: dict[str, Any]) -> Network:
    try:
        return parse_network(_text(entry, "network"))
    except AddressError as error:
        raise Damaged(str(error)) from None


def _source(entry: dict[str, Any], known: tuple[BlockSource, ...]) -> BlockSource:
    for each in known:
        if entry.get("source") == each:
            return each
    raise Damaged(f"the source of an entry is none of {', '.join(known)}")


def read_state(path: str) -> State | None:
    """What is in a file; None if there is no file.

    :raises FileError: it is damaged, too big or cannot be read, or others may write to it.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise no_state(path, os_error_text(error)) from None
    if found.st_uid not in (0, os.geteuid()):
        raise no_state(path, "it belongs to another user, who could let in whom he likes")
    if found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        raise no_state(path, f"others may write to it (mode {mode:04o}): chmod 600")
    try:
        data = read_file(path, MAX_BYTES)
    except FileError as error:
        raise FileError(f"state: {error}") from None
    try:
        return decode(data)
    except Damaged as problem:
        raise no_state(
            path,
            f"{problem}; it is left as it is: mend it, or move it away to begin without the blocks"
            " in it",
        ) from None


def write_state(path: str, state: State) -> None:
    """Replace a file, which only this user may read, and which is whole at any time.

    :raises OSError: it cannot be written; then the one before is still there.
    """
    replace_file(path, _limited(encode(state)))


def _limited(pieces: Iterable[bytes]) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_BYTES:
            raise OSError(f"there are too many blocks for {MAX_BYTES >> 20} MiB")
        yield piece
