"""The resources used by the processes that a run has started, and how these are stopped."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import subprocess
import termios
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

STOP_SECONDS = 3.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def stat_fields(pid: int) -> list[str]:
    """``/proc/PID/stat`` from its third field on; the second may contain blanks and parentheses."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry)] = int(stat_fields(int(entry))[1])
    members = [pid]
    for member in members:  # grows while it is read
        members += [child for child, parent in parents.items() if parent == member]
    return members


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its children, and the children it has seen end."""
    total = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += time.clock_gettime_ns(_cpu_clock(member)) / 1e9
            user_ticks, system_ticks = stat_fields(member)[13:15]
            total += (int(user_ticks) + int(system_ticks)) / _TICKS_PER_SECOND
    return total


def _cpu_clock(pid: int) -> int:
    """The id of a process's CPU clock, as ``clock_getcpuclockid(3)`` makes it.

    It counts nanoseconds, where ``/proc/PID/stat`` has hundredths of a second.
    """
    return (~pid << 3) | 2


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and its children; shared pages count for each."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{member}/statm").read_text().split()[1]) * _PAGE_BYTES
    return total


def pipe_bytes(pid: int) -> int:
    """Bytes in the pipes of a process, which are the buffers of a forwarder that splices."""
    total = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        with contextlib.suppress(OSError):
            if os.readlink(path).startswith("pipe:"):
                total += _bytes_in_pipe(path)
    return total // 2  # each pipe has two descriptors


def _bytes_in_pipe(path: str) -> int:
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        count = array.array("i", [0])
        fcntl.ioctl(pipe, termios.FIONREAD, count)
        return count[0]
    finally:
        os.close(pipe)


def wait_until_quiet(pid: int, limit_seconds: float = 6.0) -> None:
    """Wait until a process is idle."""
    end = time.monotonic() + limit_seconds
    used = cpu_seconds(pid)
    while time.monotonic() < end:
        time.sleep(0.25)
        before, used = used, cpu_seconds(pid)
        if used - before < 0.0025:  # a hundredth of the processor
            return


@contextlib.contextmanager
def on_one_processor(pids: Iterable[int]) -> Iterator[None]:
    """Bind processes and their children to one processor for a while."""
    allowed = os.sched_getaffinity(0)
    members = [member for pid in pids for member in family(pid)]
    _bind(members, {max(allowed)})
    try:
        yield
    finally:
        _bind(members, allowed)


def _bind(pids: Iterable[int], processors: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), processors)


def stop(process: subprocess.Popen[Any]) -> None:
    """Stop a process and its children by their ids; harmless if they have ended."""
    if process.poll() is not None:
        return
    members = family(process.pid)
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        process.wait()


def busy_seconds() -> float:
    """Processor time that the whole machine has used, stolen time included."""
    ticks = [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle, waiting = ticks[3:5]
    return (sum(ticks) - idle - waiting) / _TICKS_PER_SECOND
