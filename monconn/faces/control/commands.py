"""The commands of the control port: the wire contract, as AMP commands.

AMP (``twisted.protocols.amp``): a box is a sequence of keys and values, each after its length in
two bytes, and ends with an empty key. Whatever has a form of its own travels as JSON in UTF-8, so
that a client needs no more than boxes and JSON. ``docs/control.md`` says it for other languages.

A list comes in pages, as a value holds 65,535 bytes at most: while an answer has a ``next``,
:class:`NextPage` with it brings more.
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

from twisted.protocols import amp

from monconn.errors import (
    AddressError,
    FileError,
    Forbidden,
    MonconnError,
    NotConfigured,
    QuestionError,
    ReloadError,
    UnknownCapture,
    UnknownConnection,
    UnknownDevice,
    UnknownService,
)
from monconn.ops.filters import FilterError
from monconn.roles import Role

VERSION = 1
_MAX_CHARACTERS = 20  # of an integer: all of 64 bits, with a sign


class Denied(MonconnError):
    """The caller may not."""


class BadRequest(MonconnError):
    """An argument that cannot be understood."""


class UnknownPage(MonconnError):
    """There is no such page, or no more: another list was requested since."""


_ERRORS: dict[type[Exception], bytes] = {
    Denied: b"DENIED",
    Forbidden: b"DENIED",
    BadRequest: b"BAD_REQUEST",
    AddressError: b"BAD_REQUEST",
    QuestionError: b"BAD_REQUEST",
    UnknownConnection: b"UNKNOWN_CONNECTION",
    UnknownService: b"UNKNOWN_SERVICE",
    UnknownDevice: b"UNKNOWN_DEVICE",
    UnknownCapture: b"UNKNOWN_CAPTURE",
    UnknownPage: b"UNKNOWN_PAGE",
    NotConfigured: b"NOT_KEPT",
    FilterError: b"BAD_FILTER",
    FileError: b"CANNOT_READ",
    ReloadError: b"NOT_RELOADED",
}


class Integer(amp.Integer):
    """A whole number of no more digits than are needed: converting 60,000 takes milliseconds."""

    def fromString(self, inString: bytes) -> int:  # type: ignore[override]
        """Parse a number; AMP calls it."""
        if len(inString) > _MAX_CHARACTERS:
            raise ValueError("too many digits")
        return int(inString)


class Number(amp.Float):
    """A finite number: nothing is older than an infinite or an undefined time."""

    def fromString(self, inString: bytes) -> float:  # type: ignore[override]
        """Parse a number; AMP calls it."""
        number = float(inString)
        if not math.isfinite(number):
            raise ValueError("not finite")
        return number


_SERVICE = (b"service", amp.Unicode(optional=True))  # all of them, if left out
# Terms of the filter language in one line, split as a shell does. docs/filters.md is its reference.
_FILTER = (b"filter", amp.Unicode(optional=True))
_DRY_RUN = (b"dry_run", amp.Boolean(optional=True))  # only answer what would be done
_SPREAD = (b"spread", Number(optional=True))  # seconds over which connections are ended evenly
_NOTHING: list[tuple[bytes, amp.Argument]] = []
_ROWS = [
    (b"rows", amp.String()),  # a JSON array of objects
    (b"next", Integer(optional=True)),
]


class _Command(amp.Command):
    errors = _ERRORS
    role: ClassVar[Role]
    """What a client must be allowed that sends it: to look at what is known (``view``); or all
    (``operate``), which includes whatever changes something, and bytes of connections."""

    @classmethod
    def parseArguments(cls, box: Any, protocol: Any) -> dict[str, Any]:
        """Parse a request; a bad argument is answered with an error, and AMP would disconnect."""
        try:
            parsed: dict[str, Any] = super().parseArguments(box, protocol)
        except Exception:
            problem = f"{cls.__name__}: an argument is missing or cannot be understood"
            raise amp.RemoteAmpError(b"BAD_REQUEST", problem) from None
        return parsed


class Hello(_Command):
    """Must be sent first; answered with the version that is spoken from then on."""

    role = "view"
    arguments = [(b"version", Integer())]
    response = [
        (b"version", Integer()),
        (b"server", amp.Unicode()),
        (b"pid", Integer()),
        (b"manhole", amp.Unicode(optional=True)),  # where it is, if there is one
        # A server without it ignores both arguments: it would list everything, and act for real.
        (b"filters", amp.Boolean(optional=True)),  # whether filter and dry_run are understood
        # Whether every column's name is understood as sort, which ListHistory had not at all.
        (b"sorts", amp.Boolean(optional=True)),
        (b"taps", amp.Boolean(optional=True)),  # whether there is Tap
        (b"captures", amp.Boolean(optional=True)),  # whether there is CaptureStart
        (b"outputs", amp.Boolean(optional=True)),  # whether there are ListOutputs and NotifyTest
        (b"recordings", amp.Boolean(optional=True)),  # whether there is ReadRecording
        (b"why", amp.Boolean(optional=True)),  # whether there is Why
        (b"blocks", amp.Boolean(optional=True)),  # whether Block knows for_seconds and the like
        (b"pauses", amp.Boolean(optional=True)),  # whether there is Pause, and spread is understood
        (b"web", amp.Boolean(optional=True)),  # whether there is WebLink
        (b"role", amp.Unicode(optional=True)),  # view or operate; operate, if left out
        (b"served", amp.Unicode(optional=True)),  # the same at all addresses of one control port
    ]


class ListServices(_Command):
    """Each service's figures, but for its ``ips``."""

    role = "view"
    arguments = [_SERVICE]
    response = _ROWS


