"""What the clients of the HTTP API share: one tick, one answer, one ring of events for all."""

from __future__ import annotations

from monconn.faces.http.answers import SharedAnswers
from monconn.faces.http.caller import Caller
from monconn.faces.http.events import Channels
from monconn.faces.http.live import Live
from monconn.faces.http.problems import Problem
from monconn.faces.http.queues import CallerQueues
from monconn.faces.http.sse import EventStream
from monconn.faces.http.tapping import HttpTaps
from monconn.faces.http.walks import Walks
from monconn.net.http.messages import Response
from monconn.ops.operations import Operations

STREAMS_OF_CALLER = 96
"""The most streams of one caller: some of those that the server has are left for others."""


class Shared:
    """What requests leave for other requests; one for each server.

    :param operations: what is asked for.
    """

    def __init__(self, operations: Operations) -> None:
        self.live = Live(operations)
        self.events = Channels(operations)
        self.taps = HttpTaps(operations)
        self.answers = SharedAnswers(operations.clock)
        self.walks = Walks(operations.clock)
        self.queues = CallerQueues(operations.clock)
        self._streams: dict[EventStream, Caller] = {}

    def check_room(self, caller: Caller) -> None:
        """Make sure that a caller may have one more stream.

        :raises Problem: it has as many as one may have.
        """
        if list(self._streams.values()).count(caller) >= STREAMS_OF_CALLER:
            raise Problem(
                429,
                f"{caller.name} has {STREAMS_OF_CALLER} streams already: end one first",
                "too-many-streams",
                headers=(("Retry-After", "10"),),
            )

    def answer(self, caller: Caller, stream: EventStream) -> Response:
        """The answer that is a stream, which counts as the caller's until it is over."""
        self._streams[stream] = caller
        return stream.answer(lambda: self._streams.pop(stream, None))

    def close(self) -> None:
        """Hold nothing any more, and end all streams."""
        self.walks.close()
        self.live.close()
        self.events.close()
        self.taps.close()
        self.answers.close()
