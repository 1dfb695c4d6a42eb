"""How many examples a property test tries: more of them in ``make full``."""

from __future__ import annotations

from hypothesis import settings

ORDINARY_EXAMPLES = 100
"""Hypothesis' own default."""

LONG_FACTOR = 20


def examples(count: int) -> int:
    """For ``max_examples``: ``count``, times 20 under ``--hypothesis-profile=long``."""
    return count * settings().max_examples // ORDINARY_EXAMPLES
