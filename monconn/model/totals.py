"""A service's counters, which can be added and subtracted."""

from __future__ import annotations

from collections import Counter

import attrs

from monconn.model.reasons import Reason, Refusal


@attrs.define
class Totals:
    """Connections opened, bytes either way, clients refused, by refusal, and ends, by reason."""

    opened: int = 0
    up: int = 0
    down: int = 0
    refused: Counter[Refusal] = attrs.field(factory=Counter)
    would_refuse: Counter[Refusal] = attrs.field(factory=Counter)
    """Clients let in that rules in ``dry_run`` would have refused."""
    closed: Counter[Reason] = attrs.field(factory=Counter)
    """Connections that are over. In a history of an earlier version they were not counted."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.opened + other.opened,
            self.up + other.up,
            self.down + other.down,
            self.refused + other.refused,
            self.would_refuse + other.would_refuse,
            self.closed + other.closed,
        )

    def __sub__(self, other: Totals) -> Totals:
        return Totals(
            self.opened - other.opened,
            self.up - other.up,
            self.down - other.down,
            self.refused - other.refused,
            self.would_refuse - other.would_refuse,
            self.closed - other.closed,
        )
