"""Modules and names that documented code imported before 0.2 are still there, with a warning."""

from __future__ import annotations

import importlib
import sys

import pytest

import monconn
from monconn._moved import MOVED, RENAMED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_module_has_all_that_the_new_one_has(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{MOVED[old]} now"):
        module = importlib.import_module(old)
    new = importlib.import_module(MOVED[old])
    public = [name for name in vars(new) if not name.startswith("_")]
    assert public
    assert all(getattr(module, name) is getattr(new, name) for name in public)
    assert new.__spec__ is not None
    assert new.__spec__.name == MOVED[old]  # the new module is still itself


@pytest.mark.parametrize(
    ("old_module", "old_name", "new_name"),
    [(module, old, new) for module, names in RENAMED.items() for old, new in names.items()],
)
def test_an_old_name_is_the_new_one(old_module: str, old_name: str, new_name: str) -> None:
    sys.modules.pop(old_module, None)
    with pytest.warns(DeprecationWarning, match=MOVED[old_module]):
        module = importlib.import_module(old_module)
    assert getattr(module, old_name) is getattr(module, new_name)


def test_the_warning_names_the_line_that_imports() -> None:
    sys.modules.pop("monconn.core.clock", None)
    with pytest.warns(DeprecationWarning, match="monconn.clock now") as caught:
        from monconn.core.clock import MonotonicClock  # type: ignore[import-not-found] # noqa: F401
    assert caught[0].filename == __file__


def test_a_module_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("monconn.core.nothing")


def test_bans_is_network_set() -> None:
    with pytest.warns(DeprecationWarning, match="NetworkSet"):
        assert monconn.Bans is monconn.NetworkSet


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        monconn.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["Config", "ServiceConfig", "from_pairs", "load", "parse"])
def test_names_of_the_configuration_are_where_they_were(name: str) -> None:
    package = importlib.import_module("monconn.config")
    with pytest.warns(DeprecationWarning, match=rf"monconn\.config\.config\.{name} now"):
        old = getattr(package, name)
    assert old is getattr(importlib.import_module("monconn.config.config"), name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing
