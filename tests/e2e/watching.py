"""Runs the ``monconn`` command, with a watcher on the first connection.

It says on standard error how much it has seen.
"""

from __future__ import annotations

import sys

from monconn.faces.cli.main import main
from monconn.model.reasons import Direction
from monconn.monitor.monitor import Monitor
from monconn.relay.relay import Relay

_opened = Monitor.opened


def _say(direction: Direction, data: bytes) -> None:
    print(f"{len(data)} bytes were watched", file=sys.stderr, flush=True)


def _watch_first(monitor: Monitor, connection: Relay) -> None:
    _opened(monitor, connection)
    if connection.record.id == 1:
        connection.add_watcher(_say)


if __name__ == "__main__":
    Monitor.opened = _watch_first  # type: ignore[assignment, method-assign]
    main()
