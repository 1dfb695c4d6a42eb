"""Who may log in, and what a connection may ask for: sessions, and nothing else of SSH's."""

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
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.addresses import TcpAddress
from monconn.errors import quoted
from monconn.faces.manhole import keys
from monconn.faces.manhole.operations import Operations
from monconn.faces.manhole.session import Session
from monconn.net.sockets import peer_pid

LOGIN_SECONDS = 30.0
"""How long a login may take."""
MOST_STRANGERS = 10
"""Connections that have not logged in."""
MOST_CONNECTIONS = 32
MOST_SESSIONS = 8
"""On one connection."""
MOST_TRIES = 6
"""Keys that may be shown before one fits."""
SIGNATURES = (
    b"ssh-ed25519",
    b"ecdsa-sha2-nistp256",
    b"ecdsa-sha2-nistp384",
    b"ecdsa-sha2-nistp521",
    b"rsa-sha2-512",
    b"rsa-sha2-256",
)
"""With which a client may prove who it is; RSA with SHA-1 is not among them."""
GOODBYE_SECONDS = 1.0
"""How long a peer may take to hear that we stop."""

_log = Logger(namespace="monconn.manhole")


class _Conchs:
    """Gives Conch's own log, which a subclass of Conch's would otherwise write as ours."""

    def __get__(self, instance: object, owner: type) -> Logger:
        return _of_conch


_of_conch = Logger(namespace="twisted.conch")
_conchs_log = _Conchs()


@implementer(IConchUser)
class User(ConchUser):
    """Someone who has logged in: may open sessions."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.channelLookup[b"session"] = session.SSHSession

    def __conform__(self, interface: Any) -> Any:
        """See ``zope.interface``: what serves one session of this user's."""
        return Session(self) if interface is ISession else None


