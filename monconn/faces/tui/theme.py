"""Colours: the themes, and the names under which lines use their colours."""

from __future__ import annotations

from collections.abc import Mapping

from textual.theme import Theme

DARK, LIGHT = "monconn-dark", "monconn-light"
_LOW_COLOURS = ("standard", "windows")
"""Rich's names for terminals of 16 colours, where only their own palette is sure to be readable."""

THEMES = (
    Theme(
        name=DARK,
        primary="#6cb6ff",
        secondary="#8f9bb3",
        accent="#e5b567",
        warning="#e5b567",
        error="#ff7b86",
        success="#7fd88f",
        foreground="#d8dee9",
        background="#0f141b",
        surface="#141a22",
        panel="#1d2530",
        dark=True,
        variables={"border": "#4a6078", "border-blurred": "#2c3846"},
    ),
    Theme(
        name=LIGHT,
        primary="#0b5cad",
        secondary="#56606e",
        accent="#8a4b00",
        warning="#8a4b00",
        error="#b3202c",
        success="#1d7536",
        foreground="#1b2027",
        background="#fbfbfc",
        surface="#f2f4f6",
        panel="#e2e7ed",
        dark=False,
        variables={"border": "#7f92a8", "border-blurred": "#c3ccd6"},
    ),
)

STYLES: Mapping[str, str] = {
    "up": "color: $text-success;",
    "down": "color: $text-primary;",
    "warning": "color: $text-warning;",
    "error": "color: $text-error;",
    "half_closed": "color: $text-primary;",
    "closing": "color: $text-accent;",
    "header": "background: $panel; text-style: bold;",
    "sorted": "background: $panel; color: $text-accent; text-style: bold;",
    "name": "color: $text-primary;",
    "key": "color: $text-accent; text-style: bold;",
    "badge": "background: $primary; color: $background; text-style: bold;",
    "alarm": "background: $error; color: $background; text-style: bold;",
    "filter": "color: $text-accent; text-style: bold;",
    "strong": "text-style: bold;",
    "trend": "color: $secondary;",
    "dim": "text-style: dim;",
    "old": "text-style: dim;",
    "selected": "background: $block-cursor-background; color: $block-cursor-foreground;",
    "failed": "color: $text-error; text-style: bold;",
}
"""By name, the style of a part of a line, in Textual's CSS."""
WITHOUT_COLOURS: Mapping[str, str] = {
    "selected": "reverse",
    "header": "bold underline",
    "sorted": "bold underline",
    "badge": "bold reverse",
    "alarm": "bold reverse",
    "error": "bold",
    "failed": "bold",
    "filter": "bold",
    "strong": "bold",
    "key": "bold",
    "dim": "dim",
    "old": "dim",
}
"""For ``NO_COLOR``: Rich's styles; others have none."""


def first_theme(environment: Mapping[str, str], color_system: str | None) -> str:
    """The theme to begin with.

    :param environment: ``TEXTUAL_THEME`` names a theme. ``COLORFGBG``, which rxvt, Konsole and
        others set, ends with the number of the background's colour.
    :param color_system: Rich's name for the colours that the terminal has.
    """
    if wanted := environment.get("TEXTUAL_THEME"):
        return wanted
    is_light = environment.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")
    if color_system in _LOW_COLOURS:
        return "ansi-light" if is_light else "ansi-dark"
    return LIGHT if is_light else DARK


def next_theme(theme: str) -> str:
    """The theme that a key changes to: dark, light, the terminal's own colours."""
    return {DARK: LIGHT, LIGHT: "ansi-dark"}.get(theme, DARK)
