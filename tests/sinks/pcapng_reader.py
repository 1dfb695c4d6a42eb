"""A small reader of pcapng files and their packets, strict about everything that may be wrong.

Written to draft-ietf-opsawg-pcapng, and apart from the encoder: it shares no code with it.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import attrs

FIN, SYN, RST, PSH, ACK = (1 << bit for bit in range(5))
_FLAG_NAMES = {SYN: "SYN", FIN: "FIN", RST: "RST", PSH: "PSH", ACK: "ACK"}
_UINT32 = 1 << 32


@attrs.frozen
class Packet:
    """A packet as the file has it, its TCP segment decoded and its checksums right."""

    interface: str
    microseconds: int
    comments: tuple[str, ...]
    is_inbound: bool
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    source_port: int
    destination_port: int
    sequence: int
    acknowledged: int
    flags: int
    data: bytes

    @property
    def flag_names(self) -> str:
        return " ".join(name for flag, name in _FLAG_NAMES.items() if self.flags & flag)


@attrs.define
class Capture:
    """All that a file says."""

    section: dict[int, str] = attrs.field(factory=dict)
    interfaces: list[dict[int, str]] = attrs.field(factory=list)
    names: list[tuple[str, str]] = attrs.field(factory=list)
    packets: list[Packet] = attrs.field(factory=list)


def read(file: bytes) -> Capture:
    """What a file says.

    :raises AssertionError: it is malformed.
    """
    capture = Capture()
    position = 0
    while position < len(file):
        kind, length = struct.unpack_from("<II", file, position)
        assert length % 4 == 0
        assert length >= 12
        assert position + length <= len(file), "the last block is cut off"
        assert struct.unpack_from("<I", file, position + length - 4) == (length,)
        body = file[position + 8 : position + length - 4]
        assert (kind == 0x0A0D0D0A) == (position == 0), "one section header, at the beginning"
        if kind == 0x0A0D0D0A:
            assert struct.unpack_from("<IHHq", body) == (0x1A2B3C4D, 1, 0, -1)
            capture.section = _texts(body[16:])
        elif kind == 1:
            linktype, reserved, _limit = struct.unpack_from("<HHI", body)
            assert (linktype, reserved) == (101, 0)
            capture.interfaces.append(_texts(body[8:]))
        elif kind == 4:
            capture.names += _names(body)
        else:
            assert kind == 6, f"a block of type {kind}"
            capture.packets.append(_packet(body, capture))
        position += length
    return capture


def _options(data: bytes) -> list[tuple[int, bytes]]:
    options: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        code, length = struct.unpack_from("<HH", data, position)
        value = data[position + 4 : position + 4 + length]
        assert len(value) == length
        padding = -length % 4
        assert data[position + 4 + length :][:padding] == bytes(padding)
        position += 4 + length + padding
        if code == 0:
            assert length == 0
            assert position == len(data), "something follows the end of the options"
            return options
        options.append((code, value))
    assert not options, "the options have no end"
    return options


def _texts(data: bytes) -> dict[int, str]:
    options = _options(data)
    texts = {code: value.decode() for code, value in options}
    assert len(texts) == len(options)
    return texts


def _names(body: bytes) -> list[tuple[str, str]]:
    names = []
    for code, value in _options(body):
        size = {1: 4, 2: 16}[code]
        name = value[size:]
        assert name.endswith(b"\0")
        assert name.count(b"\0") == 1
        assert len(name) > 1
        names.append((str(ip_address(value[:size])), name[:-1].decode()))
    return names


def _packet(body: bytes, capture: Capture) -> Packet:
    interface, high, low, captured, length = struct.unpack_from("<IIIII", body)
    assert captured == length
    packet = body[20 : 20 + captured]
    padding = -captured % 4
    assert body[20 + captured :][:padding] == bytes(padding)
    options = _options(body[20 + captured + padding :])
    flags = [value for code, value in options if code == 2]
    assert len(flags) == 1
    direction = struct.unpack("<I", flags[0])[0]
    assert direction in (1, 2)
    source, destination, segment = _split_ip(packet)
    fields = struct.unpack_from(">HHIIBBHHH", segment)
    source_port, destination_port, sequence, acknowledged, offset, flag_bits, *_ = fields
    offset = (offset >> 4) * 4
    if flag_bits & SYN:
        assert segment[20:offset] == bytes((3, 3, 14, 1))
    else:
        assert offset == 20
    return Packet(
        interface=capture.interfaces[interface][2],
        microseconds=high * _UINT32 + low,
        comments=tuple(value.decode() for code, value in options if code == 1),
        is_inbound=direction == 1,
        source=source,
        destination=destination,
        source_port=source_port,
        destination_port=destination_port,
        sequence=sequence,
        acknowledged=acknowledged,
        flags=flag_bits,
        data=segment[offset:],
    )


def _split_ip(
    packet: bytes,
) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address, bytes]:
    if packet[0] >> 4 == 4:
        assert packet[0] == 0x45
        assert _sum(packet[:20]) == 0xFFFF
        assert int.from_bytes(packet[2:4], "big") == len(packet)
        assert packet[9] == 6
        addresses, segment = packet[12:20], packet[20:]
    else:
        assert packet[0] == 0x60
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
        assert packet[6] == 6
        addresses, segment = packet[8:40], packet[40:]
    pseudo_header = addresses + struct.pack(">II", len(segment), 6)
    assert _sum(pseudo_header + segment) == 0xFFFF
    half = len(addresses) // 2
    return ip_address(addresses[:half]), ip_address(addresses[half:]), segment


def _sum(data: bytes) -> int:
    """RFC 1071's sum, in the plain way: of a header with a right checksum it is 0xFFFF."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
