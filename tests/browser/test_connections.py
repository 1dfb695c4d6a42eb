"""The view of live connections: filter, order, rows in view, selection, and actions on them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.e2e.programs import until

from .looking import Locator, Page, check_accessibility, expect
from .site import CLIENTS, DEVICES, STRANGE_NAME, Site

_ROWS = ".grid-block .grid-row"
_MANY = 400
_CROWD = "127.0.0.61"


def rows(page: Page) -> Locator:
    return page.locator(_ROWS)


def cell(page: Page, row: Locator, title: str) -> Locator:
    """A cell by the title of its column."""
    number = page.get_by_role("columnheader", name=title, exact=True).get_attribute("aria-colindex")
    return row.locator(f"[aria-colindex='{number}']")


def filter_field(page: Page) -> Locator:
    return page.get_by_label("Filter of connections")


@pytest.fixture(scope="module")
def crowd(site: Site) -> Iterator[list[Any]]:
    """Many connections of one client, in the order of their ids."""
    made = [site.connect("web", _CROWD) for _ in range(_MANY)]
    until(
        lambda: len(json.loads(site.command("list", f"client:{_CROWD}", "--json"))) == _MANY, "all"
    )
    yield made
    for each in made:
        each.close()


def next_tick(page: Page) -> None:
    """Wait for the next second's figures."""
    page.evaluate(
        """async () => {
          const { live } = await import("/page/live.js");
          await new Promise((done) => { const off = live.on("tick", () => { off(); done(); }); });
        }"""
    )


def test_the_address_has_filter_and_order(open_page: Callable[..., Page]) -> None:
    page = open_page("#/connections?filter=service:mqtt")
    expect(rows(page)).to_have_count(len(DEVICES))
    page.get_by_role("button", name="CLIENT", exact=True).click()
    client = page.get_by_role("columnheader", name="CLIENT", exact=True)
    expect(client).to_have_attribute("aria-sort", "ascending")
    page.get_by_role("button", name="CLIENT", exact=True).click()
    expect(client).to_have_attribute("aria-sort", "descending")
    expect(rows(page).first).to_contain_text(max(DEVICES.values()))
    assert page.url.endswith("#/connections?filter=service:mqtt&sort=-client")
    field = filter_field(page)
    field.fill("client:127.0.0.12")
    expect(rows(page)).to_have_count(1)
    field.press("Enter")
    assert "filter=client:127.0.0.12" in page.url
    page.go_back()
    expect(rows(page)).to_have_count(len(DEVICES))
    expect(field).to_have_value("service:mqtt")
    expect(client).to_have_attribute("aria-sort", "descending")
    page.go_back()
    expect(client).to_have_attribute("aria-sort", "ascending")


def test_a_filter_is_completed(open_page: Callable[..., Page]) -> None:
    page = open_page("#/connections")
    expect(rows(page).first).to_be_visible()
    page.keyboard.press("/")
    field = filter_field(page)
    expect(field).to_be_focused()
    page.keyboard.type("ser")
    option = page.get_by_role("option").first
    expect(option).to_contain_text("service:")
    page.keyboard.press("ArrowDown")
    expect(option).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(page.get_by_role("option")).to_have_text(["web", "mqtt"])
    check_accessibility(page)
    page.keyboard.type("mq")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    expect(field).to_have_value("service:mqtt ")
    expect(rows(page)).to_have_count(len(DEVICES))
    page.keyboard.type("not:stat")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("option").filter(has_text="half_closed")).to_be_visible()
    page.keyboard.type("open")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No connection matches")).to_be_visible()
    field.fill("service:mqtt")
    expect(rows(page)).to_have_count(len(DEVICES))
    page.keyboard.press("Escape")  # the suggestions
    page.keyboard.press("Escape")
    expect(rows(page).first).to_have_class(re.compile("active"))
    page.keyboard.press("ArrowDown")
    expect(rows(page).nth(1)).to_have_class(re.compile("active"))


