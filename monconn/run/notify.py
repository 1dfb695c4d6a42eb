"""The outputs of a configuration: their filters checked, and made."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from monconn.clock import Clock
from monconn.config.config import Config
from monconn.errors import ConfigError, Problem
from monconn.model.record import known_fact_names
from monconn.monitor.registry import Registry
from monconn.ops.filter_keys import EVENT_KEYS
from monconn.ops.filters import Context, FilterError, parse
from monconn.sinks.notify.messages import Matches
from monconn.sinks.notify.service import NotifyService


def make_notify(config: Config, registry: Registry, reactor: Any, clock: Clock) -> NotifyService:
    """The service that notifies of events.

    Another section is put in force by its ``apply_config(config.notify)``.

    :raises ConfigError: a filter is wrong.
    """
    check_notify(config, "notify")
    return NotifyService(
        config.notify, registry, reactor, clock, lambda text: parse_filter(text, registry.names())
    )


def parse_filter(text: str, services: Collection[str]) -> Matches:
    """A filter over events, as a function of an event's JSON.

    :param services: the names of services that exist.
    :raises FilterError: it cannot be understood.
    """
    known: dict[str, Collection[str]] = {"service": services}
    if (facts := known_fact_names()) is not None:
        known["fact"] = facts
    wanted = parse(text, EVENT_KEYS, known=known)
    return lambda event: wanted.matches(event, Context())


def check_notify(config: Config, source: str) -> Config:
    """Check what the configuration's reader cannot: filters.

    :param source: the file's name, for the problems.
    :returns: the configuration.
    :raises ConfigError: with all problems.
    """
    services = [each.name for each in config.services]
    problems: list[Problem] = []
    for index, output in enumerate(config.notify):
        if output.filter is None:
            continue
        try:
            parse_filter(output.filter, services)
        except FilterError as error:
            path, line = f"notify[{index}].filter", output.lines.get("filter")
            problems.append(Problem(source, line, path, str(error)))
    if problems:
        raise ConfigError(problems)
    return config
