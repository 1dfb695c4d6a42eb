"""Which decoder gets a connection's first bytes, and what its record says then."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.decode.first_bytes import decoding
from monconn.decode.interfaces import MOST_BYTES, MOST_CHUNKS, UNKNOWN
from monconn.model.reasons import Direction
from monconn.model.record import FACT_CHARACTERS, FACTS
from tests.decode.world import Chunk, a_record, client_hello, decoded, in_records, startup
from tests.properties import examples

CLIENT, SERVER = b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", b"SSH-2.0-dropbear\r\n"
BOTH = {
    "protocol": "ssh",
    "ssh_client": "SSH-2.0-OpenSSH_9.2p1 Debian-2",
    "ssh_server": "SSH-2.0-dropbear",
}


@pytest.mark.parametrize(
    "chunks",
    [
        [("up", CLIENT), ("down", SERVER)],
        [("down", SERVER), ("up", CLIENT)],
        [("up", CLIENT[:1]), ("down", SERVER[:5]), ("up", CLIENT[1:]), ("down", SERVER[5:])],
        [("up", CLIENT + b"\0\0\5"), ("down", b"Keep out!\r\n" + SERVER)],
    ],
)
def test_both_sides_of_ssh_are_told(chunks: list[Chunk]) -> None:
    assert decoded(*chunks) == BOTH


def test_a_side_of_ssh_is_told_without_the_other() -> None:
    assert decoded(("up", CLIENT)) == {"protocol": "ssh", "ssh_client": BOTH["ssh_client"]}
    assert decoded(("up", CLIENT), ("down", b"go away\n" * 40))["ssh_client"]
    assert decoded(("up", b"SSH-" + b"x" * 300)) == UNKNOWN


@pytest.mark.parametrize("greeting", [b"220 mail.example.org ESMTP\r\n", b"\x4a\0\0\0\x0a8.0.36\0"])
def test_a_server_that_speaks_first_is_unknown_at_once(greeting: bytes) -> None:
    record, start = a_record(), decoding("auto")
    assert start is not None
    assert start.chunk(record, "down", greeting) is None
    assert dict(record.facts) == UNKNOWN


def test_nothing_is_known_of_a_connection_without_bytes() -> None:
    assert decoded() == {}


def test_nothing_is_decoded_if_it_is_off() -> None:
    assert decoding("off") is None


@pytest.mark.parametrize("beginning", [b"G", b"\x16", b"\0", b"S", b"SSH-2.0", b"PRI * H"])
def test_what_stays_undecided_is_unknown_at_the_end(beginning: bytes) -> None:
    record, start = a_record(), decoding("auto")
    assert start is not None
    following = start.chunk(record, "up", beginning)
    assert following is not None
    assert not record.has_facts
    following.ended(record)
    assert dict(record.facts) == UNKNOWN


@pytest.mark.parametrize("direction", ["up", "down"])
def test_it_is_decided_after_some_chunks(direction: Direction) -> None:
    record, now = a_record(), decoding("auto")
    assert now is not None
    now = now.chunk(record, "up", b"GET /slow")
    chunks = 1
    while now is not None:
        now = now.chunk(record, direction, b"x")
        chunks += 1
    assert chunks == MOST_CHUNKS
    assert record.facts["http_method"] == "GET"


def test_what_was_known_before_stays() -> None:
    record, start = a_record(), decoding("auto")
    assert start is not None
    record.facts["http_host"] = "mine"
    assert start.chunk(record, "up", b"GET / HTTP/1.1\r\nHost: theirs\r\n\r\n") is None
    assert record.facts == {
        "http_host": "mine",
        "protocol": "http",
        "http_method": "GET",
        "http_path": "/",
    }


def test_no_more_facts_are_told_than_there_may_be() -> None:
    record, start = a_record(), decoding("auto")
    assert start is not None
    for number in range(FACTS - 1):
        record.set_fact(f"tag_{number}", number)
    assert start.chunk(record, "up", b"GET / HTTP/1.1\r\nHost: theirs\r\n\r\n") is None
    assert len(record.facts) == FACTS
    assert record.facts["protocol"] == "http"


STREAMS: list[tuple[bytes, bytes]] = [
    (client_hello(protocols=("h2", "http/1.1")), b""),
    (in_records(client_hello(), 100), b""),
    (b"GET /a?b HTTP/1.1\r\nAccept: */*\r\nHost: www.example.org\r\n\r\nrest", b""),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""),
    (CLIENT, SERVER),
    (startup(user="ada", database="sales"), b""),
    (b"\0\0\0\x08\x04\xd2\x16\x2f" + client_hello(), b"S"),
]


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """Data cut into pieces, none of them empty."""
    at = sorted({min(each, len(data)) for each in cuts} | {0, len(data)})
    return [data[one:other] for one, other in pairwise(at)]


DIRECTIONS: st.SearchStrategy[Direction] = st.sampled_from(["up", "down"])
CUTS = st.lists(st.integers(1, 600), max_size=6)


@settings(max_examples=examples(100))
@given(st.sampled_from(STREAMS), CUTS, CUTS, st.data())
def test_it_does_not_matter_how_the_bytes_are_split(
    stream: tuple[bytes, bytes], up_cuts: list[int], down_cuts: list[int], data: st.DataObject
) -> None:
    up, down = stream
    sent: list[Chunk] = [("up", up), ("down", down)]
    whole = decoded(*(each for each in sent if each[1]))
    left: dict[Direction, list[bytes]] = {"up": split(up, up_cuts), "down": split(down, down_cuts)}
    first = left["up"].pop(0)
    chunks: list[Chunk] = [("up", first)]
    while left["up"] or left["down"]:
        ways: list[Direction] = [each for each in left if left[each]]
        way = data.draw(st.sampled_from(ways))
        chunks.append((way, left[way].pop(0)))
    assert decoded(*chunks) == whole
    assert whole["protocol"] != "unknown"


@st.composite
def bytes_of_peers(draw: st.DrawFn) -> bytes:
    """Anything, or what a client might send but for some bytes, and however much."""
    if draw(st.booleans()):
        return draw(st.sampled_from([b"", b"\x16\3\1", b"\0\0\0", b"GET ", b"SSH-"])) + draw(
            st.binary(min_size=1, max_size=200)
        )
    data = bytearray(draw(st.sampled_from(draw(st.sampled_from(STREAMS)))) or b"x")
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
        data = data or bytearray(b"x")
    return bytes(data) * draw(st.sampled_from([1, 1, 1, 40]))


@settings(max_examples=examples(300))
@given(st.lists(st.tuples(DIRECTIONS, bytes_of_peers()), min_size=1, max_size=5))
def test_whatever_the_bytes_are_they_are_decoded_within_bounds(
    chunks: list[tuple[Direction, bytes]],
) -> None:
    facts = decoded(*chunks)
    assert facts["protocol"] in ("tls", "http", "ssh", "mqtt", "postgresql", "unknown")
    assert len(facts) <= FACTS
    record = a_record()
    for name, value in facts.items():
        assert len(str(value)) <= FACT_CHARACTERS
        record.set_fact(name, value)  # which raises for what is none
    assert dict(record.facts) == facts


def test_no_more_bytes_are_held_than_there_may_be() -> None:
    path = b"/" + b"x" * (3 * MOST_BYTES)
    record, now = a_record(), decoding("auto")
    assert now is not None
    assert now.chunk(record, "up", b"GET " + path) is None
    assert record.facts["http_path"] == path[:FACT_CHARACTERS].decode()