def test_a_mistake_in_a_filter_is_marked(open_page: Callable[..., Page]) -> None:
    asked: list[str] = []
    page = open_page("#/connections")
    expect(rows(page).first).to_be_visible()

    def note(request: Any) -> None:
        if "/api/v1/connections?" in request.url:
            asked.append(request.url)

    page.on("request", note)
    field = filter_field(page)
    field.fill("service:web sevice:mqtt")
    field.press("Enter")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(re.compile("service"))
    expect(page.locator(".filter-mirror mark")).to_have_text("sevice:mqtt")
    check_accessibility(page)
    # What is not understood is not asked again at each tick.
    before = len(asked)
    next_tick(page)
    next_tick(page)
    assert len(asked) == before
    field.fill("service:web")
    expect(field).not_to_have_attribute("aria-invalid", "true")
    expect(rows(page).first).to_be_visible()


def test_only_rows_in_view_are_drawn_and_asked_for(
    open_page: Callable[..., Page], crowd: list[Any]
) -> None:
    limits: list[int] = []

    def note(request: Any) -> None:
        query = parse_qs(urlsplit(request.url).query)
        if request.url.split("?")[0].endswith("/connections"):
            limits.append(int(query["limit"][0]))
            assert query["max_age"] == ["1"]

    page = open_page(f"#/connections?filter=client:{_CROWD}")
    page.on("request", note)
    grid = page.get_by_role("grid", name="Connections")
    expect(grid).to_have_attribute("aria-rowcount", str(_MANY + 1))
    grid.focus()
    page.keyboard.press("End")
    last = page.locator(f"{_ROWS}[aria-rowindex='{_MANY + 1}']")
    expect(last).to_contain_text(_CROWD)
    expect(last).to_have_class(re.compile("active"))
    assert grid.get_attribute("aria-activedescendant") == last.get_attribute("id")
    assert rows(page).count() < 60
    assert limits
    assert max(limits) <= 100


def test_back_leads_to_the_same_row(open_page: Callable[..., Page], crowd: list[Any]) -> None:
    page = open_page(f"#/connections?filter=client:{_CROWD}")
    grid = page.get_by_role("grid", name="Connections")
    expect(grid).to_have_attribute("aria-rowcount", re.compile(r"\d\d\d"))
    grid.evaluate("grid => { grid.scrollTop = 100 * 28; }")
    row = page.locator(f"{_ROWS}[aria-rowindex='110']")
    name = row.get_by_role("link").inner_text()
    row.click(position={"x": 300, "y": 8})
    page.keyboard.press("Enter")
    expect(page.locator(".view-connection")).to_be_visible()
    page.go_back()
    expect(page.locator(f"{_ROWS}.active")).to_contain_text(name)
    expect(grid).to_be_focused()
    assert grid.evaluate("grid => grid.scrollTop") == 2800


def test_what_one_reads_does_not_jump(
    open_page: Callable[..., Page], site: Site, crowd: list[Any]
) -> None:
    page = open_page(f"#/connections?filter=client:{_CROWD}")
    grid = page.get_by_role("grid", name="Connections")
    expect(grid).to_have_attribute("aria-rowcount", re.compile(r"\d\d\d"))
    grid.evaluate("grid => { grid.scrollTop = 200 * 28 + 5; }")
    expect(page.locator(f"{_ROWS}[aria-rowindex='210']")).to_contain_text(_CROWD)
    watched = page.locator(f"{_ROWS}[aria-rowindex='210'] a")
    name = watched.inner_text()
    place = watched.bounding_box()
    assert place is not None
    total = int(str(grid.get_attribute("aria-rowcount")))
    # First some that are drawn still, then more than are ever asked for at once.
    for count, above in ((3, slice(0, 3)), (150, slice(3, 153))):
        for each in crowd[above]:
            each.close()
        total -= count
        expect(grid).to_have_attribute("aria-rowcount", str(total))
        now = page.get_by_role("link", name=name, exact=True)
        expect(now).to_be_visible()
        after = now.bounding_box()
        assert after is not None
        assert abs(after["y"] - place["y"]) < 1


