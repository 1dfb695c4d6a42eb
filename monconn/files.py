"""Files that a configuration names: what can be a path, and reads with a limit."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import select
import shlex
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from monconn.errors import FileError, os_error_text
from monconn.units import format_bytes

lost: Counter[str] = Counter(socket=0, json_log=0, history=0)
"""How often a file of this process was moved, removed or replaced by others, by what it is."""

READ_SECONDS = 10.0
"""How long the end of a pipe is waited for."""

_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def state_folder() -> str:
    """The folder of what outlasts the program, for this user; it may not exist.

    By https://specifications.freedesktop.org/basedir-spec: relative paths there are ignored.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    state = state if os.path.isabs(state) else os.path.join("~", ".local", "state")
    return os.path.join(os.path.expanduser(state), "monconn")


def state_path(kind: str, of: str, suffix: str) -> str:
    """The path of a file of what outlasts the program, if none is configured.

    In systemd's ``STATE_DIRECTORY`` (systemd.exec(5)), or else in the user's state folder. Its name
    is that of what it is of and a hash of that: so two never meet.

    :param kind: what it is.
    :param of: what it is of, such as the path of a configuration.
    """
    folder = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    digest = hashlib.sha256(os.fsencode(of)).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", Path(of).stem)[:40]
    name = f"{kind}-{stem}-{digest}{suffix}"
    return os.path.join(folder if os.path.isabs(folder) else state_folder(), name)


def read_file(path: str, limit: int) -> bytes:
    """The content of a regular file.

    Anything else is refused before it is read: a FIFO without a writer would hold the program for
    ever, and ``/dev/zero`` has no end.

    :param limit: the size in bytes up to which it is read.
    :raises FileError: it is no regular file, is bigger, or cannot be read; the message names it.
    """
    try:
        # Before it is opened, too: that alone has effects on some devices (a tape, a watchdog).
        _require_regular(path, os.stat(path).st_mode)
        # O_NONBLOCK: if a FIFO has taken the file's place since, open(2) must not wait for a
        # writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            _require_regular(path, os.fstat(fd).st_mode)
            content = file.read(limit + 1) or b""  # None is EAGAIN, of files in /proc
    except OSError as error:
        message = f"{file_name(path)} cannot be read: {error.strerror}"
        if isinstance(error, FileNotFoundError) and not Path(path).is_absolute():
            message += " (relative paths are those of the folder in which monconn is started)"
        raise FileError(message) from error
    except ValueError:
        raise FileError(f"{file_name(path)} cannot be read: {path_fault(path)}") from None
    if len(content) > limit:
        raise FileError(f"{file_name(path)} is too big: at most {format_bytes(limit)} are read")
    return content


def read_until_end(path: str | os.PathLike[str], limit: int) -> bytes:
    """What a file, a pipe or a device gives up to its end, but for no longer than a while.

    Unlike :func:`read_file` for what may well be a pipe, such as the shell's ``<(...)``.

    :param limit: of what has no end, one byte more than this is read.
    :raises OSError: it cannot be read; ETIMEDOUT if it does not end within
        :data:`READ_SECONDS`.
    """
    until = time.monotonic() + READ_SECONDS
    # O_NONBLOCK: else open(2) would wait for a writer of a FIFO, and read(2) for what it writes.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        content = b""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while len(content) <= limit:
            # A FIFO that nobody has opened for writing yet is not at its end for poll(2).
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                text = f"its end did not come within {READ_SECONDS:g} seconds"
                raise TimeoutError(errno.ETIMEDOUT, text)
            try:
                piece = os.read(fd, limit + 1 - len(content))
            except BlockingIOError:
                continue
            if not piece:
                break
            content += piece
        return content
    finally:
        os.close(fd)


def read_private_file(path: str, limit: int) -> bytes:
    """The content of a file of secrets: this user's or root's, which nobody else can read, replace
    or write to.

    It blocks as long as the disk does.

    :param limit: the size in bytes up to which it is read.
    :raises FileNotFoundError: there is none.
    :raises FileError: it is open to others, is no regular file, is too big, or cannot be read; the
        message names it, and says what to do.
    """
    try:
        with reading_errors(path):
            folder = os.path.dirname(os.path.realpath(path))
            return read_trusted_file(path, limit, [folder], forbidden=0o077)[0]
    except FileError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise FileNotFoundError(error.__cause__.errno, error.__cause__.strerror) from None
        raise


