"""The screen, as a user sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from textual.containers import VerticalScroll
from textual.events import Key
from textual.widgets import Input

from monconn.faces.tui.details import Details
from monconn.faces.tui.dialogs import Confirm, Help
from monconn.faces.tui.model import Query, Snapshot
from monconn.faces.tui.screen import PollerUpdate
from monconn.faces.tui.widgets import Lines

from .fake import FakeServer, Screen, connection, running

Play = Callable[[Screen], Awaitable[None]]


def play(
    server: FakeServer,
    steps: Play,
    size: tuple[int, int] = (100, 30),
    *,
    is_stepped: bool = True,
) -> None:
    """Show a server, and do something with the screen."""

    async def main() -> None:
        async with running(server, size, is_stepped=is_stepped) as screen:
            await steps(screen)

    asyncio.run(main())


@pytest.mark.parametrize("is_stepped", [True, False])
def test_first_screen(is_stepped: bool) -> None:
    async def steps(screen: Screen) -> None:
        assert "8 live" in screen.lines("status")[0]
        assert screen.ids() == [8, 7, 6, 5, 4, 3, 2, 1]
        assert [line.split()[0] for line in screen.lines("services")] == [
            "SERVICE▼",
            "web",
            "ssh",
        ]
        assert "9030" in screen.lines("closed")[1]
        assert "client_closed" in screen.lines("closed")[1]
        assert "filter" in screen.lines("keys")[0]

    play(FakeServer(), steps, is_stepped=is_stepped)


def test_sort() -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        for _ in range(5):
            await screen.press("s")
        await screen.until(lambda: screen.ids() == [1, 2, 3, 4, 5, 6, 7, 8])
        assert "ID▼" in screen.lines("live")[0]

    play(server, steps)
    orders = [each["sort"] for each in server.asked("ListConnections") if "closed" not in each]
    assert orders[-1] == "id"


@pytest.mark.parametrize(
    ("typed", "sent", "ids"),
    [
        ("10.0.0.3", "client:10.0.0.3", [3]),
        ("ssh", "service:=ssh", [6, 3]),
        ("half_closed", "state:half_closed", [8, 3]),
        ("40002", "40002", [2]),
        ("port:40002..40004 not:id:3", "port:40002..40004 not:id:3", [4, 2]),
    ],
)
def test_filter(typed: str, sent: str, ids: list[int]) -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        await type_filter(screen, typed)
        await screen.until(lambda: screen.ids() == ids)
        assert f"filter {sent} matches {len(ids)}" in screen.lines("status")[0]
        await screen.press("enter")
        await screen.poll()
        assert screen.ids() == ids
        await screen.press("escape")
        await screen.until(lambda: len(screen.ids()) == 8)

    play(server, steps)
    asked = [each.get("filter") for each in server.asked("ListConnections") if "closed" not in each]
    assert sent in asked
    assert asked[-1] is None


async def type_filter(screen: Screen, text: str) -> None:
    names = {" ": "space", ":": "colon", ".": "full_stop", "_": "underscore", "/": "slash"}
    await screen.press("slash", *(names.get(each, each) for each in text))


def test_keys_that_arrive_together_count_in_their_order() -> None:
    async def steps(screen: Screen) -> None:
        await type_filter(screen, "sshx")
        for key, character in (
            ("backspace", "\x7f"),
            ("backspace", "\x7f"),
            ("a", "a"),
            ("b", "b"),
        ):
            screen.app.post_message(Key(key, character))
        await screen.until(lambda: screen.app.query_one("#filter", Input).value == "ssab")

    play(FakeServer(), steps)


def test_state_of_a_live_one_says_nothing_of_closed_ones() -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        await type_filter(screen, "half_closed service:web")
        await screen.until(lambda: screen.ids() == [8])
        assert len(screen.lines("closed")) > 1

    play(server, steps)
    asked = [each.get("filter") for each in server.asked("ListConnections") if "closed" in each]
    assert asked[-1] == "service:=web"


def test_mistake_in_a_filter_loses_nothing() -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        await type_filter(screen, "sevice:web")
        assert 'unknown key "sevice": did you mean service?' in screen.lines("keys")[0]
        await screen.poll()
        assert len(screen.ids()) == 8
        await screen.press("enter")  # does not close it
        assert screen.app.query_one("#filter", Input).value == "sevice:web"
        await screen.press("home", "right", "right", "r")
        await screen.until(lambda: screen.ids() == [8, 7, 5, 4, 2, 1])
        assert "Enter keep" in screen.lines("keys")[0]
        await screen.press("enter")
        assert "c close" in screen.lines("keys")[0]

    play(server, steps)
    sent = {each.get("filter") for each in server.asked("ListConnections")}
    assert sent == {None, "service:=web"}  # never the mistake


def test_filter_that_the_server_refuses() -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        server.bad_filter = 'filter: unknown key "age"'
        await type_filter(screen, "age:..1h")
        await screen.until(lambda: "unknown key" in screen.lines("message")[0])
        assert len(screen.ids()) == 8

    play(server, steps)


def test_pause() -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        await screen.press("p")
        assert "PAUSED" in screen.lines("status")[0]
        calls = len(server.calls)
        server.live[99] = connection(99)
        await screen.poll()
        assert len(server.calls) == calls
        assert 99 not in screen.ids()
        await screen.press("p")
        await screen.until(lambda: 99 in screen.ids())

    play(server, steps)


def test_details_are_live() -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        await screen.press("down", "enter")
        await screen.until(lambda: isinstance(screen.app.screen, Details))
        await screen.until(lambda: any("client_ip" in line for line in screen.lines("details")))
        keys = [line.split()[0] for line in screen.lines("details")]
        assert set(server.live[7]) <= set(keys)
        server.live[7]["state"] = "closing"
        await screen.until(lambda: any("closing" in line for line in screen.lines("details")))
        del server.live[7]
        await screen.until(lambda: "no longer known" in screen.lines("title")[0])
        await screen.press("escape")
        await screen.until(lambda: 7 not in screen.ids())

    play(server, steps)


@pytest.mark.parametrize(("key", "reset"), [("c", False), ("r", True)])
def test_close_after_confirmation(key: str, reset: bool) -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        await screen.press("down", "down", key)
        assert isinstance(screen.app.screen, Confirm)
        assert "connection 6?" in screen.app.screen.text.plain
        await screen.press("enter")  # is no yes
        assert isinstance(screen.app.screen, Confirm)
        await screen.press("y")
        await screen.until(lambda: 6 not in screen.ids())
        await screen.until(lambda: screen.lines("message")[0].startswith(" done: "))

    play(server, steps)
    assert server.asked("CloseConnections") == [{"ids": json.dumps([6]), "reset": reset}]


@pytest.mark.parametrize("key", ["n", "escape"])
def test_nothing_happens_without_confirmation(key: str) -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        await screen.press("c", key)
        assert not isinstance(screen.app.screen, Confirm)
        await screen.poll()

    play(server, steps)
    assert server.asked("CloseConnections") == []


@pytest.mark.parametrize(
    ("key", "arguments"),
    [("y", {"network": "10.0.0.8"}), ("s", {"network": "10.0.0.8", "service": "web"})],
)
@pytest.mark.parametrize(
    ("action", "command", "message"),
    [("b", "Block", "done: block 10.0.0.8"), ("u", "Unblock", "it was so already")],
)
def test_block(
    action: str, command: str, message: str, key: str, arguments: dict[str, str]
) -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        await screen.press(action, key)
        await screen.until(lambda: message in screen.lines("message")[0])

    play(server, steps)
    assert server.asked(command) == [arguments]


def test_close_from_the_details() -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        await screen.press("enter")
        await screen.press("c", "y")
        await screen.until(lambda: "no longer known" in screen.lines("title")[0])

    play(server, steps)
    assert len(server.asked("CloseConnections")) == 1


def test_closed_ones_can_be_opened_but_not_closed() -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        await screen.press("tab", "down", "c")
        assert "connection 9029 has ended already" in screen.lines("message")[0]
        await screen.press("enter")
        await screen.until(lambda: {"id": 9029} in server.asked("ShowConnection"))

    play(server, steps)


def test_details_scroll_in_80_columns_and_24_lines() -> None:
    server = FakeServer()
    why = "the backend's first byte took so much longer than a round trip that no line holds it all"
    server.live[8]["diagnosis"] = {"looks_like": "slow backend", "because": [why] * 4}

    async def steps(screen: Screen) -> None:
        await screen.press("enter")
        await screen.until(lambda: any("looks_like" in line for line in screen.lines("details")))
        await screen.until(lambda: "↑↓ scroll" in screen.lines("keys")[0])
        lines = screen.lines("details")
        assert all(len(line) <= 78 for line in lines)
        assert why in " ".join(" ".join(lines).split())
        before = screen.app.screen.query_one(VerticalScroll).scroll_offset.y
        await screen.press("down", "pagedown")
        after = screen.app.screen.query_one(VerticalScroll)
        await screen.until(lambda: after.scroll_target_y > before)

    play(server, steps, (80, 24))


@pytest.mark.parametrize("is_stepped", [True, False])
def test_server_disconnects_and_returns(is_stepped: bool) -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        server.gone = True
        await screen.until(lambda: "nobody answers" in screen.lines("message")[0])
        assert "NO SERVER" in screen.lines("status")[0]
        assert len(screen.ids()) == 8  # the old data stays
        await screen.press("c", "y")
        server.gone, server.pid = False, 4712
        del server.live[8]
        await screen.until(lambda: screen.ids() == [7, 6, 5, 4, 3, 2, 1])
        assert "pid 4712" in screen.lines("status")[0]

    play(server, steps, is_stepped=is_stepped)
    assert server.asked("CloseConnections") == []  # not what was meant for another process


def test_an_action_for_another_process_is_not_carried_out() -> None:
    """It has other connections with the same ids."""
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        await screen.press("c")
        server.gone = True
        await screen.until(lambda: bool(screen.app.model.lost))
        server.gone, server.pid = False, 4712
        await screen.press("y")
        await screen.until(lambda: "monconn was restarted" in screen.lines("message")[0])

    play(server, steps)
    assert server.asked("CloseConnections") == []


def is_all_seen(lines: Lines) -> bool:
    return len(lines.plain) <= max(lines.size.height, 1)


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (50, 14), (30, 8)])
def test_every_size(size: tuple[int, int]) -> None:
    server = FakeServer(300)

    async def steps(screen: Screen) -> None:
        width, height = size
        await screen.until(lambda: bool(screen.app.query("#live")) and len(screen.ids()) > 0)
        for name in ("status", "services", "live", "closed", "message", "keys"):
            lines = screen.app.query_one(f"#{name}", Lines)
            if height >= 12:  # once it is laid out, there is room for all of it
                await screen.until(partial(is_all_seen, lines))
            whole = ("status", "message")  # are cut when they are drawn
            assert name in whole or all(len(line) <= width for line in lines.plain)
        await screen.press("question_mark")
        assert isinstance(screen.app.screen, Help)
        await screen.press("x", "enter", "escape", "tab", "pagedown", "home")
        await screen.pilot.resize_terminal(100, 30)
        await screen.until(lambda: len(screen.ids()) > 10)

    play(server, steps, size)


def test_all_keys_are_named_in_80_columns() -> None:
    async def steps(screen: Screen) -> None:
        assert screen.lines("keys")[0].endswith("p pause  ? help  q quit")

    play(FakeServer(), steps, (80, 24))


def test_5000_connections_cost_no_more_than_the_visible_rows() -> None:
    server = FakeServer(5000)

    async def steps(screen: Screen) -> None:
        await screen.press("p")
        live = screen.app.query_one("#live", Lines)
        before = live.lines_redrawn
        screen.app.draw()
        assert live.lines_redrawn == before  # nothing new, so nothing is drawn
        rows = screen.app.model.rows
        rows[3]["up_rate"] = 12345678.0
        screen.app.draw()
        assert live.lines_redrawn == before + 1

    play(server, steps, (80, 24))
    assert all("limit" in each for each in server.asked("ListConnections"))
    assert max(server.rows_given) <= 2 * 24
    assert len(server.asked("ListConnections")) <= 2 * len(server.asked("ListServices")) + 1


def test_an_update_that_comes_while_the_app_is_closed_changes_nothing() -> None:
    async def steps(screen: Screen) -> None:
        await screen.app.screen.query(Lines).remove()
        screen.app.on_poller_update(PollerUpdate(Snapshot(Query(), at=0.0)))
        screen.app.draw()

    play(FakeServer(), steps)


def test_quit() -> None:
    async def steps(screen: Screen) -> None:
        await screen.press("q")
        assert screen.app.return_value == 0

    play(FakeServer(), steps)
