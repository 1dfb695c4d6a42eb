"""Configuration files and command-line pairs, parsed into frozen classes."""

from __future__ import annotations

import warnings
from typing import Any

_MOVED = frozenset({"Config", "ServiceConfig", "from_pairs", "load", "parse"})


def __getattr__(name: str) -> Any:
    """Names that were here before 0.2, when this was a module; until 1.0."""
    if name not in _MOVED:
        raise AttributeError(f"module 'monconn.config' has no attribute {name!r}")
    from monconn.config import config

    warnings.warn(
        f"monconn.config.{name} is monconn.config.config.{name} now; the old name goes in"
        " monconn 1.0",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(config, name)
