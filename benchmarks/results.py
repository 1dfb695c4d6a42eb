"""What was measured, and the arithmetic on it: medians, spreads, ratios within a round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

import attrs

Values = Mapping[int, float]
"""One figure per round."""


@attrs.frozen
class Sample:
    """The figures of one contestant under one load in one round."""

    round: int
    contestant: str
    load: str
    figures: Mapping[str, float]


@attrs.frozen
class Summary:
    """Of some rounds' figures."""

    median: float
    lowest: float
    highest: float


@attrs.define
class Results:
    """All samples of a run, and what went wrong."""

    samples: list[Sample] = attrs.field(factory=list)
    failures: list[str] = attrs.field(factory=list)
    """Runs that failed and so count for nothing."""

    def values(self, contestant: str, load: str, metric: str) -> dict[int, float]:
        """A figure by round; empty if it was not measured."""
        return {
            sample.round: sample.figures[metric]
            for sample in self.samples
            if (sample.contestant, sample.load) == (contestant, load) and metric in sample.figures
        }

    def summary(self, contestant: str, load: str, metric: str) -> Summary | None:
        return summary(self.values(contestant, load, metric).values())

    def contestants(self, load: str) -> list[str]:
        """The contestants that have figures for a load."""
        return list(dict.fromkeys(s.contestant for s in self.samples if s.load == load))

    def best(self, family: str, load: str, metric: str) -> str:
        """Of the settings that one forwarder was given, those with the lowest median."""
        found = {
            name: self.summary(name, load, metric)
            for name in self.contestants(load)
            if name == family or name.startswith(f"{family}-")
        }
        measured = {name: each.median for name, each in found.items() if each}
        return min(measured, key=measured.__getitem__, default=family)


def summary(values: Iterable[float]) -> Summary | None:
    """Median and range; None of nothing."""
    values = list(values)
    if not values:
        return None
    return Summary(statistics.median(values), min(values), max(values))


def ratio(values: Values, others: Values) -> dict[int, float]:
    """Round by round, where both were measured: what disturbs one round disturbs both."""
    return {
        number: value / others[number]
        for number, value in values.items()
        if others.get(number, 0) > 0
    }


def difference(values: Values, others: Values) -> dict[int, float]:
    """Round by round, where both were measured."""
    return {number: value - others[number] for number, value in values.items() if number in others}


def highest(many: Iterable[Values]) -> dict[int, float]:
    """The highest figure of each round."""
    found: dict[int, float] = {}
    for values in many:
        for number, value in values.items():
            found[number] = max(value, found.get(number, value))
    return found