class ListConnections(_Command):
    """Live connections, or those that were closed last."""

    role = "view"
    arguments = [
        _SERVICE,
        (b"client", amp.Unicode(optional=True)),  # an IP or a network
        (b"state", amp.Unicode(optional=True)),
        (b"idle_over", Number(optional=True)),  # seconds
        (b"text", amp.Unicode(optional=True)),  # in client, service, state, backend or reason
        (b"sort", amp.Unicode(optional=True)),  # a column's name; -NAME for the other way round
        (b"offset", Integer(optional=True)),
        (b"limit", Integer(optional=True)),
        (b"closed", amp.Boolean(optional=True)),
        _FILTER,
    ]
    response = [*_ROWS, (b"total", Integer())]  # how many there are without a limit


class ListIps(_Command):
    """The IPs that have live connections; an array of strings."""

    role = "view"
    arguments = [(b"service", amp.Unicode()), _FILTER]
    response = _ROWS


class ListClients(_Command):
    """The totals of each client IP, for the IPs seen last."""

    role = "view"
    arguments = [_SERVICE, _FILTER]
    response = _ROWS


class ListDevices(_Command):
    """Each device that was seen: how often it connects, how often it sends, and its alarms."""

    role = "view"
    arguments = [_SERVICE, _FILTER]
    response = _ROWS


class ListHistory(_Command):
    """Connections that are over, or events, from the history; the latest first."""

    role = "view"
    arguments = [
        _SERVICE,
        (b"client", amp.Unicode(optional=True)),  # an IP or a network
        (b"since", Number(optional=True)),  # seconds of the wall clock, as is:
        (b"until", Number(optional=True)),
        (b"reason", amp.Unicode(optional=True)),  # of an event: the refusal, or the alarm
        (b"limit", Integer(optional=True)),
        (b"events", amp.Boolean(optional=True)),  # these instead of connections
        (b"sort", amp.Unicode(optional=True)),  # a column's name; -NAME for the other way round
        _FILTER,
    ]
    response = _ROWS


class Report(_Command):
    """A period summed up from the history."""

    role = "view"
    arguments = [
        _SERVICE,
        (b"client", amp.Unicode(optional=True)),
        (b"since", Number(optional=True)),
        (b"until", Number(optional=True)),
    ]
    response = [(b"report", amp.String())]  # a JSON object


class ListBlocks(_Command):
    """The blocked networks: a row for each network and place, be it one service or all."""

    role = "view"
    arguments = [_SERVICE, _FILTER]
    response = _ROWS


class NextPage(_Command):
    """More of the list that was requested last on this connection."""

    role = "view"
    arguments = [(b"next", Integer())]
    response = _ROWS


class ShowConnection(_Command):
    """One connection, live or closed lately, whole: with its ``diagnosis``, and what TCP knows."""

    role = "view"
    arguments = [
        (b"id", Integer()),
        # Goes before the id, which is there for servers that know no uids: their answer has none.
        (b"uid", amp.Unicode(optional=True)),
    ]
    response = [(b"connection", amp.String())]  # a JSON object


class ShowDevice(_Command):
    """One device: who it is, what is usual for it, its alarms; and its timeline, newest first."""

    role = "view"
    arguments = [
        (b"device", amp.Unicode()),  # its name, an IP, or a fact about a connection of it
        _SERVICE,
        (b"since", Number(optional=True)),  # seconds of the wall clock; a week ago if left out
        (b"limit", Integer(optional=True)),
    ]
    response = [(b"device", amp.String()), *_ROWS]  # a JSON object, and the timeline


class Why(_Command):
    """What would happen to a client now at each service, by which rule, and what it has used up."""

    role = "view"
    arguments = [
        (b"client", amp.Unicode()),  # an IP; or an id or uid of a connection, or a device's name
        _SERVICE,
    ]
    response = _ROWS


