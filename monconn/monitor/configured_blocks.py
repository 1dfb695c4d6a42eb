"""What the configuration of one service blocks: its ``block``, and its ``block_files``."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed

from monconn.addresses import Network
from monconn.clock import Clock
from monconn.monitor.ending import Ending
from monconn.monitor.live import LiveConnections
from monconn.policy.block_files import BlockFile
from monconn.policy.blocks import Blocks
from monconn.policy.rules import Rules
from monconn.steps import at_once
from monconn.turns import in_turns

AT_ONCE = 500
"""Networks of ``block``, those before and those after together, up to which a change of it is in
force at once: it takes 2 ms."""


class ConfiguredBlocks:
    """Puts in force what rules block, and ends the connections that this concerns.

    Files, and lists of thousands of networks, are put in force in steps, but for the first time.

    :param rules: what is in force from the beginning, before there is a client.
    :param blocks: those of the service, whatever their source.
    :param live: the service's connections.
    :param ending: ends them.
    :param clock: monotonic time and timers.
    """

    def __init__(
        self,
        rules: Rules,
        blocks: Blocks,
        live: LiveConnections,
        ending: Ending,
        clock: Clock,
    ) -> None:
        self._rules = rules
        self._blocks = blocks
        self._live = live
        self._ending = ending
        self._clock = clock
        self._filed: dict[str, BlockFile] = {}  # what of block_files is in force
        self._filing: Deferred[None] = succeed(None)
        # What of block is in force; None while that is neither what it was nor what it is to be.
        self._listed: tuple[Network, ...] | None = rules.block
        blocks.configure(rules.block, since_at=time.time())
        for _ in self._put_files_in_force(rules.block_files):
            pass

    def configure(self, rules: Rules) -> None:
        """Put other rules in force."""
        before, self._rules = self._rules, rules
        is_dry_run = "block" in rules.dry_run
        is_long = False
        if rules.block != before.block:
            is_long = self._listed is None or len(self._listed) + len(rules.block) > AT_ONCE
            if not is_long:
                new = at_once(self._put_list_in_force())
                if not is_dry_run:
                    self._ending.end_blocked(new)
        is_real_now = "block" in before.dry_run and not is_dry_run
        if is_long or rules.block_files != before.block_files or is_real_now:

            def configure() -> Iterator[None]:
                if self._listed is None or self._listed != self._rules.block:
                    yield from self._put_list_in_force()
                yield from self._put_files_in_force(rules.block_files)
                yield from self._end_configured()

            self._filing.cancel()  # what follows does all of it
            self._filing = in_turns(self._clock, configure())
            self._filing.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def _put_list_in_force(self) -> Generator[None, None, list[Network]]:
        networks, self._listed = self._rules.block, None
        new = yield from self._blocks.configure_in_steps(
            networks, since_at=time.time(), now=self._clock.seconds()
        )
        self._listed = networks
        return new

    def _put_files_in_force(self, files: Collection[BlockFile]) -> Iterator[None]:
        named = {each.path: each for each in files}
        for path in {*self._filed, *named}:
            file = named.get(path)
            if file is not None and self._filed.get(path) == file:
                continue
            # Until it is done, it is neither what it was nor what it is to be.
            self._filed[path] = attrs.evolve(self._filed.get(path) or named[path], digest=b"")
            origins = {} if file is None else file.origins
            yield from self._blocks.configure_file(
                path, origins, since_at=time.time(), now=self._clock.seconds()
            )
            if file is None:
                del self._filed[path]
            else:
                self._filed[path] = file

    def _end_configured(self) -> Iterator[None]:
        """End the live connections whose clients the configuration blocks, in steps."""
        ips = set()
        for ip in tuple(self._live.by_ip):
            # Not the block that its client meets: that may be an operator's, who leaves it open.
            if self._blocks.find_configured(ip) is not None:
                ips.add(ip)
            yield
        if ips and "block" not in self._rules.dry_run:
            self._ending.end("blocked", ips)
