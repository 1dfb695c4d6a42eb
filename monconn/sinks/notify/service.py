"""Has outputs told of events, off the path of the data."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from monconn.clock import Clock
from monconn.config.notify import NotifyConfig
from monconn.errors import QuestionError
from monconn.log import Logger
from monconn.model.actions import Action
from monconn.model.alarms import Alarm
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.monitor.registry import Registry
from monconn.sinks.notify.messages import (
    ConnectionEvent,
    Event,
    Matches,
    event_of_action,
    event_of_alarm,
    test_message,
)
from monconn.sinks.notify.output import Delivery, Output, OutputTotals, ThreadedDelivery
from monconn.sinks.notify.senders import DeliveryError
from monconn.turns import in_turns

MOST_PENDING = 10_000
"""Events that may wait until filters are tried on them; beyond, connections are only counted."""
DRAIN_SECONDS = 0.2
FLUSH_SECONDS = 2.0
"""How long a stop waits for what is queued."""
TEST_SECONDS = 18.0
"""How long a test waits for an answer: longer than an attempt at a webhook, and not as long as a
client of the control port waits for us."""
_CONNECTION_EVENTS: tuple[ConnectionEvent, ...] = ("opened", "refused", "closed")


@attrs.frozen
class TestResult:
    """What one output said to a test."""

    number: int
    url: str
    is_ok: bool
    answer: str


class Collector(Observer):
    """Appends events to a queue, and does nothing else.

    :param wanted: the kinds that some output is told of; hooks of others are not called.
    :param ready: called with the first event of an empty queue.
    :param before: the one before this, whose queue it takes over.
    """

    def __init__(
        self,
        wanted: frozenset[str],
        clock: Clock,
        ready: Callable[[], object],
        before: Collector | None = None,
    ) -> None:
        self._clock = clock
        self._ready = ready
        self.pending: deque[Event] = deque() if before is None else before.pending
        self.left_out: Counter[tuple[str, str]] = Counter() if before is None else before.left_out
        """What was beyond :data:`MOST_PENDING`, by kind and service."""
        for kind in _CONNECTION_EVENTS:
            if kind not in wanted:
                setattr(self, kind, getattr(super(), kind))

    def _add_connection(self, kind: ConnectionEvent, record: ConnectionRecord) -> None:
        if len(self.pending) >= MOST_PENDING:
            self.left_out[kind, record.service] += 1
        else:
            self._add(Event((kind,), record, self._clock.seconds()))

    def _add(self, event: Event) -> None:
        # Of alarms and actions there are few, so that a herd of connections leaves room for them.
        if len(self.pending) >= 2 * MOST_PENDING:
            self.left_out[event.kind, event.subject.service or ""] += 1
            return
        self.pending.append(event)
        if len(self.pending) == 1:
            self._ready()

    def opened(self, record: ConnectionRecord) -> None:
        """Implements ``IObserver.opened``."""
        self._add_connection("opened", record)

    def refused(self, record: ConnectionRecord) -> None:
        """Implements ``IObserver.refused``."""
        self._add_connection("refused", record)

    def closed(self, record: ConnectionRecord) -> None:
        """Implements ``IObserver.closed``."""
        self._add_connection("closed", record)

    def alarmed(self, alarm: Alarm) -> None:
        """Implements ``IObserver.alarmed``: of these there are few."""
        if not alarm.goes_on:
            self._add(event_of_alarm(alarm, self._clock.seconds()))

    def acted(self, action: Action) -> None:
        """Implements ``IActionObserver.acted``."""
        if action.kind != "notify_test":
            self._add(event_of_action(action, self._clock.seconds()))


class NotifyService(Service):
    """The outputs of a configuration.

    :param config: the section ``notify``.
    :param registry: the monitors; later ones are observed, too.
    :param reactor: an ``IReactorThreads``.
    :param clock: monotonic time and timers.
    :param parse: makes of a filter's text what tells whether an event passes it.
    :param make_delivery: how an output delivers; in a thread of its own if left out.
    """

    _log = Logger()

    def __init__(
        self,
        config: Sequence[NotifyConfig],
        registry: Registry,
        reactor: Any,
        clock: Clock,
        parse: Callable[[str], Matches],
        make_delivery: Callable[[NotifyConfig, Any], Delivery] = ThreadedDelivery,
    ) -> None:
        self._registry = registry
        self._reactor = reactor
        self._clock = clock
        self._parse = parse
        self._make_delivery = make_delivery
        self._collector: Collector | None = None
        self._stop_observing: Callable[[], object] = lambda: None
        self._timer: IDelayedCall | None = None
        self._is_draining = False
        self.outputs: list[Output] = []
        self.apply_config(config)

    def apply_config(self, config: Sequence[NotifyConfig]) -> None:
        """Have other outputs from now on; those that are the same go on with their queues.

        :raises FilterError: a filter cannot be understood; then nothing is changed.
        """
        made = [
            (each, None if each.filter is None else self._parse(each.filter)) for each in config
        ]
        former = list(self.outputs)
        outputs = []
        for number, (each, matches) in enumerate(made, 1):
            same = next((output for output in former if output.config == each), None)
            if same is None:
                delivery = self._make_delivery(each, self._reactor)
                same = Output(number, each, self._clock, matches, delivery)
            else:
                former.remove(same)
                same.number = number
            outputs.append(same)
        for output in former:
            output.stop()
        self.outputs = outputs
        self._observe()

    def _observe(self) -> None:
        wanted = frozenset(kind for output in self.outputs for kind in output.config.on)
        before = self._stop_collecting()
        if wanted:
            # What waits goes on waiting: a herd is not looked at in one turn.
            self._collector = Collector(wanted, self._clock, self._schedule, before)
            self._stop_observing = self._registry.observe(self._collector)
            if self._collector.pending:
                self._schedule()

    def _stop_collecting(self) -> Collector | None:
        """Be told of nothing more; returns what was told, if anybody wanted that."""
        collector, self._collector = self._collector, None
        self._stop_observing()
        self._stop_observing = lambda: None
        return collector

    # -- what happens

    def _schedule(self) -> None:
        if self._timer is None and not self._is_draining:
            self._timer = self._clock.callLater(DRAIN_SECONDS, self._drain)

    def _drain(self) -> None:
        self._timer = None
        if self._collector is not None and not self._is_draining:
            self._is_draining = True
            in_turns(self._clock, self._drain_steps(self._collector)).addCallbacks(
                self._drained, self._failed
            )

    def _drain_steps(self, collector: Collector) -> Iterator[None]:
        while collector.pending:
            event = collector.pending.popleft()
            for output in tuple(self.outputs):
                output.offer(event)
                yield
        left_out = tuple(collector.left_out.items())
        collector.left_out.clear()
        for (kind, service), count in left_out:
            for output in tuple(self.outputs):
                if output.wants((kind,)):
                    word = f"{kind} at {service}" if service else kind
                    if output.config.filter is not None:
                        word += ", not looked at one by one"
                    output.left_out(word, count)
                yield

    def _drained(self, _: object) -> None:
        self._is_draining = False
        if self._collector is not None and self._collector.pending:
            self._schedule()

    def _failed(self, failure: Failure) -> None:
        self._is_draining = False
        self._log.failure("notifications are lost", failure)

    # -- IService

    def stopService(self) -> Deferred[Any]:
        """Deliver what waits, for :data:`FLUSH_SECONDS` at most."""
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        collector = self._stop_collecting()
        drained = in_turns(self._clock, () if collector is None else self._drain_steps(collector))

        def give_up() -> None:
            if not drained.called:
                drained.cancel()
            self._stop_outputs()

        timer = self._clock.callLater(FLUSH_SECONDS, give_up)
        ended: Deferred[None] = Deferred()

        def stopped(_: object) -> None:
            if timer.active():
                timer.cancel()
            self._stop_outputs()
            ended.callback(None)

        drained.addBoth(lambda _: self._flush()).addBoth(stopped)
        return ended

    def _flush(self) -> Deferred[Any]:
        flushed: list[Deferred[None]] = []
        for output in self.outputs:
            done: Deferred[None] = Deferred()
            flushed.append(done)
            output.flush(lambda done=done: done.called or done.callback(None))  # type: ignore[misc]
        return DeferredList(flushed)

    def _stop_outputs(self) -> None:
        for output in self.outputs:
            output.stop()

    # -- queries and tests

    def rows(self) -> list[dict[str, Any]]:
        """The outputs as plain values for JSON."""
        return [output.snapshot() for output in self.outputs]

    def totals(self) -> Mapping[int, OutputTotals]:
        """The figures of each output, by its number."""
        return {output.number: output.totals() for output in self.outputs}

    def test(self, number: int | None = None) -> Deferred[list[TestResult]]:
        """Send a test to one output or to all, past their queues.

        :raises QuestionError: there is no such output, or none at all.
        """
        chosen = [each for each in self.outputs if number in (None, each.number)]
        if not self.outputs:
            raise QuestionError("there is no output: the configuration has no notify:")
        if not chosen:
            there = "is 1" if len(self.outputs) == 1 else f"are {len(self.outputs)}"
            raise QuestionError(f"there is no output {number}: there {there}")
        results: Deferred[list[TestResult]] = Deferred()
        found: dict[int, TestResult] = {}

        def finish() -> None:
            if timer.active():
                timer.cancel()
            if not results.called:
                results.callback([found[each] for each in sorted(found)])

        def note(output: Output, answer: str, failure: DeliveryError | None) -> None:
            if results.called:
                return
            text = answer if failure is None else str(failure)
            found[output.number] = TestResult(
                output.number, str(output.config.url), failure is None, text
            )
            if len(found) == len(chosen):
                finish()

        def give_up() -> None:
            for output in chosen:
                if output.number not in found:
                    text = f"no answer within {TEST_SECONDS:g} s"
                    note(output, "", DeliveryError(text))

        timer = self._clock.callLater(TEST_SECONDS, give_up)
        for output in chosen:
            # Another one than the output's own, which may be in the middle of an attempt.
            delivery = self._make_delivery(output.config, self._reactor)
            delivery.begin(test_message(output.number), partial(note, output))
            delivery.close()
        return results
