"""Blocks while the program runs: of one service or of all, begun by somebody, ended by time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection

import attrs

from monconn.addresses import Network
from monconn.clock import Clock
from monconn.errors import SettingError, quoted
from monconn.model.actions import Actor
from monconn.model.reasons import BlockSource
from monconn.monitor.deadlines import Deadlines
from monconn.monitor.subscriptions import Subscriptions
from monconn.policy.blocks import Block, BlockChange, Blocks
from monconn.units import format_duration

MAX_REASON_CHARACTERS = 200
MAX_SECONDS = 100 * 365 * 86400.0
"""The longest time for which something is blocked; who wants more leaves it out."""


@attrs.define(eq=False)
class _End:
    """The end of a block, in :class:`Deadlines`."""

    block: Block
    owner: Blocking
    bucket: int | None = None

    def check(self, now: float) -> float | None:
        return self.owner.check(self.block, now)


class Blocking:
    """The blocks of one service, or those for all services, as they come and go.

    A block that has ended counts as absent by the clock alone (:meth:`Blocks.find`). What is done
    here at its end, with one timer for all and within as many turns as it takes, is to remove it
    and to say so.

    :param blocks: what is looked up.
    :param clock: monotonic time and timers.
    :param end: ends the live connections from some networks, and says how many.
    :param ended: called with each block that has ended.
    """

    def __init__(
        self,
        blocks: Blocks,
        clock: Clock,
        end: Callable[[Collection[Network]], int],
        ended: Callable[[Block], object],
    ) -> None:
        self.blocks = blocks
        self.seconds = clock.seconds
        self._end = end
        self._ended = ended
        self._deadlines = Deadlines(clock)
        self._ends: dict[Block, _End] = {}
        self.changes = Subscriptions[[]]()
        """Called after each change of what was blocked or unblocked while the program runs."""
        blocks.when_changed = self._changed

    def block(
        self,
        network: Network,
        *,
        for_seconds: float | None = None,
        reason: str = "",
        keep_open: bool = False,
        source: BlockSource = "operator",
        actor: Actor | None = None,
    ) -> BlockChange:
        """Block a network, or change the end and the reason of its block.

        :param for_seconds: how long; for ever if left out.
        :param reason: why, for people; if left out, one that there is stays.
        :raises SettingError: these cannot be.
        """
        check_block(for_seconds, reason)
        now = self.seconds()
        for ended in self.blocks.of_network(network):
            self.check(ended, now)  # its end is to be told of before another begins
        return self.blocks.block(
            network,
            now,
            source=source,
            by="" if actor is None else actor.describe(),
            since_at=time.time(),
            until=None if for_seconds is None else now + for_seconds,
            reason=reason,
            keep_open=keep_open,
        )

    def block_and_end(
        self,
        network: Network,
        *,
        for_seconds: float | None,
        reason: str,
        keep_open: bool,
        actor: Actor | None,
    ) -> tuple[BlockChange, int]:
        """Block a network as an operator, and end the connections from it unless they are to stay.

        :returns: what has changed, and how many connections were ended.
        """
        change = self.block(
            network, for_seconds=for_seconds, reason=reason, keep_open=keep_open, actor=actor
        )
        return change, 0 if keep_open else self._end([network])

    def unblock(self, network: Network) -> bool:
        """Unblock exactly this network, whatever its source; False if it was not blocked."""
        now = self.seconds()
        for ended in self.blocks.of_network(network):
            self.check(ended, now)
        return self.blocks.unblock(network, now)

    def check(self, block: Block, now: float) -> float | None:
        """Remove a block if it has ended.

        :returns: when it ends; None for never, or if it is no more.
        """
        if self.blocks.remove_ended(block, now):
            self._ended(block)
            return None
        return block.until if self.blocks.has(block) else None

    def _changed(self, block: Block) -> None:
        end = self._ends.get(block)
        if block.until is not None and self.blocks.has(block):
            if end is None:
                end = self._ends[block] = _End(block, self)
            self._deadlines.schedule(end, block.until)
        elif end is not None:
            del self._ends[block]
            self._deadlines.cancel(end)
        self.changes.notify()


def check_block(for_seconds: float | None, reason: str) -> None:
    """Check how long, and why, something is to be blocked.

    :raises SettingError: it cannot be.
    """
    if for_seconds is not None:
        if not (math.isfinite(for_seconds) and for_seconds > 0):
            raise SettingError(f"a block must last longer than 0 seconds, not {for_seconds}")
        if for_seconds > MAX_SECONDS:
            raise SettingError(
                f"a block lasts {format_duration(MAX_SECONDS)} at most; one without an end has no"
                " such time"
            )
    if len(reason) > MAX_REASON_CHARACTERS:
        raise SettingError(
            f"the reason {quoted(reason)} is too long: {MAX_REASON_CHARACTERS} characters at most"
        )


def block_detail(for_seconds: float | None, reason: str) -> str:
    """How long something is blocked, and why, for the audit trail; empty for neither."""
    parts = [] if for_seconds is None else [f"for {format_duration(for_seconds)}"]
    if reason:
        parts.append(f"because: {reason}")
    return ", ".join(parts)
