"""The meaning of a cell as a colour, for terminals that have colours.

Nothing is said by colour alone: the cell's text says it all.
"""

from __future__ import annotations

from typing import Literal

from monconn.model.alarms import ALARM_KINDS

Colour = Literal["", "red", "yellow", "cyan", "magenta"]

_REASONS = ("reason", "last_reason", "refusal", "what")
_ALARMS = ("alarm", "alarms")
_IN_GOOD_ORDER = ("client_closed", "backend_closed", "-", "")
_NO_REASONS = ("started", "stopped", "clock")
_BROKEN = ("_reset", "_lost", "_refused", "_unreachable", "error", "lost")
_STATES: dict[str, Colour] = {
    "connecting": "yellow",
    "half_closed": "cyan",
    "closing": "magenta",
}


def colour_of(name: str, text: str) -> Colour:
    """The colour of a value; empty for none.

    States other than open have one each. A reason is red if something broke off, yellow if it is a
    limit or the operator's decision, and has none after an end in good order. Alarms are red while
    they last.

    :param name: of the field.
    :param text: the value, as in a table.
    """
    if name == "state":
        return "red" if "unreachable" in text else _STATES.get(text, "")
    if text.endswith(" is over"):
        return ""
    if name in _ALARMS:
        return "red" if text not in ("-", "") else ""
    if name not in _REASONS or text in _IN_GOOD_ORDER or text.startswith(_NO_REASONS):
        return ""
    is_failure = text.endswith(_BROKEN) or text in ALARM_KINDS or text.startswith("lost ")
    return "red" if is_failure else "yellow"
