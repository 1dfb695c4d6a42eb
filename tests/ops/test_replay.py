"""Recorded events as a conversation, and an answer beside the recorded one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.errors import QuestionError
from monconn.model.flow import Began, Data, Ended, FlowEvent, SideEnded
from monconn.ops.replay import EXTRA_BYTES, Answer, Conversation, Missing, conversation_of
from tests.properties import examples

BEGAN = Began(7, 100.0, 100.0, "0-7", "mqtt", "192.0.2.7:5", None, "127.0.0.1:1883")


def up(at: float, offset: int, data: bytes) -> Data:
    return Data(7, at, "up", offset, data)


def down(at: float, offset: int, data: bytes) -> Data:
    return Data(7, at, "down", offset, data)


def conversation(*events: FlowEvent) -> Conversation:
    return conversation_of([BEGAN, *events])


def answered(conversation: Conversation, *chunks: bytes) -> Answer:
    answer = Answer(conversation)
    for chunk in chunks:
        answer.add(chunk)
    return answer


def test_a_step_knows_what_came_before_it() -> None:
    made = conversation(
        up(101.0, 0, b"CONNECT"),
        down(103.0, 0, b"CONN"),
        down(103.5, 4, b"ACK"),
        up(104.0, 7, b"PUBLISH"),
        SideEnded(7, 104.25, "client", "fin"),
        down(106.0, 7, b"bye"),
        SideEnded(7, 106.5, "backend", "fin"),
        Ended(7, 107.0, 14, 10, "client_closed"),
    )
    assert [
        (each.data, each.since_step, each.since_event, each.answered) for each in made.steps
    ] == [
        (b"CONNECT", 1.0, 1.0, 0),
        (b"PUBLISH", 3.0, 0.5, 7),
        (b"", 0.25, 0.25, 7),
    ]
    assert (made.client_end, made.backend_end) == ("fin", "fin")
    assert made.answer == ((0, b"CONNACKbye"),)
    assert (made.sent, made.answered, made.missing) == (14, 10, ())
    assert (made.sending_seconds, made.waiting_seconds) == (4.25, 2.75)


def test_a_clock_that_was_set_back_makes_no_pause() -> None:
    made = conversation(up(101.0, 0, b"a"), up(90.0, 1, b"b"))
    assert [each.since_step for each in made.steps] == [1.0, 0.0]


def test_an_end_before_the_beginning_makes_no_pause() -> None:
    """A tap begins after one side has ended."""
    ends, over = SideEnded(7, 40.0, "client", "fin", 1), Ended(7, 103.0, 1, 0)
    made = conversation_of([BEGAN, up(100.0, 0, b"a"), ends, over])
    assert made.steps[-1].data == b""
    assert made.waiting_seconds == 3.0


def test_what_is_missing_is_known() -> None:
    made = conversation(
        up(101, 10, b"abc"),
        down(101, 0, b"12"),
        up(102, 20, b"x"),
        down(103, 5, b"6"),
        Ended(7, 104, 30, 6),
    )
    assert list(map(str, made.missing)) == [
        "10 bytes of the client's, from byte 0 on",
        "7 bytes of the client's, from byte 13 on",
        "3 bytes of the backend's, from byte 2 on",
        "9 bytes of the client's, from byte 21 on",
    ]
    assert made.answer == ((0, b"12"), (5, b"6"))


def test_what_came_before_a_tap_is_missing() -> None:
    began = Began(7, 1.0, 0.0, "", "", "", None, "", up=3, down=5)
    made = conversation_of([began, up(2, 3, b"x"), Ended(7, 3, 4, 5)])
    assert made.missing == (Missing("up", 0, 3), Missing("down", 0, 5))


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([], "nothing in it"),
        ([up(1, 0, b"x")], "does not say how the connection began"),
        ([BEGAN, down(101, 0, b"x")], "nothing to send"),
        ([BEGAN, SideEnded(7, 101, "client", "fin")], "nothing to send"),
        ([BEGAN, BEGAN], r"several connections \(7, 7\)"),
        ([BEGAN, Data(8, 101, "up", 0, b"x")], r"several connections \(7, 8\)"),
    ],
)
def test_no_recording(events: list[FlowEvent], error: str) -> None:
    with pytest.raises(QuestionError, match=error):
        conversation_of(events)


@pytest.mark.parametrize(
    "event",
    [
        up(101, 0, b"x"),  # twice
        up(math.inf, 1, b"x"),
        SideEnded(7, 101, "client", "x"),  # type: ignore[arg-type]
    ],
)
def test_contradictions(event: FlowEvent) -> None:
    with pytest.raises(ValueError, match=r"twice|no time|no way"):
        conversation(up(101, 0, b"x"), event)


def test_an_answer_differs_at_its_first_other_byte() -> None:
    made = conversation(up(101, 0, b"?"), down(102, 0, b"hello"), Ended(7, 103, 1, 5))
    assert answered(made, b"he", b"llo").is_same
    assert answered(made, b"heLLo").differs_at == 2
    assert answered(made, b"hel").differs_at == 3
    assert answered(made).differs_at == 0
    assert answered(made, b"hello world").differs_at == 5
    assert answered(made, b"hello world").extra == b" world"


def test_where_nothing_is_recorded_nothing_is_compared() -> None:
    made = conversation(
        up(101, 0, b"?"), down(102, 0, b"ab"), down(102, 5, b"fg"), Ended(7, 103, 1, 9)
    )
    assert answered(made, b"abXXXfgXX").is_same
    assert answered(made, b"abXX", b"Xf", b"gXX").is_same
    assert answered(made, b"abXXXfG").differs_at == 6
    assert answered(made, b"abXXXfgXXX").differs_at == 9
    assert list(answered(made, b"abXXXfgXXY!").lines()) == [
        (0, b"ab", b"ab"),
        (5, b"fg", b"fg"),
        (9, b"", b"Y!"),
    ]


def test_an_end_is_a_part_of_the_answer_if_it_was_recorded() -> None:
    made = conversation(up(101, 0, b"?"), down(102, 0, b"!"), SideEnded(7, 103, "backend", "reset"))
    answer = answered(made, b"!")
    assert answer.ends_otherwise
    answer.ended = "fin"
    assert answer.ends_otherwise
    answer.ended = "reset"
    assert answer.is_same


def test_an_endless_answer_takes_no_memory() -> None:
    made = conversation(up(101, 0, b"?"), down(102, 0, b"!" * 100))
    answer = Answer(made)
    while not answer.is_endless:
        answer.add(b"!" * 1000)
    assert answer.received <= 100 + EXTRA_BYTES + 1000
    assert len(answer.extra) == 256


@settings(max_examples=examples(100))
@given(
    st.lists(st.tuples(st.integers(0, 20), st.binary(min_size=1, max_size=30)), max_size=8),
    st.integers(1, 50),
)
def test_the_same_bytes_are_the_same_in_whatever_chunks(
    pieces: list[tuple[int, bytes]], size: int
) -> None:
    events: list[FlowEvent] = [up(101, 0, b"?")]
    sent = bytearray()
    for gap, data in pieces:
        sent += bytes(gap)
        events.append(down(102, len(sent), data))
        sent += data
    made = conversation(*events)
    chunks = [bytes(sent[at : at + size]) for at in range(0, len(sent), size)]
    assert answered(made, *chunks).is_same
    lines = list(answered(made, *chunks).lines())
    assert all(recorded == came for _, recorded, came in lines)
    assert sum(len(came) for _, _, came in lines) == sum(len(data) for _, data in pieces)
