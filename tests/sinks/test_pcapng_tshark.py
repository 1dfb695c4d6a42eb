"""What Wireshark makes of the encoder's files.

Each call of tshark takes about half a second, so many connections are in one file.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from monconn.model.flow import Began, Data, Ended, FlowEvent, SideEnded
from monconn.model.reasons import Direction, Reason, Side, SideEnd
from monconn.sinks.pcapng import MOST_SKIPPED, PcapngEncoder
from tests.properties import examples

T = 1_764_000_000.0
FIELDS = (
    "tcp.stream",
    "tcp.analysis.flags",
    "tcp.analysis.lost_segment",
    "tcp.analysis.ack_lost_segment",
    "ip.checksum.status",
    "tcp.checksum.status",
    "_ws.malformed",
    "_ws.expert.severity",
    "frame.comment",
    "frame.interface_name",
    "frame.protocols",
    "http.request.uri",
    "mqtt.clientid",
    "tcp.port",
    "ip.addr",
    "ipv6.addr",
)
ERROR = str(0x800000)  # the severity of Wireshark's expert infos
GOOD = ("", "1")  # IPv6 has no checksum of its own
DIRECTIONS: tuple[Direction, ...] = ("up", "down")
Row = dict[str, str]


@attrs.frozen
class Tshark:
    """Runs tshark."""

    path: str
    home: Path

    def read(self, file: bytes, streams: int) -> tuple[list[Row], list[Followed]]:
        """What it finds in each packet, and the bytes of each stream."""
        command = [self.path, "-n", "-r", "-", "-T", "fields", "-E", "separator=|"]
        command += ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
        for field in FIELDS:
            command += ["-e", field]
        for stream in range(streams):
            command += ["-z", f"follow,tcp,raw,{stream}"]
        # Nothing of the user's preferences counts, and no time zone.
        env = {**os.environ, "HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home)}
        run = subprocess.run(command, input=file, env=env, capture_output=True, timeout=60)
        assert run.returncode == 0, run.stderr
        output = run.stdout.decode()
        packets, *rest = re.split(r"^=+$", output, flags=re.MULTILINE)
        rows = [
            dict(zip(FIELDS, line.split("|"), strict=True)) for line in packets.splitlines() if line
        ]
        followed = [Followed.parse(each) for each in rest if each.strip()]
        return rows, followed[::-1]  # the last stream that was asked for comes first


@attrs.frozen
class Followed:
    """The bytes of a stream, as *Follow TCP Stream* has them."""

    client: str
    up: bytes
    down: bytes

    @classmethod
    def parse(cls, text: str) -> Followed:
        lines = text.splitlines()
        first = next(number for number, line in enumerate(lines) if line.startswith("Node 1:"))
        client = next(line for line in lines if line.startswith("Node 0:")).partition(": ")[2]
        up = "".join(line for line in lines[first + 1 :] if not line.startswith("\t"))
        down = "".join(line.strip() for line in lines[first + 1 :] if line.startswith("\t"))
        return cls(client, bytes.fromhex(up), bytes.fromhex(down))


@pytest.fixture(scope="module")
def tshark(program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Tshark:
    return Tshark(program("tshark"), tmp_path_factory.mktemp("home"))


@attrs.define
class Conversation:
    """A connection's events, and what they are to look like.

    :param steps: pairs of a direction and the bytes; ``None`` are missing ones, as many as their
        number.
    """

    steps: Sequence[tuple[Direction, bytes | int]]
    ends: Sequence[tuple[Side, SideEnd]] = (("client", "fin"), ("backend", "fin"))
    reason: Reason | None = "client_closed"
    starts: tuple[int, int] = (0, 0)
    client: str = "10.1.{high}.{low}:40000"
    client_local: str | None = "10.0.0.1:7001"
    facts: dict[str, str] = attrs.field(factory=dict)

    def events(self, number: int) -> list[FlowEvent]:
        seconds = itertools.count(1)
        client = self.client.format(high=number // 250, low=1 + number % 250)
        up, down = self.starts
        offsets: dict[Direction, int] = {"up": up, "down": down}
        begin = (number, T, T, f"u-{number}", "svc", client, self.client_local, "b:80", up, down)
        events: list[FlowEvent] = [Began(*begin, facts=self.facts)]
        for direction, data in self.steps:
            if isinstance(data, bytes):
                at = T + next(seconds)
                events.append(Data(number, at, direction, offsets[direction], data))
                offsets[direction] += len(data)
            else:
                offsets[direction] += data
        for side, how in self.ends:
            sent = offsets["up" if side == "client" else "down"]
            events.append(SideEnded(number, T + next(seconds), side, how, sent))
        at = T + next(seconds)
        sent_up, sent_down = offsets["up"], offsets["down"]
        events.append(Ended(number, at, sent_up, sent_down, self.reason, "", self.facts))
        return events

    def gaps(self) -> int:
        """How often bytes are missing; those one after the other count once."""
        count = 0
        for direction in DIRECTIONS:
            steps = [data for each, data in self.steps if each == direction and data]
            kinds = [isinstance(data, int) for data in steps]
            count += sum(is_gap for is_gap, _ in itertools.groupby(kinds))
        return count

    def followed(self, wanted: Direction) -> bytes:
        """What *Follow TCP Stream* shows of a direction: it has words for what is missing."""
        shown, missing = b"", 0
        for direction, data in self.steps:
            if direction != wanted or not data:
                continue
            if isinstance(data, int):
                missing += data
                continue
            if missing:
                count = min(missing, MOST_SKIPPED)
                shown += b"[%d bytes missing in capture file]\0" % count
            shown, missing = shown + data, 0
        return shown


def encoded(conversations: Sequence[Conversation]) -> bytes:
    """A file of conversations that take place side by side."""
    events = [each.events(number) for number, each in enumerate(conversations)]
    mixed = itertools.chain.from_iterable(itertools.zip_longest(*events))
    encoder = PcapngEncoder()
    return encoder.start() + b"".join(encoder.encode(each) for each in mixed if each is not None)


def problem_of(conversation: Conversation, stream: Sequence[Row], found: Followed) -> str:
    for direction, data in zip(DIRECTIONS, (found.up, found.down), strict=True):
        if data != conversation.followed(direction):
            return f"{direction} is {data!r}"
    flagged = [row for row in stream if row["tcp.analysis.flags"]]
    lost = [row for row in stream if row["tcp.analysis.lost_segment"]]
    if len(lost) != conversation.gaps():
        return f"{len(lost)} lost segments"
    if not all("bytes not captured" in row["frame.comment"] for row in lost):
        return "a lost segment without a comment"
    # Whoever acknowledges what comes after a gap acknowledges the gap, which was not seen.
    beyond = [row for row in stream if row["tcp.analysis.ack_lost_segment"]]
    if len(beyond) > len(lost):
        return f"{len(beyond)} acknowledgements of what was not seen"
    if not all(row in lost or row in beyond for row in flagged):
        return "another flag"
    return ""


def check(tshark: Tshark, conversations: Sequence[Conversation]) -> list[list[Row]]:
    """Nothing is wrong with any of them, and each is followed; the packets of each."""
    rows, followed = tshark.read(encoded(conversations), len(conversations))
    assert not [row for row in rows if row["_ws.malformed"]]
    assert not [row for row in rows if ERROR in row["_ws.expert.severity"].split(",")]
    assert not [row for row in rows if row["ip.checksum.status"] not in GOOD]
    assert {row["tcp.checksum.status"] for row in rows} == {"1"}
    streams: list[list[Row]] = [[] for _ in conversations]
    for row in rows:
        streams[int(row["tcp.stream"])].append(row)
    by_number: dict[int, list[Row]] = {}
    for stream, found in zip(streams, followed, strict=True):
        number = int(re.findall(r"connection (\d+) ", stream[0]["frame.comment"])[0])
        by_number[number] = stream
        problem = problem_of(conversations[number], stream, found)
        assert not problem, f"{problem}: {conversations[number]}\n{stream}"
    return [by_number[number] for number in range(len(conversations))]


# -- conversations of all kinds


BIG = bytes(range(256)) * 300  # 75 KiB: in packets of one length field, it would not fit
NEAR = (1 << 32) - 40
pieces = st.binary(max_size=60) | st.just(BIG)
missing = st.integers(1, 100) | st.integers(1, 1 << 34)
directions: st.SearchStrategy[Direction] = st.sampled_from(DIRECTIONS)
ENDS: list[tuple[list[tuple[Side, SideEnd]], Reason | None]] = [
    ([("client", "fin"), ("backend", "fin")], "client_closed"),
    ([("backend", "fin"), ("client", "fin")], "backend_closed"),
    ([("client", "reset")], "client_reset"),
    ([("backend", "reset")], "backend_reset"),
    ([("client", "fin"), ("client", "reset")], "client_closed"),
    ([("backend", "fin"), ("client", "reset")], "backend_closed"),
    ([("client", "timeout")], "client_lost"),
    ([("backend", "fin"), ("client", "timeout")], "client_lost"),
    ([("backend", "fin")], "half_close_timeout"),
    ([], "idle_timeout"),
    ([], None),
]


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    has_gaps = draw(st.booleans())
    each = st.tuples(directions, pieces | missing if has_gaps else pieces)
    steps: list[tuple[Direction, bytes | int]] = draw(st.lists(each, max_size=8))
    starts = draw(st.just((0, 0)) | st.tuples(*[st.integers(1, 9) | st.just(NEAR)] * 2))
    if any(starts):
        # What is missing before the first packet that is seen of a direction, nobody can see.
        steps = [("up", b"first"), ("down", b"first"), *steps]
    ends, reason = draw(st.sampled_from(ENDS))
    is_ipv6 = draw(st.booleans())
    return Conversation(
        steps,
        ends,
        reason,
        starts,
        "[fe80::{high}:{low}]:40000" if is_ipv6 else "10.1.{high}.{low}:40000",
        draw(st.sampled_from(("[fe80::ffff]:7001" if is_ipv6 else "10.0.0.1:7001", None))),
    )


# No shrinking: it would call tshark for many minutes. What fails is a single conversation anyway.
@settings(
    max_examples=examples(3),
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
)
@given(made=st.lists(conversations(), min_size=25, max_size=40))
def test_every_conversation_is_followed(tshark: Tshark, made: list[Conversation]) -> None:
    check(tshark, made)


# -- what else Wireshark finds

CONNECT = bytes.fromhex("101300044d5154540402003c000770756d702d3037")
CONNACK = bytes.fromhex("20020000")
REQUEST = b"GET /status?x=1 HTTP/1.1\r\nHost: web\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_http_and_mqtt_are_dissected(tshark: Tshark) -> None:
    mqtt: list[tuple[Direction, bytes]] = [("up", CONNECT), ("down", CONNACK)]
    http: list[tuple[Direction, bytes]] = [("up", REQUEST), ("down", RESPONSE)]
    plain, over_tls = Conversation(mqtt), Conversation(mqtt, facts={"tls_version": "1.3"})
    plain.client_local, over_tls.client_local = "10.0.0.1:1883", "10.0.0.1:8883"
    odd_port = Conversation(http)
    ipv6 = Conversation(http, client="[fe80::{low}]:50000", client_local="[fe80::ff]:80")
    unix = Conversation(http, client="unix:{low}", client_local=None)
    streams = check(tshark, [plain, over_tls, odd_port, ipv6, unix])
    for stream in streams[:2]:
        assert [row["mqtt.clientid"] for row in stream if row["mqtt.clientid"]] == ["pump-07"]
        assert {row["tcp.port"] for row in stream} == {"40000,1883", "1883,40000"}
    for stream in streams[2:]:
        assert [row["http.request.uri"] for row in stream if row["http.request.uri"]] == [
            "/status?x=1"
        ]
    assert streams[3][0]["ipv6.addr"] == "fe80::4,fe80::ff"
    assert streams[4][0]["ipv6.addr"] == "2001:db8::4,2001:db8:ffff::1"
    for stream in streams:
        assert {row["frame.interface_name"] for row in stream} == {"svc"}
        first, last = (row["frame.comment"] for row in stream if row["frame.comment"])
        assert first.startswith("svc: connection ")
        assert last.startswith("ended: client_closed")


def test_capinfos_finds_nothing_wrong(program: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "test.pcapng"
    path.write_bytes(encoded([Conversation([("up", b"hello")], facts={"mqtt_client_id": "pump"})]))
    run = subprocess.run([program("capinfos"), path], capture_output=True, timeout=60, check=True)
    assert not run.stderr
    output = run.stdout.decode()
    for line in (
        r"File encapsulation: +Raw IP",
        r"Number of packets: +7",
        r"Strict time order: +True",
        r"Capture application: +monconn",
        r" +Name = svc",
        r"Number of resolved IPv4 addresses in file: 1",
    ):
        assert re.search(line, output), line
