"""Captures: bytes of connections to files, from now on, or once something has gone wrong.

A capture is a tap whose events go to files. Which connections it is for is said by a filter; of the
capture that the configuration has set to begin ``on`` something, by what has happened, too.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall

from monconn.addresses import Network
from monconn.clock import Clock
from monconn.config.sections import USUAL_DEVICES, CaptureConfig
from monconn.devices.identity import DeviceIdentity
from monconn.errors import Conflict, MonconnError, NotConfigured, QuestionError, UnknownCapture
from monconn.log import Logger
from monconn.model.actions import CONFIGURATION, Actor
from monconn.model.flow import Began, Ended, FlowEvent
from monconn.model.record import iso_time, known_fact_names
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.ops.filter_keys import CONNECTION_KEYS
from monconn.ops.filters import Context, Filter, FilterError, parse
from monconn.ops.reporting import Reporter
from monconn.ops.rows import CaptureRow
from monconn.ops.taps import Tap, Taps, service_concerned, services_by_payload
from monconn.ops.triggers import Occasion, Triggers
from monconn.sinks.capture_files import (
    FLUSH_SECONDS,
    CaptureFile,
    CaptureFiles,
    CaptureTotals,
    check_folder,
)
from monconn.turns import in_turns
from monconn.units import format_bytes

FOLLOWED = frozenset(
    {"filter", "on", "next", "within", "first", "rotate_size", "keep", "max_total"}
)
"""The keys of the configuration that hold at once when it is changed."""
_OF_FILES = frozenset({"rotate_size", "keep", "max_total"})
MOST_CAPTURES = 8
"""Captures at the same time, the configuration's among them; one more is refused."""
ENDED_RETAINED = 20
"""Captures that have ended and are listed still, so that their files are found."""
SEEN_REMEMBERED = 1_000
MOST_SECONDS = 7 * 86400.0
"""How long a capture may be asked to last; without a time it has no end. A reactor cannot wait for
more than 24 days."""
STUCK_SECONDS = 5.0
"""A disk that has not taken a write for so long is said to be stuck."""
ALL = "all"
"""In a configuration: a capture of every connection."""


class _Wanted(Protocol):
    """A filter, or what stands for one."""

    def uses(self, key: str) -> bool: ...

    def matches(self, row: Any, context: Context) -> bool: ...


@attrs.frozen
class CaptureResult:
    """The result of :meth:`Captures.begin`.

    :param services_left_out: those that were asked for and have ``payload: never``.
    """

    row: CaptureRow
    services_left_out: tuple[str, ...]


def parse_filter(text: str | None, services: Collection[str] = ()) -> Filter | None:
    """The filter of a configuration; None for every connection.

    :param services: names of services that exist.
    :raises FilterError: it cannot be understood.
    """
    if text is None or text.strip() == ALL:
        return None
    known: dict[str, Collection[str]] = {"service": services}
    if (facts := known_fact_names()) is not None:
        known["fact"] = facts  # a slip in the name of a key would capture nothing, and say nothing
    wanted = parse(text, CONNECTION_KEYS, "action", known)
    check_filter(wanted)
    return wanted


def check_filter(filter: Filter) -> None:
    """Refuse what is never known of a connection as it opens.

    :raises FilterError: it asks for rates.
    """
    if filter.uses("rate"):
        raise FilterError("rate: chooses no connections to capture, as none has one as it opens")


