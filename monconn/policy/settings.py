"""Frozen classes that validate their own values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import attrs

from monconn.errors import SettingError, SettingTypeError
from monconn.policy.kinds import Kind

_MOST_CHARACTERS = 80


FORWARDING_ONLY = {"forwarding_only": True}
"""Metadata of a setting that means nothing to a wrapped factory: no endpoint string has it."""


def validated(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """A field transformer of ``attrs.frozen``: validate each field that has a kind.

    A field whose type is another attrs class must be an instance of that. Metadata of a field:
    ``FORWARDING_ONLY``.

    :returns: fields whose converters raise :class:`~monconn.errors.SettingError`.
    """
    hints = get_type_hints(cls, include_extras=True)
    checked = []
    for field in fields:
        hint = hints[field.name]
        if kind := kind_of(hint):
            field = field.evolve(
                converter=_converter(cls, field.name, kind.check),
                metadata={**field.metadata, "kind": kind},
            )
        elif attrs.has(hint):
            field = field.evolve(converter=_converter(cls, field.name, _instance_of(hint)))
        checked.append(field)
    return checked


def kind_of(hint: Any) -> Kind | None:
    """The kind of a type such as ``Annotated[float, SECONDS]``; None if it has none."""
    for each in getattr(hint, "__metadata__", ()):
        if isinstance(each, Kind):
            return each
    return None


def key_of(field: attrs.Attribute[Any]) -> str:
    """The name of a field in configurations: one that is a keyword of Python's, such as ``for``,
    has an underscore after it in Python code (PEP 8)."""
    return field.name.removesuffix("_")


def _instance_of(cls: type) -> Callable[[Any], Any]:
    def check(value: object) -> object:
        if not isinstance(value, cls):
            raise TypeError(f"must be {cls.__name__}(...)")
        return value

    return check


def _converter(cls: type, name: str, check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        try:
            return check(value)
        except (TypeError, ValueError) as error:
            error_class = SettingTypeError if isinstance(error, TypeError) else SettingError
            text = f"{cls.__name__}({name}={_shortened(repr(value))}): {error}"
            raise error_class(text) from None

    return convert


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


@attrs.frozen
class Setting:
    """One setting of a class, or of one of the classes in its fields."""

    key: str
    """Its name in configurations."""
    path: tuple[str, ...]
    """The attributes that lead to it."""
    kind: Kind
    default: Any
    forwarding_only: bool


def settings_of(cls: type, path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every setting of a class and of the classes in its fields, in their order."""
    for field in attrs.fields(cls):
        here = (*path, field.name)
        if kind := field.metadata.get("kind"):
            yield Setting(
                key_of(field),
                here,
                kind,
                field.default,
                field.metadata.get("forwarding_only", False),
            )
        elif field.init:
            yield from settings_of(type(field.default), here)
