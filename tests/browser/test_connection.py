"""The view of one connection."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.programs import until

from .looking import Locator, Page, check_accessibility, expect, save_picture
from .site import CLIENTS, STRANGE_NAME, Site, exchange

OpenPage = Callable[..., Page]


def id_of(page: Page, client: socket.socket) -> int:
    """The number of a client's connection."""
    host, port = client.getsockname()
    answer = page.request.get("/api/v1/connections", params={"filter": f"client:{host}"})
    rows = answer.json()["rows"]
    return int(next(row["id"] for row in rows if row["client"] == f"{host}:{port}"))


def opened(open_page: OpenPage, client: socket.socket) -> Page:
    """The view of a client's connection, once it shows it."""
    page = open_page("#/why")
    page.goto(f"/#/connections/{id_of(page, client)}")
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    return page


def with_row(page: Page, **changes: Any) -> None:
    """Have the page get a connection with other values than it has."""

    def fulfil(route: Any) -> None:
        row = route.fetch().json()
        route.fulfill(json={**row, **changes})

    page.route("**/api/v1/connections/*", fulfil)


def moments(page: Page) -> list[str]:
    """What the timeline names, in its order."""
    return page.locator(".moment-text").all_inner_texts()


def test_a_live_connection_is_followed(open_page: OpenPage, site: Site) -> None:
    client = site.connect()
    exchange(client, b"first\n")
    page = opened(open_page, client)
    expect(page.locator("h1")).to_have_text(re.compile(re.escape(CLIENTS[0])))
    expect(page.locator(".connection-state")).to_contain_text("open")
    assert moments(page) == [
        *("Client accepted", "Backend connected"),
        *("First byte of the client", "First byte of the backend", "Live"),
    ]
    expect(page.locator(".moment-gap")).to_have_count(4)
    traffic = page.locator(".connection-traffic")
    expect(traffic).to_have_text("up 6 B · down 6 B")
    exchange(client, b"x" * 100_000)
    expect(traffic).to_contain_text("up 97.7 KiB (100,006 bytes)")
    summary = page.locator(".chart-lines .chart-summary")
    expect(summary).to_contain_text(re.compile(r"up: from the client at most \d+\.\d KiB/s"))
    for side in ("client", "backend"):
        expect(page.get_by_label(f"TCP between monconn and the {side}")).to_contain_text(
            "Round trip"
        )
    save_picture(page, "connection-live")

    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    expect(page.locator(".connection-state")).to_contain_text(
        "Closed: client_closed, ended by the client"
    )
    ended = moments(page)
    assert ended.index("The client ended") < ended.index("The backend ended"), ended
    assert ended[-1] == "Closed"
    expect(page.get_by_role("heading", name="Why it ended")).to_be_visible()
    step = page.get_by_role("link", name=f"monconn history client:{CLIENTS[0]}")
    expect(step).to_have_attribute(
        "href", f"#/history?filter=client:{CLIENTS[0]}+reason:client_closed&since=1d"
    )
    expect(page.get_by_role("button", name="Start a live tap")).to_be_hidden()
    expect(page.get_by_role("button", name="Close…")).to_have_count(0)
    check_accessibility(page)


def test_single_values_of_a_chart_are_read_by_keys(open_page: OpenPage, site: Site) -> None:
    client = site.connect()
    exchange(client, b"a" * 5000)
    page = opened(open_page, client)
    reader = page.get_by_role("slider", name=re.compile("Rates"))
    expect(reader).to_have_attribute("aria-valuetext", "no value chosen")
    expect(page.locator(".chart-lines .chart-line").first).to_have_attribute("d", re.compile("M"))
    reader.focus()
    page.keyboard.press("End")
    expect(reader).to_have_attribute(
        "aria-valuetext", re.compile(r"\d\d:\d\d:\d\d: up: from the client .*, down: from the ")
    )
    expect(page.locator(".chart-lines .chart-readout")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".chart-lines .chart-readout")).to_be_hidden()


FLAGS = {
    "slow network to the client": "TCP between monconn and the client",
    "slow network to the backend": "TCP between monconn and the backend",
    "slow client": "Client",
    "slow backend": "Backend",
    "slow to connect": "TCP between monconn and the backend",
    "limited by bandwidth": "monconn",
    "client unreachable": "TCP between monconn and the client",
    "backend unreachable": "TCP between monconn and the backend",
}
"""Where the picture has each cause that a diagnosis may name."""


