from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.logged import logged_lines


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The lines that the manhole has logged."""
    with logged_lines("monconn.manhole") as lines:
        yield lines
