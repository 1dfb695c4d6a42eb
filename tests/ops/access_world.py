"""Who may use the HTTP API, without threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from monconn.addresses import TcpAddress
from monconn.config.http import HttpConfig
from monconn.model.actions import Action, Actor
from monconn.monitor.interfaces import Observer
from monconn.monitor.registry import Registry
from monconn.ops import access as module
from monconn.ops.access import WATCH_SECONDS, Access

ROOT = Actor.process(0, 7, "root")
NOW = 1_795_000_000.0
T = TypeVar("T")


class Noting(Observer):
    def __init__(self) -> None:
        self.actions: list[str] = []

    def acted(self, action: Action) -> None:
        self.actions.append(action.describe())


class World:
    """A server's access, with its files in a folder.

    :param folder: of this test.
    :param config: beside where it listens, and the file of tokens.
    """

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.tokens = folder / "tokens"
        self.clock = Clock()
        self.wall_seconds = NOW
        self.noted = Noting()
        self.registry = Registry()
        self.registry.new("web", clock=self.clock)
        self.registry.observe(self.noted)
        config.setdefault("listen", TcpAddress("127.0.0.1", 9180))
        self.config = HttpConfig(tokens=str(self.tokens), **config)
        self.disk_hangs = False
        self.held: list[Callable[[], None]] = []
        self.access = self.another()

    def another(self) -> Access:
        """What a restart would make."""
        access = Access(self.config, "", self.registry, self, self.clock, lambda: self.wall_seconds)
        access.startService()
        return access

    def callFromThread(self, call: Callable[..., object], /, *args: Any) -> object:
        raise AssertionError("there are no threads")

    def in_thread(self, _: Any, name: str, work: Callable[[], object], done: Any) -> None:
        def run() -> None:
            try:
                outcome: object = work()
            except BaseException as error:
                outcome = error
            done(outcome)

        if self.disk_hangs:
            self.held.append(run)
        else:
            run()

    def release(self) -> None:
        """The disk hangs no more."""
        self.disk_hangs = False
        held, self.held = self.held, []
        for each in held:
            each()

    def look(self, times: int = 2) -> None:
        """Look at the file so often."""
        for _ in range(times):
            self.clock.advance(WATCH_SECONDS)

    def write(self, text: str, mode: int = 0o600) -> None:
        """Edit the file by hand."""
        self.tokens.write_text(text)
        self.tokens.chmod(mode)

    def token(self, role: str = "operate", name: str | None = None) -> str:
        """A new token."""
        return result(self.access.make_token(ROOT, "operate", role, name)).token

    def code(self, role: str | None = None, giver: Any = "operate") -> str:
        """A new code."""
        return self.access.make_link(ROOT, giver, role).url.rpartition("/")[2]


@contextmanager
def world_in(folder: Path, **config: Any) -> Iterator[World]:
    """A world, with its state in a folder, too."""
    with patch.dict("os.environ", {"XDG_STATE_HOME": str(folder / "state")}):
        worlds: list[World] = []

        def in_thread(*args: Any) -> None:
            worlds[0].in_thread(*args)

        class NoThread:
            """Does work at once, or once the disk hangs no more."""

            def __init__(self, reactor: object) -> None:
                pass

            def do(self, *args: Any) -> bool:
                in_thread(None, "", *args)
                return True

            def stop(self) -> None:
                pass

        with (
            patch.object(module, "run_in_thread", in_thread),
            patch.object(module, "LastingThread", NoThread),
        ):
            worlds.append(World(folder, **config))
            yield worlds[0]


def result(deferred: Deferred[T]) -> T:
    """What a Deferred has fired with by now; what it has failed with is raised."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    (found,) = results
    if isinstance(found, Failure):
        found.raiseException()
    value: T = found
    return value
