"""The events of connections as lines of JSON, for programs."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import attrs
import orjson
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall

from monconn.background import BackgroundQueue
from monconn.clock import Clock
from monconn.config.sections import JsonLogConfig
from monconn.errors import MonconnError
from monconn.log import Logger
from monconn.model.actions import Action
from monconn.model.alarms import Alarm
from monconn.model.reasons import Side
from monconn.model.record import ConnectionRecord, iso_time
from monconn.monitor.interfaces import Observer
from monconn.monitor.registry import Registry
from monconn.sinks import ecs
from monconn.sinks.outputs import Sink, WriteFailed, sink_for
from monconn.turns import in_turns

SCHEMA = 2
"""Raised when a key is removed or changes its meaning; not when one is added.

1: a connection whose client had vanished before its backend ended was ``backend_reset``, and so was
one whose backend had ended in order; ``closed_by`` was always the side that the reason names.
"""
QUEUED_LINES = 10_000
BATCH_LINES = 100
BATCH_SECONDS = 0.1
"""The longest that a line waits for others, to be written together with them."""
UPDATES_A_TURN = 50
"""Updates in one turn of the reactor, so that thousands due at once do not delay the data path."""
TURN_SECONDS = 0.01
"""The pause between two such turns while more updates are due."""
DROPPED_LINE_SECONDS = 60.0
"""The time between two lines that say how many lines were dropped."""
FOLLOWED = frozenset({"at_open", "at_half_close", "every", "format", "community_id"})
"""The keys of the configuration that hold at once when it is changed."""
POLL_SECONDS = 1.0
"""How often due updates are polled for."""
FLUSH_SECONDS = 1.0
"""How long a stopping program waits for its last lines to be written."""

Event = Literal[
    "opened", "update", "half_closed", "closed", "refused", "alarm", "action", "dropped"
]
_dumps, _APPEND_NEWLINE = orjson.dumps, orjson.OPT_APPEND_NEWLINE
_escape = json.JSONEncoder(separators=(",", ":"), default=str).encode


def encode(values: Mapping[str, Any]) -> bytes:
    """A line of JSON, in ASCII: no control character or bidirectional mark reaches a terminal raw.

    orjson takes a tenth of the time of the standard library's encoder, which for each connection
    would be more than all else that the log costs. But it writes UTF-8, and refuses what is
    no Unicode (half of a surrogate pair, as in the name of a UNIX socket that is no UTF-8).
    """
    try:
        line = _dumps(values, option=_APPEND_NEWLINE)
        if not line.isascii():
            line = _escape(values).encode() + b"\n"
    except TypeError:  # orjson.JSONEncodeError, by another name
        line = _escape(values).encode() + b"\n"
    return line.replace(b"\x7f", b"\\u007f")  # DEL, which JSON allows raw


class _Live(NamedTuple):
    """A live connection as it was at an event."""

    record: ConnectionRecord
    values: dict[str, Any]


class _Line(NamedTuple):
    """A line that is still to be encoded, which is left to the thread.

    Of the subject nothing matters that may still change. An integer is how many lines are missing.
    """

    event: Event
    at: float
    subject: Alarm | Action | _Live | int


@attrs.frozen
class Format:
    """How events become lines.

    :param encode_ended: the line of a connection that has closed, or of a client that was refused.
    :param encode: any other line.
    :param wants_addresses: whether it shows the addresses of the sockets.
    """

    encode_ended: Callable[[ConnectionRecord], bytes]
    encode: Callable[[_Line], bytes]
    wants_addresses: bool = False


def format_of(config: JsonLogConfig) -> Format:
    """The format that is configured."""
    if config.format == "ecs":
        return Format(_ended_as_ecs, _line_as_ecs, wants_addresses=True)
    return IDENTIFIED if config.community_id else NATIVE


def _encode_ended(record: ConnectionRecord) -> bytes:
    values = record.snapshot(record.opened)
    return _with_head(
        "closed" if record.refusal is None else "refused", values["closed_at"], values
    )


def _encode_line(line: _Line) -> bytes:
    subject = line.subject
    if isinstance(subject, _Live):
        values = subject.values
    elif isinstance(subject, Alarm):
        values = subject.snapshot()
    elif isinstance(subject, Action):
        values = subject.to_dict()
    else:
        values = {"count": subject}
    # Not twice: what reads the line may refuse it then (RFC 8259, 4).
    at = values.pop("at", None) or iso_time(line.at)
    return _with_head(line.event, at, values)


NATIVE = Format(_encode_ended, _encode_line)


def _identified(record: ConnectionRecord, values: dict[str, Any]) -> dict[str, Any]:
    """Add the Community IDs that are known."""
    ids = {
        "community_id": record.community_id,
        "backend_community_id": record.backend_community_id,
    }
    return values | {name: each for name, each in ids.items() if each is not None}


def _ended_identified(record: ConnectionRecord) -> bytes:
    values = record.snapshot(record.opened)
    event: Event = "closed" if record.refusal is None else "refused"
    return _with_head(event, values["closed_at"], _identified(record, values))


def _line_identified(line: _Line) -> bytes:
    if isinstance(line.subject, _Live):
        record, values = line.subject
        line = line._replace(subject=_Live(record, _identified(record, values)))
    return _encode_line(line)


IDENTIFIED = Format(_ended_identified, _line_identified, wants_addresses=True)


def _ended_as_ecs(record: ConnectionRecord) -> bytes:
    values = record.snapshot(record.opened)
    event = "closed" if record.refusal is None else "refused"
    return _encode_document(ecs.connection(event, values["closed_at"], record, values))


def _line_as_ecs(line: _Line) -> bytes:
    at, subject = iso_time(line.at), line.subject
    if isinstance(subject, _Live):
        return _encode_document(ecs.connection(line.event, at, *subject))
    if isinstance(subject, Alarm):
        return _encode_document(ecs.alarm(at, subject))
    if isinstance(subject, Action):
        return _encode_document(ecs.action(at, subject))
    return _encode_document(ecs.dropped(at, subject))


def _encode_document(document: ecs.Document) -> bytes:
    line = encode(document)
    # A half of a surrogate pair, or a whole one, which is rare enough to be looked at again.
    return encode(ecs.as_unicode(document)) if b"\\ud" in line else line


def _with_head(event: Event, at: str, values: Mapping[str, Any]) -> bytes:
    # Put in front of what is encoded: to make another dict of all values would take thrice as long.
    head = f'{{"schema":{SCHEMA},"event":"{event}","at":"{at}",'
    return head.encode() + encode(values)[1:]


class _Batch(NamedTuple):
    lines: list[ConnectionRecord | _Line]
    dropped: int
    """How many lines found the queue full since the previous batch."""


class _Writer:
    """Encodes lines and writes them; its :meth:`write` is called in a thread."""

    _log = Logger()

    def __init__(self, sink: Sink, format: Format = NATIVE) -> None:
        self._sink = sink
        self.format = format
        """Another one may take its place at any time."""
        self._unreported = 0
        self._is_failing = self._has_failed_to_encode = False
        self.lost = 0
        """How many lines could not be written."""

    def write(self, batch: _Batch) -> None:
        """Write a batch, after a line that says how many lines are missing before it."""
        self._unreported += batch.dropped
        notice = self._notice()
        encoded = self._encoded(batch.lines)
        lines = b"".join(encoded)
        rest = self._unwritten(notice + lines)
        if len(rest) <= len(lines):
            self._unreported = 0
        lost = min(rest.count(b"\n"), len(encoded)) + len(batch.lines) - len(encoded)
        self._unreported += lost
        self.lost += lost

    def _encoded(self, lines: list[ConnectionRecord | _Line]) -> list[bytes]:
        """Encode; a line that cannot be encoded is left out, and costs the others nothing."""
        encoded = []
        for line in lines:
            try:
                if isinstance(line, ConnectionRecord):
                    encoded.append(self.format.encode_ended(line))
                else:
                    encoded.append(self.format.encode(line))
            except Exception:
                if not self._has_failed_to_encode:
                    self._has_failed_to_encode = True
                    self._log.failure("json_log: a line cannot be encoded, and is lost")
        return encoded

    def _notice(self) -> bytes:
        if not self._unreported:
            return b""
        return self.format.encode(_Line("dropped", time.time(), self._unreported))

    def _unwritten(self, data: bytes) -> bytes:
        """Write, and return what could not be written."""
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
    """Queues a line for each event, for a thread to write.

    Lines that come faster than they can be written are dropped, and counted.

    :param sink: where the lines go.
    :param clock: monotonic time and timers.
    :param at_open: whether to write a line when a connection opens.
    :param at_half_close: whether to write one when its first side has ended in order.
    :param format: how events become lines.
    """

    _log = Logger()

    def __init__(
        self,
        sink: Sink,
        clock: Clock,
        *,
        at_open: bool,
        at_half_close: bool = False,
        format: Format = NATIVE,
    ) -> None:
        self._clock = clock
        self._writer = _Writer(sink, format)
        self._queue: BackgroundQueue[_Batch] = BackgroundQueue(
            lambda batch, _: self._writer.write(batch), QUEUED_LINES
        )
        # Lines go to the thread in batches: waking it costs both threads more than a line does.
        self._lines: list[ConnectionRecord | _Line] = []
        self._timer: IDelayedCall | None = None
        self._place = sink.place
        self._dropped = 0
        self._dropped_since = 0
        self._next_dropped_line = clock.seconds()
        self.configure(at_open=at_open, at_half_close=at_half_close, format=format)

    def configure(self, *, at_open: bool, at_half_close: bool, format: Format) -> None:
        """Write other lines from now on; whoever has it observe must have it observe anew."""
        self.wants_addresses = format.wants_addresses
        self._writer.format = format
        # An observer is not called through the methods of its base class: what is not wanted costs
        # a connection nothing.
        for hook, is_wanted in (("opened", at_open), ("half_closed", at_half_close)):
            self.__dict__.pop(hook, None)
            if not is_wanted:
                setattr(self, hook, getattr(super(), hook))

    @property
    def dropped(self) -> int:
        """How many lines are missing: the queue was full, or they could not be written."""
        return self._dropped + self._writer.lost

    def opened(self, record: ConnectionRecord) -> None:
        """Write a line, if configured."""
        self._add(_Line("opened", time.time(), self._now(record)))

    def half_closed(self, record: ConnectionRecord, side: Side) -> None:
        """Write a line, if configured."""
        live = self._now(record)
        live.values["side"] = side
        self._add(_Line("half_closed", time.time(), live))

    def update(self, record: ConnectionRecord) -> None:
        """Write the present state of a live connection."""
        self._add(_Line("update", time.time(), self._now(record)))

    def _now(self, record: ConnectionRecord) -> _Live:
        return _Live(record, record.snapshot(self._clock.seconds()))

    def closed(self, record: ConnectionRecord) -> None:
        """Write the final state of a connection."""
        self._add(record)

    def refused(self, record: ConnectionRecord) -> None:
        """Write that a client was refused."""
        self._add(record)

    def alarmed(self, alarm: Alarm) -> None:
        """Write an alarm that begins or is over."""
        self._add(_Line("alarm", time.time(), alarm))

    def acted(self, action: Action) -> None:
        """Write an action."""
        self._add(_Line("action", time.time(), action))

    def _add(self, line: ConnectionRecord | _Line) -> None:
        """Add a line to the batch; a record that has closed no longer changes."""
        self._lines.append(line)
        if len(self._lines) >= BATCH_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = self._clock.callLater(BATCH_SECONDS, self.flush)

    def flush(self) -> None:
        """Hand the present batch to the thread."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        lines, self._lines = self._lines, []
        if self._queue.put(_Batch(lines, self._dropped_since), len(lines) or 1):
            self._dropped_since = 0
        else:
            self._dropped += len(lines)
            self._dropped_since += len(lines)
            if self._clock.seconds() >= self._next_dropped_line:
                self._next_dropped_line = self._clock.seconds() + DROPPED_LINE_SECONDS
                self._log.warn(
                    "json_log: {place} does not take lines in time; dropped so far: {dropped}",
                    place=self._place,
                    dropped=self.dropped,
                )

    def stop(self, wait_seconds: float) -> bool:
        """Stop, after what is queued is written; returns whether that was done in time."""
        self.flush()
        # Of size 0, so that it always fits: it reports the lines that were dropped last.
        self._queue.put(_Batch([], self._dropped_since), 0)
        return self._queue.stop(wait_seconds)


