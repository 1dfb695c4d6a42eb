"""Real factories, wrapped, on real sockets: their peers must notice nothing.

What may depend on wrapping runs twice, without and with it, and must leave the same
transcript.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import io
import os
import select
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import ISession
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.session import SSHSession
from twisted.cred.portal import IRealm, Portal
from twisted.internet import error
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.threads import deferToThread
from twisted.mail.smtp import ESMTP, ESMTPSenderFactory, IMessage, IMessageDelivery, SMTPFactory
from twisted.protocols import amp
from twisted.protocols.basic import FileSender
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data
from zope.interface import implementer

from monconn.model import tcpinfo
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import Observer
from monconn.monitor.monitor import Monitor
from monconn.net.sockets import ErrorTrackingSocket, descriptor_of, unread_bytes
from monconn.policy.rules import Rules
from monconn.policy.timeouts import GRACE_SECONDS
from monconn.relay.transports.dial import OneProtocol
from monconn.wrapping import MonitoringFactory
from tests import ROOT

PATIENCE_SECONDS = 20.0
HOST = "127.0.0.1"
BIG = bytes(range(256)) * 40_000  # 10 MB: more than the buffers of both sides hold

T = TypeVar("T")
Wrap = Callable[[Any], Any]
Scenario = Callable[..., Coroutine[Any, Any, None]]


def real(test: Scenario) -> Any:
    return pytest_twisted.ensureDeferred(test)


def within(deferred: Deferred[T]) -> Deferred[T]:
    """The same, failing when it takes too long."""
    from twisted.internet import reactor

    return deferred.addTimeout(PATIENCE_SECONDS, reactor)


def in_thread(call: Callable[..., T], *arguments: Any) -> Deferred[T]:
    return within(deferToThread(call, *arguments))


class Watch(Monitor):
    """A monitor whose closed connections can be waited for."""

    def __init__(self, rules: Rules | None = None) -> None:
        super().__init__("real", rules)
        self.over: DeferredQueue[ConnectionRecord] = DeferredQueue()
        watch = Observer()
        watch.closed = self.over.put  # type: ignore[assignment,method-assign]
        self.add_observer(watch)

    def next_closed(self) -> Deferred[ConnectionRecord]:
        return within(self.over.get())


class World:
    """Listeners and connectors that are gone at the end of a test."""

    def __init__(self, certificate: PrivateCertificate) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.certificate = certificate
        self.ports: list[Any] = []
        self.monitor = Watch()

    def wrap(self, factory: Any, **options: Any) -> MonitoringFactory:
        return MonitoringFactory(self.monitor, factory, **options)

    def listen(self, factory: Any, *, tls: bool = False) -> int:
        """Its port."""
        if tls:
            options = self.certificate.options()
            port = self.reactor.listenSSL(0, factory, options, interface=HOST)
        else:
            port = self.reactor.listenTCP(0, factory, interface=HOST)
        self.ports.append(port)
        return int(port.getHost().port)

    def connect(self, port: int, factory: Any, *, tls: bool = False) -> Deferred[Any]:
        endpoint: Any = TCP4ClientEndpoint(self.reactor, HOST, port)
        if tls:
            endpoint = wrapClientTLS(CertificateOptions(verify=False), endpoint)
        return within(endpoint.connect(factory))

    async def clear(self) -> None:
        for port in self.ports:
            await port.stopListening()
        for transport in self.open_connections():
            transport.abortConnection()
        await until(lambda: not self.open_connections())

    def open_connections(self) -> list[Any]:
        """The transports of accepted and outgoing connections that the reactor still has."""
        descriptors = {*self.reactor.getReaders(), *self.reactor.getWriters()}
        return [each for each in descriptors if hasattr(each, "protocol")]


async def until(condition: Callable[[], bool]) -> None:
    """Let the reactor turn until a condition holds."""
    from twisted.internet import reactor, task

    give_up = reactor.seconds() + PATIENCE_SECONDS
    while not condition():
        assert reactor.seconds() < give_up, "it never came to be"
        await task.deferLater(reactor, 0.001)


@pytest.fixture(scope="session")
def certificate() -> PrivateCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + made.public_bytes(serialization.Encoding.PEM)
    loaded: PrivateCertificate = PrivateCertificate.loadPEM(pem)
    return loaded


@pytest_twisted.async_yield_fixture
async def world(certificate: PrivateCertificate) -> Any:
    world = World(certificate)
    yield world
    await world.clear()


class Inbox(Protocol):
    """Stores what it receives, and fires when the connection is over."""

    def __init__(self) -> None:
        self.received = b""
        self.over: Deferred[type[BaseException] | None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        self.over.callback(reason.type)


# -- twisted.web


def site() -> Site:
    root = Resource()
    root.putChild(b"", Data(b"hello", "text/plain"))
    root.putChild(b"big", Data(BIG, "application/octet-stream"))
    return Site(root)


def curl(path: str, *arguments: str) -> str:
    done = subprocess.run(
        [path, "--silent", "--show-error", "--insecure", "--noproxy", "*", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return done.stdout if done.returncode == 0 else f"exit status {done.returncode}: {done.stderr}"


@pytest.mark.parametrize("offer", ["--http2", "--http1.1", "--no-alpn"])
@real
async def test_curl_fetches_from_a_site_over_tls_whatever_it_offers(
    world: World, program: Callable[[str], str], offer: str
) -> None:
    path = program("curl")
    answers = []
    for factory in (site(), world.wrap(site())):
        url = f"https://{HOST}:{world.listen(factory, tls=True)}/"
        answers.append(await in_thread(curl, path, offer, "--write-out", " %{http_version}", url))
    assert answers[0] == answers[1]
    assert answers[0].startswith("hello ")
    record = await world.monitor.next_closed()
    assert record.up > len("GET / HTTP/1.1")
    assert record.down > len("hello")
    # After HTTP/2, curl leaves bytes of ours unread, for which the kernel sends a reset.
    assert record.reason in ("client_closed", "client_reset")


@real
async def test_a_big_page_comes_whole_over_tls_and_is_counted(
    world: World, program: Callable[[str], str], tmp_path: Path
) -> None:
    path, fetched = program("curl"), tmp_path / "fetched"
    port = world.listen(world.wrap(site()), tls=True)
    sizes = ("--write-out", "%{size_request} %{size_header}")
    out = await in_thread(
        curl, path, "--http1.1", *sizes, "--output", str(fetched), f"https://{HOST}:{port}/big"
    )
    record = await world.monitor.next_closed()
    request_bytes, header_bytes = map(int, out.split())
    assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(BIG).digest()
    assert (record.up, record.down) == (request_bytes, header_bytes + len(BIG))


@real
async def test_an_idle_https_connection_is_closed_at_once_and_in_order(world: World) -> None:
    port = world.listen(world.wrap(site()), tls=True)
    client = await world.connect(port, Factory.forProtocol(Inbox), tls=True)
    client.transport.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await until(lambda: client.received.endswith(b"hello"))
    (record,) = world.monitor.connections()
    world.monitor.close(record.id)
    assert await within(client.over) is error.ConnectionDone
    assert await world.monitor.next_closed() is record
    assert record.reason == "operator"
    assert record.age_seconds(0) - (record.ending or 0) + record.opened < GRACE_SECONDS


# -- SSH


@implementer(ISession)
class Cat:
    """Runs one command: ``cat``."""

    def execCommand(self, proto: Any, command: bytes) -> None:
        assert command == b"cat"
        self.proto = proto
        proto.makeConnection(self)  # whose transport we are
        self.channel = proto.session

    def closed(self) -> None:
        pass

    def windowChanged(self, size: Any) -> None:
        pass

    def eofReceived(self) -> None:
        self.channel.conn.sendRequest(self.channel, b"exit-status", struct.pack(">L", 0))
        self.channel.conn.sendClose(self.channel)

    def getPty(self, term: Any, size: Any, modes: Any) -> None:
        raise NotImplementedError

    def openShell(self, proto: Any) -> None:
        raise NotImplementedError

    # what an SSH session writes to
    def write(self, data: bytes) -> None:
        self.channel.write(data)

    def loseConnection(self) -> None:
        pass


class SshUser(ConchUser):
    def __init__(self) -> None:
        super().__init__()
        self.channelLookup[b"session"] = SSHSession

    def __conform__(self, interface: Any) -> Any:
        return Cat() if interface is ISession else None


@implementer(IRealm)
class SshRealm:
    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        return interfaces[0], SshUser(), lambda: None


def new_ssh_key(path: Path) -> Key:
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    path.write_bytes(text)
    path.chmod(stat.S_IRUSR)
    made: Key = Key.fromString(text)
    return made


def ssh_server(folder: Path) -> Any:
    user_key, host_key = new_ssh_key(folder / "user"), new_ssh_key(folder / "host")
    factory: Any = SSHFactory()
    factory.publicKeys = {host_key.sshType(): host_key.public()}
    factory.privateKeys = {host_key.sshType(): host_key}
    checker = SSHPublicKeyChecker(InMemorySSHKeyDB({b"user": [user_key.public()]}))
    factory.portal = Portal(SshRealm(), [checker])
    return factory


def ssh_cat(path: str, folder: Path, port: int, data: bytes) -> bytes:
    options = [
        *("-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"),
        *("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={folder / 'known'}"),
        *("-o", "LogLevel=ERROR", "-i", str(folder / "user"), "-p", str(port)),
    ]
    done = subprocess.run(
        [path, *options, f"user@{HOST}", "cat"],
        input=data,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@real
async def test_openssh_talks_to_conchs_ssh_server(
    world: World, program: Callable[[str], str], tmp_path: Path
) -> None:
    data = BIG[:300_000]
    port = world.listen(world.wrap(ssh_server(tmp_path)))
    assert await in_thread(ssh_cat, program("ssh"), tmp_path, port, data) == data
    record = await world.monitor.next_closed()
    assert min(record.up, record.down) > len(data)
    assert record.reason in ("client_closed", "backend_closed")  # both say goodbye


# -- SMTP, whose client and server start TLS in the middle


@implementer(IMessage)
class MailIn:
    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines

    def lineReceived(self, line: bytes) -> None:
        self.lines.append(line)

    def eomReceived(self) -> Deferred[bytes]:
        done: Deferred[bytes] = Deferred()
        done.callback(b"kept")
        return done

    def connectionLost(self) -> None:
        pass


@implementer(IMessageDelivery)
class MailRoom:
    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        return bytes(b"Received: from " + helo[0])

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        return origin

    def validateTo(self, user: Any) -> Any:
        return lambda: MailIn(self.lines)


class MailServer(SMTPFactory):
    def __init__(self, room: MailRoom, context: Any) -> None:
        super().__init__()
        self.room, self.context = room, context

    def buildProtocol(self, addr: Any) -> Any:
        protocol = ESMTP(contextFactory=self.context)
        protocol.delivery, protocol.host, protocol.factory = self.room, "localhost", self
        return protocol


@real
async def test_mail_is_sent_over_tls_that_starts_in_the_middle(world: World) -> None:
    room = MailRoom()
    port = world.listen(world.wrap(MailServer(room, world.certificate.options())))
    message = EmailMessage()
    message["Subject"] = "secret"
    message.set_content("body\n")
    sent: Deferred[Any] = Deferred()
    sender = ESMTPSenderFactory(
        *(b"", b"", b"from@localhost", b"to@localhost", io.BytesIO(message.as_bytes()), sent),
        retries=0,
        contextFactory=CertificateOptions(verify=False),
        requireAuthentication=False,
        requireTransportSecurity=True,
    )
    client_monitor = Watch()
    factory = MonitoringFactory(client_monitor, sender)
    assert factory.is_client
    world.reactor.connectTCP(HOST, port, factory)
    await within(sent)
    ours, theirs = await client_monitor.next_closed(), await world.monitor.next_closed()
    assert b"Subject: secret" in room.lines
    assert (ours.up, ours.down) == (theirs.up, theirs.down)  # both count clear text
    assert ours.up > len(message.as_bytes())
    # Which side ends first is a race; that each wrapper records its own view is not.
    assert {ours.reason, theirs.reason} <= {"client_closed", "backend_closed"}


# -- AMP


class Double(amp.Command):
    arguments = [(b"number", amp.Integer())]
    response = [(b"doubled", amp.Integer())]


class Peer(amp.AMP):
    """Answers, and can be asked to ask back."""

    transport: Any

    @Double.responder
    def double(self, number: int) -> dict[str, int]:
        return {"doubled": 2 * number}


class PeerFactory(Factory):
    """Remembers its latest peer."""

    def buildProtocol(self, addr: Any) -> Peer:
        self.peer = Peer()
        return self.peer


@real
async def test_amp_calls_both_ways_with_both_sides_wrapped(world: World) -> None:
    server_factory, client_factory, client_monitor = PeerFactory(), PeerFactory(), Watch()
    port = world.listen(world.wrap(server_factory))
    wrapped = MonitoringFactory(client_monitor, client_factory, is_client=True)
    await world.connect(port, wrapped)
    for number in range(5):
        there = await within(client_factory.peer.callRemote(Double, number=number))
        back = await within(server_factory.peer.callRemote(Double, number=number))
        assert there == back == {"doubled": 2 * number}
    client_factory.peer.transport.loseConnection()
    ours, theirs = await client_monitor.next_closed(), await world.monitor.next_closed()
    assert (ours.up, ours.down) == (theirs.up, theirs.down)
    assert ours.reason == theirs.reason == "client_closed"
    assert ours.client == theirs.client
    assert ours.backend == f"{HOST}:{port}"


class Secure(Peer):
    certificate: PrivateCertificate

    @amp.StartTLS.responder
    def secure(self) -> dict[str, Any]:
        return {"tls_localCertificate": self.certificate}


@real
async def test_amp_starts_tls_with_both_sides_wrapped(world: World) -> None:
    class Server(Secure):
        certificate = world.certificate

    port = world.listen(world.wrap(Factory.forProtocol(Server)))
    wrapped = MonitoringFactory(Watch(), PeerFactory(), is_client=True)
    client: Peer = (await world.connect(port, wrapped)).wrappedProtocol
    await within(client.callRemote(amp.StartTLS))
    assert await within(client.callRemote(Double, number=21)) == {"doubled": 42}
    assert client.transport.getPeerCertificate() is not None
    client.transport.loseConnection()
    record = await world.monitor.next_closed()
    assert record.reason == "client_closed"
    assert record.up > 0


class Pass(amp.Command):
    arguments = [(b"file", amp.Descriptor())]


class Receiver(amp.AMP):
    @Pass.responder
    def take(self, file: int) -> dict[str, Any]:
        self.text = os.fdopen(file, "rb").read()
        return {}


@real
async def test_amp_passes_descriptors_over_a_unix_socket(world: World, tmp_path: Path) -> None:
    receiver = Receiver()
    factory = Factory()
    factory.buildProtocol = lambda addr: receiver  # type: ignore[method-assign]
    path = str(tmp_path / "amp.sock")
    world.ports.append(world.reactor.listenUNIX(path, world.wrap(factory)))
    wrapped = MonitoringFactory(Watch(), Factory.forProtocol(amp.AMP), is_client=True)
    connected = await within(UNIXClientEndpoint(world.reactor, path).connect(wrapped))
    (tmp_path / "file").write_bytes(b"by descriptor")
    with (tmp_path / "file").open("rb") as file:
        await within(connected.wrappedProtocol.callRemote(Pass, file=file.fileno()))
    assert receiver.text == b"by descriptor"
    (record,) = world.monitor.connections()
    assert (record.client, record.client_ip) == (f"unix:{os.getpid()}", "unix")
    connected.transport.loseConnection()
    assert (await world.monitor.next_closed()).reason == "client_closed"


# -- producers


class Pulled(Protocol):
    """Sends something big by a pull producer, then ends."""

    transport: Any

    def connectionMade(self) -> None:
        sent = FileSender().beginFileTransfer(io.BytesIO(BIG), self.transport)
        sent.addCallbacks(lambda _: self.transport.loseConnection(), lambda _: None)


@implementer(IPushProducer)
class Pushed(Protocol):
    """Sends something big by a push producer, then ends."""

    transport: Any
    pauses = 0

    def connectionMade(self) -> None:
        self.at, self.paused = 0, False
        self.transport.registerProducer(self, True)
        self.produce()

    def produce(self) -> None:
        while not self.paused and self.at < len(BIG):
            # Moved on first: a write may pause and resume us before it comes back.
            at, self.at = self.at, self.at + 50_000
            self.transport.write(BIG[at : at + 50_000])
        if self.at >= len(BIG):
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def pauseProducing(self) -> None:
        self.paused = True
        type(self).pauses += 1

    def resumeProducing(self) -> None:
        self.paused = False
        self.produce()

    def stopProducing(self) -> None:
        self.paused = True


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("protocol", [Pulled, Pushed])
@real
async def test_a_producer_sends_a_large_body_completely(
    world: World, protocol: type[Protocol], tls: bool
) -> None:
    Pushed.pauses = 0
    wrapped = MonitoringFactory(
        client_monitor := Watch(), Factory.forProtocol(Inbox), is_client=True
    )
    port = world.listen(world.wrap(Factory.forProtocol(protocol)), tls=tls)
    client = (await world.connect(port, wrapped, tls=tls)).wrappedProtocol
    assert await within(client.over) is error.ConnectionDone
    assert client.received == BIG
    ours, theirs = await client_monitor.next_closed(), await world.monitor.next_closed()
    assert (ours.up, ours.down) == (theirs.up, theirs.down) == (0, len(BIG))
    assert ours.reason == theirs.reason == "backend_closed"
    assert (Pushed.pauses > 0) == (protocol is Pushed)


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@real
async def test_an_endless_producer_does_not_delay_our_close(world: World, tls: bool) -> None:
    class Endless(Pushed):
        def produce(self) -> None:
            while not self.paused:
                self.transport.write(bytes(50_000))

    port = world.listen(world.wrap(Factory.forProtocol(Endless)), tls=tls)
    client = await world.connect(port, Factory.forProtocol(Inbox), tls=tls)
    await until(lambda: len(client.received) > 1_000_000)
    (record,) = world.monitor.connections()
    world.monitor.close(record.id)
    assert await within(client.over) is error.ConnectionDone
    await world.monitor.next_closed()
    assert record.down == len(client.received)


# -- refusals


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@real
async def test_a_blocked_client_is_closed_and_leaves_no_socket(world: World, tls: bool) -> None:
    class MustNotBuild(Factory):
        def buildProtocol(self, addr: Any) -> None:
            raise AssertionError("a refused client reached the wrapped factory")

    world.monitor.block(HOST)
    port = world.listen(world.wrap(MustNotBuild()), tls=tls)
    assert await in_thread(received_until_end, port) == b""
    await until(lambda: not world.open_connections())
    assert world.monitor.stats()["refused_by"] == {"blocked": 1}
    assert len(world.monitor) == 0


def received_until_end(port: int) -> bytes:
    """What a client gets that says nothing; a reset is an end, too."""
    try:
        # Refused before TLS's handshake it is reset, perhaps before ``connect`` returns.
        with socket.create_connection((HOST, port), timeout=PATIENCE_SECONDS) as sock:
            return b"".join(iter(lambda: sock.recv(65536), b""))
    except ConnectionResetError:
        return b""


@real
async def test_an_outgoing_connection_that_is_refused_fails(world: World) -> None:
    monitor = Watch(Rules(conn_limit=1))
    port = world.listen(Factory.forProtocol(Inbox))
    factory = MonitoringFactory(monitor, Factory.forProtocol(Inbox), is_client=True)
    first = await world.connect(port, factory)
    with pytest.raises(error.NoProtocol):
        await world.connect(port, factory)
    first.wrappedProtocol.transport.loseConnection()
    assert (await monitor.next_closed()).reason == "client_closed"
    assert monitor.stats()["refused_by"] == {"conn_limit": 1}


# -- ends by the peer


def send_and_reset(port: int) -> None:
    with socket.create_connection((HOST, port), timeout=PATIENCE_SECONDS) as sock:
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"  # so that nothing but the reset is under way
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Echo(Protocol):
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


@real
async def test_a_client_that_resets_is_client_reset(world: World) -> None:
    port = world.listen(world.wrap(Factory.forProtocol(Echo)))
    await in_thread(send_and_reset, port)
    record = await world.monitor.next_closed()
    assert (record.reason, record.client_end, record.backend_end) == (
        *("client_reset", "reset", "none"),
    )
    assert (record.up, record.down) == (5, 5)
    assert record.client_tcp is not None
    assert tcpinfo.parse(record.client_tcp).mss_bytes > 0
    assert record.backend_tcp is None  # there is one socket only


class Resumes(Protocol):
    """Resumes another transport as soon as it receives anything."""

    def __init__(self, other: Protocol) -> None:
        self.other: Any = other

    def dataReceived(self, data: bytes) -> None:
        self.other.transport.resumeProducing()


@pytest.mark.parametrize("tls", [False, True])
@real
async def test_a_hang_up_reported_while_paused_is_no_end_after_a_resume(
    world: World, tls: bool
) -> None:
    server = Inbox()
    resumes = Resumes(server)
    port = world.listen(world.wrap(OneProtocol(server)), tls=tls)
    client = await world.connect(port, Factory.forProtocol(Inbox), tls=tls)
    client.transport.write(b"first and ")
    await until(lambda: server.received == b"first and ")
    descriptor: Any = descriptor_of(server.transport)
    client_descriptor: Any = descriptor_of(client.transport)
    client.transport.pauseProducing()
    server_transport: Any = server.transport
    server_transport.pauseProducing()
    server_transport.write(BIG)  # so that the reactor goes on asking about it
    client.transport.write(b"last words")
    await until(lambda: unread_bytes(descriptor.socket) > 0)
    with socket.create_connection((HOST, world.listen(OneProtocol(resumes)))) as other:
        await until(lambda: bool(resumes.connected))
        # The reactor fetches the events of both at once, and reports this one first.
        other.send(b"read on")
        # A busy kernel delivers it later (ksoftirqd): the reset must not overtake it.
        readable: Any = descriptor_of(resumes.transport)
        arrived, _, _ = select.select([readable], [], [], PATIENCE_SECONDS)
        assert arrived
        client_descriptor.connectionLost(Failure(error.ConnectionAborted()))
        record = await world.monitor.next_closed()
    assert server.received == b"first and last words"
    assert await within(server.over) is error.ConnectionLost
    assert (record.reason, record.client_end) == ("client_reset", "reset")


@real
async def test_a_tls_client_that_vanishes_without_notice_has_closed(world: World) -> None:
    port = world.listen(world.wrap(Factory.forProtocol(Echo)), tls=True)
    client = await world.connect(port, Factory.forProtocol(Inbox), tls=True)
    client.transport.write(b"hello")
    await until(lambda: client.received == b"hello")
    client.transport.transport.loseConnection()  # the TCP beneath: no close_notify is sent
    record = await world.monitor.next_closed()
    assert (record.reason, record.client_end) == ("client_closed", "fin")


def say_something_else_than_tls(port: int) -> None:
    with socket.create_connection((HOST, port), timeout=PATIENCE_SECONDS) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while sock.recv(4096):
            pass


@real
async def test_a_failed_handshake_is_an_error_with_its_text(world: World) -> None:
    port = world.listen(world.wrap(Factory.forProtocol(Echo)), tls=True)
    await in_thread(say_something_else_than_tls, port)
    record = await world.monitor.next_closed()
    assert record.reason == "error"
    assert record.detail == "the client speaks plain HTTP"


class Cut(socket.socket):
    """A socket whose peer has vanished, as the kernel reports it after its last retransmission."""

    __slots__ = ()

    def recv(self, *_: Any) -> bytes:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")


class CutTrackingSocket(ErrorTrackingSocket, Cut):
    __slots__ = ()


class CuttingFactory(WrappingFactory):
    """Puts such a socket beneath every connection."""

    def buildProtocol(self, addr: Any) -> Any:
        protocol = self.wrappedFactory.buildProtocol(addr)
        connect = protocol.makeConnection

        def make_connection(transport: Any) -> None:
            plain = transport.socket
            cut = CutTrackingSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
            cut.error_number, cut.keep_unread, cut.unread_data = 0, False, b""
            cut.allowance = None
            cut.setblocking(False)
            transport.socket, transport.fileno = cut, cut.fileno
            connect(transport)

        protocol.makeConnection = make_connection
        return protocol


@real
async def test_a_client_that_vanished_is_client_lost(world: World) -> None:
    port = world.listen(CuttingFactory(world.wrap(Factory.forProtocol(Echo))))
    client = await world.connect(port, Factory.forProtocol(Inbox))
    client.transport.write(b"never read")
    record = await world.monitor.next_closed()
    assert (record.reason, record.client_end) == ("client_lost", "timeout")


@real
async def test_a_servers_record_says_where_it_listens(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "a:b.sock")
    world.ports.append(world.reactor.listenUNIX(path, world.wrap(Factory.forProtocol(Echo))))
    port = world.listen(world.wrap(Factory.forProtocol(Echo)))
    tls = world.listen(world.wrap(Factory.forProtocol(Echo)), tls=True)
    endpoints = [UNIXClientEndpoint(world.reactor, path)]
    for endpoint in (
        *endpoints,
        *(TCP4ClientEndpoint(world.reactor, HOST, p) for p in (port, tls)),
    ):
        client: Any = await within(endpoint.connect(Factory.forProtocol(Inbox)))
        await until(lambda: len(world.monitor) == 1)
        client.transport.abortConnection()
        await world.monitor.next_closed()
    assert [record.listener for record in world.monitor.closed_records] == [
        f"unix:{tmp_path}/a\\:b.sock",
        f"{HOST}:{port}",
        f"{HOST}:{tls}",
    ]


@real
async def test_the_given_listener_is_shown_and_a_client_has_none(world: World) -> None:
    world.monitor.listen = "the front door"
    port = world.listen(world.wrap(Factory.forProtocol(Echo)))
    calls = Watch()
    calling = MonitoringFactory(calls, Factory.forProtocol(Inbox), is_client=True)
    wrapper = await world.connect(port, calling)
    wrapper.loseConnection()
    assert (await world.monitor.next_closed()).listener == "the front door"
    assert (await calls.next_closed()).listener == ""


STOPPING = """
import sys
from twisted.internet import protocol, reactor, ssl
import monconn

