"""MQTT: what a device and its broker say of their connection, from its bytes.

Sources, all by OASIS but the first: *MQTT V3.1 Protocol Specification* (IBM and Eurotech, 2010);
*MQTT Version 3.1.1* (2014), sections 2.2 (fixed header), 3.1 (CONNECT), 3.2 (CONNACK), 3.14
(DISCONNECT), 3.1.2.10 (keep alive); *MQTT Version 5.0* (2019), the same sections, 2.2.2
(properties) and 2.4 (reason codes). Section numbers below are those of 5.0 unless they say more.

Nothing here trusts a byte. Each direction is followed from packet to packet by the lengths in their
fixed headers, in constant memory: of what is of interest the first :data:`HELD_BYTES` of a packet
are held, all else is skipped. Where a direction is no MQTT (any more), it is not followed any
further, and nothing is said that would need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from monconn.decode.interfaces import MOST_CHUNKS, UNKNOWN, Decoding, text
from monconn.model.reasons import Direction, Side
from monconn.model.record import ConnectionRecord, Fact
from monconn.units import format_bytes

HELD_BYTES = 4096
"""How much of a CONNECT, CONNACK or DISCONNECT is held; a user name that lies behind a larger will
is not known then."""
MISSED_FACTOR = 1.5
"""After so many keepalives without a packet the broker must close (3.1.2.10: MQTT-3.1.2-22 of 5.0,
MQTT-3.1.2-24 of 3.1.1)."""
MOST_PACKETS = 1 << 14
"""How many packets of one chunk are followed, as everybody else waits meanwhile: 2 ms. It takes
pings or acknowledgements for whole chunks to have more of them."""
_COST_OF_A_HEADER = 16
"""How many of the packets that are short, and whole, cost as much as one that is not."""
SAME_MOMENT_SECONDS = 1.0
"""What comes so soon after an end is taken for what had come before it, to be fair to a device."""
PING_SECONDS = 1.0
"""From when on a ping counts as not answered; a broker answers within a round trip."""

CONNECT, _CONNACK, _PINGREQ, _PINGRESP, _DISCONNECT = 0x10, 0x20, 0xC0, 0xD0, 0xE0
"""The first bytes of these packets: their type and flags (2.1.2, 2.1.3)."""
_NAMES = (
    *("reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP"),
    *("SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT"),
    "AUTH",
)
_LEVELS = {(b"MQIsdp", 3): "3.1", (b"MQTT", 4): "3.1.1", (b"MQTT", 5): "5.0"}
"""Versions by the protocol's name and level (3.1.2.1, 3.1.2.2)."""
_PROTOCOL_NAMES = {name for name, _ in _LEVELS}
_BRIDGE_LEVEL = 0x80
"""Mosquitto's bridges set this bit of the level, to tell its brokers that they are bridges."""

_CONNACK_WORDS_3 = {  # 3.1.1, table 3.1; 3.1, section 3.2
    0: "accepted",
    1: "unsupported_protocol_version",
    2: "client_identifier_not_valid",
    3: "server_unavailable",
    4: "bad_user_name_or_password",
    5: "not_authorised",
}
_REASON_WORDS = {  # 2.4, table 2-6: those of CONNACK and DISCONNECT
    0x80: "unspecified_error",
    0x81: "malformed_packet",
    0x82: "protocol_error",
    0x83: "implementation_specific_error",
    0x84: "unsupported_protocol_version",
    0x85: "client_identifier_not_valid",
    0x86: "bad_user_name_or_password",
    0x87: "not_authorised",
    0x88: "server_unavailable",
    0x89: "server_busy",
    0x8A: "banned",
    0x8B: "server_shutting_down",
    0x8C: "bad_authentication_method",
    0x8D: "keep_alive_timeout",
    0x8E: "session_taken_over",
    0x8F: "topic_filter_invalid",
    0x90: "topic_name_invalid",
    0x93: "receive_maximum_exceeded",
    0x94: "topic_alias_invalid",
    0x95: "packet_too_large",
    0x96: "message_rate_too_high",
    0x97: "quota_exceeded",
    0x98: "administrative_action",
    0x99: "payload_format_invalid",
    0x9A: "retain_not_supported",
    0x9B: "qos_not_supported",
    0x9C: "use_another_server",
    0x9D: "server_moved",
    0x9E: "shared_subscriptions_not_supported",
    0x9F: "connection_rate_exceeded",
    0xA0: "maximum_connect_time",
    0xA1: "subscription_identifiers_not_supported",
    0xA2: "wildcard_subscriptions_not_supported",
}
ACCEPTED = "accepted"
NORMAL = "normal"
WITH_WILL = "with_will"
WORDS: tuple[str, ...] = (ACCEPTED, NORMAL, WITH_WILL, *_REASON_WORDS.values())
"""The values of the facts ``mqtt_connack`` and ``mqtt_disconnect``; an unknown code is
``code_0xNN``."""