class Updates(Observer):
    """Has an update of each live connection written at a fixed interval.

    :param log: what writes them.
    :param registry: the monitors.
    :param clock: monotonic time and timers.
    :param every: the interval in seconds, counted from a connection's opening.
    """

    def __init__(self, log: JsonLog, registry: Registry, clock: Clock, every: float) -> None:
        self._log = log
        self._registry = registry
        self._clock = clock
        self._every = every
        # In the order of their times, as all wait equally long: a written one goes to the end.
        self._due: OrderedDict[int, tuple[float, ConnectionRecord]] = OrderedDict()
        self._timer: IDelayedCall | None = None

    def opened(self, record: ConnectionRecord) -> None:
        """Schedule a connection's first update."""
        self._due[record.id] = (record.opened + self._every, record)

    def closed(self, record: ConnectionRecord) -> None:
        """Cancel a connection's updates."""
        self._due.pop(record.id, None)

    def follow_live(self) -> Iterator[None]:
        """Schedule the updates of connections that live already, one a step."""
        for monitor in tuple(self._registry):
            for record in tuple(monitor.iter_connections()):
                if record.closed is None and record.id not in self._due:
                    self._due[record.id] = (self._clock.seconds() + self._every, record)
                yield

    def start(self) -> None:
        """Start to write updates."""
        self._timer = self._clock.callLater(POLL_SECONDS, self._poll)

    def stop(self) -> None:
        """Stop; harmless if it was not started."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _poll(self) -> None:
        now = self._clock.seconds()
        pause = TURN_SECONDS
        for _ in range(UPDATES_A_TURN):
            if not self._write_next(now):
                pause = POLL_SECONDS
                break
        self._timer = self._clock.callLater(pause, self._poll)

    def _write_next(self, now: float) -> bool:
        """Write the next update that is due; returns whether there was one."""
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
            pass  # its service was deleted from the registry: the figures are those of before


class Threads(Protocol):
    """The part of a reactor that :class:`JsonLogService` needs (``IReactorFromThreads``)."""

    def callFromThread(self, call: Callable[[], object], /) -> object:
        """Call something in the reactor's thread."""


