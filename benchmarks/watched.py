"""monconn with an observer that reads all payload and prints nothing: ``watched.py PAIR``."""

import sys

from monconn.config.config import from_pairs
from monconn.faces.cli.run import run
from monconn.model.reasons import Direction
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.run.application import Application


class Watcher(Observer):
    """Reads all payload, as a tap or a recorder does; the sum proves that it was seen."""

    watches_payload = True

    def __init__(self) -> None:
        self.seen_bytes = 0

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        self.seen_bytes += len(data)


watcher = Watcher()


def add_watcher(app: Application, reactor: object, log: object) -> None:
    for monitor in app.registry:
        monitor.add_observer(watcher)


status = run(from_pairs(sys.argv[1:]), prepare=add_watcher)
print(f"watched {watcher.seen_bytes} bytes")
sys.exit(status)
