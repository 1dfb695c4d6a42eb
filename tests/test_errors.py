"""Texts of errors, and texts that are safe to print."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3

import pytest

from monconn.errors import os_error_text


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
