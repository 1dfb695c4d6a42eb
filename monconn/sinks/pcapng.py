"""Flow events as a pcapng file: made-up TCP segments around real bytes, for Wireshark and others.

The format of the file is draft-ietf-opsawg-pcapng (https://datatracker.ietf.org/doc/
draft-ietf-opsawg-pcapng/). Its packets have no link layer (LINKTYPE_RAW): they are IPv4 (RFC 791)
or IPv6 (RFC 8200) with TCP (RFC 9293), and checksums as in RFC 1071. ``docs/pcapng.md`` tells those
who read such files what in these packets is real.
"""

from __future__ import annotations

import platform
import re
import struct
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from socket import AF_INET, AF_INET6, inet_pton

import attrs

from monconn._version import __version__
from monconn.errors import AddressError, printable
from monconn.model.community_id import split_address
from monconn.model.flow import Began, Data, Ended, FlowEvent, SideEnded
from monconn.model.reasons import Reason, Side
from monconn.model.record import Fact

SEGMENT_BYTES = 32 * 1024
"""The most that one packet carries: IP counts a packet's length in 16 bits. Segments as short as in
a network would only make the file longer."""
UNACKNOWLEDGED_BYTES = 32 * 1024
"""After how many bytes they are acknowledged, if nothing goes the other way."""
MOST_SKIPPED = 1 << 30
"""By how much a sequence number jumps over missing bytes, at most: of two numbers that are 2^31
apart nobody knows which is the first."""
_VALUE_CHARACTERS = 256
_NAME_CHARACTERS = 63  # Wireshark cuts longer ones
_MOST_FACTS = 64

# Types of blocks, and what follows the type and the length of a packet's block (sections 4.1 to 4.5
# of the draft): interface, time (two words), captured length, length.
_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE_DESCRIPTION = 1
_NAME_RESOLUTION = 4
_ENHANCED_PACKET = 6
_PACKET_BLOCK = struct.Struct("<7I")
_LENGTH = struct.Struct("<I")
_LINKTYPE_RAW = 101
# Options (section 3.5):
_OPTION = struct.Struct("<HH")
_OPT_COMMENT = 1
_SHB_HARDWARE, _SHB_OS, _SHB_USERAPPL = 2, 3, 4
_IF_NAME, _IF_DESCRIPTION = 2, 3
_OPT_END = bytes(4)
_MOST_OPTION_BYTES = 60_000
_NRB_IPV4, _NRB_IPV6 = 1, 2
_NRB_END = bytes(4)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")
_EPB_FLAGS = struct.Struct("<HHI")
_INBOUND, _OUTBOUND = (_EPB_FLAGS.pack(2, 4, direction) for direction in (1, 2))

_IPV4 = struct.Struct(">BBHHHBBH8s")
_IPV6 = struct.Struct(">IHBB32s")
_TCP = struct.Struct(">HHIIHHHH")
_PROTOCOL_TCP = 6
_DONT_FRAGMENT = 0x4000
_HOPS = 64
_FIN, _SYN, _RST, _PSH, _ACK = 0x01, 0x02, 0x04, 0x08, 0x10
_WINDOW = 0xFFFF
# The window scale of both SYNs, 14, which is the highest (RFC 7323), and a byte to align it:
# readers must not find that a segment fills the window.
_SYN_OPTIONS = bytes((3, 3, 14, 1))

_UNKNOWN_PORT = 49152
"""The first of those that IANA gives to nobody."""

_CLOSING: dict[Reason, tuple[Side, int]] = {
    "client_closed": ("client", _FIN),
    "client_reset": ("client", _RST),
    "backend_reset": ("backend", _RST),
    # In these cases we reset the client's connection (monconn.relay.verdict); in all others we
    # close it in order.
    "client_lost": ("backend", _RST),
    "backend_lost": ("backend", _RST),
    "write_timeout": ("backend", _RST),
}
_PLAIN_PORTS = {
    443: 80,
    465: 25,
    636: 389,
    853: 53,
    993: 143,
    995: 110,
    5671: 5672,
    8443: 8080,
    8883: 1883,
}
"""The port of a protocol over TLS, and that of the same one without it: readers find the protocol
by the port."""
_DECODE_AS = {"mqtt": (1883, "mqtt"), "postgresql": (5432, "pgsql"), "ssh": (22, "ssh")}
"""By the fact ``protocol``: on which port Wireshark finds it, and as what it can be told to decode
another one. HTTP and TLS it finds anywhere."""


