"""Stages: what may lie between an End and its peer's send queue, in one direction.

A stage delays, holds or alters bytes: an injected fault, a PROXY header in front. An
End gives the bytes that it has read to its peer's ``sink``; without stages that is the send queue
itself, so that stages cost nothing while there are none. With stages, bytes are copied and not
spliced.

- The record counts what was read from the sender, whatever a stage makes of it.
- A sender is not read from while the stages hold :data:`HELD_BYTES` or more for its peer. A stage
  that forwards to a full send queue only moves what it holds there, so that memory stays bounded.
- The sender's end or reset is passed on once all that is held has been forwarded (a reset after
  five seconds at the latest, as the relay then aborts what is left).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from monconn.relay.ends import ByteSink, End

HELD_BYTES = 1 << 16
"""How much the stages of one direction may hold before the sender is not read from."""

Forward = Callable[[bytes], None]


class Stage(Protocol):
    """Something between a sender and the other side."""

    held: int
    """How many bytes it holds. A stage lowers it before it forwards a chunk, and by that chunk
    only: at 0 the sender's end may follow at once, and more of its bytes may come amid the call."""

    def attach(self, forward: Forward) -> None:
        """The stage was added to a chain.

        :param forward: passes bytes on; ``b""`` if :attr:`held` has changed for another reason. It
            may be called at any time, from :meth:`receive` too, and does nothing once the receiver
            is closed.
        """

    def receive(self, data: bytes) -> None:
        """Bytes have come from the sender: forward or hold them."""

    def ended(self) -> None:
        """No more bytes will come; the end follows when :attr:`held` is 0. Called once."""

    def flush(self) -> None:
        """It is being removed: forward all that is held, now."""

    def close(self) -> None:
        """The receiver is closed, or the stage was removed: cancel timers, drop what is held."""


class StageChain:
    """The stages in front of one End's send queue, as the :class:`ByteSink` of its peer.

    :param end: the receiver.
    :param holds_sender: called when the sender must not be read from, and when it may be again.
    """

    accepts_pipes = False

    def __init__(self, end: End, holds_sender: Callable[[bool], object]) -> None:
        self._end: End | None = end
        self._queue: ByteSink | None = end.sink  # gets what the last stage forwards
        self._holds_sender = holds_sender
        self._is_held = False  # whether we hold the sender
        self._is_removing = False
        self._has_ended = False
        self._stages: tuple[Stage, ...] = ()

    def __len__(self) -> int:
        return len(self._stages)

    def __bool__(self) -> bool:
        return True

    def held(self) -> int:
        """How many bytes the stages hold."""
        return sum(stage.held for stage in self._stages)

    def add(self, stage: Stage) -> None:
        """Put a stage behind the others: it gets what they forward from now on."""
        self._stages += (stage,)
        stage.attach(partial(self._forward, stage))
        if self._has_ended:
            stage.ended()

    def remove(self, stage: Stage) -> None:
        """Have a stage forward what it holds, and take it out; harmless if that was done."""
        if stage not in self._stages or self._end is None:
            return
        # Released amid the flush, the sender would be read from at once, and what it has sent be
        # given to the stage that is about to go; its end would come before the rest of the flush.
        self._is_removing = True
        try:
            stage.flush()
        finally:
            self._is_removing = False
        self._stages = tuple(each for each in self._stages if each is not stage)
        stage.close()
        if self._end is not None:
            self._update(self._end)

    def _forward(self, stage: Stage, data: bytes) -> None:
        if self._queue is None or stage not in self._stages:
            return
        if data:
            place = self._stages.index(stage) + 1
            if place < len(self._stages):
                self._stages[place].receive(data)
            else:
                self._queue.send(data)
        if self._end is not None:  # else the send has failed, and closed it
            self._update(self._end)

    def _update(self, end: End) -> None:
        held = self.held()
        if not held and not self._is_removing:
            end.stages_drained()
        must_hold = held >= HELD_BYTES
        if must_hold != self._is_held and not (self._is_removing and self._is_held):
            self._is_held = must_hold
            self._holds_sender(must_hold)

    # -- as a ByteSink

    def send(self, data: bytes | memoryview) -> None:
        """Give bytes to the first stage."""
        if self._queue is None:
            return
        if not self._stages:  # the last stage was just removed, while the sender was held
            self._queue.send(data)
            return
        self._stages[0].receive(bytes(data))
        if self._end is not None:
            self._update(self._end)

    def room(self) -> int:
        """How many bytes more may be held."""
        return max(0, HELD_BYTES - self.held())

    # -- for the End

    def end_of_input(self) -> None:
        """The sender has ended; ``stages_drained`` follows, at once if nothing is held."""
        if not self._has_ended:
            self._has_ended = True
            for stage in self._stages:
                stage.ended()
        if self._end is not None:
            self._update(self._end)

    def close(self) -> None:
        """Drop what is held: the receiver is closed."""
        # No cycle is left to be collected.
        self._end = self._queue = None
        self._holds_sender = bool
        stages, self._stages = self._stages, ()
        for stage in stages:
            stage.close()
