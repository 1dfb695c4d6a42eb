"""Who may enter a service now: its rules, judged against what its clients have used up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import attrs

from monconn.addresses import Network
from monconn.model.reasons import Refusal
from monconn.policy.blocks import CONFIGURED, Block, Blocks
from monconn.policy.buckets import ClientBuckets, TokenBucket
from monconn.policy.networks import NetworkSet, NetworkTuple
from monconn.policy.prefixes import ClientPrefixes
from monconn.policy.quantities import Rate
from monconn.policy.rules import REFUSAL_OF, RULES, Rule, Rules


@attrs.frozen
class Verdict:
    """What becomes of a client."""

    refusal: Refusal | None = None
    """Why it is refused; None if it may enter."""
    would_refuse: tuple[Refusal, ...] = ()
    """Why it would be refused by rules that are in ``dry_run``."""


ADMITTED = Verdict()


@attrs.frozen
class RuleState:
    """How a rule stands towards one client, were it to come now."""

    rule: Rule
    refuses: bool
    """Whether it would refuse the client, or would if it were not in ``dry_run``."""
    is_dry_run: bool = False
    """Whether the rule refuses nobody, and only counts."""
    used: float | None = None
    """How much of the limit is used up: connections, clients, or tokens; None if there is none."""
    limit: int | None = None
    """The limit: the setting, or the burst of a rate; None of networks."""
    rate: Rate | None = None
    """The setting, if it is a rate."""
    network: Network | None = None
    """Of ``allow``, the network that has the client."""
    block: Block | None = None
    """Of ``block``, the block that the client meets."""
    lifted: Block | None = None
    """Of ``block``, if the client meets none: the configured one that it would meet, had an
    operator not unblocked that network."""
    wait_seconds: float | None = None
    """For how long a rate lets nobody in; None of other rules."""


class Admission:
    """Judges the clients of one service; all times are monotonic seconds.

    It counts the connections of each client only while a rule asks for that: they are those that
    the monitor has, by client instead of by IP.

    :param rules: the rules in force.
    :param blocks: the blocked networks of this service.
    :param prefixes: which addresses are one client.
    """

    def __init__(self, rules: Rules, blocks: Blocks, prefixes: ClientPrefixes) -> None:
        self.rules = rules
        self.prefixes = prefixes
        self._blocks = blocks
        self.shared_blocks = Blocks()
        """Those of all services; the registry that the monitor is in sets it."""
        self._allowed: NetworkSet | None = None
        self._by_client: dict[str, int] | None = None
        self._bucket: TokenBucket | None = None
        self._buckets: ClientBuckets | None = None
        self._has_rules = False
        # Asked for each client, so that those whom no such rule concerns cost no call.
        self.counts_clients = False
        """Whether :meth:`opened` and :meth:`closed` are to be called."""
        self.may_wait = False
        """Whether :meth:`is_full` or :meth:`waits_until` may leave clients waiting."""
        self.configure(rules, prefixes, {}, 0.0)

    def configure(
        self,
        rules: Rules,
        prefixes: ClientPrefixes,
        connections_by_ip: Mapping[str, int],
        now: float,
    ) -> None:
        """Put other rules in force; what clients have used up of a limit stays used up.

        :param connections_by_ip: the live connections.
        """
        before, same_clients = self.rules, self.prefixes == prefixes
        self.rules, self.prefixes = rules, prefixes
        self._allowed = cast(NetworkTuple, rules.allow).members if rules.allow else None
        if rules.rate is None:
            self._bucket = None
        elif self._bucket is None:
            self._bucket = TokenBucket(rules.rate)
        elif rules.rate != before.rate:
            self._bucket = self._bucket.with_rate(rules.rate, now)
        if rules.per_ip_rate is None:
            self._buckets = None
        elif self._buckets is None or not same_clients:
            self._buckets = ClientBuckets(rules.per_ip_rate)
        elif rules.per_ip_rate != before.per_ip_rate:
            self._buckets.set_rate(rules.per_ip_rate, now)
        if not (rules.ip_limit or rules.per_ip_limit):
            self._by_client = None
        elif self._by_client is None or not same_clients:
            self._by_client = {}
            for ip, count in connections_by_ip.items():
                client = prefixes.client_of(ip)
                self._by_client[client] = self._by_client.get(client, 0) + count
        self.counts_clients = self._by_client is not None
        waiting = [key for key in ("conn_limit", "rate") if key not in rules.dry_run]
        self.may_wait = rules.when_full == "wait" and any(getattr(rules, key) for key in waiting)
        self._has_rules = any(
            (
                rules.allow,
                rules.conn_limit,
                rules.ip_limit,
                rules.per_ip_limit,
                rules.rate,
                rules.per_ip_rate,
            )
        )

    # -- clients that come and go

    def judge(self, ip: str, connections: int, now: float, *, takes_tokens: bool = True) -> Verdict:
        """Decide whether a client may enter; it takes a token of each rate if it may.

        :param ip: as :func:`~monconn.addresses.plain_ip` gives it.
        :param connections: how many are live.
        :param takes_tokens: False to ask again about one that has taken them.
        """
        if not (self._has_rules or self._blocks.tables or self.shared_blocks.tables):
            return ADMITTED
        would_refuse: tuple[Refusal, ...] = ()
        for rule in self._refusing(ip, connections, now, takes_tokens):
            if rule == "block" and (takes_tokens or rule not in self.rules.dry_run):
                self._count_hit(ip, now)
            if not self.is_dry_run(rule, ip, now):
                return Verdict(REFUSAL_OF[rule], would_refuse)
            would_refuse += (REFUSAL_OF[rule],)
        if takes_tokens:
            if self._bucket is not None and self._bucket.has(now):
                self._bucket.take(now)
            if self._buckets is not None:
                client = self.prefixes.client_of(ip)
                if self._buckets.has(client, now):
                    self._buckets.take(client, now)
        return Verdict(None, would_refuse) if would_refuse else ADMITTED

    def _refusing(self, ip: str, connections: int, now: float, asks_rates: bool) -> Iterator[Rule]:
        """The rules that refuse a client, in the order of :data:`~monconn.policy.rules.RULES`: that
        which does not end by itself first, then those of the client alone, then the service's."""
        rules = self.rules
        if self.find_block(ip, now) is not None:
            yield "block"
        # A wrapped factory's outgoing connections have no client: only we ourselves.
        has_client = ip != "local"
        if self._allowed is not None and has_client and not self._allowed.covers(ip):
            yield "allow"
        own = 0
        if has_client and (self._by_client is not None or self._buckets is not None):
            client = self.prefixes.client_of(ip)
            own = 0 if self._by_client is None else self._by_client.get(client, 0)
            if rules.per_ip_limit and own >= rules.per_ip_limit:
                yield "per_ip_limit"
            if asks_rates and self._buckets is not None and not self._buckets.has(client, now):
                yield "per_ip_rate"
        if rules.conn_limit and connections >= rules.conn_limit:
            yield "conn_limit"
        is_new = has_client and not own
        if rules.ip_limit and is_new and len(self._by_client or ()) >= rules.ip_limit:
            yield "ip_limit"
        if asks_rates and self._bucket is not None and not self._bucket.has(now):
            yield "rate"

    def explain(self, ip: str, connections: int, now: float) -> list[RuleState]:
        """Every rule that is set, in the order in which :meth:`judge` asks; it changes nothing.

        A client is refused by the first that :attr:`~RuleState.refuses` and is no dry run.

        :param ip: as :func:`~monconn.addresses.plain_ip` gives it.
        :param connections: how many are live.
        """
        rules, client = self.rules, self.prefixes.client_of(ip)
        refusing = frozenset(self._refusing(ip, connections, now, asks_rates=True))
        by_client = self._by_client or {}
        figures: dict[Rule, dict[str, Any]] = {}
        lifted = self._blocks.find_lifted(ip)
        if self._blocks.tables or self.shared_blocks.tables or lifted is not None:
            found = self.find_block(ip, now)
            figures["block"] = {"block": found, "lifted": lifted if found is None else None}
        if self._allowed is not None:
            figures["allow"] = {"network": self._allowed.find(ip)}
        if rules.per_ip_limit:
            figures["per_ip_limit"] = {"used": by_client.get(client, 0)}
        if self._buckets is not None:
            figures["per_ip_rate"] = {
                "used": self._buckets.used(client, now),
                "wait_seconds": self._buckets.next_at(client, now) - now,
            }
        if rules.conn_limit:
            figures["conn_limit"] = {"used": connections}
        if rules.ip_limit:
            figures["ip_limit"] = {"used": len(by_client)}
        if self._bucket is not None:
            figures["rate"] = {
                "used": self._bucket.used(now),
                "wait_seconds": self._bucket.next_at(now) - now,
            }
        states = []
        for rule in RULES:
            if rule not in figures:
                continue
            setting = getattr(rules, rule)
            if isinstance(setting, Rate):
                figures[rule] |= {"rate": setting, "limit": setting.burst}
            elif isinstance(setting, int):
                figures[rule]["limit"] = setting
            is_dry_run = self.is_dry_run(rule, ip, now)
            states.append(RuleState(rule, rule in refusing, is_dry_run, **figures[rule]))
        return states

    def _count_hit(self, ip: str, now: float) -> None:
        # A client is asked about twice around its TLS handshake; one that a rule in dry_run has let
        # in was counted the first time, and one that is refused now was not.
        block = self.find_block(ip, now)
        if block is not None:
            block.hits += 1

    def find_block(self, ip: str, now: float) -> Block | None:
        """The block that an IP meets: one of this service's, or else one of all services'.

        If ``block`` is in ``dry_run``, one that was made at run time goes before those that are
        configured, as it refuses all the same.
        """
        block = self._blocks.find(ip, now)
        if block is not None and block.source in CONFIGURED and "block" in self.rules.dry_run:
            real = self._blocks.find_run_time(ip, now) or self.shared_blocks.find(ip, now)
            return real or block
        return block or self.shared_blocks.find(ip, now)

    def is_dry_run(self, rule: Rule, ip: str, now: float) -> bool:
        """Whether a rule that refuses a client only counts it.

        Of blocks that holds for those of the configuration: one that an operator or ``auto_block``
        has made is meant.
        """
        if rule not in self.rules.dry_run:
            return False
        block = self.find_block(ip, now) if rule == "block" else None
        return block is None or block.source in CONFIGURED

    @property
    def clients(self) -> int | None:
        """How many clients have a live connection; None if no rule asks for that."""
        return None if self._by_client is None else len(self._by_client)

    def opened(self, ip: str) -> None:
        """A connection of an IP has taken its place."""
        if self._by_client is not None:
            client = self.prefixes.client_of(ip)
            self._by_client[client] = self._by_client.get(client, 0) + 1

    def closed(self, ip: str) -> None:
        """A connection of an IP has left its place."""
        if self._by_client is not None:
            client = self.prefixes.client_of(ip)
            left = self._by_client[client] - 1
            if left:
                self._by_client[client] = left
            else:
                del self._by_client[client]

    def forget_in_steps(self, is_one: Callable[[str], bool]) -> Iterator[None]:
        """Drop what rates have counted of some clients."""
        if self._buckets is not None:
            yield from self._buckets.forget_in_steps(is_one)

    # -- clients that wait

    def is_full(self, connections: int) -> bool:
        """Whether further clients are to wait until a connection ends."""
        rules = self.rules
        return bool(
            rules.conn_limit
            and connections >= rules.conn_limit
            and rules.when_full == "wait"
            and "conn_limit" not in rules.dry_run
        )

    def waits_until(self, now: float) -> float | None:
        """Until when further clients are to wait because of the rate; None if they need not."""
        rules = self.rules
        if self._bucket is None or rules.when_full != "wait" or "rate" in rules.dry_run:
            return None
        return None if self._bucket.has(now) else self._bucket.next_at(now)