class CloseConnections(_Command):
    """End connections: those for which all that is given is true; something must be given."""

    role = "operate"
    arguments = [
        (b"ids", amp.String(optional=True)),  # a JSON array of integers
        (b"client", amp.Unicode(optional=True)),
        _SERVICE,
        (b"reset", amp.Boolean(optional=True)),  # else what is held is delivered first
        _FILTER,
        _DRY_RUN,
        _SPREAD,
    ]
    response = [
        (b"closed", Integer()),
        (b"unknown", amp.String()),  # a JSON array of the ids that no live connection has
        (b"rows", amp.String(optional=True)),  # of a dry run: the connections, in pages
        (b"next", Integer(optional=True)),
    ]


class Block(_Command):
    """Refuse the clients of an IP or a network, and end those that are connected."""

    role = "operate"
    arguments = [
        (b"network", amp.Unicode()),
        _SERVICE,
        _DRY_RUN,
        # A server without ``blocks`` in its Hello ignores these: it would block for ever.
        (b"for_seconds", Number(optional=True)),  # after which it ends
        (b"reason", amp.Unicode(optional=True)),
        (b"keep_open", amp.Boolean(optional=True)),  # leave those that are connected alone
    ]
    response = [
        (b"changed", amp.Boolean()),
        (b"closed", Integer(optional=True)),
        (b"updated", amp.Boolean(optional=True)),  # it was blocked, until another time or so
        (b"until", amp.Unicode(optional=True)),  # ISO 8601; none if it has no end
        (b"kept", amp.Boolean(optional=True)),  # whether it outlasts the program
    ]


class Unblock(_Command):
    """Admit the clients of exactly this IP or network again."""

    role = "operate"
    arguments = [(b"network", amp.Unicode()), _SERVICE, _DRY_RUN]
    response = [
        (b"changed", amp.Boolean()),
        (b"still_blocked_by", amp.Unicode(optional=True)),  # a wider network
    ]


class ResetStats(_Command):
    """Set the totals to zero."""

    role = "operate"
    arguments = [_SERVICE, _DRY_RUN]
    response = _NOTHING


class SubtractStats(_Command):
    """Subtract bytes from a service's totals, once they are stored elsewhere."""

    role = "operate"
    arguments = [
        (b"service", amp.Unicode()),
        (b"up", Integer()),
        (b"down", Integer()),
        _DRY_RUN,
    ]
    response = _NOTHING


class Forget(_Command):
    """Remove what is stored of an IP's or a network's clients: in memory and in the history.

    The answer comes when that is done, which takes as long as the history's file is large.
    """

    role = "operate"
    arguments = [(b"network", amp.Unicode()), _DRY_RUN]
    response = [(b"forgotten", amp.String())]  # a JSON object: removed, live, blocks, problem, ...


class Subscribe(_Command):
    """Push each :class:`Event` from now on; a second subscription replaces the first."""

    role = "view"
    arguments = [_SERVICE, _FILTER]
    response = _NOTHING


class Event(amp.Command):
    """Server to client: a connection opened, was refused or closed; an alarm; or an action."""

    arguments = [
        (b"event", amp.String()),  # a JSON object: event, at, sequence, and the row's own keys
        (b"dropped", Integer()),  # events that this client was too slow for, so far
    ]
    response = _NOTHING
    requiresAnswer = False


class Tap(_Command):
    """Push the bytes of live connections from now on, in :class:`FlowEvents`.

    A second one replaces the first; the end of the client's connection ends it.
    """

    role = "operate"
    arguments = [
        _SERVICE,
        _FILTER,  # terms with keys, and ids; everything, if left out
        (b"follow", amp.Boolean(optional=True)),  # connections that match later, too
        (b"how", amp.Unicode(optional=True)),  # what is done with the bytes, for the log
    ]
    response = [
        (b"connections", Integer()),  # how many are tapped now
        (b"left_out", Integer()),  # how many more match, beyond the limit
        (b"unknown", amp.String()),  # a JSON array of the ids that no live connection has
        (b"services_left_out", amp.String()),  # a JSON array: those with payload: never
    ]


class FlowEvents(amp.Command):
    """Server to client: what has happened on tapped connections, in order."""

    arguments = [
        (b"events", amp.String()),  # a JSON array of what monconn.model.flow.to_json makes
        (b"dropped_bytes", Integer()),  # bytes that this client was too slow for, so far
        (b"left_out", Integer()),  # connections that matched, beyond the limit, so far
        (b"is_over", amp.Boolean()),  # whether there will be no more
    ]
    response = _NOTHING
    requiresAnswer = False


