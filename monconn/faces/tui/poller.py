"""The thread that talks to the control port, so that the screen never waits for an answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import attrs

from monconn.errors import ControlError, printable
from monconn.faces.control.client import BadAnswer, CommandFailed, NoServer, rows_of
from monconn.faces.tui.model import Query, Snapshot
from monconn.faces.tui.ordering import SORT_SECONDS, Row
from monconn.ops.columns import Row as OpsRow
from monconn.ops.columns import RowError
from monconn.ops.details import connection_details
from monconn.ops.filter_keys import DEVICE_KEYS
from monconn.ops.filters import Filter
from monconn.ops.rows import ClosedConnectionRow, ConnectionRow, DeviceRow, ServiceRow

_MOST_ROWS = 10_000
"""The most rows of any list: 500 connections are asked for, and services are few."""
MOST_DEVICES = 500
"""The most devices that are listed; of those with alarms there are seldom more."""
_MOST_HELD = 200
"""The most connections that are asked for by their ids: the server parses each of them."""
ALARM_SECONDS = 5.0
"""Between two questions for alarms, which devices do not change faster."""
_ALARM_TERMS = " ".join(f"alarm:{kind}" for kind in DEVICE_KEYS.by_name["alarm"].choices)


class Caller(Protocol):
    """The part of :class:`monconn.faces.control.client.Client` that the poller needs."""

    hello: dict[str, str]

    def call(self, command: str, **arguments: Any) -> dict[str, str]:
        """Send a command, and wait for the answer."""

    def close(self) -> None:
        """Close the connection."""


@attrs.frozen
class ActionRequest:
    """A command that changes something, to be sent once.

    :param text: what it does, to be read after *done:* or *not done:*.
    """

    command: str
    arguments: dict[str, Any]
    text: str


@attrs.frozen
class ActionResult:
    """The result of an action, as a message."""

    message: str
    failed: bool = False


@attrs.frozen
class Lost:
    """The server cannot be asked; the message says why."""

    message: str


@attrs.frozen
class Refused:
    """The server would not answer the query; the message says why."""

    message: str


@attrs.frozen
class _Sorted:
    """The live connections as they were sorted last.

    :param at: when, in monotonic seconds.
    :param total: how many there were, with those that were not sent.
    """

    query: Query
    at: float
    ids: Sequence[int]
    total: int


Update = Snapshot | ActionResult | Lost | Refused


class Poller:
    """Sends one query again and again, and actions in between; one request at a time.

    :param connect: makes a new client.
    :param notify: is called in the poller's thread with every update.
    :param seconds: between two polls.
    """

    def __init__(
        self, connect: Callable[[], Caller], notify: Callable[[Update], None], seconds: float
    ) -> None:
        self._connect = connect
        self._notify = notify
        self._seconds = seconds
        self._client: Caller | None = None
        self._query: Query | None = None
        self._alarms: int | None = None
        self._alarms_at = float("-inf")
        self._sorted: _Sorted | None = None
        self._actions: SimpleQueue[tuple[ActionRequest, int]] = SimpleQueue()
        self._wake = threading.Event()
        self._stopped = False
        # A daemon: when the user quits, it may be waiting for an answer for 20 s still.
        self._thread = threading.Thread(target=self._run, name="monconn-top", daemon=True)

    def start(self) -> None:
        """Begin to poll."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the request that it waits for."""
        self._stopped = True
        self._wake.set()

    def set_query(self, query: Query | None) -> None:
        """Poll with this query from now on, at once if it is a new one; None: do not poll."""
        if query != self._query:
            self._query = query
            self._wake.set()

    def request(self, action: ActionRequest, pid: int) -> None:
        """Send an action soon.

        :param pid: of the server that it is meant for. If the server was restarted since, the
            action is not sent, as other connections have the same ids now.
        """
        self._actions.put((action, pid))
        self._wake.set()

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            self.poll()
            self._wake.wait(self._seconds)
        self._disconnect()

    def poll(self) -> None:
        """Send the actions that wait, and then the query."""
        while True:
            try:
                action, pid = self._actions.get_nowait()
            except Empty:
                break
            self._notify(self._act(action, pid))
        query = self._query
        if query is None:
            return
        try:
            self._notify(self._answer(query))
        except Exception as error:
            message = printable(str(error) or type(error).__name__)
            if self._client is not None and _is_refusal(error):
                self._notify(Refused(message))
            else:  # disconnected, or the server does not speak the control protocol
                self._disconnect()
                self._notify(Lost(message))

    def _act(self, action: ActionRequest, pid: int) -> ActionResult:
        try:
            client = self._connected()
            if int(client.hello.get("pid", 0)) != pid:
                return ActionResult(f"not done: {action.text}: monconn was restarted", failed=True)
            # An older server would ignore it, and block for ever.
            if "for_seconds" in action.arguments and "blocks" not in client.hello:
                text = f"not done: {action.text}: monconn is too old for that: restart it"
                return ActionResult(text, failed=True)
            answer = client.call(action.command, **action.arguments)
        except CommandFailed as error:
            return ActionResult(f"not done: {action.text}: {error}", failed=True)
        except Exception as error:  # as in poll()
            self._disconnect()
            return ActionResult(f"not done: {action.text}: {printable(error)}", failed=True)
        if action.command == "CloseConnections" and answer.get("closed") == "0":
            return ActionResult(f"{action.text}: it had ended already")
        if answer.get("changed") == "False":
            return ActionResult(f"{action.text}: it was so already")
        return ActionResult(f"done: {action.text}")

    def _answer(self, query: Query) -> Snapshot:
        client = self._connected()
        if query.details is not None:
            details = _details(client, query.details)
            return Snapshot(query, time.monotonic(), details=details)
        server, pid = client.hello.get("server", ""), int(client.hello.get("pid", 0))
        role = client.hello.get("role", "operate")
        if query.devices:
            devices = self._devices(client)
            at = time.monotonic()
            alarms = self._alarms
            return Snapshot(query, at, server, pid, devices=devices, alarms=alarms, role=role)
        services, _ = _list(client, ServiceRow, "sid", "ListServices")
        rows, total, is_sorted = self._live(client, query)
        closed: list[Row] = []
        closed_total = 0
        if query.closed_limit:
            # Which state a live connection has says nothing about those that are closed.
            terms = tuple(term for term in query.filter.terms if term.key != "state")
            closed, closed_total = _list(
                client,
                ClosedConnectionRow,
                "id",
                "ListConnections",
                filter=Filter(terms, query.filter.keys).to_text() or None,
                closed=True,
                sort=query.closed_order,
                limit=query.closed_limit,
            )
        if time.monotonic() - self._alarms_at >= ALARM_SECONDS:
            self._with_alarms(client)
        return Snapshot(
            query,
            time.monotonic(),
            server,
            pid,
            services,
            rows,
            total,
            closed,
            closed_total,
            alarms=self._alarms,
            is_sorted=is_sorted,
            role=role,
        )

    def _live(self, client: Caller, query: Query) -> tuple[list[Row], int, bool]:
        """The live connections, how many there are, and whether they are in a new order."""
        last, now = self._sorted, time.monotonic()
        can_hold = "filters" in client.hello
        is_due = query.order != "rate" or last is None or last.query != query
        if not is_due and last is not None and now - last.at < SORT_SECONDS:
            if last.total <= len(last.ids) or not can_hold or len(last.ids) > _MOST_HELD:
                rows, total = self._list_live(client, query)
                return rows, total, False
            # Others have the highest rates by now: ask for those that are on the screen.
            filter_text = " ".join(f"id:{each}" for each in last.ids)
            rows, count = _list(client, ConnectionRow, "id", "ListConnections", filter=filter_text)
            if 4 * count >= 3 * len(last.ids):  # most of them live still
                return rows, last.total, False
        rows, total = self._list_live(client, query)
        self._sorted = _Sorted(query, now, [row["id"] for row in rows], total)
        return rows, total, True

    def _list_live(self, client: Caller, query: Query) -> tuple[list[Row], int]:
        return _list(
            client,
            ConnectionRow,
            "id",
            "ListConnections",
            filter=query.filter.to_text() or None,
            sort=query.order,
            limit=query.limit,
        )

    def _with_alarms(self, client: Caller) -> list[Row]:
        """The devices with alarms, which are counted: none of a server that is too old for it."""
        try:
            rows = _first_rows(client, DeviceRow, "device", "ListDevices", filter=_ALARM_TERMS)
        except ControlError as error:  # no such command, filter or kind of alarm
            if not _is_refusal(error):
                raise
            rows, self._alarms = [], None
        else:
            self._alarms = len(rows)
        self._alarms_at = time.monotonic()
        return rows

    def _devices(self, client: Caller) -> list[Row]:
        """The first devices; those with alarms before the others."""
        rows = self._with_alarms(client)
        known = {(row.get("service"), row["device"]) for row in rows}
        others = _first_rows(client, DeviceRow, "device", "ListDevices")
        rows += (row for row in others if (row.get("service"), row["device"]) not in known)
        return rows[:MOST_DEVICES]

    def _connected(self) -> Caller:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        self._alarms, self._alarms_at, self._sorted = None, float("-inf"), None
        if client is not None:
            client.close()


