"""What modules log is escaped at the source: under twistd, nobody else would do it."""

from __future__ import annotations

import io
import re

from twisted.logger import LogEvent, capturedLogs, formatEvent, textFileLogObserver
from twisted.python.failure import Failure

from monconn.log import Logger
from tests import ROOT

HOSTILE = "\x1b]0;owned\x07\n2026-01-01T00:00:00+0000 [-] forged \u202e\x9b\udcff"


class Source:
    log = Logger()


def shown_by_twistd(event: LogEvent) -> str:
    out = io.StringIO()
    textFileLogObserver(out)(event)
    return out.getvalue()


def test_texts_among_the_values_are_printable() -> None:
    with capturedLogs() as events:
        Source.log.info("{path}: {count}", path=HOSTILE, count=3)
        Source().log.warn("é {name}", name="日本")
        Source().log.warn("{error}", error=ValueError(HOSTILE))
    assert all(formatEvent(each).isprintable() for each in events)
    assert formatEvent(events[0]).endswith(r"forged \u202e\x9b\udcff: 3")
    assert formatEvent(events[1]) == "é 日本"
    assert [each["log_namespace"] for each in events] == ["tests.test_log.Source"] * 3
    line = shown_by_twistd(events[0])
    assert line.count("\n") == 1
    assert line.rstrip("\n").isprintable()


def test_a_traceback_has_no_control_characters_either(logged_failures: list[Failure]) -> None:
    with capturedLogs() as events:
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            Source.log.failure("{client} failed", client=HOSTILE)
    [event] = events
    text = shown_by_twistd(event)
    assert "Traceback" in text
    assert "test_log.py" in text
    assert all(line.lstrip("\t").isprintable() for line in text.split("\n"))
    assert not re.search(r"^2026-01-01", text, re.MULTILINE)
    assert event["log_failure"].check(ValueError)
    logged_failures.clear()


def test_every_module_logs_by_it() -> None:
    others = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "monconn").rglob("*.py")
        if re.search(r"twisted\.logger import .*\bLogger\b", path.read_text())
    ]
    assert others == []
