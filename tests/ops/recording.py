"""Connections without sockets whose payload is recorded."""

from __future__ import annotations

from zope.interface import implementer

from monconn.model.reasons import Direction
from monconn.monitor.interfaces import IConnection, IRecordable
from monconn.monitor.monitor import Monitor
from monconn.monitor.recorder import Recording

from .world import FakeConnection


@implementer(IConnection, IRecordable)
class RecordedConnection(FakeConnection):
    """A connection that is live from now on."""

    def __init__(self, monitor: Monitor, ip: str = "192.0.2.1") -> None:
        record = monitor.admit(f"{ip}:4711", ip)
        assert record is not None
        record.state = "open"
        super().__init__(monitor, record)
        self._recorded = monitor
        self._recording: Recording | None = None
        monitor.opened(self)

    def record_payload(self, recording: Recording) -> None:
        self._recording = recording

    def data(self, direction: Direction, data: bytes) -> None:
        """Bytes were read."""
        now = self._recorded.clock.seconds()
        self.record.count(direction, len(data), now)
        if self._recording is not None:
            (self._recording.up if direction == "up" else self._recording.down).add(data, now)
