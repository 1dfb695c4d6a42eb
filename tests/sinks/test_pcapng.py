from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.model.flow import Began, Data, Ended, FlowEncoder, FlowEvent, SideEnded
from monconn.model.reasons import REASONS, Direction, Reason, Side, SideEnd
from monconn.sinks.pcapng import MOST_SKIPPED, SEGMENT_BYTES, UNACKNOWLEDGED_BYTES, PcapngEncoder
from tests.properties import examples
from tests.sinks.pcapng_reader import ACK, FIN, RST, Capture, Packet, read

T = 1_764_000_000.0


def began(connection: int = 42, at: float = T, **fields: Any) -> Began:
    values: dict[str, Any] = {
        "opened_at": T,
        "uid": f"run-{connection}",
        "service": "mqtt",
        "client": "192.168.1.7:51312",
        "client_local": "10.0.0.1:1883",
        "backend": "broker:1883",
        **fields,
    }
    return Began(connection, at, **values)


def up(offset: int, data: bytes, at: float = T + 1, connection: int = 42) -> Data:
    return Data(connection, at, "up", offset, data)


def down(offset: int, data: bytes, at: float = T + 1, connection: int = 42) -> Data:
    return Data(connection, at, "down", offset, data)


def side_ended(side: Side, how: SideEnd = "fin", at: float = T + 2, **fields: Any) -> SideEnded:
    return SideEnded(42, at, side, how, **fields)


def ended(
    up: int = 0, down: int = 0, reason: Reason | None = "client_closed", **fields: Any
) -> Ended:
    return Ended(42, fields.pop("at", T + 3), up, down, reason, **fields)


def encoded(events: Iterable[FlowEvent], encoder: PcapngEncoder | None = None) -> Capture:
    encoder = encoder or PcapngEncoder()
    return read(encoder.start() + b"".join(map(encoder.encode, events)))


def shown(packet: Packet) -> str:
    """A packet in a line: ``>`` is from the client; of bytes it shows how many there are."""
    size = f" {len(packet.data)}B" if packet.data else ""
    arrow = ">" if packet.is_inbound else "<"
    return f"{arrow} {packet.flag_names} {packet.sequence}/{packet.acknowledged}{size}"


def lines(capture: Capture) -> list[str]:
    return [shown(packet) for packet in capture.packets]


HANDSHAKE = ["> SYN 0/0", "< SYN ACK 0/1", "> ACK 1/1"]


# -- one connection's packets


def test_a_connection_from_beginning_to_end() -> None:
    capture = encoded(
        [
            began(),
            up(0, b"hello"),
            down(0, b"hi"),
            up(5, b"!"),
            side_ended("client"),
            side_ended("backend"),
            ended(6, 2),
        ]
    )
    assert lines(capture) == [
        *HANDSHAKE,
        "> PSH ACK 1/1 5B",
        "< PSH ACK 1/6 2B",
        "> PSH ACK 6/3 1B",
        "> FIN ACK 7/3",
        "< FIN ACK 3/8",
        "> ACK 8/4",
    ]
    packets = capture.packets
    assert [each.data for each in packets if each.data] == [b"hello", b"hi", b"!"]
    assert [each.microseconds - T * 1e6 for each in packets] == [
        *[0, 0, 0],
        *[1e6, 1e6, 1e6],
        *[2e6, 2e6, 3e6],
    ]
    inbound = [each for each in packets if each.is_inbound]
    assert {(str(each.source), each.source_port) for each in inbound} == {("192.168.1.7", 51312)}
    assert {(str(each.destination), each.destination_port) for each in inbound} == {
        ("10.0.0.1", 1883)
    }
    assert {each.interface for each in packets} == {"mqtt"}


def test_the_encoder_is_one_of_flows() -> None:
    encoder: FlowEncoder = PcapngEncoder()
    assert encoder.start()


def test_it_is_seen_from_its_beginning_if_no_byte_went_before() -> None:
    """The handshake has the time of the opening, however late the bytes are seen from."""
    capture = encoded([began(at=T + 60), up(0, b"x", at=T + 60)])
    assert lines(capture) == [*HANDSHAKE, "> PSH ACK 1/1 1B"]
    assert [each.microseconds - T * 1e6 for each in capture.packets] == [0, 0, 0, 60e6]