# How long the value of each property is (2.2.2.2): bytes; or a text, data or a pair of texts.
_TEXT, _PAIR, _VARINT = -1, -2, -3
_PROPERTIES = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
    **dict.fromkeys((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F), _TEXT),
    0x26: _PAIR,
    0x0B: _VARINT,
}
_ASSIGNED_CLIENT_IDENTIFIER, _SERVER_KEEP_ALIVE = 0x12, 0x13


class _Malformed(Exception):
    """The bytes of a packet are not what they should be, or not all of them are held."""


class _Fields:
    """Reads a packet's body from its beginning.

    :raises _Malformed: from each method, where the bytes end too early.
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def has_more(self) -> bool:
        return self._at < len(self._data)

    def raw(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise _Malformed
        self._at += count
        return found

    def integer(self, size: int) -> int:
        return int.from_bytes(self.raw(size), "big")

    def varint(self) -> int:
        """A variable byte integer (1.5.5): at most four bytes."""
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.integer(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise _Malformed

    def data(self) -> bytes:
        """Binary data (1.5.6), or the bytes of a text (1.5.4)."""
        return self.raw(self.integer(2))

    def properties(self) -> dict[int, bytes]:
        """The properties that come next (2.2.2), as far as they are known and held: of those that
        may come more than once, the last."""
        length = self.varint()
        found: dict[int, bytes] = {}
        held = _Fields(self._data[self._at : self._at + length])
        self._at += length
        try:
            while held.has_more():
                name = held.varint()
                size = _PROPERTIES.get(name)
                if size is None:
                    break  # how long it is is not known either
                if size == _PAIR:
                    held.data()
                    held.data()
                elif size == _VARINT:
                    held.varint()
                else:
                    found[name] = held.data() if size == _TEXT else held.raw(size)
        except _Malformed:
            pass
        return found


# What is done with a packet, by its first byte: its type and four flags (2.1.2, 2.1.3).
_WRONG, _SKIPPED, _PING, _HELD = range(4)
_UP = (3, 4, 5, 6, 7, 8, 10)  # types
_DOWN = (3, 4, 5, 6, 7, 9, 11)
_AUTH_TYPE = 15


def _kinds(version: str, direction: Direction) -> bytes:
    """A table of 256: what is done with a packet.

    :param version: ``""`` before the CONNECT.
    """
    kinds = bytearray(256)
    if not version:
        kinds[CONNECT] = _HELD if direction == "up" else _WRONG
        return bytes(kinds)
    for packet in _UP if direction == "up" else _DOWN:
        if packet == 3:  # PUBLISH: DUP, QoS of 0 to 2, RETAIN
            flags = [each for each in range(16) if each & 6 != 6]
        elif version == "3.1":  # what it does not use is not said to be 0
            flags = [*range(16)]
        else:
            flags = [2 if packet in (6, 8, 10) else 0]
        for each in flags:
            kinds[packet << 4 | each] = _SKIPPED
    kinds[_PINGREQ if direction == "up" else _PINGRESP] = _PING
    if direction == "down":
        kinds[_CONNACK] = _HELD
    if direction == "up" or version == "5.0":
        kinds[_DISCONNECT] = _HELD
    if version == "5.0":
        kinds[_AUTH_TYPE << 4] = _SKIPPED
    return bytes(kinds)


_KINDS: dict[tuple[str, Direction], bytes] = {
    (version, direction): _kinds(version, direction)
    for version in ("", *_LEVELS.values())
    for direction in ("up", "down")
}


_Found = Callable[[int, bytes], object]
"""Called with the first byte of each packet that is held, and with what is held of its body; and
with that of a ping, once for all that a chunk has."""


class _Packets:
    """Follows one direction from packet to packet.

    :param kinds: what is done with each packet.
    """

    __slots__ = (
        "_has_type",
        "_held",
        "_left",
        "_length",
        "_shift",
        "_type",
        "at",
        "begins_at",
        "has_ended",
        "is_too_much",
        "kinds",
        "whole",
        "wrong_at",
    )

    def __init__(self, kinds: bytes) -> None:
        self.kinds = kinds
        self.at = 0
        """How many bytes came before the chunk that is being followed."""
        self.begins_at = 0
        """Where the packet begins that has come last, in bytes from the direction's beginning."""
        self.whole = 0
        """How many packets have come to their end."""
        self.wrong_at: int | None = None
        """Where it stopped to be MQTT, or to be followed, in bytes from the beginning of the
        direction."""
        self.is_too_much = False
        """Whether it is not followed any more because a chunk had too many packets."""
        self.has_ended = False
        """Whether its DISCONNECT has come: nothing may come after that (3.14.4)."""
        self._has_type = False
        self._type = 0
        self._length = 0
        self._shift = 0
        self._left = 0
        self._held: bytes | None = None

    def partial(self) -> str:
        """The packet of which the beginning has come, and not the end; ``""`` if there is none."""
        if self.wrong_at is not None or self.has_ended or not self._has_type:
            return ""
        return _NAMES[self._type >> 4]

    def follow(self, data: bytes, found: _Found) -> None:
        """Take the bytes that come next."""
        if self.wrong_at is not None or self.has_ended:
            return
        at, size, whole, ping, most = 0, len(data), 0, 0, MOST_PACKETS
        while at < size:
            if self._left:
                at = self._body(data, at, found)
            elif self._has_type:
                at = self._header(data, at, found)
            else:
                # Most packets are short, and neither they nor their headers are split: a loop of
                # its own for them, as it is done for every message.
                kinds = self.kinds
                while whole < most and (size - at >= 3 or (size - at == 2 and not data[at + 1])):
                    first, length = data[at], data[at + 1]
                    body = at + 2
                    if length >= 0x80:
                        if data[body] >= 0x80:
                            break
                        length += (data[body] << 7) - 0x80
                        body += 1
                    if size - body < length:
                        break
                    if kinds[first] == _PING and not length:
                        ping = first
                    elif kinds[first] != _SKIPPED:
                        break
                    at = body + length
                    whole += 1
                if whole >= most:
                    if at < size:
                        self.wrong_at, self.is_too_much = self.at + at, True
                elif at < size:
                    at = self._header(data, at, found)
                    most -= _COST_OF_A_HEADER
            if self.wrong_at is not None or self.has_ended:
                break
        self.whole += whole
        self.at += size
        if ping:
            found(ping, b"")

    def _header(self, data: bytes, at: int, found: _Found) -> int:
        """Take what is there of a fixed header (2.1), and go on behind it."""
        if not self._has_type:
            self._type = data[at]
            if self.kinds[self._type] == _WRONG:
                self.wrong_at = self.at + at
                return at
            self._has_type = True
            self._length = self._shift = 0
            self.begins_at = self.at + at
            at += 1
        while at < len(data):
            byte = data[at]
            self._length |= (byte & 0x7F) << self._shift
            if byte < 0x80:
                kind = self.kinds[self._type]
                if kind == _PING and self._length:
                    break
                self._left = self._length
                self._held = b"" if kind == _HELD else None
                if not self._left:
                    self._end(found)
                return at + 1
            self._shift += 7
            if self._shift > 21:  # a fifth byte is not allowed (2.1.4)
                break
            at += 1
        else:
            return at
        self.wrong_at = self.at + at
        return at

    def _body(self, data: bytes, at: int, found: _Found) -> int:
        count = min(self._left, len(data) - at)
        if self._held is not None:
            self._held += data[at : at + min(count, HELD_BYTES - len(self._held))]
        self._left -= count
        if self._held is not None and len(self._held) == HELD_BYTES:
            self.give_held(found)  # the rest tells nothing, and may never come
        if not self._left:
            self._end(found)
        return at + count

    def give_held(self, found: _Found) -> None:
        """What is held of a packet is all that there will be."""
        held, self._held = self._held, None
        if held is not None:
            found(self._type, held)

    def _end(self, found: _Found) -> None:
        self._has_type = False
        self.whole += 1
        if self._held is None and self.kinds[self._type] == _PING:
            found(self._type, b"")
        self.give_held(found)