class PcapngEncoder:
    """Makes a pcapng file of flow events; a :class:`~monconn.model.flow.FlowEncoder`.

    The packets go between the client and the address that it has connected to, which stands for the
    backend. One encoder is one file. To go on in another one in mid-connection, end this one with
    :meth:`finish`, and feed a new one first with what :meth:`under_way` of the old one returns::

        last = old.finish(now)
        new = PcapngEncoder()
        first = new.start() + b"".join(map(new.encode, old.under_way(now)))

    Addresses that are not known, as on UNIX sockets, are among those that RFC 3849 and RFC 5737 set
    aside for documentation: the client of connection 42 is ``2001:db8::42``, and the server
    ``2001:db8:ffff::N`` (``192.0.2.N`` for an IPv4 client), N being the number of the service in
    this file, from 1; its port is the backend's. The port of a protocol over TLS is shown as that
    of the same protocol without it, where TLS was terminated: 8883 as 1883.
    """

    def __init__(self) -> None:
        self._interfaces: dict[str, int] = {}
        self._flows: dict[int, _Flow] = {}

    def start(self) -> bytes:
        """The section header: which monconn has made the file, and where."""
        magic, major, minor, unknown_length = 0x1A2B3C4D, 1, 0, -1
        return _block(
            _SECTION_HEADER,
            struct.pack("<IHHq", magic, major, minor, unknown_length)
            + _option(_SHB_HARDWARE, platform.machine())
            + _option(_SHB_OS, f"{platform.system()} {platform.release()}")
            + _option(_SHB_USERAPPL, f"monconn {__version__}")
            + _option(
                _OPT_COMMENT,
                "What monconn has read from each side, decrypted from TLS. The bytes, their"
                " times, the ends and, unless a comment says otherwise, the addresses are real;"
                " segments, handshakes and acknowledgements are made up around them.",
            )
            + _OPT_END,
        )

    def encode(self, event: FlowEvent) -> bytes:
        """The blocks that an event adds; maybe none, as for a connection that has not begun."""
        if isinstance(event, Began):
            return b"".join(self._begin(event))
        flow = self._flows.get(event.connection)
        if flow is None:
            return b""
        if isinstance(event, Data):
            return b"".join(flow.add(event))
        if isinstance(event, SideEnded):
            return b"".join(flow.end_side(event))
        del self._flows[event.connection]
        return b"".join(flow.end(event))

    def finish(self, at: float) -> bytes:
        """The last blocks of a file that ends while connections go on: acknowledgements.

        :param at: wall-clock seconds.
        """
        return b"".join(piece for flow in self._flows.values() for piece in flow.flush(at))

    def under_way(self, at: float) -> list[FlowEvent]:
        """The connections that have begun and not ended, as events for the next file's encoder.

        :param at: wall-clock seconds: when the next file begins.
        """
        return [event for flow in self._flows.values() for event in flow.under_way(at)]

    def _begin(self, began: Began) -> Iterator[bytes]:
        interface = self._interfaces.get(began.service)
        if interface is None:
            interface = self._interfaces[began.service] = len(self._interfaces)
            yield _interface_description(began.service)
        flow = self._flows[began.connection] = _Flow(began, interface)
        yield from flow.begin()


@attrs.frozen
class _Address:
    ip: bytes
    port: int
    made_up_for: str = ""
    """What has this address, if it is made up; else empty."""