def test_from_its_middle_there_is_no_handshake() -> None:
    capture = encoded([began(up=1000, down=70), down(70, b"abc"), up(1000, b"x"), ended(1001, 73)])
    assert lines(capture) == [
        "< PSH ACK 71/1001 3B",
        "> PSH ACK 1001/74 1B",
        "< ACK 74/1002",
        "> FIN ACK 1002/74",
    ]
    assert "seen from its middle: 1000 bytes up and 70 bytes down" in capture.packets[0].comments[0]


def test_a_gap_is_a_jump_of_sequence_numbers() -> None:
    capture = encoded([began(), up(0, b"12"), up(10, b"34"), down(5, b"56")])
    assert lines(capture) == [
        *HANDSHAKE,
        "> PSH ACK 1/1 2B",
        "> PSH ACK 11/1 2B",
        "< ACK 1/13",
        "< PSH ACK 6/13 2B",
        "> ACK 13/8",
    ]
    comments = [each.comments for each in capture.packets[4:]]
    assert comments == [("8 bytes not captured",), (), ("5 bytes not captured",), ()]


def test_a_gap_before_an_end() -> None:
    capture = encoded([began(), up(0, b"12"), side_ended("client", offset=9), ended(9, 4)])
    assert lines(capture)[4:] == ["> FIN ACK 10/1", "< ACK 5/11", "> ACK 11/5"]
    comments = [each.comments for each in capture.packets[4:]]
    assert comments[:2] == [("7 bytes not captured",), ("4 bytes not captured",)]
    assert comments[2][0].startswith("ended: client_closed\n")


def test_a_gap_that_is_found_after_an_end() -> None:
    capture = encoded([began(), up(0, b"12"), side_ended("client"), ended(9, 0)])
    assert lines(capture)[4:] == ["> FIN ACK 3/1", "> ACK 11/1", "< ACK 1/11"]


def test_a_gap_too_large_for_sequence_numbers() -> None:
    capture = encoded([began(), up(0, b"12"), up(1 << 40, b"34"), up((1 << 40) + 2, b"5")])
    assert lines(capture)[4:] == [
        f"> PSH ACK {3 + MOST_SKIPPED}/1 2B",
        "< ACK 1/" + str(3 + MOST_SKIPPED + 2),
        f"> PSH ACK {3 + MOST_SKIPPED + 2}/1 1B",
    ]
    assert capture.packets[4].comments == (f"{(1 << 40) - 2} bytes not captured",)


def test_repeated_bytes_are_left_out() -> None:
    capture = encoded([began(), up(0, b"1234"), up(2, b"3456"), up(0, b"12")])
    assert [each.data for each in capture.packets if each.data] == [b"1234", b"56"]


def test_sequence_numbers_begin_anew_after_four_gibibytes() -> None:
    near = (1 << 32) - 3
    capture = encoded([began(up=near, down=5), up(near, b"12345"), up(near + 5, b"6")])
    assert lines(capture) == ["> PSH ACK 4294967294/6 5B", "> PSH ACK 3/6 1B"]


def test_long_chunks_are_several_segments() -> None:
    data = bytes(range(256)) * 1024
    capture = encoded([began(), down(0, data), down(len(data), b"x")])
    segments = capture.packets[3:-2]
    assert [len(each.data) for each in segments] == [SEGMENT_BYTES] * 8
    assert b"".join(each.data for each in segments) == data
    assert [each.flag_names for each in segments] == ["ACK"] * 7 + ["PSH ACK"]


def test_what_goes_one_way_is_acknowledged_now_and_then() -> None:
    size = UNACKNOWLEDGED_BYTES // 4
    capture = encoded([began(), *(up(each * size, bytes(size)) for each in range(9))])
    assert [line for line in lines(capture)[3:] if line[0] == "<"] == [
        f"< ACK 1/{1 + 4 * size}",
        f"< ACK 1/{1 + 8 * size}",
    ]


def test_a_clock_that_is_set_back_does_not_turn_packets_round() -> None:
    capture = encoded(
        [began(), up(0, b"1", at=T + 5), up(1, b"2", at=T + 3), up(2, b"3", at=T + 6)]
    )
    times = [each.microseconds - T * 1e6 for each in capture.packets]
    assert times == [0, 0, 0, 5e6, 5e6, 6e6]


