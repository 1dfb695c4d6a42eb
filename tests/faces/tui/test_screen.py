"""The screen, as a user sees it."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from textual.containers import VerticalScroll
from textual.events import Key
from textual.filter import NoColor
from textual.geometry import Region
from textual.widgets import Input, Static

from monconn.errors import QuestionError
from monconn.faces.tui.details import Details
from monconn.faces.tui.dialogs import Confirm, Help
from monconn.faces.tui.filter_bar import ChoiceList, choices, known_values
from monconn.faces.tui.model import Model, Query, Snapshot
from monconn.faces.tui.screen import PollerUpdate
from monconn.faces.tui.terminal import check_terminal
from monconn.faces.tui.theme import DARK, LIGHT, first_theme
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
            "ssh",
            "web",
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
        assert "SCREEN PAUSED" in screen.lines("status")[0]
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
        await screen.until(lambda: any("connected in" in line for line in screen.lines("details")))
        keys = [line.split()[0] for line in screen.lines("details") if line.strip()]
        assert {"id", "client", "state", "age", "idle", "up", "down"} <= set(keys)
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
        await screen.until(lambda: screen.lines("keys")[0].startswith("Esc back  b block"))

    play(server, steps)


def test_details_scroll_in_80_columns_and_24_lines() -> None:
    server = FakeServer()
    why = "the backend's first byte took so much longer than a round trip that no line holds it all"
    server.live[8]["diagnosis"] = {"looks_like": "slow backend", "because": [why] * 4}

    async def steps(screen: Screen) -> None:
        await screen.press("enter")
        await screen.until(lambda: any("looks like" in line for line in screen.lines("details")))
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


def test_who_may_only_look_is_offered_no_action() -> None:
    server = FakeServer()
    server.role = "view"

    async def steps(screen: Screen) -> None:
        assert "VIEW ONLY" in screen.lines("status")[0]
        (keys,) = screen.lines("keys")
        assert "filter" in keys
        assert not {"close", "reset", "block"} & set(keys.split())
        await screen.press("c")
        assert "needs operate" in screen.lines("message")[0]
        await screen.press("enter")
        assert "close" not in screen.lines("keys")[0].split()
        await screen.press("escape", "question_mark")
        await screen.until(lambda: isinstance(screen.app.screen, Help))
        shown = str(screen.app.screen.query_one(Static).render())
        assert "filter; Tab completes" in shown
        assert "reset it" not in shown
        assert "block its" not in shown

    play(server, steps, (80, 24))
    assert server.asked("CloseConnections") == []


def test_services_say_what_they_do() -> None:
    server = FakeServer()
    server.states = {"web": "paused", "ssh": "draining"}

    async def steps(screen: Screen) -> None:
        lines = screen.lines("services")
        assert [line.split()[1] for line in lines] == ["STATE", "draining", "paused"]

    play(server, steps, (80, 24))


def test_the_only_service_says_what_it_does_in_the_first_line() -> None:
    server = FakeServer(services=["web"])  # so that there is no table of services

    async def steps(screen: Screen) -> None:
        assert "running" not in screen.lines("status")[0]
        server.states = {"web": "draining"}
        await screen.poll()
        await screen.until(lambda: " draining " in screen.lines("status")[0])

    play(server, steps, (80, 24))


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


# -- tables


def test_fifty_services_scroll_and_sort_in_80_columns_and_24_lines() -> None:
    names = [f"service-{number:02}" for number in range(1, 51)]

    async def steps(screen: Screen) -> None:
        assert len(screen.ids()) == 10  # most of the screen
        assert screen.lines("services")[1].startswith("service-01 ")
        await screen.press("shift+tab", "end")
        await screen.until(lambda: screen.lines("services")[-1].startswith("service-50 "))
        await screen.press("s")  # by live connections: only the first and the last have any
        await screen.until(lambda: screen.lines("services")[2].startswith("service-50 "))
        assert "NOW▼" in screen.lines("services")[0]
        await screen.press("home", "down", "enter")
        await screen.until(lambda: "filter service:=service-50" in screen.lines("status")[0])
        assert screen.app.model.focus == "live"

    play(FakeServer(300, names), steps, (80, 24))


@pytest.mark.parametrize("services", [("web",), ("web", "ssh")])
def test_service_is_a_column_in_80_columns_if_there_are_several(services: tuple[str, ...]) -> None:
    async def steps(screen: Screen) -> None:
        for name in ("live", "closed"):
            assert ("SERVICE" in screen.lines(name)[0]) is (len(services) > 1)
        if len(services) == 1:  # which has no table, but a place in the first line
            assert not screen.app.query_one("#services").display
            assert "127.0.0.1:80" in screen.lines("status")[0]

    play(FakeServer(9, services), steps, (80, 24))


def test_closed_connections_scroll_and_sort() -> None:
    server = FakeServer(300)

    async def steps(screen: Screen) -> None:
        await screen.press("tab")
        for _ in range(9):
            await screen.press("pagedown")
            await screen.poll()
        await screen.until(lambda: screen.lines("closed")[-1].split()[0] == "9001")
        await screen.press("s")
        await screen.until(lambda: "DOWN▼" in screen.lines("closed")[0])
        await screen.poll()

    play(server, steps)
    sent = [each["sort"] for each in server.asked("ListConnections") if "closed" in each]
    assert sent[-1] == "down"


def test_frames_on_a_large_screen() -> None:
    async def steps(screen: Screen) -> None:
        live = screen.app.query_one("#live", Lines)
        await screen.until(lambda: live.border_title == "live 300")
        assert live.border_subtitle == f"1–{len(screen.ids())}"
        assert screen.app.query_one("#connections", Lines).border_title == "connections 300"
        assert "2,768 so far" in str(screen.app.query_one("#connections", Lines).border_subtitle)
        await screen.pilot.resize_terminal(80, 24)
        await screen.until(lambda: " connections 300" in screen.lines("chart_line")[0])
        await screen.until(lambda: not screen.app.screen.has_class("-boxed"))
        await screen.until(lambda: live.size.width == 80)

    play(FakeServer(300), steps, (120, 40))


def test_no_connection_yet() -> None:
    server = FakeServer(0)
    server.closed.clear()

    async def steps(screen: Screen) -> None:
        await screen.until(lambda: "No live connection." in screen.lines("live")[1])
        assert "web listens on :8080" in screen.lines("live")[2]
        assert "No connection has ended yet" in screen.lines("closed")[1]
        await type_filter(screen, "xyz")
        await screen.until(lambda: "matches the filter" in screen.lines("live")[1])
        assert "none of the keys" not in "".join(screen.lines("live"))
        await screen.press("escape")
        await type_filter(screen, "foo:bar")
        await screen.until(lambda: "foo is none of the keys" in "".join(screen.lines("live")))

    play(server, steps)


def test_places_are_kept_for_some_seconds() -> None:
    server = FakeServer(3)

    async def steps(screen: Screen) -> None:
        await screen.poll()  # with the limit that the heights allow by now
        assert screen.ids() == [3, 2, 1]
        server.live[1]["up_rate"] = 1e6
        server.live[4] = connection(4)
        await screen.until(lambda: len(screen.ids()) == 4)
        assert screen.ids() == [3, 2, 1, 4]

    play(server, steps)


# -- mouse, colours


async def click(screen: Screen, name: str, x: int, y: int, times: int = 1) -> None:
    await screen.pilot.click(f"#{name}", offset=(x, y), times=times)


def test_mouse() -> None:
    server = FakeServer(300)

    async def steps(screen: Screen) -> None:
        app = screen.app
        await click(screen, "closed", 5, 2)
        assert app.model.focus == "closed"
        assert app.model.selected == screen.app.model.closed_rows[1]
        await click(screen, "live", screen.lines("live")[0].index("IDLE"), 0)
        await screen.until(lambda: "IDLE▼" in screen.lines("live")[0])
        app.query_one("#live", Lines).post_message(Lines.Scrolled("live", 3))
        await screen.pilot.pause()
        assert app.model.live.index == 3
        await click(screen, "live", 5, 2, times=2)
        await screen.until(lambda: isinstance(app.screen, Details))
        await click(screen, "keys", 1, 0)
        assert not isinstance(app.screen, Details)
        await click(screen, "keys", screen.lines("keys")[0].index("p pause"), 0)
        assert app.model.paused

    play(server, steps)


def test_themes() -> None:
    async def steps(screen: Screen) -> None:
        screen.app.theme = DARK
        drawn = []
        for theme in (DARK, LIGHT, "ansi-dark", DARK):
            assert screen.app.theme == theme
            await screen.pilot.pause()
            (strip,) = screen.app.query_one("#live", Lines).render_lines(Region(0, 0, 80, 1))
            drawn.append([segment.style for segment in strip])
            await screen.press("t")
        assert drawn[0] == drawn[3]
        assert drawn[0] != drawn[1] != drawn[2]

    play(FakeServer(), steps)


@pytest.mark.parametrize(
    ("environment", "colours", "theme"),
    [
        ({}, "truecolor", DARK),
        ({}, "256", DARK),
        ({}, "standard", "ansi-dark"),
        ({"COLORFGBG": "0;15"}, "truecolor", LIGHT),
        ({"COLORFGBG": "0;15"}, "standard", "ansi-light"),
        ({"COLORFGBG": "15;0"}, "truecolor", DARK),
        ({"COLORFGBG": "0;default;15"}, "truecolor", LIGHT),
        ({"TEXTUAL_THEME": "nord", "COLORFGBG": "0;15"}, "truecolor", "nord"),
    ],
)
def test_first_theme(environment: dict[str, str], colours: str, theme: str) -> None:
    assert first_theme(environment, colours) == theme


def test_without_colours_the_selected_row_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def steps(screen: Screen) -> None:
        live = screen.app.query_one("#live", Lines)
        await screen.pilot.pause()
        styles = [live.render_line(y)._segments[0].style for y in (1, 2)]
        assert [bool(style and style.reverse) for style in styles] == [True, False]
        # Not the one that makes greys of them, which are colours as well.
        assert any(isinstance(each, NoColor) for each in screen.app.get_line_filters())

    play(FakeServer(), steps)


def test_alarms_of_services_are_in_the_first_line() -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        first, second, *_ = server.services
        server.alarms[first] = ["backend_down"]
        await screen.until(lambda: f" {first}: backend_down " in screen.lines("status")[0])
        server.alarms[second] = ["outage"]
        await screen.until(lambda: " 2 service alarms " in screen.lines("status")[0])

    play(server, steps)


# -- devices


def test_devices_with_alarms() -> None:
    server = FakeServer()

    async def steps(screen: Screen) -> None:
        await screen.until(lambda: " 1 device has alarms " in screen.lines("status")[0])
        await screen.press("d")
        await screen.until(lambda: len(screen.lines("devices")) == 4)
        names = [line.split()[:2] for line in screen.lines("devices")]
        assert names[:2] == [["DEVICE", "ALARMS"], ["10.0.0.2", "silent"]]
        assert [name for name, _ in names[2:]] == ["10.0.0.1", "10.0.0.3"]
        await screen.press("down", "enter")
        await screen.until(lambda: screen.ids() == [1])
        assert "filter client:10.0.0.1 service:=web" in screen.lines("status")[0]

    play(server, steps)


def test_a_server_without_devices() -> None:
    server = FakeServer()
    server.too_old_for.add("ListDevices")

    async def steps(screen: Screen) -> None:
        assert "alarm" not in screen.lines("status")[0]
        assert screen.app.model.alarms is None
        await screen.press("d")
        await screen.until(lambda: "No device" in screen.lines("devices")[1])
        await screen.press("escape")
        await screen.until(lambda: len(screen.ids()) == 8)

    play(server, steps)


def test_a_server_that_is_older_than_filters() -> None:
    server = FakeServer(300)
    server.is_before_filters = True

    async def steps(screen: Screen) -> None:
        for _ in range(3):
            await screen.poll()
        assert len(screen.ids()) > 9
        assert not screen.app.model.lost
        await type_filter(screen, "ssh")
        await screen.press("enter")
        await screen.until(lambda: "too old for filter" in screen.lines("message")[0])
        assert not screen.app.model.lost
        await screen.press("escape")
        await screen.until(lambda: len(screen.ids()) > 9)

    play(server, steps)


# -- completion


async def offered(screen: Screen, *texts: str) -> None:
    """Wait until these are the first choices."""
    choice_list = screen.app.query_one(ChoiceList)

    def are_offered() -> bool:
        found = [str(each.prompt) for each in choice_list.options[: len(texts)]]
        return bool(choice_list.display) is bool(texts) and found == [*texts]

    await screen.until(are_offered)


def test_filters_are_completed() -> None:
    async def steps(screen: Screen) -> None:
        box = screen.app.query_one("#filter", Input)
        await screen.press("slash")
        await offered(screen, "id:", "uid:", "service:")
        await type_more(screen, "ser")
        await offered(screen, "service:")
        await screen.press("tab")
        await screen.until(lambda: box.value == "service:")
        await offered(screen, "service:web", "service:ssh")
        await screen.press("down", "down", "enter")
        await screen.until(lambda: box.value == "service:ssh ")
        await type_more(screen, "reason:client_r")
        await offered(screen, "reason:client_reset")
        await screen.until(lambda: box._suggestion == "service:ssh reason:client_reset")
        await screen.press("right")
        await screen.until(lambda: box.value == "service:ssh reason:client_reset")
        await offered(screen)
        await screen.press("enter")
        assert not box.display
        await screen.press("escape")

    play(FakeServer(), steps)


async def type_more(screen: Screen, text: str) -> None:
    names = {":": "colon", "_": "underscore"}
    await screen.press(*(names.get(each, each) for each in text))


def test_what_a_term_can_become() -> None:
    known = {"service": ["web", "two words"], "idle": ["5m.."], "fact": ["user"], "user": ["ann"]}
    assert choices("id", known) == ["id:", "idle:"]
    assert choices("web not:sta", known) == ["not:state:"]
    assert choices("state:half", known) == ["state:half_closed"]
    assert choices("idle:", known) == ["idle:5m.."]
    assert choices("ha", known) == ["half_closed"]
    assert choices("us", known) == ["user:"]
    assert choices("user:", known) == ["user:ann"]
    assert choices("service:", known) == ["service:web"]  # not what would have to be quoted
    assert choices("state:open", known) == []
    assert choices("'sta", known) == []
    assert "service:" in choices("", known)


def test_values_that_a_terminal_would_obey_are_not_offered() -> None:
    model = Model()
    model.update(Snapshot(Query(), 1.0, pid=1, services=[{"sid": "a\x1b[2J"}, {"sid": "b"}]))
    assert known_values(model)["service"] == ["b"]


# -- the end


@pytest.mark.parametrize("keys", [["ctrl+c"], ["slash", "a", "ctrl+c"], ["d", "ctrl+c"]])
def test_control_c_quits_at_once(keys: list[str]) -> None:
    async def steps(screen: Screen) -> None:
        await screen.press(*keys)
        assert screen.app.return_value == 0

    play(FakeServer(), steps)


def test_a_signal_ends_it_as_a_key_does() -> None:
    """Else the terminal would be left as it is while the screen is shown."""

    async def steps(screen: Screen) -> None:
        signal.raise_signal(signal.SIGTERM)
        await screen.until(lambda: screen.app.return_value == 128 + signal.SIGTERM)

    play(FakeServer(), steps)


def test_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("__stdin__", "__stdout__", "__stderr__"):
        monkeypatch.setattr(sys, name, Terminal())
    check_terminal({"TERM": "xterm"})
    with pytest.raises(QuestionError, match="not a dumb one"):
        check_terminal({"TERM": "dumb"})
    for other in (io.StringIO(), None):
        monkeypatch.setattr(sys, "__stderr__", other)
        with pytest.raises(QuestionError, match="top needs a terminal"):
            check_terminal({"TERM": "xterm"})
