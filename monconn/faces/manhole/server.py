"""The SSH server: logins by public key, and sessions; nothing else of what SSH offers."""

from __future__ import annotations

import struct
from typing import Any

from twisted.conch import error
from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import IConchUser, ISession
from twisted.conch.ssh import connection, factory, session, userauth
from twisted.conch.ssh import transport as ssh_transport
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.keys import Key
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ISSHPrivateKey
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer, provider

from monconn.addresses import TcpAddress
from monconn.clock import Clock
from monconn.errors import quoted
from monconn.faces.manhole import keys
from monconn.faces.manhole.session import Session
from monconn.log import Logger
from monconn.model.actions import Actor
from monconn.net.sockets import peer_pid
from monconn.ops.operations import Operations
from monconn.places import Places
from monconn.ratelimit import RateLimitedLog
from monconn.turns import TurnQueue

LOGIN_SECONDS = 30.0
"""How long a login may take."""
MAX_UNAUTHENTICATED = 64
"""Connections that have not logged in; a further one displaces one of them."""
GRACE_SECONDS = 0.25
"""How long a connection is not displaced by another. Newcomers wait in the kernel's queue."""
MAX_LOGIN_PACKETS = 100
"""That a client may send before it has logged in; with 6 keys it needs 30."""
MAX_LOGIN_BYTES = 1 << 17
MAX_CONNECTIONS = 32
"""Connections that have logged in."""
CLIENTS_PER_TURN = 4
"""Accepted in one turn of the reactor."""
STRANGERS_LINES_A_SECOND = 5
"""In the log, about clients that have not logged in."""
MAX_SESSIONS = 8
"""On one connection."""
MAX_TRIES = 6
"""Keys that a client may offer in one login."""
SIGNATURES = (
    b"ssh-ed25519",
    b"ecdsa-sha2-nistp256",
    b"ecdsa-sha2-nistp384",
    b"ecdsa-sha2-nistp521",
    b"rsa-sha2-512",
    b"rsa-sha2-256",
)
"""The algorithms that a client may sign with; RSA with SHA-1 is not among them."""
CLOSE_SECONDS = 1.0
"""How long clients may take to disconnect after the message that the manhole closes."""

_log = Logger(namespace="monconn.manhole")


@provider(ILogObserver)
def _log_faults(event: LogEvent) -> None:
    """Pass on what is a fault. Conch describes each packet of strangers, too."""
    if event["log_level"] >= LogLevel.warn:
        globalLogPublisher(event)


_conch_log = Logger(namespace="twisted.conch", observer=_log_faults)


class _ConchLog:
    """Gives subclasses of Conch's classes Conch's log.

    A Logger that is a class attribute takes the name of the class that it is asked through: what
    Conch logs about protocol details would be found among the manhole's own lines.
    """

    def __get__(self, instance: object, owner: type) -> Logger:
        return _conch_log


@implementer(IConchUser)
class User(ConchUser):
    """The avatar of a login: it may open sessions."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.channelLookup[b"session"] = SessionChannel

    def __conform__(self, interface: Any) -> Any:
        """Adapt it to ``ISession``, as Conch does for each session."""
        return Session(self) if interface is ISession else None


class SessionChannel(session.SSHSession):
    """A session's channel, whose output continues when the client has read."""

    _log = _ConchLog()

    def addWindowBytes(self, data: int) -> None:
        """The client has read as many bytes."""
        super().addWindowBytes(data)
        self.continue_output()

    def continue_output(self) -> None:
        """There may be room for output."""
        output = getattr(self.session, "output", None)  # there is none before it is asked for
        if output is not None:
            output.continue_soon()


@implementer(IRealm)
class Realm:
    """Makes a new avatar for each login."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        """Implements ``IRealm.requestAvatar``."""
        if IConchUser not in interfaces:
            raise NotImplementedError("only IConchUser is provided")
        return IConchUser, User(self._operations), lambda: None


@implementer(ICredentialsChecker)
class KeyChecker:
    """Accepts the keys of a file, in the state that it has at each login."""

    credentialInterfaces = (ISSHPrivateKey,)

    def __init__(self, authorized: keys.AuthorizedKeys) -> None:
        self._authorized = authorized

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Implements ``ICredentialsChecker.requestAvatarId``."""
        try:
            return succeed(self._check(credentials))
        except (UnauthorizedLogin, error.ValidPublicKey):
            return fail()
        except Exception as problem:  # fail closed, and without a traceback
            return fail(UnauthorizedLogin(str(problem)))

    def _check(self, credentials: Any) -> bytes:
        key = Key.fromString(credentials.blob, type="blob")
        if not keys.is_strong(key):
            raise UnauthorizedLogin("unacceptable type or size")
        if credentials.blob not in self._authorized.blobs():
            raise UnauthorizedLogin("not in authorized_keys")
        if credentials.signature is None:  # the client asks whether the key would be accepted
            raise error.ValidPublicKey()
        if getNS(credentials.signature)[0] not in SIGNATURES:
            raise UnauthorizedLogin("unacceptable signature algorithm")
        if not key.verify(credentials.signature, credentials.sigData):
            raise UnauthorizedLogin("wrong signature")
        user: bytes = credentials.username
        return user