def test_the_order_is_held_while_somebody_points_at_rows(
    open_page: Callable[..., Page], site: Site
) -> None:
    clients = [site.connect("web", f"127.0.0.{71 + number}") for number in range(3)]
    page = open_page("#/connections?filter=client:127.0.0.64/26")
    expect(rows(page)).to_have_count(3)
    second = rows(page).nth(1)
    rows(page).nth(2).hover()
    expect(page.locator("#connections-status")).to_contain_text("order held")
    clients[1].close()
    for _ in range(20):  # some moves for each tick: it is held for as long as the mouse moves
        rows(page).nth(2).hover(position={"x": 50, "y": 5})
        rows(page).nth(2).hover(position={"x": 60, "y": 5})
        if "ended" in str(second.get_attribute("class")):
            break
        next_tick(page)
    expect(second).to_have_class(re.compile("ended"))
    expect(rows(page)).to_have_count(3)
    page.mouse.move(5, 5)
    expect(rows(page)).to_have_count(2)
    for each in clients:
        each.close()


def test_keys_select_and_open(open_page: Callable[..., Page]) -> None:
    page = open_page("#/connections?filter=service:mqtt")
    expect(rows(page)).to_have_count(len(DEVICES))
    page.get_by_role("grid").focus()
    expect(rows(page).first).to_have_class(re.compile("active"))
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowDown")
    expect(page.locator(f"{_ROWS}[aria-selected='true']")).to_have_count(2)
    expect(page.locator(".selection")).to_contain_text("2 selected")
    check_accessibility(page)
    page.keyboard.press("Escape")
    expect(page.locator(f"{_ROWS}[aria-selected='true']")).to_have_count(0)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator(".view-connection")).to_be_visible()
    page.go_back()
    expect(rows(page)).to_have_count(len(DEVICES))


def test_selected_connections_are_closed(open_page: Callable[..., Page], site: Site) -> None:
    clients = [site.connect("web", "127.0.0.81") for _ in range(3)]
    page = open_page("#/connections?filter=client:127.0.0.81")
    expect(rows(page)).to_have_count(3)
    for number in (0, 2):
        rows(page).nth(number).get_by_role("checkbox").click()
    page.get_by_role("button", name="Close…").click()
    dialog = page.get_by_role("dialog", name="Close 2 connections?")
    expect(dialog.get_by_role("listitem")).to_have_count(2)
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    check_accessibility(page)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(rows(page)).to_have_count(3)
    page.get_by_role("button", name="Close…").click()
    dialog.get_by_role("button", name="Close", exact=True).last.click()
    expect(page.get_by_text("Closed 2 connections")).to_be_visible()
    for each in (clients[0], clients[2]):  # else monconn waits for their ends for some seconds
        each.close()
    page.mouse.move(5, 5)
    expect(rows(page)).to_have_count(1)
    page.get_by_role("button", name="Close matching…").click()
    page.get_by_role("button", name="Close 1").click()
    expect(page.get_by_text("Closed 1 connection", exact=True)).to_be_visible()
    clients[1].close()
    expect(page.get_by_text("No connection matches")).to_be_visible()
    closed = json.loads(site.command("list", "--closed", "client:127.0.0.81", "--json"))
    assert [each["reason"] for each in closed] == 3 * ["operator"]


