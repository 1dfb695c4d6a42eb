"""How many examples a property test tries: more of them in ``make full``."""

from __future__ import annotations

from hypothesis import settings

ORDINARY_EXAMPLES = 100
"""Hypothesis' own default."""

LONG_FACTOR = 20


def examples(count: int, in_full: int | None = None) -> int:
    """For ``max_examples``: ``count``, times 20 under ``--hypothesis-profile=long``.

    :param in_full: how many there are under that profile, if it is not 20 times as many.
    """
    if in_full is not None and settings().max_examples > ORDINARY_EXAMPLES:
        return in_full
    return count * settings().max_examples // ORDINARY_EXAMPLES
