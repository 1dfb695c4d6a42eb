"""One output: what it is told, its queue, and the attempts to deliver."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Literal, Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall

from monconn.background import BackgroundQueue
from monconn.clock import Clock
from monconn.config.notify import NotifyConfig
from monconn.log import Logger
from monconn.model.record import iso_time
from monconn.sinks.notify import messages
from monconn.sinks.notify.messages import Event, Matches, Message
from monconn.sinks.notify.senders import DeliveryError, Sender, make_sender
from monconn.units import format_duration

MOST_QUEUED = 1_000
"""Messages that may wait for one output."""
MOST_QUEUED_BYTES = 1 << 20
PAUSES_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
"""Between the attempts to deliver one message; the last one again and again. Each is half as long
at least, and half as long again at most: outputs that failed together are not tried together."""
MINUTE_SECONDS = 60.0
STUCK_SECONDS = 60.0
"""After so long an attempt hangs: in a name server, or in a plugin of Apprise's."""

State = Literal["ready", "sending", "stuck", "failing"]
Done = Callable[[str, DeliveryError | None], None]
"""Called in the loop's thread with what the receiver answered, or with what went wrong."""


class Delivery(Protocol):
    """Delivers the messages of one output, one at a time."""

    def begin(self, message: Message, done: Done) -> None:
        """Begin to deliver a message, without waiting."""

    def close(self) -> None:
        """Deliver nothing more once what was begun is done."""


class ThreadedDelivery:
    """Delivers in a thread of its own, which starts with the first message.

    :param reactor: an ``IReactorThreads``.
    """

    def __init__(self, config: NotifyConfig, reactor: Any) -> None:
        self._config = config
        self._reactor = reactor
        self._sender: Sender | None = None
        self._queue = BackgroundQueue[tuple[Message, Done]](self._work, limit=1)

    def begin(self, message: Message, done: Done) -> None:
        """Implements ``Delivery.begin``."""
        if not self._queue.put((message, done)):
            done("", DeliveryError("the system gives us no thread"))

    def close(self) -> None:
        """Implements ``Delivery.close``."""
        self._queue.stop(0.0)

    def _work(self, item: tuple[Message, Done], _: int) -> None:
        message, done = item
        answer, failure = "", None
        try:
            if self._sender is None:
                self._sender = make_sender(self._config)
            answer = self._sender.send(message)
        except DeliveryError as error:
            failure = error
            self._sender = None  # the next attempt reads its files anew, which may be mended then
        except Exception as error:  # the text of which may have the URL
            failure = DeliveryError(f"failed: {type(error).__name__}")
        self._reactor.callFromThread(done, answer, failure)


class _Limit:
    """So many messages in any minute; others are counted.

    :param per_minute: how many, with the summary.
    """

    def __init__(self, per_minute: int) -> None:
        self._times: deque[float] = deque(maxlen=per_minute)
        self.left_out: Counter[str] = Counter()
        self.since = 0.0
        self.timer: IDelayedCall | None = None

    def take(self, now: float) -> bool:
        if self.left_out or self.seconds(now):
            return False
        self._times.append(now)
        return True

    def seconds(self, now: float) -> float:
        """Until there is room for one."""
        times = self._times
        if len(times) < (times.maxlen or 1):
            return 0.0
        return max(0.0, times[0] + MINUTE_SECONDS - now)

    def note_sent(self, now: float) -> None:
        self._times.append(now)


@attrs.frozen
class OutputTotals:
    """What has become of an output's messages."""

    sent: int
    failed: int
    dropped: int
    queued: int


