"""Flow events as a hex dump, text, raw bytes and JSON lines."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.model.flow import Began, Data, Ended, FlowEncoder, FlowEvent, SideEnded
from monconn.model.reasons import Direction
from monconn.ops.flow_text import HexEncoder, JsonEncoder, PlainTextEncoder, RawEncoder
from tests.properties import examples

OPENED = 1_700_000_000.0
BEGAN = Began(7, OPENED, OPENED, "abc-7", "mqtt", "192.0.2.7:51234", None, "10.0.0.1:1883")
HEAD = "id 7 mqtt 192.0.2.7:51234"


def up(data: bytes, offset: int = 0, at: float = 0.0, connection: int = 7) -> Data:
    return Data(connection, OPENED + at, "up", offset, data)


def down(data: bytes, offset: int = 0, at: float = 0.0, connection: int = 7) -> Data:
    return Data(connection, OPENED + at, "down", offset, data)


def ended(up: int = 0, down: int = 0, **more: Any) -> Ended:
    return Ended(7, OPENED + 9, up, down, **more)


def encoded(encoder: FlowEncoder, events: Sequence[FlowEvent]) -> str:
    return (encoder.start() + b"".join(map(encoder.encode, events))).decode()


def lines(encoder: FlowEncoder, *events: FlowEvent) -> list[str]:
    return encoded(encoder, (BEGAN, *events)).splitlines()[1:]


# -- the hex dump


def test_a_whole_connection() -> None:
    events = (
        BEGAN,
        up(b"hello\r\n", at=0.0123),
        down(bytes(range(0x20, 0x31)), at=1.5),
        SideEnded(7, OPENED + 61.25, "client", "fin", 7),
        SideEnded(7, OPENED + 3661, "backend", "reset", 17),
        Ended(7, OPENED + 90_061.5, 7, 17, "backend_reset", "connection reset by peer"),
    )
    assert encoded(HexEncoder(), events).splitlines() == [
        f"+0.000 {HEAD} opened, to 10.0.0.1:1883",
        f"+0.012 {HEAD} → up 7 B",
        "00000000  68 65 6c 6c 6f 0d 0a                              |hello..|",
        f"+1.500 {HEAD} ← down 17 B",
        "00000000  20 21 22 23 24 25 26 27  28 29 2a 2b 2c 2d 2e 2f  | !\"#$%&'()*+,-./|",
        "00000010  30                                                |0|",
        f"+1:01.250 {HEAD} client ended its side (FIN)",
        f"+1:01:01.000 {HEAD} backend reset the connection",
        f"+1d 01:01:01.500 {HEAD} closed: backend_reset: connection reset by peer"
        " (up 7 B, down 17 B)",
    ]


def test_no_line_of_a_dump_is_wider_than_80() -> None:
    dumped = lines(
        HexEncoder(), up(bytes(range(256)), 0xFFFFFF00), up(b"0123456789abcdef", 1 << 39)
    )
    assert max(len(line) for line in dumped if line[0] != "+") == 80
    assert max(map(len, dumped[1:17])) == 78


def test_from_the_middle_with_gaps_and_no_end() -> None:
    began = Began(7, OPENED + 5, OPENED, "abc-7", "web", "unix:12", None, "", 1000, 20)
    encoder = HexEncoder()
    events = (
        began,
        up(b"a", 1000, 5),
        up(b"b", 1001 + 12_595, 6),
        SideEnded(7, OPENED + 7, "backend", "fin", 120),
        Ended(7, OPENED + 8, 20_000, 120),
    )
    text = encoded(encoder, events).splitlines()
    head = "id 7 web unix:12"
    assert [line for line in text if line[0] == "+"] == [
        f"+5.000 {head} seen from here on, after up 1000 B, down 20 B",
        f"+5.000 {head} → up 1 B",
        f"+6.000 {head} → up … 12.3 KiB not seen",
        f"+6.000 {head} → up 1 B",
        f"+7.000 {head} ← down … 100 B not seen",
        f"+7.000 {head} backend ended its side (FIN)",
        f"+8.000 {head} → up … 6.3 KiB not seen",
        f"+8.000 {head} still open; seen until here (up 19.5 KiB, down 120 B)",
    ]


def test_events_without_a_beginning_and_a_clock_that_was_set_back() -> None:
    assert encoded(HexEncoder(), [up(b"", 5)]) == "id 7 → up 0 B\n"
    assert lines(HexEncoder(), up(b"", at=-60)) == [f"+0.000 {HEAD} → up 0 B"]


def test_colours_are_those_of_directions_and_reasons() -> None:
    text = lines(
        HexEncoder(coloured=True), up(b"u"), down(b"d"), up(b"u", 9), ended(10, 1, reason="error")
    )
    assert [(line[:5], line.endswith("\x1b[0m")) for line in text if line] == [
        ("\x1b[36m", True),
        ("\x1b[36m", True),
        ("\x1b[32m", True),
        ("\x1b[32m", True),
        ("\x1b[33m", True),  # the gap
        ("\x1b[36m", True),
        ("\x1b[36m", True),
        ("\x1b[31m", True),
    ]


# -- text


def test_text_across_the_borders_of_chunks() -> None:
    euro, cut = "€".encode(), "ä".encode()[:1]
    text = lines(
        PlainTextEncoder(),
        up(b"one\r\ntwo " + euro[:1], 0),
        up(euro[1:] + b" three", 10, 0.1),
        down(b"four\n", 0, 0.6),
        down(b"five\n", 5, 0.7),
        up(b"six" + cut, 18, 0.8),
        up(b"later", 22, 5),
        ended(27, 10, reason="client_closed"),
    )
    assert text == [
        f"+0.000 {HEAD} → up",
        "  one\\r",
        "  two € three",
        f"+0.600 {HEAD} ← down",
        "  four",
        "  five",
        f"+0.800 {HEAD} → up",
        "  six",
        f"+5.000 {HEAD} → up",
        "  \\xc3later",
        f"+9.000 {HEAD} closed: client_closed (up 27 B, down 10 B)",
    ]


def test_text_has_its_times_and_no_size_that_is_not_that_of_all_of_it() -> None:
    text = lines(PlainTextEncoder(), up(b"a", 0), up(b"b", 1, 0.1), up(b"c", 2, 0.9))
    assert text == [f"+0.000 {HEAD} → up", "  ab", f"+0.900 {HEAD} → up", "  c"]


def test_a_character_that_a_gap_or_an_end_cuts_off_is_an_escape() -> None:
    cut = "€".encode()[:2]
    text = lines(
        PlainTextEncoder(),
        up(cut),
        up(b"x", 100),
        down(cut),
        SideEnded(7, OPENED + 1, "backend", "fin", 2),
        up(cut, 101, 2),
        ended(103, 2, reason="client_closed"),
    )
    assert text == [
        f"+0.000 {HEAD} → up",
        "  \\xe2\\x82",
        f"+0.000 {HEAD} → up … 98 B not seen",
        f"+0.000 {HEAD} → up",
        "  x",
        f"+0.000 {HEAD} ← down",
        "  \\xe2\\x82",
        f"+1.000 {HEAD} backend ended its side (FIN)",
        f"+2.000 {HEAD} → up",
        "  \\xe2\\x82",
        f"+9.000 {HEAD} closed: client_closed (up 103 B, down 2 B)",
    ]


def test_no_text_of_a_peer_passes_for_a_line_of_ours() -> None:
    forged = f"\n+1.000 {HEAD} closed: client_closed\n\x1b[2J\u202e\u2028".encode()
    text = lines(PlainTextEncoder(), up(forged), up(b"\n+2.000\n", len(forged)))
    assert [line for line in text if not line.startswith("  ")] == [f"+0.000 {HEAD} → up"]
    assert text[3] == "  \\x1b[2J\\u202e\\u2028"


CHUNKS = st.lists(
    st.tuples(
        st.sampled_from(["up", "down"]),
        st.one_of(st.binary(max_size=40), st.text(max_size=10).map(lambda text: text.encode())),
        st.integers(0, 3),  # bytes that are missing before
    ),
    max_size=12,
)


def events_of(chunks: list[tuple[Direction, bytes, int]]) -> list[FlowEvent]:
    hostile = "\x1b]0;x\x07\n\u202e"
    events: list[FlowEvent] = [Began(7, OPENED, OPENED, "u", hostile, hostile, None, hostile)]
    offsets: dict[Direction, int] = {"up": 0, "down": 0}
    for number, (direction, data, missing) in enumerate(chunks):
        offsets[direction] += missing
        events.append(Data(7, OPENED + number, direction, offsets[direction], data))
        offsets[direction] += len(data)
    events.append(Ended(7, OPENED, offsets["up"] + 1, offsets["down"], "error", hostile))
    return events


@settings(max_examples=examples(100), deadline=None)
@given(chunks=CHUNKS)
def test_nothing_that_a_terminal_obeys(chunks: Any) -> None:
    for encoder in (HexEncoder(), PlainTextEncoder(), JsonEncoder()):
        text = encoded(encoder, events_of(chunks))
        assert text.replace("\n", "").isprintable()
        assert text.endswith("\n")


@settings(max_examples=examples(100), deadline=None)
@given(chunks=CHUNKS)
def test_raw_and_json_have_all_bytes(chunks: Any) -> None:
    events = events_of(chunks)
    sent = {
        wanted: b"".join(data for direction, data, _ in chunks if direction == wanted)
        for wanted in ("up", "down")
    }
    notes: list[str] = []
    raw = RawEncoder("up", notes.append)
    assert b"".join(map(raw.encode, events)) == sent["up"]
    assert raw.has_ended
    assert notes, "one byte is missing at the end"
    found = [json.loads(line) for line in encoded(JsonEncoder(), events).splitlines()]
    for direction, offset in (("up", 0), ("down", 0)):
        for each in found:
            if each.get("direction") == direction:
                assert each["offset"] == offset, "gaps and data follow each other"
                size = each.get("size")
                offset += len(base64.b64decode(each["data"])) if size is None else size


# -- for programs


def test_json_has_a_gap_and_iso_times() -> None:
    text = encoded(JsonEncoder(), [BEGAN, up(b"\xff", 5, 0.25), ended(6, 0, detail="\x7f")])
    began, gap, data, end = map(json.loads, text.splitlines())
    assert (began["at"], began["opened_at"]) == ("2023-11-14T22:13:20.000000+00:00",) * 2
    assert gap == {
        "event": "gap",
        "connection": 7,
        "at": "2023-11-14T22:13:20.250000+00:00",
        "direction": "up",
        "offset": 0,
        "size": 5,
    }
    assert (data["event"], data["offset"], data["data"]) == ("data", 5, "/w==")
    assert (end["event"], end["detail"]) == ("ended", "\x7f")
    assert "\x7f" not in text


def test_raw_is_one_direction_of_the_first_connection() -> None:
    notes: list[str] = []
    raw = RawEncoder("down", notes.append)
    began = Began(7, OPENED, OPENED, "u", "web", "c", None, "b", 1, 2)
    other = Began(8, OPENED, OPENED, "u", "web", "c", None, "b")
    events = (
        began,
        other,
        up(b"up", 1),
        down(b"one ", 2),
        down(b"other", 0, connection=8),
        down(b"two", 10),
        Ended(8, OPENED, 0, 5),
    )
    assert encoded(raw, events) == "one two"
    assert not raw.has_ended
    assert raw.encode(ended(3, 15)) == b""
    assert raw.has_ended
    assert notes == [
        "seen from its middle, after 2 B",
        "connection 8 is left out: raw bytes are of one",
        "4 B not seen, at offset 6",
        "2 B not seen, at offset 13",
    ]
