"""What a relay and its two sides are to each other."""

from __future__ import annotations

from typing import Any, Protocol

from monconn.model.reasons import Side, SideEnd
from monconn.model.record import ConnectionRecord


class End(Protocol):
    """One side's socket, seen as little as possible.

    It reports to a :class:`EndListener`; every verb is harmless once the side is gone.
    """

    side: Side
    reports: Any  # EndListener; given by the relay, as is:
    peer: Any  # the other End

    @property
    def send_queue(self) -> ByteSink:
        """What takes the bytes for this side, for a peer that gives them itself."""

    def dial(self) -> None:
        """Begin to connect; the backend's only."""

    def pause(self) -> None:
        """Take no more bytes from the peer for now."""

    def resume(self) -> None:
        """Take bytes from the peer again."""

    def end_writing(self) -> None:
        """Deliver what was written, then tell the peer that no more will come."""

    def close(self) -> None:
        """Deliver what was written, end the writing, and close once the peer has ended."""

    def reset(self) -> None:
        """Deliver what was written, for some seconds at the most, then reset."""

    def abort(self) -> None:
        """Reset at once."""

    def enable_keepalive(self) -> None:
        """Do what is not worth it for a connection that ends soon; called more than once."""

    def tcp_info(self) -> bytes | None:
        """What the system knows of the socket; None if it is gone or not TCP."""

    def pending_bytes(self) -> int:
        """How many bytes the peer has not taken yet: held by us, or in the system's queue."""

    def delivered_bytes(self) -> int:
        """How many bytes the peer has taken, ever."""


class ByteSink(Protocol):
    """What takes bytes for one side."""

    accepts_pipes: bool
    """Whether it also takes a pipe that holds bytes (``splice``)."""

    def send(self, data: bytes | memoryview) -> None:
        """Deliver bytes to the peer, in time; a memoryview is not looked at again later."""

    def room(self) -> int:
        """For how many bytes there is room at once, about; 0 if that is not known."""


class EndListener(Protocol):
    """What an End tells its relay."""

    record: ConnectionRecord

    def connected(self, end: End) -> None:
        """This side stands: first the client's, then the backend's."""

    def connect_failed(self, end: End, reason: Any, detail: str) -> None:
        """The backend will never stand; the End is gone."""

    def data(self, end: End, data: bytes) -> None:
        """Bytes came from the peer."""

    def filled(self, end: End) -> None:
        """Enough bytes are held for the peer."""

    def drained(self, end: End) -> None:
        """There is room for more."""

    def eof(self, end: End) -> None:
        """The peer will send no more."""

    def gone(self, end: End) -> None:
        """The socket was closed in order."""

    def broken(self, end: End, how: SideEnd, detail: str) -> None:
        """The connection broke; the socket is closed.

        :param how: ``none`` if it was not the peer's doing (a certificate that we refused).
        """
