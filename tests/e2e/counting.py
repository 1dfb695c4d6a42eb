"""Runs the ``monconn`` command, and counts the calls of its own functions.

At each SIGUSR1 it prints to standard error what was called up to then. Only the main thread
is counted, which moves the bytes; what the one that writes the log does depends on scheduling.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import CodeType
from typing import Any

import monconn
from monconn.faces.cli.main import main

_OURS = str(Path(monconn.__file__).parent) + os.sep
_calls: dict[CodeType, int] = {}
_reports = 0


def _count(frame: Any, event: str, arg: object) -> None:
    if event == "call":
        _calls[frame.f_code] = _calls.get(frame.f_code, 0) + 1


def _report(number: int, frame: object) -> None:
    global _reports
    _reports += 1
    ours: dict[str, int] = {}
    # A copy: our own calls are counted as well. Never emptied: we may have interrupted _count.
    for code, count in _calls.copy().items():
        if code.co_filename.startswith(_OURS):
            module = Path(code.co_filename[len(_OURS) :]).with_suffix("").as_posix()
            name = f"{module}:{code.co_name}"
            ours[name] = ours.get(name, 0) + count
    os.write(2, f"report {_reports}: {json.dumps(ours)}\n".encode())


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _report)
    sys.setprofile(_count)
    main()
