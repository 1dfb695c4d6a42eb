"""Texts of errors, and texts that are safe to print."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monconn.errors import (
    ConfigError,
    FileError,
    MonconnError,
    Problem,
    UnknownService,
    os_error_text,
    printable,
    printable_lines,
    quoted,
)

ANY_CHARACTER = st.characters(exclude_categories=())


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


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (None, ""),
        (7, "7"),
        ("plain é 日本 \U0001f600 e\u0301", "plain é 日本 \U0001f600 e\u0301"),
        ("\x1b[2J\x00\x7f\x9b31m", r"\x1b[2J\x00\x7f\x9b31m"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("a\u2028b\u2029\x85", r"a\u2028b\u2029\x85"),  # line ends of Unicode's
        ("\u202eevil\u202c\u2066\u2069\u200e\u200f\u061c", None),  # direction
        ("pay\u200bpal\ufeff\u00ad", r"pay\u200bpal\ufeff\xad"),  # no width
        ("\udcff", r"\udcff"),  # a byte of a path that is no UTF-8
        ("\ue000\U000e0041", r"\ue000\U000e0041"),  # private, tags
        ("a\u00a0b", r"a\xa0b"),  # a space that is none
    ],
)
def test_printable(raw: object, shown: str | None) -> None:
    text = printable(raw)
    assert text.isprintable()
    assert shown in (None, text)


@given(st.text(ANY_CHARACTER))
def test_what_is_printable_once_stays_so_and_can_be_encoded(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert quoted(text).isprintable()
    assert all(map(str.isprintable, printable_lines(text).split("\n")))


def test_an_error_as_text_is_one_line_without_control_characters() -> None:
    path = "/tmp/\x1b[31m\nmonconn: all is well"
    shown = r"/tmp/\x1b[31m\nmonconn: all is well: gone"
    assert str(FileError(f"{path}: gone")) == shown
    assert str(UnknownService("there is no a")) == "there is no a"
    assert str(MonconnError()) == ""
    problems = [Problem(path, 3, "services.\x07", "wrong"), Problem("b", None, "", "\u202e")]
    lines = str(ConfigError(problems)).split("\n")
    assert lines[0].endswith(r"well:3: services.\x07: wrong")
    assert len(lines) == 2
    assert all(map(str.isprintable, lines))
    assert os_error_text(ValueError("a\x1bb")) == r"a\x1bb"
