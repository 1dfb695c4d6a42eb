"""A control port without a port, and a screen that polls it step by step."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from monconn.errors import ControlError
from monconn.faces.control import commands
from monconn.faces.control.client import CommandFailed, NoServer
from monconn.faces.tui.poller import Poller
from monconn.faces.tui.screen import TopApp
from monconn.faces.tui.widgets import Lines
from monconn.ops.filter_keys import DEVICE_KEYS, EVENT_KEYS
from monconn.ops.filters import Context, parse

_POLL_SECONDS = 0.05
REASONS = ("client_closed", "backend_reset", "idle_timeout", "backend_refused", "operator")


SERVICES = ("web", "ssh")


def connection(number: int, services: Sequence[str] = SERVICES, /, **others: Any) -> dict[str, Any]:
    """A live connection, as the control port sends it."""
    service = services[0] if number % 3 else services[-1]
    return {
        "id": number,
        "service": service,
        "client": f"10.0.{number // 250}.{number % 250}:{40000 + number}",
        "client_ip": f"10.0.{number // 250}.{number % 250}",
        "listener": "0.0.0.0:8080",
        "backend": "127.0.0.1:80",
        "state": ("open", "open", "open", "half_closed", "connecting")[number % 5],
        "pipe": "splice",
        "up": number * 1000,
        "down": number * 54321,
        "opened_at": "2026-11-23T01:02:03.456+00:00",
        "age_seconds": 10.0 * number,
        "idle_seconds": number / 7,
        "connect_seconds": 0.00123,
        "client_end": "none",
        "backend_end": "none",
        "up_rate": number * 10.0,
        "down_rate": number * 100.0,
        **others,
    }


def closed(number: int, services: Sequence[str] = SERVICES, /, **others: Any) -> dict[str, Any]:
    """A closed one."""
    row = connection(number, services, state="closed", up_rate=0.0, down_rate=0.0)
    reason = REASONS[number % len(REASONS)]
    ended = {
        "closed_at": f"2026-11-23T01:{number // 60 % 60:02}:{number % 60:02}.000+00:00",
        "duration_seconds": row["age_seconds"],
        "reason": reason,
        "code": "--",
        "closed_by": "client",
    }
    return row | ended | others


def device(number: int, *alarms: str, service: str = "web") -> dict[str, Any]:
    """A device, as the control port sends it."""
    return {
        "device": f"10.0.0.{number}",
        "service": service,
        "connections": 1,
        "total": number,
        "first_seen": "2026-11-23T01:02:03.456+00:00",
        "last_seen": "2026-11-23T01:02:03.456+00:00",
        "reconnect_seconds": None,
        "heartbeat_seconds": 30.0,
        "silent_seconds": 12.5 * number,
        "last_heard_seconds": 1.5,
        "up": 1000 * number,
        "down": 0,
        "last_reason": None,
        "alarms": list(alarms),
    }


class FakeServer:
    """Answers as a control port does, and records what it was asked.

    :param count: how many connections are live.
    :param services: the names of the services, of which the first and the last have connections.
    """

    def __init__(self, count: int = 8, services: Sequence[str] = SERVICES) -> None:
        self.services = services
        self.live = {number: connection(number, services) for number in range(1, count + 1)}
        self.closed = {number: closed(number, services) for number in range(9001, 9031)}
        self.alarms: dict[str, list[str]] = {}
        """Of the services themselves."""
        self.devices = [device(1), device(2, "silent"), device(3)]
        self.is_before_filters = False
        self.role = "operate"
        self.states: dict[str, str] = {}
        """What services do, by their names."""
        self.too_old_for: set[str] = set()
        """Commands that this server does not have."""
        self.gone = False
        self.pid = 4711
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.unknown: list[str] = []
        """Calls that no control port would understand."""
        self.bad_filter = ""
        """Why filters are refused; empty if they are not."""
        self.rows_given: list[int] = []

    def client(self) -> FakeClient:
        """A client, as the app's ``connect`` makes it."""
        if self.gone:
            raise NoServer("nobody answers at unix:/run/fake.sock: connection refused")
        return FakeClient(self)

    def asked(self, command: str) -> list[dict[str, Any]]:
        """The arguments of each call of a command."""
        return [arguments for name, arguments in self.calls if name == command]