@contextmanager
def reading_errors(path: str) -> Iterator[None]:
    """Tell what the kernel says of a path, or that it is none, as a :class:`FileError`."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{file_name(path)} cannot be read: {os_error_text(error)}") from error
    except ValueError:
        raise FileError(f"{file_name(path)} cannot be read: {path_fault(path)}") from None


def read_trusted_file(
    path: str, limit: int, folders: Iterable[str | os.PathLike[str]], *, forbidden: int
) -> tuple[bytes, os.stat_result]:
    """Read a file that only its owner could have written: this process's user, or root.

    :param limit: the size in bytes up to which it is read.
    :param folders: those above it that are to be checked as well.
    :param forbidden: the bits that its mode must not have.
    :returns: its content, and its state when that was read.
    :raises FileError: others could have written it, it is no regular file, or it is too big.
    :raises OSError: it cannot be read.
    :raises ValueError: no path is like that.
    """
    check_folders(path, folders)
    # Before it is opened, too: that alone has effects on some devices (a tape, a watchdog).
    _require_regular(path, os.stat(path).st_mode)
    # O_NONBLOCK: if a FIFO has taken the file's place since, open(2) must not wait for a writer;
    # O_NOCTTY: a terminal must not become this process's.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        check_trusted(path, found, forbidden)
        content = file.read(limit + 1) or b""  # None is EAGAIN, of files in /proc
    if len(content) > limit:
        raise FileError(f"{file_name(path)} is too big: at most {format_bytes(limit)} are read")
    return content, found


def check_trusted(path: str, found: os.stat_result, forbidden: int) -> None:
    """Check that nobody else could have written a file.

    :param found: what is known of it.
    :param forbidden: the bits that its mode must not have.
    :raises FileError: others could.
    """
    name = file_name(path)
    _require_regular(path, found.st_mode)
    _require_own(name, "it belongs", found)
    if found.st_mode & forbidden:
        what = "open to other users" if forbidden & 0o044 else "writable by others"
        mode = f"mode {stat.S_IMODE(found.st_mode):04o}"
        raise FileError(f"{name} is {what} ({mode}): chmod 600 {shlex.quote(path)}")


def check_folders(path: str, folders: Iterable[str | os.PathLike[str]]) -> None:
    """Check that no other user can replace a file.

    :param folders: those above it.
    :raises FileError: one can.
    :raises OSError: there is no such folder.
    """
    name = file_name(path)
    for folder in folders:
        found = os.stat(folder)
        _require_own(name, f"its folder {file_name(os.fspath(folder))} belongs", found)
        # In a sticky folder, such as /tmp, others cannot rename or remove what is not theirs.
        if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            fix = f"chmod go-w {shlex.quote(os.fspath(folder))}"
            raise FileError(
                f"{name}: others could replace it, as they may write to its folder: {fix}"
            )


def _require_own(name: str, whose: str, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise FileError(
            f"{name}: {whose} to another user (uid {found.st_uid}), who could let in whom he likes:"
            f" chown it to uid {os.geteuid()}"
        )


def replace_file(path: str, pieces: Iterable[bytes]) -> None:
    """Make or replace a file, which only this user may read.

    It is whole under its name at any time: written under another one, on the disk, then renamed.

    :raises OSError: it cannot be written; then the one before is still there. Whatever the pieces
        raise, too.
    """
    draft = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(draft)  # of a program that was killed
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # else the name may still be the old file's after a loss of power
    finally:
        os.close(folder)


def _require_regular(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise FileError(f"{file_name(path)} is {kind_of_file(mode)}, and no regular file")


def kind_of_file(mode: int) -> str:
    """What an ``st_mode`` says that a file is, for a message."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "something of another kind")


def regular_fault(path: str) -> str | None:
    """Why what is at a path now is no file to be opened; None if it is one, or nothing is there."""
    try:
        mode = os.stat(os.path.expanduser(path)).st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISREG(mode) else f"it is {kind_of_file(mode)}, and no regular file"


def append_fault(path: str) -> str | None:
    """Why no lines can be appended at a path, by what is there now; None if they may be.

    A FIFO is fine, and so are devices with characters, such as ``/dev/null`` and terminals.
    """
    path = os.path.expanduser(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # nothing is there yet
        return None
    if stat.S_ISDIR(mode):
        return "it is a folder"
    if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        return f"it is {kind_of_file(mode)}"
    # To write there changes the kernel, or this process: /proc/self/mem is its memory.
    return "it is a file of the kernel's" if stat.S_ISREG(mode) and is_of_kernel(path) else None


def is_of_kernel(path: str) -> bool:
    """Whether a path leads to what only looks like a file: to read it may take for ever.

    What ``/dev/stdout`` leads to by way of ``/proc`` has its own place, or is no regular file.
    """
    return os.path.realpath(path).startswith(("/proc/", "/sys/"))


def socket_fault(path: str) -> str | None:
    """Why nobody can listen at a path, by what is there now; None if one may."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISSOCK(mode) else f"there is {kind_of_file(mode)}, which is left alone"


def making_fault(path: str) -> OSError | None:
    """The error with which no file can be made at a path; None if one can.

    As :func:`explained` has it; nothing is tried.
    """
    folder = os.path.dirname(path) or "."
    try:
        os.stat(os.path.join(folder, "."))  # ENOTDIR if it is none
    except OSError as error:
        return explained(error, path)
    if os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return None
    return explained(_no_access(folder), path)


def writing_fault(path: str) -> OSError | None:
    """The error with which a file cannot be opened for writing, or made if there is none.

    :returns: None if it can be, as far as can be known without trying.
    """
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:  # links that lead to no file, not even to one to be made
            return error
        return making_fault(os.path.realpath(path))  # a dangling link leads to the file to be made
    if os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return None
    return _no_access(path)


def _no_access(path: str) -> OSError:
    try:
        is_read_only = os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        is_read_only = False
    number = errno.EROFS if is_read_only else errno.EACCES
    return OSError(number, os.strerror(number))


def explained(error: OSError, path: str) -> OSError:
    """An error of making a file, with what it is about: its folder, unless the file is there."""
    number, text = error.errno, error.strerror
    if os.path.lexists(path) or number not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
        return error
    folder = file_name(os.path.dirname(os.path.abspath(path)))
    if number == errno.ENOENT:
        text = f"{text}: there is no folder {folder}, and monconn makes none"
    elif number == errno.ENOTDIR:
        text = f"{text}: {folder} is no folder"
    else:
        text = f"{text}: this user may not make files in {folder}"
    return OSError(number, text)


def path_fault(path: str) -> str | None:
    """Why the operating system would not even look for a path; None if it would."""
    if "\0" in path:
        return "a path has no NUL in it"
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return "it has a character that no path can have"
    return None


def file_name(path: str) -> str:
    """A path for a message: in quotes as other texts are, but whole."""
    return f'"{path}"' if path.isprintable() else repr(path)
