"""Encodes the figures off the reactor's thread, once for all clients who wait for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from monconn.background import BackgroundQueue
from monconn.clock import Clock
from monconn.log import Logger
from monconn.net.http.messages import Response
from monconn.sinks.metrics.families import Families, encoder_for
from monconn.sinks.metrics.figures import Sample

LEAST_PAUSE_SECONDS = 0.05
"""Between two encodings: 20 a second at most."""
MOST_PAUSE_SECONDS = 2.0

_Encode = Callable[[Families], bytes]


@attrs.define
class _Format:
    """One text format, and who waits for the figures in it, in order."""

    encode: _Encode
    clients: dict[Deferred[Response], None] = attrs.Factory(dict)


class Encoder:
    """Encodes the present figures for clients, one encoding at a time.

    With many services an encoding takes tenths of a second. So it runs in a thread, and in one of
    its own: the reactor's ten may all be busy with look-ups of names, or with a user's code. All
    clients who wait when an encoding begins, and accept the same format, share it; one who comes
    later gets the next, so that nobody gets figures from before the request. After each there is a
    pause as long as it took: this thread uses half of a processor at most, however many ask.

    :param sample: takes the present figures; called in the reactor's thread.
    :param reactor: an ``IReactorFromThreads``.
    :param clock: monotonic time and timers.
    """

    _log = Logger()

    def __init__(self, sample: Callable[[], Sample], reactor: Any, clock: Clock) -> None:
        self._sample = sample
        self._reactor = reactor
        self._clock = clock
        # By content type. The first is the one whose first client has waited longest, as a format
        # is taken out when its encoding begins: none waits for more than one of each other.
        self._waiting: dict[str, _Format] = {}
        self._encoding_for: dict[Deferred[Response], None] = {}
        self._is_encoding = False
        self._is_stopped = False
        self._pause: IDelayedCall | None = None
        self._thread: BackgroundQueue[tuple[str, _Encode, Families]] = BackgroundQueue(
            self._encode_in_thread, limit=1
        )

    def request(self, accept: str) -> Deferred[Response]:
        """Encode the figures for a client soon.

        :param accept: the ``Accept`` header of its request.
        :returns: fires with the figures, or what there is to say instead; may be cancelled.
        """
        client: Deferred[Response] = Deferred(self._forget)
        encode, content_type = encoder_for(accept)
        self._waiting.setdefault(content_type, _Format(encode)).clients[client] = None
        self._begin()
        return client

    def _forget(self, client: Deferred[Response]) -> None:
        self._encoding_for.pop(client, None)
        for content_type, each in tuple(self._waiting.items()):
            each.clients.pop(client, None)
            if not each.clients:
                del self._waiting[content_type]

    def stop(self) -> None:
        """Encode nothing more, without waiting for what the thread is doing."""
        self._is_stopped = True
        self._waiting.clear()
        self._encoding_for.clear()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._thread.stop(0)

    def _begin(self) -> None:
        if self._is_encoding or self._pause is not None or not self._waiting:
            return
        content_type = next(iter(self._waiting))
        waiting = self._waiting.pop(content_type)
        self._encoding_for = waiting.clients
        self._is_encoding = True
        try:
            families = Families(self._sample())
        except Exception:
            self._done(content_type, Failure(), 0.0)
        else:
            if not self._thread.put((content_type, waiting.encode, families)):
                failure = Failure(RuntimeError("no thread can be started to encode them"))
                self._done(content_type, failure, 0.0)

    def _encode_in_thread(self, item: tuple[str, _Encode, Families], dropped: int) -> None:
        content_type, encode, families = item
        began = time.monotonic()
        try:
            result: bytes | Failure = encode(families)
        except Exception:
            result = Failure()
        took = time.monotonic() - began
        self._reactor.callFromThread(self._done, content_type, result, took)

    def _done(self, content_type: str, result: bytes | Failure, took_seconds: float) -> None:
        if self._is_stopped:
            return
        clients, self._encoding_for = self._encoding_for, {}
        self._is_encoding = False
        # Bounded: a machine that was suspended, or stopped in a debugger, is no slow encoder.
        pause = min(max(took_seconds, LEAST_PAUSE_SECONDS), MOST_PAUSE_SECONDS)
        self._pause = self._clock.callLater(pause, self._end_pause)
        if isinstance(result, Failure):
            self._log.failure("the metrics could not be written", result)
            response = Response(500, b"the metrics could not be written\n")
        else:
            response = Response(200, result, content_type)
        for each in clients:
            each.callback(response)

    def _end_pause(self) -> None:
        self._pause = None
        self._begin()
