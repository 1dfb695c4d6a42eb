"""What MQTT's packets tell of a connection, and what its end means."""

from __future__ import annotations

import itertools
import re
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monconn.decode import mqtt
from monconn.decode.first_bytes import decoding
from monconn.decode.interfaces import MOST_CHUNKS, Decoding
from monconn.model.reasons import Direction, Reason, Side
from monconn.model.record import Fact
from tests.properties import examples

from .world import a_record

PINGREQ, PINGRESP, GOODBYE = b"\xc0\x00", b"\xd0\x00", b"\xe0\x00"
ACCEPTED, ACCEPTED_5 = b"\x20\x02\x00\x00", b"\x20\x03\x00\x00\x00"
Chunk = tuple[Direction, bytes]


def packet(first: int, body: bytes) -> bytes:
    length, header = len(body), bytearray([first])
    while True:
        length, byte = length >> 7, length & 0x7F
        header.append(byte | 0x80 if length else byte)
        if not length:
            return bytes(header) + body


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def connect(
    client_id: str | bytes = "pump-3",
    level: int = 4,
    *,
    name: str = "MQTT",
    keepalive: int = 60,
    is_clean: bool = True,
    will: bytes | None = None,
    user: str | None = None,
    password: str | None = None,
    properties: bytes = b"",
) -> bytes:
    flags = is_clean << 1 | (will is not None) << 2
    flags |= (password is not None) << 6 | (user is not None) << 7
    body = text(name) + bytes([level, flags]) + keepalive.to_bytes(2, "big")
    is_5 = level & 0x7F == 5
    if is_5:
        body += bytes([len(properties)]) + properties
    body += text(client_id)
    if will is not None:
        body += (b"\x00" if is_5 else b"") + text("gone") + text(will)
    for each in (user, password):
        if each is not None:
            body += text(each)
    return packet(0x10, body)


def publish(payload: bytes = b"21.5") -> bytes:
    return packet(0x30, text("t") + payload)


class Connection:
    """A connection whose bytes are decoded, under a clock of its own."""

    def __init__(self, setting: str = "mqtt") -> None:
        self.record = a_record()
        self.record.state = "open"
        self.record.reading_since = self.record.backend_reading_since = 0.0
        self.now = 0.0
        self.decoding: Decoding | None = decoding(setting)

    def chunk(self, direction: Direction, data: bytes, at: float | None = None) -> None:
        self.now = self.now if at is None else at
        self.record.count(direction, len(data), self.now)
        if self.decoding is not None:
            self.decoding = self.decoding.chunk(self.record, direction, data)

    def open(self, connect: bytes = connect(), connack: bytes = ACCEPTED) -> None:
        self.chunk("up", connect)
        self.chunk("down", connack)

    def fin(self, side: Side, at: float | None = None) -> None:
        self.now = self.now if at is None else at
        self.record.note_end(side, "fin")
        if self.record.half_closed is None:
            self.record.half_closed = self.now

    def end(self, reason: Reason, at: float | None = None) -> str:
        """What the detail says."""
        self.now = self.now if at is None else at
        self.record.end(reason, self.now)
        if self.decoding is not None:
            self.decoding.ended(self.record)
        return self.record.detail

    @property
    def facts(self) -> dict[str, Fact]:
        return dict(self.record.facts)


def facts_of(*chunks: Chunk, setting: str = "auto") -> dict[str, Fact]:
    connection = Connection(setting)
    for direction, data in chunks:
        connection.chunk(direction, data)
    connection.end("client_closed")
    return connection.facts


# -- facts


@pytest.mark.parametrize("setting", ["auto", "mqtt"])
def test_connect_and_connack_become_facts(setting: str) -> None:
    asked = connect(user="ada", password="secret", will=b"lost", keepalive=30, is_clean=False)

    facts = facts_of(("up", asked), ("down", ACCEPTED), setting=setting)

    assert facts == {
        "protocol": "mqtt",
        "mqtt_version": "3.1.1",
        "mqtt_client_id": "pump-3",
        "mqtt_user": "ada",
        "mqtt_keepalive_seconds": 30,
        "mqtt_clean_start": False,
        "mqtt_connack": "accepted",
    }


