"""Files with the bytes of connections: written in a thread, begun anew, and deleted when too many.

Each capture has files of its own in one folder, one after the other. All work on disks is done in a
thread behind a bounded queue: a disk that is full or hangs loses bytes of captures, which are
counted, and delays no connection and not the end of the program.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol

import attrs

from monconn.background import BackgroundQueue
from monconn.config.sections import CaptureConfig
from monconn.errors import FileError, Remark, os_error_text
from monconn.files import explained, file_name, kind_of_file, making_fault, path_fault, state_folder
from monconn.log import Logger
from monconn.model.flow import Began, Data, Ended, FlowEncoder, FlowEvent, SideEnded
from monconn.sinks.pcapng import PcapngEncoder

QUEUED_BYTES = 8 << 20
"""Bytes that may wait for the disk, of all captures together; what finds no room is dropped."""
EVENT_BYTES = 512
"""What an event counts in that queue, beside its data."""
RETRY_SECONDS = 1.0
"""The pause after a write that has failed: each try makes a file."""
FLUSH_SECONDS = 1.0
"""How long a stopping program waits for the last bytes to be written."""
FOLDER_MODE = 0o700
FILE_MODE = 0o600

# Numbers go on from the highest that is there, however high that is.
_OURS = re.compile(r"monconn-([0-9]{8}T[0-9]{6}Z)-([0-9]+)\.pcapng")
_NAME_TRIES = 1_000

State = Literal["waiting", "writing", "failing", "done"]
"""Of one capture's files: nothing was written yet, a file is open, it cannot be written, closed."""


class CaptureEncoder(FlowEncoder, Protocol):
    """An encoder of one file that can be followed by another one in mid-connection."""

    def under_way(self, at: float) -> list[FlowEvent]:
        """The connections that have begun and not ended, as events for the next file's encoder.

        :param at: wall-clock seconds.
        """


def default_folder() -> str:
    """The folder if none is configured: in the user's state folder."""
    return os.path.join(state_folder(), "captures")


def _expanded(folder: str) -> str:
    """The absolute path of a folder: a daemon changes its directory."""
    folder = os.path.expanduser(folder)
    try:
        return os.path.abspath(folder)
    except OSError:  # the working directory is gone: to open it fails, and says so
        return folder


def check_folder(config: CaptureConfig) -> list[Remark]:
    """Find what :meth:`CaptureFiles.open` would fail with, without making anything.

    :returns: whether the folder would be made, or is one that others may write to.
    :raises FileError: it is no folder, cannot be made, or cannot be written to.
    """
    place = config.folder or default_folder()
    folder = _expanded(place)
    if fault := path_fault(folder):
        raise _no_folder(place, fault)
    try:
        found = os.stat(folder)
    except FileNotFoundError:
        if os.path.lexists(folder):
            raise _no_folder(place, "it is a link that leads nowhere") from None
        # That of the state folder is made with all that is above it.
        above = folder
        while config.folder is None and not os.path.isdir(os.path.dirname(above)):
            above = os.path.dirname(above)
        if problem := making_fault(above):
            raise _no_folder(place, os_error_text(problem)) from None
        return [Remark(f"{file_name(folder)} is not there yet, and will be made", False)]
    except OSError as error:
        raise _no_folder(place, os_error_text(error)) from None
    if not stat.S_ISDIR(found.st_mode):
        raise _no_folder(place, f"it is {kind_of_file(found.st_mode)}, and no folder")
    if problem := making_fault(os.path.join(folder, "file")):
        raise _no_folder(place, os_error_text(problem))
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        text = f"others may write to {file_name(folder)}, and so delete what is captured"
        return [Remark(f"{text}: chmod 700", True)]
    return []


def _no_folder(folder: str, problem: str) -> FileError:
    return FileError(f"capture: {file_name(folder)}: {problem}")


class _Item(NamedTuple):
    """Work for the thread."""

    files: CaptureFile
    event: FlowEvent | None
    """None for the end of the capture."""


@attrs.define(eq=False)
class Figures:
    """What became of captured bytes; each is written by one thread only."""

    written: int = 0
    """Payload bytes in files."""
    unwritten: int = 0
    """Payload bytes that the disk did not take."""
    dropped: int = 0
    """Payload bytes that found the queue full."""
    files: int = 0
    """Files that were begun."""

    @property
    def lost(self) -> int:
        """Payload bytes that are in no file."""
        return self.unwritten + self.dropped


