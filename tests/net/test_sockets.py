"""What the kernel knows of a socket, with real sockets on the loopback."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactor
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from monconn.net.sockets import (
    ErrorTrackingSocket,
    buffered_bytes,
    descriptor_of,
    end_by_errno,
    has_failed,
    peer_credentials,
    peer_pid,
    reset_on_close,
    set_keepalive,
    track_errors,
    unacknowledged_bytes,
)
from monconn.policy.sides import Keepalive
from monconn.testing import MemoryTransport

PATIENCE_SECONDS = 10.0


class Descriptor(FileDescriptor):
    """A transport that has only a socket."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(reactor=object())  # type: ignore[arg-type]
        self.socket: Any = sock
        self.fileno: Any = sock.fileno


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=PATIENCE_SECONDS)
        server, _ = listener.accept()
    server.settimeout(PATIENCE_SECONDS)
    return client, server


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[ErrorTrackingSocket, socket.socket]]:
    """A socket that tracks its errors, and its peer."""
    ours, peer = tcp_pair() if request.param == "tcp" else socket.socketpair()
    tracking = track_errors(Descriptor(ours))
    assert tracking is not None
    yield tracking, peer
    tracking.close()
    peer.close()


@pytest.fixture
def tcp() -> Iterator[tuple[ErrorTrackingSocket, socket.socket]]:
    """The same, TCP only."""
    ours, peer = tcp_pair()
    tracking = track_errors(Descriptor(ours))
    assert tracking is not None
    yield tracking, peer
    tracking.close()
    peer.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wait_for(sock: socket.socket, events: int) -> None:
    poll = select.poll()
    poll.register(sock, events)
    assert poll.poll(PATIENCE_SECONDS * 1000)


def send_for_ever(sock: socket.socket) -> None:
    while True:
        sock.send(bytes(65536))


# -- the socket that tracks errors


def test_to_send_nothing_to_a_peer_that_has_closed_is_no_error(
    pair: tuple[ErrorTrackingSocket, socket.socket],
) -> None:
    # Twisted does so before it ends its writing; the peer may have hung up in the meantime.
    tracking, peer = pair
    peer.close()
    wait_for(tracking, select.POLLIN)
    assert tracking.send(b"") == 0
    assert tracking.error_number == 0


def test_a_socket_is_replaced_by_a_tracking_one_on_the_same_descriptor() -> None:
    ours, peer = tcp_pair()
    number, descriptor = ours.fileno(), Descriptor(ours)
    tracking = track_errors(descriptor)
    assert tracking is not None
    assert descriptor.socket is tracking
    assert descriptor.fileno() == tracking.fileno() == number
    assert ours.fileno() == -1
    assert (tracking.family, tracking.type) == (socket.AF_INET, socket.SOCK_STREAM)
    assert not tracking.getblocking()
    assert track_errors(descriptor) is tracking  # two wrappers share it
    assert tracking is not None
    tracking.close()
    peer.close()


@pytest.mark.parametrize("descriptor", [None, object(), MemoryTransport()])
def test_a_transport_without_a_socket_is_not_tracked(descriptor: Any) -> None:
    assert track_errors(descriptor) is None


def test_nothing_to_read_is_no_error(pair: tuple[ErrorTrackingSocket, socket.socket]) -> None:
    ours, _ = pair
    for read in (ours.recv, ours.recvmsg):
        with pytest.raises(BlockingIOError):
            read(1)
    assert ours.error_number == 0


def test_a_full_send_queue_is_no_error(pair: tuple[ErrorTrackingSocket, socket.socket]) -> None:
    ours, _ = pair
    with pytest.raises(BlockingIOError):
        send_for_ever(ours)
    assert ours.error_number == 0


def test_bytes_pass_as_they_are(pair: tuple[ErrorTrackingSocket, socket.socket]) -> None:
    ours, peer = pair
    assert ours.send(b"there") == 5
    assert peer.recv(10) == b"there"
    peer.send(b"andback")
    wait_for(ours, select.POLLIN)
    assert ours.recv(3) == b"and"
    assert ours.recvmsg(10)[0] == b"back"
    assert ours.error_number == 0


@pytest.mark.parametrize("read", ["recv", "recvmsg"])
def test_a_reset_while_reading_is_recorded(
    tcp: tuple[ErrorTrackingSocket, socket.socket], read: str
) -> None:
    ours, peer = tcp
    reset(peer)
    wait_for(ours, select.POLLERR)
    with pytest.raises(ConnectionResetError):
        getattr(ours, read)(1)
    assert ours.error_number == errno.ECONNRESET


def test_an_error_while_writing_is_recorded(
    pair: tuple[ErrorTrackingSocket, socket.socket],
) -> None:
    ours, peer = pair
    peer.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        send_for_ever(ours)
    assert ours.error_number in (errno.EPIPE, errno.ECONNRESET)