class CaptureStart(_Command):
    """Write the bytes of connections to files in the server's folder from now on."""

    role = "operate"
    arguments = [
        _FILTER,  # terms with keys, or ids; everything, if left out
        (b"first", Integer(optional=True)),  # bytes of each direction, 0 for all
        (b"seconds", Number(optional=True)),  # after which it ends
        (b"connections", Integer(optional=True)),  # after how many it ends
    ]
    response = [
        (b"capture", amp.String()),  # a JSON object, as in ListCaptures
        (b"services_left_out", amp.String()),  # a JSON array: those with payload: never
    ]


class CaptureStop(_Command):
    """End captures."""

    role = "operate"
    arguments = [(b"ids", amp.String(optional=True))]  # a JSON array of integers; all, if left out
    response = _ROWS  # those that were ended


class ListCaptures(_Command):
    """The captures that run, and those that have ended last."""

    role = "view"
    arguments = _NOTHING
    response = _ROWS


class ListOutputs(_Command):
    """Who is notified of events, and how that goes."""

    role = "view"
    arguments = _NOTHING
    response = _ROWS


class NotifyTest(_Command):
    """Send a test to one output or to all; answered once each has said something, or in time."""

    role = "operate"
    arguments = [(b"number", Integer(optional=True))]  # of ListOutputs; all, if left out
    response = _ROWS


class WebLink(_Command):
    """Make a link that opens the page in a browser and logs it in, once."""

    role = "view"  # as the link gives no more than that
    arguments = [(b"role", amp.Unicode(optional=True))]  # as this control port's, if left out
    response = [
        (b"url", amp.Unicode()),
        (b"seconds", Number()),  # how long it may be used
    ]


class MakeToken(_Command):
    """Make a token of the HTTP API; its file has only a digest of it."""

    role = "view"  # as the token gives no more than that
    arguments = [
        (b"role", amp.Unicode(optional=True)),  # as this control port's, if left out
        (b"name", amp.Unicode(optional=True)),  # made up, if left out
    ]
    response = [
        (b"token", amp.Unicode()),
        (b"name", amp.Unicode()),
        (b"role", amp.Unicode()),
        (b"file", amp.Unicode()),
    ]


class ListTokens(_Command):
    """The tokens of the HTTP API that are in force."""

    role = "view"
    arguments = _NOTHING
    response = [*_ROWS, (b"file", amp.Unicode())]


class RevokeToken(_Command):
    """Have a token, and the sessions that were begun with it, be of no use any more."""

    role = "operate"
    arguments = [(b"name", amp.Unicode())]
    response = _NOTHING


class LogOutAll(_Command):
    """End the sessions of all browsers."""

    role = "operate"
    arguments = _NOTHING
    response = _NOTHING


class ReadRecording(_Command):
    """What is recorded of a connection, live or closed: an array of what
    ``monconn.model.flow.to_json`` makes, in pages."""

    role = "operate"
    arguments = [
        (b"id", Integer()),
        (b"uid", amp.Unicode(optional=True)),  # goes before the id
        (b"how", amp.Unicode(optional=True)),  # what is done with the bytes, for the log
    ]
    response = _ROWS


class Reload(_Command):
    """Read the configuration's file again, and apply what is different: all of it, or nothing.

    A file with problems changes nothing: then ``result`` has their number as ``problems``, and the
    rows are the problems, each with ``source``, ``line``, ``path`` and ``message``.
    """

    role = "operate"
    arguments = [_DRY_RUN]
    # result: a JSON object: file, dry_run, added, removed, changed, notes; the rows are the changes
    response = [(b"result", amp.String()), *_ROWS]


_SERVICE_CHANGED: list[tuple[bytes, amp.Argument]] = [
    (b"changed", amp.Boolean()),  # False if everything was so already
    (b"connections", Integer()),  # how many are live
    (b"updated", amp.Boolean(optional=True)),  # it was so already, until another time or so
]


class Pause(_Command):
    """Read nothing from a service's connections, and accept nobody, until it is resumed."""

    role = "operate"
    arguments = [
        (b"service", amp.Unicode()),
        (b"seconds", Number(optional=True)),  # after which it ends by itself
    ]
    response = _SERVICE_CHANGED


class Resume(_Command):
    """End a service's pause, its draining, and what ends its connections evenly over a time."""

    role = "operate"
    arguments = [(b"service", amp.Unicode())]
    response = _SERVICE_CHANGED


class Drain(_Command):
    """Refuse a service's clients, and let its connections go on, until it is resumed."""

    role = "operate"
    arguments = [(b"service", amp.Unicode()), _SPREAD]  # not ended, if that is left out
    response = _SERVICE_CHANGED


_VERBS = {
    "CloseConnections": "close",
    "ReadRecording": "recording",
    "RevokeToken": "web --revoke",
    "LogOutAll": "web --log-out-all",
}


def verb_of(name: str) -> str:
    """What a person types for a command: ``capture start`` for ``CaptureStart``."""
    return _VERBS.get(name) or re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower()
