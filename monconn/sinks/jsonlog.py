"""What happens to connections as lines of JSON, for programs."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import OrderedDict
from typing import Any, Literal, NamedTuple

from twisted.application.service import Service
from twisted.logger import Logger

from monconn.background import BackgroundQueue
from monconn.config.sections import JsonLogConfig
from monconn.errors import MonconnError
from monconn.model.actions import Action
from monconn.model.alarms import Alarm
from monconn.model.record import ConnectionRecord, iso_time
from monconn.monitor.interfaces import Observer
from monconn.monitor.registry import Registry
from monconn.sinks.outputs import Sink, WriteFailed, sink_for

SCHEMA = 1
"""Goes up when a key goes, or means something else; not when one is added."""
QUEUED_LINES = 10_000
BATCH_LINES = 100
BATCH_SECONDS = 0.1
"""How long a line may wait for others to be written with it."""
UPDATES_A_TURN = 50
TURN_SECONDS = 0.01
"""Between two turns of updates, for the data path to have its own."""
LOOK_SECONDS = 1.0
FLUSH_SECONDS = 1.0

Event = Literal["opened", "update", "closed", "refused", "alarm", "action", "dropped"]
_encode = json.JSONEncoder(separators=(",", ":")).encode


class _Line(NamedTuple):
    """What is to become a line; of what can change, the values as they were."""

    event: Event
    at: float
    what: ConnectionRecord | Alarm | Action | dict[str, Any]

    def encode(self) -> bytes:
        what = self.what
        if isinstance(what, ConnectionRecord):
            shown = what.snapshot(what.closed or what.opened)
        elif isinstance(what, Alarm):
            shown = what.snapshot()
        elif isinstance(what, Action):
            shown = what.to_dict()
        else:
            shown = what
        line = {"schema": SCHEMA, "event": self.event, "at": iso_time(self.at), **shown}
        return _encode(line).encode() + b"\n"


class _Batch(NamedTuple):
    lines: list[_Line]
    dropped: int
    """How many lines found no room in the queue since the batch before."""


class _Writer:
    """Makes lines and writes them; its :meth:`write` is called in a thread."""

    _log = Logger()

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._untold = 0
        self._is_failing = False
        self.lost = 0
        """How many lines the sink did not take."""

    def write(self, batch: _Batch) -> None:
        """Write a batch, after a line that tells of those that were dropped."""
        self._untold += batch.dropped
        notice = self._notice()
        lines = b"".join(line.encode() for line in batch.lines)
        rest = self._unwritten(notice + lines)
        if len(rest) <= len(lines):
            self._untold = 0
        lost = min(rest.count(b"\n"), len(batch.lines))
        self._untold += lost
        self.lost += lost

    def _notice(self) -> bytes:
        if not self._untold:
            return b""
        return _Line("dropped", time.time(), {"count": self._untold}).encode()

    def _unwritten(self, data: bytes) -> bytes:
        """Write, and give back what could not be written."""
        try:
            self._sink.write(data)
        except WriteFailed as error:
            if not self._is_failing:
                self._is_failing = True
                self._log.error(
                    "json_log: cannot write to {place}: {reason}; lines are lost",
                    place=self._sink.place,
                    reason=str(error),
                )
            return error.rest
        if self._is_failing and data:
            self._is_failing = False
            self._log.info("json_log: writing to {place} again", place=self._sink.place)
        return b""


class JsonLog(Observer):
    """Queues a line for whatever happens, for a thread to write.

    Lines that come faster than they can be written are dropped, and counted.

    :param sink: takes the lines.
    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    :param at_open: whether to write a line when a connection opens.
    """

    def __init__(self, sink: Sink, clock: Any, *, at_open: bool) -> None:
        self._clock = clock
        self._at_open = at_open
        self._writer = _Writer(sink)
        self._offload: BackgroundQueue[_Batch] = BackgroundQueue(
            lambda batch, _: self._writer.write(batch), QUEUED_LINES
        )
        # Lines go to the thread together: to wake it costs both sides more than a line does.
        self._lines: list[_Line] = []
        self._timer: Any = None
        self._dropped = 0
        self._dropped_now = 0

    @property
    def dropped(self) -> int:
        """How many lines were dropped: no room in the queue, or none on the disk."""
        return self._dropped + self._writer.lost

    def opened(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.opened`."""
        if self._at_open:
            self._add("opened", record.snapshot(self._clock.seconds()))

    def update(self, record: ConnectionRecord) -> None:
        """Write how a live connection stands."""
        self._add("update", record.snapshot(self._clock.seconds()))

    def closed(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.closed`."""
        self._add("closed", record)

    def refused(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.refused`."""
        self._add("refused", record)

    def alarmed(self, alarm: Alarm) -> None:
        """See :meth:`IObserver.alarmed`."""
        self._add("alarm", alarm)

    def acted(self, action: Action) -> None:
        """See :meth:`IActionObserver.acted`."""
        self._add("action", action)

    def _add(self, event: Event, what: ConnectionRecord | Alarm | Action | dict[str, Any]) -> None:
        self._lines.append(_Line(event, time.time(), what))
        if len(self._lines) >= BATCH_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = self._clock.callLater(BATCH_SECONDS, self.flush)

    def flush(self) -> None:
        """Hand what waits to the thread."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        lines, self._lines = self._lines, []
        if self._offload.put(_Batch(lines, self._dropped_now), len(lines) or 1):
            self._dropped_now = 0
        else:
            self._dropped += len(lines)
            self._dropped_now += len(lines)

    def stop(self, wait_seconds: float) -> bool:
        """Write what is queued; whether all of it was written in time."""
        self.flush()
        self._offload.put(_Batch([], self._dropped_now), 0)  # has room always, to tell of the rest
        return self._offload.stop(wait_seconds)


class Updates(Observer):
    """Has each live connection told of again and again, a few in each turn of the reactor.

    :param log: what to tell.
    :param registry: the monitors.
    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    :param every: seconds, from a connection's opening to its first update and so on.
    """

    def __init__(self, log: JsonLog, registry: Registry, clock: Any, every: float) -> None:
        self._log = log
        self._registry = registry
        self._clock = clock
        self._every = every
        # Those due next come first: all wait for the same time, and go to the end once told.
        self._due: OrderedDict[int, tuple[float, ConnectionRecord]] = OrderedDict()
        self._timer: Any = None

    def opened(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.opened`."""
        self._due[record.id] = (record.opened + self._every, record)

    def closed(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.closed`."""
        self._due.pop(record.id, None)

    def start(self) -> None:
        """Begin to look."""
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Look no more; harmless if it never did."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        now = self._clock.seconds()
        pause = TURN_SECONDS
        for _ in range(UPDATES_A_TURN):
            if not self._tell_next(now):
                pause = LOOK_SECONDS
                break
        self._timer = self._clock.callLater(pause, self._look)

    def _tell_next(self, now: float) -> bool:
        """Tell of the connection that is due first, if one is due."""
        if not self._due:
            return False
        id_, (due, record) = next(iter(self._due.items()))
        if due > now:
            return False
        due += self._every
        self._due[id_] = (due if due > now else now + self._every, record)
        self._due.move_to_end(id_)
        self._measure(record)
        self._log.update(record)
        return True

    def _measure(self, record: ConnectionRecord) -> None:
        try:
            self._registry.get(record.service).measure(record.id)
        except MonconnError:
            pass  # its service was deleted from the registry


class JsonLogService(Service):
    """The JSON log of a program.

    :param config: where to write, and what.
    :param registry: the monitors.
    :param reactor: whose thread a signal is passed to.
    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    :param sink: takes the lines; the one that the configuration names if left out.
    """

    _log = Logger()

    def __init__(
        self,
        config: JsonLogConfig,
        registry: Registry,
        reactor: Any,
        clock: Any,
        *,
        sink: Sink | None = None,
    ) -> None:
        self._reactor = reactor
        self._sink = sink_for(config.path, clock.seconds) if sink is None else sink
        self._lines = JsonLog(self._sink, clock, at_open=config.at_open)
        self._updates: Updates | None = None
        self._earlier_handler: Any = None
        self._has_handler = False
        registry.observe(self._lines)
        if config.every:
            self._updates = Updates(self._lines, registry, clock, config.every)
            registry.observe(self._updates)

    @property
    def dropped(self) -> int:
        """How many lines were dropped."""
        return self._lines.dropped

    def privilegedStartService(self) -> None:
        """See ``IService``: open the file.

        :raises FileError: it cannot be had.
        """
        self._sink.open()

    def startService(self) -> None:
        """See ``IService``.

        :raises FileError: the file cannot be had.
        """
        self._sink.open()
        super().startService()
        self._handle_signal()
        if self._updates is not None:
            self._updates.start()

    def stopService(self) -> None:
        """See ``IService``: write what is queued, for a second at most."""
        super().stopService()
        self._leave_signal()
        if self._updates is not None:
            self._updates.stop()
        if self._lines.stop(FLUSH_SECONDS):
            self._sink.close()
        else:
            self._log.error("json_log: the last lines could not be written in time")

    def reopen(self) -> None:
        """Open the file anew, as after it was moved away; ``SIGUSR1`` does this."""
        self._sink.reopen()
        self._lines.flush()

    # -- the signal

    def _handle_signal(self) -> None:
        if threading.current_thread() is threading.main_thread():  # others may not
            self._earlier_handler = signal.signal(signal.SIGUSR1, self._received)
            self._has_handler = True

    def _received(self, number: int, frame: Any) -> None:
        self._reactor.callFromThread(self.reopen)
        if callable(self._earlier_handler):  # twistd's, which sees to a log of its own
            self._earlier_handler(number, frame)

    def _leave_signal(self) -> None:
        if self._has_handler and signal.getsignal(signal.SIGUSR1) == self._received:
            signal.signal(signal.SIGUSR1, self._earlier_handler or signal.SIG_DFL)
        self._has_handler = False