def test_the_picture_has_the_diagnosis_at_its_place(open_page: OpenPage, site: Site) -> None:
    client = site.connect()
    page = open_page("#/why")
    place_of = f"/#/connections/{id_of(page, client)}"
    diagnosis = {"looks_like": "", "because": ["a figure", "and another"]}
    with_row(page, diagnosis=diagnosis)
    for cause, place in FLAGS.items():
        diagnosis["looks_like"] = cause
        page.goto("/#/why")
        page.goto(place_of)
        expect(page.locator(".verdict")).to_have_text(f"⚠ Looks like: {cause}")
        expect(page.locator(".suspect-flag")).to_have_count(1)
        expect(page.get_by_label(place, exact=True).locator(".suspect-flag")).to_have_text(
            f"⚠ {cause}"
        )
        if cause == "slow network to the client":  # what is marked has figures in it
            check_accessibility(page)
    expect(page.locator(".because li")).to_have_text(["a figure", "and another"])
    diagnosis["looks_like"] = "nothing slow"
    expect(page.locator(".verdict")).to_have_text("Looks like: nothing slow")
    expect(page.locator(".suspect")).to_have_count(0)


def shown_bytes(page: Page) -> Locator:
    """The bytes that are shown, a part for each chunk."""
    return page.get_by_label("Bytes of the connection").locator(".flow-data")


def test_a_recording_is_shown_as_hex_and_as_text(open_page: OpenPage, site: Site) -> None:
    client = site.connect()
    exchange(client, b"hello \x1b[31m\n")
    page = opened(open_page, client)
    page.get_by_role("button", name="Show the recording (24 B)").click()
    up, down = shown_bytes(page).first, shown_bytes(page).last
    expect(up).to_contain_text("client → backend")
    expect(up).to_contain_text("68 65 6c 6c 6f 20 1b 5b 33 31 6d 0a")
    expect(up).to_contain_text("hello .[31m.")
    expect(down).to_contain_text("client ← backend")
    page.get_by_label("How bytes are shown").select_option("text")
    expect(up).to_contain_text(r"hello \x1b[31m")
    expect(up).not_to_contain_text("68 65")
    save_picture(page, "connection-recording")


def test_why_there_is_no_recording_is_said(open_page: OpenPage, site: Site) -> None:
    client = site.connect()
    page = open_page("#/why")
    problem = {"title": "Not Found", "status": 404, "detail": "its recorder is off"}
    page.route("**/recording", lambda route: route.fulfill(status=404, json=problem))
    page.goto(f"/#/connections/{id_of(page, client)}")
    page.get_by_role("button", name=re.compile("recording")).click()
    expect(page.get_by_text("There is no recording: its recorder is off")).to_be_visible()


def test_a_tap_shows_bytes_as_they_pass(open_page: OpenPage, site: Site) -> None:
    client = site.connect()
    page = opened(open_page, client)
    with page.expect_request("**/api/v1/tap?*") as asked:
        page.get_by_role("button", name="Start a live tap").click()
    # Not by its number: a restarted server, which the page connects to again, has others.
    assert "service=web&filter=uid%3A%3D" in asked.value.url
    expect(page.get_by_text("Live: bytes appear as they pass.")).to_be_visible()
    exchange(client, b"a passing word\n")
    expect(shown_bytes(page).first).to_contain_text("a passing word")
    page.get_by_role("button", name="Stop the tap").click()
    expect(page.get_by_text("The tap was stopped.")).to_be_visible()
    exchange(client, b"not seen\n")
    page.get_by_role("button", name="Start a live tap").click()
    expect(page.get_by_text("Live: bytes appear as they pass.")).to_be_visible()
    exchange(client, b"once more\n")
    expect(shown_bytes(page).first).to_contain_text("once more")
    expect(page.get_by_text("not seen")).to_have_count(0)
    client.close()
    expect(page.get_by_text(re.compile("The connection has ended: client_"))).to_be_visible()


def test_what_the_page_shows_of_a_tap_is_bounded(open_page: OpenPage, site: Site) -> None:
    client = site.connect()
    page = opened(open_page, client)
    page.get_by_role("button", name="Start a live tap").click()
    expect(page.get_by_text("Live: bytes appear as they pass.")).to_be_visible()
    exchange(client, b"z" * 1_000_000)
    expect(page.get_by_text(re.compile(r"The page shows the last 256\.0 KiB"))).to_be_visible()
    text = page.get_by_label("Bytes of the connection").inner_text()
    assert len(text) < 2_000_000  # 5 characters for each byte of a hex dump