@attrs.frozen
class CaptureTotals:
    """All captures of a program so far, for metrics.

    :param running: how many run now.
    :param begun: how often each trigger of the configuration began one.
    :param skipped: how often each did not.
    """

    running: int
    written: int
    lost: int
    files: int
    begun: Mapping[str, int]
    skipped: Mapping[str, int]


@attrs.define(eq=False)
class _Flow:
    """What the thread knows of a connection, as seen from the loop."""

    began: Began
    up: int
    down: int
    is_known: bool
    """Whether its beginning is in the queue, or has been."""


class CaptureFile:
    """The files of one capture, of which one is open at a time; made by
    :meth:`CaptureFiles.capture`.

    :meth:`put` and :meth:`close` are called in the reactor's thread, all else in the writer's.
    """

    def __init__(self, folder: CaptureFiles, make_encoder: Callable[[], CaptureEncoder]) -> None:
        self._folder = folder
        self._make_encoder = make_encoder
        self._encoder = make_encoder()
        self.figures = Figures()
        self.state: State = "waiting"
        self.name = ""
        """The file that is, or was last, written; empty if none was."""
        self.problem = ""
        """Why the last write failed; empty if it has not."""
        self._flows: dict[int, _Flow] = {}
        self._is_closed = False
        self._fd = -1
        self._at = 0.0  # the latest event's time
        self._size = 0
        self._open_name = ""
        self._error = OSError(errno.EIO, "")
        self._retry_at = float("-inf")

    # -- in the reactor's thread

    def put(self, event: FlowEvent) -> bool:
        """Queue an event, without ever waiting for a disk.

        One that is dropped leaves a gap: what follows has a higher offset. A connection whose
        beginning is dropped begins with what comes next.

        :returns: False if it was dropped.
        """
        if self._is_closed:
            return False
        if isinstance(event, Began):
            flow = _Flow(event, event.up, event.down, False)
            self._flows[event.connection] = flow
            flow.is_known = self._queue(event)
            return flow.is_known
        known = self._flows.get(event.connection)
        if known is None:
            return False
        if isinstance(event, Data):
            return self._put_data(known, event)
        if isinstance(event, Ended):
            del self._flows[event.connection]
        # These always find room, else what the encoder knows of connections would grow: there are
        # three at most for each beginning, which has to find room.
        return known.is_known and self._queue(event, 0)

    def _put_data(self, flow: _Flow, event: Data) -> bool:
        if not flow.is_known:
            flow.began = attrs.evolve(flow.began, at=event.at, up=flow.up, down=flow.down)
            flow.is_known = self._queue(flow.began)
        after = event.offset + len(event.data)
        if event.direction == "up":
            flow.up = after
        else:
            flow.down = after
        if flow.is_known and self._queue(event):
            return True
        self.figures.dropped += len(event.data)
        self._folder.figures.dropped += len(event.data)
        return False

    def _queue(self, event: FlowEvent, size: int | None = None) -> bool:
        if size is None:
            size = EVENT_BYTES + (len(event.data) if isinstance(event, Data) else 0)
        return self._folder.queue.put(_Item(self, event), size)

    def close(self) -> None:
        """Write nothing after what is queued; harmless the second time."""
        if not self._is_closed:
            self._is_closed = True
            self._flows.clear()
            self._folder.queue.put(_Item(self, None), 0)

    # -- in the writer's thread

    def handle(self, event: FlowEvent | None) -> None:
        """Write an event, or close the file."""
        if event is None:
            self._close()
            self.state = "done"
            return
        size = len(event.data) if isinstance(event, Data) else 0
        try:
            self._write(event, size + EVENT_BYTES)
        except OSError as error:
            self._failed(error)
            self.figures.unwritten += size
            self._folder.figures.unwritten += size
        else:
            self.figures.written += size
            self._folder.figures.written += size

    def _write(self, event: FlowEvent, about_bytes: int) -> None:
        """Write an event.

        :param about_bytes: how much it will be, as that is known only once it is encoded for the
            file that is open then.
        :raises OSError: it is not written, or no file can be made.
        """
        if self._fd >= 0 and (
            self._size >= self._folder.rotate_size
            or not os.fstat(self._fd).st_nlink  # somebody has deleted it: nobody could read it
            or not self._folder.has_room(about_bytes)
        ):
            self._close()
        # A side may have ended before its connection was seen, and the file does not begin then.
        self._at = max(event.at, self._at) if isinstance(event, SideEnded) else event.at
        try:
            if self._fd < 0:
                self._open(self._at, about_bytes)
        except OSError:
            self._encoder.encode(event)  # it has to know which connections are under way
            raise
        self._append(self._encoder.encode(event))

    def _open(self, at: float, about_bytes: int) -> None:
        """Begin a file, in which the connections of now go on.

        :param at: wall-clock seconds.
        :raises OSError: it cannot be made, or its head cannot be written; then there is none.
        """
        if self._folder.seconds() < self._retry_at:
            raise OSError(self._error.errno, self._error.strerror)
        encoder = self._make_encoder()
        under_way = self._encoder.under_way(at)
        head = encoder.start() + b"".join(map(encoder.encode, under_way))
        self._fd, self._open_name = self._folder.make(len(head) + about_bytes)
        self._size = 0
        try:
            self._append(head)
        except OSError:
            self._close()
            self._folder.remove(self._open_name)
            raise
        self._encoder = encoder
        self.name = self._open_name
        self.state = "writing"
        self.figures.files += 1
        self._folder.figures.files += 1
        if self.problem:
            self.problem = ""
            self._folder.is_written_again()

    def _append(self, blocks: bytes) -> None:
        """Write whole blocks, or nothing: at any time, all of a file can be read.

        :raises OSError: nothing was written.
        """
        rest = memoryview(blocks)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            # A part of a block would be an error to whoever reads the file.
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(blocks)
        self._folder.grown(len(blocks))

    def _failed(self, error: OSError) -> None:
        """Go on in another file, later: blocks of this one may refer to what is not in it."""
        self._close()
        now = self._folder.seconds()
        if now < self._retry_at:
            return
        self._retry_at = now + RETRY_SECONDS
        self._error = error
        self.state = "failing"
        if not self.problem:
            self._folder.is_failing(error)
        self.problem = os_error_text(error)

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                os.close(fd)
            except OSError:  # of NFS, which reports here what it could not write
                pass
            self._folder.closed(self._open_name)


