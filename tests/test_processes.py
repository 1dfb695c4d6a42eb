"""What the kernel tells of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from monconn.processes import Process

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux' /proc")


def test_arguments_are_as_they_were_given() -> None:
    arguments = [sys.executable, "-c", "print(); input()", "a b", "c\r\nd", ""]
    before = time.time()
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()  # it runs
        process = Process.of(child.pid)
        found, started_at = process.arguments(), process.started_at()
        child.stdin.write(b"\n")
        child.stdin.close()
    assert found == arguments
    # The kernel counts in hundredths, and /proc/uptime has them, too.
    assert started_at is not None
    assert before - 1 < started_at < time.time() + 1


def test_a_process_that_has_ended_has_nothing_to_tell() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    process = Process.of(child.pid)
    assert (process.name, process.arguments(), process.started_at()) == ("", [], None)