@pytest.mark.parametrize(
    ("name", "level", "version"),
    [
        ("MQIsdp", 3, "3.1"),
        ("MQTT", 4, "3.1.1"),
        ("MQTT", 5, "5.0"),
        ("MQTT", 0x84, "3.1.1"),  # a bridge of mosquitto's
        ("MQTT", 9, None),
    ],
)
def test_the_version_is_told_if_it_is_known(name: str, level: int, version: str | None) -> None:
    facts = facts_of(("up", connect(level=level, name=name)))

    assert facts.get("mqtt_version") == version
    assert facts["protocol"] == "mqtt"
    assert facts["mqtt_client_id"] == "pump-3"


def test_version_5_has_properties_and_its_broker_decides() -> None:
    assigned = b"\x12" + text("auto-17")
    properties = (
        b"\x26" + text("a") + text("b") + b"\x1f" + text("welcome") + assigned + b"\x13\x00\x14"
    )
    answer = packet(0x20, bytes([0, 0, len(properties)]) + properties)
    asked = connect("", 5, properties=b"\x11\x00\x00\x00\x0a", will=b"lost", user="ada")

    facts = facts_of(("up", asked), ("down", answer))

    assert facts["mqtt_client_id"] == "auto-17"
    assert facts["mqtt_keepalive_seconds"] == 20
    assert facts["mqtt_user"] == "ada"
    assert facts["mqtt_version"] == "5.0"


def test_a_client_keeps_the_name_that_it_has_given_itself() -> None:
    answer = packet(0x20, b"\x00\x00\x09\x12" + text("other"))

    assert facts_of(("up", connect(level=5)), ("down", answer))["mqtt_client_id"] == "pump-3"


def test_a_fact_that_the_program_has_set_stays() -> None:
    connection = Connection()
    connection.record.set_fact("mqtt_keepalive_seconds", 7)

    connection.open(connect(level=5), packet(0x20, b"\x00\x00\x03\x13\x00\x14"))

    assert connection.facts["mqtt_keepalive_seconds"] == 7


@pytest.mark.parametrize(
    ("level", "answer", "word"),
    [
        (4, b"\x20\x02\x00\x05", "not_authorised"),
        (4, b"\x20\x02\x00\x04", "bad_user_name_or_password"),
        (4, b"\x20\x02\x00\x63", "code_0x63"),
        (5, b"\x20\x03\x00\x87\x00", "not_authorised"),
        (5, b"\x20\x02\x00\x01", "unsupported_protocol_version"),  # an older broker's
        (5, b"\x20\x03\x00\x02\x00", "code_0x02"),
    ],
)
@pytest.mark.parametrize("setting", ["auto", "mqtt"])
def test_a_refusal_is_told(setting: str, level: int, answer: bytes, word: str) -> None:
    connection = Connection(setting)
    connection.open(connect(level=level), answer)
    connection.fin("backend")

    assert connection.end("backend_closed").split("; ")[0] == f"broker said {word}".replace(
        "_", " "
    )
    assert connection.facts["mqtt_connack"] == word


def test_all_codes_of_a_refusal_have_words_that_are_filters() -> None:
    assert all(set(each) <= {*string.ascii_lowercase, "_"} for each in mqtt.WORDS)
    assert len({*mqtt.WORDS}) == len(mqtt.WORDS)


def test_authentication_may_come_before_the_answer() -> None:
    method = b"\x18\x0a\x15" + text("KERB")
    facts = facts_of(
        ("up", connect(level=5)),
        ("down", packet(0xF0, method)),
        ("up", packet(0xF0, method)),
        ("down", ACCEPTED_5),
    )

    assert facts["mqtt_connack"] == "accepted"


def test_without_following_nothing_is_decoded_after_the_answer() -> None:
    connection = Connection("auto")

    connection.chunk("up", connect() + publish())
    assert connection.decoding is not None
    connection.chunk("down", ACCEPTED)

    assert connection.decoding is None


