"""A service's counters, which can be added and subtracted."""

from __future__ import annotations

from collections import Counter

import attrs

from monconn.model.reasons import Refusal


@attrs.define
class Totals:
    """Connections opened, bytes either way, and clients refused, by refusal."""

    opened: int = 0
    up: int = 0
    down: int = 0
    refused: Counter[Refusal] = attrs.field(factory=Counter)
    would_refuse: Counter[Refusal] = attrs.field(factory=Counter)
    """Clients let in that rules in ``dry_run`` would have refused."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.opened + other.opened,
            self.up + other.up,
            self.down + other.down,
            self.refused + other.refused,
            self.would_refuse + other.would_refuse,
        )

    def __sub__(self, other: Totals) -> Totals:
        return Totals(
            self.opened - other.opened,
            self.up - other.up,
            self.down - other.down,
            self.refused - other.refused,
            self.would_refuse - other.would_refuse,
        )
