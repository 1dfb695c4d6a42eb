"""The interface between a relay and its two sides, the Ends.

An End's life is a :data:`Phase`. Phases follow each other in one order and never go back, though
some may be skipped, so each method is harmless in a phase that it was not meant for:

============  ====================================  ===============================================
phase         entered by                            meaning
============  ====================================  ===============================================
connecting    (the beginning)                       there is no connection yet
open          the connection is established         bytes move, and events are reported
draining      ``close``                             what we hold is delivered, then the socket is
                                                    closed, once the peer has ended and has
                                                    acknowledged everything; input is discarded, and
                                                    nothing but its end is reported
resetting     ``reset``; ``abort``, where closing   what we hold is delivered, then the socket is
              takes a turn                          reset
closed        the peer failed or has closed; all    the socket is closed, and the relay was notified
              is delivered; ``abort``; the dial     (once)
              failed or was given up
============  ====================================  ===============================================

Half-close is apart from that: each direction of an open or draining End may have ended.

What keeps an End from reading is a set of **holds**. Each holder has a flag of its own, and only
releases that; the End reads while the set is empty.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from monconn.model.reasons import Reason, Side, SideEnd
from monconn.model.record import ConnectionRecord
from monconn.monitor.bandwidth import Throttle
from monconn.monitor.tracks import Track
from monconn.policy.sides import Keepalive
from monconn.relay.stages import StageChain

Phase = Literal["connecting", "open", "draining", "resetting", "closed"]
PHASES: tuple[Phase, ...] = get_args(Phase)

# Plain integers: to combine members of an IntFlag takes ten times as long.
HOLD_CONNECTING = 1
"""The other side is not connected yet."""
HOLD_FULL = 2
"""Back-pressure: enough bytes are queued for the other side."""
HOLD_STAGE = 4
"""The stages on the way to the other side (a fault, a delay) hold enough bytes."""
HOLD_PAUSE = 8
"""The service is paused: nothing is read from either side."""
HOLD_RATE = 16
"""As many bytes have passed as the bandwidth allows."""


class End(Protocol):
    """One side of a relay: its connection, and nothing else that a relay need not know.

    It reports to an :class:`EndListener`. Every method is harmless once the End is closed.
    """

    side: Side
    phase: Phase
    holds: int
    """The set of holds, as flags."""
    is_watched: bool
    """Whether this End's bytes must be passed to the relay's ``data``; set by the relay."""
    reports: EndListener
    """Set by the relay, and deleted with :attr:`peer` when both sides are closed."""
    peer: End
    """The relay's other End."""
    track: Track | None
    """Records the bytes that are read from the peer; set by the relay, None for most."""
    stages: StageChain | None
    """The stages in front of the send queue, if there are any."""

    throttle: Throttle | None
    """Says how much may be read from the peer; None, for most, if nothing bounds that. An End with
    a throttle is always watched: the relay charges for what it is given."""
    reads_at_once: bool
    """Whether ``release`` has read before it returns."""

    @property
    def sink(self) -> ByteSink:
        """Takes the bytes for this side: its send queue, or the stages in front of that."""

    def set_throttle(self, throttle: Throttle | None) -> None:
        """Read no more at once than a throttle allows from now on, or as much as there is."""

    def set_stages(self, stages: StageChain | None) -> None:
        """Put stages in front of the send queue, or take them away."""

    def dial(self) -> None:
        """Begin to connect; only for the backend's End."""

    def hold(self, hold: int) -> None:
        """Stop reading, for one more reason.

        :param hold: one of the ``HOLD_`` flags.
        """

    def release(self, hold: int) -> None:
        """Clear a hold; when none is left, reading resumes at once."""

    def end_writing(self) -> None:
        """Deliver the bytes that were sent, then send the end (FIN)."""

    def close(self) -> None:
        """Deliver the bytes that were sent, end the writing, and close once the peer has ended.

        While the record has no reason, not before the peer has acknowledged everything either. To
        call it again ends that waiting: the kernel goes on delivering.
        """

    def reset(self) -> None:
        """Deliver the bytes that were sent, then reset; the relay aborts it after some seconds."""

    def abort(self) -> None:
        """Reset at once; bytes that were not delivered are lost."""

    def set_keepalive(self, keepalive: Keepalive | None) -> None:
        """Have the kernel probe a silent peer, or not if it is None.

        Not done at the start, as it costs four system calls, and most connections end before the
        first probe would be sent. It may be called again and again.
        """

    def tcp_info(self) -> bytes | None:
        """The kernel's statistics of the socket; None if there are none (any more)."""

    def addresses(self) -> tuple[str | None, str | None]:
        """Our address and the peer's, as ``IP:PORT``; None for what is not known (any more)."""

    def pending_bytes(self) -> int:
        """How many bytes the peer has not acknowledged yet: in the send queue, or in the kernel's.

        Bytes that a stage holds back are not the peer's fault, and not among them.
        """

    def delivered_bytes(self) -> int:
        """How many bytes the peer has acknowledged, ever."""

    def is_delivered(self) -> bool:
        """Whether all bytes for the peer were acknowledged, and no stage holds any.

        If we have ended the writing, our end as well.
        """

    def stages_drained(self) -> None:
        """The stages hold nothing (any more): what waited for that may follow."""


class ByteSink(Protocol):
    """Takes the bytes for one side."""

    accepts_pipes: bool
    """Whether it also takes a pipe that holds bytes (``splice``)."""

    def send(self, data: bytes | memoryview) -> None:
        """Deliver bytes to the peer, now or later; a memoryview may be reused after the call."""

    def room(self) -> int:
        """About how many bytes can be passed on at once; 0 if that is not known."""


class EndListener(Protocol):
    """Receives the events of an End; implemented by the relay."""

    record: ConnectionRecord

    def connected(self, end: End) -> None:
        """The connection is established: the client's is reported first, then the backend's."""

    def connect_failed(self, end: End, reason: Reason, detail: str) -> None:
        """The backend cannot be connected to; its End is closed."""

    def data(self, end: End, data: bytes, now: float) -> None:
        """Bytes were read from the peer: count them, show them to watchers, pass them on.

        :param now: monotonic seconds, of the clock by which this End counts those that it does not
            report: by another one, bytes that came first could be the later ones.
        """

    def filled(self, end: End) -> None:
        """Enough bytes are queued for the peer."""

    def drained(self, end: End) -> None:
        """The queue for the peer is empty again."""

    def eof(self, end: End) -> None:
        """The peer has ended its side (FIN)."""

    def gone(self, end: End) -> None:
        """The connection was closed in order; the End is closed."""

    def broken(self, end: End, how: SideEnd, detail: str) -> None:
        """The connection failed, maybe after its end in order; the End is closed.

        :param how: ``none`` if it was not the peer's doing (a certificate that we refused).
        """

    def end(self, reason: Reason, reset: bool = False) -> None:
        """An End raised an unexpected exception: end the connection."""
