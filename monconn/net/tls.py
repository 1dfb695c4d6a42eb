"""TLS by OpenSSL over memory BIOs: contexts and connections from settings.

A :class:`Connection` of OpenSSL's has no socket here: whoever owns it passes the bytes from the
network in (``bio_write``) and those for the network on (``bio_read``). On a socket of its own
OpenSSL takes a client's bare FIN for a fatal error, and writes nothing of the answer.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto

from monconn.errors import FileError, Remark, printable, quoted
from monconn.files import file_name, read_file
from monconn.net.tls_faults import (
    Found,
    TlsError,
    chain_fault,
    ends_soon,
    error_text,
    ip_of,
    name_fault,
    openssl_text,
    order_fault,
    out_of_time,
    subject,
)
from monconn.policy.tls import BackendTls, Identity, ListenTls, split_ciphers

_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_MAX_FILE_BYTES = 16 << 20  # the authorities of a distribution are about 200 KiB
_OP_NO_RENEGOTIATION = 1 << 30  # SSL_OP_NO_RENEGOTIATION; pyOpenSSL has it only where OpenSSL did
_KEY = re.compile(rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
_CERTIFICATE = re.compile(
    rb"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----.*?-----END \1-----", re.DOTALL
)

# -- both sides


class _Connection(SSL.Connection):
    """A connection without a socket, and what is known of its handshake.

    Not in its ``app_data``, which Twisted sets.

    :param peer: ``client`` or ``backend``.
    :param host: the name or the IP address that the peer's certificate must be for.
    """

    def __init__(self, context: SSL.Context, peer: str, host: str = "") -> None:
        super().__init__(context, None)
        self.peer = peer
        self.host = host
        self.fault = ""
        """Why we have refused the peer, in words; OpenSSL only knows that we did."""
        self.is_verified = False
        """Whether the peer's own certificate is trusted, and for the host."""


def _context(method: int, minimum_version: str, ciphers: str | None, found: Found) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(_VERSIONS[minimum_version])
    # Else an idle connection holds two buffers of 17 KiB.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_options(SSL.OP_NO_COMPRESSION | _OP_NO_RENEGOTIATION)
    # OpenSSL's cache of sessions has up to 20,480 of them, for the few clients without tickets.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if ciphers is not None:
        _use_ciphers(context, ciphers, found)
    return context


def _use_ciphers(context: SSL.Context, ciphers: str, found: Found) -> None:
    unknown = [word for word in split_ciphers(ciphers) if not _is_cipher(word)]
    if unknown:
        names = ", ".join(map(quoted, unknown))
        found.append((("ciphers",), f"OpenSSL does not know {names}: see openssl ciphers -v ALL"))
        return
    try:
        context.set_cipher_list(ciphers.encode())
    except SSL.Error:
        found.append((("ciphers",), f"{quoted(ciphers)} leaves no cipher of TLS 1.2"))


def _is_cipher(word: str) -> bool:
    """Whether OpenSSL knows a word; in a list it passes over those that it does not."""
    if word[0] == "@":
        return word == "@STRENGTH" or bool(re.fullmatch(r"@SECLEVEL=[0-5]", word))
    try:
        SSL.Context(SSL.TLS_METHOD).set_cipher_list(f"{word.lstrip('-+!')}:@SECLEVEL=0".encode())
    except SSL.Error:
        return False
    return True


# -- files


def _read(path: str) -> bytes:
    """The content of a file.

    :raises TlsError: it cannot be read.
    """
    try:
        return read_file(path, _MAX_FILE_BYTES)
    except FileError as error:
        raise _fault(str(error)) from error


def _fault(message: str) -> TlsError:
    return TlsError(((), message))


def _certificates_in(path: str) -> list[crypto.X509]:
    """The certificates in a PEM file.

    :raises TlsError: there is none, or one cannot be used.
    """
    blocks = [match[0] for match in _CERTIFICATE.finditer(_read(path))]
    if not blocks:
        raise _fault(f"{file_name(path)} has no certificate in PEM (-----BEGIN CERTIFICATE-----)")
    try:
        return [crypto.load_certificate(crypto.FILETYPE_PEM, each) for each in blocks]
    except crypto.Error:
        raise _fault(f"{file_name(path)} has a certificate that cannot be read") from None


