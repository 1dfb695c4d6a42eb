"""The feed of events for HTTP clients, each of which can go on where it has stopped.

Events of one filter are numbered, and the last of them are held in a ring that all who ask for
that filter share: whoever connects again names the last one that it got, and is sent those after
it. The ring is filled for a while after the last client has left, and then dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import islice

import attrs
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from monconn.faces.http.caller import Caller
from monconn.faces.http.problems import Problem
from monconn.faces.http.sse import (
    HEARTBEAT,
    HEARTBEAT_SECONDS,
    RETRY,
    EventStream,
    event_bytes,
    json_event,
    number_after,
)
from monconn.log import Logger
from monconn.ops.feed import FeedEvent, Subscription
from monconn.ops.operations import Operations
from monconn.turns import in_turns

MOST_CHANNELS = 32
"""The most filters at the same time, those that nobody reads for now included."""
MOST_OF_CALLER = 8
"""Of these, the most that one caller reads."""
MOST_HELD_EVENTS = 10_000
"""The most events of one filter that are held."""
MOST_HELD_BYTES = 16 * 1024 * 1024
"""The most bytes of all that are held; each filter has its part of it."""
HELD_SECONDS = 60.0
"""How long after its last client has left a filter's events are held, and go on being."""
GATHERING_SECONDS = 0.05
"""How long events are gathered that are then written at once: to write each of a thousand a second
to fifty clients by itself would take half of the loop's time."""
PIECE_BYTES = 32 * 1024
"""Of what a client lacks, written at a time."""


@attrs.frozen
class Held:
    """One event in a ring.

    :param number: its number among those of its filter; those between two were dropped.
    :param data: as it is sent.
    """

    number: int
    data: bytes


@attrs.define(eq=False)
class _Reader:
    """One client.

    :param position: the number of the last event that it was sent.
    :param caller: who it is; None if that is of no matter.
    :param missed: whether it has missed events before that, nobody knows how many.
    """

    position: int
    caller: Caller | None = None
    has_missed: bool = False