class Client(protocol.Protocol):
    def connectionMade(self):
        reactor.callLater(0, reactor.callLater, 0, reactor.stop)

class Reasons(monconn.Observer):
    def closed(self, record):
        print(record.service, record.reason, record.client_end, record.backend_end)

server, client = monconn.new("server"), monconn.new("client")
server.add_observer(Reasons())
client.add_observer(Reasons())
factory = monconn.MonitoringFactory(server, protocol.Factory.forProtocol(protocol.Protocol))
port = reactor.listenTCP(0, factory, interface="127.0.0.1")
calling = protocol.ClientFactory()
calling.protocol = Client
calling = monconn.MonitoringFactory(client, calling)
reactor.connectTCP("127.0.0.1", port.getHost().port, calling)
reactor.run()
"""


def test_a_reactor_that_stops_has_not_been_reset_by_anyone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPING],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    # The one that is closed last may hear of the other's end.
    first, second = (line.partition(" ")[2] for line in done.stdout.splitlines())
    assert first == "stopping none none"
    assert second in ("stopping none none", "backend_closed none fin", "client_closed fin none")


@real
async def test_a_hang_up_while_we_do_not_read_is_an_end(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "paused.sock")
    server = Inbox()
    world.ports.append(world.reactor.listenUNIX(path, world.wrap(OneProtocol(server))))
    endpoint = UNIXClientEndpoint(world.reactor, path)
    client: Any = await within(endpoint.connect(Factory.forProtocol(Inbox)))
    await until(lambda: bool(server.connected))
    transport: Any = server.transport
    transport.pauseProducing()
    client.transport.loseConnection()
    await within(client.over)
    descriptor: Any = descriptor_of(transport)
    descriptor.startWriting()  # the reactor asks about it, though not whether there is input
    record = await world.monitor.next_closed()
    assert (record.reason, record.client_end) == ("client_closed", "fin")


# -- nothing changes: the same conversation, without and with a wrapper


class Talker(Protocol):
    """Writes down all that happens to it, times and sizes of chunks apart."""

    transport: Any

    def __init__(self) -> None:
        self.happened: list[Any] = []
        self.over: Deferred[None] = Deferred()

    def note(self, what: Any) -> None:
        if isinstance(what, bytes) and self.happened and isinstance(self.happened[-1], bytes):
            self.happened[-1] += what  # the number of reads depends on the kernel
        else:
            self.happened.append(what)

    def connectionMade(self) -> None:
        self.note("made")

    def dataReceived(self, data: bytes) -> None:
        self.note(data)

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        assert reason.type is not None
        self.note(reason.type.__name__)
        self.over.callback(None)


@implementer(IHalfCloseableProtocol)
class HalfCloseableTalker(Talker):
    def readConnectionLost(self) -> None:
        self.note("read end")
        self.ended()

    def writeConnectionLost(self) -> None:
        self.note("write end")

    def ended(self) -> None:
        pass


class LateAnswer(HalfCloseableTalker):
    """Answers once its peer has ended, by a sequence."""

    def ended(self) -> None:
        self.transport.writeSequence([b"late ", b"answer ", BIG])
        self.transport.loseConnection()


class EndsFirst(HalfCloseableTalker):
    """Ends its side at once, and listens on."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.write(b"all I have to say")
        self.transport.loseWriteConnection()

    def ended(self) -> None:
        self.transport.loseConnection()