class Login(userauth.SSHUserAuthServer):
    """Authentication by public key only; logs each login and each refused key."""

    _log = _ConchLog()

    transport: Any
    user: bytes
    attemptsBeforeDisconnect = MAX_TRIES

    def auth_publickey(self, packet: bytes) -> Deferred[Any]:
        """Check a public key; log the login or the refusal."""
        try:
            # Not left to Conch, which would also try formats other than that of the protocol.
            name = keys.fingerprint(Key.fromString(getNS(packet[1:], 2)[1], type="blob"))
        except Exception as problem:  # of many types: BadKeyError, struct.error, …
            refused: Deferred[Any] = fail(UnauthorizedLogin(quoted(str(problem))))
            return refused.addErrback(self._refused, "a key that is not understood")
        return (
            super()
            .auth_publickey(packet)
            .addCallbacks(self._logged_in, self._refused, callbackArgs=(name,), errbackArgs=(name,))
        )

    def _logged_in(self, result: Any, key: str) -> Any:
        self.transport.logged_in(Actor.ssh(key, self.user.decode("utf-8", "replace")))
        _log.info(
            "login of {user} from {peer} with {key}",
            user=_quoted(self.user),
            peer=self.transport.peer,
            key=key,
        )
        return result

    def _refused(self, reason: Failure, key: str) -> Failure:
        if reason.check(error.IgnoreAuthentication):  # accepted: a signature must follow
            return reason
        why = reason.getErrorMessage()
        self.transport.factory.log_stranger(
            "keys refused",
            "refused {user} from {peer} with {key}: {why}",
            user=_quoted(self.user),
            peer=self.transport.peer,
            key=key,
            why=why,
        )
        return Failure(UnauthorizedLogin(why))  # other types Conch logs with a traceback


class Connection(connection.SSHConnection):
    """Opens channels for sessions only, and a limited number of them."""

    _log = _ConchLog()

    transport: Any

    def adjustWindow(self, channel: Any, bytesToAdd: int) -> None:
        """Let the client send more to a channel, unless what it has sent is still waiting there.

        Lines that wait for the answer of the one before, or for a shell, are stored: one window
        of them, which is 128 KiB.
        """
        is_ready = channel.client is not None and channel.session is not None
        if is_ready and not channel.session.is_busy:
            super().adjustWindow(channel, bytesToAdd)

    def ssh_CHANNEL_OPEN(self, packet: bytes) -> None:
        """Open a session; refuse and log channels of other types."""
        kind, rest = getNS(packet)
        if kind == b"session" and len(self.channels) < MAX_SESSIONS:
            super().ssh_CHANNEL_OPEN(packet)
            return
        _log.warn(
            "refused a channel of type {kind} to {peer}",
            kind=_quoted(kind),
            peer=self.transport.peer,
        )
        reason = struct.pack(">L", connection.OPEN_ADMINISTRATIVELY_PROHIBITED)
        self.transport.sendPacket(
            connection.MSG_CHANNEL_OPEN_FAILURE,
            rest[:4] + reason + NS(b"not at this manhole") + NS(b""),
        )