class Channel:
    """The events of one filter.

    :param channels: knows the others.
    :param number: of this one.
    """

    _log = Logger()

    def __init__(self, channels: Channels, number: int, prefix: str) -> None:
        self._channels = channels
        self._clock = channels.operations.clock
        self._prefix = f"{prefix}-{number}-"
        self.number = number
        self.subscription: Subscription | None = None
        self.readers: dict[EventStream, _Reader] = {}
        self._ring: deque[Held] = deque()
        self._ring_bytes = 0
        self._last = 0
        """The number of the last event, be it in the ring or dropped."""
        self._dropped = 0
        """How many of those that the subscription has dropped have a number."""
        self._gathering: IDelayedCall | None = None
        self._is_sending = False
        self._heartbeat: IDelayedCall | None = None
        self._end: IDelayedCall | None = None

    # -- its clients

    def stream(self, last_id: str | None, caller: Caller | None = None) -> EventStream:
        """One more client.

        :param last_id: of the last event that it got; None if it begins.
        :param caller: who it is.
        """
        reader = _Reader(self._last, caller)
        if last_id is not None:
            number = self._number_of(last_id)
            if number is None:
                reader.has_missed = True
            else:
                reader.position = number
        self._stay()
        return EventStream(partial(self._started, reader), self._stopped, self._resumed)

    def _number_of(self, last_id: str) -> int | None:
        """The number of the event with an id; None if it is none of this channel's."""
        return number_after(self._prefix, last_id, self._last)

    def _started(self, reader: _Reader, stream: EventStream) -> None:
        if self.subscription is None:  # it was dropped since
            stream.finish()
            return
        self.readers[stream] = reader
        self._stay()
        # An id without data is none of an event, but holds from there on.
        stream.send(RETRY + f"id: {self._prefix}{reader.position}\n\n".encode())
        if reader.has_missed:
            reader.has_missed = False
            stream.send(self._missed(None, reader.position))
        self._send_later(0)
        if self._heartbeat is None:
            self._heartbeat = self._clock.callLater(HEARTBEAT_SECONDS, self._beat)

    def _resumed(self, stream: EventStream) -> None:
        self._send_later(0)

    def _stopped(self, stream: EventStream) -> None:
        self.readers.pop(stream, None)
        if not self.readers:
            for timer in (self._heartbeat, self._gathering):
                if timer is not None:
                    timer.cancel()
            self._heartbeat = self._gathering = None
            self._stay()

    def _stay(self) -> None:
        """Stay for another while."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        if self.subscription is not None and not self.readers:
            self._end = self._clock.callLater(HELD_SECONDS, self._expired)

    def _expired(self) -> None:
        self._end = None
        self._channels.drop(self)

    def close(self) -> None:
        """Hold nothing more, and end all streams."""
        if self.subscription is not None:
            self.subscription.cancel()
            self.subscription = None
        for stream in tuple(self.readers):
            stream.finish()
        self._ring.clear()
        self._ring_bytes = 0
        self._stay()

    # -- events

    def happened(self, event: FeedEvent) -> None:
        """Number an event, and hold it."""
        self._count_dropped()
        self._last += 1
        data = event_bytes(event.kind, event.encode(), f"{self._prefix}{self._last}")
        self._ring.append(Held(self._last, data))
        self._ring_bytes += len(data)
        most = self._channels.bytes_of_one()
        while self._ring_bytes > most or len(self._ring) > MOST_HELD_EVENTS:
            self._ring_bytes -= len(self._ring.popleft().data)
        if self.readers:
            self._send_later(GATHERING_SECONDS)

    def _count_dropped(self) -> None:
        if self.subscription is not None:
            self._last += self.subscription.dropped - self._dropped
            self._dropped = self.subscription.dropped

    def _missed(self, count: int | None, number: int) -> bytes:
        """Tell that events are missing up to the one of this number."""
        return json_event("missed", {"events": count}, f"{self._prefix}{number}")

    # -- sending them

    def _send_later(self, seconds: float) -> None:
        if self._gathering is None and not self._is_sending:
            self._gathering = self._clock.callLater(seconds, self._send)

    def _send(self) -> None:
        self._gathering = None
        self._is_sending = True
        in_turns(self._clock, self._sending()).addBoth(self._sent)

    def _sent(self, failure: Failure | None) -> None:
        self._is_sending = False
        if failure is not None:
            self._log.failure("events could not be sent", failure)
        elif any(not s.is_slow and r.position < self._last for s, r in self.readers.items()):
            self._send_later(GATHERING_SECONDS)

    def _sending(self) -> Iterator[None]:
        pieces: dict[int, tuple[bytes, int]] = {}
        for stream, reader in tuple(self.readers.items()):
            while stream.is_open and not stream.is_slow and reader.position < self._last:
                # Those who have got the same lack the same.
                at = reader.position
                if at not in pieces:
                    pieces[at] = self._piece(at)
                data, reader.position = pieces[at]
                stream.send(data)
                yield

    def _piece(self, position: int) -> tuple[bytes, int]:
        """Events after a position, and the position after them."""
        parts: list[bytes] = []
        size = 0
        # Numbers rise by one, but for those that were dropped.
        skipped = max(0, len(self._ring) - (self._last - position))
        for each in islice(self._ring, skipped, None):
            if each.number <= position:
                continue
            if size > PIECE_BYTES:
                break
            if each.number > position + 1:
                parts.append(self._missed(each.number - position - 1, each.number - 1))
            parts.append(each.data)
            size += len(each.data)
            position = each.number
        else:
            if position < self._last:
                parts.append(self._missed(self._last - position, self._last))
                position = self._last
        return b"".join(parts), position

    def _beat(self) -> None:
        self._heartbeat = self._clock.callLater(HEARTBEAT_SECONDS, self._beat)
        before = self._last
        self._count_dropped()
        if self._last > before:  # nothing has come after what was dropped
            self._send_later(0)
        for stream in tuple(self.readers):
            if not stream.is_slow:
                stream.send(HEARTBEAT)


class Channels:
    """The channels of all filters.

    :param operations: have the feed.
    """

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self._channels: dict[tuple[str | None, str], Channel] = {}
        self._made = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._channels)

    def stream(
        self,
        service: str | None = None,
        filter: str | None = None,
        last_id: str | None = None,
        caller: Caller | None = None,
    ) -> EventStream:
        """The events of a filter.

        :param last_id: of the last event that the client got; None if it begins.
        :param caller: who asks.
        :raises UnknownService: there is none with this name.
        :raises FilterError: the filter cannot be understood.
        :raises Problem: there are too many filters.
        """
        return self._channel(service, filter or "", caller).stream(last_id, caller)

    def _channel(self, service: str | None, filter: str, caller: Caller | None) -> Channel:
        self.operations.monitors(service)  # one that was removed may still be read by others
        key = service, filter
        channel = self._channels.get(key)
        if channel is None or not channel.readers:
            self._check_room(caller)
        if channel is None:
            if len(self._channels) >= MOST_CHANNELS:
                self._make_room()
            channel = Channel(self, self._made + 1, self.operations.token)
            channel.subscription = self.operations.subscribe(
                channel.happened, service=service, filter=filter or None
            )
            self._made += 1
            self._channels[key] = channel
        return channel

    def _check_room(self, caller: Caller | None) -> None:
        if caller is None:
            return
        read = [
            each
            for each in self._channels.values()
            if any(reader.caller == caller for reader in each.readers.values())
        ]
        if len(read) >= MOST_OF_CALLER:
            raise Problem(
                429,
                f"{caller.name} reads {MOST_OF_CALLER} filters already: end one first",
                "too-many-streams",
                headers=(("Retry-After", "10"),),
            )

    def _make_room(self) -> None:
        unread = next((each for each in self._channels.values() if not each.readers), None)
        if unread is None:
            raise Problem(
                503,
                f"{MOST_CHANNELS} filters are read already: use one of these, or wait",
                "too-many-streams",
                headers=(("Retry-After", "10"),),
            )
        self.drop(unread)

    def bytes_of_one(self) -> int:
        """How many bytes one channel may hold."""
        return MOST_HELD_BYTES // max(len(self._channels), 4)

    def drop(self, channel: Channel) -> None:
        """Hold a channel's events no more."""
        for key, each in tuple(self._channels.items()):
            if each is channel:
                del self._channels[key]
        channel.close()

    def close(self) -> None:
        """Drop all of them."""
        for each in tuple(self._channels.values()):
            self.drop(each)
