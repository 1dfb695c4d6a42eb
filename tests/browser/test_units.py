"""The page's units are those of the command line."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from monconn.errors import printable
from monconn.units import format_bytes, format_duration, format_rate

from .looking import Page

_SECONDS = (
    *(0, 0.000004, 0.000006, 0.00021, 0.0021, 0.00996, 0.0125, 0.038, 0.9994, 0.9996, 1.25, 9.994),
    *(
        9.996,
        12.34,
        60.5,
        62.5,
        59.94,
        59.96,
        60,
        245,
        3599.4,
        3599.7,
        7380,
        86399,
        86400,
        277200,
        1e7,
        -5,
    ),
)
_BYTES = (0, 1, 1023, 1024, 1075, 1076, 1229, 1048524, 1048525, 1 << 20, 35651584, 10**12, 1 << 62)
_RATES = (0.4, 1, 1500.9, 12390, 5e8)
_TEXTS = ("plain äöü", "a\x1b[31m", "\u202egpj", "\ud83d\ude00", "a\nb\tc\\", "\xa0\u200b\u2028")


def test_units_are_those_of_the_command_line(page: Page) -> None:
    found = page.evaluate(
        """async ([seconds, bytes, rates, texts]) => {
          const units = await import("/page/units.js");
          const dom = await import("/page/dom.js");
          return [
            seconds.map(units.formatDuration),
            bytes.map(units.formatBytes),
            rates.map(units.formatRate),
            texts.map(dom.printable),
          ];
        }""",
        [_SECONDS, _BYTES, _RATES, _TEXTS],
    )
    assert found[0] == [format_duration(each) for each in _SECONDS]
    assert found[1] == [format_bytes(each) for each in _BYTES]
    assert found[2] == [format_rate(each) for each in _RATES]
    # A pair of surrogates is one character to a browser, as it is in the JSON that it gets.
    texts = [each.encode("utf-16", "surrogatepass").decode("utf-16") for each in _TEXTS]
    assert found[3] == [printable(each) for each in texts]


def test_times_are_those_of_the_browser(page: Page) -> None:
    now = datetime.now(timezone.utc)
    today, before = page.evaluate(
        """async (times) => {
          const units = await import("/page/units.js");
          return times.map((time) => units.formatTime(time));
        }""",
        [now.isoformat(), (now - timedelta(days=3)).isoformat()],
    )
    assert today == now.astimezone().strftime("%H:%M:%S")
    assert before == (now - timedelta(days=3)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
