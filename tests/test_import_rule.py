"""Who may import whom: what is below knows nothing of what is above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "monconn").rglob("*.py"))

# From the bottom to the top. A part is a module or a folder right below monconn; in control,
# each module is one; "monconn" is the package's own __init__.
LOWEST = {"errors", "addresses", "units", "_version"}
CONFIG = LOWEST | {"yamlmap", "fields", "sections", "config"}
CORE = LOWEST | {"admission", "core"}
SIDE_BY_SIDE = {"forward", "observers", "telemetry", "history"}  # none imports another
BELOW_SERVER = CORE | CONFIG | SIDE_BY_SIDE | {"control.place", "control.commands"}
BELOW_APP = BELOW_SERVER | {"control.service", "manhole", "signals"}
BELOW_ENTRIES = BELOW_APP | {"app", "monconn"}
BELOW_CLI = BELOW_ENTRIES | {"plugin", "endpoints", "control", "control.client", "tui"}

# What each part may import, beside its own modules.
MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(LOWEST, LOWEST),
    **dict.fromkeys(CONFIG - LOWEST, CONFIG),
    "admission": LOWEST,
    "core": LOWEST | {"admission"},
    "monconn": CORE,
    **dict.fromkeys(SIDE_BY_SIDE, CORE | CONFIG),
    "manhole": CORE | CONFIG | {"forward"},
    "testing": {"core"},
    "signals": LOWEST,
    # The client's side of the wire knows nothing of the server's.
    "control": set(),
    "control.place": LOWEST,
    "control.commands": LOWEST,
    "control.client": LOWEST | {"control.place"},
    "control.peers": LOWEST,
    "control.feed": CORE,
    "control.service": BELOW_SERVER | {"control.server"},
    "control.session": CORE | {"control.commands", "control.peers"},
    "control.lists": BELOW_SERVER | {"control.session"},
    "tui": LOWEST | {"control.client"},
    "control.server": BELOW_SERVER | {"control.feed", "control.lists", "control.session"},
    "app": BELOW_APP,
    "plugin": BELOW_ENTRIES,
    "endpoints": BELOW_ENTRIES,
    "cli": BELOW_CLI,
}


def part_of(module: str) -> str:
    """The part that a module such as monconn.core.record belongs to."""
    _, *names = module.split(".")
    return ".".join(names[: 2 if names[:1] == ["control"] else 1]) or "monconn"


def name_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def imported(source: str, path: Path) -> Iterator[tuple[int, str]]:
    """The line and the module of each import of ours, wherever in the source it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folder = path.parts[: len(path.parts) - node.level] if node.level else ()
            origin = ".".join([*folder, *filter(None, [node.module])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
            modules = [name if is_module(name) else origin for name in names]
        else:
            continue
        for module in modules:
            if module.split(".")[0] == "monconn":
                yield node.lineno, module


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_only_what_is_below(path: Path) -> None:
    part = part_of(name_of(path))
    assert part in MAY_IMPORT, f"{path} is new: say in MAY_IMPORT of {__file__} whom it may import"
    wrong = [
        f"{path}:{line}: {part} must not import {module}"
        for line, module in imported((ROOT / path).read_text(encoding="utf-8"), path)
        if part_of(module) not in MAY_IMPORT[part] | {part}
    ]
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_the_command() -> None:
    assert [part for part, others in MAY_IMPORT.items() if "cli" in others] == []


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import monconn", ["monconn"]),
        ("import os, monconn.core.monitor as m", ["monconn.core.monitor"]),
        ("from monconn import Monitor, units", ["monconn", "monconn.units"]),
        ("from monconn.core import monitor", ["monconn.core.monitor"]),
        ("from monconn.core.monitor import Monitor", ["monconn.core.monitor"]),
        ("def f():\n    from monconn.app import App", ["monconn.app"]),
        ("if TYPE_CHECKING:\n    import monconn.cli", ["monconn.cli"]),
        ("from . import record", ["monconn.core.record"]),
        ("from .record import REASONS", ["monconn.core.record"]),
        ("from .. import units, registry", ["monconn.units", "monconn"]),
        ("from ..cli.main import main", ["monconn.cli.main"]),
        ("import monconnish, twisted.internet", []),
        ("from twisted import monconn", []),
    ],
)
def test_every_way_to_import_is_seen(source: str, modules: list[str]) -> None:
    """As it would stand in monconn/core/monitor.py."""
    found = imported(source, Path("monconn/core/monitor.py"))
    assert [module for _, module in found] == modules