class NotHalfCloseable(Talker):
    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.write(b"answer")


class Aborts(Talker):
    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.abortConnection()


class Pauses(Talker):
    """Holds its peer back for a while after each chunk."""

    def dataReceived(self, data: bytes) -> None:
        from twisted.internet import reactor

        super().dataReceived(data)
        self.transport.pauseProducing()
        reactor.callLater(0, self.go_on)

    def go_on(self) -> None:
        if self.transport.connected:
            self.transport.resumeProducing()


class Raises(Talker):
    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        raise ValueError("by its author")


def talk_and_end(sock: socket.socket) -> list[Any]:
    sock.sendall(b"question")
    sock.shutdown(socket.SHUT_WR)
    return read_to_the_end(sock)


def talk(sock: socket.socket) -> list[Any]:
    sock.sendall(b"question")
    return read_to_the_end(sock)


def talk_listen_and_end(sock: socket.socket) -> list[Any]:
    sock.sendall(b"question")
    received = sock.recv(len(b"answer"), socket.MSG_WAITALL)
    sock.shutdown(socket.SHUT_WR)
    return [received, *read_to_the_end(sock)]


def listen_then_talk(sock: socket.socket) -> list[Any]:
    received = read_to_the_end(sock)
    sock.sendall(b"late question")
    return received