@pytest.mark.parametrize("at", [math.nan, math.inf, -1.0, -math.inf, 1e300, 1.7e308, 10**400])
def test_no_time_is_an_error(at: float) -> None:
    assert encoded([began(at=at, opened_at=at), up(0, b"x", at=at), ended(1, 0, at=at)]).packets


# -- how it ends


@pytest.mark.parametrize(
    ("events", "last"),
    [
        # Both sides end, the client first, with an answer in between.
        (
            [
                side_ended("client"),
                down(0, b"late"),
                side_ended("backend"),
                ended(1, 4, "client_closed"),
            ],
            ["> FIN ACK 2/1", "< PSH ACK 1/3 4B", "< FIN ACK 5/3", "> ACK 3/6"],
        ),
        ([side_ended("backend"), ended(1, 0, "backend_closed")], ["< FIN ACK 1/2", "> ACK 2/2"]),
        ([side_ended("client"), ended(1, 0, "client_closed")], ["> FIN ACK 2/1", "< ACK 1/3"]),
        ([ended(1, 0, "client_closed")], ["< ACK 1/2", "> FIN ACK 2/1"]),
        (
            [side_ended("client", "reset"), ended(1, 0, "client_reset")],
            ["< ACK 1/2", "> RST ACK 2/1"],
        ),
        ([side_ended("backend", "reset"), ended(1, 0, "backend_reset")], ["< RST ACK 1/2"]),
        ([ended(1, 0, "backend_reset")], ["< RST ACK 1/2"]),
        # A reset after an end.
        (
            [side_ended("client"), side_ended("client", "reset"), ended(1, 0, "client_closed")],
            ["> FIN ACK 2/1", "< ACK 1/3", "> RST ACK 3/1"],
        ),
        # Bytes of the other side after a reset.
        (
            [side_ended("client", "reset"), down(0, b"x"), ended(1, 1, "client_reset")],
            ["> RST ACK 2/1", "< PSH ACK 1/2 1B", "> ACK 2/2"],
        ),
        # A side that has vanished sends nothing; its connection is reset by us.
        ([side_ended("client", "timeout"), ended(1, 0, "client_lost")], ["< RST ACK 1/2"]),
        (
            [
                down(0, b"x"),
                side_ended("backend"),
                side_ended("client", "timeout"),
                ended(1, 1, "client_lost"),
            ],
            ["< PSH ACK 1/2 1B", "< FIN ACK 2/2", "< RST ACK 3/2"],
        ),
        ([side_ended("backend", "timeout"), ended(1, 0, "backend_lost")], ["< RST ACK 1/2"]),
        ([side_ended("client", "timeout"), ended(1, 0, "write_timeout")], ["< RST ACK 1/2"]),
        # We have closed it.
        (
            [down(0, b"x"), ended(1, 1, "idle_timeout")],
            ["< PSH ACK 1/2 1B", "> ACK 2/2", "< FIN ACK 2/2"],
        ),
        ([side_ended("client", "timeout"), ended(1, 0, "read_timeout")], ["< FIN ACK 1/2"]),
        ([side_ended("backend", "timeout"), ended(1, 0, "connect_timeout")], ["< FIN ACK 1/2"]),
        (
            [side_ended("backend"), ended(1, 0, "half_close_timeout")],
            ["< FIN ACK 1/2", "> ACK 2/2"],
        ),
        # It goes on.
        ([ended(1, 0, None)], ["< ACK 1/2"]),
    ],
)
def test_the_end(events: list[FlowEvent], last: list[str]) -> None:
    capture = encoded([began(), up(0, b"x"), *events])
    assert lines(capture)[4:] == last
    final = events[-1]
    assert isinstance(final, Ended)
    told = "not seen any more" if final.reason is None else f"ended: {final.reason}\n"
    assert capture.packets[-1].comments[0].startswith(told)
    assert sum(bool(each.comments) for each in capture.packets) == 2


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_ends_the_clients_connection(reason: Reason) -> None:
    last = encoded([began(), up(0, b"x"), ended(1, 0, reason)]).packets[-1]
    assert last.flags & (FIN | RST)
    assert last.flags & ACK


