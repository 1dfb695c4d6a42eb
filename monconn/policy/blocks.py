"""Blocked networks: who has blocked each, until when, and how many clients it has met."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from socket import AF_INET, AF_INET6, inet_pton

import attrs

from monconn.addresses import Network
from monconn.model.reasons import BlockSource

CONFIGURED: tuple[BlockSource, ...] = ("configuration", "file")
_RUN_TIME: tuple[BlockSource, ...] = ("operator", "auto")
# Of several blocks of a network without an end, the first of these sources is shown.
_RANK = {"operator": 3, "auto": 2, "configuration": 1, "file": 0}
_NEVER = float("inf")
_STEP = 64
"""Networks for each step of work in steps: some 0.1 ms."""


def network_order(network: Network) -> tuple[int, int, int]:
    """The key by which networks are sorted; networks themselves take ten times as long."""
    return network.version, int(network.network_address), network.prefixlen


@attrs.define(eq=False)
class Block:
    """One block of a network. Only :class:`Blocks`, and who counts hits, changes it."""

    network: Network
    source: BlockSource
    by: str = ""
    """Who has blocked it, or has changed its end last; empty for the configuration."""
    since_at: float = 0.0
    """Since when, in wall-clock seconds."""
    until: float | None = None
    """When it ends, in monotonic seconds; None for never."""
    reason: str = ""
    keep_open: bool = False
    """Whether connections that were live when it began were left open."""
    origin: str = ""
    """``FILE:LINE`` of what is configured, where that is known."""
    hits: int = 0
    """How many clients it has met: they were refused, or would have been but for ``dry_run``."""

    def is_over(self, now: float) -> bool:
        """Whether it has ended, by monotonic seconds; then it counts as absent."""
        return self.until is not None and self.until <= now

    def left_seconds(self, now: float) -> float | None:
        """Seconds to its end, by monotonic seconds; None if it has none."""
        return None if self.until is None else max(0.0, self.until - now)


@attrs.frozen
class BlockChange:
    """What :meth:`Blocks.block` has done."""

    block: Block
    """What is in force for the network now."""
    is_new: bool
    """Whether the network was not blocked before."""
    is_changed: bool
    """Whether it is blocked in another way than before: until another time, or for another
    reason."""


class Blocks:
    """The blocks of one service, or those for all services.

    Those of the configuration, of each of its files, of operators and of ``auto_block`` are stored
    apart. What is done while the program runs outlasts a changed configuration: a network that the
    operator has blocked stays so when the configuration no longer names it, and one of the
    configuration's that the operator has unblocked stays open while the configuration goes on
    naming it.

    Of several blocks of the same network the one that ends last is in force. A block that has
    ended counts as absent at that moment; :meth:`remove_ended` is for tidiness.

    All times called ``now`` are monotonic seconds.

    :param configured: the configuration's networks.
    :param origins: where those stand, as ``FILE:LINE``.
    """

    def __init__(
        self, configured: Iterable[Network] = (), origins: Mapping[Network, str] | None = None
    ) -> None:
        self._by_source: dict[str, dict[Network, Block]] = {}
        self._lifted: dict[Network, BlockSource] = {}  # configured, and unblocked by the operator
        self._in_force: dict[Network, Block] = {}
        # By version and length of prefix, the longest first: a look-up costs one step for each
        # length in use, and not for each network.
        self.tables: dict[int, dict[int, dict[int, Block]]] = {}
        """What is in force, as :meth:`find` looks it up; empty, and so false, if there is nothing:
        data paths ask this first."""
        self.when_changed: Callable[[Block], object] | None = None
        """Called with each block of an operator or of ``auto_block`` that was added, changed or
        removed, and with a configured one that was unblocked."""
        self.configure(configured, origins)

    # -- look-ups

    def find(self, ip: str, now: float) -> Block | None:
        """The block that an IP meets; of several, that of the smallest network.

        :param ip: as :func:`~monconn.addresses.plain_ip` gives it; a client on a UNIX socket has
            none, and is in no network.
        """
        if not self.tables:
            return None
        # inet_pton takes a quarter of the time of ipaddress, which matters for each client.
        family, version, bits = (AF_INET6, 6, 128) if ":" in ip else (AF_INET, 4, 32)
        table = self.tables.get(version)
        if table is None:
            return None
        try:
            number = int.from_bytes(inet_pton(family, ip.partition("%")[0]), "big")
        except (OSError, ValueError):  # ValueError is for a NUL
            return None
        for length, networks in table.items():
            block = networks.get(number >> (bits - length))
            if block is not None and (block.until is None or now < block.until):
                return block
        return None

    def find_run_time(self, ip: str, now: float) -> Block | None:
        """The block of an operator or of ``auto_block`` that an IP meets, whatever is configured.

        It takes longer than :meth:`find`: ask that first.
        """
        if not any(self._by_source.get(source) for source in _RUN_TIME):
            return None
        for network in _networks_with(ip, self.tables):
            for block in self.of_network(network):
                if not block.is_over(now):
                    return block
        return None

    def find_configured(self, ip: str) -> Block | None:
        """The block of the configuration that an IP meets, whatever else blocks it.

        It takes longer than :meth:`find`.
        """
        for network in _networks_with(ip, self.tables):
            if network not in self._lifted:
                for key, blocks in self._by_source.items():
                    if network in blocks and any(_is_of(key, each) for each in CONFIGURED):
                        return blocks[network]
        return None

    def find_lifted(self, ip: str) -> Block | None:
        """The smallest configured network with an IP that an operator has unblocked."""
        if not self._lifted:
            return None
        for network in _networks_with(ip, _EVERY_LENGTH):
            if network in self._lifted:
                for key, blocks in self._by_source.items():
                    if network in blocks and any(_is_of(key, each) for each in CONFIGURED):
                        return blocks[network]
        return None

    def covers(self, ip: str, now: float) -> bool:
        """Whether a blocked network has an IP."""
        return self.find(ip, now) is not None

    def get(self, network: Network, now: float) -> Block | None:
        """The block of exactly this network that is in force."""
        block = self._in_force.get(network)
        return None if block is None or block.is_over(now) else block

    def in_force(self) -> Iterator[Block]:
        """The block in force of each network, in no order, as of now: for work in steps.

        Some may have ended by the time that they come.
        """
        return iter(tuple(self._in_force.values()))

    def run_time(self) -> Iterator[Block]:
        """All blocks of operators and of ``auto_block``, as of now, also those that are not in
        force because another one lasts longer."""
        for source in _RUN_TIME:
            yield from tuple(self._by_source.get(source, {}).values())

    def of_network(self, network: Network) -> list[Block]:
        """The blocks of operators and of ``auto_block`` of exactly this network."""
        found = (self._by_source.get(source, {}).get(network) for source in _RUN_TIME)
        return [each for each in found if each is not None]

    def has(self, block: Block) -> bool:
        """Whether a block of an operator or of ``auto_block`` is still there."""
        return self._by_source.get(block.source, {}).get(block.network) is block

    def lifted(self) -> dict[Network, BlockSource]:
        """The configured networks that an operator has unblocked, and what has configured them."""
        return dict(self._lifted)

    def count(self, source: BlockSource) -> int:
        """How many blocks a source has; those that have just ended may be among them."""
        return sum(len(self._by_source[key]) for key in self._by_source if _is_of(key, source))

    def networks(self, source: BlockSource | None = None, *, now: float) -> list[Network]:
        """The blocked networks, in order.

        :param source: only those that this source has blocked, whatever is in force.
        """
        if source is None:
            found = {each.network for each in self._in_force.values() if not each.is_over(now)}
        else:
            found = {
                each.network
                for key, blocks in self._by_source.items()
                if _is_of(key, source)
                for each in blocks.values()
                if not each.is_over(now)
            }
            if source in CONFIGURED:
                found -= set(self._lifted)
        return sorted(found, key=network_order)

    def __len__(self) -> int:
        """How many networks have a block; those that have just ended may be among them."""
        return len(self._in_force)

    def __bool__(self) -> bool:
        return True

    # -- what operators and auto_block do

    def block(
        self,
        network: Network,
        now: float,
        *,
        source: BlockSource = "operator",
        by: str = "",
        since_at: float = 0.0,
        until: float | None = None,
        reason: str = "",
        keep_open: bool = False,
    ) -> BlockChange:
        """Block a network, or change the end and the reason of its block.

        A reason that is not given stays; an end that is not given is none.

        :param source: ``operator`` or ``auto``; each has one block of a network.
        """
        before = self.get(network, now)
        was = None if before is None else (before.until, before.reason, before.keep_open)
        own = self._by_source.setdefault(source, {})
        block = own.get(network)
        if block is None or block.is_over(now):
            block = own[network] = Block(network, source, since_at=since_at)
        is_same = (block.until, block.keep_open) == (until, keep_open) and reason in (
            "",
            block.reason,
        )
        if before is not block or not is_same:
            block.by = by
        block.until, block.keep_open = until, keep_open
        block.reason = reason or block.reason
        if until is None:  # else a network that was unblocked is so again at the end
            self._lifted.pop(network, None)
        self._update(network)
        self._notify(block)
        after = self._in_force[network]
        is_changed = was != (after.until, after.reason, after.keep_open)
        return BlockChange(after, before is None, is_changed)

    def unblock(self, network: Network, now: float) -> bool:
        """Unblock exactly this network, whatever its source; False if it was not blocked."""
        was_there = self.get(network, now)
        removed = self.of_network(network)
        for each in removed:
            del self._by_source[each.source][network]
        configured = self._configured_source(network)
        if configured is not None:
            self._lifted[network] = configured
        self._update(network)
        for each in removed or ([] if was_there is None else [was_there]):
            self._notify(each)
        return was_there is not None

    def restore(self, block: Block) -> None:
        """Put a block of an earlier run in place; one that is there already stays."""
        own = self._by_source.setdefault(block.source, {})
        if block.network not in own:
            own[block.network] = block
            self._update(block.network)
            self._notify(block)

    def restore_lifted(self, network: Network, source: BlockSource) -> None:
        """Have a network unblocked that an operator has unblocked in an earlier run.

        One of ``block`` only if the configuration still names it; one of a file always, as that
        may be read later.
        """
        if source == "file" or self._configured_source(network) is not None:
            self._lifted[network] = source
            self._update(network)

    def remove_ended(self, block: Block, now: float) -> bool:
        """Remove a block that has ended; False if it has not, or was removed or replaced."""
        if not (block.is_over(now) and self.has(block)):
            return False
        del self._by_source[block.source][block.network]
        self._update(block.network)
        self._notify(block)
        return True

    # -- what is configured

    def configure(
        self,
        networks: Iterable[Network],
        origins: Mapping[Network, str] | None = None,
        *,
        since_at: float = 0.0,
        now: float = 0.0,
    ) -> list[Network]:
        """Put in place what a new configuration blocks.

        :param origins: where the networks stand, as ``FILE:LINE``.
        :returns: the networks that were not blocked before, and are now.
        """
        return result_of(self.configure_in_steps(networks, origins, since_at=since_at, now=now))

    def configure_in_steps(
        self,
        networks: Iterable[Network],
        origins: Mapping[Network, str] | None = None,
        *,
        since_at: float = 0.0,
        now: float = 0.0,
    ) -> Generator[None, None, list[Network]]:
        """The same in steps."""
        where = origins or {}
        named: dict[Network, str] = {}
        for network in networks:
            named[network] = where.get(network, "")
            if len(named) % _STEP == 0:
                yield
        return (yield from self._configure("configuration", "configuration", named, since_at, now))

    def configure_file(
        self, path: str, origins: Mapping[Network, str], *, since_at: float = 0.0, now: float = 0.0
    ) -> Generator[None, None, list[Network]]:
        """Put in place what a file of ``block_files`` blocks, in steps; nothing if it is empty.

        Networks of the file that stay keep their hits.

        :param origins: its networks, and where each stands, as ``FILE:LINE``.
        :returns: the networks that were not blocked before, and are now.
        """
        return self._configure(f"file {path}", "file", origins, since_at, now)

    def files(self) -> list[str]:
        """The paths of the files that block something."""
        return [key.removeprefix("file ") for key in self._by_source if _is_of(key, "file")]

    def _configure(
        self,
        key: str,
        source: BlockSource,
        origins: Mapping[Network, str],
        since_at: float,
        now: float,
    ) -> Generator[None, None, list[Network]]:
        own = self._by_source.setdefault(key, {})
        added: list[Network] = []
        work = 0
        for network, origin in origins.items():
            block = own.get(network)
            if block is not None:
                block.origin = origin
            else:
                was_blocked = self.get(network, now) is not None
                own[network] = Block(network, source, since_at=since_at, origin=origin)
                self._update(network)
                if not was_blocked and network in self._in_force:
                    added.append(network)
            work += 1
            if work % _STEP == 0:
                yield
        for network in tuple(own):
            if network not in origins:
                del own[network]
                if self._configured_source(network) is None:
                    self._lifted.pop(network, None)
                self._update(network)
            work += 1
            if work % _STEP == 0:
                yield
        if not own and self._by_source.get(key) is own:
            del self._by_source[key]
        return added

    # -- what is in force

    def _configured_source(self, network: Network) -> BlockSource | None:
        for key, blocks in self._by_source.items():
            if network in blocks:
                for source in CONFIGURED:
                    if _is_of(key, source):
                        return source
        return None

    def _update(self, network: Network) -> None:
        """Determine what is in force for a network."""
        is_lifted = network in self._lifted
        found = [
            block
            for blocks in self._by_source.values()
            if (block := blocks.get(network)) is not None
            and not (is_lifted and block.source in CONFIGURED)
        ]
        bits = network.max_prefixlen
        key = int(network.network_address) >> (bits - network.prefixlen)
        table = self.tables.get(network.version, {})
        if found:
            # As it ends last, all others have ended once it has.
            block = self._in_force[network] = max(found, key=_precedence)
            if network.prefixlen not in table:
                table = {**table, network.prefixlen: {}}
                lengths = sorted(table, reverse=True)
                table = self.tables[network.version] = {each: table[each] for each in lengths}
            table[network.prefixlen][key] = block
        elif self._in_force.pop(network, None) is not None:
            del table[network.prefixlen][key]
            if not table[network.prefixlen]:
                del table[network.prefixlen]
            if not table:
                del self.tables[network.version]

    def _notify(self, block: Block) -> None:
        if self.when_changed is not None:
            self.when_changed(block)


def _is_of(key: str, source: BlockSource) -> bool:
    return key == source or (source == "file" and key.startswith("file "))


def _precedence(block: Block) -> tuple[float, int]:
    return _NEVER if block.until is None else block.until, _RANK[block.source]


def result_of(steps: Generator[None, None, list[Network]]) -> list[Network]:
    """What :meth:`Blocks.configure_file` returns, without turns in between."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            found: list[Network] = stop.value
            return found


_EVERY_LENGTH = {4: range(32, -1, -1), 6: range(128, -1, -1)}


def _networks_with(ip: str, lengths: Mapping[int, Iterable[int]]) -> Iterator[Network]:
    """The networks that an IP is in; none for a text that is no IP.

    :param lengths: those of their prefixes, by the version of IP.
    """
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return
    of_version = IPv4Network if address.version == 4 else IPv6Network  # ::1 would be IPv4
    for length in lengths.get(address.version, ()):
        yield of_version((int(address), length), strict=False)
