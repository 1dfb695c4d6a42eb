"""The history's file: the schema of its SQLite database, and how it is opened."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path

import attrs

from monconn.errors import FileError, Remark, os_error_text, printable, quoted
from monconn.files import (
    explained,
    is_of_kernel,
    kind_of_file,
    path_fault,
    regular_fault,
    writing_fault,
)
from monconn.processes import InUse, Process, flock_holder, take_flock

SCHEMA_VERSION = 4
"""Older versions lack some of the columns in :data:`_ADDED_COLUMNS`."""
APPLICATION_ID = 0x6D6F6E63
"""``monc``: marks the file's header, so that no other database is taken for ours."""
LOCKED_SECONDS = 0.5
"""How long SQLite waits for another program that has locked the file."""
OPEN_SECONDS = 10.0
"""How long to open a file may take; a damaged one may have no index any more."""
_STEPS_PER_CHECK = 10_000
_LONGEST_VALUE_BYTES = 1 << 20
_LIMIT_LENGTH = 0
"""``SQLITE_LIMIT_LENGTH``, which Python has since 3.11."""
_HEADER_BYTES = 100
_LOG_BYTES = 4 << 20
_PAGE_BYTES = 4096
_ADDED_COLUMNS = (
    (2, "facts", "TEXT"),
    (2, "pipe", "TEXT"),
    (3, "client_last_heard_seconds", "REAL"),
    (3, "backend_last_heard_seconds", "REAL"),
    (4, "uid", "TEXT"),
)
"""Columns of ``connections`` that version 1 lacked, each with the version that has added it: the
last ones of the table, as ALTER TABLE adds them."""

