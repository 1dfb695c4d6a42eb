"""Our own connections to our own listeners, on real sockets of the loopback."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from monconn.model.record import ConnectionRecord
from monconn.net import loops as module
from monconn.net.loops import (
    Loops,
    end_loop,
    ephemeral_ports,
    has_source_address,
    is_own_address,
    loop_of,
    target_of_name,
)


def record(
    service: str, through: ConnectionRecord | None = None, backend: str = ""
) -> ConnectionRecord:
    made = ConnectionRecord(1, service, "c:1", "c", ":1", backend or f"to {service}", 0.0, 0.0)
    made.came_through = through
    return made


class Link:
    """A connection of ours to a listener of ours."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET) -> None:
        host = "::" if family == socket.AF_INET6 else "127.0.0.1"
        self.listener = socket.socket(family)
        if family == socket.AF_INET6:
            self.listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.listener.bind((host, 0))
        self.listener.listen()
        self.dialled = socket.create_connection(("127.0.0.1", self.listener.getsockname()[1]))
        self.accepted, _ = self.listener.accept()

    def close(self) -> None:
        for each in (self.listener, self.dialled, self.accepted):
            each.close()


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv4-mapped"])
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    link = Link(request.param)
    yield link
    link.close()


def test_a_client_is_known_by_the_socket_at_its_other_end(link: Link) -> None:
    loops, first, second = Loops(), record("a"), record("b")
    loops.dialled(link.dialled, first)
    loops.accepted(second, link.accepted)
    assert second.came_through is first
    assert loops.dials == {}


def test_another_client_is_not(link: Link) -> None:
    loops, second = Loops(), record("b")
    other = Link()
    loops.dialled(other.dialled, record("a"))
    loops.accepted(second, link.accepted)
    other.close()
    assert second.came_through is None


def test_an_address_whose_socket_is_closed_is_anybodys(link: Link) -> None:
    loops, second = Loops(), record("b")
    loops.dialled(link.dialled, record("a"))
    link.dialled.close()
    loops.accepted(second, link.accepted)
    assert second.came_through is None


def test_a_client_may_be_accepted_before_its_dial_is_known(link: Link) -> None:
    loops, first, second = Loops(), record("a"), record("b")
    loops.unknown_dials += 1
    loops.accepted(second, link.accepted)
    assert loops.is_awaited(second)
    loops.dialled(link.dialled, first)
    assert not loops.is_awaited(second)
    loops.unknown_dial_ends()
    assert second.came_through is first
    assert (loops.dials, loops._accepted) == ({}, {})


def test_a_client_is_awaited_as_long_as_it_may_be_ours(link: Link) -> None:
    loops, second = Loops(), record("b")
    loops.unknown_dials += 1
    loops.accepted(second, link.accepted)
    loops.unknown_dial_ends()
    assert not loops.is_awaited(second)
    assert loops._accepted == {}


class Client:
    """A client's socket.

    :param ip: where it comes from.
    """

    def __init__(self, ip: str) -> None:
        self._ip = ip

    def getpeername(self) -> tuple[str, int]:
        return self._ip, 5

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 80


@pytest.mark.parametrize("is_own", [False, True])
def test_only_a_client_of_this_host_is_awaited(
    monkeypatch: pytest.MonkeyPatch, is_own: bool
) -> None:
    """Also one that comes from another of its addresses than it goes to."""
    monkeypatch.setattr(module, "is_own_host", lambda *_: is_own)
    loops, second = Loops(), record("b")
    loops.unknown_dials += 1
    loops.accepted(second, Client("192.0.2.7"))
    assert loops.is_awaited(second) is is_own


def test_a_client_that_has_left_is_none(link: Link) -> None:
    loops, second = Loops(), record("b")
    loops.dialled(link.dialled, record("a"))
    with socket.socket() as unconnected:
        loops.accepted(second, unconnected)
    assert second.came_through is None