class CaptureFiles:
    """The folder of the capture files, and the thread that writes them.

    :param config: the folder and its limits.
    :param seconds: gives monotonic seconds.
    """

    _log = Logger()

    def __init__(
        self, config: CaptureConfig, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self.place = config.folder or default_folder()
        """The folder, as it is configured."""
        self.path = _expanded(self.place)
        self.rotate_size = config.rotate_size
        self.seconds = seconds
        self.figures = Figures()
        """Those of all captures."""
        self.queue: BackgroundQueue[_Item] = BackgroundQueue(self._handle, QUEUED_BYTES)
        self.present = 0
        """How many files of ours there were in the folder when it was last looked at."""
        self._config = config
        self._number = 0
        self._total = 0
        self._written_now: set[str] = set()
        self._is_failing = False
        self._busy_since: float | None = None

    def apply_config(self, config: CaptureConfig) -> None:
        """Have other limits; they hold from the next file, or from the next bytes, on."""
        self._config = attrs.evolve(config, folder=self._config.folder)
        self.rotate_size = config.rotate_size

    def open(self) -> None:
        """Make the folder if it is missing, and look whether files can be made in it.

        :raises FileError: it is no folder, cannot be made, or cannot be written to.
        """
        check_folder(self._config)
        try:
            self._make_folder()
            self.present = sum(_OURS.fullmatch(name) is not None for name in os.listdir(self.path))
        except OSError as error:
            text = os_error_text(explained(error, self.path))
            raise _no_folder(self.place, text) from None

    def _make_folder(self) -> None:
        if os.path.isdir(self.path):
            return
        if self._config.folder is None:
            os.makedirs(os.path.dirname(self.path), FOLDER_MODE, exist_ok=True)
        try:
            os.mkdir(self.path, FOLDER_MODE)
        except FileExistsError:  # another monconn has made it, or it is no folder, which open says
            pass

    def capture(self, make_encoder: Callable[[], CaptureEncoder] = PcapngEncoder) -> CaptureFile:
        """The files of one more capture; none is made before the first event.

        :param make_encoder: makes the encoder of each file; called in the writer's thread.
        """
        return CaptureFile(self, make_encoder)

    def stop(self, wait_seconds: float = FLUSH_SECONDS) -> bool:
        """Write what is queued, and nothing more; returns whether that was done in time."""
        if self.queue.stop(wait_seconds):
            return True
        self._log.error("capture: the last bytes could not be written in time")
        return False

    @property
    def stuck_seconds(self) -> float:
        """For how long the disk has not answered; 0 if it does."""
        since = self._busy_since
        return 0.0 if since is None else max(0.0, self.seconds() - since)

    # -- in the thread

    def _handle(self, item: _Item, dropped: int) -> None:
        self._busy_since = self.seconds()
        try:
            item.files.handle(item.event)
        finally:
            self._busy_since = None

    def make(self, about_bytes: int) -> tuple[int, str]:
        """Make a file, after the oldest ones were deleted if there are too many.

        :param about_bytes: for which there has to be room, too.
        :returns: its descriptor and its name.
        :raises OSError: it cannot be made, or there is no room and nothing more to delete.
        """
        self._make_folder()
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not self._delete_oldest(folder, 1, about_bytes):
                text = "the files that are being written are as many as keep or max_total allows"
                raise OSError(errno.EDQUOT, text)
            for _ in range(_NAME_TRIES):
                self._number += 1
                at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
                name = f"monconn-{at}-{self._number:06}.pcapng"
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                try:
                    fd = os.open(name, flags | os.O_APPEND, FILE_MODE, dir_fd=folder)
                except FileExistsError:
                    continue
                # So that another monconn with this folder does not delete what is written now.
                _try_lock(fd)
                self._written_now.add(name)
                return fd, name
            raise OSError(errno.EEXIST, "other programs make files of all the names of ours")
        finally:
            os.close(folder)

    def has_room(self, about_bytes: int) -> bool:
        """Whether so many bytes fit below ``max_total``, perhaps after old files were deleted."""
        if self._total + about_bytes <= self._config.max_total:
            return True
        try:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # it is gone: to make the next file makes it anew
            return False
        try:
            return self._delete_oldest(folder, 0, about_bytes)
        finally:
            os.close(folder)

    def _delete_oldest(self, folder: int, more_files: int, more_bytes: int) -> bool:
        """Delete our oldest files until so many more have room.

        :returns: whether they have.
        """
        found = _our_files(folder)
        self._number = max([self._number, *(number for number, _, _ in found)])
        count = len(found) + more_files
        self.present = count
        self._total = sum(size for _, _, size in found)
        for _, name, size in found:
            is_enough = self._total + more_bytes <= self._config.max_total
            if is_enough and count <= self._config.keep:
                return True
            if name in self._written_now or _is_locked(folder, name):
                continue
            try:
                os.unlink(name, dir_fd=folder)
            except OSError:
                continue
            self.present = count = count - 1
            self._total -= size
        return count <= self._config.keep and self._total + more_bytes <= self._config.max_total

    def grown(self, count: int) -> None:
        """Count bytes that were added to a file."""
        self._total += count

    def remove(self, name: str) -> None:
        """Remove a file that was made and could not be begun."""
        try:
            os.unlink(os.path.join(self.path, name))
        except OSError:
            pass

    def closed(self, name: str) -> None:
        """A file is not written any more: it may be deleted when its time comes."""
        self._written_now.discard(name)

    def is_failing(self, error: OSError) -> None:
        """Say, once for all captures, that nothing can be written."""
        if not self._is_failing:
            self._is_failing = True
            self._log.error(
                "capture: cannot write to {folder}: {reason}; bytes of captures are lost until that"
                " is over",
                folder=self.place,
                reason=os_error_text(error),
            )

    def is_written_again(self) -> None:
        """Say that files are written again."""
        if self._is_failing:
            self._is_failing = False
            self._log.info("capture: writing to {folder} again", folder=self.place)


def _our_files(folder: int) -> list[tuple[int, str, int]]:
    """The number, name and size of each regular file that has a name of ours, oldest first."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            matched = _OURS.fullmatch(entry.name)
            if matched is None:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # it is gone
                continue
            if stat.S_ISREG(status.st_mode):
                found.append((int(matched[2]), entry.name, status.st_size))
    return sorted(found)


def _try_lock(fd: int) -> bool:
    """Lock a file; returns False if another program has locked it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without such locks
        pass
    return True


def _is_locked(folder: int, name: str) -> bool:
    """Whether another monconn writes a file now."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=folder)
    except OSError:
        return False
    try:
        return not _try_lock(fd)
    finally:
        os.close(fd)
