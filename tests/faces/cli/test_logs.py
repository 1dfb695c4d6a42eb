"""The lines of the log, and output that cannot be written."""

from __future__ import annotations

import io
import os
import pty
import re
import threading
from collections.abc import Iterator

import pytest
from twisted.logger import LogEvent, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure

from monconn.faces.cli.logs import QUEUED_CHARACTERS, Output, TextLog

HANG_SECONDS = 30.0
FULL = "x" * QUEUED_CHARACTERS


class Recorded:
    """What a log has written."""

    def __init__(self, **kwargs: bool) -> None:
        self.texts: list[str] = []
        self.log = TextLog(self.texts.append, **kwargs)

    def lines(self) -> list[str]:
        assert self.log.stop(HANG_SECONDS)
        return "".join(self.texts).splitlines()


def event(text: str, level: object = LogLevel.info, namespace: str = "monconn.x") -> LogEvent:
    return {
        "log_format": "{text}",
        "text": text,
        "log_level": level,
        "log_namespace": namespace,
        "log_time": 0.0,
    }


def test_a_line_has_date_and_time() -> None:
    recorded = Recorded()
    recorded.log(event("hello"))
    (line,) = recorded.lines()
    assert re.fullmatch(r"(1969|1970)-\d\d-\d\d \d\d:\d\d:\d\d hello", line)


def test_a_level_other_than_info_is_named() -> None:
    recorded = Recorded()
    recorded.log(event("hello", LogLevel.warn))
    assert recorded.lines()[0].endswith(":00 warn: hello")


def test_on_a_terminal_it_is_short_and_coloured() -> None:
    recorded = Recorded(is_terminal=True)
    recorded.log(event("hello"))
    recorded.log(event("hello", LogLevel.error))
    plain, coloured = recorded.lines()
    assert re.fullmatch(r"\x1b\[2m\d\d:\d\d:\d\d\x1b\[0m hello", plain)
    assert coloured.endswith(" \x1b[31merror: hello\x1b[0m")


@pytest.mark.parametrize(
    ("namespace", "level", "debug", "is_logged"),
    [
        ("monconn.x", LogLevel.info, False, True),
        ("monconn.x", LogLevel.debug, False, False),
        ("monconn.x", LogLevel.debug, True, True),
        ("twisted.x", LogLevel.info, False, False),
        ("twisted.x", LogLevel.info, True, True),
        ("twisted.x", LogLevel.warn, False, True),
    ],
)
def test_other_modules_are_logged_from_warnings_on(
    namespace: str, level: object, debug: bool, is_logged: bool
) -> None:
    recorded = Recorded(debug=debug)
    recorded.log(event("hello", level, namespace))
    assert bool(recorded.lines()) == is_logged


def test_a_failure_is_logged_with_its_traceback() -> None:
    recorded = Recorded()
    try:
        raise ValueError("oh no")
    except ValueError:
        logger = Logger("monconn.x", observer=LogPublisher(recorded.log))
        logger.failure("it failed", Failure())
    lines = recorded.lines()
    assert lines[0].endswith(" critical: it failed")
    assert lines[1].startswith("  Traceback")
    assert lines[-1].endswith("ValueError: oh no")


def test_what_other_modules_log_is_escaped_too_and_forges_no_line() -> None:
    recorded = Recorded()
    forged = "\x1b[2J\n2026-01-01 00:00:00 all is well\u202e"
    recorded.log(event(forged, LogLevel.warn, "twisted.x"))
    try:
        raise ValueError(forged)
    except ValueError:
        Logger("other", observer=LogPublisher(recorded.log)).failure("failed", Failure())
    warning, *traceback = recorded.lines()
    assert warning.endswith(r"warn: \x1b[2J\n2026-01-01 00:00:00 all is well\u202e")
    assert traceback[-1] == r"  2026-01-01 00:00:00 all is well\u202e"
    assert all(line.isprintable() for line in traceback)


def test_lines_that_come_too_fast_are_dropped_and_counted() -> None:
    begun, may_go_on, written = threading.Event(), threading.Event(), threading.Event()
    texts: list[str] = []

    def slow(text: str) -> None:
        begun.set()
        assert may_go_on.wait(HANG_SECONDS)
        texts.append(text)
        if text == FULL:
            written.set()

    log = TextLog(slow)
    log.write("first\n")
    assert begun.wait(HANG_SECONDS)
    for text in FULL, "lost\n", "lost too\n":
        log.write(text)
    may_go_on.set()
    assert written.wait(HANG_SECONDS)
    log.write("last\n")
    assert log.stop(HANG_SECONDS)
    gap = "... 2 lines dropped: more than could be written\n"
    assert texts == ["first\n", FULL, gap, "last\n"]


class Pipe:
    """A pipe with a text stream on the end that is written to."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.read_end, write_end = os.pipe()
        self.stream = io.TextIOWrapper(os.fdopen(write_end, "wb"), encoding=encoding)

    def close_read_end(self) -> None:
        os.close(self.read_end)
        self.read_end = -1

    def close(self) -> None:
        self.stream.close()
        if self.read_end >= 0:
            self.close_read_end()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def read_all(descriptor: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += os.read(descriptor, 65536)
    return data


def test_output_waits_until_all_is_written(pipe: Pipe) -> None:
    text = "0123456789\n" * 50_000  # more than a pipe holds
    writer = threading.Thread(target=Output(pipe.stream).write, args=(text,))
    writer.start()
    assert read_all(pipe.read_end, len(text)) == text.encode()
    writer.join(HANG_SECONDS)


def test_output_escapes_what_its_encoding_lacks() -> None:
    pipe = Pipe("ascii")
    Output(pipe.stream).write("a → b\n")
    assert os.read(pipe.read_end, 100) == b"a \\u2192 b\n"
    pipe.close()


def test_output_outlives_its_reader(pipe: Pipe) -> None:
    output = Output(pipe.stream)
    pipe.close_read_end()
    output.write("hello\n")
    output.write("hello\n")


def test_output_may_be_missing() -> None:
    output = Output(None)
    output.write("hello\n")
    assert not output.is_terminal


def test_output_knows_a_terminal(pipe: Pipe) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream:
        assert Output(stream).is_terminal
    os.close(master)
    assert not Output(pipe.stream).is_terminal
