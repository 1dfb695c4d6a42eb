"""The files of those who may use the HTTP API: tokens, and the key of sessions.

All of it blocks as long as the disk does.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable

import attrs

from monconn.access.sessions import SessionKeys, decode_keys
from monconn.access.tokens import MOST_BYTES, Tokens, parse_tokens
from monconn.config.http import HttpConfig
from monconn.errors import FileError, Remark, os_error_text
from monconn.files import (
    explained,
    file_name,
    making_fault,
    read_private_file,
    replace_file,
    state_path,
)
from monconn.policy.block_files import SETTLED_SECONDS, Signature, signature_of

FileState = tuple[Signature, int, int]
"""Of a file, with the owner and the mode of its folder: the file's own signature stays the same
when others get to write there."""
MOST_LOOKS = 5
"""A file that is another one at each look is read nevertheless after so many."""


def tokens_path(config: HttpConfig, config_path: str) -> str:
    """The absolute path of the file of tokens, with links followed: what a link leads to is what is
    replaced.

    :param config_path: the configuration's file; empty without one.
    """
    return _path(config.tokens, config, config_path, ".tokens")


def sessions_path(config: HttpConfig, config_path: str) -> str:
    """The absolute path of the file with the key of sessions."""
    return _path(None, config, config_path, ".sessions")


def _path(given: str | None, config: HttpConfig, config_path: str, suffix: str) -> str:
    of = os.path.realpath(config_path) if config_path else str(config.listen).replace(".", "-")
    return os.path.realpath(os.path.expanduser(given or state_path("http", of, suffix)))


def read_files(config: HttpConfig, config_path: str) -> tuple[Looked, SessionKeys | None]:
    """What is in both files; None of keys that there are not.

    :raises FileError: one is damaged, or open to others.
    """
    try:
        return (
            read_tokens(tokens_path(config, config_path)),
            read_keys(sessions_path(config, config_path)),
        )
    except FileError as error:
        raise FileError(f"http: {error}") from None


def check_files(config: HttpConfig, config_path: str) -> list[Remark]:
    """Find what a start would fail with, or warn of, without making anything.

    :raises FileError: a file is damaged, or open to others.
    """
    _, keys = read_files(config, config_path)
    path = sessions_path(config, config_path)
    first = path
    while not os.path.lexists(os.path.dirname(first)):
        first = os.path.dirname(first)
    fault = making_fault(first) if keys is None else None
    return [] if fault is None else [Remark(not_kept(path, os_error_text(fault)))]


def not_kept(path: str, problem: str) -> str:
    """That browsers have to log in again after a restart."""
    return f"a restart will log browsers out, as {file_name(path)} cannot be written: {problem}"


# -- tokens


@attrs.frozen
class Look:
    """What a file of tokens was at a look.

    :param signature: of the file when it was read last, or why it could not be found; None if it
        has to be read.
    :param pending: what it was at the last look, if it was another one then.
    :param looks: for how many looks it has been another one.
    """

    signature: FileState | str | None = None
    pending: FileState | str | None = None
    looks: int = 0


@attrs.frozen
class Looked:
    """The outcome of a look.

    :param tokens: those in force from now on; None if the file has not changed.
    :param fault: why there are none, if the file cannot be used.
    """

    look: Look
    tokens: Tokens | None = None
    fault: str = ""


def read_tokens(path: str) -> Looked:
    """Read a file of tokens. There are none without a file.

    :raises FileError: it is open to others, or a line of it is wrong.
    """
    signature = _signature(path)  # before: a change meanwhile is noticed
    try:
        content = read_private_file(path, MOST_BYTES)
    except FileNotFoundError:
        return Looked(Look(signature), Tokens())
    tokens = parse_tokens(content, path)
    # The kernel's times have a resolution of some milliseconds: what was written just before may
    # be written again without a change of them.
    is_settled = (
        not isinstance(signature, str)
        and abs(time.time() - signature[0][3] / 1e9) > SETTLED_SECONDS
    )
    return Looked(Look(signature if is_settled else None), tokens)


def look_at_tokens(path: str, before: Look) -> Looked:
    """Read a file of tokens if it has changed, and was the same at two looks: who writes a file in
    place has it empty for a moment."""
    now = _signature(path)
    if now == before.signature:
        return Looked(Look(now))
    if now != before.pending and before.looks < MOST_LOOKS:
        return Looked(Look(before.signature, now, before.looks + 1))
    try:
        return read_tokens(path)
    except FileError as error:
        return Looked(Look(now), Tokens(), str(error))


def _signature(path: str) -> FileState | str:
    """What tells whether a file is another one by now, or others may read or replace it."""
    try:
        folder = os.stat(os.path.dirname(os.path.realpath(path)))
        return signature_of(path), folder.st_uid, folder.st_mode
    except (OSError, ValueError) as error:
        return os_error_text(error)


def change_tokens(path: str, change: Callable[[bytes, Tokens], bytes]) -> Looked:
    """Change a file of tokens, or make one. Of several monconns that have it, one at a time does.

    :param change: gives the new content for what is there; what it raises is raised.
    :raises FileError: it cannot be used as it is.
    :raises OSError: it cannot be written.
    """
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        lock = os.open(
            f"{path}.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                content = read_private_file(path, MOST_BYTES)
            except FileNotFoundError:
                content = b""
            changed = change(content, parse_tokens(content, path))
            tokens = parse_tokens(changed, path)
            if len(changed) > MOST_BYTES:
                raise FileError(f"{file_name(path)} would be too big")
            replace_file(path, [changed])
            return Looked(Look(_signature(path)), tokens)
        finally:
            os.close(lock)
    except OSError as error:
        raise explained(error, path) from None


# -- the key of sessions


def read_keys(path: str) -> SessionKeys | None:
    """What is in a file of sessions; None without a file.

    :raises FileError: it is open to others, damaged, or cannot be read.
    """
    try:
        content = read_private_file(path, MOST_BYTES)
    except FileNotFoundError:
        return None
    keys = decode_keys(content)
    if keys is None:
        raise FileError(f"{file_name(path)} is damaged: remove it, which logs all browsers out")
    return keys


def write_keys(path: str, keys: SessionKeys) -> None:
    """Replace a file of sessions, or make one.

    :raises OSError: it cannot be written.
    """
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        replace_file(path, [keys.encode()])
    except OSError as error:
        raise explained(error, path) from None