def _is_refusal(error: Exception) -> bool:
    """Whether an error concerns one question only, as of a server that is too old for it."""
    return isinstance(error, ControlError) and not isinstance(error, NoServer | BadAnswer)


def _list(
    client: Caller, row_class: type[OpsRow], key: str, command: str, /, **arguments: Any
) -> tuple[list[Row], int]:
    """All pages of a list, and how many rows there are without its limit.

    What is drawn later is checked here: an error is a message then, and no end of the program.

    :param key: the field that no row may lack.
    """
    page = client.call(command, **arguments)
    total = int(page.get("total", 0))
    rows: list[Row] = []
    for row in rows_of(client.call, page, "the server"):
        _check(row_class, key, row)
        rows.append(row)
        if len(rows) > _MOST_ROWS:
            raise BadAnswer(f"the server sends more than {_MOST_ROWS:,} rows")
    return rows, total


def _first_rows(
    client: Caller, row_class: type[OpsRow], key: str, command: str, /, **arguments: Any
) -> list[Row]:
    """The first rows of a list; further pages are not asked for."""
    page = client.call(command, **arguments)
    rows: list[Row] = []
    for row in islice(rows_of(client.call, page, "the server"), MOST_DEVICES):
        _check(row_class, key, row)
        rows.append(row)
    return rows


def _check(row_class: type[OpsRow], key: str, row: Any) -> None:
    row_class.check(row)
    if row.get(key) is None:
        raise RowError(f"the server sends a row without {key}")


def _details(client: Caller, connection_id: int) -> Row | None:
    try:
        answer = client.call("ShowConnection", id=connection_id)
    except CommandFailed as error:
        if error.code != "UNKNOWN_CONNECTION":
            raise
        return None
    try:
        row: Row = json.loads(answer["connection"])
        _check(ConnectionRow, "id", row)
        for _ in connection_details(row):
            pass
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError):
        raise BadAnswer(f"the details of connection {connection_id} are malformed") from None
    return row