class JsonLogService(Service):
    """The JSON log of a program.

    :param config: where to write, and what.
    :param registry: the monitors.
    :param reactor: its thread handles the signal to reopen the file.
    :param clock: monotonic time and timers.
    :param sink: where the lines go; by default what the configuration names.
    """

    _log = Logger()

    def __init__(
        self,
        config: JsonLogConfig,
        registry: Registry,
        reactor: Threads,
        clock: Clock,
        *,
        sink: Sink | None = None,
    ) -> None:
        self._reactor = reactor
        self._sink = sink_for(config.path, clock.seconds) if sink is None else sink
        self._lines = JsonLog(
            self._sink,
            clock,
            at_open=config.at_open,
            at_half_close=config.at_half_close,
            format=format_of(config),
        )
        self._registry = registry
        self._clock = clock
        self._every = config.every
        self._updates: Updates | None = None
        self._previous_handler: Any = None
        self._has_handler = False
        self._cancel_lines = registry.observe(self._lines)
        self._cancel_updates: Callable[[], object] = lambda: None
        self._make_updates()

    def _make_updates(self) -> None:
        self._cancel_updates()
        self._updates = None
        if self._every:
            self._updates = Updates(self._lines, self._registry, self._clock, self._every)
            self._cancel_updates = self._registry.observe(self._updates)

    def apply_config(self, config: JsonLogConfig) -> None:
        """Follow another configuration, but for the ``path``; lines that wait have the new one."""
        self._cancel_lines()
        self._lines.configure(
            at_open=config.at_open,
            at_half_close=config.at_half_close,
            format=format_of(config),
        )
        self._cancel_lines = self._registry.observe(self._lines)
        if config.every != self._every:
            self._every = config.every
            if self._updates is not None:
                self._updates.stop()
            self._make_updates()
            if self._updates is not None:
                in_turns(self._clock, self._updates.follow_live())
                self._updates.start()

    @property
    def dropped(self) -> int:
        """How many lines are missing."""
        return self._lines.dropped

    def privilegedStartService(self) -> None:
        """Open the file.

        :raises FileError: it cannot be opened.
        """
        self._sink.open()

    def startService(self) -> None:
        """Open the file, and start.

        :raises FileError: it cannot be opened.
        """
        self._sink.open()
        super().startService()
        self._install_handler()
        if self._updates is not None:
            self._updates.start()

    def stopService(self) -> None:
        """Write what is queued, waiting for at most :data:`FLUSH_SECONDS`."""
        super().stopService()
        self._restore_handler()
        if self._updates is not None:
            self._updates.stop()
        if self._lines.stop(FLUSH_SECONDS):
            self._sink.close()
        else:
            self._log.error("json_log: the last lines could not be written in time")

    def reopen(self) -> None:
        """Open the file again, as after it was renamed; ``SIGUSR1`` does this."""
        self._sink.reopen()
        self._lines.flush()

    # -- SIGUSR1

    # Handled here and not by monconn.run.signals, which owns the signals that stop the program:
    # those are always handled, while this one may be taken only as long as there is a log to
    # reopen. Without one it must keep its default, or do what twistd or the embedding program uses
    # it for.

    def _install_handler(self) -> None:
        if threading.current_thread() is threading.main_thread():  # signal() raises in others
            self._previous_handler = signal.signal(signal.SIGUSR1, self._signaled)
            self._has_handler = True

    def _signaled(self, number: int, frame: Any) -> None:
        self._reactor.callFromThread(self.reopen)
        if callable(self._previous_handler):  # twistd's, which reopens its own log
            self._previous_handler(number, frame)

    def _restore_handler(self) -> None:
        # Unless another handler was set since, which would be lost.
        if self._has_handler and signal.getsignal(signal.SIGUSR1) == self._signaled:
            signal.signal(signal.SIGUSR1, self._previous_handler or signal.SIG_DFL)
        self._has_handler = False
