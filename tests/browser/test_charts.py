"""The charts: what they draw, what they say, and how they are read by keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .looking import Page, expect
from .site import Site

SHARES_SITE = True
_DRAW = """async ([name, options, data, width]) => {
    const modules = {stackedBars: "bars", lineChart: "lines"};
    const charts = await import(`/page/charts/${modules[name] ?? name}.js`);
    const chart = charts[name](options);
    const box = document.createElement("div");
    box.id = "chart";
    box.style.width = `${width}px`;
    document.getElementById("main").replaceChildren(box);
    box.append(chart.element);
    chart.update(data);
    window.drawn = chart;
}"""


@pytest.fixture(scope="module")
def opened(browser: Any, site: Site, session: Any) -> Iterator[Page]:
    """The page, in whose place charts are drawn: one for all tests."""
    context = browser.new_context(base_url=site.url, storage_state=session)
    page = context.new_page()
    page.goto("/#/why")
    expect(page.locator(".view-why")).to_be_visible()
    yield page
    context.close()


@pytest.fixture
def page(opened: Page, script_errors: list[str]) -> Iterator[Page]:
    """The page that is open; no script of it may fail."""

    def note(error: object) -> None:
        script_errors.append(str(error))

    opened.on("pageerror", note)
    yield opened
    opened.remove_listener("pageerror", note)


@pytest.fixture
def draw(page: Page) -> Callable[..., Page]:
    """Draws one chart in the place of a view: ``draw("strip", {"label": "pump"}, data)``."""

    def _draw(name: str, options: dict[str, Any], data: dict[str, Any], width: int = 600) -> Page:
        page.evaluate(_DRAW, [name, options, data, width])
        return page

    return _draw


def call(page: Page, function: str, *arguments: object) -> Any:
    """What a function of axes returns."""
    code = '([name, given]) => import("/page/charts/axes.js").then((made) => made[name](...given))'
    return page.evaluate(code, [function, arguments])


def test_marks_and_tops_of_axes_are_round(page: Page) -> None:
    assert call(page, "roundTop", 0, False) == 1
    assert call(page, "roundTop", 37, False) == 40
    assert call(page, "roundTop", 1500, True) == 2048
    assert call(page, "roundTop", 1024, True) == 1024
    assert call(page, "roundTop", 700_000, True) == 1024 * 1024
    marks = call(page, "timeMarks", 1000.5, 1060, 4)
    assert [mark["at"] for mark in marks] == [1005, 1020, 1035, 1050]
    assert len(call(page, "timeMarks", 0, 10**9, 8)) <= 9
    assert call(page, "timeMarks", 5, 5, 8) == []


def test_a_sparkline_says_its_last_and_its_highest_value(draw: Callable[..., Page]) -> None:
    page = draw("sparkline", {"label": "connections of web"}, {"values": [1, 9, 4]})
    picture = page.get_by_role("img", name="connections of web")
    expect(picture).to_have_attribute("aria-label", "connections of web: now 4, highest 9 in 3 s")
    page.evaluate("() => window.drawn.update({values: []})")
    expect(picture).to_have_attribute("aria-label", "connections of web: no values yet")


def test_a_strip_has_heights_and_words_for_states(draw: Callable[..., Page]) -> None:
    spans = [
        {"from": 0, "to": 100, "state": "unknown"},
        {"from": 100, "to": 600, "state": "present"},
        {"from": 600, "to": 700, "state": "silent"},
        {"from": 700, "to": 1000, "state": "absent"},
    ]
    marks = [{"at": 650, "text": "silent"}, {"at": 5000, "text": "not shown"}]
    data = {"since": 0, "until": 1000, "spans": spans, "marks": marks}
    page = draw("strip", {"label": "pump-1"}, data)
    label = page.get_by_role("img", name="pump-1").get_attribute("aria-label") or ""
    # Of the time of which anything is known.
    assert label.startswith("pump-1: present 56 % of 15m00s, silent once, 1m40s in all")
    assert "absent once, 5m00s in all" in label
    assert label.endswith(" silent")  # the mark; the other one is not in the period
    heights = [
        float(page.locator(f".strip-{each}").get_attribute("height") or 0)
        for each in ("present", "silent", "absent")
    ]
    assert heights[0] > heights[1] > heights[2]
    expect(page.locator(".strip-unknown title")).to_contain_text("not known")
    expect(page.locator(".strip-mark")).to_have_count(1)


def test_a_timeline_is_read_item_by_item(draw: Callable[..., Page]) -> None:
    lanes = [
        {"label": "connections", "spans": [{"from": 10, "to": 40, "text": "web"}]},
        {"label": "alarms", "points": [{"at": 30, "text": "silent", "tone": "bad"}]},
    ]
    page = draw("timeline", {"label": "Life"}, {"since": 0, "until": 60, "lanes": lanes})
    reader = page.get_by_role("slider", name="Life")
    reader.focus()
    page.keyboard.press("Home")
    expect(reader).to_have_attribute(
        "aria-valuetext", "connections: web, 1970-01-01 00:00:10, for 30.0s"
    )
    page.keyboard.press("ArrowRight")
    expect(reader).to_have_attribute("aria-valuetext", "alarms: silent, 1970-01-01 00:00:30")
    page.keyboard.press("ArrowRight")  # there is none after it
    expect(reader).to_have_attribute("aria-valuenow", "1")


def test_names_of_strangers_are_escaped_in_charts(draw: Callable[..., Page]) -> None:
    name = "pump\u202e\x1b"
    lanes = [{"label": name, "points": [{"at": 30, "text": name}]}]
    page = draw("timeline", {"label": name}, {"since": 0, "until": 60, "lanes": lanes})
    reader = page.get_by_role("slider")
    reader.focus()
    page.keyboard.press("Home")
    expect(page.locator("#chart .chart-readout div").first).to_have_text("pump\\u202e\\x1b")
    expect(reader).to_have_attribute("aria-valuetext", re.compile(r"pump\\u202e\\x1b"))
    data = {"since": 0, "until": 60, "spans": [], "marks": [{"at": 1, "text": name}]}
    page = draw("strip", {"label": name}, data)
    for text in (page.locator("#chart").inner_html(), page.locator("#chart").inner_text()):
        assert "\u202e" not in text
        assert "\x1b" not in text


def test_reasons_that_are_not_known_are_others(draw: Callable[..., Page]) -> None:
    page = draw("lineChart", {"label": "x", "series": [{"label": "a"}]}, {"samples": []})
    page.evaluate(
        """async () => {
            const { stackedBars } = await import("/page/charts/bars.js");
            const series = new Map([["known", {label: "known"}], ["others", {label: "others"}]]);
            const chart = stackedBars({label: "Ends", series});
            document.getElementById("chart").replaceChildren(chart.element);
            const counts = {known: 2, newer: 3, newest: 1};
            chart.update({buckets: [{since: 0, until: 10, counts}]});
        }"""
    )
    expect(page.locator(".chart-key:visible")).to_have_text(["known 2", "others 4"])
    expect(page.locator(".chart-summary")).to_have_text("Ends: known 2, others 4")


def test_a_chart_is_drawn_anew_for_another_width(draw: Callable[..., Page]) -> None:
    samples = [{"at": at, "values": [at, None if at == 5 else 1]} for at in range(10)]
    series = [{"label": "up"}, {"label": "down"}]
    page = draw("lineChart", {"label": "Rates", "series": series}, {"samples": samples})
    picture = page.locator("#chart .chart-picture")
    expect(picture).to_have_attribute("width", "600")
    down = page.locator("#chart .chart-picture .chart-line").last.get_attribute("d") or ""
    assert down.count("M") == 2, "the line has a gap where nothing is known"
    page.evaluate("() => { document.getElementById('chart').style.width = '300px'; }")
    expect(picture).to_have_attribute("width", "300")


def test_what_is_read_stays_the_same_as_others_come(draw: Callable[..., Page]) -> None:
    samples = [{"at": at, "values": [at]} for at in range(10)]
    options = {"label": "Rates", "series": [{"label": "up"}]}
    page = draw("lineChart", options, {"samples": samples})
    reader = page.get_by_role("slider", name="Rates")
    reader.focus()
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    page.keyboard.press("ArrowRight")
    expect(reader).to_have_attribute("aria-valuetext", "1970-01-01 00:00:02: up 2")
    page.evaluate("(samples) => window.drawn.update({samples})", samples[1:])
    expect(reader).to_have_attribute("aria-valuetext", "1970-01-01 00:00:02: up 2")


def test_the_axis_is_not_drawn_through_a_mark(draw: Callable[..., Page]) -> None:
    series = [{"label": "up", "colour": 1}, {"label": "down", "colour": 2}]
    samples = [{"at": at, "values": [400, 16_000]} for at in (1, 2)]
    data = {"since": 0, "until": 3, "samples": samples}
    page = draw("lineChart", {"label": "Rates", "series": series}, data)
    expect(page.locator(".chart-axis")).to_have_count(1)
    (axis,) = [float(each.get_attribute("y1") or 0) for each in page.locator(".chart-axis").all()]
    for mark in page.locator(".chart-halo").all():
        baseline = float(mark.get_attribute("y") or 0)
        assert not baseline - 11 < axis < baseline + 1
