"""Texts of errors, and texts that are safe to print."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3

import pytest

from monconn.errors import ConfigError, Problem, os_error_text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT), "/x"), "no such file or directory"),
        (OSError("Timed out"), "timed out"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
        (sqlite3.OperationalError("Disk is full"), "disk is full"),
        (TimeoutError(), "timeouterror"),
    ],
)
def test_os_error_text(error: Exception, text: str) -> None:
    assert os_error_text(error) == text


def test_of_very_many_problems_the_first_are_shown() -> None:
    problems = [Problem("f", line, "", "is wrong") for line in range(1, 1001)]
    error = ConfigError(problems)
    assert len(error.problems) == 1000
    first, *_, last, rest = str(error).splitlines()
    assert (first, last, rest) == ("f:1: is wrong", "f:100: is wrong", "and 900 more problems")
