"""The verdict table against a second copy of it, written down cell by cell."""

from __future__ import annotations

import pytest

from monconn.relay.verdict import EVENTS, STATES, TABLE, Event, Outcome, RelayState


def verdict(state: RelayState, event: Event) -> Outcome:
    return TABLE[state].get(event, (state, ()))


# One column an event, in this order; a dot where nothing changes. Else the next state, and
# what is done: e end the writing, x close, r reset, a abort; c the client, b the backend.
EVENTS_OF_COLUMNS = (
    "connected",
    "connect_failed",
    "client_eof",
    "backend_eof",
    "client_broken",
    "client_broken_early",
    "backend_broken",
    "client_gone",
    "backend_gone",
    "cut",
    "cut_hard",
)
SHORT = {
    "C": "connecting",
    "CE": "connecting_client_ended",
    "CG": "connecting_client_gone",
    "CB": "connecting_client_broken",
    "O": "open",
    "ce": "client_ended",
    "be": "backend_ended",
    "D": "draining",
    "Z": "closing",
}
CELLS = """
C   O:    Z:xc  CE:eb   .      Z:ab  CB:   .     .     .     Z:xc,ab  Z:ac,ab
CE  ce:   Z:xc  .       .      Z:ab  CB:   .     CG:   .     Z:xc,ab  Z:ac,ab
CG  D:xb  Z:xc  .       .      Z:ab  CB:   .     .     .     Z:xc,ab  Z:ac,ab
CB  Z:rb  Z:    .       .      .     .     .     .     .     Z:ab     Z:ac,ab
O   .     .     ce:eb   be:ec  Z:rb  .     Z:rc  .     .     Z:xc,xb  Z:ac,ab
ce  .     .     .       D:xc,xb Z:rb .     Z:rc  D:xb  .     Z:xc,xb  Z:ac,ab
be  .     .     D:xc,xb .      Z:rb  .     Z:rc  .     D:xc  Z:xc,xb  Z:ac,ab
D   .     .     .       .      Z:rb  .     Z:rc  .     .     Z:xc,xb  Z:ac,ab
Z   .     .     .       .      .     .     .     .     .     .        Z:ac,ab
"""
VERBS = {"e": "end", "x": "close", "r": "reset", "a": "abort"}
SIDES = {"c": "client", "b": "backend"}


def outcome(state: str, cell: str) -> tuple[str, tuple[str, ...]]:
    if cell == ".":
        return state, ()
    next_state, _, actions = cell.partition(":")
    words = [f"{VERBS[each[0]]}_{SIDES[each[1]]}" for each in filter(None, actions.split(","))]
    return SHORT[next_state], tuple(words)


EXPECTED = [
    (SHORT[row.split()[0]], event, outcome(SHORT[row.split()[0]], cell))
    for row in CELLS.strip().splitlines()
    for event, cell in zip(EVENTS_OF_COLUMNS, row.split()[1:], strict=True)
]


@pytest.mark.parametrize(
    ("state", "event", "expected"), EXPECTED, ids=[f"{row[0]}-{row[1]}" for row in EXPECTED]
)
def test_cell(
    state: RelayState, event: Event, expected: tuple[RelayState, tuple[str, ...]]
) -> None:
    assert verdict(state, event) == expected


def test_every_state_and_event_is_expected() -> None:
    assert {(state, event) for state, event, _ in EXPECTED} == {
        (state, event) for state in STATES for event in EVENTS
    }
    assert len(EXPECTED) == len(STATES) * len(EVENTS)
    assert set(TABLE) == set(STATES)


def reachable(start: RelayState) -> set[RelayState]:
    found, new = {start}, [start]
    while new:
        state = new.pop()
        after = {verdict(state, event)[0] for event in EVENTS} - found
        found |= after
        new.extend(after)
    return found


def test_every_state_can_be_reached() -> None:
    assert reachable("connecting") == set(STATES)


@pytest.mark.parametrize("state", STATES)
def test_from_every_state_there_is_a_way_to_closing(state: RelayState) -> None:
    assert "closing" in reachable(state)
    assert verdict(state, "cut_hard")[0] == "closing"


def test_nothing_leads_out_of_closing() -> None:
    assert reachable("closing") == {"closing"}


@pytest.mark.parametrize("state", STATES)
def test_a_broken_side_is_asked_for_nothing_more(state: RelayState) -> None:
    for side in ("client", "backend"):
        _, actions = verdict(state, f"{side}_broken")  # type: ignore[arg-type]
        assert not any(action.endswith(side) for action in actions)