@implementer(IRealm)
class Realm:
    """Gives each login a user of its own."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        """See ``IRealm``."""
        if IConchUser not in interfaces:
            raise NotImplementedError("there are only users of SSH")
        return IConchUser, User(self._operations), lambda: None


@implementer(ICredentialsChecker)
class KeyChecker:
    """Lets in whoever has the private key of one in a file, which is read anew each time.

    :param path: the ``authorized_keys`` file.
    """

    credentialInterfaces = (ISSHPrivateKey,)

    def __init__(self, path: str) -> None:
        self._path = path

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """See ``ICredentialsChecker``."""
        try:
            return succeed(self._judged(credentials))
        except (UnauthorizedLogin, error.ValidPublicKey):
            return fail()
        except Exception as problem:  # whatever it is, it lets nobody in
            return fail(UnauthorizedLogin(str(problem)))

    def _judged(self, credentials: Any) -> bytes:
        key = Key.fromString(credentials.blob, type="blob")
        if not keys.is_strong(key):
            raise UnauthorizedLogin("its type or its size")
        listed = keys.authorized_keys(self._path)  # or KeyFileError
        if not any(each.blob() == key.blob() for each in listed):
            raise UnauthorizedLogin("not in authorized_keys")
        if credentials.signature is None:
            raise error.ValidPublicKey()
        if getNS(credentials.signature)[0] not in SIGNATURES:
            raise UnauthorizedLogin("the algorithm of its signature")
        if not key.verify(credentials.signature, credentials.sigData):
            raise UnauthorizedLogin("its signature is wrong")
        user: bytes = credentials.username
        return user


class Login(userauth.SSHUserAuthServer):
    """Public keys only; says in the log who came in with which key, and who did not."""

    _log = _conchs_log

    transport: Any
    user: bytes
    attemptsBeforeDisconnect = MOST_TRIES

    def auth_publickey(self, packet: bytes) -> Deferred[Any]:
        """See ``SSHUserAuthServer``."""
        try:
            # Conch itself would guess at formats that have no place here.
            name = keys.fingerprint(Key.fromString(getNS(packet[1:], 2)[1], type="blob"))
        except Exception as problem:  # of many types; so nobody's
            refused: Deferred[Any] = fail(UnauthorizedLogin(quoted(str(problem))))
            return refused.addErrback(self._note_refusal, "a key that is not understood")
        return (
            super()
            .auth_publickey(packet)
            .addCallbacks(
                self._note_login, self._note_refusal, callbackArgs=(name,), errbackArgs=(name,)
            )
        )

    def _note_login(self, result: Any, key: str) -> Any:
        self.transport.logged_in()
        _log.info(
            "login of {user} from {peer} with {key}",
            user=_shown(self.user),
            peer=self.transport.peer,
            key=key,
        )
        return result

    def _note_refusal(self, reason: Failure, key: str) -> Failure:
        if reason.check(error.IgnoreAuthentication):  # with which Conch asks for a signature
            return reason
        why = reason.getErrorMessage()
        _log.warn(
            "refused {user} from {peer} with {key}: {why}",
            user=_shown(self.user),
            peer=self.transport.peer,
            key=key,
            why=why,
        )
        return Failure(UnauthorizedLogin(why))  # which Conch takes without a traceback


class Connection(connection.SSHConnection):
    """Opens sessions only, and not too many of them."""

    _log = _conchs_log

    transport: Any

    def ssh_CHANNEL_OPEN(self, packet: bytes) -> None:
        """See ``SSHConnection``."""
        kind, rest = getNS(packet)
        if kind == b"session" and len(self.channels) < MOST_SESSIONS:
            super().ssh_CHANNEL_OPEN(packet)
            return
        _log.warn(
            "refused a channel of type {kind} to {peer}",
            kind=_shown(kind),
            peer=self.transport.peer,
        )
        reason = struct.pack(">L", connection.OPEN_ADMINISTRATIVELY_PROHIBITED)
        self.transport.sendPacket(
            connection.MSG_CHANNEL_OPEN_FAILURE,
            rest[:4] + reason + NS(b"not at this manhole") + NS(b""),
        )


class Transport(ssh_transport.SSHServerTransport):
    """One connection of a client's."""

    _log = _conchs_log

    ourVersionString = b"SSH-2.0-monconn"
    # What is left out is broken, or older than any client that is about.
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
    """Who it is, for the log."""
    is_known = False
    """Whether they have logged in."""
    _too_late: Any = None

    def receiveError(self, reasonCode: int, description: str) -> None:
        """See ``SSHTransportBase``: a client that leaves says so, which is no error."""
        if reasonCode != ssh_transport.DISCONNECT_BY_APPLICATION:
            super().receiveError(reasonCode, description)

    def connectionMade(self) -> None:
        """See ``IProtocol``."""
        self.peer = _peer(self.transport)
        self._too_late = self.factory.clock.callLater(LOGIN_SECONDS, self._end_stranger)
        self.factory.connections.add(self)
        super().connectionMade()

    def sendExtInfo(self, extensions: Any) -> None:
        """See ``SSHServerTransport``, which would name the algorithms of the host key only."""
        super().sendExtInfo([(b"server-sig-algs", b",".join(SIGNATURES))])

    def _end_stranger(self) -> None:
        _log.warn("{peer} did not log in within {s:.0f} s", peer=self.peer, s=LOGIN_SECONDS)
        self.abort()

    def logged_in(self) -> None:
        """Give it all the time it wants."""
        self.is_known = True
        self._cancel()

    def _cancel(self) -> None:
        if self._too_late is not None and self._too_late.active():
            self._too_late.cancel()

    def dataReceived(self, data: bytes) -> None:
        """See ``IProtocol``."""
        try:
            super().dataReceived(data)
        except Exception as problem:
            if self.is_known:
                raise
            # A stranger may send anything, and shall not fill the log with tracebacks.
            _log.warn("{peer} speaks no SSH: {why}", peer=self.peer, why=quoted(repr(problem)))
            self.abort()

    def abort(self) -> None:
        """End it, this moment."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Any = None) -> None:
        """See ``IProtocol``."""
        self._cancel()
        try:
            super().connectionLost(reason)
        finally:
            self.factory.lost(self)


class ManholeFactory(factory.SSHFactory):
    """Makes connections, and ends them.

    :param host_key: shown to clients.
    :param authorized_keys: the path of the file of their keys.
    :param operations: what they may do.
    :param clock: gives ``callLater``.
    """

    _log = _conchs_log

    protocol = Transport
    noisy = False

    def __init__(
        self, host_key: Key, authorized_keys: str, operations: Operations, clock: Any
    ) -> None:
        kind = host_key.sshType()
        self.publicKeys = {kind: host_key.public()}
        self.privateKeys = {kind: host_key}
        self.portal = Portal(Realm(operations), [KeyChecker(authorized_keys)])
        self.services = {b"ssh-userauth": Login, b"ssh-connection": Connection}
        self.clock = clock
        self.connections: set[Transport] = set()
        self._all_gone: Deferred[None] | None = None

    def buildProtocol(self, addr: Any) -> Any:
        """See ``IFactory``: None if there are too many already."""
        strangers = sum(not each.is_known for each in self.connections)
        if strangers >= MOST_STRANGERS or len(self.connections) >= MOST_CONNECTIONS:
            _log.warn("refused a connection: there are too many")
            return None
        return super().buildProtocol(addr)

    def getService(self, transport: Any, service: bytes) -> Any:
        """See ``SSHFactory``: None for one that there is not."""
        return super().getService(transport, service) if service in self.services else None

    def lost(self, connection: Transport) -> None:
        """Hear that a connection has ended."""
        self.connections.discard(connection)
        if self._all_gone is not None and not self.connections:
            all_gone, self._all_gone = self._all_gone, None
            all_gone.callback(None)

    def close(self) -> Deferred[None]:
        """End every connection.

        :returns: fires when the last has ended.
        """
        if not self.connections:
            return succeed(None)
        gone: Deferred[None] = Deferred()
        self._all_gone = gone
        for each in tuple(self.connections):
            each.sendDisconnect(
                ssh_transport.DISCONNECT_BY_APPLICATION, b"monconn closes the manhole"
            )
        timer = self.clock.callLater(GOODBYE_SECONDS, self._abort_all)
        return gone.addCallback(lambda _: timer.cancel() if timer.active() else None)

    def _abort_all(self) -> None:
        for each in tuple(self.connections):
            each.abort()


def _peer(transport: Any) -> str:
    peer = transport.getPeer()
    if isinstance(peer, UNIXAddress):
        return f"unix:{peer_pid(transport.getHandle())}"
    return str(TcpAddress(peer.host, peer.port))


def _shown(text: bytes) -> str:
    return quoted(text.decode("utf-8", "replace"))
