"""One service's live connections, totals and operations."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed

from monconn.addresses import Network, parse_network, plain_ip
from monconn.clock import MonotonicClock
from monconn.errors import UnknownConnection
from monconn.model.actions import OWN_CODE, Action, ActionKind, Actor
from monconn.model.alarms import Alarm
from monconn.model.reasons import Direction, Refusal
from monconn.model.record import ConnectionRecord, iso_time
from monconn.model.totals import Totals
from monconn.monitor.clients import ClientTotals
from monconn.monitor.interfaces import IConnection, IObserver
from monconn.monitor.observers import Notifier
from monconn.policy.networks import NetworkSet
from monconn.policy.rules import Rules
from monconn.policy.timeouts import Timeouts
from monconn.units import format_bytes, format_duration

CLOSED_KEPT = 1_000
STOP_GRACE_SECONDS = 1.0
"""How long peers may take to answer an end that we gave them because we stop."""

_ids = itertools.count(1)  # one row of numbers for all services: ``monconn close 42``


class Monitor(Notifier):
    """Watches one service, and is the only place where anything is done to it.

    :param name: the service's name (``sid`` in the Go tool).
    :param rules: whom to let in; everyone if left out.
    :param timeouts: when to end connections.
    :param listen: where the service listens, for display.
    :param backend: whom it forwards to, for display.
    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    :param observers: who is told of everything.
    """

    def __init__(
        self,
        name: str = "default",
        rules: Rules | None = None,
        timeouts: Timeouts | None = None,
        *,
        listen: str = "",
        backend: str = "",
        clock: Any = None,
        observers: Iterable[IObserver] = (),
    ) -> None:
        super().__init__(name, observers)
        self.rules = Rules() if rules is None else rules
        self.timeouts = Timeouts() if timeouts is None else timeouts
        self.listen = listen
        self.backend = backend
        self.clock = MonotonicClock() if clock is None else clock
        self.booted_at = time.time()
        self.accessed_at: float | None = None
        self.stopping = False
        self.closed_records: deque[ConnectionRecord] = deque(maxlen=CLOSED_KEPT)
        self.clients = ClientTotals()
        self._booted = self.clock.seconds()
        self._live: dict[int, IConnection] = {}
        self._live_by_ip: dict[str, int] = {}
        self._ended = Totals()  # of connections that are over; ``opened`` of all
        self._subtracted = Totals()
        self._room_callbacks: list[Callable[[], object]] = []
        self._when_empty: list[Deferred[None]] = []

    # -- what the roads tell it

    def admit(self, client: str, client_ip: str, *, backend: str = "") -> ConnectionRecord | None:
        """Judge a client that wants to enter.

        :param client: who it is, as :attr:`ConnectionRecord.client` shows it.
        :param client_ip: its IP, in any notation.
        :returns: a record for :meth:`opened`, or None: refused, counted and told.
        """
        client_ip = plain_ip(client_ip)
        record = ConnectionRecord(
            id=next(_ids),
            service=self.name,
            client=client,
            client_ip=client_ip,
            listener=self.listen,
            backend=backend or self.backend,
            opened_at=time.time(),
            opened=self.clock.seconds(),
        )
        self.accessed_at = record.opened_at
        refusal = (
            "stopping"
            if self.stopping
            else self.rules.refusal(client_ip, len(self._live), self._live_by_ip)
        )
        if refusal is None:
            return record
        self._refuse(record, refusal)
        return None

    def _refuse(self, record: ConnectionRecord, refusal: Refusal) -> None:
        record.refusal = refusal
        record.state = "closed"
        record.closed, record.closed_at = record.opened, record.opened_at
        self._ended.refused[refusal] += 1
        self._notify("refused", record)

    def opened(self, connection: IConnection) -> None:
        """Take in a connection whose record :meth:`admit` has made."""
        record = connection.record
        self._live[record.id] = connection
        self._live_by_ip[record.client_ip] = self._live_by_ip.get(record.client_ip, 0) + 1
        self._ended.opened += 1
        self.clients.opened(record)
        if self._subscribers["opened"]:
            self._notify("opened", record)

    def saw(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        """Show payload to whoever watches it."""
        self._notify("data", record, direction, data)

    def alarm(self, alarm: Alarm) -> None:
        """Tell whoever wants to hear of it that a device behaves as it should not."""
        self._notify("alarmed", alarm)

    def closed(self, connection: IConnection) -> None:
        """Let go of a connection whose sockets are closed; harmless the second time."""
        record = connection.record
        if self._live.pop(record.id, None) is None:
            return
        self._leave_ip(record.client_ip)
        record.state = "closed"
        record.closed, record.closed_at = self.clock.seconds(), time.time()
        self._ended.up += record.up
        self._ended.down += record.down
        self.clients.closed(record)
        self.closed_records.append(record)
        self._notify("closed", record)
        for call in self._room_callbacks:
            call()
        if self._when_empty and not self._live:
            self._notify_empty()

    def _leave_ip(self, client_ip: str) -> None:
        left = self._live_by_ip[client_ip] - 1
        if left:
            self._live_by_ip[client_ip] = left
        else:
            del self._live_by_ip[client_ip]

    def _notify_empty(self) -> None:
        waiting, self._when_empty = self._when_empty, []
        for deferred in waiting:
            deferred.callback(None)

    def must_wait(self) -> bool:
        """Whether the next client is to be left in the accept queue."""
        return self.rules.conn_limit > 0 and self.rules.must_wait(len(self._live))

    def when_room(self, call: Callable[[], object]) -> None:
        """Have something called each time a connection has left."""
        self._room_callbacks.append(call)

    # -- what can be asked of it

    def __len__(self) -> int:
        """How many connections are live."""
        return len(self._live)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, connection_id: object) -> bool:
        """Whether a live connection has this id."""
        return connection_id in self._live

    def connections(self) -> list[ConnectionRecord]:
        """The live connections, oldest first."""
        return [connection.record for connection in self._live.values()]

    def connection(self, connection_id: int) -> ConnectionRecord:
        """One live connection.

        :raises UnknownConnection: there is none with this id.
        """
        return self._connection(connection_id).record

    def measure(self, connection_id: int) -> None:
        """Put what the system knows of a connection's sockets now into its record.

        :raises UnknownConnection: there is none with this id.
        """
        self._connection(connection_id).measure()

    def _connection(self, connection_id: int) -> IConnection:
        try:
            return self._live[connection_id]
        except KeyError:
            raise UnknownConnection(f"no live connection has the id {connection_id}") from None

    def connections_by_ip(self) -> Mapping[str, int]:
        """How many live connections each client IP has; only IPs that have any."""
        return dict(self._live_by_ip)

    def client_ips(self) -> int:
        """How many client IPs have live connections."""
        return len(self._live_by_ip)

    def bytes(self) -> tuple[int, int]:
        """Bytes up and down: of closed and live connections, less what was taken off."""
        totals = self.totals()
        return totals.up, totals.down

    def totals(self) -> Totals:
        """What is counted, less what was taken off."""
        return self.counted() - self._subtracted

    def carry_over(self, totals: Totals) -> None:
        """Count on from what an earlier run has counted."""
        self._ended += totals

    def counted(self) -> Totals:
        """All that was ever counted, whatever was taken off."""
        records = self.connections()
        live = Totals(up=sum(each.up for each in records), down=sum(each.down for each in records))
        return self._ended + live

    def uptime_seconds(self) -> float:
        """Seconds since the monitor was made."""
        return float(self.clock.seconds() - self._booted)

    def stats(self) -> dict[str, Any]:
        """The service in figures, as plain values for JSON."""
        totals = self.totals()
        return {
            "sid": self.name,
            "listen": self.listen,
            "backend": self.backend,
            "booted_at": iso_time(self.booted_at),
            "uptime": round(self.uptime_seconds(), 3),
            "accessed": None if self.accessed_at is None else iso_time(self.accessed_at),
            "connections": len(self._live),
            "total": totals.opened,
            "ips": sorted(self._live_by_ip),
            "refused": sum(totals.refused.values()),
            "refused_by": dict(totals.refused),
            "up": totals.up,
            "down": totals.down,
        }

    def describe(self) -> str:
        """The same in one line for people."""
        stats = self.stats()
        return (
            f"{self.name}: connections {len(self)}, ips {len(stats['ips'])},"
            f" total {stats['total']}, refused {stats['refused']},"
            f" up {format_bytes(stats['up'])}, down {format_bytes(stats['down'])},"
            f" uptime {format_duration(self.uptime_seconds())}"
        )

    # -- what can be done to it
    #
    # Each of these is reported as an action of an actor; with None for the actor it is not, as
    # :class:`monconn.ops.operations.Operations` reports what it does to many monitors as one.

    def close(
        self, connection_id: int, *, reset: bool = False, actor: Actor | None = OWN_CODE
    ) -> None:
        """End a connection, with the reason ``operator``.

        :raises UnknownConnection: there is none with this id.
        """
        self._connection(connection_id).end("operator", reset)
        self._acted(actor, "reset" if reset else "close", f"id {connection_id}", 1)

    def close_all(
        self,
        network: str | Network | None = None,
        *,
        reset: bool = False,
        actor: Actor | None = OWN_CODE,
    ) -> int:
        """End every connection, or those of a network's clients, with the reason ``operator``.

        :returns: how many there were.
        :raises AddressError: it is no network.
        """
        clients = None if network is None else NetworkSet([_network(network)])
        chosen = [
            connection
            for connection in self._live.values()
            if (reset or connection.record.reason is None)  # else it is ending already
            and (clients is None or clients.covers(connection.record.client_ip))
        ]
        for connection in chosen:
            connection.end("operator", reset)
        target = f"service:{self.name}" + ("" if network is None else f" client:{network}")
        self._acted(actor, "reset" if reset else "close", target, len(chosen))
        return len(chosen)

    def block(self, network: str | Network, *, actor: Actor | None = OWN_CODE) -> bool:
        """Refuse clients of an IP or a network, and end those that are connected.

        :returns: False if it was blocked already.
        :raises AddressError: it is no network.
        """
        parsed = _network(network)
        is_new = self.rules.bans.add(parsed)
        clients = NetworkSet([parsed])  # who is covered by another block was ended by that
        covered = [
            connection
            for connection in self._live.values()
            if clients.covers(connection.record.client_ip)
        ]
        for connection in covered:
            connection.end("blocked")
        self._acted(actor, "block", str(parsed), len(covered), is_new)
        return is_new

    def unblock(self, network: str | Network, *, actor: Actor | None = OWN_CODE) -> bool:
        """Let the clients of exactly this IP or network in again.

        :returns: False if it was not blocked.
        :raises AddressError: it is no network.
        """
        parsed = _network(network)
        was_there = self.rules.bans.remove(parsed)
        self._acted(actor, "unblock", str(parsed), 0, was_there)
        return was_there

    def blocks(self) -> list[Network]:
        """The blocked networks, in order."""
        return sorted(self.rules.bans, key=lambda net: (net.version, net))

    def subtract(self, up: int, down: int, *, actor: Actor | None = OWN_CODE) -> None:
        """Subtract bytes from the totals, once they are stored elsewhere.

        :raises ValueError: fewer than none, or more than are there.
        """
        now_up, now_down = self.bytes()
        if not (0 <= up <= now_up and 0 <= down <= now_down):
            raise ValueError(
                f"cannot take {up} up and {down} down off {now_up} up and {now_down} down"
            )
        self._subtracted.up += up
        self._subtracted.down += down
        self._acted(actor, "subtract_stats", f"{up} B up, {down} B down")

    def reset_stats(self, *, actor: Actor | None = OWN_CODE) -> None:
        """Set the totals (bytes, connections opened, refusals) to zero."""
        self._subtracted = self.counted()
        self._acted(actor, "reset_stats")

    def _acted(
        self,
        actor: Actor | None,
        kind: ActionKind,
        target: str = "",
        count: int = 0,
        changed: bool = True,
    ) -> None:
        if actor is not None:
            self.report(Action(kind, actor, time.time(), self.name, target, count, changed))

    def stop(self, wait_seconds: float) -> Deferred[None]:
        """Let nobody in any more, and wait for the live connections.

        Those that still live after ``wait_seconds`` are ended with the reason
        ``stopping``; a moment later what is left of them is reset.

        :returns: fires when the last connection has ended.
        """
        self.stopping = True
        if not self._live:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._when_empty.append(done)
        timers = [
            self.clock.callLater(wait_seconds, self._end_all),
            self.clock.callLater(wait_seconds + STOP_GRACE_SECONDS, self.stop_now),
        ]
        return done.addCallback(lambda _: _cancel(timers))

    def stop_now(self) -> None:
        """End every connection with a reset, this moment."""
        self.stopping = True
        self._end_all(reset=True)

    def _end_all(self, *, reset: bool = False) -> None:
        for connection in tuple(self._live.values()):
            connection.end("stopping", reset)


def _network(network: str | Network) -> Network:
    return parse_network(str(network))  # which makes IPv4 of what is IPv4


def _cancel(timers: Iterable[Any]) -> None:
    for timer in timers:
        if timer.active():
            timer.cancel()
