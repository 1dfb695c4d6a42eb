"""A plot as SVG, written by hand: bars for medians, whiskers for the spread."""

from __future__ import annotations

from html import escape

import attrs

from benchmarks.results import Summary

PANEL_WIDTH, PANELS_A_ROW = 530, 2
LABEL_WIDTH, BAR_WIDTH = 220, 220
BAR_HEIGHT, BAR_STEP = 13, 19
TITLE_HEIGHT, MARGIN = 38, 16
LONGEST = 10
"""A bar longer than so many times the shortest is cut off, or the others could not be seen."""
OURS, THEIRS, INK, FAINT = "#1f6feb", "#9aa4af", "#1f2328", "#57606a"


@attrs.frozen
class Panel:
    """One figure of several contestants."""

    title: str
    bars: list[tuple[str, Summary]]

    @property
    def height(self) -> int:
        return TITLE_HEIGHT + BAR_STEP * len(self.bars) + MARGIN


def draw(panels: list[Panel]) -> str:
    """The SVG text of panels, side by side and one under another."""
    panels = [panel for panel in panels if panel.bars]
    rows = [panels[i : i + PANELS_A_ROW] for i in range(0, len(panels), PANELS_A_ROW)]
    parts, top = [], MARGIN
    for row in rows:
        for column, panel in enumerate(row):
            left = MARGIN + column * PANEL_WIDTH
            parts.append(f'<g transform="translate({left},{top})">{_panel(panel)}</g>')
        top += max(panel.height for panel in row)
    width = PANEL_WIDTH * PANELS_A_ROW + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}"'
        f' viewBox="0 0 {width} {top}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{width}" height="{top}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(panel: Panel) -> str:
    shortest = min(bar.median for _, bar in panel.bars)
    longest = max(bar.highest for _, bar in panel.bars)
    scale = BAR_WIDTH / (min(longest, LONGEST * shortest) or 1)
    parts = [
        f'<text x="0" y="14" font-size="13" font-weight="bold" fill="{INK}">'
        f"{escape(panel.title)}</text>"
    ]
    for number, (title, bar) in enumerate(panel.bars):
        parts.append(_bar(title, bar, scale, TITLE_HEIGHT - 12 + number * BAR_STEP))
    return "\n".join(parts)


def _bar(title: str, bar: Summary, scale: float, y: int) -> str:
    length = min(bar.median * scale, BAR_WIDTH)
    cut = bar.median * scale > BAR_WIDTH
    low, high = (min(value * scale, BAR_WIDTH) for value in (bar.lowest, bar.highest))
    middle = y + BAR_HEIGHT / 2
    colour = OURS if title.startswith("monconn") else THEIRS
    text = f"{number_text(bar.median)}{' (cut off)' if cut else ''}"
    parts = [
        f'<text x="{LABEL_WIDTH - 8}" y="{y + 10}" text-anchor="end" fill="{INK}">'
        f"{escape(title)}</text>",
        f'<rect x="{LABEL_WIDTH}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}"'
        f' fill="{colour}"/>',
        f'<text x="{LABEL_WIDTH + max(length, high) + 6:.1f}" y="{y + 10}" fill="{FAINT}">'
        f"{text}</text>",
    ]
    if high > low and not cut:
        ends = f"M{LABEL_WIDTH + low:.1f} {middle}H{LABEL_WIDTH + high:.1f}"
        parts.append(f'<path d="{ends}" stroke="{INK}" stroke-width="1.2"/>')
    return "".join(parts)


def number_text(value: float) -> str:
    """Three digits that matter, and no exponent."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"