def test_a_reset_has_its_own_time() -> None:
    reset = side_ended("client", "reset", at=T + 2)
    capture = encoded([began(), up(0, b"x"), reset, ended(1, 0, "client_reset", at=T + 7)])
    assert capture.packets[-1].microseconds == (T + 2) * 1e6


def test_a_connection_of_which_nothing_was_seen_is_one_packet() -> None:
    capture = encoded([began(up=10, down=20), ended(10, 20, None)])
    assert lines(capture) == ["> ACK 11/21"]
    (comment,) = capture.packets[0].comments
    assert "seen from its middle" in comment
    assert "not seen any more" in comment


# -- the next file


def test_a_file_ends_in_mid_connection_and_another_one_goes_on() -> None:
    old, new = PcapngEncoder(), PcapngEncoder()
    events: list[FlowEvent] = [began(), up(0, b"hello"), side_ended("client"), down(0, b"a")]
    first = read(old.start() + b"".join(map(old.encode, events)) + old.finish(T + 3))
    assert lines(first)[3:] == [
        "> PSH ACK 1/1 5B",
        "> FIN ACK 6/1",
        "< PSH ACK 1/7 1B",
        "> ACK 7/2",
    ]
    second = encoded(
        [
            *old.under_way(T + 3),
            down(1, b"bc", at=T + 4),
            side_ended("backend", at=T + 5),
            ended(5, 3, at=T + 6),
        ],
        new,
    )
    assert lines(second) == ["< PSH ACK 2/7 2B", "< FIN ACK 4/7", "> ACK 7/5"]
    assert "seen from its middle: 5 bytes up and 1 bytes down" in second.packets[0].comments[0]


def test_a_side_that_ended_before_it_was_seen_is_told_at_the_beginning_and_once() -> None:
    old = PcapngEncoder()
    events: list[FlowEvent] = [began(up=5), side_ended("client", at=T - 60, offset=5)]
    first = read(old.start() + b"".join(map(old.encode, events)) + old.finish(T + 3))
    assert lines(first) == ["> FIN ACK 6/1", "< ACK 1/7"]
    assert first.packets[0].microseconds == T * 1e6
    second = encoded([*old.under_way(T + 3), down(0, b"a", at=T + 4)])
    assert lines(second) == ["< PSH ACK 1/7 1B"]


def test_a_reset_is_in_the_file_in_which_it_was() -> None:
    old = PcapngEncoder()
    events: list[FlowEvent] = [began(), up(0, b"x"), side_ended("client", "reset")]
    first = read(old.start() + b"".join(map(old.encode, events)) + old.finish(T + 3))
    assert lines(first)[4:] == ["< ACK 1/2", "> RST ACK 2/1"]
    second = encoded([*old.under_way(T + 3), ended(1, 0, "client_reset", at=T + 4)])
    assert lines(second) == ["> ACK 2/1"]
    assert "ended: client_reset" in second.packets[0].comments[0]


def test_a_reset_that_is_in_no_file_yet_is_in_the_next_one() -> None:
    old = PcapngEncoder()
    for event in (began(), up(0, b"x"), side_ended("client", "reset")):
        old.encode(event)
    second = encoded([*old.under_way(T + 3), ended(1, 0, "client_reset", at=T + 4)])
    assert lines(second) == ["> RST ACK 2/1"]


def test_nothing_is_left_of_a_connection_that_has_ended() -> None:
    encoder = PcapngEncoder()
    for number in range(50):
        encoder.encode(began(number))
        encoder.encode(up(0, b"x", connection=number))
    assert len(encoder.under_way(T)) == 50
    for number in range(50):
        encoder.encode(Ended(number, T, 1, 0, "operator"))
    assert encoder.under_way(T) == []
    assert encoder.finish(T) == b""


def test_events_of_unknown_connections_add_nothing() -> None:
    encoder = PcapngEncoder()
    for event in (up(0, b"x"), side_ended("client"), ended(1, 0)):
        assert encoder.encode(event) == b""


# -- addresses


