"""monconn with an observer that looks at all payload and prints nothing: ``watched.py PAIR``."""

import sys

from monconn.config.config import from_pairs
from monconn.faces.cli.run import run
from monconn.monitor.interfaces import Observer


class Watcher(Observer):
    """ByteSink all payload, as a tap or a recorder does; the sum proves that it came by."""

    watches_payload = True

    def __init__(self) -> None:
        self.seen_bytes = 0

    def data(self, record, direction, data) -> None:
        self.seen_bytes += len(data)


watcher = Watcher()


def add_watcher(app, reactor, log) -> None:
    for monitor in app.registry:
        monitor.add_observer(watcher)


status = run(from_pairs(sys.argv[1:]), prepare=add_watcher)
print(f"watched {watcher.seen_bytes} bytes")
sys.exit(status)
