"""The first lines of the screen: who is watched, totals, and charts of the last minutes."""

from __future__ import annotations

from typing import Any

from rich.cells import cell_len
from rich.text import Text

from monconn.errors import printable
from monconn.faces.tui.charts import BUCKET_SECONDS, bars
from monconn.faces.tui.model import Model
from monconn.faces.tui.widgets import action
from monconn.ops.columns import Unit, format_value
from monconn.ops.rows import service_state_text
from monconn.units import format_duration

CHARTS: tuple[tuple[str, str, Unit, str], ...] = (
    ("connections", "connections", "count", ""),
    ("up", "up", "bytes_per_second", "up"),
    ("down", "down", "bytes_per_second", "down"),
)
"""The name, the title, the unit and the style of each chart."""
_FIGURE_CELLS = len(" connections 1,234 ")
_ALARM_CELLS = 32


def status_line(model: Model, width: int) -> Text:
    """What is watched, how many connections are live, the filter, and how many alarms there are."""
    line = Text()
    line.append(" monconn top ", "badge")
    line.append(f"  {model.live_count:,} live", "strong")
    for shown, text, style in (
        (bool(state := _only_state(model)), f" {state} ", "badge"),
        (model.paused, " SCREEN PAUSED ", "badge"),
        (not model.may_act, " VIEW ONLY ", "badge"),
        (model.lost, " NO SERVER, OLD DATA ", "alarm"),
    ):
        if shown:
            line.append("  ")
            line.append(text, style)
    if alarms := _services_alarms(model):
        line.append("  ")
        line.append(f" {alarms} ", "alarm")
    if model.alarms:
        line.append("  ")
        word = "device has" if model.alarms == 1 else "devices have"
        start = len(line)
        line.append(f" {model.alarms:,} {word} alarms ", "alarm")
        line.stylize(action("app.devices"), start)
    if model.filter:
        is_answered = model.snapshot.query.filter == model.filter
        count = f"matches {model.snapshot.total:,}" if is_answered else "…"
        line.append(f"  filter {printable(model.filter.to_text())} {count}", "filter")
    else:
        _append_if_it_fits(line, f"  {_services_text(model)}", width)
    about = printable(f"{model.snapshot.server} pid {model.snapshot.pid} ")
    if model.snapshot.server and line.cell_len + cell_len(about) + 2 <= width:
        line.append(about.rjust(width - line.cell_len), "dim")
    return line


def _append_if_it_fits(line: Text, text: str, width: int) -> None:
    if line.cell_len + cell_len(text) <= width:
        line.append(text)


def _services_alarms(model: Model) -> str:
    """The alarms of the services themselves: of one in words, of several their number."""
    found = [
        f"{row.get('sid')}: {each}"
        for row in model.snapshot.services
        if isinstance(row.get("alarms"), list)  # there are none from an older server
        for each in row["alarms"]
    ]
    if len(found) == 1 and len(found[0]) <= _ALARM_CELLS:
        return printable(found[0])
    return f"{len(found)} service alarm{'' if len(found) == 1 else 's'}" if found else ""


def _only_state(model: Model) -> str:
    """What the only service does, unless it runs: several have a table of their own."""
    services = model.snapshot.services
    text = service_state_text(services[0]) if len(services) == 1 else ""
    return "" if text == "running" else printable(text)


def _services_text(model: Model) -> str:
    """The one service and its addresses, or how many there are."""
    services = model.snapshot.services
    if len(services) != 1:
        return f"{len(services)} services" if services else ""
    (row,) = services
    listen, backend = row.get("listen") or "?", row.get("backend") or "?"
    return printable(f"{row['sid']}: {listen} → {backend}")


def totals_text(model: Model) -> str:
    """How many connections there have been, and how many clients were refused."""
    total, refused = (
        sum(int(each.get(key) or 0) for each in model.snapshot.services)
        for key in ("total", "refused")
    )
    return f"{total:,} so far, {refused:,} refused"


def chart_line(model: Model, width: int) -> Text:
    """All charts in one line, each after its figure."""
    line = Text()
    each_cells = width // len(CHARTS)
    for name, title, unit, style in CHARTS:
        chart = model.charts[name]
        figure = f" {title} {_figure(chart.last, unit)}"
        line.append(figure.ljust(min(_FIGURE_CELLS, each_cells)), style or "strong")
        cells = each_cells - max(_FIGURE_CELLS, cell_len(figure)) - 1
        values = chart.values(cells)
        (text,) = bars(values, len(values), 1)
        line.append(text.ljust(max(cells, 0) + 1), style or "trend")
    return line


def chart_lines(model: Model, name: str, width: int, height: int) -> list[Text]:
    """The bars of one chart in its frame."""
    style = next(style for each, _, _, style in CHARTS if each == name)
    values = model.charts[name].values(width)
    return [Text(line, style or "trend") for line in bars(values, width, height)]


def chart_titles(model: Model, name: str, width: int) -> tuple[str, str]:
    """The title of a chart's frame, and what stands below it."""
    title, unit = next((title, unit) for each, title, unit, _ in CHARTS if each == name)
    chart = model.charts[name]
    seconds = len(chart.values(width)) * BUCKET_SECONDS
    below = f"last {format_duration(seconds)}" if seconds >= 2 * BUCKET_SECONDS else ""
    if name == "connections" and model.snapshot.services:
        below = totals_text(model)
    elif below:
        below += f", most {_figure(max(filter(None, chart.values(width)), default=0), unit)}"
    return f"{title} {_figure(chart.last, unit)}", below


def _figure(value: Any, unit: Unit) -> str:
    if unit == "count":
        return f"{round(value):,}"
    return format_value(value, unit) if value >= 1 else "0 B/s"
