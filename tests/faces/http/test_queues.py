"""One caller's answers are made a few at a time, whatever it asks for at once."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from monconn.faces.http.caller import Caller
from monconn.faces.http.problems import Problem
from monconn.faces.http.queues import MADE_AT_ONCE, MOST_WAITING, CallerQueues
from monconn.net.http.messages import Response
from monconn.ops.columns import Listing
from tests.turning import TurnClock

from .api import Api

ALICE, BOB = Caller("view", "alice", "token"), Caller("view", "bob", "token")


class Making:
    """Answers that are made when the test says so."""

    def __init__(self) -> None:
        self.clock = TurnClock()
        self.queues = CallerQueues(self.clock)
        self.begun: list[Deferred[Response]] = []
        self.answers: list[Any] = []

    def make(self) -> Deferred[Response]:
        self.begun.append(Deferred())
        return self.begun[-1]

    def ask(self, caller: Caller = ALICE) -> Deferred[Response]:
        answer = self.queues.run(caller, self.make)
        return answer.addBoth(self.answers.append)


def test_the_others_of_a_caller_wait() -> None:
    making = Making()
    for _ in range(MADE_AT_ONCE + 3):
        making.ask()
    making.ask(BOB)
    assert len(making.begun) == MADE_AT_ONCE + 1
    for number in range(MADE_AT_ONCE + 4):
        making.begun[number].callback(Response())
        making.clock.turn()
    assert len(making.answers) == MADE_AT_ONCE + 4
    assert len(making.queues) == 0


def test_one_that_has_left_is_not_made() -> None:
    making = Making()
    for _ in range(MADE_AT_ONCE):
        making.ask()
    gone, late = making.ask(), making.ask()
    gone.cancel()
    assert making.answers.pop().check(CancelledError)
    making.begun[0].cancel()
    making.answers.pop()
    late.cancel()  # in its turn, which has not come
    making.clock.turn()
    assert len(making.begun) == MADE_AT_ONCE
    making.ask()
    assert len(making.begun) == MADE_AT_ONCE + 1
    for each in making.begun[1:]:
        each.callback(Response())
    assert len(making.queues) == 0


def test_so_many_may_wait() -> None:
    making = Making()
    for _ in range(MADE_AT_ONCE):
        making.ask()
    depths: list[int] = []

    def make() -> Response:
        depths.append(len(inspect.stack(0)))
        return Response()

    for _ in range(MOST_WAITING):
        making.queues.run(ALICE, make).addBoth(making.answers.append)
    with pytest.raises(Problem) as refused:
        making.queues.run(ALICE, make)
    assert refused.value.status == 429
    making.ask(BOB)
    for each in making.begun:
        each.callback(Response())
    while making.clock.getDelayedCalls():
        making.clock.turn()
    assert [each for each in making.answers if not isinstance(each, Response)] == []
    assert len(making.answers) == MOST_WAITING + MADE_AT_ONCE + 1
    assert len(set(depths)) == 1  # none is made within another


def test_a_caller_has_some_of_the_historys_queries() -> None:
    asked: list[Deferred[Any]] = []

    def history(**_: Any) -> Deferred[Any]:
        asked.append(Deferred())
        return asked[-1]

    api = Api("web", history=history)
    answers = [api.send("GET", "/api/v1/history", name="alice") for _ in range(30)]
    assert len(asked) == MADE_AT_ONCE
    theirs = api.send("GET", "/api/v1/history", name="bob")
    assert len(asked) == MADE_AT_ONCE + 1
    done = 0
    while done < len(asked):
        asked[done].callback(Listing(iter(()), 0))
        done += 1
        api.clock.turn()
    assert [api.result(each).status for each in (*answers, theirs)] == [200] * 31


def test_so_many_may_wait_for_what_they_share() -> None:
    making = Making()
    making.queues.fit(80)
    waiting = [making.queues.share(ALICE, making.make) for _ in range(50)]
    with pytest.raises(Problem) as refused:
        making.queues.share(ALICE, making.make)
    assert refused.value.status == 429
    making.queues.share(BOB, making.make)
    waiting[0].addErrback(lambda failure: failure.trap(CancelledError))
    waiting[0].cancel()
    making.queues.share(ALICE, making.make)
    for each in making.begun[1:]:
        each.callback(Response())
    assert not making.queues._sharing


def test_one_caller_does_not_take_all_places_by_lists_with_max_age() -> None:
    api = Api("web", connections=lambda *_, **__: Deferred())
    api.app.shared.queues.fit(16)
    answers = [
        api.send("GET", f"/api/v1/connections?max_age=1&offset={number}") for number in range(30)
    ]
    refused = [api.result(each).status for each in answers if each.called]
    assert refused == [429] * 20
    for each in answers[:10]:
        each.addErrback(lambda failure: failure.trap(CancelledError))
        each.cancel()
    assert not api.send("GET", "/api/v1/connections?max_age=1").called