def test_what_waits_while_nothing_is_drawn_is_bounded(page: Page) -> None:
    waiting, skipped = page.evaluate(
        """async () => {
            const { Tapping } = await import("/page/connection/tapping.js");
            const tapping = new Tapping(() => ({}), {events: () => {}, state: () => {}});
            const data = btoa("x".repeat(3000));
            for (let count = 0; count < 1000; count += 1) tapping.take({event: "data", data});
            return [tapping.waiting.length, tapping.skippedBytes];
        }"""
    )
    assert waiting <= 256 * 1024 // 3000
    assert skipped == (1000 - waiting) * 3000


def test_closing_is_asked_and_explained(open_page: OpenPage, site: Site) -> None:
    client = site.connect()
    exchange(client, b"x")
    page = opened(open_page, client)
    page.get_by_role("button", name="Close…").click()
    page.get_by_role("button", name="Cancel").click()
    exchange(client, b"still here")
    page.get_by_role("button", name="Close…").click()
    page.get_by_role("dialog").get_by_role("button", name="Close", exact=True).last.click()
    assert client.recv(1) == b""
    client.close()
    expect(page.locator(".connection-state")).to_contain_text("Closed: operator")
    expect(page.locator(".explained").first).to_contain_text("operator:")


def test_whoever_may_view_is_told_why_there_are_no_bytes(open_page: OpenPage, site: Site) -> None:
    client = site.connect()
    page = open_page(logged_in=False)
    page.goto(site.link("--role", "view"))
    expect(page.locator(".view-services")).to_be_visible()
    page.goto(f"/#/connections/{id_of(page, client)}")
    expect(page.get_by_text("only to those who may operate")).to_be_visible()
    for name in ("Close…", "Block client…", "Start a live tap"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)


def test_a_name_that_means_no_good_is_text(open_page: OpenPage, site: Site) -> None:
    client = site.device(STRANGE_NAME, "127.0.0.66")
    page = opened(open_page, client)
    shown = r"<img src=x onerror=alert(1)>\u202e\x07"
    expect(page.locator("h1")).to_contain_text(shown)
    expect(page.locator(".connection-facts").last).to_contain_text(shown)
    expect(page.locator("main img")).to_have_count(0)
    client.close()


@pytest.mark.parametrize("id", ["999999", "nonsense"])
def test_one_that_nobody_knows_is_said_to_be_so(open_page: OpenPage, site: Site, id: str) -> None:
    page = open_page(f"#/connections/{id}")
    expect(page.get_by_role("status")).to_contain_text(["no connection has the id"])
    expect(page.get_by_role("link", name="Live connections")).to_be_visible()


def test_one_that_has_left_the_memory_is_shown_from_the_history(
    open_page: OpenPage, site: Site
) -> None:
    page = open_page("#/why")
    with site.connect() as client:
        exchange(client, b"bye")
        row = page.request.get(f"/api/v1/connections/{id_of(page, client)}").json()
    past = f"/api/v1/history?filter=uid:{row['uid']}"
    until(lambda: page.request.get(past).json()["rows"], "the history")
    missing = {"title": "Not Found", "status": 404, "detail": "no connection has the id"}
    page.route("**/api/v1/connections/*", lambda route: route.fulfill(status=404, json=missing))
    page.goto(f"/#/connections/{row['uid']}")
    expect(page.get_by_text("what the history has of it")).to_be_visible()
    expect(page.locator(".connection-state")).to_contain_text("Closed: client_closed")


def test_one_that_the_server_has_forgotten_stays_as_it_was_seen(
    open_page: OpenPage, site: Site
) -> None:
    client = site.connect()
    page = opened(open_page, client)
    expect(page.get_by_role("button", name="Close…")).to_be_visible()
    missing = {"title": "Not Found", "status": 404, "detail": "no connection has the id"}
    page.route("**/api/v1/connections/*", lambda route: route.fulfill(status=404, json=missing))
    expect(page.get_by_text("this is what was seen last")).to_be_visible()
    expect(page.locator(".connection-state")).to_contain_text("open")
    expect(page.get_by_role("button", name="Close…")).to_have_count(0)


def test_who_vanished_has_ended_nothing(open_page: OpenPage, site: Site) -> None:
    with site.connect("web", CLIENTS[0]) as client:
        page = open_page("#/why")
        with_row(
            page,
            **{"state": "closed", "closed_at": "2026-01-31T08:00:00Z", "duration_seconds": 16.0},
            **{"reason": "client_lost", "closed_by": "client", "code": "CD"},
        )
        page.goto(f"/#/connections/{id_of(page, client)}")
        expect(page.locator(".connection-state")).to_have_text("Closed: client_lost, after 16.0s")