class Output:
    """One output. All of it runs in the loop's thread, but for what ``delivery`` does.

    :param number: by which people know it.
    :param matches: its filter; None for none.
    :param delivery: delivers its messages.
    """

    _log = Logger()

    def __init__(
        self,
        number: int,
        config: NotifyConfig,
        clock: Clock,
        matches: Matches | None,
        delivery: Delivery,
    ) -> None:
        self.number = number
        self.config = config
        self._clock = clock
        self._on = frozenset(config.on)
        self._matches = matches
        self._delivery = delivery
        # Apart, so that a herd of connections leaves room for alarms.
        self._limits = (_Limit(config.per_minute), _Limit(config.per_minute))
        self._queue: deque[tuple[Message, float]] = deque()
        self._queued_bytes = 0
        self._is_sending = False
        self._sending_since = 0.0
        self._retry: IDelayedCall | None = None
        self._attempts = 0
        self._is_failing = False
        self._is_stopped = False
        self._when_empty: list[Callable[[], object]] = []
        self.sent = self.failed = self.dropped = 0
        self.last_error = ""
        self.last_sent_at: float | None = None

    def wants(self, kinds: tuple[str, ...]) -> bool:
        """Whether it is to be told of events of some kinds, before its filter."""
        return not self._on.isdisjoint(kinds)

    # -- what it is told

    def offer(self, event: Event) -> None:
        """Queue an event's message, if it wants that, or count it for a summary."""
        if self._is_stopped or not self.wants(event.kinds):
            return
        if self._matches is not None and not self._matches(event.to_json()):
            return
        limit, now = self._limits[event.is_of_connection], self._clock.seconds()
        if limit.take(now):
            self.add(event.to_message())
            return
        if not limit.left_out:
            limit.since = time.time()
            limit.timer = self._clock.callLater(limit.seconds(now), self._summarize, limit)
        limit.left_out[event.word] += 1

    def left_out(self, word: str, count: int) -> None:
        """Count connections of which there were too many to look at each."""
        limit, now = self._limits[True], self._clock.seconds()
        if not limit.left_out:
            limit.since = time.time()
            limit.timer = self._clock.callLater(limit.seconds(now), self._summarize, limit)
        limit.left_out[word] += count

    def _summarize(self, limit: _Limit) -> None:
        if limit.timer is not None and limit.timer.active():
            limit.timer.cancel()
        limit.timer = None
        if limit.left_out:
            counts, limit.left_out = limit.left_out, Counter()
            limit.note_sent(self._clock.seconds())
            self.add(messages.summary(counts, limit.since))

    def add(self, message: Message) -> None:
        """Queue a message, or drop and count it."""
        size = len(message.body)
        is_full = len(self._queue) >= MOST_QUEUED or self._queued_bytes + size > MOST_QUEUED_BYTES
        if is_full or self._is_stopped:
            self.dropped += 1
            return
        self._queue.append((message, self._clock.seconds()))
        self._queued_bytes += size
        self._go_on()

    # -- delivering

    def _go_on(self) -> None:
        if self._is_sending or self._retry is not None or self._is_stopped:
            return
        if not self._queue:
            waiting, self._when_empty = self._when_empty, []
            for call in waiting:
                call()
            return
        self._is_sending = True
        self._sending_since = self._clock.seconds()
        self._delivery.begin(self._queue[0][0], self._done)

    def _done(self, answer: str, failure: DeliveryError | None) -> None:
        self._is_sending = False
        if self._is_stopped:
            return
        if failure is None:
            self._attempts = 0
            self.sent += 1
            self.last_sent_at = time.time()
            self._pop()
            if self._is_failing:
                self._is_failing = False
                self._log.info(
                    "notify {number} ({url}) works again, {count} messages wait",
                    number=self.number,
                    url=str(self.config.url),
                    count=len(self._queue),
                )
            self._go_on()
            return
        self.last_error = str(failure)
        if not self._is_failing:
            self._is_failing = True
            self._log.warn(
                "notify {number} ({url}) fails: {error}; each message is tried for {time}",
                number=self.number,
                url=str(self.config.url),
                error=str(failure),
                time=format_duration(self.config.retry_for),
            )
        if failure.is_final:
            self.failed += 1
            self._pop()
            self._attempts = 0
        oldest = self._clock.seconds() - self.config.retry_for
        while self._queue and self._queue[0][1] <= oldest:
            self.failed += 1
            self._pop()
        pause = PAUSES_SECONDS[min(self._attempts, len(PAUSES_SECONDS) - 1)]
        self._attempts += 1
        if self._when_empty:  # it is being stopped, which waits for no retry
            self.stop()
            return
        self._retry = self._clock.callLater(pause * random.uniform(0.5, 1.5), self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._go_on()

    def _pop(self) -> None:
        message, _ = self._queue.popleft()
        self._queued_bytes -= len(message.body)

    # -- the end

    def flush(self, call: Callable[[], object]) -> None:
        """Deliver what waits, without retries.

        :param call: called once that is done, perhaps at once.
        """
        for limit in self._limits:
            self._summarize(limit)
        self._when_empty.append(call)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._go_on()

    def stop(self) -> None:
        """Deliver nothing more; what waits is dropped, counted and logged."""
        self._is_stopped = True
        self._delivery.close()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for limit in self._limits:
            if limit.timer is not None and limit.timer.active():
                limit.timer.cancel()
            limit.timer = None
        if count := len(self._queue):
            self.dropped += count
            self._log.warn(
                "notify {number} ({url}): {count} messages could not be sent any more",
                number=self.number,
                url=str(self.config.url),
                count=count,
            )
        self._queue.clear()
        self._queued_bytes = 0
        waiting, self._when_empty = self._when_empty, []
        for call in waiting:
            call()

    # -- queries

    @property
    def state(self) -> State:
        """What it is at."""
        if self._is_sending and self._clock.seconds() - self._sending_since >= STUCK_SECONDS:
            return "stuck"
        if self._is_failing:
            return "failing"
        return "sending" if self._is_sending else "ready"

    def totals(self) -> OutputTotals:
        """The figures for metrics."""
        return OutputTotals(self.sent, self.failed, self.dropped, len(self._queue))

    def snapshot(self) -> dict[str, Any]:
        """Its row as plain values for JSON."""
        values: dict[str, Any] = {
            "number": self.number,
            "url": str(self.config.url),
            "on": list(self.config.on),
            "filter": self.config.filter,
            "state": self.state,
            "queued": len(self._queue),
            "sent": self.sent,
            "failed": self.failed,
            "dropped": self.dropped,
            "last_sent": None if self.last_sent_at is None else iso_time(self.last_sent_at),
            "last_error": self.last_error or None,
        }
        return values