class _Sender:
    """One side of a connection as the sender of its packets."""

    __slots__ = (
        "acknowledged",
        "checksum",
        "flags_option",
        "has_ended",
        "has_sent_fin",
        "has_vanished",
        "ips",
        "offset",
        "owes",
        "port",
        "receiver_port",
        "sequence",
    )

    def __init__(
        self, address: _Address, receiver: _Address, flags_option: bytes, offset: int
    ) -> None:
        self.ips = address.ip + receiver.ip
        self.port, self.receiver_port = address.port, receiver.port
        self.flags_option = flags_option
        # RFC 1071: a sum of 16-bit words with end-around carry is a remainder by 0xFFFF; and a
        # number of any length has the same remainder as the sum of its words, as 2^16 leaves 1.
        # This is the part that all packets share.
        self.checksum = int.from_bytes(self.ips, "big") + _PROTOCOL_TCP + self.port
        self.checksum = (self.checksum + self.receiver_port) % 0xFFFF
        self.offset = offset
        """How many bytes it has sent, ever."""
        self.sequence = (offset + 1) & 0xFFFFFFFF
        """The number of its next byte: 1 for the first one, after the SYN, which is 0."""
        self.has_sent_fin = False
        self.has_ended = False
        """Whether it sends nothing more, for any reason."""
        self.has_vanished = False
        self.owes = False
        """Whether it was sent something that it has not acknowledged."""
        self.acknowledged = 0
        """Up to which number it has acknowledged what the other side has sent."""


