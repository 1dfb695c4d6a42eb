"""The thread that talks to the server, so that the screen never waits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import attrs

from monconn.faces.control.client import CommandFailed
from monconn.faces.tui.model import Answer, Question, Row


class Caller(Protocol):
    """As much of :class:`monconn.faces.control.client.Client` as is needed."""

    hello: dict[str, str]

    def call(self, command: str, **arguments: Any) -> dict[str, str]:
        """Ask, and wait for the answer."""

    def close(self) -> None:
        """Hang up."""


@attrs.frozen
class ActionRequest:
    """Something to be done by the server, once."""

    command: str
    arguments: dict[str, Any]
    words: str
    """What it is, to be read after *done:* or *not done:*."""


@attrs.frozen
class Done:
    """What became of a deed."""

    words: str
    failed: bool = False


@attrs.frozen
class Lost:
    """The server cannot be asked, and why."""

    words: str


@attrs.frozen
class Refused:
    """The server would not answer a question, and why."""

    words: str


Told = Answer | Done | Lost | Refused


class Poller:
    """Asks one question again and again, and does deeds in between; one request at a time.

    :param connect: makes a new client.
    :param tell: is called in the thread with whatever there is to tell.
    :param seconds: between two questions.
    """

    def __init__(
        self, connect: Callable[[], Caller], tell: Callable[[Told], None], seconds: float
    ) -> None:
        self._connect = connect
        self._notify = tell
        self._seconds = seconds
        self._client: Caller | None = None
        self._question: Question | None = None
        self._deeds: SimpleQueue[tuple[ActionRequest, int]] = SimpleQueue()
        self._wake = threading.Event()
        self._stopped = False
        # A daemon, as it may hang in a request for long when the user wants to leave.
        self._thread = threading.Thread(target=self._run, name="monconn-top", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True
        self._wake.set()

    def ask(self, question: Question | None) -> None:
        """Ask this from now on, at once if it is a new one; None: ask nothing."""
        if question != self._question:
            self._question = question
            self._wake.set()

    def do(self, deed: ActionRequest, pid: int) -> None:
        """Have the server with this process id do something, soon.

        Another one has other connections by the same ids.
        """
        self._deeds.put((deed, pid))
        self._wake.set()

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            self.work()
            self._wake.wait(self._seconds)
        self._hang_up()

    def work(self) -> None:
        """Do what is to be done, and ask once."""
        while (next_deed := self._next_deed()) is not None:
            self._notify(self._done(*next_deed))
        question = self._question
        if question is None:
            return
        try:
            self._notify(self._answer(question))
        except CommandFailed as error:
            self._notify(Refused(str(error)))
        except Exception as error:  # it is gone, or does not say what a control port says
            self._hang_up()
            self._notify(Lost(str(error) or type(error).__name__))

    def _next_deed(self) -> tuple[ActionRequest, int] | None:
        try:
            return self._deeds.get_nowait()
        except Empty:
            return None

    def _done(self, deed: ActionRequest, pid: int) -> Done:
        try:
            client = self._connected()
            if int(client.hello.get("pid", 0)) != pid:
                return Done(f"not done: {deed.words}: monconn was started anew", failed=True)
            answer = client.call(deed.command, **deed.arguments)
        except CommandFailed as error:
            return Done(f"not done: {deed.words}: {error}", failed=True)
        except Exception as error:  # it is gone, or does not say what a control port says
            self._hang_up()
            return Done(f"not done: {deed.words}: {error}", failed=True)
        if answer.get("closed") == "0":
            return Done(f"{deed.words}: it had ended already")
        if answer.get("changed") == "False":
            return Done(f"{deed.words}: it was so already")
        return Done(f"done: {deed.words}")

    def _answer(self, question: Question) -> Answer:
        client = self._connected()
        if question.details is not None:
            details = _details(client, question.details)
            return Answer(question, time.monotonic(), details=details)
        services, _ = _list(client, "ListServices")
        wanted = question.filter.arguments()
        rows, total = _list(
            client, "ListConnections", **wanted, sort=question.order, limit=question.limit
        )
        # A state is one of the live ones: those that are closed have no other.
        of_closed = {key: value for key, value in wanted.items() if key != "state"}
        closed = self._closed(client, of_closed, question.closed_limit)
        server, pid = client.hello.get("server", ""), int(client.hello.get("pid", 0))
        return Answer(question, time.monotonic(), server, pid, services, rows, total, closed)

    def _closed(self, client: Caller, wanted: dict[str, str], limit: int) -> list[Row]:
        if not limit:
            return []
        arguments = {**wanted, "closed": True, "sort": "closed", "limit": limit}
        return _list(client, "ListConnections", **arguments)[0]

    def _connected(self) -> Caller:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _list(caller: Caller, command: str, /, **arguments: Any) -> tuple[list[Row], int]:
    """All pages of a list, and how many there are without its limit."""
    page = caller.call(command, **arguments)
    total = int(page.get("total", 0))
    rows: list[Row] = json.loads(page["rows"])
    while "next" in page:
        page = caller.call("NextPage", next=int(page["next"]))
        rows += json.loads(page["rows"])
    return rows, total


def _details(client: Caller, connection_id: int) -> Row | None:
    try:
        shown: Row = json.loads(client.call("ShowConnection", id=connection_id)["connection"])
    except CommandFailed as error:
        if error.code != "UNKNOWN_CONNECTION":
            raise
        return None
    return shown