def test_without_following_an_answer_is_not_awaited_for_ever() -> None:
    connection = Connection("auto")
    connection.chunk("up", connect())
    for _ in range(MOST_CHUNKS):
        connection.chunk("up", publish())

    assert connection.decoding is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x10",
        b"\x10\x80\x80\x80\x80\x01",
        packet(0x10, text("HTTP") + b"\x04\x00\x00\x0a"),
        packet(0x10, b""),
        packet(0x10, b"\xff\xff\x00"),
    ],
)
def test_what_is_no_connect_is_unknown(data: bytes) -> None:
    assert (
        facts_of(("up", data)) == facts_of(("up", data), setting="mqtt") == {"protocol": "unknown"}
    )


def test_of_a_connect_that_is_cut_what_came_is_told() -> None:
    whole = connect(user="ada", password="secret")

    facts = facts_of(("up", whole[: whole.index(b"ada")]), setting="mqtt")

    assert facts["mqtt_client_id"] == "pump-3"
    assert "mqtt_user" not in facts


# -- bounds


def test_a_large_connect_tells_what_comes_first_and_is_not_held() -> None:
    # A fixed header may promise 256 MiB.
    connection = Connection()
    body = connect(user="ada", will=b"x" * 60_000)[5:]  # its header has four bytes
    connection.chunk("up", b"\x10\xff\xff\xff\x7f" + connect()[2:])
    for _ in range(200):
        connection.chunk("up", body)

    assert connection.facts["mqtt_client_id"] == "pump-3"
    assert held_bytes(connection) == 0


def test_what_is_held_is_bounded() -> None:
    connection = Connection()
    connection.chunk("up", b"\x10\xff\xff\xff\x7f")
    for byte in connect(properties=b"")[2:12] + b"\xff\xff":
        connection.chunk("up", bytes([byte]))
    most = 0
    for _ in range(3 * mqtt.HELD_BYTES):
        connection.chunk("up", b"x")
        most = max(most, held_bytes(connection))

    assert most < mqtt.HELD_BYTES
    assert "mqtt_client_id" not in connection.facts
    assert connection.facts["protocol"] == "mqtt"


def held_bytes(connection: Connection) -> int:
    assert isinstance(connection.decoding, mqtt.Mqtt)
    ways = (connection.decoding._up, connection.decoding._down)
    return sum(len(each._held or b"") for each in ways)


def test_bodies_are_skipped_without_a_look_at_their_bytes() -> None:
    connection = Connection()
    connection.open()
    # CONNACKs and PINGREQs amid a payload are none.
    connection.chunk("up", b"\x30\xff\xff\xff\x7f")
    for _ in range(100):
        connection.chunk("up", b"\xe0\x00\xc0\x00\x10" * 1000)
    connection.fin("client")

    assert connection.end("client_closed") == (
        "device's last packet (PUBLISH) is not whole; device closed without DISCONNECT"
    )


