"""The record of one connection."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import datetime, timezone
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import attrs

from monconn.errors import AddressError
from monconn.model import tcpinfo, uid
from monconn.model.community_id import community_id
from monconn.model.reasons import (
    CLOSER_OF,
    LOST_REASONS,
    WHO_LETTERS,
    Closer,
    Direction,
    Pipe,
    Reason,
    Refusal,
    Side,
    SideEnd,
    State,
)
from monconn.units import format_bytes, format_duration

Fact = str | int | float | bool
FACTS = 16
"""How many facts a connection may have. With the longest texts they still fit, as JSON, into the
64 KiB of one value on the control port."""
FACT_CHARACTERS = 256
FACT_NAME_CHARACTERS = 32
MOST_FACT_NAMES = 1_000
OWN_FACTS = (
    *("tls_version", "tls_server_name", "alpn", "tls_alpn_offered"),
    *("protocol", "http_method", "http_path", "http_host", "ssh_client", "ssh_server"),
    *("mqtt_client_id", "mqtt_user", "mqtt_version", "mqtt_keepalive_seconds"),
    *("mqtt_clean_start", "mqtt_connack", "mqtt_disconnect", "mqtt_disconnect_by"),
    *("postgresql_user", "postgresql_database"),
)
"""The names of the facts that monconn itself sets."""
_fact_names = set(OWN_FACTS)
PROTOCOLS = ("tls", "http", "ssh", "mqtt", "postgresql", "unknown")
"""The values of the fact ``protocol``, unless it is set by code that knows others."""
_FACT_NAME = re.compile(f"[a-z][a-z0-9_]{{0,{FACT_NAME_CHARACTERS - 1}}}")


def known_fact_names() -> frozenset[str] | None:
    """The names of all facts that a connection of this process has had, or may have at any time.

    :returns: None if there are so many that not all are remembered.
    """
    return frozenset(_fact_names) if len(_fact_names) < MOST_FACT_NAMES else None


class Facts(MutableMapping[str, Fact]):
    """The facts of one record, by name; see :meth:`ConnectionRecord.set_fact` for what is one.

    A view, made anew for each use: most connections have no facts, and so no mapping either.

    :param record: whose facts they are.
    """

    __slots__ = ("_record",)

    def __init__(self, record: ConnectionRecord) -> None:
        self._record = record

    def __getitem__(self, name: str) -> Fact:
        return self._record._facts[name]

    def __setitem__(self, name: str, value: Fact) -> None:
        self._record.set_fact(name, value)

    def __delitem__(self, name: str) -> None:
        left = dict(self._record._facts)
        del left[name]
        self._record._facts = left

    def __iter__(self) -> Iterator[str]:
        return iter(self._record._facts)

    def __len__(self) -> int:
        return len(self._record._facts)

    def __repr__(self) -> str:
        return repr(self._record._facts)


_MOMENT = 1.0
_NO_FACTS: Mapping[str, Fact] = {}  # never changed: set_fact makes another one


@attrs.define(eq=False)
class ConnectionRecord:
    """One connection, from its opening to its end.

    Times are monotonic seconds, except for ``opened_at`` and ``closed_at`` (wall clock, for
    display only). ``up`` and ``down`` count bytes as they are read from their sender.
    """

    id: int
    service: str
    client: str
    """The client's address, as ``IP:PORT``, or ``unix:PID``."""
    client_ip: str
    """The client's IP (IPv4-mapped ones as IPv4); ``unix`` on a UNIX socket, ``local`` where
    we are the client."""
    listener: str
    backend: str
    opened_at: float
    opened: float
    pipe: Pipe = "stream"
    state: State = "connecting"
    up: int = 0
    down: int = 0
    connected: float | None = None
    first_up: float | None = None
    first_down: float | None = None
    asked: float | None = None
    """When the client's last bytes before the backend's first ones arrived; None if there were
    none."""
    last_up: float | None = None
    last_down: float | None = None
    last_delivered: float | None = None
    """Lower bound of when bytes that were pending for a side were last acknowledged."""
    reading_since: float | None = None
    """When we last began to read from the client; None while we do not read from it."""
    backend_reading_since: float | None = None
    """The same of the backend; None also before it is connected."""
    limited_since: float | None = None
    """Since when a direction is not read from because the bandwidth is used up; None if none is."""
    limited_until: float | None = None
    """When that was over last."""
    limited_seconds: float = 0.0
    """For how long it was so, up to then."""
    half_closed: float | None = None
    """When the first of the two sides sent its end (FIN)."""
    first_end: Side | None = None
    """Which side that was."""
    backend_ended: float | None = None
    """When the backend sent its end; None where there is no relay."""
    client_heard: float | None = None
    """When the client's kernel was last heard, by an ACK or data, as of the last ``tcp_info``; None
    on UNIX sockets."""
    backend_heard: float | None = None
    """The same for the backend."""
    client_unanswered: float | None = None
    """Since when the client's kernel has not answered retransmissions or probes, as far as that is
    known; None if there are none."""
    backend_unanswered: float | None = None
    """The same for the backend."""
    client_unreachable: float | None = None
    """The same, but only once it is so many, for so long, that the client counts as unreachable
    (see :meth:`is_unreachable`); None while it answers."""
    backend_unreachable: float | None = None
    """The same for the backend."""
    client_stalled: float | None = None
    """Since when bytes for the client make no progress; None if none are pending."""
    backend_stalled: float | None = None
    """Since when bytes for the backend make no progress; None if none are pending."""
    client_end: SideEnd = "none"
    backend_end: SideEnd = "none"
    reason: Reason | None = None
    refusal: Refusal | None = None
    would_refuse: tuple[Refusal, ...] = ()
    """Why rules in ``dry_run`` would have refused it."""
    phase: State | None = None
    """The state in which the reason was decided."""
    ending: float | None = None
    """When the reason was decided: from then on the connection is being closed."""
    closed: float | None = None
    closed_at: float | None = None
    client_tcp: bytes | None = None
    """The kernel's ``tcp_info`` of the client's socket, taken when it was last queried or as the
    socket was closed (see :mod:`monconn.model.tcpinfo`); None if there is no such TCP socket."""
    backend_tcp: bytes | None = None
    """The same for the backend's socket."""
    client_peer: str | None = None
    """The address of the client's socket, if a preface (a PROXY header) has named another one as
    :attr:`client`."""
    client_local: str | None = None
    """The address that the client has connected to, as ``IP:PORT``, if it is known: it may be one
    of many where a service listens on all, and the kernel is asked only if somebody wants to
    know (:meth:`~monconn.monitor.monitor.Monitor.ask_addresses`)."""
    backend_local: str | None = None
    """The address from which the backend was connected to, if it is known."""
    backend_peer: str | None = None
    """The backend's own address, if it is known: ``backend`` may be a name."""
    detail: str = ""
    """More about the reason or the refusal, if there is more: the text of an error, or that a TLS
    client ended without saying so (close_notify)."""
    is_shortage: bool = False
    """Whether it ended because we had no descriptor, port or memory left."""
    came_through: ConnectionRecord | None = attrs.field(default=None, repr=False)
    """The connection of ours, through another service of this program, that its client is."""
    _facts: Mapping[str, Fact] = attrs.field(default=_NO_FACTS, init=False)

    def count(self, direction: Direction, count: int, now: float) -> None:
        """Count bytes that were read from their sender.

        Every data path counts here, and nowhere else. It is one call for each chunk: 0.1 µs of the
        12 µs that a chunk costs, which is mostly system calls.

        :param direction: ``up`` from the client, ``down`` from the backend.
        :param count: how many bytes; more than 0.
        :param now: monotonic seconds.
        """
        if direction == "up":
            if self.first_up is None:
                self.first_up = now
            self.up += count
            self.last_up = now
        else:
            if self.first_down is None:
                self.first_down, self.asked = now, self.last_up
            self.down += count
            self.last_down = now

    @property
    def uid(self) -> str:
        """The connection's lasting id, unlike :attr:`id`; see :mod:`monconn.model.uid`."""
        return f"{uid.run}-{self.id}"

    @property
    def community_id(self) -> str | None:
        """The Community ID of the client's connection to us, by the addresses in its packets; None
        if they are not known."""
        return _community_id(self.client_peer or self.client, self.client_local)

    @property
    def backend_community_id(self) -> str | None:
        """The same of our connection to the backend."""
        return _community_id(self.backend_local, self.backend_peer)

    @property
    def has_facts(self) -> bool:
        """Whether there are any :attr:`facts`, without making the view."""
        return bool(self._facts)

    if TYPE_CHECKING:
        unchanging_facts: Mapping[str, Fact]
        """The facts as they are now: with one more there is another mapping."""
    else:
        # Asked for each chunk that is decoded: attrgetter spares a Python call each time.
        unchanging_facts = property(attrgetter("_facts"))

    @property
    def protocol(self) -> str | None:
        """The fact ``protocol``: one of :data:`PROTOCOLS`, unless code that knows others set it;
        None if it is not known yet, or nothing is decoded."""
        protocol = self._facts.get("protocol")
        return None if protocol is None else str(protocol)

    @property
    def facts(self) -> Facts:
        """Further facts about the connection, beyond its bytes and times: its protocol, a name that
        the client gave, tags. ``record.facts["user"] = "ada"`` is :meth:`set_fact`."""
        return Facts(self)

    def set_fact(self, name: str, value: Fact) -> None:
        """Add a fact, or replace it.

        Facts are in :meth:`snapshot`, and so in the JSON log, from then on. Anyone may set them,
        from an observer for example; as clients often decide what they say, they are bounded: texts
        are cut to :data:`FACT_CHARACTERS`.

        :param name: lower-case letters, digits and underscores, beginning with a letter, at most
            :data:`FACT_NAME_CHARACTERS`.
        :raises ValueError: the name is malformed, there are :data:`FACTS` others already, or a
            number is not finite or does not fit into 64 bits.
        :raises TypeError: the value is not a str, int, float or bool, or the name no str.
        """
        if not isinstance(value, (str, int, float)):
            raise TypeError(f"a fact is a str, int, float or bool, not {type(value).__name__}")
        # JSON knows no NaN; integers beyond 64 bits are none to most who read it, and those of
        # thousands of digits Python itself refuses to write.
        if not isinstance(value, str) and not abs(value) < 1 << 63:
            raise ValueError("a fact that is a number must be finite, and fit into 64 bits")
        if not isinstance(name, str):
            raise TypeError(f"the name of a fact is a str, not {type(name).__name__}")
        if not _FACT_NAME.fullmatch(name):
            raise ValueError(f"malformed name of a fact: {name[: 2 * FACT_NAME_CHARACTERS]!r}")
        if name not in self._facts and len(self._facts) >= FACTS:
            raise ValueError(f"a connection has at most {FACTS} facts")
        if isinstance(value, str):
            # Half of a surrogate pair, as surrogateescape makes of bytes that are no UTF-8, is no
            # character: it cannot be encoded, and strict readers of JSON refuse the whole line.
            value = value[:FACT_CHARACTERS].encode(errors="replace").decode()
        if len(_fact_names) < MOST_FACT_NAMES:
            _fact_names.add(name)
        # A new dict: most connections share the empty one, and readers may iterate over the old.
        self._facts = {**self._facts, name: value}

    def add_facts(self, facts: Mapping[str, Fact]) -> None:
        """Add what a peer's bytes have told, but replace nothing, and leave out what is too much.

        So facts that were set before, by a handshake or by the program's own code, stay, and there
        is nothing to be caught in the data path.

        :param facts: which never change any more: by names that are well-formed and known; texts
            without surrogates and of :data:`FACT_CHARACTERS` at most, and numbers within 64 bits.
        """
        if not self._facts and len(facts) <= FACTS:
            self._facts = facts  # not one by one, nor copied: every connection has some
            return
        room = FACTS - len(self._facts)
        added = [each for each in facts.items() if each[0] not in self._facts][:room]
        if added:
            self._facts = {**self._facts, **dict(added)}

    def end(self, reason: Reason, now: float, detail: str = "") -> bool:
        """Record why the connection ends; the first reason counts.

        :param now: monotonic seconds.
        :param detail: the text of an error, if there is one.
        :returns: False if there was a reason already, and nothing has changed.
        """
        if self.reason is not None:
            return False
        self.reason, self.phase, self.ending, self.state = reason, self.state, now, "closing"
        if detail:
            self.add_detail(detail)
        return True

    def add_detail(self, detail: str) -> None:
        """Say more about how the connection goes, or how it ended; what was said before stays."""
        self.detail = f"{self.detail}; {detail}" if self.detail else detail

    def note_tcp(
        self,
        side: Side,
        tcp: bytes | None,
        now: float,
        keepalive_seconds: float | None = None,
    ) -> None:
        """Store the kernel's ``tcp_info`` of a side's socket, and whether that side answers.

        :param tcp: undecoded; None changes nothing.
        :param now: monotonic seconds.
        :param keepalive_seconds: the interval between keepalive probes; None if it is not known.
        """
        if tcp is None:
            return
        # Without a call in Python, as it is done for both sides of each connection as it ends.
        heard = now - min(tcpinfo.HEARD.unpack_from(tcp)) * 1e-3
        if side == "client":
            self.client_tcp, self.client_heard = tcp, heard
        else:
            self.backend_tcp, self.backend_heard = tcp, heard
        if tcp[tcpinfo.RETRANSMITS] or tcp[tcpinfo.PROBES]:
            self._note_unanswered(side, tcp, now, heard, keepalive_seconds)
        elif side == "client":
            self.client_unanswered = self.client_unreachable = None
        else:
            self.backend_unanswered = self.backend_unreachable = None

    def _note_unanswered(
        self, side: Side, tcp: bytes, now: float, heard: float, keepalive_seconds: float | None
    ) -> None:
        if tcpinfo.is_over(tcp):
            return  # it may have been reset: that is an answer, but leaves the counters as they are
        # For how long has two lower bounds: what we have seen ourselves, and what the kernel's
        # timers tell. But what was heard since then was an answer.
        before = self.client_unanswered if side == "client" else self.backend_unanswered
        since = now - tcpinfo.unanswered_seconds(tcp, keepalive_seconds)
        since = max(heard, since if before is None else min(before, since))
        if side == "client":
            self.client_unanswered = since
        else:
            self.backend_unanswered = since
        is_unreachable = self.is_unreachable(side, tcpinfo.UNREACHABLE_SECONDS, now)
        if side == "client":
            self.client_unreachable = since if is_unreachable else None
        else:
            self.backend_unreachable = since if is_unreachable else None

    def note_answer(self, side: Side) -> None:
        """A side has answered in a way that ``tcp_info`` does not show: it has reset."""
        if side == "client":
            self.client_unanswered = self.client_unreachable = None
        else:
            self.backend_unanswered = self.backend_unreachable = None

    def is_unreachable(self, side: Side, seconds: float, now: float) -> bool:
        """Whether a side does not answer, as of its last ``tcp_info``.

        At least two retransmissions or probes are unanswered, and for so long nothing has come from
        its kernel although it was asked. A peer whose process is stopped, or whose window is shut,
        answers.

        :param seconds: for how long.
        :param now: monotonic seconds.
        """
        if side == "client":
            unanswered, tcp = self.client_unanswered, self.client_tcp
        else:
            unanswered, tcp = self.backend_unanswered, self.backend_tcp
        if unanswered is None or tcp is None or now - unanswered < seconds:
            return False
        return tcpinfo.unanswered(tcp) >= tcpinfo.LEAST_UNANSWERED

    def unreachable_since(self, side: Side) -> float | None:
        """``client_unreachable`` or ``backend_unreachable``."""
        return self.client_unreachable if side == "client" else self.backend_unreachable

    def end_of(self, side: Side) -> SideEnd:
        """``client_end`` or ``backend_end``."""
        return self.client_end if side == "client" else self.backend_end

    def ended_since(self, side: Side) -> float | None:
        """When a side has ended, as well as the record knows; None if it has not.

        Of a side that ended in order after the other, and of one that failed, it is when the reason
        was decided.
        """
        how = self.end_of(side)
        if how == "none":
            return None
        if how == "fin":
            # A wrapped protocol that is told of no half-close ends with its client: none is noted.
            if self.first_end == side and self.half_closed is not None:
                return self.half_closed
            if side == "backend" and self.backend_ended is not None:
                return self.backend_ended
        return self.closed if self.ending is None else self.ending

    def note_end(self, side: Side, how: SideEnd) -> None:
        """Record how a side ended.

        Once there is a reason it changes nothing: a peer that ends then only answers our own end.
        """
        if self.reason is not None:
            return
        if how == "fin" and self.first_end is None:
            self.first_end = side
        if side == "client":
            self.client_end = how
        else:
            self.backend_end = how

    @property
    def last_activity(self) -> float:
        """When a byte last moved, in either direction; the opening if none has."""
        return max(
            self.opened, self.last_up or 0.0, self.last_down or 0.0, self.last_delivered or 0.0
        )

    @property
    def closed_by(self) -> Closer | None:
        """The party that ended it first; None while live.

        When a side was lost, the other may have ended before, in order or with a reset: it is often
        the one that noticed.
        """
        if self.reason is None:
            return None
        if self.reason in LOST_REASONS:
            if self.first_end is not None:
                return self.first_end
            if "reset" in (self.client_end, self.backend_end):
                return "client" if self.client_end == "reset" else "backend"
        return CLOSER_OF[self.reason]

    @property
    def code(self) -> str | None:
        """HAProxy's two letters for the end (its configuration manual, *Session state at
        disconnection*); ``PR`` for a refused client; None while it lives."""
        if self.refusal is not None:
            return "PR"
        if self.reason is None:
            return None
        if WHO_LETTERS.get(self.reason) == "-":
            return "--"
        return self._who_letter(self.reason) + self._phase_letter()

    def _who_letter(self, reason: Reason) -> str:
        if reason == "write_timeout":
            return "s" if self.backend_end == "timeout" else "c"
        if reason in ("half_close_timeout", "idle_timeout"):
            return "s" if self._waits_for_backend() else "c"
        if reason == "error" and self.is_shortage:
            return "R"
        return WHO_LETTERS[reason]

    def _waits_for_backend(self) -> bool:
        """Whether the backend is the side that we wait for.

        That is the one that has not sent its end yet; if neither has, the one that has not
        answered the other's last bytes.
        """
        if self.backend_end != "none":
            return False
        return self.client_end != "none" or (self.last_up or 0.0) > (self.last_down or 0.0)

    def _phase_letter(self) -> str:
        if self.phase == "connecting":
            return "C"
        return "L" if self.backend_end == "fin" else "D"

    def age_seconds(self, now: float) -> float:
        """Seconds from the opening to the end, or to now while it lives."""
        return (now if self.closed is None else self.closed) - self.opened

    def idle_seconds(self, now: float) -> float:
        """Seconds since a byte last moved; up to the end once it is closed."""
        return (now if self.closed is None else self.closed) - self.last_activity

    @property
    def was_limited(self) -> bool:
        """Whether a direction was ever not read from because the bandwidth was used up."""
        return self.limited_since is not None or self.limited_until is not None

    def all_limited_seconds(self, now: float) -> float:
        """For how long a direction was not read from because the bandwidth was used up."""
        if self.limited_since is None:
            return self.limited_seconds
        until = now if self.closed is None else self.closed
        return self.limited_seconds + until - self.limited_since

    def is_limited(self, now: float) -> bool:
        """Whether that is so now, or was a moment ago: there are pauses and reads in turn."""
        if self.closed is not None:
            return False
        until = self.limited_until
        return self.limited_since is not None or (until is not None and now - until < _MOMENT)

    @property
    def connect_seconds(self) -> float | None:
        """Seconds until the backend was connected; None if it never was."""
        return None if self.connected is None else self.connected - self.opened

    def answer_seconds(self, now: float) -> float | None:
        """Seconds from the client's first request until the backend's first byte, or until now.

        None if the backend was never connected, or the client has not sent anything.

        :param now: monotonic seconds.
        """
        if self.connected is None:
            return None
        if self.first_down is not None:
            return max(0.0, self.first_down - max(self.asked or 0.0, self.connected))
        if self.last_up is None:
            return None
        until = now if self.closed is None else self.closed
        return max(0.0, until - max(self.last_up, self.connected))

    def describe(self, now: float) -> str:
        """One line for display.

        :param now: monotonic seconds.
        """
        detail = f" ({self.detail})" if self.detail else ""
        if self.refusal is not None:
            return f"{self.client} refused: {self.refusal}{detail}"
        age = format_duration(self.age_seconds(now))
        moved = f"up {format_bytes(self.up)}, down {format_bytes(self.down)}"
        if self.reason is None:
            idle = format_duration(self.idle_seconds(now))
            return f"{self.client} {self.state}, {age} old, idle {idle}, {moved}"
        return f"{self.client} {self.reason} after {age}, {moved}{detail}"

    def snapshot(self, now: float) -> dict[str, Any]:
        """The record as plain values for JSON: times as ISO 8601, durations in seconds.

        :param now: monotonic seconds.
        """
        # Written out, as it is made of each connection for the JSON log: with a call for each
        # value, and round(x, 6), which goes by way of the digits, it takes thrice as long. To add
        # a half and divide by // 1 rounds in two thirds of the time of round(x).
        opened, until = self.opened, now if self.closed is None else self.closed
        age_seconds = ((until - opened) * 1e6 + 0.5) // 1 / 1e6
        connected, first_up, first_down = self.connected, self.first_up, self.first_down
        last_up, last_down = self.last_up, self.last_down
        values: dict[str, Any] = {
            "id": self.id,
            "uid": f"{uid.run}-{self.id}",
            "service": self.service,
            "client": self.client,
            "client_ip": self.client_ip,
            "listener": self.listener,
            "backend": self.backend,
            "state": self.state,
            "pipe": self.pipe,
            "up": self.up,
            "down": self.down,
            "opened_at": iso_time(self.opened_at),
            "age_seconds": age_seconds,
            "idle_seconds": ((until - self.last_activity) * 1e6 + 0.5) // 1 / 1e6,
            "connect_seconds": None
            if connected is None
            else ((connected - opened) * 1e6 + 0.5) // 1 / 1e6,
            "first_up_seconds": (
                None if first_up is None else ((first_up - opened) * 1e6 + 0.5) // 1 / 1e6
            ),
            "first_down_seconds": (
                None if first_down is None else ((first_down - opened) * 1e6 + 0.5) // 1 / 1e6
            ),
            "last_up_seconds": (
                None if last_up is None else ((last_up - opened) * 1e6 + 0.5) // 1 / 1e6
            ),
            "last_down_seconds": (
                None if last_down is None else ((last_down - opened) * 1e6 + 0.5) // 1 / 1e6
            ),
            "client_end": self.client_end,
            "backend_end": self.backend_end,
            "client_last_heard_seconds": _since(self.client_heard, until),
            "backend_last_heard_seconds": _since(self.backend_heard, until),
        }
        if self.client_unreachable is not None:
            values["client_unreachable_seconds"] = _since(self.client_unreachable, until)
        if self.backend_unreachable is not None:
            values["backend_unreachable_seconds"] = _since(self.backend_unreachable, until)
        if self.limited_since is not None or self.limited_until is not None:
            values["limited_seconds"] = round(self.all_limited_seconds(now), 3)
            values["is_limited"] = self.is_limited(now)
        if self.closed_at is not None:
            values["closed_at"] = iso_time(self.closed_at)
            values["duration_seconds"] = age_seconds
        if self.refusal is not None:
            values["refusal"] = self.refusal
            values["code"] = self.code
        if self.would_refuse:
            values["would_refuse"] = list(self.would_refuse)
        if self.reason is not None:
            values["reason"] = self.reason
            values["phase"] = self.phase
            values["code"] = self.code
            values["closed_by"] = self.closed_by
        if self.detail:
            values["detail"] = self.detail
        if self._facts:
            values["facts"] = dict(self._facts)
        if self.client_tcp is not None:
            values["client_tcp"] = tcpinfo.decode(self.client_tcp)
        if self.backend_tcp is not None:
            values["backend_tcp"] = tcpinfo.decode(self.backend_tcp)
        return values


def _community_id(one: str | None, other: str | None) -> str | None:
    if one is None or other is None:
        return None
    try:
        return community_id(one, other)
    except AddressError:
        return None


def _since(moment: float | None, until: float) -> float | None:
    return None if moment is None else max(0.0, ((until - moment) * 1e3 + 0.5) // 1 / 1e3)


def iso_time(wall_seconds: float) -> str:
    """A wall-clock time in ISO 8601, with milliseconds and zone."""
    return _iso_millisecond(round(wall_seconds * 1_000_000) // 1000)


@lru_cache(1024)  # when there are so many that it matters, many have the same
def _iso_millisecond(wall_milliseconds: int) -> str:
    second, millisecond = divmod(wall_milliseconds, 1000)
    return f"{_iso_second(second)}.{millisecond:03}+00:00"


@lru_cache(64)
def _iso_second(wall_seconds: int) -> str:
    return datetime.fromtimestamp(wall_seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