@pytest.mark.parametrize(
    ("fields", "client", "server"),
    [
        ({}, "192.168.1.7 51312", "10.0.0.1 1883"),
        (
            {"client": "[fe80::1%eth0]:5000", "client_local": "[fe80::2%eth0]:80"},
            "fe80::1 5000",
            "fe80::2 80",
        ),
        ({"client_local": None}, "192.168.1.7 51312", "192.0.2.1 1883"),
        ({"client_local": None, "backend": "unix:/run/x"}, "192.168.1.7 51312", "192.0.2.1 49152"),
        ({"client_local": "[::1]:80"}, "192.168.1.7 51312", "192.0.2.1 80"),
        ({"client": "[2001:db9::7]:80"}, "2001:db9::7 80", "2001:db8:ffff::1 1883"),
        (
            {"client": "unix:4711", "client_local": None},
            "2001:db8::42 49152",
            "2001:db8:ffff::1 1883",
        ),
        ({"client": "nonsense", "client_local": ""}, "2001:db8::42 49152", "2001:db8:ffff::1 1883"),
        # TLS was terminated.
        (
            {"client_local": "10.0.0.1:8883", "facts": {"tls_version": "1.3"}},
            "192.168.1.7 51312",
            "10.0.0.1 1883",
        ),
        (
            {"client_local": "10.0.0.1:17001", "facts": {"tls_version": "1.3"}},
            "192.168.1.7 51312",
            "10.0.0.1 17001",
        ),
        ({"client_local": "10.0.0.1:8883"}, "192.168.1.7 51312", "10.0.0.1 8883"),
    ],
)
def test_addresses(fields: dict[str, Any], client: str, server: str) -> None:
    first = encoded([began(**fields)]).packets[0]
    assert f"{first.source} {first.source_port}" == client
    assert f"{first.destination} {first.destination_port}" == server
    (comment,) = first.comments
    is_made_up = "2001:db8:" in client + server or "192.0.2." in server
    assert ("made up" in comment) == is_made_up
    assert ("TLS was terminated: port 8883 is shown as 1883" in comment) == (
        "8883" in str(fields) and "1883" in server
    )


def test_made_up_addresses_are_distinct_and_tell_the_connections_id() -> None:
    numbers = [1, 9, 10, 99_999, 123_456_789_012]
    capture = encoded(began(each, client="unix:1", client_local=None) for each in numbers)
    clients = [str(each.source) for each in capture.packets if each.is_inbound][::2]
    assert clients == [
        *["2001:db8::1", "2001:db8::9", "2001:db8::10", "2001:db8::9:9999"],
        "2001:db8::1234:5678:9012",
    ]


def test_services_without_an_address_are_distinct() -> None:
    capture = encoded(
        began(each, service=f"s{each % 3}", client="unix:1", client_local=None) for each in range(6)
    )
    servers = {
        (each.interface, str(each.source)) for each in capture.packets if not each.is_inbound
    }
    assert servers == {(f"s{each}", f"2001:db8:ffff::{each + 1}") for each in range(3)}


# -- what is said beside the packets


def test_the_section_and_its_interfaces() -> None:
    capture = encoded([began(1), began(2, service="web"), began(3)])
    assert capture.section[4].startswith("monconn ")
    assert all(capture.section.values())
    assert "made up" in capture.section[1]
    assert [each[2] for each in capture.interfaces] == ["mqtt", "web"]
    assert [each[3] for each in capture.interfaces] == [
        "monconn's service mqtt",
        "monconn's service web",
    ]


def test_comments_on_the_first_and_the_last_packet() -> None:
    facts = {"protocol": "mqtt", "mqtt_client_id": "pump-7"}
    capture = encoded(
        [
            began(facts={"tag": "roof"}),
            ended(
                0,
                0,
                "client_reset",
                detail="connection reset by peer",
                facts={"tag": "roof", **facts},
            ),
        ]
    )
    assert capture.packets[0].comments == (
        "mqtt: connection 42 (run-42) of 192.168.1.7:51312, backend broker:1883, opened"
        " 2025-11-24T16:00:00.000+00:00\n"
        "tag: roof",
    )
    assert capture.packets[-1].comments == (
        "ended: client_reset (connection reset by peer)\n"
        "0 bytes up and 0 bytes down in all\n"
        "protocol: mqtt\n"
        "mqtt_client_id: pump-7",
    )


def test_how_another_port_is_dissected() -> None:
    capture = encoded([began(client_local="10.0.0.1:17001"), ended(facts={"protocol": "mqtt"})])
    assert "-d tcp.port==17001,mqtt" in capture.packets[-1].comments[0]


