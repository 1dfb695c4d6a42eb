"""Tests, in folders that mirror the package."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
"""The checkout."""


def running_reactor() -> Any:
    """The reactor of the tests; the type that Twisted gives it lacks interfaces that it has."""
    from twisted.internet import reactor

    return reactor
