"""Writes ``RESULTS.md``, its plot, and the summary on the terminal."""

from __future__ import annotations

from collections import Counter

import attrs

from benchmarks.contestants import BY_NAME, CONTESTANTS, Contestant, Place
from benchmarks.measure import LOADS, Load
from benchmarks.plot import Panel, draw, number_text
from benchmarks.results import Results, Summary, ratio, summary
from benchmarks.targets import KIB, MIB, TARGETS

NO_FORWARDER = "no forwarder"
PLOT = "results.svg"


@attrs.frozen
class Conditions:
    """The conditions of a run, to repeat and judge it."""

    machine: dict[str, str]
    versions: dict[str, str]
    rounds: int
    seconds: float
    """The duration of each measurement."""
    others_cpus: float
    """How many processors other programs used meanwhile, on average."""
    absent: dict[str, str]
    """Contestants that could not run, and why."""


def title_of(name: str) -> str:
    return BY_NAME[name].title if name in BY_NAME else NO_FORWARDER


def in_order(results: Results, load: str) -> list[str]:
    """The contestants with figures for a load: first without a forwarder, then in their order."""
    order = ["direct", *BY_NAME]
    return sorted(results.contestants(load), key=order.index)


def spread_text(found: Summary | None) -> str:
    """Median and range, as ``0.17 (0.16–0.20)``."""
    if found is None:
        return "–"
    if found.lowest == found.highest:
        return number_text(found.median)
    lowest, highest = number_text(found.lowest), number_text(found.highest)
    return f"{number_text(found.median)} ({lowest}–{highest})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown that is readable on a terminal, too."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    lines = [
        " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in (head, rule, *rows)
    ]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


# -- the targets

_TARGET_HEAD = ["what", "target", "measured", "verdict"]


def target_rows(results: Results) -> list[list[str]]:
    return [
        [
            target.what,
            target.limit_text(),
            spread_text(target.summary(results)),
            target.verdict(results),
        ]
        for target in TARGETS
    ]


def targets_sentence(results: Results) -> str:
    verdicts = Counter(target.verdict(results) for target in TARGETS)
    text = f"Of {len(TARGETS)} targets, {verdicts['met']} met, {verdicts['missed']} missed"
    absent = verdicts["not measured"]
    return f"{text}, {absent} not measured." if absent else f"{text}."


def terminal_text(results: Results) -> str:
    """All tables, with the targets last, where they are most visible."""
    rows = [row for row in target_rows(results) if row[3] != "not measured"]
    rows.sort(key=lambda row: row[3] == "missed")
    return "\n".join(
        [
            *_measured(results),
            *([table(_TARGET_HEAD, rows)] if rows else []),
            targets_sentence(results),
            *_failure_lines(results),
        ]
    )


def _failure_lines(results: Results) -> list[str]:
    if not results.failures:
        return []
    count = len(results.failures)
    return [f"Failed and left out: {count}.", *(f"- {each}" for each in results.failures[:20])]


# -- the tables of the loads


def load_table(results: Results, load: Load) -> str:
    """All contestants under one load; ratios are to HAProxy."""
    is_tls = load.name.startswith("tls-")
    base = "haproxy-tls" if is_tls else "haproxy"
    cost = "cpu_s_per_gb" if load.is_bulk else "cpu_us"
    metrics = {cost: "processor s per GB" if load.is_bulk else "processor µs each"}
    if load.is_bulk and not is_tls:
        metrics["gb_per_s"] = "GB/s"
    elif not is_tls:  # there the client may be the bottleneck
        metrics |= {"per_s": "per s", "p50_us": "p50, µs", "p99_us": "p99, µs"}
    rows = []
    for name in in_order(results, load.name):
        cells = [spread_text(results.summary(name, load.name, metric)) for metric in metrics]
        shares = ratio(results.values(name, load.name, cost), results.values(base, load.name, cost))
        rows.append([title_of(name), *cells, spread_text(summary(shares.values()))])
    return table(["", *metrics.values(), f"processor time × {title_of(base)}'s"], rows)


def held_table(results: Results) -> str:
    head = [
        "",
        "connections",
        "just started, MiB",
        "after the first 50, MiB",
        "all open, MiB",
        "KiB each",
        "after they closed, MiB",
        "as many again, MiB",
        "in use at the start, MiB",
        "in use after they closed, MiB",
        "µs per message, 50 open",
        "all open",
        "growth",
    ]
    metrics = (
        ("connections", 1),
        ("fresh_bytes", MIB),
        ("start_bytes", MIB),
        ("held_bytes", MIB),
        ("bytes_per_connection", KIB),
        ("after_bytes", MIB),
        ("again_bytes", MIB),
        ("in_use_bytes", MIB),
        ("in_use_after_bytes", MIB),
        ("few_cpu_us", 1),
        ("many_cpu_us", 1),
        ("growth", 1),
    )
    return table(head, _figure_rows(results, "held", metrics))