def test_the_first_error_is_retained(tcp: tuple[ErrorTrackingSocket, socket.socket]) -> None:
    ours, peer = tcp
    reset(peer)
    wait_for(ours, select.POLLERR)
    with pytest.raises(ConnectionResetError):
        ours.recv(1)
    with pytest.raises(BrokenPipeError):
        ours.send(b"unread")
    ours.close()
    assert ours.error_number == errno.ECONNRESET


@pytest.mark.parametrize("read", ["recv", "recvmsg"])
def test_a_reset_whose_error_a_write_has_taken_is_no_end(
    tcp: tuple[ErrorTrackingSocket, socket.socket], read: str
) -> None:
    ours, peer = tcp
    reset(peer)
    wait_for(ours, select.POLLERR)
    with pytest.raises(ConnectionResetError):
        ours.send(b"x")
    with pytest.raises(ConnectionResetError):  # the kernel has nothing more to say: b""
        getattr(ours, read)(1)
    assert not ours.has_ended


def test_a_reset_after_an_end_is_told_by_the_error_of_a_write(
    pair: tuple[ErrorTrackingSocket, socket.socket],
) -> None:
    ours, peer = pair
    peer.sendall(b"last words")
    peer.shutdown(socket.SHUT_WR)
    wait_for(ours, select.POLLIN)
    reset(peer)
    wait_for(ours, select.POLLHUP)
    with pytest.raises(BrokenPipeError):
        send_for_ever(ours)
    assert ours.error_number == errno.EPIPE
    assert ours.recv(100) == b"last words"
    assert ours.recv(100) == b""
    assert ours.has_ended


def test_a_unix_socket_closed_with_bytes_unread_is_reset_whatever_a_write_says() -> None:
    ours, peer = socket.socketpair()
    tracking = track_errors(Descriptor(ours))
    assert tracking is not None
    with peer:
        tracking.send(b"unread")
        peer.close()
        with pytest.raises(BrokenPipeError):
            tracking.send(b"more")
        assert tracking.error_number == errno.ECONNRESET
        with pytest.raises(ConnectionResetError):
            tracking.recv(100)
    tracking.close()


def test_a_pending_error_is_recorded_at_the_close(
    tcp: tuple[ErrorTrackingSocket, socket.socket],
) -> None:
    ours, peer = tcp
    reset(peer)
    wait_for(ours, select.POLLERR)
    ours.close()
    ours.close()
    assert ours.error_number == errno.ECONNRESET


def test_an_orderly_end_leaves_no_error(pair: tuple[ErrorTrackingSocket, socket.socket]) -> None:
    ours, peer = pair
    peer.close()
    wait_for(ours, select.POLLIN)
    assert ours.recv(1) == b""
    ours.close()
    assert ours.error_number == 0


def test_unread_data_is_stored_only_on_request(
    pair: tuple[ErrorTrackingSocket, socket.socket],
) -> None:
    ours, peer = pair
    peer.send(b"last words")
    wait_for(ours, select.POLLIN)
    ours.keep_unread = True
    ours.close()
    assert ours.unread_data == b"last words"


def test_unread_data_is_discarded_by_default(
    pair: tuple[ErrorTrackingSocket, socket.socket],
) -> None:
    ours, peer = pair
    peer.send(b"last words")
    wait_for(ours, select.POLLIN)
    ours.close()
    assert ours.unread_data == b""


def test_unread_data_before_a_reset_is_stored(
    tcp: tuple[ErrorTrackingSocket, socket.socket],
) -> None:
    ours, peer = tcp
    peer.send(b"last words")
    reset(peer)
    wait_for(ours, select.POLLERR)
    ours.keep_unread = True
    ours.close()
    assert ours.unread_data == b"last words"
    assert ours.error_number == errno.ECONNRESET