def talk_and_reset(sock: socket.socket) -> list[Any]:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return []


def send_much(sock: socket.socket) -> list[Any]:
    sock.sendall(BIG[:1_000_000])
    sock.shutdown(socket.SHUT_WR)
    return read_to_the_end(sock)


def read_to_the_end(sock: socket.socket) -> list[Any]:
    received = b""
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        return [received, "reset"]
    return [received, "end"]


CONVERSATIONS: list[tuple[type[Talker], Callable[[socket.socket], list[Any]], str]] = [
    (LateAnswer, talk_and_end, "client_closed"),
    (EndsFirst, listen_then_talk, "backend_closed"),
    (NotHalfCloseable, talk_listen_and_end, "client_closed"),
    (Aborts, talk, "backend_reset"),
    (Talker, talk_and_reset, "client_reset"),
    (HalfCloseableTalker, talk_and_reset, "client_reset"),
    (Pauses, send_much, "client_closed"),
    (Raises, talk, "error"),
]


@pytest.mark.parametrize(
    ("protocol", "peer", "reason"),
    CONVERSATIONS,
    ids=[f"{protocol.__name__}-{peer.__name__}" for protocol, peer, _ in CONVERSATIONS],
)
@real
async def test_a_conversation_is_the_same_without_and_with_a_wrapper(
    world: World,
    logged_failures: list[Failure],
    protocol: type[Talker],
    peer: Callable[[socket.socket], list[Any]],
    reason: str,
) -> None:
    transcripts = []
    for wrap in (lambda factory: factory, world.wrap):
        talkers: list[Talker] = []
        factory = RememberingFactory(protocol, talkers)
        received = await in_thread(converse, world.listen(wrap(factory)), peer)
        await until(lambda talkers=talkers: bool(talkers))  # type: ignore[misc]
        await within(talkers[0].over)
        transcripts.append((talkers[0].happened, received))
    assert transcripts[0] == transcripts[1]
    assert (await world.monitor.next_closed()).reason == reason
    assert {str(failure.value) for failure in logged_failures} <= {"by its author"}
    logged_failures.clear()


