"""The line in the log, and the event for observers, of each action."""

from __future__ import annotations

import time
from collections.abc import Sequence

from monconn.model.actions import Action, ActionKind, Actor
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry

_MAX_TARGET_CHARACTERS = 500


class Reporter:
    """Reports actions, each once, however many services it concerned.

    :param registry: the monitors.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(
        self,
        kind: ActionKind,
        actor: Actor,
        monitors: Sequence[Monitor],
        service: str | None,
        target: str = "",
        count: int = 0,
        changed: bool = True,
        detail: str = "",
    ) -> None:
        """Write the one log line and the one event of an action.

        :param monitors: those concerned; all if it concerns none yet, as a tap of services to come.
        """
        monitors = monitors or list(self._registry)
        if len(target) > _MAX_TARGET_CHARACTERS:
            target = target[: _MAX_TARGET_CHARACTERS - 1] + "…"
        if monitors:
            first, *others = monitors
            action = Action(kind, actor, time.time(), service, target, count, changed, detail)
            first.report(action, others)