class Capture:
    """One capture, from its start to its end; what its tap asks which connections it is for.

    :param number: its id.
    :param target: what is captured, as text.
    :param by: who has started it.
    :param files: where its events go.
    :param first: bytes of each direction; 0 for all.
    """

    def __init__(
        self,
        number: int,
        target: str,
        by: str,
        files: CaptureFile,
        first: int,
        wanted: _Wanted | None,
        most_connections: int | None = None,
        triggers: Triggers | None = None,
    ) -> None:
        self.number = number
        self.is_configured = False
        """Whether the configuration has begun it."""
        self.service: str | None = None
        """The one that it is limited to, as far as is known; None for all."""
        self.target = target
        self.by = by
        self.files = files
        self.first = first
        self.triggers = triggers
        self.since = time.time()
        self.until: float | None = None
        self.connections = 0
        self.live: dict[int, Began] = {}
        self.seen: deque[int] = deque(maxlen=SEEN_REMEMBERED)
        """The connections that are in the files already, as far as that is remembered."""
        self.tap: Tap | None = None
        self.timer: IDelayedCall | None = None
        self._wanted = wanted
        self._most_connections = most_connections

    def uses(self, key: str) -> bool:
        """Implements ``Choice.uses``."""
        return self._wanted is not None and self._wanted.uses(key)

    def matches(self, row: Any, context: Context) -> bool:
        """Implements ``Choice.matches``."""
        if self.is_complete or (self.triggers is not None and not self.triggers.covers(row)):
            return False
        return self._wanted is None or self._wanted.matches(row, context)

    @property
    def is_complete(self) -> bool:
        """Whether it has as many connections as were asked for."""
        most = self._most_connections
        return most is not None and self.connections >= most

    def put(self, event: FlowEvent) -> None:
        """Hand an event to the files."""
        if isinstance(event, Began):
            self.connections += 1
            self.seen.append(event.connection)
            self.live[event.connection] = event
        elif isinstance(event, Ended):
            self.live.pop(event.connection, None)
        self.files.put(event)

    def row(self, folder: CaptureFiles) -> CaptureRow:
        """How it is at this moment."""
        files, figures = self.files, self.files.figures
        triggers = self.triggers
        state: str = files.state
        if self.tap is None:
            state = "done"
        elif folder.stuck_seconds > STUCK_SECONDS:
            state = "stuck"
        return CaptureRow(
            id=self.number,
            filter=self.target,
            state=state,
            connections=self.connections,
            live=len(self.live),
            bytes=figures.written,
            lost_bytes=figures.lost + (0 if self.tap is None else self.tap.dropped_bytes),
            file=files.name or None,
            since=iso_time(self.since),
            until=None if self.until is None else iso_time(self.until),
            by=self.by,
            folder=folder.path,
            files=figures.files,
            first=self.first,
            left_out=0 if self.tap is None else self.tap.left_out,
            triggers=None if triggers is None else sum(triggers.begun.values()),
            skipped_triggers=None if triggers is None else sum(triggers.skipped.values()),
            problem=files.problem or None,
        )


def _without(services: Sequence[str]) -> str:
    """Which services are left out, for the log."""
    return f"; without {', '.join(services)}: payload: never" if services else ""


