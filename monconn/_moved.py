"""Old module names: still importable, with a deprecation warning.

Modules that documented code imported under another name before 0.2. Each stays importable until
1.0; the table below is the whole list.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED: dict[str, str] = {
    "monconn.app": "monconn.run.application",
    "monconn.cli.run": "monconn.faces.cli.run",
    "monconn.control.client": "monconn.faces.control.client",
    "monconn.control.commands": "monconn.faces.control.commands",
    "monconn.control.service": "monconn.faces.control.service",
    "monconn.core.clock": "monconn.clock",
    "monconn.core.interfaces": "monconn.monitor.interfaces",
    "monconn.core.offload": "monconn.background",
    "monconn.core.registry": "monconn.monitor.registry",
    "monconn.endpoints": "monconn.run.endpoints",
    "monconn.history.query": "monconn.sinks.history.query",
    "monconn.manhole.service": "monconn.faces.manhole.service",
    "monconn.observers.closelog": "monconn.sinks.closelog",
    "monconn.observers.hexdump": "monconn.sinks.hexdump",
    "monconn.plugin": "monconn.run.plugin",
    "monconn.sections": "monconn.config.sections",
}
"""The new name of each module, by its old name."""

RENAMED: dict[str, dict[str, str]] = {
    "monconn.control.commands": {"NotKept": "NotConfigured"},
    "monconn.app": {"App": "Application"},
    "monconn.core.offload": {"Offload": "BackgroundQueue"},
    "monconn.history.query": {"Past": "HistoryFilter"},
}
"""Names inside those modules that were renamed: old to new, by old module."""

_PACKAGES = {name.rpartition(".")[0] for name in MOVED} - {"monconn"}


class _MovedModules:
    """Finds a module under its old name, and fills it from the new one.

    A finder and a loader (importlib.abc) without those as base classes: every start would import
    them, which takes longer than all that is here.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in _PACKAGES or name in MOVED:
            return ModuleSpec(name, self, is_package=name in _PACKAGES)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        """Have an ordinary module made."""

    def exec_module(self, module: ModuleType) -> None:
        new_name = MOVED.get(module.__name__)
        if new_name is None:  # a package that holds moved modules only
            return
        # The importer's frame is beneath those of importlib, which warnings leaves out.
        warnings.warn(
            f"{module.__name__} is {new_name} now; the old name goes in monconn 1.0",
            DeprecationWarning,
            stacklevel=2,
        )
        new = importlib.import_module(new_name)
        public = {key: value for key, value in vars(new).items() if not key.startswith("__")}
        vars(module).update(public)
        for old, renamed in RENAMED.get(module.__name__, {}).items():
            setattr(module, old, getattr(new, renamed))


def install() -> None:
    """Make the old names importable."""
    # Last, so that a module that is really there is always the one that is found.
    sys.meta_path.append(_MovedModules())