@implementer(IPushProducer)
class Transport(ssh_transport.SSHServerTransport):
    """One connection of a client."""

    _log = _ConchLog()

    ourVersionString = b"SSH-2.0-monconn"
    # Without CBC mode, SHA-1 and MD5; every client of the last ten years has the others.
    supportedCiphers = [
        name for name in ssh_transport.SSHServerTransport.supportedCiphers if name.endswith(b"-ctr")
    ]
    supportedMACs = [
        name for name in ssh_transport.SSHServerTransport.supportedMACs if b"-sha2-" in name
    ]
    supportedKeyExchanges = [
        name
        for name in ssh_transport.SSHServerTransport.supportedKeyExchanges
        if not name.endswith(b"-sha1")
    ]
    supportedCompressions = [b"none"]

    transport: Any
    factory: ManholeFactory
    peer = "nobody"
    """Where the client is, for the log."""
    began: float
    """Monotonic seconds."""
    actor: Actor
    """The actor of its sessions' actions; set by :meth:`logged_in`."""
    is_authenticated = False
    _login_timeout: Any = None
    _closing_timeout: Any = None
    _login_packets = 0
    _login_bytes = 0
    _may_take_packet = False
    is_congested = False
    """Whether more is written than the kernel has room for."""
    _is_held = False
    _has_ended = False

    @property
    def is_encrypted(self) -> bool:
        """Whether keys have been exchanged."""
        return self.sessionID is not None

    def receiveError(self, reasonCode: int, description: Any) -> None:
        """The client has disconnected."""
        self._end_soon()
        if reasonCode != ssh_transport.DISCONNECT_BY_APPLICATION:
            self._warn("disconnected: {why}", why=_quoted(description))

    def receiveUnimplemented(self, seqnum: int) -> None:
        """Ignore that the client does not know a packet, which the base class logs."""

    def _warn(self, format: str, **values: Any) -> None:
        """Log a line about the client."""
        if self.is_authenticated:
            _log.warn("{peer} " + format, peer=self.peer, **values)
        else:
            self.factory.log_stranger("disconnected", "{peer} " + format, peer=self.peer, **values)

    def connectionMade(self) -> None:
        """Implements ``IProtocol.connectionMade``."""
        self.peer = _peer(self.transport)
        self.began = self.factory.clock.seconds()
        self._login_timeout = self.factory.clock.callLater(LOGIN_SECONDS, self._login_timed_out)
        self.factory.connected(self)
        self.transport.registerProducer(self, True)
        super().connectionMade()

    def pauseProducing(self) -> None:
        """Implements ``IPushProducer.pauseProducing``: the client does not read.

        Nothing more is handled that it has sent, as it would be answered.
        """
        self.is_congested = True

    def resumeProducing(self) -> None:
        """Implements ``IPushProducer.resumeProducing``: the kernel has what was written."""
        self.is_congested = False
        if self._is_held:
            self._is_held = False
            self.factory.queue.add(self._handle_packet)
        for channel in getattr(self.service, "channels", {}).values():
            channel.continue_output()

    def stopProducing(self) -> None:
        """Implements ``IProducer.stopProducing``: the connection is lost."""

    def sendExtInfo(self, extensions: Any) -> None:
        """Announce the accepted signature algorithms; the base class sends the host key's only."""
        super().sendExtInfo([(b"server-sig-algs", b",".join(SIGNATURES))])

    def _login_timed_out(self) -> None:
        self._drop(f"did not log in within {LOGIN_SECONDS:.0f} s")

    def _drop(self, why: str) -> None:
        self._warn("{why}", why=why)
        self.abort()

    def logged_in(self, actor: Actor) -> None:
        """The login has succeeded: cancel its timeout."""
        self.actor = actor
        self.is_authenticated = True
        self.factory.strangers.leave(self)
        self._cancel_timeouts()

    def _cancel_timeouts(self) -> None:
        for each in (self._login_timeout, self._closing_timeout):
            if each is not None and each.active():
                each.cancel()

    def dataReceived(self, data: bytes) -> None:
        """Implements ``IProtocol.dataReceived``: the packets are handled when it is their turn."""
        if self._has_ended:
            return
        self.buf += data
        self._login_bytes += len(data)
        if not self.is_authenticated and self._login_bytes > MAX_LOGIN_BYTES:
            self._drop("has sent too much without logging in")
        else:
            self.transport.pauseProducing()
            self.factory.queue.add(self._handle_packet)

    def _handle_packet(self) -> None:
        """Handle one packet of what was received; if there is none, read from the client."""
        if self._has_ended:
            return
        if self.is_congested:
            self._is_held = True
            return
        self._may_take_packet = True
        try:
            super().dataReceived(b"")
        except Exception as problem:
            if self.is_authenticated:
                _log.failure("a packet could not be handled")
                self.abort()
            else:  # any peer may send anything, and must not fill the log with tracebacks
                self._drop(f"does not speak SSH: {quoted(repr(problem))}")
        if self._has_ended:
            return
        if self._may_take_packet:
            self.transport.resumeProducing()
        else:
            self.factory.queue.add(self._handle_packet)

    def getPacket(self) -> Any:
        """The next packet of what was received; one for each call of :meth:`_handle_packet`."""
        if not self._may_take_packet or self._has_ended:
            return None
        packet = super().getPacket()
        if packet is not None:
            self._may_take_packet = False
            self._login_packets += 1
            if not self.is_authenticated and self._login_packets > MAX_LOGIN_PACKETS:
                self._drop("has sent too many packets without logging in")
                return None
        return packet

    def sendDisconnect(self, reason: int, desc: bytes) -> None:
        """Disconnect in good order; what was received and not handled is discarded."""
        if not self._has_ended:
            self._end_soon()
            super().sendDisconnect(reason, desc)

    def _end_soon(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            # With a producer that is paused, Twisted would never close the connection.
            self.transport.unregisterProducer()
            # A client that does not read would keep the connection.
            self._closing_timeout = self.factory.clock.callLater(CLOSE_SECONDS, self.abort)

    def abort(self) -> None:
        """End the connection at once."""
        self._has_ended = True
        self._cancel_timeouts()
        self.transport.abortConnection()

    def connectionLost(self, reason: Any = None) -> None:
        """Implements ``IProtocol.connectionLost``."""
        self._has_ended = True
        self._cancel_timeouts()
        try:
            super().connectionLost(reason)
        finally:
            self.factory.lost(self)


class ManholeFactory(factory.SSHFactory):
    """Makes the protocol of each connection, and ends them all.

    :param host_key: the private key that identifies this server.
    :param authorized: the clients' public keys.
    :param operations: what clients can ask and do.
    :param clock: for the timeouts of logins and of closing.
    """

    _log = _ConchLog()

    protocol = Transport
    noisy = False
    batch = CLIENTS_PER_TURN
    retry_seconds = GRACE_SECONDS / 5

    def __init__(
        self,
        host_key: Key,
        authorized: keys.AuthorizedKeys,
        operations: Operations,
        clock: Clock,
    ) -> None:
        kind = host_key.sshType()
        self.publicKeys = {kind: host_key.public()}
        self.privateKeys = {kind: host_key}
        self.portal = Portal(Realm(operations), [KeyChecker(authorized)])
        self.services = {b"ssh-userauth": Login, b"ssh-connection": Connection}
        self.clock = clock
        self.connections: set[Transport] = set()
        # With and without a complete key exchange: else one kind of stranger, whose connections are
        # cheap, or one whose connections stay, could displace everybody of the other kind.
        self.strangers = Places[Transport](
            MAX_UNAUTHENTICATED, lambda connection: connection.is_encrypted
        )
        """Those that have not logged in."""
        self._closing: Deferred[None] | None = None
        self.queue = TurnQueue(clock)
        """Packets of all clients: a key exchange or a signature takes a millisecond or two."""
        self._strangers_log = RateLimitedLog(
            clock, STRANGERS_LINES_A_SECOND, self._log_summary_of_strangers
        )

    def buildProtocol(self, addr: Any) -> Any:
        """Make a connection's protocol; None, which closes it, if too many have logged in."""
        if len(self.connections) - len(self.strangers) >= MAX_CONNECTIONS:
            self.log_stranger("refused", "refused a connection: too many have logged in")
            return None
        return super().buildProtocol(addr)

    def is_full(self) -> bool:
        """Whether there are too many without a login, and none has had its time yet."""
        oldest = self.strangers.replaced_by(False)
        return oldest is not None and self.clock.seconds() - oldest.began < GRACE_SECONDS

    def connected(self, connection: Transport) -> None:
        """Note a new connection, in the place of another if there are too many without a login."""
        replaced = self.strangers.enter(connection)
        self.connections.add(connection)
        if replaced is not None:
            peer = replaced.peer
            self.log_stranger("displaced", "{peer} is displaced: too many log in", peer=peer)
            self.connections.remove(replaced)  # its connectionLost comes later
            replaced.abort()

    def log_stranger(self, kind: str, format: str, **values: Any) -> None:
        """Log a line about a client that has not logged in; too many of them are summed up.

        :param kind: says in the sum what the line is about.
        """
        if self._strangers_log.has_room():
            _log.warn(format, **values)
        else:
            self._strangers_log.add(kind)

    def _log_summary_of_strangers(self, count: int, kinds: str) -> None:
        _log.warn(
            "clients without a login: left out {count} lines: {kinds}", count=count, kinds=kinds
        )

    def getService(self, transport: Any, service: bytes) -> Any:
        """Return a service, or None; the base class raises KeyError for an unknown one."""
        return super().getService(transport, service) if service in self.services else None

    def lost(self, connection: Transport) -> None:
        """Note that a connection has ended."""
        self.connections.discard(connection)
        self.strangers.leave(connection)
        if self._closing is not None and not self.connections:
            closing, self._closing = self._closing, None
            closing.callback(None)

    def close(self) -> Deferred[None]:
        """End every connection.

        :returns: fires when the last has ended.
        """
        self._strangers_log.flush()
        if not self.connections:
            return succeed(None)
        closing: Deferred[None] = Deferred()
        self._closing = closing
        for each in tuple(self.connections):
            each.sendDisconnect(
                ssh_transport.DISCONNECT_BY_APPLICATION, b"monconn closes the manhole"
            )
        return closing


def _peer(transport: Any) -> str:
    peer = transport.getPeer()
    if isinstance(peer, UNIXAddress):
        return f"unix:{peer_pid(transport.getHandle())}"
    return str(TcpAddress(peer.host, peer.port))


def _quoted(text: bytes) -> str:
    return quoted(text.decode("utf-8", "replace"))
