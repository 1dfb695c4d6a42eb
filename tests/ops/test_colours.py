"""What the colour of a value says."""

from __future__ import annotations

from typing import get_args

import pytest

from monconn.model.reasons import REASONS, REFUSALS
from monconn.ops.colours import Colour, colour_of

IN_GOOD_ORDER = {"client_closed", "backend_closed"}
FAILED = {
    *("client_reset", "client_lost", "backend_reset", "backend_lost", "backend_refused"),
    *("backend_unreachable", "error"),
}


def test_reasons_have_the_colour_of_their_meaning() -> None:
    for reason in REASONS:
        expected = "" if reason in IN_GOOD_ORDER else "red" if reason in FAILED else "yellow"
        assert colour_of("reason", reason) == colour_of("last_reason", reason) == expected
    for refusal in REFUSALS:
        assert colour_of("refusal", refusal) == "yellow"


@pytest.mark.parametrize(
    ("name", "text", "colour"),
    [
        ("state", "open", ""),
        ("state", "half_closed", "cyan"),
        ("state", "client unreachable for 12.3s", "red"),
        ("alarms", "silent, reconnect_storm", "red"),
        ("alarms", "-", ""),
        ("what", "silent", "red"),
        ("what", "silent is over", ""),
        ("what", "lost 5", "red"),
        ("what", "started", ""),
        ("what", "block", "yellow"),
        ("client", "error", ""),  # a name says nothing
        ("detail", "client_reset", ""),
    ],
)
def test_other_values(name: str, text: str, colour: str) -> None:
    assert colour_of(name, text) == colour
    assert colour in get_args(Colour)
