"""A control port without a port, for the screen to ask."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from monconn.faces.control.client import CommandFailed, NoServer
from monconn.faces.tui.screen import TopApp
from monconn.faces.tui.widgets import Lines

REASONS = ("client_closed", "backend_reset", "idle_timeout", "backend_refused", "operator")


def connection(number: int, **others: Any) -> dict[str, Any]:
    """A live connection, as the control port tells it."""
    service = ("web", "ssh")[number % 3 == 0]
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


def closed(number: int, **others: Any) -> dict[str, Any]:
    """A closed one."""
    row = connection(number, state="closed", up_rate=0.0, down_rate=0.0)
    reason = REASONS[number % len(REASONS)]
    ended = {
        "closed_at": f"2026-11-23T01:{number // 60 % 60:02}:{number % 60:02}.000+00:00",
        "duration_seconds": row["age_seconds"],
        "reason": reason,
        "code": "--",
        "closed_by": "client",
    }
    return row | ended | others


class FakeServer:
    """What the control port would answer, and what it was asked.

    :param count: how many connections live.
    """

    def __init__(self, count: int = 8) -> None:
        self.live = {number: connection(number) for number in range(1, count + 1)}
        self.closed = {number: closed(number) for number in range(9001, 9031)}
        self.gone = False
        self.pid = 4711
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.rows_given: list[int] = []

    def client(self) -> FakeClient:
        """See ``connect`` of the app."""
        if self.gone:
            raise NoServer("nobody answers at unix:/run/fake.sock: connection refused")
        return FakeClient(self)

    def asked(self, command: str) -> list[dict[str, Any]]:
        """The arguments of each call of a command."""
        return [arguments for name, arguments in self.calls if name == command]


class FakeClient:
    """See ``monconn.faces.control.client.Client``."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._rest: list[str] = []
        self.hello = {"version": "1", "server": "monconn 0.1", "pid": str(server.pid)}

    def close(self) -> None:
        """Hang up."""

    def call(self, command: str, **arguments: Any) -> dict[str, str]:
        """Answer from what the server holds."""
        if self._server.gone:
            raise NoServer("unix:/run/fake.sock does not answer: it has hung up")
        arguments = {key: value for key, value in arguments.items() if value is not None}
        self._server.calls.append((command, arguments))
        answer: dict[str, str] = getattr(self, f"_{command}")(**arguments)
        return answer

    def _ListServices(self) -> dict[str, str]:
        rows = []
        for name in ("web", "ssh"):
            live = [row for row in self._server.live.values() if row["service"] == name]
            rows.append(
                {
                    "sid": name,
                    "listen": ":8080",
                    "backend": "127.0.0.1:80",
                    "connections": len(live),
                    "total": len(live) + 1234,
                    "refused": 3,
                    "up": sum(row["up"] for row in live),
                    "down": sum(row["down"] for row in live),
                }
            )
        return {"rows": json.dumps(rows)}

    def _ListConnections(
        self,
        sort: str = "id",
        limit: int | None = None,
        closed: bool = False,
        text: str = "",
        **by: str,
    ) -> dict[str, str]:
        server = self._server
        rows = list((server.closed if closed else server.live).values())
        for kind, value in by.items():
            key = "client_ip" if kind == "client" else kind
            rows = [row for row in rows if row[key] == value]
        rows = [row for row in rows if text in row["client"]]
        if sort != "id":
            rows.sort(key=_key(sort), reverse=True)
        shown = rows if limit is None else rows[:limit]
        server.rows_given.append(len(shown))
        # Two pages, if there is more than one row.
        half = (len(shown) + 1) // 2
        self._rest = [json.dumps(shown[half:])]
        return {"rows": json.dumps(shown[:half]), "total": str(len(rows)), "next": "1"}

    def _NextPage(self, next: int) -> dict[str, str]:
        return {"rows": self._rest.pop(0)}

    def _ShowConnection(self, id: int) -> dict[str, str]:
        known = self._server.live.get(id) or self._server.closed.get(id)
        if known is None:
            raise CommandFailed("UNKNOWN_CONNECTION", f"there is no connection {id}")
        return {"connection": json.dumps(known)}

    def _CloseConnections(self, ids: str, reset: bool = False) -> dict[str, str]:
        found = [self._server.live.pop(each, None) for each in json.loads(ids)]
        return {"closed": str(len([each for each in found if each])), "unknown": "[]"}

    def _Block(self, network: str, service: str | None = None) -> dict[str, str]:
        return {"changed": "True"}


def _key(sort: str) -> Callable[[dict[str, Any]], Any]:
    keys: dict[str, Callable[[dict[str, Any]], Any]] = {
        "rate": lambda row: row["up_rate"] + row["down_rate"],
        "age": lambda row: row["age_seconds"],
        "idle": lambda row: row["idle_seconds"],
        "closed": lambda row: row["closed_at"],
    }
    return keys.get(sort, lambda row: row[sort])


class Screen:
    """A running app, and what is to be read on it."""

    def __init__(self, app: TopApp, pilot: Any) -> None:
        self.app = app
        self.pilot = pilot

    async def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            await self.pilot.press(key)

    def lines(self, name: str) -> list[str]:
        """A table as text, its titles first."""
        return self.app.screen.query_one(f"#{name}", Lines).plain

    def ids(self) -> list[int]:
        """The ids of the live connections that are shown."""
        return [int(line.split()[0]) for line in self.lines("live")[1:]]

    async def until(self, condition: Callable[[], bool], seconds: float = 8.0) -> None:
        """Wait for something to become true."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            await asyncio.sleep(0.01)

    async def refreshed(self, server: FakeServer) -> None:
        """Wait for two whole looks, so that one of them began after now."""
        wanted = len(server.rows_given) + 4
        await self.until(lambda: len(server.rows_given) >= wanted)
        await self.pilot.pause()


@asynccontextmanager
async def shown(
    server: FakeServer, size: tuple[int, int] = (100, 30), seconds: float = 0.25
) -> AsyncIterator[Screen]:
    """The app on a screen, with its first picture."""
    app = TopApp(server.client, "unix:/run/fake.sock", seconds)
    async with app.run_test(size=size) as pilot:
        screen = Screen(app, pilot)
        await screen.until(lambda: bool(app.model.answer.pid))
        await screen.until(lambda: len(app.query_one("#live", Lines).plain) > 1)
        yield screen
