"""Calls that are made when something happens, each of which can be cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, ParamSpec

P = ParamSpec("P")

Cancel = Callable[[], None]
"""Ends a subscription; harmless the second time."""


class Subscriptions(Generic[P]):
    """The calls that are made when one kind of thing happens."""

    def __init__(self) -> None:
        self._by_token: dict[object, Callable[P, object]] = {}
        self.calls: tuple[Callable[P, object], ...] = ()
        """Replaced and never changed, so that it may be iterated while calls come and go."""

    def add(self, call: Callable[P, object]) -> Cancel:
        """Make this call, too, from now on.

        :returns: cancels it.
        """
        token = object()  # the same call may be subscribed twice
        self._by_token[token] = call
        self.calls = tuple(self._by_token.values())

        def cancel() -> None:
            if self._by_token.pop(token, None) is not None:
                self.calls = tuple(self._by_token.values())

        return cancel

    def notify(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Make the calls."""
        for call in self.calls:
            call(*args, **kwargs)

    def __len__(self) -> int:
        return len(self.calls)
