"""Properties of the verdict table, and rows whose rationale needs an explanation."""

from __future__ import annotations

import pytest

from monconn.relay.verdict import EVENTS, STATES, TABLE, Action, Event, Outcome, RelayState

CONNECTING = [state for state in STATES if state.startswith("connecting")]
ACTIONS: tuple[Action, ...] = Action.__args__  # type: ignore[attr-defined]
SIDES = ("client", "backend")
OTHER = {"client": "backend", "backend": "client"}


def verdict(state: RelayState, event: Event) -> Outcome:
    """What follows, also of what the state does not list: nothing."""
    return TABLE[state].get(event, (state, ()))


def reachable(start: RelayState) -> set[RelayState]:
    found, new = {start}, [start]
    while new:
        state = new.pop()
        after = {verdict(state, event)[0] for event in EVENTS} - found
        found |= after
        new.extend(after)
    return found


CELLS = [(state, event) for state in STATES for event in EVENTS]
each_cell = pytest.mark.parametrize(("state", "event"), CELLS)
each_state = pytest.mark.parametrize("state", STATES)
each_side = pytest.mark.parametrize("side", SIDES)


# -- the table is whole


def test_every_name_is_one_of_the_closed_lists() -> None:
    assert set(TABLE) == set(STATES)
    for row in TABLE.values():
        assert set(row) <= set(EVENTS)
        for state, actions in row.values():
            assert state in STATES
            assert set(actions) <= set(ACTIONS)


def test_every_state_can_be_reached() -> None:
    assert reachable("connecting") == set(STATES)


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_matters_somewhere(event: Event) -> None:
    assert any(event in row for row in TABLE.values())


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_is_used(action: Action) -> None:
    assert any(action in actions for row in TABLE.values() for _, actions in row.values())


# -- every connection ends, once


@each_state
def test_from_every_state_there_is_a_way_to_closing(state: RelayState) -> None:
    assert "closing" in reachable(state)


def test_nothing_leads_out_of_closing() -> None:
    assert reachable("closing") == {"closing"}


@each_cell
def test_no_state_is_entered_twice(state: RelayState, event: Event) -> None:
    """So that whatever happens, few events lead to the end."""
    after = verdict(state, event)[0]
    assert after == state or state not in reachable(after)


@each_state
def test_an_abort_closes_both_sides_in_every_state(state: RelayState) -> None:
    assert verdict(state, "cut_hard") == ("closing", ("abort_client", "abort_backend"))


@pytest.mark.parametrize("state", [state for state in STATES if state != "closing"])
def test_an_end_by_us_is_closing_and_acts_on_the_backend(state: RelayState) -> None:
    after, actions = verdict(state, "cut")
    assert after == "closing"
    # A backend that is being dialled has nothing to be delivered; else what we hold is.
    assert ("abort_backend" if state in CONNECTING else "close_backend") in actions


@each_cell
def test_a_connection_that_is_established_does_not_connect_again(
    state: RelayState, event: Event
) -> None:
    if state not in CONNECTING:
        assert verdict(state, event)[0] not in CONNECTING


# -- actions are consistent


@each_cell
@each_side
def test_a_side_gets_one_action_at_a_time(state: RelayState, event: Event, side: str) -> None:
    asked = [action for action in verdict(state, event)[1] if action.endswith(side)]
    assert len(asked) <= 1


@each_state
@each_side
def test_a_broken_or_closed_side_gets_no_action(state: RelayState, side: str) -> None:
    for how in ("broken", "gone", "broken_early"):
        event = f"{side}_{how}"
        if event in EVENTS:
            _, actions = verdict(state, event)
            assert not [action for action in actions if action.endswith(side)]


@each_state
@each_side
def test_an_end_is_passed_on_once(state: RelayState, side: str) -> None:
    """And a second one of the same side changes nothing."""
    end: Event = "client_eof" if side == "client" else "backend_eof"
    after, actions = verdict(state, end)
    if actions:
        ways = (f"end_{OTHER[side]}", f"close_{OTHER[side]}")
        assert sum(way in actions for way in ways) == 1
    assert verdict(after, end) == (after, ())


@each_state
@each_side
def test_a_broken_side_is_passed_on_as_a_reset(state: RelayState, side: str) -> None:
    """But one that is not established takes none, and once it is closing all was said."""
    event: Event = "client_broken" if side == "client" else "backend_broken"
    after, actions = verdict(state, event)
    if state in CONNECTING:
        assert actions in ((), ("abort_backend",))
    elif state == "closing":
        assert (after, actions) == ("closing", ())
    else:
        assert (after, actions) == ("closing", (f"reset_{OTHER[side]}",))


# -- rows with a rationale


@pytest.mark.parametrize(
    ("state", "event", "expected"),
    [
        # The client's end waits in the backend's queue until there is a backend.
        ("connecting", "client_eof", ("connecting_client_ended", ("end_backend",))),
        # It may have closed at once after its request: that is delivered all the same.
        ("connecting_client_ended", "client_gone", ("connecting_client_gone", ())),
        ("connecting_client_gone", "connected", ("draining", ("close_backend",))),
        # So are the bytes before its reset; with none, there is nothing to dial for.
        ("connecting", "client_broken_early", ("connecting_client_broken", ())),
        ("connecting", "client_broken", ("closing", ("abort_backend",))),
        ("connecting_client_broken", "connected", ("closing", ("reset_backend",))),
        # No client is left to be notified that the backend could not be connected.
        ("connecting_client_broken", "connect_failed", ("closing", ())),
        ("connecting", "connect_failed", ("closing", ("close_client",))),
        # The answer to a client that has ended its half still arrives.
        ("open", "client_eof", ("client_ended", ("end_backend",))),
        ("client_ended", "backend_eof", ("draining", ("close_client", "close_backend"))),
        # A side that has ended and is gone takes no answer: the other has nothing to wait for.
        ("client_ended", "client_gone", ("draining", ("close_backend",))),
        ("backend_ended", "backend_gone", ("draining", ("close_client",))),
        # One that has reset takes no answer either, and the backend must not go on giving one.
        ("client_ended", "client_dropped", ("draining", ("reset_backend",))),
        ("connecting_client_ended", "client_dropped", ("connecting_client_dropped", ())),
        ("connecting_client_dropped", "connected", ("draining", ("reset_backend",))),
        # While both are being drained, a failure still is one.
        ("draining", "client_broken", ("closing", ("reset_backend",))),
        # Its grace time over, a connection that is closing is aborted.
        ("closing", "cut", ("closing", ())),
        ("closing", "cut_hard", ("closing", ("abort_client", "abort_backend"))),
    ],
)
def test_row(state: RelayState, event: Event, expected: Outcome) -> None:
    assert verdict(state, event) == expected