def test_clients_of_selected_connections_are_blocked(
    open_page: Callable[..., Page], site: Site
) -> None:
    site.connect("web", "127.0.0.91")
    page = open_page("#/connections?filter=client:127.0.0.91")
    rows(page).first.get_by_role("checkbox").click()
    page.get_by_role("button", name="Block clients…").click()
    dialog = page.get_by_role("dialog", name="Block 1 client?")
    expect(dialog).to_contain_text("1 live connection will be ended, unless")
    dialog.get_by_label("For how long").select_option("1 hour")
    dialog.get_by_label("Why").fill("a test")
    dialog.get_by_role("button", name="Block", exact=True).click()
    expect(page.get_by_text("Blocked 1 client", exact=True)).to_be_visible()
    (block,) = json.loads(site.command("blocks", "client:127.0.0.91", "--json"))
    assert block["reason"] == "a test"
    site.command("unblock", "127.0.0.91")


def test_who_may_only_view_is_offered_no_action(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page(logged_in=False)
    page.goto(site.link("--role", "view"))
    expect(page.locator(".card").first).to_be_visible()
    expect(page.locator(".card-actions button")).to_have_count(0)
    page.goto("/#/connections?filter=service:mqtt")
    expect(rows(page)).to_have_count(len(DEVICES))
    expect(page.get_by_role("checkbox")).to_have_count(0)
    expect(page.get_by_role("button", name=re.compile("Close|Block"))).to_have_count(0)
    page.get_by_role("grid").focus()
    page.keyboard.press("Space")
    expect(page.locator(".grid-row.selected")).to_have_count(0)


def test_names_of_strangers_are_only_text(open_page: Callable[..., Page], site: Site) -> None:
    client = site.device(STRANGE_NAME, "127.0.0.99")
    page = open_page("#/connections?filter=client:127.0.0.99")
    name = cell(page, rows(page).first, "NAME")
    expect(name).to_have_text("<img src=x onerror=alert(1)>\\u202e\\x07")
    assert page.locator(".grid img").count() == 0
    client.close()


def test_columns_are_chosen(open_page: Callable[..., Page]) -> None:
    page = open_page("#/connections?filter=service:mqtt")
    expect(rows(page)).to_have_count(len(DEVICES))
    page.get_by_role("button", name="Columns…").click()
    dialog = page.get_by_role("dialog", name="Columns")
    check_accessibility(page)
    dialog.get_by_label("BACKEND Whom it is forwarded to.").check()
    page.keyboard.press("Escape")
    expect(page.get_by_role("columnheader", name="BACKEND", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_role("columnheader", name="BACKEND", exact=True)).to_be_visible()
    page.get_by_role("button", name="Columns…").click()
    page.get_by_role("button", name="The usual ones").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("columnheader", name="BACKEND", exact=True)).to_have_count(0)


def test_columns_leave_where_it_is_narrow(open_page: Callable[..., Page]) -> None:
    page = open_page("#/connections", width=360, height=740)
    expect(rows(page).first).to_contain_text("127.0.0.")
    expect(page.get_by_role("columnheader", name="CLIENT", exact=True)).to_be_visible()
    expect(page.get_by_role("columnheader", name="STATE", exact=True)).to_be_visible()
    expect(page.get_by_role("columnheader", name="IDLE", exact=True)).to_have_count(0)
    page.set_viewport_size({"width": 1280, "height": 740})
    expect(page.get_by_role("columnheader", name="IDLE", exact=True)).to_be_visible()
    assert CLIENTS[0] in page.locator(".grid").inner_text()


def test_a_long_state_is_shown_whole_where_there_is_room(open_page: Callable[..., Page]) -> None:
    page = open_page("#/why")

    def fulfil(route: Any) -> None:
        answer = route.fetch()
        found = answer.json()
        for each in found["rows"]:
            each["client_unreachable_seconds"] = 245.0
        route.fulfill(response=answer, json=found)

    page.route("**/api/v1/connections?*", fulfil)
    page.evaluate("location.hash = '#/connections'")
    state = rows(page).first.get_by_text("client unreachable for 4m05s")
    expect(state).to_be_visible()
    page.wait_for_function(
        "cell => cell.scrollWidth <= cell.clientWidth", arg=state.element_handle()
    )
    page.unroute_all(behavior="ignoreErrors")