class RememberingFactory(Factory):
    def __init__(self, protocol: type[Talker], talkers: list[Talker]) -> None:
        self.talker, self.talkers = protocol, talkers

    def buildProtocol(self, addr: Any) -> Talker:
        self.talkers.append(self.talker())
        return self.talkers[-1]


def converse(port: int, peer: Callable[[socket.socket], list[Any]]) -> list[Any]:
    with socket.create_connection((HOST, port), timeout=PATIENCE_SECONDS) as sock:
        return peer(sock)


class Generates(Talker):
    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.writeSequence(self.pieces())
        self.transport.loseConnection()

    def pieces(self) -> Iterator[bytes]:
        yield from (b"one ", b"", b"by ", b"one")


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@real
async def test_a_sequence_from_a_generator_arrives_and_is_counted(world: World, tls: bool) -> None:
    port = world.listen(world.wrap(Factory.forProtocol(Generates)), tls=tls)
    client = await world.connect(port, Factory.forProtocol(Inbox), tls=tls)
    await within(client.over)
    assert client.received == b"one by one"
    assert (await world.monitor.next_closed()).down == len(client.received)


@real
async def test_a_wrapper_outside_of_tls_counts_bytes_on_the_wire(
    world: World,
) -> None:
    tls = TLSMemoryBIOFactory(world.certificate.options(), False, Factory.forProtocol(Echo))
    port = world.listen(world.wrap(tls))
    client = await world.connect(port, Factory.forProtocol(Inbox), tls=True)
    client.transport.write(b"hello")
    await until(lambda: client.received == b"hello")
    (record,) = world.monitor.connections()
    assert record.up > 200  # the handshake alone is more
    client.transport.loseConnection()
    assert (await world.monitor.next_closed()).reason in ("client_closed", "backend_closed")