class Ending(Descriptor):
    """Records how a hang-up that the reactor reports is handled."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.calls: list[str] = []

    def startReading(self) -> None:
        self.calls.append("read on")

    def connectionLost(self, reason: Failure) -> None:
        self.calls.append(type(reason.value).__name__)


@pytest.mark.parametrize("read", ["recv", "recvmsg"])
def test_an_end_counts_only_once_it_was_read(read: str) -> None:
    ours, peer = socket.socketpair()
    transport = Ending(ours)
    tracking = track_errors(transport)
    assert tracking is not None
    peer.send(b"last words")
    peer.close()
    for _ in range(2):
        transport.readConnectionLost(Failure(ConnectionDone()))
        assert transport.calls == ["read on"]
        getattr(tracking, read)(10)
        transport.calls.clear()
    transport.readConnectionLost(Failure(ConnectionDone()))
    assert transport.calls == ["ConnectionDone"]
    tracking.close()


def test_a_tracked_transport_is_in_no_reference_cycle() -> None:
    ours, peer = socket.socketpair()
    transport = Ending(ours)
    tracking = track_errors(transport)
    assert tracking is not None
    gone = weakref.ref(transport)
    del transport
    assert gone() is None
    tracking.close()
    peer.close()


@pytest.mark.parametrize(
    ("error_number", "how"),
    [
        (errno.ETIMEDOUT, "timeout"),
        (errno.EHOSTUNREACH, "timeout"),
        (errno.ENETDOWN, "timeout"),
        (errno.ECONNRESET, "reset"),
        (errno.EPIPE, "reset"),
        (0, "reset"),
    ],
)
def test_timeouts_and_resets_are_distinguished(error_number: int, how: str) -> None:
    assert end_by_errno(error_number) == how


# -- transports


def test_the_descriptor_is_found_beneath_every_layer() -> None:
    transport = MemoryTransport()
    layered: Any = transport
    for _ in range(3):
        wrapper = ProtocolWrapper(None, Protocol())  # type: ignore[arg-type]
        wrapper.transport = layered
        layered = wrapper
    assert descriptor_of(layered) is transport
    assert descriptor_of(transport) is transport


@pytest.mark.parametrize("transport", [None, object(), Protocol()])
def test_not_every_transport_has_a_descriptor(transport: Any) -> None:
    assert descriptor_of(transport) is None
    assert buffered_bytes(descriptor_of(transport)) == 0


def test_all_bytes_that_a_transport_buffers_are_counted() -> None:
    class Slow(MemoryTransport):
        def writeSomeData(self, data: bytes) -> int:
            return super().writeSomeData(data[:3])

    transport = Slow()
    transport.write(b"12345")
    transport.writeSequence([b"678", b"90"])
    assert buffered_bytes(transport) == 10
    transport.doWrite()
    assert buffered_bytes(transport) == 7
    transport.write(b"again")
    assert buffered_bytes(transport) == 12
    transport.drain()
    assert buffered_bytes(transport) == 0
    assert transport.written == b"1234567890again"


# -- queries of the kernel


def test_bytes_that_the_peer_has_not_taken_are_unacknowledged(
    tcp: tuple[ErrorTrackingSocket, socket.socket],
) -> None:
    ours, peer = tcp
    assert unacknowledged_bytes(ours) == 0
    with pytest.raises(BlockingIOError):
        send_for_ever(ours)
    assert unacknowledged_bytes(ours) > 0
    give_up = time.monotonic() + PATIENCE_SECONDS
    while unacknowledged_bytes(ours):
        assert time.monotonic() < give_up
        if select.select([peer], [], [], 0.01)[0]:  # else the acknowledgement may be late
            peer.recv(1_000_000)


def test_a_broken_connection_is_seen_without_reading(
    tcp: tuple[ErrorTrackingSocket, socket.socket],
) -> None:
    ours, peer = tcp
    peer.send(b"unread")
    wait_for(ours, select.POLLIN)
    assert not has_failed(ours)
    reset(peer)
    wait_for(ours, select.POLLERR)
    assert has_failed(ours)
    assert ours.recv(10) == b"unread"


def test_an_ended_connection_has_not_failed(
    pair: tuple[ErrorTrackingSocket, socket.socket],
) -> None:
    ours, peer = pair
    peer.close()
    wait_for(ours, select.POLLIN)
    assert not has_failed(ours)


def test_keepalive_is_set_with_its_times(tcp: tuple[ErrorTrackingSocket, socket.socket]) -> None:
    ours, _ = tcp
    set_keepalive(ours, Keepalive(idle=7, interval=3, count=2))
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    options = [
        ours.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    ]
    assert options == [7, 3, 2]
    set_keepalive(ours, None)
    assert not ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize(
    "keepalive", [Keepalive(1, 1, 1), Keepalive(32767, 32767, 127)], ids=["lowest", "highest"]
)
def test_the_kernel_takes_the_bounds_of_keepalive(
    tcp: tuple[ErrorTrackingSocket, socket.socket], keepalive: Keepalive
) -> None:
    set_keepalive(tcp[0], keepalive)


def test_unix_sockets_have_no_keepalive() -> None:
    ours, peer = socket.socketpair()
    set_keepalive(ours, Keepalive())
    assert not ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    ours.close()
    peer.close()


def test_a_close_can_be_made_a_reset(tcp: tuple[ErrorTrackingSocket, socket.socket]) -> None:
    ours, peer = tcp
    reset_on_close(ours)
    ours.close()
    with pytest.raises(ConnectionResetError):
        peer.recv(1)


def test_on_a_unix_socket_a_reset_is_a_close() -> None:
    ours, peer = socket.socketpair()
    reset_on_close(ours)
    ours.close()
    assert peer.recv(1) == b""
    peer.close()


def test_the_process_behind_a_unix_socket_is_known() -> None:
    ours, peer = socket.socketpair()
    assert peer_credentials(ours) == (os.getpid(), os.getuid(), os.getgid())
    assert peer_pid(ours) == os.getpid()
    ours.close()
    peer.close()


def test_what_is_private_to_twisted_and_used_is_there() -> None:
    """``buffered_bytes`` needs it; a new version of Twisted may remove it."""
    transport = FileDescriptor(reactor=MemoryReactor())
    assert transport._tempDataLen == 0


def test_a_tcp_socket_has_no_peer_credentials() -> None:
    """Linux answers there as well, with values that mean nothing: pid 0, uid -1."""
    with socket.socket() as sock:
        assert peer_credentials(sock) is None
        assert peer_pid(sock) == 0
