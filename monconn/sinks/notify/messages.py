"""What is sent: one event, or a summary of many, as JSON and as text."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

from monconn.errors import printable
from monconn.model.actions import Action
from monconn.model.alarms import Alarm
from monconn.model.record import ConnectionRecord, iso_time

VERSION = 1
"""Of the JSON. Fields may be added to a version; what means something else is another one."""
MOST_BYTES = 64 * 1024
"""The longest message: of an event that is longer, its facts are left out, and then all else."""
_MOST_TEXT = 2_000
_MOST_KINDS = 20

Subject = Alarm | Action | ConnectionRecord
ConnectionEvent = Literal["opened", "refused", "closed"]


@attrs.frozen
class Message:
    """One delivery; the same object however often it is tried."""

    kind: str
    """One of :data:`monconn.config.notify.NOTIFY_ON`, ``summary`` or ``test``."""
    is_good: bool
    """Whether it says that something is over."""
    text: str
    """One line for people."""
    service: str
    """Empty if it concerns none, or several."""
    id: str
    """Of this delivery; a receiver that has seen it already has lost only our knowledge of it."""
    body: bytes
    """The JSON."""

    @property
    def title(self) -> str:
        """For a mail's subject."""
        where = f" at {printable(self.service)}" if self.service else ""
        return f"monconn: {self.kind}{where}"


def make_message(
    kind: str,
    text: str,
    event: Mapping[str, Any],
    *,
    service: str = "",
    is_good: bool = False,
) -> Message:
    """A message about an event.

    :param event: its own fields, as the JSON log has them.
    """
    text = printable(text)[:_MOST_TEXT]
    values = {
        "version": VERSION,
        "id": str(uuid.uuid4()),
        "kind": kind,
        "host": socket.gethostname(),
        "text": text,
        "event": dict(event),
    }
    body = _encode(values)
    if len(body) > MOST_BYTES:
        values["event"] = {**event, "facts": {}, "truncated": True}
        body = _encode(values)
    if len(body) > MOST_BYTES:
        short = {key: event[key] for key in ("event", "at", "service") if key in event}
        values["event"] = {**short, "truncated": True}
        body = _encode(values)
    return Message(kind, is_good, text, service, str(values["id"]), body)


def _encode(values: Mapping[str, Any]) -> bytes:
    # ASCII: halves of surrogate pairs, which a peer's bytes may have become, are escaped as well.
    return json.dumps(values, separators=(",", ":"), default=str).encode()


class Event:
    """An event that may be notified; what it costs to show it is paid once, and if needed.

    :param kinds: by which an output may want it: of an alarm ``alarm`` and its own, for example.
    :param now: monotonic seconds.
    """

    def __init__(self, kinds: tuple[str, ...], subject: Subject, now: float) -> None:
        self.kinds = kinds
        self.subject = subject
        self._now = now
        self._json: dict[str, Any] | None = None
        self._text: str | None = None

    @property
    def kind(self) -> str:
        """The most special of its kinds."""
        return self.kinds[-1]

    @property
    def is_of_connection(self) -> bool:
        """Whether there may be one for each connection."""
        return isinstance(self.subject, ConnectionRecord)

    @property
    def word(self) -> str:
        """What it is counted as in a summary."""
        subject = self.subject
        if isinstance(subject, ConnectionRecord):
            return f"{self.kind} {subject.refusal or subject.reason or ''}".rstrip()
        is_over = isinstance(subject, Alarm) and subject.is_over and self.kind != "backend_up"
        return f"{self.kind} over" if is_over else self.kind

    def to_json(self) -> dict[str, Any]:
        """Its own fields, as the JSON log has them."""
        if self._json is None:
            self._json = self._make_json()
        return self._json

    def _make_json(self) -> dict[str, Any]:
        subject = self.subject
        if isinstance(subject, Alarm):
            return {"event": "alarm", **subject.snapshot()}
        if isinstance(subject, Action):
            return {"event": "action", **subject.to_dict()}
        values = subject.snapshot(self._now)
        at = values["opened_at"] if self.kind == "opened" else values["closed_at"]
        return {"event": self.kind, "at": at, **values}

    def to_message(self) -> Message:
        """The message for one output."""
        subject = self.subject
        service = subject.service or ""
        if isinstance(subject, Action):  # whose text says where
            text = subject.describe()
        elif isinstance(subject, Alarm):
            text = f"{service}: {subject.describe()}"
        else:
            text = f"{service}: {subject.describe(self._now)}"
        is_good = isinstance(subject, Alarm) and subject.is_over
        return make_message(self.kind, text, self.to_json(), service=service, is_good=is_good)


def event_of_alarm(alarm: Alarm, now: float) -> Event:
    """The event of an alarm."""
    is_up = alarm.kind == "backend_down" and alarm.is_over
    return Event(("alarm", "backend_up" if is_up else alarm.kind), alarm, now)


_BLOCKING = {"block": "blocked", "unblock": "unblocked", "block_ended": "unblocked"}


def event_of_action(action: Action, now: float) -> Event:
    """The event of an action."""
    kind = _BLOCKING.get(action.kind) if action.changed else None
    return Event(("action",) if kind is None else ("action", kind), action, now)


def summary(counts: Counter[str], since: float) -> Message:
    """A message that stands for many.

    :param counts: how many events of which kind were left out.
    :param since: when the first of them happened; wall clock.
    """
    count = sum(counts.values())
    listed = counts.most_common(_MOST_KINDS)
    if (others := count - sum(many for _, many in listed)) > 0:
        listed.append(("others", others))
    text = f"and {count:,} more: {', '.join(f'{many:,} {word}' for word, many in listed)}"
    event = {
        "event": "summary",
        "at": iso_time(time.time()),
        "since": iso_time(since),
        "count": count,
        "counts": dict(listed),
    }
    return make_message("summary", text, event)


def test_message(number: int) -> Message:
    """What a test sends."""
    event = {"event": "test", "at": iso_time(time.time()), "output": number}
    return make_message("test", f"a test of output {number}: it works", event)


Matches = Callable[[Mapping[str, Any]], bool]
"""Tells whether an event's JSON passes a filter."""