def _key_in(path: str, passphrase: bytes | None, setting: str = "key") -> Any:
    """The private key in a PEM file.

    :param setting: which setting names the file.
    :raises TlsError: there is none, or it cannot be used.
    """
    block = _KEY.search(_read(path))
    if block is None:
        advice = "" if setting == "key" else ": name the file that has it as key"
        fault = "has no private key in PEM (-----BEGIN PRIVATE KEY-----)"
        raise _fault(f"{file_name(path)} {fault}{advice}")
    is_encrypted = b"ENCRYPTED" in block[0][:200]
    if is_encrypted and passphrase is None:
        raise _fault(f"the key in {file_name(path)} is encrypted: name its passphrase_file")
    try:
        return serialization.load_pem_private_key(block[0], passphrase if is_encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        what = "passphrase is wrong for the key" if is_encrypted else "key cannot be used: that"
        raise _fault(f"the {what} in {file_name(path)}") from None


def _passphrase_in(path: str) -> bytes:
    """The passphrase in the first line of a file.

    :raises TlsError: there is none.
    """
    line = _read(path).partition(b"\n")[0].rstrip(b"\r")
    if not line:
        raise _fault(f"{file_name(path)} has no passphrase in its first line")
    return line


def _use_identity(context: SSL.Context, identity: Identity, found: Found) -> list[x509.Certificate]:
    """Have a context show a certificate; what is wrong with its files is added to ``found``.

    :returns: the certificate and the rest of its chain, if nothing was.
    """
    faults = len(found)

    def read(setting: str, load: Callable[[str], Any], path: str) -> Any:
        try:
            return load(path)
        except TlsError as error:
            found.append(((setting,), str(error)))
            return None

    key_setting, key_file = "key", identity.key
    if key_file is None:
        key_setting, key_file = "certificate", identity.certificate
    passphrase = key = None
    if identity.passphrase_file is not None:
        passphrase = read("passphrase_file", _passphrase_in, identity.passphrase_file)
    certificates = read("certificate", _certificates_in, identity.certificate)
    chain = [] if identity.chain is None else read("chain", _certificates_in, identity.chain)
    # A file that cannot be read is one fault, and not another one of the key.
    has_passphrase = passphrase is not None or identity.passphrase_file is None
    if has_passphrase and (certificates is not None or key_setting == "key"):
        key = read(key_setting, lambda path: _key_in(path, passphrase, key_setting), key_file)
    if len(found) > faults:
        return []
    own: x509.Certificate
    try:
        own, *others = [each.to_cryptography() for each in (*certificates, *chain)]
        if not _fits(key, own):
            fault = f"is not that of the first certificate in {file_name(identity.certificate)}"
            found.append(((key_setting,), f"the key in {file_name(key_file)} {fault}"))
            return []
        _give(context.use_certificate, crypto.X509.from_cryptography, own)
        for each in others:
            _give(context.add_extra_chain_cert, crypto.X509.from_cryptography, each)
        _give(context.use_privatekey, crypto.PKey.from_cryptography_key, key)
    except (SSL.Error, crypto.Error, ValueError, TypeError, UnsupportedAlgorithm) as error:
        text = openssl_text(error) or "it is of a kind that TLS has not"
        found.append(
            (("certificate",), f"OpenSSL refuses {file_name(identity.certificate)}: {text}")
        )
        return []
    return [own, *others]


def _warnings_of(
    identity: Identity, certificates: list[x509.Certificate], name: str = ""
) -> Iterator[str]:
    """What peers are likely to refuse of a certificate, in sentences.

    :param name: the server name that it is configured for.
    """
    what = f"the certificate in {file_name(identity.certificate)}"
    own, *others = certificates
    if when := out_of_time(own):
        yield f"{what} {when}"
    if name and (fault := name_fault(own, name, what)):
        yield fault
    for each in others:
        if when := out_of_time(each):
            yield f"the certificate {subject(each)} in the chain of {what[4:]} {when}"
    if fault := order_fault(certificates):
        yield f"the chain of {what} is not in order: {fault}"


def _remarks_on(identity: Identity, certificates: list[x509.Certificate]) -> Iterator[Remark]:
    """What is to be seen to before long: it is no fault yet."""
    if when := ends_soon(certificates[0]):
        yield Remark(f"the certificate in {file_name(identity.certificate)} {when}")
    for path in dict.fromkeys((identity.key or identity.certificate, identity.passphrase_file)):
        if path is not None and os.stat(path).st_mode & 0o007:
            what = "passphrase" if path == identity.passphrase_file else "key"
            yield Remark(
                f"the {what} in {file_name(path)} is open to other users: chmod 600 {path}"
            )


def _fits(key: Any, certificate: x509.Certificate) -> bool:
    ours, theirs = (
        each.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for each in (key.public_key(), certificate.public_key())
    )
    return bool(ours == theirs)


def _give(method: Callable[[Any], object], wrap: Callable[[Any], Any], value: Any) -> None:
    """Pass a key or a certificate of ``cryptography`` to pyOpenSSL.

    Its releases before 24.3 take only classes of their own, which later ones have deprecated.
    """
    try:
        method(value)
    except TypeError:
        method(wrap(value))


def _trust(context: SSL.Context, ca: str | None, found: Found) -> None:
    """Have a context trust authorities; what is wrong with their files is added to ``found``."""
    if ca is None:
        context.set_default_verify_paths()
        return
    faults = []
    files = _in(ca)
    for each in files:
        try:
            _certificates_in(str(each))  # OpenSSL would say less of what is wrong
            context.load_verify_locations(str(each))
        except TlsError as error:
            faults.append(str(error))
        except SSL.Error as error:
            faults.append(f"OpenSSL refuses {file_name(str(each))}: {openssl_text(error)}")
    # What else is in a folder is passed over, as Twisted does for trustRoots=.
    if not Path(ca).is_dir():
        found += [(("ca",), fault) for fault in faults]
    elif len(faults) == len(files):
        found.append((("ca",), f"{file_name(ca)} has no *.pem file with a certificate"))


def _in(ca: str) -> list[Path]:
    """The file of authorities, or the files in a folder of them."""
    path = Path(ca)
    return sorted(path.glob("*.[pP][eE][mM]")) if path.is_dir() else [path]


def _readable_in(file: Path) -> list[x509.Certificate]:
    try:
        return [each.to_cryptography() for each in _certificates_in(str(file))]
    except (TlsError, ValueError):
        return []


def _files_of(settings: ListenTls | BackendTls) -> list[Path]:
    """All files that settings name."""
    identities = [settings.identity]
    if isinstance(settings, ListenTls):
        identities += settings.certificates.values()
    files = [] if isinstance(settings, ListenTls) or settings.ca is None else _in(settings.ca)
    for each in identities:
        if each is not None:
            named = (each.certificate, each.key, each.passphrase_file, each.chain)
            files += [Path(name) for name in named if name is not None]
    return files


def unreadable_files(settings: ListenTls | BackendTls) -> list[str]:
    """The files that settings name and that this user may not read."""
    refused = []
    for file in _files_of(settings):
        try:
            _read(str(file))
        except TlsError as error:
            cause = getattr(error.__cause__, "__cause__", None)
            if isinstance(cause, PermissionError):
                refused.append(str(file))
    return refused


def files_digest(settings: ListenTls | BackendTls) -> bytes:
    """A digest of the content of all files that settings name; those not readable count, too."""
    digest = hashlib.sha256()
    for file in _files_of(settings):
        try:
            content = _read(str(file))
        except TlsError:
            content = b""
        digest.update(hashlib.sha256(content).digest())
    return digest.digest()


# -- with clients


class ServerTls:
    """Makes the TLS connections of a listener.

    The files are read here, once: what is put in their place later is seen by the next instance.

    :param settings: where the files are, and what clients may choose.
    :raises TlsError: with everything that is wrong in the files or the settings.
    """

    def __init__(self, settings: ListenTls) -> None:
        found: Found = []
        self.settings = settings
        self.warnings: list[str] = []
        """What clients are likely to refuse, in sentences: certificates out of their time, …"""
        self.remarks: list[Remark] = []
        """What is to be seen to before long."""
        self._protocols = tuple(each.encode() for each in settings.alpn)
        self._main = self._context(settings.identity, found)
        self._by_name: dict[str, SSL.Context] = {}
        for name, identity in settings.certificates.items():
            faults: Found = []
            self._by_name[name] = self._context(identity, faults, name)
            found += [
                (("certificates", name, *key), message)
                for key, message in faults
                if key != ("ciphers",)  # is said of the main one
            ]
        if found:
            raise TlsError(*found)
        self.remarks = list(dict.fromkeys(self.remarks))  # names may share a certificate

    def _context(self, identity: Identity, found: Found, name: str = "") -> SSL.Context:
        settings = self.settings
        context = _context(SSL.TLS_METHOD, settings.minimum_version, settings.ciphers, found)
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
        # Tickets are valid under every server name: all contexts are the same but for this.
        context.set_session_id(b"monconn")
        # Chosen by the context that the server name has selected.
        context.set_alpn_select_callback(self._choose_protocol)
        if settings.certificates:
            context.set_tlsext_servername_callback(self._choose_certificate)
        certificates = _use_identity(context, identity, found)
        if certificates:
            self.warnings += _warnings_of(identity, certificates, name)
            self.remarks += _remarks_on(identity, certificates)
        return context

    def connection(self) -> SSL.Connection:
        """A connection without a socket, for one client."""
        connection = _Connection(self._main, "client")
        connection.set_accept_state()
        return connection

    def _choose_certificate(self, connection: SSL.Connection) -> None:
        # Unknown names get the main certificate and no alert: what the client makes of it is
        # better known to it than to us (RFC 6066, 3).
        name = (connection.get_servername() or b"").decode("ascii", "replace").lower()
        context = self._by_name.get(name) or self._by_name.get(f"*.{name.partition('.')[2]}")
        if context is not None:
            connection.set_context(context)

    def _choose_protocol(self, connection: SSL.Connection, offered: list[bytes]) -> Any:
        if not self._protocols:
            return SSL.NO_OVERLAPPING_PROTOCOLS
        for each in self._protocols:
            if each in offered:
                return each
        names = ", ".join(each.decode("ascii", "replace") for each in offered)
        fault = f"the client offers none of our protocols (ALPN), but {printable(names[:80])}"
        assert isinstance(connection, _Connection)
        connection.fault = fault
        # pyOpenSSL sends the alert no_application_protocol (RFC 7301, 3.2) for what is raised here,
        # and raises it from do_handshake: so it must be an error like any other of a handshake:
        # Twisted takes its arguments apart.
        raise SSL.Error([("monconn", "", fault)])


# -- with backends


class ClientTls:
    """Makes the TLS connections to a backend.

    The files are read here, once: what is put in their place later is seen by the next instance.

    :param settings: whom to trust, and what to show.
    :param host: the backend's host: a name or an IP address.
    :raises TlsError: with everything that is wrong in the files or the settings.
    """

    def __init__(self, settings: BackendTls, host: str) -> None:
        self.settings = settings
        self._context = _client_context(settings)
        self._use_host(host)

    def _use_host(self, host: str) -> None:
        settings = self.settings
        # Certificates have names without the dot of the root, and SNI has none (RFC 6066, 3).
        self._host = (settings.server_name or host).removesuffix(".").partition("%")[0]
        sends_name = settings.server_name != "" and ip_of(self._host) is None
        self._server_name = self._host.encode("ascii") if sends_name else None

    def for_host(self, host: str) -> ClientTls:
        """The same for another host, from the files as they were read."""
        other = copy.copy(self)
        other._use_host(host)
        return other

    @property
    def remarks(self) -> list[Remark]:
        """What is wrong, or will be before long, with the certificates in the files."""
        remarks: list[Remark] = []
        ca, identity = self.settings.ca, self.settings.identity
        if ca is not None and self.settings.verify:
            times = [out_of_time(each) for file in _in(ca) for each in _readable_in(file)]
            if times and all(times):
                what = "certificate" if len(times) == 1 else "last certificate"
                remarks.append(Remark(f"the {what} in {file_name(ca)} {times[-1]}"))
        if identity is not None:
            context = SSL.Context(SSL.TLS_METHOD)
            if certificates := _use_identity(context, identity, []):
                remarks += map(Remark, _warnings_of(identity, certificates))
                remarks += _remarks_on(identity, certificates)
        return remarks

    def connection(self) -> SSL.Connection:
        """A connection without a socket, for one dial."""
        connection = _Connection(self._context, "backend", self._host)
        if self._server_name is not None:
            connection.set_tlsext_host_name(self._server_name)
        connection.set_connect_state()
        return connection

    def check_peer(self, connection: SSL.Connection) -> None:
        """Check after the handshake that the backend has proved to be the host.

        A certificate is refused during the handshake already, so that the backend hears an alert;
        here it is only made sure that there was one, which some ciphers do without.

        :raises TlsError: it has not.
        """
        if self.settings.verify and not getattr(connection, "is_verified", False):
            raise _fault("the backend has shown no certificate")


# Contexts by their settings and the content of the files: one that trusts the authorities of an
# operating system takes 870 KiB and 8 ms, and a program may have hundreds of backends.
_client_contexts: WeakValueDictionary[tuple[BackendTls, bytes], SSL.Context] = WeakValueDictionary()


def _client_context(settings: BackendTls) -> SSL.Context:
    """The context for all backends with the same settings but for the server name.

    :raises TlsError: with everything that is wrong in the files or the settings.
    """
    key = (attrs.evolve(settings, server_name=None), files_digest(settings))
    known = _client_contexts.get(key)
    if known is not None:
        return known
    found: Found = []
    context = _context(SSL.TLS_METHOD, settings.minimum_version, settings.ciphers, found)
    if settings.verify:
        context.set_verify(SSL.VERIFY_PEER, _verified)
        _trust(context, settings.ca, found)
    else:
        context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
    if settings.alpn:
        context.set_alpn_protos([each.encode() for each in settings.alpn])
    if settings.identity is not None:
        _use_identity(context, settings.identity, found)
    if found:
        raise TlsError(*found)
    _client_contexts[key] = context
    return context


def _verified(
    connection: SSL.Connection, shown: crypto.X509, error: int, depth: int, is_ok: int
) -> bool:
    """Called by OpenSSL for each certificate of a chain, the backend's own one last."""
    assert isinstance(connection, _Connection)
    try:
        if not is_ok:
            connection.fault = chain_fault(shown.to_cryptography(), error, depth)
        elif depth == 0:
            connection.fault = name_fault(shown.to_cryptography(), connection.host)
            connection.is_verified = not connection.fault
    except Exception as failure:  # of any kind: nothing is known of what a stranger shows
        connection.fault = f"the backend's certificate cannot be read: {printable(failure)}"
    return not connection.fault


def fault_text(error: Exception, connection: SSL.Connection) -> str:
    """What ended a TLS connection or its handshake, in one line for people.

    :param error: what OpenSSL, or :meth:`ClientTls.check_peer`, has raised.
    :param connection: of :class:`ServerTls` or :class:`ClientTls`.
    """
    assert isinstance(connection, _Connection)
    return connection.fault or error_text(error, connection.peer)


def handshake_facts(connection: SSL.Connection) -> dict[str, str]:
    """What a client's handshake has settled, for the facts of its record."""
    facts = {"tls_version": connection.get_protocol_version_name().removeprefix("TLSv")}
    if name := connection.get_servername():
        facts["tls_server_name"] = name.decode("utf-8", "replace")
    if protocol := connection.get_alpn_proto_negotiated():
        facts["alpn"] = protocol.decode("utf-8", "replace")
    return facts