def test_names_of_addresses() -> None:
    capture = encoded(
        [
            began(facts={"tls_server_name": "broker.example"}),
            ended(facts={"tls_server_name": "broker.example", "mqtt_client_id": "pump 7\0\x1b[m"}),
            began(43, client="unix:4711"),
        ]
    )
    assert capture.names == [
        ("10.0.0.1", "broker.example"),
        ("192.168.1.7", "pump_7___m"),
        ("2001:db8::43", "unix_4711"),
        ("2001:db8:ffff::1", "mqtt"),
    ]


@pytest.mark.parametrize("start", ["", "a"], ids=["even", "odd"])
def test_texts_of_peers_are_cut_and_printable(start: str) -> None:
    long = "\x1b]0;x\x07\n\ud800" + "ä€" * 100_000
    facts = {f"{start}fact_{each}": long for each in range(1000)}
    names = {"mqtt_client_id": long, "tls_server_name": "\ud800\0"}
    capture = encoded(
        [
            began(facts={**names, **facts}, service=long, uid=long, client=long, backend=long),
            ended(detail=long, facts={**facts, "more": long}),
        ]
    )
    for packet in capture.packets:
        for comment in packet.comments:
            assert all(line.isprintable() for line in comment.split("\n"))
            assert len(comment.encode()) <= 60_000
    assert all(name.isascii() and len(name) < 64 for _, name in capture.names)


# -- anything


SIDES: list[Side] = ["client", "backend"]
DIRECTIONS: list[Direction] = ["up", "down"]
HOWS: list[SideEnd] = ["fin", "reset", "timeout", "none"]
connections = st.integers(0, 3)
times = st.floats() | st.floats(T, T + 10)
offsets = st.integers(0, 20) | st.integers(0, 1 << 70)
texts = st.text(max_size=20)
facts = st.dictionaries(texts | st.just("mqtt_client_id"), texts | st.integers(), max_size=3)
any_event: st.SearchStrategy[FlowEvent] = st.one_of(
    st.builds(
        Began,
        connections,
        times,
        times,
        texts,
        texts,
        texts | st.sampled_from(["10.0.0.1:1", "[::1]:2"]),
        st.none() | texts | st.sampled_from(["10.0.0.2:3", "[::2]:4"]),
        texts,
        st.just(0) | offsets,
        st.just(0) | offsets,
        facts,
    ),
    st.builds(
        Data, connections, times, st.sampled_from(DIRECTIONS), offsets, st.binary(max_size=9)
    ),
    st.builds(
        SideEnded,
        connections,
        times,
        st.sampled_from(SIDES),
        st.sampled_from(HOWS),
        st.none() | offsets,
    ),
    st.builds(
        Ended,
        connections,
        times,
        offsets,
        offsets,
        st.none() | st.sampled_from(REASONS),
        texts,
        facts,
    ),
)


@settings(max_examples=examples(80), deadline=None)
@given(st.lists(any_event, max_size=30))
def test_whatever_happens_the_file_is_well_formed(events: list[FlowEvent]) -> None:
    encoder = PcapngEncoder()
    encode = encoder.encode
    read(encoder.start() + b"".join(map(encode, events)) + encoder.finish(T))
    encoded(encoder.under_way(T))


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DIRECTIONS), st.binary(min_size=1, max_size=9))))
def test_bytes_and_numbers_are_those_of_the_streams(chunks: list[tuple[Direction, bytes]]) -> None:
    events: list[FlowEvent] = [began()]
    streams: dict[bool, bytes] = {True: b"", False: b""}
    for direction, data in chunks:
        is_up = direction == "up"
        events.append(Data(42, T, direction, len(streams[is_up]), data))
        streams[is_up] += data
    found: dict[bool, bytes] = {True: b"", False: b""}
    for packet in encoded([*events, ended(len(streams[True]), len(streams[False]))]).packets:
        if packet.data:
            assert packet.sequence == 1 + len(found[packet.is_inbound])
        found[packet.is_inbound] += packet.data
        if packet.flags & ACK:
            assert packet.acknowledged == 1 + len(found[not packet.is_inbound])
    assert found == streams