def test_unix_sockets_without_a_name_are_all_alike() -> None:
    loops, second = Loops(), record("b")
    one, other = socket.socketpair()
    with one, other:
        loops.dialled(one, record("a"))
        loops.unknown_dials += 1
        loops.accepted(second, other)
    assert (second.came_through, loops.dials, loops._accepted) == (None, {}, {})


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (("127.0.0.1", 80), 80),
        (("::1", 80, 0, 0), 80),
        ("/run/../run/web", os.path.realpath("/run/web")),
        ("", ""),
        (b"\0abstract", "\0abstract"),
    ],
)
def test_what_a_name_is_about(name: object, target: object) -> None:
    assert target_of_name(name) == target


def test_what_is_noted_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_DIALS", 2)
    loops = Loops()
    links = [Link() for _ in range(3)]
    for number, each in enumerate(links):
        loops.dialled(each.dialled, record(str(number)))
    assert [each.service for _, each in loops.dials.values()] == ["1", "2"]
    for each in links:
        each.close()


def test_only_what_may_be_a_listener_of_ours_leads_here(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    loops = Loops()
    for target in (80, "/run/web"):
        loops.listens(target)
    v4, v6 = socket.AF_INET, socket.AF_INET6
    assert loops.leads_here(80, v4, ("127.0.0.9", 80))
    assert loops.leads_here(80, v4, ("0.0.0.0", 80))
    assert loops.leads_here(80, v6, ("::1", 80, 0, 0))
    assert loops.leads_here("/run/web", socket.AF_UNIX, "/var/run/web")
    assert not loops.leads_here(81, v4, ("127.0.0.1", 81))
    assert not loops.leads_here(80, v4, ("192.0.2.1", 80)), "another host's"
    monkeypatch.setattr(module, "is_own_host", lambda *_: True)
    assert not loops.leads_here(80, v4, ("192.0.2.1", 80)), "asked a moment ago"
    now = module.OWN_HOST_SECONDS
    assert loops.leads_here(80, v4, ("192.0.2.1", 80)), "it has become ours"


def test_listeners_are_counted() -> None:
    loops = Loops()
    first, second = loops.listens(80), loops.listens(80)
    first()
    assert 80 in loops.listening
    second()
    assert 80 not in loops.listening


def test_a_loop_and_what_leads_into_it_is_an_error() -> None:
    outer = record("x")
    a = record("a", outer)
    b = record("b", a)
    again = record("a", b)
    assert [loop_of(each) for each in (outer, a, b)] == [[], [], []]
    loop = loop_of(again)
    assert end_loop(loop, 1.0) == "a loop of services: a → b → a"
    assert [each.reason for each in (outer, a, b, again)] == ["error"] * 3 + [None]
    assert b.detail == "a loop of services: a → b → a"


def test_a_service_that_chooses_another_backend_is_in_no_loop() -> None:
    assert loop_of(record("a", record("b", record("a")), backend="elsewhere")) == []


@pytest.mark.parametrize(
    ("local", "remote", "is_own"),
    [
        (("127.0.0.1", 5), ("127.0.0.1", 5), True),
        (("127.0.0.1", 5), ("127.0.0.1", 6), False),
        (("127.0.0.1", 5), ("127.0.0.2", 5), False),
        (("127.0.0.1", 5), ("0.0.0.0", 5), True),
        (("::1", 5, 0, 0), ("::", 5, 0, 0), True),
        (("fe80::1", 5, 0, 3), ("fe80::1", 5, 0, 3), True),
    ],
)
def test_own_addresses(local: object, remote: object, is_own: bool) -> None:
    assert is_own_address(local, remote) == is_own


def test_ports_of_clients_are_ephemeral() -> None:
    with Link().dialled as client:
        assert client.getsockname()[1] in ephemeral_ports()


def test_ephemeral_ports_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "no such file")

    monkeypatch.setattr("builtins.open", fail)
    assert {80, 65535} <= set(ephemeral_ports())


def test_there_is_a_source_address_for_the_loopback() -> None:
    assert has_source_address(socket.AF_INET, ("127.0.0.1", 80))
