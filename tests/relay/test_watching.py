"""Watchers of single connections."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread
from zope.interface.verify import verifyObject

from monconn.model.reasons import Direction
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection, IWatchable, Observer
from monconn.monitor.watchers import ADDED_AMID_CHUNK, Watch, Watchers

from .test_relay import Stage
from .world import World, exactly, to_the_end, until

BULK = bytes(3_000_000)


def test_a_relay_provides_its_interfaces() -> None:
    relay = Stage().relay
    assert verifyObject(IConnection, relay)
    assert verifyObject(IWatchable, relay)


def test_a_watcher_sees_its_connection_only_until_it_is_cancelled() -> None:
    chunks: list[tuple[Direction, bytes]] = []
    watched, other = Stage().open(), Stage().open()
    cancel = watched.relay.add_watcher(lambda direction, data: chunks.append((direction, data)))
    assert (watched.client.is_watched, watched.backend.is_watched) == (True, True)
    other.data(other.client, b"not seen")
    watched.data(watched.client, b"up")
    watched.data(watched.backend, b"down")
    for _ in range(2):
        cancel()
    assert (watched.client.is_watched, watched.backend.is_watched) == (False, False)
    watched.data(watched.client, b"too late")
    assert chunks == [("up", b"up"), ("down", b"down")]


def test_a_watcher_may_end_the_connection_before_the_chunk_is_passed_on() -> None:
    stage = Stage().open()
    stage.relay.add_watcher(lambda direction, data: stage.relay.end("operator", True))
    stage.data(stage.client, b"forbidden")
    assert stage.asked() == ["abort client", "abort backend"]


@pytest.mark.parametrize(
    "failure", [ZeroDivisionError("on purpose"), SystemExit(1), GeneratorExit()]
)
def test_watchers_do_not_disturb_each_other(
    logged_failures: list[object], failure: BaseException
) -> None:
    seen: list[str] = []
    changes: list[bool] = []
    watchers = Watchers(changes.append)

    def fails(direction: Direction, data: bytes) -> None:
        raise failure

    def cancels(direction: Direction, data: bytes) -> None:
        seen.append("cancels")
        cancel_third()

    watchers.add(fails)
    watchers.add(cancels)
    cancel_third = watchers.add(lambda direction, data: seen.append("third"))
    watchers.add(lambda direction, data: seen.append("fourth"))
    watchers.show("up", b"x")
    assert seen == ["cancels", "fourth"]
    assert (len(watchers), changes) == (2, [True])
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_a_watcher_that_is_added_while_a_chunk_is_shown_is_shown_it() -> None:
    """It may have been added because of what is in it."""
    seen: list[tuple[str, bytes]] = []
    watchers = Watchers()

    def note(name: str) -> Watch:
        return lambda direction, data: seen.append((name, data))

    def adds(direction: Direction, data: bytes) -> None:
        if data == b"CONNECT":
            watchers.add(note("added"))
            watchers.add(note("cancelled"))()

    watchers.add(adds)
    watchers.add(note("second"))
    for data in (b"CONNECT", b"x"):
        watchers.show("up", data)
    assert seen == [
        *(("second", b"CONNECT"), ("added", b"CONNECT")),
        *(("second", b"x"), ("added", b"x")),
    ]


def test_watchers_that_add_watchers_end() -> None:
    calls: list[int] = []
    watchers = Watchers()

    def adds(direction: Direction, data: bytes) -> None:
        calls.append(len(watchers))
        watchers.add(adds)

    watchers.add(adds)
    watchers.show("up", b"x")
    assert len(calls) == 1 + ADDED_AMID_CHUNK


def test_what_observers_add_amid_a_chunk_is_shown_it() -> None:
    """As ``identified`` does, or the hook for payload itself."""
    stage = Stage().open()
    seen: list[tuple[int, bytes]] = []

    class Adds(Observer):
        watches_payload = True

        def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
            if data == b"first":
                stage.relay.add_watcher(see)

    def see(direction: Direction, data: bytes) -> None:
        seen.append((stage.relay.record.up - len(data), data))

    stage.monitor.add_observer(Adds())
    for data in (b"before", b"first", b"second"):
        stage.data(stage.client, data)
    assert seen == [(6, b"first"), (11, b"second")]


@pytest.mark.parametrize("pipe", ["stream", "splice", "nested"])
@pytest_twisted.ensureDeferred
async def test_others_are_spliced_while_one_is_watched(tmp_path: Path, pipe: str) -> None:
    def play() -> None:
        with World(tmp_path, "ipv4", pipe) as world:
            pairs = [world.pair() for _ in range(2)]
            until(lambda: len(world.monitor) == 2)
            watched, other = world.monitor.live.by_id.values()
            chunks: list[bytes] = []
            cancel = world.on_reactor(
                watched.add_watcher,  # type: ignore[attr-defined]
                lambda direction, data: chunks.append(data),
            )
            for client, backend in pairs:
                receiving = world.meanwhile(exactly, backend, len(BULK))
                client.sendall(BULK)
                assert receiving.result() == BULK
            assert b"".join(chunks) == BULK
            pipes = [connection.record.pipe for connection in (watched, other)]
            assert pipes == {"stream": ["stream"] * 2}.get(pipe, ["copy", "splice"])
            world.on_reactor(cancel)
            client, backend = pairs[0]
            receiving = world.meanwhile(exactly, backend, len(BULK))
            client.sendall(BULK)
            assert receiving.result() == BULK
            assert watched.record.pipe == other.record.pipe, "it is spliced again"
            assert b"".join(chunks) == BULK
            for client, backend in pairs:
                client.close()
                assert to_the_end(backend) == (b"", "fin")

    await deferToThread(play)
