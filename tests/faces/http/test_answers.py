"""Answers that requests share: each is made once, and all of them in a part of the loop's time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from monconn.errors import QuestionError
from monconn.faces.http.answers import (
    ANSWERED_AT_ONCE,
    BURST_SECONDS,
    HELD_SECONDS,
    MADE_AT_ONCE,
    MOST_ANSWERS,
    SHARE,
    SharedAnswers,
)
from monconn.net.http.messages import Answer, Response
from monconn.turns import QUEUE_SECONDS, in_turns
from tests.turning import TurnClock


class Maker:
    """Makes answers, which take some time of the loop, or are made when the test says so."""

    def __init__(self, clock: TurnClock, work_seconds: float = 0.0) -> None:
        self.clock = clock
        self.work_seconds = work_seconds
        self.made = 0
        self.later: list[Deferred[Response]] = []
        self.is_later = False

    def __call__(self) -> Answer:
        self.made += 1
        if self.is_later:
            self.later.append(Deferred())
            return self.later[-1]
        number = self.made

        def work() -> Iterator[None]:
            left = self.work_seconds
            while left > 0:
                self.clock.work(0.001)
                left -= 0.001
                yield

        return in_turns(self.clock, work()).addCallback(lambda _: answer(number))


def answer(number: int) -> Response:
    return Response(200, json.dumps({"rows": [number]}).encode(), "application/json")


@pytest.fixture
def clock() -> TurnClock:
    clock = TurnClock()
    clock.advance(1000)
    return clock


@pytest.fixture
def make(clock: TurnClock) -> Maker:
    return Maker(clock)


@pytest.fixture
def answers(clock: TurnClock) -> SharedAnswers:
    return SharedAnswers(clock)


def number_of(waiting: Deferred[Response]) -> int:
    rows = rows_of(waiting)
    assert len(rows) == 1
    return int(rows[0])


def rows_of(waiting: Deferred[Response]) -> list[Any]:
    results: list[Response] = []
    waiting.addCallback(results.append)
    assert isinstance(results[0].body, bytes)
    return list(json.loads(results[0].body)["rows"])


def test_all_who_ask_within_the_time_share_one(
    clock: TurnClock, answers: SharedAnswers, make: Maker
) -> None:
    for _ in range(50):
        assert number_of(answers.get("list", 1.0, make)) == 1
        clock.advance(0.02)
    clock.advance(0.1)
    assert number_of(answers.get("list", 1.0, make)) == 2
    assert number_of(answers.get("list", 60.0, make)) == 2
    assert number_of(answers.get("others", 60.0, make)) == 3


def test_an_answer_says_how_old_it_is(
    clock: TurnClock, answers: SharedAnswers, make: Maker
) -> None:
    answers.get("list", 5.0, make)
    clock.advance(3.9)
    results: list[Response] = []
    answers.get("list", 5.0, make).addCallback(results.append)
    assert dict(results[0].headers)["Age"] == "3"
    assert isinstance(results[0].body, bytes)
    assert json.loads(results[0].body).keys() == {"rows", "at"}


def test_those_who_come_while_it_is_made_wait_for_it(answers: SharedAnswers, make: Maker) -> None:
    make.is_later = True
    waiting = [answers.get("list", 1.0, make) for _ in range(3)]
    assert make.made == 1
    make.later[0].callback(answer(7))
    assert [number_of(each) for each in waiting] == [7, 7, 7]


def test_many_who_wait_are_answered_in_several_turns(
    clock: TurnClock, answers: SharedAnswers, make: Maker
) -> None:
    make.is_later = True
    waiting = [answers.get("list", 1.0, make) for _ in range(5 * ANSWERED_AT_ONCE)]

    def write(response: Response) -> Response:
        clock.work(QUEUE_SECONDS / 4)
        return response

    for each in waiting:
        each.addCallback(write)
    waiting[-2].addErrback(lambda failure: failure.trap(CancelledError))
    make.later[0].callback(answer(7))
    waiting[-2].cancel()
    assert sum(each.called for each in waiting) == ANSWERED_AT_ONCE + 1
    turns = 0
    while not waiting[-1].called:
        before = sum(each.called for each in waiting)
        clock.turn()
        assert sum(each.called for each in waiting) - before <= 5
        turns += 1
    assert turns > 5
    assert number_of(waiting[0]) == number_of(waiting[-1]) == 7


def test_many_that_are_made_at_once_are_made_in_several_turns(clock: TurnClock) -> None:
    answers, make = SharedAnswers(clock), Maker(clock)
    answers.get("long", 1.0, Maker(clock, work_seconds=BURST_SECONDS * 2))
    while answers._making:
        clock.turn()
    waiting = [answers.get(number, 1.0, make) for number in range(MOST_ANSWERS)]
    assert make.made == 0
    clock.work(60)
    clock.turn()
    assert make.made == MADE_AT_ONCE
    for _ in range(MOST_ANSWERS // MADE_AT_ONCE):
        before = make.made
        clock.turn()
        assert make.made - before <= MADE_AT_ONCE
    assert all(each.called for each in waiting)


def test_one_who_leaves_takes_it_from_nobody(answers: SharedAnswers, make: Maker) -> None:
    make.is_later = True
    first, second = answers.get("list", 1.0, make), answers.get("list", 1.0, make)
    first.addErrback(lambda failure: failure.trap(CancelledError))
    first.cancel()
    make.later[0].callback(answer(7))
    assert number_of(second) == 7


def test_after_an_action_its_caller_gets_no_answer_of_before(
    answers: SharedAnswers, make: Maker
) -> None:
    assert number_of(answers.get("list", 60.0, make, "alice")) == 1
    answers.acted("alice")
    assert number_of(answers.get("list", 60.0, make, "bob")) == 1
    assert number_of(answers.get("list", 60.0, make, "alice")) == 2
    assert number_of(answers.get("list", 60.0, make, "bob")) == 2


def test_nor_one_that_was_being_made_then(answers: SharedAnswers, make: Maker) -> None:
    make.is_later = True
    bob = answers.get("list", 60.0, make, "bob")
    answers.acted("alice")
    alice = answers.get("list", 60.0, make, "alice")
    make.later[0].callback(answer(1))
    assert number_of(bob) == 1
    assert not alice.called
    make.later[1].callback(answer(2))
    assert number_of(alice) == 2


def test_errors_are_for_those_who_wait_and_are_not_held(
    answers: SharedAnswers, make: Maker
) -> None:
    def fail() -> Answer:
        raise QuestionError("no")

    problems: list[Any] = []
    answers.get("list", 60.0, fail).addErrback(problems.append)
    assert problems[0].check(QuestionError)
    assert len(answers) == 0
    answers.get("list", 60.0, lambda: Response(404, b"{}")).addCallback(problems.append)
    assert problems[1].status == 404
    assert number_of(answers.get("list", 60.0, make)) == 1


def test_a_failure_leaves_the_answer_that_there_is(
    clock: TurnClock, answers: SharedAnswers, make: Maker
) -> None:
    answers.get("list", 1.0, make)
    clock.advance(2)
    failed: list[Any] = []
    answers.get("list", 1.0, lambda: Response(503, b"{}")).addCallback(failed.append)
    assert failed[0].status == 503
    assert number_of(answers.get("list", 60.0, make)) == 1


def test_different_lists_take_no_more_than_their_part_of_the_time(clock: TurnClock) -> None:
    """Fifty lists, each of which takes 25 ms and is asked for each second."""
    answers, make = SharedAnswers(clock), Maker(clock, work_seconds=0.025)
    seconds, waiting = 20, []
    for _ in range(seconds * 10):
        for page in range(5):
            key = f"list {page} {_ % 10}"
            waiting.append(answers.get(key, 1.0, make))
        until = clock.seconds() + 0.1
        while clock.seconds() < until:
            clock.turn()
            clock.work(0.0005)
    worked = make.made * make.work_seconds
    most = BURST_SECONDS + SHARE * seconds + MADE_AT_ONCE * make.work_seconds
    assert 0.8 * SHARE * seconds < worked <= most
    # Nobody waits for long, but at the start: they get older ones.
    assert sum(not each.called for each in waiting[-100:]) == 0


def test_without_time_an_older_answer_does_but_not_after_an_action(clock: TurnClock) -> None:
    answers, make = SharedAnswers(clock), Maker(clock)
    assert number_of(answers.get("list", 1.0, make, "alice")) == 1
    clock.advance(2)
    others = Maker(clock, work_seconds=BURST_SECONDS * 10)
    answers.get("other", 1.0, others)
    while others.made and clock.calls and answers._making:
        clock.turn()
    assert number_of(answers.get("list", 1.0, make, "alice")) == 1
    answers.acted("alice")
    waiting = answers.get("list", 1.0, make, "alice")
    assert not waiting.called
    clock.advance(BURST_SECONDS * 10 / SHARE)
    assert number_of(waiting) == 2


def test_those_who_have_nothing_go_before_those_who_have_an_older_one(clock: TurnClock) -> None:
    answers, make = SharedAnswers(clock), Maker(clock)
    for number in range(20):
        answers.get(number, 1.0, make)
    clock.advance(2)
    # Uses the time of the next seconds up.
    answers.get("long", 1.0, Maker(clock, work_seconds=BURST_SECONDS + SHARE))
    while answers._making:
        clock.turn()
    slow = Maker(clock, work_seconds=0.05)
    assert all(answers.get(number, 1.0, slow).called for number in range(20))
    newcomer = answers.get("newcomer", 1.0, slow)
    while not slow.made:
        clock.work(0.01)
        clock.turn()
    while answers._making > 0 and not newcomer.called:
        clock.turn()
    assert newcomer.called
    assert slow.made < 10


def test_what_is_held_is_bounded(
    clock: TurnClock, answers: SharedAnswers, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(MOST_ANSWERS + 50):
        answers.get(number, 1.0, make)
        clock.advance(0.001)
    assert len(answers) == MOST_ANSWERS
    made = make.made
    answers.get(MOST_ANSWERS + 49, 60.0, make)
    assert make.made == made
    monkeypatch.setattr("monconn.faces.http.answers.MOST_BYTES", 1000)
    answers.get("one more", 1.0, make)
    assert 1 < len(answers) < 30


def test_nobody_asking_costs_nothing(clock: TurnClock, answers: SharedAnswers, make: Maker) -> None:
    answers.get("list", 1.0, make)
    clock.pump([HELD_SECONDS, HELD_SECONDS, 0])
    assert len(answers) == 0
    assert clock.calls == []
