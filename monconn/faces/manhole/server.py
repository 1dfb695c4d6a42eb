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
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.addresses import TcpAddress
from monconn.clock import Clock
from monconn.errors import quoted
from monconn.faces.manhole import keys
from monconn.faces.manhole.session import Session
from monconn.log import Logger
from monconn.model.actions import Actor
from monconn.net.sockets import peer_pid
from monconn.ops.operations import Operations

LOGIN_SECONDS = 30.0
"""How long a login may take."""
MAX_UNAUTHENTICATED = 10
"""Connections that have not logged in."""
MAX_CONNECTIONS = 32
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


_conch_log = Logger(namespace="twisted.conch")


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
        self.channelLookup[b"session"] = session.SSHSession

    def __conform__(self, interface: Any) -> Any:
        """Adapt it to ``ISession``, as Conch does for each session."""
        return Session(self) if interface is ISession else None


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
    """Accepts the keys of a file, which is read at each login.

    :param path: the ``authorized_keys`` file.
    """

    credentialInterfaces = (ISSHPrivateKey,)

    def __init__(self, path: str) -> None:
        self._path = path

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
        authorized = keys.authorized_keys(self._path)
        if not any(each.blob() == key.blob() for each in authorized):
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
        _log.warn(
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
    actor: Actor
    """The actor of its sessions' actions; set by :meth:`logged_in`."""
    is_authenticated = False
    _login_timeout: Any = None

    def receiveError(self, reasonCode: int, description: str) -> None:
        """Ignore an ordinary disconnect, which the base class logs as an error."""
        if reasonCode != ssh_transport.DISCONNECT_BY_APPLICATION:
            super().receiveError(reasonCode, description)

    def connectionMade(self) -> None:
        """Implements ``IProtocol.connectionMade``."""
        self.peer = _peer(self.transport)
        self._login_timeout = self.factory.clock.callLater(LOGIN_SECONDS, self._login_timed_out)
        self.factory.connections.add(self)
        super().connectionMade()

    def sendExtInfo(self, extensions: Any) -> None:
        """Announce the accepted signature algorithms; the base class sends the host key's only."""
        super().sendExtInfo([(b"server-sig-algs", b",".join(SIGNATURES))])

    def _login_timed_out(self) -> None:
        _log.warn("{peer} did not log in within {s:.0f} s", peer=self.peer, s=LOGIN_SECONDS)
        self.abort()

    def logged_in(self, actor: Actor) -> None:
        """The login has succeeded: cancel its timeout."""
        self.actor = actor
        self.is_authenticated = True
        self._cancel_timeout()

    def _cancel_timeout(self) -> None:
        if self._login_timeout is not None and self._login_timeout.active():
            self._login_timeout.cancel()

    def dataReceived(self, data: bytes) -> None:
        """Implements ``IProtocol.dataReceived``."""
        try:
            super().dataReceived(data)
        except Exception as problem:
            if self.is_authenticated:
                raise
            # Any peer may send anything, and must not fill the log with tracebacks.
            _log.warn("{peer} does not speak SSH: {why}", peer=self.peer, why=quoted(repr(problem)))
            self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Any = None) -> None:
        """Implements ``IProtocol.connectionLost``."""
        self._cancel_timeout()
        try:
            super().connectionLost(reason)
        finally:
            self.factory.lost(self)


class ManholeFactory(factory.SSHFactory):
    """Makes the protocol of each connection, and ends them all.

    :param host_key: the private key that identifies this server.
    :param authorized_keys: the path of the file of the clients' public keys.
    :param operations: what clients can ask and do.
    :param clock: for the timeouts of logins and of closing.
    """

    _log = _ConchLog()

    protocol = Transport
    noisy = False

    def __init__(
        self, host_key: Key, authorized_keys: str, operations: Operations, clock: Clock
    ) -> None:
        kind = host_key.sshType()
        self.publicKeys = {kind: host_key.public()}
        self.privateKeys = {kind: host_key}
        self.portal = Portal(Realm(operations), [KeyChecker(authorized_keys)])
        self.services = {b"ssh-userauth": Login, b"ssh-connection": Connection}
        self.clock = clock
        self.connections: set[Transport] = set()
        self._closing: Deferred[None] | None = None

    def buildProtocol(self, addr: Any) -> Any:
        """Make a connection's protocol; None, which closes it, if there are too many already."""
        unauthenticated = sum(not each.is_authenticated for each in self.connections)
        if unauthenticated >= MAX_UNAUTHENTICATED or len(self.connections) >= MAX_CONNECTIONS:
            _log.warn("refused a connection: too many")
            return None
        return super().buildProtocol(addr)

    def getService(self, transport: Any, service: bytes) -> Any:
        """Return a service, or None; the base class raises KeyError for an unknown one."""
        return super().getService(transport, service) if service in self.services else None

    def lost(self, connection: Transport) -> None:
        """Note that a connection has ended."""
        self.connections.discard(connection)
        if self._closing is not None and not self.connections:
            closing, self._closing = self._closing, None
            closing.callback(None)

    def close(self) -> Deferred[None]:
        """End every connection.

        :returns: fires when the last has ended.
        """
        if not self.connections:
            return succeed(None)
        closing: Deferred[None] = Deferred()
        self._closing = closing
        for each in tuple(self.connections):
            each.sendDisconnect(
                ssh_transport.DISCONNECT_BY_APPLICATION, b"monconn closes the manhole"
            )
        timer = self.clock.callLater(CLOSE_SECONDS, self._abort_all)
        return closing.addCallback(lambda _: timer.cancel() if timer.active() else None)

    def _abort_all(self) -> None:
        for each in tuple(self.connections):
            each.abort()


def _peer(transport: Any) -> str:
    peer = transport.getPeer()
    if isinstance(peer, UNIXAddress):
        return f"unix:{peer_pid(transport.getHandle())}"
    return str(TcpAddress(peer.host, peer.port))


def _quoted(text: bytes) -> str:
    return quoted(text.decode("utf-8", "replace"))