class Mqtt:
    """Follows one connection, as its ``Decoding``: what its bytes tell, and what its end means.

    Times are those of the record, at which bytes were read.

    :param is_followed: whether to the end; else to the broker's first answer.
    """

    __slots__ = (
        "_chunks",
        "_connack",
        "_disconnect",
        "_disconnect_by",
        "_down",
        "_has_will",
        "_is_brokers_keepalive",
        "_is_followed",
        "_keepalive",
        "_packet_at",
        "_ping_at",
        "_record",
        "_up",
        "_version",
    )

    def __init__(self, record: ConnectionRecord, is_followed: bool) -> None:
        self._record = record
        self._is_followed = is_followed
        self._chunks = 0
        self._version: str | None = None  # None before the CONNECT, "" if it is not known
        self._connack = ""
        self._disconnect = ""
        self._disconnect_by: Side | None = None
        self._has_will = False
        self._keepalive = 0  # seconds that the device may be silent; 0 if it may be so for ever
        self._is_brokers_keepalive = False
        self._packet_at: float | None = None  # when the device's last packet was whole
        self._ping_at: float | None = None  # when the first ping without an answer was read
        self._up = _Packets(_KINDS["", "up"])
        self._down = _Packets(_KINDS["", "down"])

    def chunk(self, record: ConnectionRecord, direction: Direction, data: bytes) -> Decoding | None:
        """Implements ``Decoding.chunk``."""
        if direction == "down":
            self._down.follow(data, self._found_down)
        else:
            whole = self._up.whole
            self._up.follow(data, self._found_up)
            now = record.last_up or 0.0
            # What comes right after an end has come before it, maybe: we may have been stopped, or
            # busy, and then the order in which sockets are reported says nothing.
            if self._up.whole != whole and (
                not self._is_ending() or now - self._until() < SAME_MOMENT_SECONDS
            ):
                self._packet_at = now
        if self._is_followed and self._version is not None:
            return self
        self._chunks += 1
        if self._chunks >= MOST_CHUNKS:
            self._up.give_held(self._found_up)
        if self._version is None:
            if self._up.wrong_at is None and self._chunks < MOST_CHUNKS:
                return self
            record.add_facts(UNKNOWN)
            return None
        if self._is_followed:
            return self
        is_done = self._connack or self._down.wrong_at is not None or self._chunks >= MOST_CHUNKS
        return None if is_done else self

    def ended(self, record: ConnectionRecord) -> None:
        """Implements ``Decoding.ended``."""
        self._up.give_held(self._found_up)
        if self._version is None:
            record.add_facts(UNKNOWN)
        elif self._is_followed and record.phase != "connecting":
            for detail in self._details():
                record.add_detail(detail)

    def _is_ending(self) -> bool:
        """Whether a side has ended: what the other says after that only answers it."""
        return self._record.half_closed is not None or self._record.ending is not None

    def _silence(self, until: float) -> float:
        """For how long no packet has become whole although we read from the device.

        What it has sent meanwhile may be in the kernel's queue while we do not read, because the
        broker does not take it.
        """
        since, reading_since = self._packet_at, self._record.reading_since
        if since is None or reading_since is None:
            return 0.0
        if not self._connack and self._down.wrong_at is None:
            return 0.0  # most clients ping no broker that has not answered yet
        return until - max(since, reading_since)

    # -- packets

    def _found_up(self, first: int, body: bytes) -> None:
        if first == _PINGREQ:
            if self._ping_at is None:
                self._ping_at = self._record.last_up
        elif first == _DISCONNECT and body and self._version not in ("", "5.0"):
            self._up.wrong_at = self._up.begins_at  # it has no reason code (3.1.1, 3.14)
        elif first == _DISCONNECT:
            self._up.has_ended = True
            self._note_disconnect("client", body)
        else:
            self._note_connect(body)

    def _found_down(self, first: int, body: bytes) -> None:
        if first == _PINGRESP:
            self._ping_at = None
        elif first == _DISCONNECT:
            self._down.has_ended = True
            self._note_disconnect("backend", body)
        else:
            self._note_connack(body)

    def _note_connect(self, body: bytes) -> None:
        """3.1; what is malformed, or not held, ends it: what came before is known."""
        facts: dict[str, Fact] = {"protocol": "mqtt"}
        about: dict[str, Fact] = {}  # shown after whom it is about
        fields = _Fields(body)
        try:
            name, level = fields.data(), fields.integer(1) & ~_BRIDGE_LEVEL
        except _Malformed:
            name, level = b"", 0
        if name not in _PROTOCOL_NAMES:
            self._up.wrong_at = self._up.begins_at
            return
        version = _LEVELS.get((name, level), "")
        if version:
            about["mqtt_version"] = version
        try:
            flags = fields.integer(1)
            about["mqtt_clean_start"] = bool(flags & 0x02)
            self._has_will = bool(flags & 0x04)
            self._keepalive = about["mqtt_keepalive_seconds"] = fields.integer(2)
            if version == "5.0":
                fields.properties()
            client_id = fields.data()
            if client_id:  # else the broker makes one
                facts["mqtt_client_id"] = text(client_id)
            if self._has_will:
                if version == "5.0":
                    fields.properties()
                fields.data()  # its topic
                fields.data()  # its payload
            if flags & 0x80:
                facts["mqtt_user"] = text(fields.data())
            # The password is next, and is not read.
        except _Malformed:
            pass
        self._version = version
        # Packets of a version that is not known are taken for those of the latest that is.
        followed = version or "5.0"
        self._up.kinds, self._down.kinds = _KINDS[followed, "up"], _KINDS[followed, "down"]
        self._record.add_facts({**facts, **about})

    def _note_connack(self, body: bytes) -> None:
        """3.2. Before 5.0 it has two bytes."""
        if len(body) < 2:
            self._down.wrong_at = self._down.begins_at
            return
        code = body[1]
        record, facts = self._record, dict[str, Fact]()
        if len(body) == 2:
            self._connack = _CONNACK_WORDS_3.get(code) or _word(code)
        else:
            self._connack = _word(code)
            try:
                properties = _Fields(body[2:]).properties()
            except _Malformed:
                properties = {}
            keepalive = properties.get(_SERVER_KEEP_ALIVE)
            if keepalive is not None:  # the device must use it (3.2.2.3.14)
                self._set_brokers_keepalive(int.from_bytes(keepalive, "big"))
            client_id = properties.get(_ASSIGNED_CLIENT_IDENTIFIER)
            if client_id:
                facts["mqtt_client_id"] = text(client_id)  # if it has named none itself
        record.add_facts({**facts, "mqtt_connack": self._connack})
        kinds = self._down.kinds
        self._down.kinds = kinds[:_CONNACK] + bytes([_WRONG]) + kinds[_CONNACK + 1 :]  # no second
        if self._connack != ACCEPTED and not self._is_followed:
            record.add_detail(f"broker said {as_words(self._connack)}")

    def _set_brokers_keepalive(self, seconds: int) -> None:
        known = self._record.facts.get("mqtt_keepalive_seconds")
        if known == self._keepalive:  # else somebody else has set it
            self._record.set_fact("mqtt_keepalive_seconds", seconds)
        self._keepalive = seconds
        self._is_brokers_keepalive = True

    def _note_disconnect(self, side: Side, body: bytes) -> None:
        """3.14; an empty one is normal."""
        if self._disconnect or self._is_ending():
            return
        code = body[0] if body else 0
        self._disconnect = {0: NORMAL, 4: WITH_WILL}.get(code) or _word(code)
        self._disconnect_by = side
        self._record.add_facts({"mqtt_disconnect": self._disconnect, "mqtt_disconnect_by": side})

    # -- what its end means

    def _details(self) -> Iterator[str]:
        """What the record's detail is to say."""
        for whose, packets in (("device's", self._up), ("broker's", self._down)):
            if packets.is_too_much:
                yield f"{whose} packets were too many to be followed{_after(packets.wrong_at)}"
            elif packets.wrong_at is not None:
                yield f"{whose} bytes are no MQTT{_after(packets.wrong_at)}"
        if self._down.wrong_at is None and not self._connack:
            yield "broker did not answer the CONNECT"
        if self._connack not in ("", ACCEPTED):
            yield f"broker said {as_words(self._connack)}"
        if self._disconnect:
            who = "device" if self._disconnect_by == "client" else "broker"
            yield f"{who} said {_GOODBYES.get(self._disconnect) or as_words(self._disconnect)}"
        if self._up.wrong_at is None:
            yield from self._silence_details()
            yield from self._end_details()

    def _silence_details(self) -> Iterator[str]:
        """Keepalives that were missed, and pings that were not answered."""
        record, keepalive = self._record, self._keepalive
        until = self._until()
        if self._disconnect_by != "client" and keepalive:
            whose = "the broker's" if self._is_brokers_keepalive else "its own"
            silence = self._silence(until)
            has_sent = self._up.partial() and until - (record.last_up or 0.0) <= keepalive
            if silence > MISSED_FACTOR * keepalive and has_sent:
                yield (
                    f"no packet from the device became whole for {silence:.1f} s, with"
                    f" {whose} MQTT keepalive of {keepalive} s"
                )
            elif silence > MISSED_FACTOR * keepalive:
                late = silence - keepalive
                yield f"device missed {whose} MQTT keepalive of {keepalive} s by {late:.1f} s"
            elif silence > keepalive and (
                record.first_end == "backend"
                or (record.first_end is None and record.reason == "backend_reset")
            ):
                # Brokers count whole seconds, and some are stricter than they have to be.
                yield (
                    f"device was silent for {silence:.1f} s, longer than {whose} MQTT keepalive"
                    f" of {keepalive} s"
                )
        # An answer may be in the kernel's queue while the device does not take what came before it.
        reading_since = record.backend_reading_since
        if self._ping_at is not None and self._down.wrong_at is None and reading_since is not None:
            waited = until - self._ping_at
            if until - max(self._ping_at, reading_since) >= PING_SECONDS:
                yield f"device's ping had no answer for {waited:.1f} s"

    def _end_details(self) -> Iterator[str]:
        record = self._record
        partial = self._up.partial()
        if partial:
            yield f"device's last packet ({partial}) is not whole"
        if self._disconnect or self._connack != ACCEPTED:
            return
        will = ", so its will is due" if self._has_will else ""
        if record.first_end == "client":
            yield f"device closed without DISCONNECT{will}"
        elif record.first_end == "backend":
            if self._version == "5.0":  # before, a broker could send none
                yield "broker closed without DISCONNECT"
        elif record.reason == "client_reset":
            yield f"device reset without DISCONNECT{will}"
        elif record.reason == "client_lost":
            yield f"device vanished without DISCONNECT{will}"

    def _until(self) -> float:
        """When the connection began to end, as far as MQTT is concerned."""
        record = self._record
        ends = (record.half_closed, record.ending, record.closed)
        return min((each for each in ends if each is not None), default=record.last_activity)


_GOODBYES = {
    NORMAL: "goodbye",
    WITH_WILL: "goodbye, and wants its will to be sent",
}


def _word(code: int) -> str:
    return (ACCEPTED if code == 0 else _REASON_WORDS.get(code)) or f"code_0x{code:02x}"


def _after(count: int | None) -> str:
    return f" after {format_bytes(count)}" if count else ""


def as_words(value: str) -> str:
    """A value of ``mqtt_connack`` or ``mqtt_disconnect`` as text for people."""
    return value.replace("_", " ")