class _Flow:
    """One connection's packets."""

    __slots__ = (
        "_began",
        "_client",
        "_comment",
        "_ends",
        "_held",
        "_interface",
        "_latest",
        "_names",
        "_server",
        "_was_reset",
    )

    def __init__(self, began: Began, interface: int) -> None:
        client, server = _addresses(began, interface)
        self._began = began
        self._interface = interface
        self._client = _Sender(client, server, _INBOUND, began.up)
        self._server = _Sender(server, client, _OUTBOUND, began.down)
        self._client.acknowledged = self._server.sequence
        self._server.acknowledged = self._client.sequence
        self._comment = _first_comment(began, client, server)
        """For the first packet; empty once there was one."""
        self._names = {client.ip: client.made_up_for, server.ip: server.made_up_for}
        self._latest = 0
        """The time of the last packet: a clock that is set back does not turn them round."""
        self._ends: list[SideEnded] = []
        self._held: tuple[_Sender, int] | None = None
        """Who has reset it, and when: that packet waits for what is known of the end."""
        self._was_reset = False

    def begin(self) -> Iterator[bytes]:
        yield _name_resolution({ip: name for ip, name in self._names.items() if name})
        yield self._resolve(self._began.facts)
        client, server = self._client, self._server
        if client.offset or server.offset:
            return  # seen from its middle: what comes next is its first packet
        at = _microseconds(self._began.opened_at)
        client.sequence = server.sequence = 0
        yield self._packet(client, at, _SYN)
        yield self._packet(server, at, _SYN | _ACK)
        yield self._packet(client, at, _ACK)

    def add(self, event: Data) -> Iterator[bytes]:
        sender, receiver = self._client, self._server
        if event.direction == "down":
            sender, receiver = receiver, sender
        at, data = _microseconds(event.at), event.data
        if event.offset < sender.offset:
            data = data[sender.offset - event.offset :]  # repeated, which monconn never does
        if not data:
            return
        yield from self._reset()
        unacknowledged = (sender.sequence - receiver.acknowledged) & 0xFFFFFFFF
        if receiver.owes and unacknowledged >= UNACKNOWLEDGED_BYTES:
            yield self._packet(receiver, at, _ACK)
        gap = comment = self._skip_to(sender, event.offset)
        for start in range(0, len(data), SEGMENT_BYTES):
            piece = data[start : start + SEGMENT_BYTES]
            flags = _ACK | _PSH if start + SEGMENT_BYTES >= len(data) else _ACK
            yield self._packet(sender, at, flags, comment, piece)
            comment = ""
        if gap:
            # Wireshark's "follow" waits for what is missing until this is acknowledged.
            yield self._packet(receiver, at, _ACK)

    def end_side(self, event: SideEnded) -> Iterator[bytes]:
        sender = self._client if event.side == "client" else self._server
        at = _microseconds(event.at)
        is_told_before = (  # in another file: see under_way
            bool(self._comment) and event.at < self._began.at and event.offset is None
        )
        at = max(at, _microseconds(self._began.at))
        yield from self._reset()
        if event.how == "fin" and not sender.has_ended:
            self._ends.append(event)
            if is_told_before:
                sender.has_sent_fin = True
                sender.sequence = (sender.sequence + 1) & 0xFFFFFFFF
            else:
                comment = self._skip_to(sender, event.offset or 0)
                yield self._packet(sender, at, _FIN | _ACK, comment)
        elif event.how == "reset" and not self._was_reset:
            self._ends.append(event)
            self._was_reset = True
            self._held = None if is_told_before else (sender, at)
        elif event.how == "timeout":
            sender.has_vanished = True
        sender.has_ended = True

    def end(self, event: Ended) -> Iterator[bytes]:
        client, server = self._client, self._server
        yield self._resolve(event.facts)
        at = _microseconds(event.at) if self._held is None else self._held[1]
        for sender, total in ((client, event.up), (server, event.down)):
            if comment := self._skip_to(sender, total):
                yield self._packet(sender, at, _ACK, comment)
        closing = self._closing(event.reason)
        # Nobody knows whether a side that has vanished got the last bytes.
        last = [
            (each, _ACK)
            for each in (client, server)
            if each.owes and not each.has_vanished and not (closing and each is closing[0])
        ]
        if closing:
            last.append(closing)
        elif not last and self._comment:  # this file has no other packet of it
            last.append((client, _ACK))
        comments = [""] * len(last)
        comments[-1:] = [_last_comment(event, self._began, server.port)]
        for (sender, flags), comment in zip(last, comments, strict=False):
            yield self._packet(sender, at, flags, comment)

    def _closing(self, reason: Reason | None) -> tuple[_Sender, int] | None:
        """The packet that is still to be sent as the connection ends: its sender and its flags."""
        if self._held is not None:
            return self._held[0], _RST | _ACK
        if reason is None or self._was_reset:
            return None
        side, flag = _CLOSING.get(reason, ("backend", _FIN))
        sender = self._client if side == "client" else self._server
        if flag == _FIN and sender.has_sent_fin:
            return None
        return sender, flag | _ACK

    def flush(self, at: float) -> Iterator[bytes]:
        """The packets that wait for a further event."""
        resetting, when = self._held or (None, _microseconds(at))
        for sender in (self._client, self._server):
            if sender.owes and sender is not resetting:
                yield self._packet(sender, when, _ACK)
        yield from self._reset()

    def under_way(self, at: float) -> list[FlowEvent]:
        up, down = self._client.offset, self._server.offset
        ends = [attrs.evolve(each, offset=None) for each in self._ends]
        if self._held is not None:  # it is in no file yet
            ends[-1] = attrs.evolve(self._ends[-1], at=at)
        return [attrs.evolve(self._began, at=at, up=up, down=down), *ends]

    def _reset(self) -> Iterator[bytes]:
        """The reset that was held, if there is one."""
        if self._held is not None:
            (sender, at), self._held = self._held, None
            yield self._packet(sender, at, _RST | _ACK)

    def _skip_to(self, sender: _Sender, offset: int) -> str:
        """Leave out the bytes before an offset, if any are missing.

        :returns: what that sender's next packet says about it.
        """
        missing = offset - sender.offset
        if missing <= 0:
            return ""
        sender.offset = offset
        sender.sequence = (sender.sequence + min(missing, MOST_SKIPPED)) & 0xFFFFFFFF
        self._other(sender).owes = True
        return f"{missing} bytes not captured"

    def _other(self, sender: _Sender) -> _Sender:
        return self._server if sender is self._client else self._client

    def _known_names(self, facts: Mapping[str, Fact]) -> Iterator[tuple[bytes, str]]:
        if client_id := facts.get("mqtt_client_id"):
            yield self._client.ips[: len(self._client.ips) // 2], str(client_id)
        if server_name := facts.get("tls_server_name"):
            yield self._server.ips[: len(self._server.ips) // 2], str(server_name)

    def _resolve(self, facts: Mapping[str, Fact]) -> bytes:
        """The names that these facts tell of the addresses, unless they were told before."""
        new = {ip: name for ip, name in self._known_names(facts) if self._names.get(ip) != name}
        self._names.update(new)
        return _name_resolution(new)

    def _packet(
        self, sender: _Sender, at: int, flags: int, comment: str = "", data: bytes = b""
    ) -> bytes:
        receiver = self._other(sender)
        acknowledged = receiver.sequence if flags & _ACK else 0
        packet = _packet(sender, sender.sequence, acknowledged, flags, data)
        # SYN and FIN have a number each, as bytes have.
        numbers = len(data) + bool(flags & (_SYN | _FIN))
        if numbers:
            sender.offset += len(data)
            sender.sequence = (sender.sequence + numbers) & 0xFFFFFFFF
            receiver.owes = True
        if flags & _FIN:
            sender.has_sent_fin = True
        if flags & _ACK:
            sender.owes = False
            sender.acknowledged = acknowledged
        if self._comment:
            comment = f"{self._comment}\n{comment}" if comment else self._comment
            self._comment = ""
        self._latest = max(at, self._latest)
        options = sender.flags_option + _OPT_END
        if comment:
            options = _option(_OPT_COMMENT, comment) + options
        return _packet_block(self._interface, self._latest, packet, options)


def _packet(
    sender: _Sender, sequence: int, acknowledged: int, flags: int, data: bytes = b""
) -> bytes:
    """A segment, with its IP header."""
    options = _SYN_OPTIONS if flags & _SYN else b""
    length = 20 + len(options) + len(data)
    offset_and_flags = (5 + len(options) // 4) << 12 | flags
    # Reduced at once: further sums of large numbers would cost as much as this.
    words = int.from_bytes(data, "big") % 0xFFFF
    if len(data) % 2:
        words <<= 8  # as if a zero byte followed
    words += sender.checksum + length + sequence + acknowledged + offset_and_flags + _WINDOW
    checksum = -(words + int.from_bytes(options, "big")) % 0xFFFF
    ports = sender.port, sender.receiver_port
    tcp = _TCP.pack(*ports, sequence, acknowledged, offset_and_flags, _WINDOW, checksum, 0)
    return b"".join((_ip_header(sender.ips, length), tcp, options, data))


def _ip_header(ips: bytes, length: int) -> bytes:
    """An IPv4 or IPv6 header.

    :param ips: the sender's and the receiver's address.
    :param length: of the TCP segment.
    """
    if len(ips) == 32:
        return _IPV6.pack(6 << 28, length, _PROTOCOL_TCP, _HOPS, ips)
    total = 20 + length
    fields = 0x4500, _DONT_FRAGMENT, _HOPS << 8 | _PROTOCOL_TCP
    checksum = -(sum(fields) + total + int.from_bytes(ips, "big")) % 0xFFFF
    return _IPV4.pack(0x45, 0, total, 0, _DONT_FRAGMENT, _HOPS, _PROTOCOL_TCP, checksum, ips)


def _addresses(began: Began, interface: int) -> tuple[_Address, _Address]:
    """The client's and the server's address in the packets."""
    client, server = _parse(began.client), _parse(began.client_local)
    port = _port_of(began.backend) if server is None else server.port
    if "tls_version" in began.facts:
        port = _PLAIN_PORTS.get(port, port)
    if client is None:
        # The decimal digits of the id, as if they were hexadecimal: so they are read again.
        digits = f"{abs(began.connection) % 10**20:020}"
        ip = inet_pton(AF_INET6, "2001:db8::")[:6] + bytes.fromhex(digits)
        client = _Address(ip, _UNKNOWN_PORT, began.client or "unknown")
        server = None
    if server is not None and len(server.ip) == len(client.ip):
        return client, _Address(server.ip, port)
    if len(client.ip) == 4:
        ip = inet_pton(AF_INET, f"192.0.2.{interface % 254 + 1}")
    else:
        ip = inet_pton(AF_INET6, f"2001:db8:ffff::{interface % 9999 + 1}")
    return client, _Address(ip, port, began.service)


def _parse(address: str | None) -> _Address | None:
    if address is None:
        return None
    try:
        ip, port = split_address(address)
    except AddressError:
        return None
    return _Address(inet_pton(AF_INET6 if ":" in ip else AF_INET, ip), port)


def _port_of(backend: str) -> int:
    port = backend.rpartition(":")[2]
    is_one = port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 65536
    return int(port) if is_one else _UNKNOWN_PORT


def _microseconds(at: float) -> int:
    try:
        return min(max(0, round(at * 1_000_000)), (1 << 64) - 1)
    except (OverflowError, ValueError):  # infinite, or not a number
        return 0


# -- texts


def _first_comment(began: Began, client: _Address, server: _Address) -> str:
    lines = [
        f"{_text(began.service)}: connection {began.connection} ({_text(began.uid)}) of"
        f" {_text(began.client)}, backend {_text(began.backend) or 'not known'}, opened"
        f" {_iso(began.opened_at)}"
    ]
    if began.up or began.down:
        lines.append(
            f"seen from its middle: {began.up} bytes up and {began.down} bytes down came before"
        )
    if client.made_up_for:
        lines.append("both addresses are made up")
    elif server.made_up_for:
        lines.append(f"the server's address is made up, it is {_text(began.client_local)}")
    real = _parse(began.client_local)
    if real is not None and real.port != server.port:
        lines.append(f"TLS was terminated: port {real.port} is shown as {server.port}")
    return "\n".join([*lines, *_fact_lines(began.facts, server.port)])


def _last_comment(ended: Ended, began: Began, port: int) -> str:
    if ended.reason is None:
        lines = ["not seen any more; the connection goes on"]
    else:
        detail = f" ({_text(ended.detail)})" if ended.detail else ""
        lines = [f"ended: {_text(ended.reason)}{detail}"]
    lines.append(f"{ended.up} bytes up and {ended.down} bytes down in all")
    new = {name: fact for name, fact in ended.facts.items() if began.facts.get(name) != fact}
    return "\n".join([*lines, *_fact_lines(new, port)])


def _fact_lines(facts: Mapping[str, Fact], port: int) -> Iterator[str]:
    for name in list(facts)[:_MOST_FACTS]:
        yield f"{_text(name)}: {_text(facts[name])}"
    known_port, dissector = _DECODE_AS.get(str(facts.get("protocol")), (port, ""))
    if known_port != port:
        yield f"to have it dissected: -d tcp.port=={port},{dissector}"


def _text(value: object) -> str:
    return printable(str(value)[:_VALUE_CHARACTERS])


def _iso(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"


# -- blocks


def _block(kind: int, body: bytes) -> bytes:
    length = _LENGTH.pack(12 + len(body))
    return b"".join((_LENGTH.pack(kind), length, body, length))


def _option(code: int, text: str) -> bytes:
    value = text.encode("utf-8", "replace")
    if len(value) > _MOST_OPTION_BYTES:  # without a part of a character
        value = value[:_MOST_OPTION_BYTES].decode("utf-8", "ignore").encode()
    return _OPTION.pack(code, len(value)) + _padded(value)


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)


def _packet_block(interface: int, at: int, packet: bytes, options: bytes) -> bytes:
    """An Enhanced Packet Block.

    :param at: microseconds, the unit of interfaces that name none.
    """
    padding = bytes(-len(packet) % 4)
    length = _PACKET_BLOCK.size + len(packet) + len(padding) + len(options) + _LENGTH.size
    times = at >> 32, at & 0xFFFFFFFF
    lengths = len(packet), len(packet)
    head = _PACKET_BLOCK.pack(_ENHANCED_PACKET, length, interface, *times, *lengths)
    return b"".join((head, packet, padding, options, _LENGTH.pack(length)))


def _interface_description(service: str) -> bytes:
    no_limit = 0
    return _block(
        _INTERFACE_DESCRIPTION,
        struct.pack("<HHI", _LINKTYPE_RAW, 0, no_limit)
        + _option(_IF_NAME, _text(service))
        + _option(_IF_DESCRIPTION, f"monconn's service {_text(service)}")
        + _OPT_END,
    )


def _name_resolution(names: Mapping[bytes, str]) -> bytes:
    """A block with the name of each address; nothing without names."""
    if not names:
        return b""
    records = []
    for ip, name in names.items():
        value = ip + _NOT_IN_NAMES.sub("_", name[:_NAME_CHARACTERS]).encode() + b"\0"
        kind = _NRB_IPV4 if len(ip) == 4 else _NRB_IPV6
        records.append(_OPTION.pack(kind, len(value)) + _padded(value))
    return _block(_NAME_RESOLUTION, b"".join(records) + _NRB_END)
