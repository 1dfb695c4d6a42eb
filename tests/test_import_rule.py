"""The layer rule: a module imports only from layers below its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "monconn").rglob("*.py"))

# From the bottom to the top. A part is a module or a folder right below monconn, or one of the
# folders below faces; in ops and faces.control, each module is one, and so is net.tls; "monconn" is
# the package's __init__.
LOWEST_ROWS = (
    {"errors", "units", "files", "addresses", "hexlines", "roles", "_version", "_moved"},
    {"clock", "ratelimit", "background", "log", "processes"},
    {"turns", "histogram", "steps", "places"},
    {"unixsocket"},
)
LOWEST = set[str]().union(*LOWEST_ROWS)
CORE = LOWEST | {"model", "policy", "decode", "monitor"}
SIDE_BY_SIDE = {"relay", "sinks", "devices"}  # none imports another
BELOW_OPS = CORE | {"config", "net", "net.tls", *SIDE_BY_SIDE}
# What both ends of a connection need:
ROWS = {
    "ops.columns",
    "ops.rows",
    "ops.filters",
    "ops.filter_keys",
    "ops.text_table",
    "ops.details",
    "ops.sorting",
    "ops.colours",
    "ops.flow_text",
    "ops.explanations",
    "ops.account",
    "ops.explain_text",
    "ops.device_rows",
    "ops.why_rows",
}
OPS = ROWS | {
    "ops.rates",
    "ops.record_keys",
    "ops.selection",
    "ops.reporting",
    "ops.feed",
    "ops.live_queries",
    "ops.history_queries",
    "ops.closing",
    "ops.forget",
    "ops.blocks",
    "ops.taps",
    "ops.payload",
    "ops.captures",
    "ops.triggers",
    "ops.operations",
    "ops.device",
    "ops.presence",
    "ops.replay",
    "ops.why",
    "ops.reload",
    "ops.access",
}
BELOW_FACES = BELOW_OPS | OPS
# They know nothing of the server's side:
CLIENT = {"faces.control.client", "faces.control.instances", "faces.control.place"}
SERVERS = {"faces.control.service", "faces.manhole", "faces.http"}

# What each part may import, beside its own modules.
MAY_IMPORT: dict[str, set[str]] = {
    **{
        each: set[str]().union(*LOWEST_ROWS[: number + 1])
        for number, row in enumerate(LOWEST_ROWS)
        for each in row
    },
    "model": LOWEST,
    "policy": LOWEST | {"model"},
    "decode": LOWEST | {"model"},
    # What a configuration says of TLS is only known to be right once its files are read.
    "net.tls": LOWEST | {"policy"},
    "config": LOWEST | {"model", "policy", "net.tls"},
    "monitor": LOWEST | {"model", "policy", "decode"},
    "net": LOWEST | {"model"},
    # Needs a library that only those have who serve HTTP.
    "net.http": LOWEST | {"net"},
    "wrapping": CORE | {"net", "net.tls"},
    "monconn": CORE | {"wrapping"},
    "testing": CORE | {"net", "wrapping"},
    "relay": CORE | {"net", "net.tls"},
    **dict.fromkeys(SIDE_BY_SIDE - {"relay"}, CORE | {"config", "net", "net.http"}),
    "access": CORE | {"config"},
    "ops": set(),
    "ops.columns": LOWEST,
    "ops.rows": LOWEST | {"ops.columns"},
    "ops.text_table": LOWEST | {"ops.columns"},
    "ops.details": LOWEST | {"ops.columns", "ops.rows", "ops.text_table"},
    "ops.sorting": LOWEST | {"ops.columns"},
    "ops.colours": LOWEST | {"model"},
    "ops.flow_text": LOWEST | {"model", "ops.colours"},
    "ops.device_rows": LOWEST | {"ops.columns", "ops.explanations", "ops.text_table"},
    "ops.why_rows": LOWEST | {"ops.columns", "ops.text_table"},
    "ops.device": BELOW_OPS | ROWS,
    "ops.presence": BELOW_OPS,
    "ops.why": BELOW_OPS | ROWS | {"ops.device"},
    "ops.explanations": LOWEST,
    "ops.account": LOWEST | {"ops.columns", "ops.explanations"},
    "ops.explain_text": LOWEST | {"ops.account", "ops.explanations", "ops.text_table"},
    "ops.filters": LOWEST | {"model", "policy"},
    "ops.filter_keys": LOWEST | {"model", "ops.filters"},
    "ops.rates": LOWEST | {"model"},
    "ops.record_keys": LOWEST | {"model", "ops.rates", "ops.sorting"},
    "ops.feed": CORE | ROWS | {"ops.rates"},
    "ops.selection": CORE | ROWS,
    "ops.reporting": CORE,
    "ops.live_queries": CORE
    | ROWS
    | {"devices", "ops.rates", "ops.record_keys", "ops.selection", "ops.feed"},
    "ops.history_queries": LOWEST | ROWS | {"sinks"},
    "ops.closing": CORE | ROWS | {"ops.live_queries", "ops.reporting", "ops.selection"},
    "ops.forget": CORE | {"devices", "sinks", "ops.captures", "ops.live_queries", "ops.reporting"},
    "ops.blocks": CORE | ROWS,
    "ops.replay": LOWEST | {"model"},
    "ops.reload": LOWEST,
    "ops.access": CORE | {"config", "access", "ops.reporting", "ops.rows"},
    "ops.taps": CORE | ROWS,
    "ops.triggers": BELOW_OPS | ROWS,
    "ops.captures": BELOW_OPS | ROWS | {"ops.reporting", "ops.taps", "ops.triggers"},
    "ops.payload": CORE
    | ROWS
    | {"ops.captures", "ops.live_queries", "ops.reporting", "ops.selection", "ops.taps"},
    "ops.operations": BELOW_OPS
    | ROWS
    | {
        "ops.feed",
        "ops.live_queries",
        "ops.history_queries",
        "ops.selection",
        "ops.reporting",
        "ops.closing",
        "ops.forget",
        "ops.blocks",
        "ops.device",
        "ops.presence",
        "ops.taps",
        "ops.captures",
        "ops.payload",
        "ops.why",
        "ops.reload",
        "ops.access",
    },
    "faces": set(),
    "faces.control": set(),
    "faces.control.place": LOWEST,
    # Each imports the other: to find the one that is meant, all are asked.
    "faces.control.client": LOWEST | {"faces.control.instances"},
    "faces.control.instances": LOWEST | {"faces.control.client", "faces.control.place"},
    "faces.control.commands": LOWEST | {"ops.filters"},
    "faces.control.peers": LOWEST | {"model", "net"},
    "faces.control.pages": LOWEST,
    "faces.control.boxes": LOWEST,
    "faces.control.taps": LOWEST | {"model", "ops.taps", "faces.control.pages"},
    "faces.control.server": BELOW_FACES
    | {f"faces.control.{each}" for each in ("boxes", "commands", "pages", "peers", "taps")},
    "faces.control.service": BELOW_FACES
    | {"faces.control.server", "faces.control.peers", "faces.control.place"},
    "faces.manhole": BELOW_FACES,
    "faces.http": BELOW_FACES | {"net.http", "access"},
    "faces.tui": LOWEST | CLIENT | ROWS,
    "run": BELOW_FACES | SERVERS | {"access", "faces.control.place", "wrapping", "monconn"},
    "faces.cli": BELOW_FACES | SERVERS | CLIENT | {"run", "faces.tui", "wrapping", "monconn"},
}


def part_of(module: str) -> str:
    """The part that a module such as monconn.model.record belongs to."""
    _, *names = module.split(".")
    depth = 2 if names[:1] == ["ops"] else 1
    if names[:2] == ["net", "http"]:
        return "net.http"
    if names[:1] == ["net"] and names[1:] in (["tls"], ["tls_faults"]):
        return "net.tls"
    if names[:1] == ["faces"]:
        depth = 3 if names[1:2] == ["control"] else 2
    return ".".join(names[:depth]) or "monconn"


def name_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def imported(source: str, path: Path) -> Iterator[tuple[int, str]]:
    """The line and the module of each import of monconn's, wherever in the source it is."""
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
    assert part in MAY_IMPORT, f"{path} is new: add what it may import to MAY_IMPORT in {__file__}"
    wrong = [
        f"{path}:{line}: {part} must not import {module}"
        for line, module in imported((ROOT / path).read_text(encoding="utf-8"), path)
        if part_of(module) not in MAY_IMPORT[part] | {part}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_the_command() -> None:
    assert [part for part, others in MAY_IMPORT.items() if "faces.cli" in others] == []


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import monconn", ["monconn"]),
        ("import os, monconn.monitor.monitor as m", ["monconn.monitor.monitor"]),
        ("from monconn import Monitor, units", ["monconn", "monconn.units"]),
        ("from monconn.monitor import monitor", ["monconn.monitor.monitor"]),
        ("from monconn.monitor.monitor import Monitor", ["monconn.monitor.monitor"]),
        (
            "def f():\n    from monconn.run.application import Application",
            ["monconn.run.application"],
        ),
        ("if TYPE_CHECKING:\n    import monconn.cli", ["monconn.cli"]),
        ("from . import registry", ["monconn.monitor.registry"]),
        ("from .registry import Registry", ["monconn.monitor.registry"]),
        ("from .. import units, registry", ["monconn.units", "monconn"]),
        ("from ..faces.cli.main import main", ["monconn.faces.cli.main"]),
        ("import monconnish, twisted.internet", []),
        ("from twisted import monconn", []),
    ],
)
def test_every_way_to_import_is_seen(source: str, modules: list[str]) -> None:
    """As if in monconn/monitor/monitor.py."""
    found = imported(source, Path("monconn/monitor/monitor.py"))
    assert [module for _, module in found] == modules