@pytest.mark.parametrize(
    "packets",
    [
        PINGREQ * (mqtt.MOST_PACKETS + 1),
        b"\x40\x02\x00\x01" * (mqtt.MOST_PACKETS + 1),
        b"\x30\x80\x80\x00" * (mqtt.MOST_PACKETS // 8),  # lengths in more bytes than they need
    ],
)
def test_a_chunk_of_too_many_packets_is_not_followed(packets: bytes) -> None:
    connection = Connection()
    connection.open()
    connection.chunk("up", packets)
    connection.chunk("up", GOODBYE)
    connection.chunk("down", PINGRESP)
    connection.fin("client", 1000.0)

    assert isinstance(connection.decoding, mqtt.Mqtt)
    assert connection.decoding._up.whole <= 1 + mqtt.MOST_PACKETS
    assert re.fullmatch(
        r"device's packets were too many to be followed after [\d.]+ KiB",
        connection.end("client_closed"),
    )


def test_many_packets_in_several_chunks_are_followed() -> None:
    connection = Connection()
    connection.open()
    for _ in range(3):
        connection.chunk("up", b"\x40\x02\x00\x01" * mqtt.MOST_PACKETS)
    connection.chunk("up", GOODBYE)

    assert connection.end("client_closed") == "device said goodbye"


def test_a_broker_answers_once() -> None:
    connection = Connection()
    connection.open()
    connection.chunk("down", b"\x20\x02\x00\x05")
    connection.chunk("up", GOODBYE)

    assert connection.end("client_closed") == (
        "broker's bytes are no MQTT after 4 B; device said goodbye"
    )
    assert connection.facts["mqtt_connack"] == "accepted"


# -- what the end means


def test_a_device_says_goodbye() -> None:
    connection = Connection()
    connection.open()
    connection.chunk("up", publish() + GOODBYE, 500.0)  # however late
    connection.fin("backend")

    assert connection.end("backend_closed") == "device said goodbye"
    assert connection.facts["mqtt_disconnect"] == "normal"
    assert connection.facts["mqtt_disconnect_by"] == "client"


def test_a_device_says_goodbye_and_wants_its_will_to_be_sent() -> None:
    connection = Connection()
    connection.open(connect(level=5, will=b"lost"), ACCEPTED_5)
    connection.chunk("up", b"\xe0\x02\x04\x00")

    assert connection.end("client_closed") == ("device said goodbye, and wants its will to be sent")


def test_a_broker_says_why() -> None:
    connection = Connection()
    connection.open(connect(level=5), ACCEPTED_5)
    connection.chunk("down", b"\xe0\x02\x8e\x00")
    connection.fin("backend")

    assert connection.end("backend_closed") == "broker said session taken over"
    assert connection.facts["mqtt_disconnect"] == "session_taken_over"
    assert connection.facts["mqtt_disconnect_by"] == "backend"


def test_a_broker_says_goodbye() -> None:
    connection = Connection()
    connection.open(connect(level=5), ACCEPTED_5)
    connection.chunk("down", GOODBYE)
    connection.fin("backend")

    assert connection.end("backend_closed") == "broker said goodbye"


def test_the_first_goodbye_counts() -> None:
    connection = Connection()
    connection.open(connect(level=5), ACCEPTED_5)
    connection.chunk("down", b"\xe0\x01\x8b")
    connection.chunk("up", GOODBYE)

    assert connection.end("client_closed") == "broker said server shutting down"


def test_a_goodbye_after_the_end_is_no_cause_of_it() -> None:
    connection = Connection()
    connection.open(connect(level=5), ACCEPTED_5)
    connection.fin("backend")
    connection.chunk("up", GOODBYE)

    assert connection.end("backend_closed") == "broker closed without DISCONNECT"
    assert "mqtt_disconnect" not in connection.facts


@pytest.mark.parametrize(("will", "due"), [(None, ""), (b"lost", ", so its will is due")])
def test_a_device_leaves_without_a_word(will: bytes | None, due: str) -> None:
    for side, reason, how in (
        ("client", "client_closed", "closed"),
        (None, "client_reset", "reset"),
        (None, "client_lost", "vanished"),
    ):
        connection = Connection()
        connection.open(connect(will=will))
        if side is not None:
            connection.fin("client")
        assert connection.end(reason) == f"device {how} without DISCONNECT{due}"  # type: ignore[arg-type]


def test_a_broker_that_says_nothing_is_told() -> None:
    connection = Connection()
    connection.chunk("up", connect())
    connection.fin("backend")

    assert connection.end("backend_closed") == "broker did not answer the CONNECT"


def test_bytes_that_are_no_mqtt_end_what_is_said() -> None:
    connection = Connection()
    connection.open()
    connection.chunk("up", publish() + b"\x00garbage" + GOODBYE)
    connection.fin("client", 1000.0)

    assert connection.end("client_closed") == "device's bytes are no MQTT after 29 B"
    assert "mqtt_disconnect" not in connection.facts


def test_a_broker_whose_bytes_are_no_mqtt() -> None:
    connection = Connection()
    connection.open(connack=b"HTTP/1.1 400 Bad Request\r\n\r\n")
    connection.fin("backend")

    assert connection.end("backend_closed") == "broker's bytes are no MQTT"


# -- keepalive


def test_a_device_misses_its_own_keepalive() -> None:
    connection = Connection()
    connection.open()
    connection.chunk("up", PINGREQ, 30.0)
    connection.chunk("down", PINGRESP)
    connection.chunk("down", publish(), 100.0)
    connection.fin("backend", 121.5)

    assert connection.end("backend_closed", 180.0) == (
        "device missed its own MQTT keepalive of 60 s by 31.5 s"
    )


def test_a_device_that_vanishes_misses_it_as_well() -> None:
    connection = Connection()
    connection.open()

    assert connection.end("client_lost", 100.0) == (
        "device missed its own MQTT keepalive of 60 s by 40.0 s; device vanished without DISCONNECT"
    )


def test_what_comes_after_the_end_does_not_change_what_was_missed() -> None:
    connection = Connection()
    connection.open()
    connection.fin("backend", 95.0)
    connection.chunk("up", PINGREQ, 200.0)

    assert connection.end("backend_closed", 200.0) == (
        "device missed its own MQTT keepalive of 60 s by 35.0 s"
    )


@pytest.mark.parametrize(
    ("keepalive", "silence", "said"),
    [
        (60, 59.0, ""),
        (60, 89.0, "device was silent for 89.0 s, longer than its own MQTT keepalive of 60 s"),
        (0, 10_000.0, ""),
    ],
)
def test_a_keepalive_that_was_not_missed(keepalive: int, silence: float, said: str) -> None:
    connection = Connection()
    connection.open(connect(keepalive=keepalive))
    connection.fin("backend", silence)

    assert connection.end("backend_closed") == said


def test_the_brokers_keepalive_goes_before_the_devices() -> None:
    connection = Connection()
    connection.open(connect(level=5), packet(0x20, b"\x00\x00\x03\x13\x00\x0a"))
    connection.chunk("down", b"\xe0\x01\x8d", 16.0)
    connection.fin("backend")

    assert connection.end("backend_closed") == (
        "broker said keep alive timeout; device missed the broker's MQTT keepalive of 10 s by 6.0 s"
    )


def test_while_we_do_not_read_the_device_misses_nothing() -> None:
    connection = Connection()
    connection.open()
    connection.record.reading_since = None  # held, as the broker takes nothing
    connection.fin("backend", 200.0)
    assert connection.end("backend_closed") == ""

    connection = Connection()
    connection.open()
    connection.record.reading_since = 190.0  # and read from again
    connection.fin("backend", 200.0)
    assert connection.end("backend_closed") == ""


def test_a_packet_that_goes_on_for_long_is_no_silence() -> None:
    connection = Connection()
    connection.open()
    connection.chunk("up", publish(b"x" * 100)[:50], 1.0)
    connection.chunk("up", b"x", 99.0)
    connection.fin("backend", 100.0)

    assert connection.end("backend_closed") == (
        "no packet from the device became whole for 100.0 s, with its own MQTT keepalive of 60 s;"
        " device's last packet (PUBLISH) is not whole"
    )


def test_a_packet_that_is_read_right_after_the_end_may_have_come_before_it() -> None:
    # As after a stop of our process: the order in which sockets are reported says nothing.
    connection = Connection()
    connection.open()
    connection.fin("backend", 200.0)
    connection.chunk("up", PINGREQ, 200.1)

    assert connection.end("backend_closed", 200.2) == ""


def test_a_long_silence_that_is_over_explains_no_end() -> None:
    connection = Connection()
    connection.open()
    connection.chunk("up", publish(), 100.0)
    connection.fin("backend", 100.5)

    assert connection.end("backend_closed") == ""


def test_a_ping_without_an_answer_is_told() -> None:
    connection = Connection()
    connection.open()
    connection.chunk("up", PINGREQ, 10.0)
    connection.chunk("down", PINGRESP, 10.1)
    connection.chunk("up", PINGREQ, 20.0)
    connection.chunk("up", PINGREQ, 30.0)
    connection.fin("client", 40.0)

    assert connection.end("client_closed") == (
        "device's ping had no answer for 20.0 s; device closed without DISCONNECT"
    )


@pytest.mark.parametrize("level", [3, 4])
def test_before_5_a_disconnect_has_no_reason_code(level: int) -> None:
    connection = Connection()
    connection.open(connect(level=level, name="MQIsdp" if level == 3 else "MQTT"))
    connection.chunk("up", b"\xe0\x01\x91", 1.0)
    connection.fin("client", 1.0)
    assert connection.end("client_closed").startswith("device's bytes are no MQTT after 2")
    assert "mqtt_disconnect" not in connection.facts


def test_what_the_device_does_not_take_has_no_answer_missing() -> None:
    connection = Connection()
    connection.open()
    connection.chunk("up", PINGREQ, 10.0)
    connection.record.backend_reading_since = None  # held, as the device takes nothing
    connection.fin("client", 30.0)
    assert connection.end("client_closed") == "device closed without DISCONNECT"

    connection = Connection()
    connection.open()
    connection.chunk("up", PINGREQ, 10.0)
    connection.record.backend_reading_since = 29.5  # and read from again
    connection.fin("client", 30.0)
    assert connection.end("client_closed") == "device closed without DISCONNECT"


def test_a_device_that_waits_for_its_connack_misses_no_keepalive() -> None:
    connection = Connection()
    connection.chunk("up", connect(keepalive=10))
    connection.fin("client", 60.0)
    assert connection.end("client_closed") == ("broker did not answer the CONNECT")


# -- any bytes, in any pieces

_PACKETS = st.one_of(
    st.builds(
        connect,
        st.text(max_size=20),
        st.sampled_from((3, 4, 5, 0x84)),
        name=st.sampled_from(("MQTT", "MQIsdp")),
        keepalive=st.integers(0, 65_535),
        will=st.none() | st.binary(max_size=200),
        user=st.none() | st.text(max_size=10),
        password=st.none() | st.just("secret"),
    ),
    st.builds(publish, st.binary(max_size=20_000)),
    st.sampled_from(
        (PINGREQ, PINGRESP, GOODBYE, ACCEPTED, ACCEPTED_5, b"\xe0\x02\x8e\x00", b"\x20\x02\x00\x05")
    ),
    st.builds(packet, st.integers(0, 255), st.binary(max_size=300)),
    st.binary(max_size=100),
)


@st.composite
def _streams(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.one_of(st.just(b""), _PACKETS)) + b"".join(draw(st.lists(_PACKETS))))
    for _ in range(draw(st.integers(0, 2))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({each % (len(data) + 1) for each in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def _run(setting: str, chunks: list[Chunk]) -> tuple[dict[str, Fact], str]:
    connection = Connection(setting)
    for direction, data in chunks:
        if data:
            connection.chunk(direction, data)
            if isinstance(connection.decoding, mqtt.Mqtt):
                assert held_bytes(connection) < mqtt.HELD_BYTES
    connection.fin("client", 1000.0)
    connection.end("client_closed")
    return connection.facts, connection.record.detail


@example("mqtt", b"\x10\x12\x00\x04MQTT\x04\x02\x00<\x00\x06pump-3\xe0\x02\x8e\x00", b"", [1], [])
@settings(max_examples=examples(150), deadline=None)
@given(
    st.sampled_from(("auto", "mqtt")),
    st.builds(lambda first, rest: first + rest, st.builds(connect), _streams()) | _streams(),
    _streams(),
    st.lists(st.integers(0, 100_000), max_size=30),
    st.lists(st.integers(0, 100_000), max_size=30),
)
def test_pieces_tell_the_same_as_the_whole(
    setting: str, up: bytes, down: bytes, cuts: list[int], more_cuts: list[int]
) -> None:
    whole = _run(setting, [("up", up), ("down", down)])
    pieces = _run(
        setting,
        [
            *(("up", each) for each in _pieces(up, cuts)),
            *(("down", each) for each in _pieces(down, more_cuts)),
        ],
    )

    assert pieces == whole
    assert len(whole[0]) <= 9


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("up", "down")), _streams()), max_size=10))
def test_any_bytes_in_any_order_are_survived(chunks: list[Chunk]) -> None:
    _run("mqtt", chunks)
    _run("auto", chunks)