class FakeClient:
    """What :class:`monconn.faces.control.client.Client` is, for a :class:`FakeServer`."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._rest: list[str] = []
        self.hello = {"version": "1", "server": "monconn 0.1", "pid": str(server.pid)}
        if not server.is_before_filters:
            self.hello |= {"filters": "True", "role": server.role}

    def close(self) -> None:
        """Close the connection."""

    def call(self, command: str, **arguments: Any) -> dict[str, str]:
        """Answer from what the server holds.

        :raises CommandFailed: the wire contract has no such command or argument.
        """
        if self._server.gone:
            raise NoServer("unix:/run/fake.sock does not answer: it has closed the connection")
        arguments = {key: value for key, value in arguments.items() if value is not None}
        if self._server.is_before_filters and "filter" in arguments:  # as Client has it
            raise ControlError("monconn 0.1 runs, which is too old for filter: restart it")
        if command in self._server.too_old_for:
            raise CommandFailed("UNHANDLED", f"unknown: {command}")
        handler = _HANDLERS.get(command)
        known = () if handler is None else getattr(commands, command).arguments
        wrong = set(arguments) - {name.decode() for name, _ in known}
        if handler is None or wrong:
            self._server.unknown.append(f"{command} {wrong or ''}".strip())
            raise CommandFailed("UNHANDLED", f"unknown: {self._server.unknown[-1]}")
        self._server.calls.append((command, arguments))
        return handler(self, **arguments)

    def _list_services(self) -> dict[str, str]:
        rows = []
        for name in self._server.services:
            live = [row for row in self._server.live.values() if row["service"] == name]
            rows.append(
                {
                    "sid": name,
                    "state": self._server.states.get(name, "running"),
                    "listen": ":8080",
                    "backend": "127.0.0.1:80",
                    "connections": len(live),
                    "total": len(live) + 1234,
                    "refused": 3,
                    "up": sum(row["up"] for row in live),
                    "down": sum(row["down"] for row in live),
                    "alarms": self._server.alarms.get(name, []),
                }
            )
        return {"rows": json.dumps(rows)}

    def _list_connections(
        self, sort: str = "id", limit: int | None = None, closed: bool = False, filter: str = ""
    ) -> dict[str, str]:
        server = self._server
        if filter and server.bad_filter:
            raise CommandFailed("BAD_FILTER", server.bad_filter)
        # Those of events are for plain rows, as there are here.
        wanted = parse(filter, EVENT_KEYS, known={"service": self._server.services})
        rows = list(
            wanted.select((server.closed if closed else server.live).values(), Context(0.0))
        )
        if sort != "id":
            rows.sort(key=_key(sort), reverse=True)
        found = rows if limit is None else rows[:limit]
        server.rows_given.append(len(found))
        # Two pages, if there is more than one row.
        half = (len(found) + 1) // 2
        self._rest = [json.dumps(found[half:])]
        return {"rows": json.dumps(found[:half]), "total": str(len(rows)), "next": "1"}

    def _list_devices(self, filter: str = "") -> dict[str, str]:
        wanted = parse(filter, DEVICE_KEYS)
        return {"rows": json.dumps(list(wanted.select(self._server.devices, Context(0.0))))}

    def _next_page(self, next: int) -> dict[str, str]:
        return {"rows": self._rest.pop(0)}

    def _show_connection(self, id: int) -> dict[str, str]:
        known = self._server.live.get(id) or self._server.closed.get(id)
        if known is None:
            raise CommandFailed("UNKNOWN_CONNECTION", f"there is no connection {id}")
        return {"connection": json.dumps(known)}

    def _close_connections(self, ids: str, reset: bool = False) -> dict[str, str]:
        found = [self._server.live.pop(each, None) for each in json.loads(ids)]
        return {"closed": str(len([each for each in found if each])), "unknown": "[]"}

    def _block(
        self, network: str, service: str | None = None, for_seconds: int = 0
    ) -> dict[str, str]:
        return {"changed": "True", "closed": "0"}

    def _unblock(self, network: str, service: str | None = None) -> dict[str, str]:
        return {"changed": "False"}


_HANDLERS: dict[str, Callable[..., dict[str, str]]] = {
    "ListServices": FakeClient._list_services,
    "ListConnections": FakeClient._list_connections,
    "ListDevices": FakeClient._list_devices,
    "NextPage": FakeClient._next_page,
    "ShowConnection": FakeClient._show_connection,
    "CloseConnections": FakeClient._close_connections,
    "Block": FakeClient._block,
    "Unblock": FakeClient._unblock,
}


def _key(sort: str) -> Callable[[dict[str, Any]], Any]:
    keys: dict[str, Callable[[dict[str, Any]], Any]] = {
        "rate": lambda row: row["up_rate"] + row["down_rate"],
        "age": lambda row: row["age_seconds"],
        "idle": lambda row: row["idle_seconds"],
        "closed": lambda row: row["closed_at"],
    }
    return keys.get(sort, lambda row: row[sort])


class SteppedPoller(Poller):
    """Has no thread: polls when the test says so."""

    def start(self) -> None:
        """Wait for the test's first step."""

    def stop(self) -> None:
        """There is no thread to stop."""


class Screen:
    """A running app, and what is to be read on it.

    :param is_stepped: whether the app polls only when the test calls ``poll``.
    """

    def __init__(self, app: TopApp, pilot: Pilot[int], is_stepped: bool) -> None:
        self.app = app
        self.pilot = pilot
        self._is_stepped = is_stepped

    async def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            await self.pilot.press(key)

    def lines(self, name: str) -> list[str]:
        """A table as text, its titles first."""
        return self.app.screen.query_one(f"#{name}", Lines).plain

    def ids(self) -> list[int]:
        """The ids of the visible live connections."""
        return [int(line.split()[0]) for line in self.lines("live")[1:]]

    async def poll(self) -> None:
        """Have the app poll once, and show what it was answered."""
        assert self._is_stepped
        self.app.poller.poll()
        await self.pilot.pause()

    async def until(self, condition: Callable[[], bool], seconds: float = 8.0) -> None:
        """Poll until something has become true."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            if self._is_stepped:
                await self.poll()
            else:  # the poller's thread is at work
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    server: FakeServer, size: tuple[int, int] = (100, 30), *, is_stepped: bool = True
) -> AsyncIterator[Screen]:
    """The app on a screen, after its first answers.

    :param is_stepped: whether it polls only when the test says so, or in its thread.
    """
    app = TopApp(server.client, "unix:/run/fake.sock", _POLL_SECONDS)
    if is_stepped:
        app.poller = SteppedPoller(server.client, app.post_update, _POLL_SECONDS)
    async with app.run_test(size=size) as pilot:
        screen = Screen(app, pilot, is_stepped)
        await screen.until(lambda: bool(app.model.snapshot.pid))
        await screen.until(lambda: len(app.query_one("#live", Lines).plain) > 1)
        await screen.until(lambda: not server.live or bool(screen.ids()))
        yield screen
    assert server.unknown == []