def stalled_table(results: Results) -> str:
    metrics = (("connections", 1), ("bytes_each", KIB), ("pipe_bytes_each", KIB))
    head = ["", "stalled readers", "KiB each", "of that in pipes, KiB"]
    return table(head, _figure_rows(results, "stalled", metrics))


def tls_held_table(results: Results) -> str:
    metrics = (("connections", 1), ("bytes_per_connection", KIB))
    return table(["", "connections", "KiB each"], _figure_rows(results, "tls-held", metrics))


def startup_table(results: Results) -> str:
    return table(["", "s"], _figure_rows(results, "startup", (("seconds", 1),)))


def _figure_rows(
    results: Results, load: str, metrics: tuple[tuple[str, float], ...]
) -> list[list[str]]:
    return [
        [title_of(name), *(spread_text(_scaled(results, name, load, *each)) for each in metrics)]
        for name in in_order(results, load)
    ]


def _scaled(
    results: Results, name: str, load: str, metric: str, unit: float = 1.0
) -> Summary | None:
    return summary(value / unit for value in results.values(name, load, metric).values())


# -- the plot

_PANELS = (
    ("Bulk, 1 stream: processor seconds per GB", "bulk-1", "cpu_s_per_gb", 1),
    ("Bulk, 8 streams: processor seconds per GB", "bulk-8", "cpu_s_per_gb", 1),
    ("New connections: processor µs each", "connect", "cpu_us", 1),
    ("64-byte messages, 64 connections: processor µs each", "messages-64", "cpu_us", 1),
    ("64-byte messages, 1 connection: p50 in µs, there and back", "messages-1", "p50_us", 1),
    ("Held connections: resident memory in MiB", "held", "held_bytes", MIB),
)


def plot_text(results: Results) -> str:
    """The plot; the shortest bar is the cheapest."""
    return draw([_plot_panel(results, *panel) for panel in _PANELS])


def _plot_panel(results: Results, title: str, load: str, metric: str, unit: float) -> Panel:
    found = [
        (title_of(name), _scaled(results, name, load, metric, unit))
        for name in in_order(results, load)
    ]
    return Panel(title, [(name, each) for name, each in found if each])


# -- the settings


def settings_text(contestant: Contestant) -> str:
    """A contestant's command and files, made by the code that makes the real ones."""
    place = Place()
    lines = [" ".join(contestant.command(place))]
    for name, text in contestant.files(place).items():
        lines += ["", f"# {name}", text.rstrip()]
    block = "\n".join(lines)
    return f"**{contestant.title}.** {contestant.note}\n\n```\n{block}\n```\n"


# -- the whole page


def results_text(results: Results, conditions: Conditions) -> str:
    """The text of ``RESULTS.md``."""
    parts = [
        "# Benchmark results\n",
        "Made by `make bench`; what is measured, and how, is in [README.md](README.md).\n",
        _conditions_text(conditions),
        "## Targets\n",
        "Medians of the rounds, with the lowest and the highest round in parentheses; ratios are"
        " taken within each round.\n",
        table(_TARGET_HEAD, _marked(target_rows(results))),
        targets_sentence(results) + "\n",
        *(["\n".join(_failure_lines(results)) + "\n"] if results.failures else []),
        f"![Medians as bars, lowest and highest round as lines]({PLOT})\n",
    ]
    parts += _measured(results)
    parts += ["## Settings\n", *map(settings_text, CONTESTANTS)]
    return "\n".join(parts)


def _measured(results: Results) -> list[str]:
    """A heading and a table for each load that was measured."""
    parts = []
    for load in LOADS:
        if results.contestants(load.name):
            parts += [f"## {load.title}\n", load_table(results, load)]
    others = {
        "held": ("Memory, and the cost of being many", held_table),
        "tls-held": ("Memory of idle TLS connections", tls_held_table),
        "stalled": ("Stalled readers", stalled_table),
        "startup": ("From start to the first byte", startup_table),
    }
    for name, (title, make_table) in others.items():
        if results.contestants(name):
            parts += [f"## {title}\n", make_table(results)]
    return parts


def _marked(rows: list[list[str]]) -> list[list[str]]:
    return [[*row[:3], f"**{row[3]}**" if row[3] != "met" else row[3]] for row in rows]


def _conditions_text(conditions: Conditions) -> str:
    facts = conditions.machine | conditions.versions
    facts["rounds"] = f"{conditions.rounds}, of {conditions.seconds:g} s each measurement"
    facts["other programs meanwhile"] = f"{conditions.others_cpus:.2f} processors busy"
    if conditions.others_cpus > 0.2:
        facts["other programs meanwhile"] += ": too many for figures to rely on"
    rows = [[name, value] for name, value in facts.items()]
    rows += [[f"left out: {name}", why] for name, why in conditions.absent.items()]
    return table(["", ""], rows)