_SCHEMA = f"""
CREATE TABLE connections (
    entry INTEGER PRIMARY KEY,
    run_started_at REAL NOT NULL,
    id INTEGER NOT NULL,
    service TEXT NOT NULL,
    client TEXT NOT NULL,
    client_ip TEXT NOT NULL,
    client_address BLOB,
    backend TEXT NOT NULL,
    opened_at REAL NOT NULL,
    closed_at REAL NOT NULL,
    duration_seconds REAL NOT NULL,
    connect_seconds REAL,
    first_up_seconds REAL,
    first_down_seconds REAL,
    last_up_seconds REAL,
    last_down_seconds REAL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    reason TEXT NOT NULL,
    phase TEXT NOT NULL,
    code TEXT NOT NULL,
    closed_by TEXT NOT NULL,
    client_end TEXT NOT NULL,
    backend_end TEXT NOT NULL,
    client_rtt_seconds REAL,
    client_retransmits INTEGER,
    backend_rtt_seconds REAL,
    backend_retransmits INTEGER,
    detail TEXT NOT NULL,
    facts TEXT,
    pipe TEXT,
    client_last_heard_seconds REAL,
    backend_last_heard_seconds REAL,
    uid TEXT
);
CREATE INDEX connections_by_time ON connections (closed_at);
CREATE INDEX connections_by_client ON connections (client_address, closed_at);
CREATE TABLE events (
    entry INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    event TEXT NOT NULL,
    service TEXT,
    client TEXT,
    client_ip TEXT,
    client_address BLOB,
    word TEXT,
    over INTEGER NOT NULL,
    count INTEGER NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX events_by_time ON events (at);
CREATE TABLE hours (
    hour INTEGER NOT NULL,
    service TEXT NOT NULL,
    client_ip TEXT NOT NULL,
    reason TEXT NOT NULL,
    client_address BLOB,
    connections INTEGER NOT NULL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    PRIMARY KEY (hour, service, client_ip, reason)
) WITHOUT ROWID;
CREATE TABLE refusals (
    hour INTEGER NOT NULL,
    service TEXT NOT NULL,
    refusal TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (hour, service, refusal)
) WITHOUT ROWID;
CREATE TABLE counters (
    service TEXT NOT NULL,
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (service, name)
) WITHOUT ROWID;
CREATE TABLE kept (
    name TEXT PRIMARY KEY,
    since REAL NOT NULL
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

# How the wall clock went, see file_time; it needs no version of its own, as whoever does not know
# it writes rows all the same.
_CLOCK = """
CREATE TABLE IF NOT EXISTS clock (
    entry INTEGER PRIMARY KEY,
    elapsed REAL NOT NULL,
    at REAL NOT NULL,
    seconds REAL NOT NULL,
    lead REAL NOT NULL
)
"""

# The devices that there are, see devices; the same holds for it.
_DEVICES = """
CREATE TABLE IF NOT EXISTS devices (
    service TEXT NOT NULL,
    device TEXT NOT NULL,
    first_address BLOB,
    last_address BLOB,
    first_seen_at REAL NOT NULL,
    last_seen_at REAL NOT NULL,
    total INTEGER NOT NULL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    last_reason TEXT,
    alarms TEXT NOT NULL,
    usual TEXT NOT NULL,
    PRIMARY KEY (service, device)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS devices_by_time ON devices (last_seen_at);
CREATE INDEX IF NOT EXISTS devices_by_service ON devices (service, last_seen_at, device);
"""
_HAS_DEVICES = "SELECT count(*) FROM main.sqlite_master WHERE name = 'devices_by_service'"
_LATER_TABLES = {"clock", "devices"}
"""Tables that a file of the same version may lack."""


class FileReplaced(Exception):
    """A history's file, or one beside it, was moved, removed or replaced while it was open."""


def open_for_writing(path: str, max_size: int) -> sqlite3.Connection:
    """Open a history for its one writer; create it if there is none, update it if it is older.

    :param max_size: the limit of the file in bytes; its write-ahead log gets a share.
    :raises FileError: it cannot be opened, or is something else, which is left as it is.
    """
    check_path(path)
    try:
        _make_private(path)
        with _open_if(path) as db, limited(db, path, OPEN_SECONDS):
            if _is_empty(db):
                _make(db)
            if (version := _check(db, path)) < SCHEMA_VERSION:
                _update(db, version)
            db.execute(_CLOCK)
            if not db.execute(_HAS_DEVICES).fetchone()[0]:  # else nothing must wait for a lock
                db.executescript(f"BEGIN IMMEDIATE; {_DEVICES} COMMIT;")
            _check_columns(db, path)
            set_up(db, max_size)
    except (OSError, sqlite3.Error) as error:
        raise no_history(path, os_error_text(error)) from None
    return db


def open_read_only(path: str) -> sqlite3.Connection:
    """Open a history for queries, whether or not a running monconn writes it.

    One of an older version stays as it is; to queries, the columns that it lacks are all NULL.

    :raises FileError: it does not exist, cannot be opened, or is something else.
    """
    check_path(path)
    try:
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        with (
            _open_if(Path(path).absolute().as_uri() + "?mode=ro", uri=True) as db,
            limited(db, path, OPEN_SECONDS),
        ):
            # A file may come from anybody: its schema calls no functions, and no value is huge.
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA cell_size_check = ON")
            if hasattr(db, "setlimit"):  # since Python 3.11
                db.setlimit(_LIMIT_LENGTH, _LONGEST_VALUE_BYTES)
            if _check(db, path) < SCHEMA_VERSION:
                _add_view(db)
    except (OSError, sqlite3.Error) as error:
        raise no_history(path, os_error_text(error)) from None
    return db


@contextmanager
def _open_if(where: str, uri: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection that is closed if the block raises."""
    db = sqlite3.connect(where, uri=uri, timeout=LOCKED_SECONDS, check_same_thread=False)
    try:
        yield db
    except BaseException:  # only to close it
        db.close()
        raise


def lock(path: str) -> int:
    """Take the lock that makes this process the only writer of a history.

    With two writers, each would overwrite the other's counters. It is a file beside the history: on
    that one SQLite has POSIX locks, which this process would lose by closing a descriptor of it.

    :returns: a descriptor, whose closing releases the lock.
    :raises FileError: another monconn has it, or its file cannot be opened.
    """
    file = lock_file(path)
    try:
        check_path(path)
        return take_flock(file)
    except InUse as error:
        raise _locked_by(path, error.holder) from None
    except OSError as error:
        raise no_history(path, os_error_text(explained(error, file))) from None


def _locked_by(path: str, holder: Process | None) -> FileError:
    message = "another monconn writes it: each needs a file of its own"
    error = no_history(path, message if holder is None else f"{message} ({holder} has this one)")
    error.__cause__ = InUse(message, holder)
    return error


def lock_file(path: str) -> str:
    """The file that a history's only writer has locked."""
    return f"{path}.lock"


def is_locked(path: str, descriptor: int) -> bool:
    """Whether the lock of a descriptor from :func:`lock` is still the one that others would see."""
    try:
        return os.path.samestat(os.stat(lock_file(path)), os.fstat(descriptor))
    except FileNotFoundError:
        return False


_BESIDE = ("-journal", "-wal", "-shm")
"""What SQLite looks for beside a database, and opens: of a FIFO, it would wait for a writer."""

Identity = tuple[tuple[int, int] | None, tuple[int, int] | None]
"""Which file there is, and which write-ahead log beside it; None for one that does not exist."""
GONE: Identity = ((-1, -1), None)
"""The identity of no file at all."""


def identity(path: str) -> Identity:
    """Which files are there now under a history's path."""
    return _inode(path), _inode(f"{path}-wal")


def remove_log(path: str, known: Identity) -> None:
    """Remove the write-ahead log of a file that is gone, if it is there and still that file's."""
    file, log = identity(path)
    if file != known[0] and log is not None and log == known[1]:
        for beside in (f"{path}-wal", f"{path}-shm"):
            with suppress(FileNotFoundError):
                os.unlink(beside)


def is_emptied(path: str, known: Identity) -> bool:
    """Whether somebody has truncated a file that had tables: it never is empty by itself."""
    return _inode(path) == known[0] and os.stat(path).st_size == 0


@attrs.frozen
class LogIndex:
    """The index beside the write-ahead log (``-shm``): which file it is, and its size."""

    inode: tuple[int, int]
    size: int


def restore_index(path: str, known: LogIndex | None) -> LogIndex | None:
    """Give the index of the write-ahead log back what others have cut off, as zeros.

    SQLite maps it into memory, and does not look at its size again: to use what the file does not
    have any more is SIGBUS, which ends the process with all its connections. ``truncate`` does
    that, as does logrotate's ``copytruncate`` for a pattern that fits. What is zero fails its
    checksum, so that SQLite makes the index anew from the log. By path, and never by a descriptor:
    closing one would release the locks that SQLite has on the file in this process.

    :param known: as this returned it when the file was used last.
    """
    index = f"{path}-shm"
    try:
        found = os.stat(index)
        now = LogIndex((found.st_dev, found.st_ino), found.st_size)
        if known is None or now.inode != known.inode or now.size >= known.size:
            return now
        os.truncate(index, known.size)
    except OSError:
        pass
    return known


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def check_path(path: str) -> None:
    """Check that a path may be a history's, without opening or creating anything.

    :raises FileError: no file can have that path, or what is there is no regular file.
    """
    if path == ":memory:":
        raise no_history(path, "means a database in memory to SQLite: give the path of a file")
    if path.startswith("file:"):
        raise no_history(path, "is a URI: give the path of the file, without options")
    if fault := path_fault(path):
        raise no_history(path, fault)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise no_history(path, os_error_text(error)) from None
    for beside in _BESIDE:
        if fault := regular_fault(path + beside):
            raise no_history(path + beside, fault.removeprefix("it "))
    if not stat.S_ISREG(mode):  # SQLite would wait for a FIFO's writer, and read /dev/zero
        raise no_history(path, f"is {kind_of_file(mode)}, and no regular file")
    if is_of_kernel(path):  # to read /proc/kmsg is to wait for the kernel's next message
        raise no_history(path, "is a file of the kernel's")


def check_start(path: str) -> list[Remark]:
    """Find what the start of a history would fail with; it may not exist yet.

    SQLite would create files beside it, so only its header is read.

    :returns: none.

    :raises FileError: it is something else or of a newer version, it cannot be made or written, or
        another monconn writes it.
    """
    check_path(path)
    file = lock_file(path)
    for each in (file, path):
        if fault := writing_fault(each):
            raise no_history(path, os_error_text(fault))
    check_file(path)
    # Not tried: a monconn that starts right now would find it locked.
    if holder := flock_holder(file):
        raise _locked_by(path, holder)
    return []


def check_file(path: str) -> None:
    """Check that a file, if there is one, is a history, by its header alone.

    :raises FileError: it is something else, or of a newer version.
    """
    check_path(path)
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise no_history(path, os_error_text(error)) from None
    if not header:
        return  # SQLite takes an empty file for a database without tables
    if len(header) < _HEADER_BYTES or not header.startswith(b"SQLite format 3\0"):
        raise no_history(path, "file is not a database")
    # https://www.sqlite.org/fileformat.html, 1.3: offsets 60 and 68
    version, application = struct.unpack_from(">I4xI", header, 60)
    _check_version(path, application, version)


@contextmanager
def limited(
    db: sqlite3.Connection,
    path: str,
    seconds: float,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Interrupt statements in the block that take too long, or are cancelled.

    :raises FileError: it took longer than ``seconds``.
    :raises sqlite3.DatabaseError: SQLite's own message could not be decoded, as it quotes a file
        that is damaged.
    """
    until = time.monotonic() + seconds
    # The one way to interrupt a statement from within: SQLite calls it every so many of its
    # virtual machine's instructions.
    db.set_progress_handler(lambda: is_cancelled() or time.monotonic() > until, _STEPS_PER_CHECK)
    try:
        yield
    except sqlite3.OperationalError:
        if time.monotonic() <= until:
            raise
        text = f"this took longer than {seconds:g} s: ask for a shorter period"
        raise no_history(path, text) from None
    except UnicodeDecodeError:
        raise sqlite3.DatabaseError("database disk image is malformed") from None
    finally:
        with suppress(sqlite3.ProgrammingError):  # closed, after another error
            db.set_progress_handler(None, 0)


def _make_private(path: str) -> None:
    """Create the file with mode 0600; SQLite gives its log the same mode.

    :raises OSError: it cannot be created, or not be written.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if fault := writing_fault(path):  # to SQLite, that is "a readonly database"
            raise fault from None


def _is_empty(db: sqlite3.Connection) -> bool:
    return not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] and not _pragma(
        db, "application_id"
    )


def _make(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # cannot be set once there are tables
    db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")


def _update(db: sqlite3.Connection, version: int) -> None:
    """Make a file of an older version one of the current version, in one transaction.

    Adding columns rewrites no rows, however many there are.
    """
    added = "".join(
        f"ALTER TABLE connections ADD COLUMN {name} {kind};"
        for since, name, kind in _ADDED_COLUMNS
        if since > version
    )
    db.executescript(f"BEGIN IMMEDIATE; {added} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def _add_view(db: sqlite3.Connection) -> None:
    """Let the statements of the current version find the columns that older ones lack.

    A name without a schema means the one in ``temp`` first, which is this connection's own.
    """
    db.execute("PRAGMA temp_store = MEMORY")
    names = [row[1] for row in db.execute("PRAGMA main.table_info(connections)")]
    # By name: with *, columns would be there twice once a writer has added them.
    lacking = [f"NULL AS {name}" for _, name, _ in _ADDED_COLUMNS if name not in names]
    columns = ", ".join([*names, *lacking])
    db.execute(f"CREATE TEMP VIEW connections AS SELECT {columns} FROM main.connections")


def _check(db: sqlite3.Connection, path: str) -> int:
    """The version of a database's schema.

    :raises FileError: it is none of ours, or of a newer version; nothing was done to it.
    """
    version = _pragma(db, "user_version")
    _check_version(path, _pragma(db, "application_id"), version)
    # A view would be read as well, and need not end; a virtual table may be anything.
    tables = db.execute("SELECT name, sql FROM main.sqlite_master WHERE type = 'table'")
    found = {name for name, sql in tables if not str(sql).upper().startswith("CREATE VIRTUAL")}
    for name in sorted(_usual_columns().keys() - found - _LATER_TABLES):
        raise no_history(path, f"is damaged: its table {name} is missing")
    return version


def _check_version(path: str, application: int, version: int) -> None:
    if application != APPLICATION_ID:
        raise no_history(path, "is a database, but no history of monconn's: use another path")
    if not 1 <= version <= SCHEMA_VERSION:
        raise no_history(
            path,
            f"was written by another version of monconn (its schema is {version}, ours"
            f" {SCHEMA_VERSION}): use that version, or another path",
        )


def _check_columns(db: sqlite3.Connection, path: str) -> None:
    """Check that rows can be written, and that writing them does nothing else.

    :raises FileError: a table has other columns, or there is a trigger.
    """
    for (name,) in db.execute("SELECT name FROM main.sqlite_master WHERE type = 'trigger'"):
        raise no_history(path, f"has a trigger, {quoted(str(name))}: monconn writes to none such")
    for table, columns in _usual_columns().items():
        if table_columns(db, table).keys() != columns.keys():
            raise no_history(path, f"is damaged: its table {table} has other columns")


Columns = dict[str, tuple[str, bool]]
"""The type of each column of a table, and whether it is never NULL."""


def table_columns(db: sqlite3.Connection, table: str) -> Columns:
    """The columns that a table of a file has."""
    return {
        row[1]: (row[2], bool(row[3])) for row in db.execute(f"PRAGMA main.table_info({table})")
    }


@cache
def _usual_columns() -> dict[str, Columns]:
    """The columns of all tables of the current version."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(f"{_SCHEMA};{_CLOCK};{_DEVICES}")
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {name: table_columns(db, name) for (name,) in tables}


def usual_columns(table: str) -> Columns:
    """The columns of a table of the current version."""
    return _usual_columns()[table]


def set_up(db: sqlite3.Connection, max_size: int) -> None:
    """Set the options of one connection that writes."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")  # one fsync per batch: a power cut costs one second
    db.execute(f"PRAGMA journal_size_limit = {log_bytes(max_size)}")
    db.execute(f"PRAGMA wal_autocheckpoint = {max(16, log_bytes(max_size) // _PAGE_BYTES)}")


def log_bytes(max_size: int) -> int:
    """The size in bytes that the write-ahead log beside a file may keep."""
    return min(_LOG_BYTES, max_size // 8)


def log_size(path: str) -> int:
    """The size in bytes of the write-ahead log beside a file."""
    try:
        return os.stat(f"{path}-wal").st_size
    except FileNotFoundError:
        return 0


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def no_history(path: str, why: str, kind: type[FileError] = FileError) -> FileError:
    """An error about a history's file."""
    return kind(f"history: {printable(path)}: {why}")
