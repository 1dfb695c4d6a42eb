"""Streams that end once their caller's token is revoked, or its session over."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall

from monconn.clock import Clock
from monconn.faces.http.caller import Caller
from monconn.net.http.messages import Stream, StreamWriter

CHECK_SECONDS = 1.0
"""How often it is checked whether those who get streams still may."""


class CheckedStreams:
    """Ends streams whose callers may not have them any more.

    :param clock: monotonic time and timers.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._streams: dict[CheckedStream, None] = {}
        self._timer: IDelayedCall | None = None

    def add(self, stream: CheckedStream) -> None:
        """Check a stream from now on."""
        self._streams[stream] = None
        if self._timer is None:
            self._timer = self._clock.callLater(CHECK_SECONDS, self._check)

    def remove(self, stream: CheckedStream) -> None:
        """Check a stream no more; harmless for one that is not checked."""
        self._streams.pop(stream, None)

    def stop(self) -> None:
        """Check nothing more."""
        self._streams.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        for each in tuple(self._streams):
            if not each.caller.is_valid():
                each.end()
        if self._streams:
            self._timer = self._clock.callLater(CHECK_SECONDS, self._check)


class CheckedStream:
    """A stream between the server and what writes it."""

    def __init__(self, stream: Stream, caller: Caller, streams: CheckedStreams) -> None:
        self.caller = caller
        self._stream = stream
        self._streams = streams
        self._writer: StreamWriter | None = None

    def start(self, writer: StreamWriter) -> None:
        """Implements ``Stream.start``."""
        self._writer = writer
        self._streams.add(self)
        self._stream.start(self)

    def resume(self) -> None:
        """Implements ``Stream.resume``."""
        self._stream.resume()

    def stop(self) -> None:
        """Implements ``Stream.stop``."""
        self._streams.remove(self)
        self._stream.stop()

    def end(self) -> None:
        """End it for both."""
        self.stop()
        self.finish()

    @property
    def is_slow(self) -> bool:
        """Implements ``StreamWriter.is_slow``."""
        return self._writer is not None and self._writer.is_slow

    def write(self, data: bytes) -> None:
        """Implements ``StreamWriter.write``."""
        if self._writer is not None:
            self._writer.write(data)

    def finish(self) -> None:
        """Implements ``StreamWriter.finish``."""
        self._streams.remove(self)
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.finish()
