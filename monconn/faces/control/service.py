"""The control port as a Twisted service: where it listens, and with which certificates."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
from twisted.application.service import Service
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.ssl import Certificate, CertificateOptions, PrivateCertificate

from monconn.addresses import TcpAddress, UnixAddress
from monconn.clock import Clock, retry_pauses
from monconn.config.sections import ControlConfig
from monconn.errors import ControlError, ListenError, Remark, os_error_text
from monconn.faces.control import peers
from monconn.faces.control.place import (
    FIRST_NAME,
    check_folder,
    control_folder,
    make_folder,
    remove_stale,
)
from monconn.faces.control.server import ControlFactory
from monconn.files import making_fault, read_file
from monconn.log import Logger
from monconn.monitor.registry import Registry
from monconn.net.listen import (
    Listener,
    ServeReactor,
    check_listener,
    client_address,
    open_listener,
    serve_factory,
)
from monconn.net.tls import ClientTls
from monconn.net.tls_serving import HANDSHAKE_SHARE, TlsFactory
from monconn.ops.operations import Operations
from monconn.policy.sides import Keepalive
from monconn.policy.tls import BackendTls
from monconn.processes import user_name
from monconn.turns import TurnQueue
from monconn.unixsocket import ListeningSocket

CLIENTS_PER_TURN = 4
"""Clients accepted in one turn of the reactor; the others stay in the kernel's queue."""
_MAX_FILE_BYTES = 16 << 20  # as of the services' certificates


class ControlService(Service):
    """One address of a program's control port, and what its clients may do.

    :param config: where to listen.
    :param registry: the monitors to serve.
    :param reactor: an ``IReactorSocket``.
    :param clock: for timeouts of clients.
    :param operations: what clients can ask for; if left out, what can be done with the registry
        alone: without devices, history and manhole.
    """

    _log = Logger()

    def __init__(
        self,
        config: ControlConfig,
        registry: Registry,
        reactor: ServeReactor,
        clock: Clock,
        operations: Operations | None = None,
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._clock = clock
        self._factory = ControlFactory(operations or Operations(registry, clock), config.role)
        self._listener: Listener | None = None
        self.where: str | None = None
        """How a client names it; None while there is none."""

    def privilegedStartService(self) -> None:
        """Implements ``IService.privilegedStartService``: listen.

        :raises ListenError: the configured address cannot be listened on.
        """
        if self._listener is None and self._config.listen is not None:
            self._listen(self._config.listen)

    def startService(self) -> None:
        """Implements ``IService.startService``: accept clients."""
        super().startService()
        for uid in (0, os.getuid()):  # now: it may take long, and block
            user_name(uid)
        self.privilegedStartService()  # twist does not call it
        if self._listener is None:
            self._try_default()  # once privileges are dropped: the folder is that user's
        if self._listener is not None:
            self._listener.resume()

    def stopService(self) -> None:
        """Implements ``IService.stopService``."""
        super().stopService()
        self.close_listener()

    def close_listener(self) -> None:
        """Stop listening, and abort all clients' connections; harmless the second time."""
        if self._listener is not None:
            self._listener.close()
            self._listener = self.where = None
            self._factory.close()

    def _try_default(self) -> None:
        """Listen where the command looks for sockets; forwarding must not fail if that fails."""
        try:
            self._listen_at_default()
        except (ControlError, ListenError, OSError) as error:
            self._log.warn("no control port: {error}", error=str(error))

    def _listen_at_default(self) -> None:
        folder = control_folder()
        make_folder(folder)
        with _locked(folder):
            remove_stale(folder)
            path = folder / FIRST_NAME
            if os.path.lexists(path):  # another program's, or a link that leads nowhere
                path = folder / f"control-{os.getpid()}.sock"
            self._listen(UnixAddress(os.fspath(path), 0o600))

    def _listen(self, address: TcpAddress | UnixAddress) -> None:
        options = _tls_options(self._config, address)
        factory: IProtocolFactory = self._factory
        if options is not None:
            handshakes = TurnQueue(self._clock, HANDSHAKE_SHARE)
            factory = TlsFactory(options, self._factory, handshakes)
        sock = open_listener(address, keepalive=Keepalive(), default_mode=0o600)
        mode = address.mode if isinstance(address, UnixAddress) else None
        if isinstance(sock, ListeningSocket) and mode is not None:
            self._factory.access = peers.FileAccess.of(sock.file, mode)
        self.where = client_address(address, sock)
        self._listener = serve_factory(sock, self._reactor, factory, CLIENTS_PER_TURN)


def check_control(config: ControlConfig) -> list[Remark]:
    """Find what the start of :class:`ControlService` would fail with, without listening.

    :returns: why there would be no control port, if it has no configured address.
    :raises ListenError: the configured address cannot be listened on.
    """
    if config.listen is not None:
        remarks = []
        if _tls_options(config, config.listen) is not None and config.tls is not None:
            tls = config.tls
            peers = BackendTls(ca=tls.client_authority, certificate=tls.certificate, key=tls.key)
            remarks = [
                attrs.evolve(each, key="tls") for each in ClientTls(peers, "localhost").remarks
            ]
        if _lets_all_operate(config):
            assert isinstance(config.listen, UnixAddress)
            text = (
                f"mode={config.listen.mode:03o} lets every user of this machine do everything:"
                " add role: view, or take the mode back"
            )
            remarks.append(Remark(text))
        return [*remarks, *check_listener(config.listen)]
    folder = control_folder()
    try:
        if os.path.lexists(folder):
            check_folder(folder)
            if fault := making_fault(os.fspath(folder / FIRST_NAME)):
                raise fault
        else:
            first = next(each for each in (folder, *folder.parents) if each.parent.exists())
            if fault := making_fault(os.fspath(first)):
                raise ControlError(f"{folder}: {os_error_text(fault)}")
    except (ControlError, OSError) as error:
        return [Remark(f"no control port: {error}")]
    return []


def _lets_all_operate(config: ControlConfig) -> bool:
    mode = config.listen.mode if isinstance(config.listen, UnixAddress) else None
    return config.role == "operate" and bool((mode or 0) & stat.S_IWOTH)


def _tls_options(
    config: ControlConfig, address: TcpAddress | UnixAddress
) -> CertificateOptions | None:
    """What makes the TLS connections of clients; None for a UNIX socket, which needs none.

    :raises ListenError: it is needed and not configured, or a file cannot be used.
    """
    tls = config.tls
    if tls is None:
        if isinstance(address, TcpAddress):
            raise ListenError(f"control: {address} needs tls, as TCP does not authenticate clients")
        return None
    try:
        key, certificate, authority_pem = (
            read_file(each, _MAX_FILE_BYTES)
            for each in (tls.key, tls.certificate, tls.client_authority)
        )
        pem = key + b"\n" + certificate
        authority = Certificate.loadPEM(authority_pem)
        options: CertificateOptions = PrivateCertificate.loadPEM(pem).options(authority)
        return options
    except Exception as error:  # OpenSSL's have no type in common
        raise ListenError(f"control: its certificates cannot be used: {error}") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from choosing a path in a folder meanwhile.

    :raises ControlError: the lock cannot be had, or is held by a process that stands still.
    """
    path = folder / ".lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ControlError(f"{path}: {os_error_text(error)}") from None
    try:
        # It is held for milliseconds.
        for pause in (*retry_pauses([0.1] * 20), 0.0):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(pause)
        else:
            raise ControlError(f"{path} is locked by another process")
        yield
    finally:
        os.close(lock)
