"""Connections without sockets whose payload can be watched and recorded."""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import implementer

from monconn.model.flow import FlowEvent
from monconn.model.reasons import Direction
from monconn.monitor.interfaces import IAddressed, IConnection, IRecordable, IWatchable
from monconn.monitor.monitor import Monitor
from monconn.monitor.recorder import Recording
from monconn.monitor.watchers import Watch, Watchers
from monconn.ops.taps import Tap

from .world import FakeConnection


@implementer(IConnection, IWatchable, IRecordable, IAddressed)
class WatchableConnection(FakeConnection):
    """A connection that says what a relay would: bytes, half a close, and the end."""

    def __init__(self, monitor: Monitor, ip: str = "192.0.2.1") -> None:
        record = monitor.admit(f"{ip}:4711", ip)
        assert record is not None
        record.state = "open"
        super().__init__(monitor, record)
        self._watched = monitor
        self.watchers = Watchers()
        self._recording: Recording | None = None

    def open(self) -> WatchableConnection:
        """Be live from now on."""
        self._watched.opened(self)
        return self

    def add_watcher(self, call: Watch) -> Callable[[], None]:
        return self.watchers.add(call)

    def record_payload(self, recording: Recording) -> None:
        self._recording = recording

    def ask_addresses(self) -> None:
        self.record.client_local = "192.0.2.99:1883"

    @property
    def is_watched(self) -> bool:
        """Whether its bytes would be copied through Python."""
        return len(self.watchers) > 0

    def data(self, direction: Direction, data: bytes) -> None:
        """Bytes were read."""
        now = self._watched.clock.seconds()
        self.record.count(direction, len(data), now)
        if self._recording is not None:
            (self._recording.up if direction == "up" else self._recording.down).add(data, now)
        self.watchers.show(direction, data)

    def tell(self, data: bytes, **facts: str) -> None:
        """Bytes of the client that tell something of it, as a decoder would find out."""

        def decode(direction: Direction, data: bytes) -> None:
            cancel()
            for name, value in facts.items():
                self.record.set_fact(name, value)
            self._watched.identified(self.record)

        cancel = self.watchers.add(decode)
        self.data("up", data)


def taken(tap: Tap) -> list[FlowEvent]:
    """All events that there are."""
    events = []
    while (event := tap.take()) is not None:
        events.append(event)
    return events