@real
async def test_each_connection_of_a_reconnecting_client_is_watched(world: World) -> None:
    class Once(ClientFactory):
        protocol = Inbox
        lost = 0

        def clientConnectionLost(self, connector: Any, reason: Failure) -> None:
            self.lost += 1
            if self.lost < 3:
                connector.connect()

    class Closes(Protocol):
        transport: Any

        def connectionMade(self) -> None:
            self.transport.loseConnection()

    port = world.listen(Factory.forProtocol(Closes))
    once = Once()
    world.reactor.connectTCP(HOST, port, world.wrap(once))
    records = [await world.monitor.next_closed() for _ in range(3)]
    assert [record.reason for record in records] == ["backend_closed"] * 3
    assert len({record.id for record in records}) == 3
    await until(lambda: once.lost == 3)


# -- addresses


@pytest.mark.parametrize("is_wanted", [False, True])
@real
async def test_addresses_of_wrapped_servers_and_clients(world: World, is_wanted: bool) -> None:
    class Wants(Observer):
        wants_addresses = is_wanted

    world.monitor.add_observer(Wants())
    port = world.listen(world.wrap(Factory.forProtocol(Inbox)))
    await world.connect(port, world.wrap(Factory.forProtocol(Inbox), is_client=True))
    await until(lambda: len(world.monitor) == 2)
    server, client = sorted(world.monitor.connections(), key=lambda each: each.client_ip)
    for record in (server, client):
        if not is_wanted:
            assert record.client_local is record.backend_peer is None
            world.monitor.ask_addresses(record.id)
    assert server.client_local == f"{HOST}:{port}"
    assert (client.backend_local, client.backend_peer) == (server.client, f"{HOST}:{port}")
    # It is one connection on the wire.
    assert server.community_id == client.backend_community_id is not None
    assert server.backend_community_id is client.community_id is None