class Captures:
    """All captures of a program, and their files.

    :param registry: the monitors, with those to come.
    :param clock: monotonic time and timers.
    :param taps: where the bytes come from.
    :param config: the folder, and what is captured from the start; None if nothing may be.
    :param context: what filters need beside a record.
    :param report: writes an action into the log, and notifies observers.
    :param identity: tells devices apart; by the usual settings if left out.
    """

    _log = Logger()

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        taps: Taps,
        config: CaptureConfig | None,
        context: Callable[[], Context],
        report: Reporter,
        identity: DeviceIdentity | None = None,
    ) -> None:
        self._identity = DeviceIdentity(USUAL_DEVICES) if identity is None else identity
        self._registry = registry
        self._clock = clock
        self._taps = taps
        self._config = config
        self._context = context
        self._report = report
        self._files = None if config is None else CaptureFiles(config, clock.seconds)
        self._is_open = False
        self._last_number = 0
        self._running: dict[int, Capture] = {}
        self._ended: deque[Capture] = deque(maxlen=ENDED_RETAINED)
        self._triggers: Triggers | None = None
        """Those of the configuration; counted, also once their capture was stopped."""
        self._stop_observing: Callable[[], None] = lambda: None

    # -- from the start to the end of the program

    def start(self) -> None:
        """Begin what the configuration wants to have captured.

        :raises FileError: the folder cannot be used. That of the state folder, if nothing is
            captured from the start, is looked at only once something is.
        :raises FilterError: the filter cannot be understood.
        :raises Forbidden: all services that are meant have ``payload: never``.
        """
        config = self._config
        if config is None or not (config.folder or config.filter or config.on):
            return
        files = self._opened()
        if not (config.filter or config.on):
            return
        wanted = parse_filter(config.filter, self._registry.names())
        target = ALL if wanted is None else wanted.to_text()
        triggers = None
        if config.on:
            target = " ".join([f"on {', '.join(config.on)}", *([] if wanted is None else [target])])
            triggers = Triggers(
                config, self._clock, wanted, self._context, self._identity, self._triggered
            )
        meant = wanted or Filter((), CONNECTION_KEYS)
        allowed, forbidden = services_by_payload(self._registry, meant)
        capture = self._add(files, target, CONFIGURATION, config.first, wanted, triggers=triggers)
        capture.is_configured = True
        self._open_tap(capture, follow=True)
        if triggers is not None:
            self._triggers = triggers
            self._stop_observing = self._registry.observe(triggers)
        details = f"capture {capture.number}{_without(forbidden)}"
        capture.service = service_concerned(allowed, meant, follows=True)
        self._report_start(CONFIGURATION, capture, allowed, details)

    @property
    def are_allowed(self) -> bool:
        """Whether the configuration allows any."""
        return self._config is not None

    def check_config(self, config: CaptureConfig | None) -> None:
        """Find what :meth:`apply_config` would fail with; called in a thread.

        :raises FileError: the folder cannot be used.
        """
        if config is not None and self._config is not None and (config.filter or config.on):
            check_folder(attrs.evolve(config, folder=self._config.folder))

    def apply_config(self, config: CaptureConfig) -> None:
        """Follow another configuration: the captures that operators have begun go on.

        The configuration's own one ends, and begins anew, if anything about it is different.
        """
        before, self._config = self._config, config
        if before is None or self._files is None:
            return
        self._files.apply_config(config)
        fields = [each.name for each in attrs.fields(CaptureConfig) if each.eq]
        different = {each for each in fields if getattr(before, each) != getattr(config, each)}
        if not different - _OF_FILES:
            return
        for capture in tuple(self._running.values()):
            if capture.is_configured:
                self._finish(capture)
        try:
            self.start()
        except MonconnError as error:  # the folder has gone since it was checked
            self._log.error("capture: {problem}", problem=str(error))

    def stop(self, wait_seconds: float = FLUSH_SECONDS) -> None:
        """End all captures, and write what is queued, waiting for no longer than that."""
        self.end_all()
        if self._files is not None:
            self._files.stop(wait_seconds)

    def end_all(self) -> None:
        """End all captures; what is queued is written later."""
        self._stop_observing()
        for capture in tuple(self._running.values()):
            self._finish(capture)

    def _allowed(self) -> CaptureConfig:
        """The configuration.

        :raises NotConfigured: nothing may be captured.
        """
        if self._config is None:
            raise NotConfigured("captures are switched off in the configuration (capture: false)")
        return self._config

    def _opened(self) -> CaptureFiles:
        """The files, whose folder is there.

        :raises NotConfigured: nothing may be captured.
        :raises FileError: the folder cannot be used.
        """
        self._allowed()
        assert self._files is not None
        if not self._is_open:
            self._files.open()
            self._is_open = True
        return self._files

    # -- queries

    def __len__(self) -> int:
        """How many captures run."""
        return len(self._running)

    def totals(self) -> CaptureTotals | None:
        """What was captured so far; None if nothing may be."""
        if self._files is None:
            return None
        figures, triggers = self._files.figures, self._triggers
        return CaptureTotals(
            running=len(self._running),
            written=figures.written,
            lost=figures.lost,
            files=figures.files,
            begun={} if triggers is None else dict(triggers.begun),
            skipped={} if triggers is None else dict(triggers.skipped),
        )

    def file_count(self) -> int:
        """How many files there are, as far as is known without asking the disk."""
        return 0 if self._files is None else self._files.present

    def rows(self) -> Iterator[CaptureRow]:
        """All captures that run, and those that have ended last, in the order of their start."""
        if self._files is not None:
            both = [*self._running.values(), *self._ended]
            for each in sorted(both, key=lambda capture: capture.number):
                yield each.row(self._files)

    def forget_in_steps(self, network: Network) -> Generator[None, None, None]:
        """Forget what is remembered of a network's clients; files stay as they are."""
        if self._triggers is not None:
            yield from self._triggers.forget_in_steps(network)

    # -- actions

    def begin(
        self,
        actor: Actor,
        target: str,
        wanted: Filter,
        ids: Collection[int] | None = None,
        *,
        first: int | None = None,
        seconds: float | None = None,
        connections: int | None = None,
    ) -> CaptureResult:
        """Start a capture.

        :param target: what is captured, as text.
        :param wanted: the connections; every one if it has no terms.
        :param ids: of those that live, only these, and none that comes later.
        :param first: bytes of each direction, 0 for all; what is configured if left out.
        :param seconds: after which it ends.
        :param connections: after how many it takes no more, and ends with the last of them.
        :raises NotConfigured: nothing may be captured.
        :raises FileError: the folder cannot be used.
        :raises QuestionError: there are too many captures already, or an amount makes no sense.
        :raises FilterError: it asks for what no connection has as it opens.
        :raises Forbidden: all services that are meant have ``payload: never``.
        """
        config = self._allowed()
        if (first or 0) < 0 or (connections is not None and connections < 1):
            raise QuestionError("first must be 0 or more, and connections 1 or more")
        if seconds is not None and not 0 < seconds <= MOST_SECONDS:
            raise QuestionError(
                "a capture lasts more than 0 s and at most a week, or until stopped"
            )
        check_filter(wanted)
        allowed, forbidden = services_by_payload(self._registry, wanted)
        if ids is not None:
            allowed = [each for each in allowed if any(number in each for number in ids)]
            forbidden = ()
        most = min(MOST_CAPTURES, config.keep)
        if len(self._running) >= most:
            more = f" (keep: {most})" if most < MOST_CAPTURES else ""
            raise Conflict(f"{most} captures run already{more}: stop one first")
        files = self._opened()
        first = config.first if first is None else first
        capture = self._add(
            files, target, actor, first, wanted or None, most_connections=connections
        )
        self._open_tap(capture, follow=ids is None, ids=ids)
        if seconds is not None:
            capture.until = capture.since + seconds
            capture.timer = self._clock.callLater(seconds, self._finish, capture)
        details = f"capture {capture.number}{_without(forbidden)}"
        capture.service = service_concerned(allowed, wanted, follows=ids is None)
        self._report_start(actor, capture, allowed, details)
        return CaptureResult(capture.row(files), forbidden)

    def end(self, actor: Actor, numbers: Collection[int] | None) -> list[CaptureRow]:
        """Stop captures, or all of them.

        :raises UnknownCapture: none of this number runs; then none is stopped.
        """
        unknown = [each for each in numbers or () if each not in self._running]
        if unknown:
            listed = ", ".join(map(str, unknown))
            raise UnknownCapture(f"no capture {listed} runs: monconn capture list")
        chosen = [
            each for each in self._running.values() if numbers is None or each.number in numbers
        ]
        rows = []
        for capture in chosen:
            target = f"{capture.target} (capture {capture.number})"
            self._report("capture_stop", actor, list(self._registry), capture.service, target)
            self._finish(capture)
            assert self._files is not None
            rows.append(capture.row(self._files))
        return rows

    # -- one capture

    def _report_start(
        self, actor: Actor, capture: Capture, services: Sequence[Monitor], details: str
    ) -> None:
        target = f"{capture.target} ({details})"
        self._report("capture_start", actor, services, capture.service, target)

    def _add(
        self,
        files: CaptureFiles,
        target: str,
        actor: Actor,
        first: int,
        wanted: Filter | None,
        *,
        most_connections: int | None = None,
        triggers: Triggers | None = None,
    ) -> Capture:
        self._last_number += 1
        capture = Capture(
            self._last_number,
            target,
            actor.describe(),
            files.capture(),
            first,
            wanted,
            most_connections,
            triggers,
        )
        self._running[capture.number] = capture
        return capture

    def _open_tap(
        self, capture: Capture, *, follow: bool, ids: Collection[int] | None = None
    ) -> None:
        try:
            tap = self._taps.open(
                partial(self._take, capture),
                filter=capture,
                ids=ids,
                follow=follow,
                first=capture.first or None,
            )
        except QuestionError:
            del self._running[capture.number]
            raise
        capture.tap = tap
        self._end_if_over(capture, tap)

    def _take(self, capture: Capture, tap: Tap) -> None:
        """Hand over what a tap has, at once: the files' queue is the one that is bounded."""
        while (event := tap.take()) is not None:
            capture.put(event)
            if isinstance(event, Began) and capture.triggers is not None:
                self._count(capture.triggers, event.connection)
        if capture.is_complete:
            tap.follows = False
        self._end_if_over(capture, tap)

    def _count(self, triggers: Triggers, connection: int) -> None:
        for monitor in self._registry:
            if connection in monitor:
                triggers.count(monitor.connection(connection))

    def _end_if_over(self, capture: Capture, tap: Tap) -> None:
        if tap.is_over and capture.tap is not None:
            self._finish(capture)

    def _finish(self, capture: Capture) -> None:
        """End a capture; its connections live on, and are seen no more."""
        if self._running.pop(capture.number, None) is None:
            return
        self._ended.append(capture)
        if capture.timer is not None and capture.timer.active():
            capture.timer.cancel()
        if capture.triggers is not None:
            self._stop_observing()
        tap, capture.tap = capture.tap, None
        if tap is not None:
            tap.close()
        capture.until = now = time.time()
        for began in tuple(capture.live.values()):
            capture.put(self._seen_no_more(began, now))
        capture.files.close()
        self._log.info(
            "capture {number} has ended: {connections} connections, {size}",
            number=capture.number,
            connections=capture.connections,
            size=format_bytes(capture.files.figures.written),
        )

    def _seen_no_more(self, began: Began, at: float) -> Ended:
        for monitor in self._registry:
            if began.connection in monitor:
                record = monitor.connection(began.connection)
                return Ended(began.connection, at, record.up, record.down)
        return Ended(began.connection, at, began.up, began.down)

    # -- triggers

    def _triggered(self, occasion: Occasion) -> None:
        """Store what is recorded of a connection; the next ones are tapped as they open."""
        assert self._config is not None
        capture = next((each for each in self._running.values() if each.triggers is not None), None)
        monitor = next((each for each in self._registry if each.name == occasion.service), None)
        if capture is None or monitor is None or monitor.policy.payload == "never":
            return
        what = occasion.trigger
        if occasion.reason is not None and occasion.reason != what:
            what += f": {occasion.reason}"
        if occasion.connection is not None:
            what += f", connection {occasion.connection}"
        target = f"the next {self._config.next} connections of {occasion.device} ({what})"
        self._report("capture_start", CONFIGURATION, [monitor], monitor.name, target)
        if occasion.connection is not None:
            self._store_recording(capture, monitor, occasion.connection)
        else:
            in_turns(self._clock, self._capture_device(capture, monitor, occasion.device))

    def _store_recording(self, capture: Capture, monitor: Monitor, connection: int) -> None:
        if connection not in capture.seen and capture.tap is not None:
            for event in monitor.recorder.events(connection) or ():
                capture.put(event)

    def _capture_device(self, capture: Capture, monitor: Monitor, device: str) -> Iterator[None]:
        """Tap the live connections of a device; if there is none, store the recording of the last.

        One a step, as there may be many.
        """
        assert capture.triggers is not None
        device_of, is_live = capture.triggers.device_of, False
        for record in monitor.iter_connections():
            yield
            if record.id in monitor and device_of(record) == device and capture.tap is not None:
                is_live = True
                self._taps.add(capture.tap, record)
        if is_live:
            return
        latest = None
        for record in tuple(monitor.closed_records):
            yield
            if device_of(record) == device:
                latest = record.id
        if latest is not None:
            self._store_recording(capture, monitor, latest)
