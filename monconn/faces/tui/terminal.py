"""Whether there is a terminal that a full screen can be shown on."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TextIO

from monconn.errors import QuestionError

_INSTEAD = "monconn list and monconn events do not"


def check_terminal(environment: Mapping[str, str] = os.environ) -> None:
    """Make sure that the screen can be drawn and keys be read.

    :raises QuestionError: they cannot; the text says why, and what works instead.
    """
    # Textual draws to the standard error: in a pipe, whoever types would not see what.
    for name in ("stdin", "stdout", "stderr"):
        stream: TextIO | None = getattr(sys, f"__{name}__")
        if stream is None or stream.closed or not stream.isatty():
            raise QuestionError(f"top needs a terminal: {_INSTEAD} ({name} is not one)")
    if environment.get("TERM") == "dumb":
        raise QuestionError(
            f"top needs a terminal that can be drawn on, not a dumb one: {_INSTEAD}"
        )
