"""What the clients of the HTTP API share: one tick, one answer, one ring of events for all."""

from __future__ import annotations

from functools import partial

from twisted.internet.interfaces import IDelayedCall

from monconn.faces.http.answers import SharedAnswers
from monconn.faces.http.caller import Caller
from monconn.faces.http.events import Channels
from monconn.faces.http.live import Live
from monconn.faces.http.problems import Problem
from monconn.faces.http.sse import EventStream
from monconn.faces.http.tapping import HttpTaps
from monconn.faces.http.walks import Walks
from monconn.net.http.messages import Response
from monconn.ops.operations import Operations

STREAMS_OF_CALLER = 96
"""The most streams of one caller: some of those that the server has are left for others."""
CHECK_SECONDS = 5.0
"""How often it is asked whether the callers of streams are who they were: a revoked token must not
go on being told what happens."""


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
        self._clock = operations.clock
        self._streams: dict[EventStream, Caller] = {}
        self._timer: IDelayedCall | None = None

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
        """The answer that is a stream, until it is over, or its caller may have it no more."""
        self._streams[stream] = caller
        if self._timer is None:
            self._timer = self._clock.callLater(CHECK_SECONDS, self._check)
        return stream.answer(partial(self._over, stream))

    def _over(self, stream: EventStream) -> None:
        self._streams.pop(stream, None)
        if not self._streams and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = self._clock.callLater(CHECK_SECONDS, self._check)
        for stream, caller in tuple(self._streams.items()):
            if not caller.is_valid():
                stream.finish()

    def close(self) -> None:
        """Hold nothing any more, and end all streams."""
        self.walks.close()
        self.live.close()
        self.events.close()
        self.taps.close()
        self.answers.close()
