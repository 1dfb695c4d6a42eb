"""TLS by OpenSSL over memory BIOs: contexts from settings, and what went wrong in words.

A :class:`Connection` of OpenSSL's has no socket here: whoever owns it passes the bytes from the
network in (``bio_write``) and those for the network on (``bio_read``). On a socket of its own
OpenSSL takes a client's bare FIN for a fatal error, and writes nothing of the answer.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)

from monconn.errors import MonconnError, printable, quoted
from monconn.policy.tls import BackendTls, Identity, ListenTls, split_ciphers

__all__ = [
    "BackendTls",
    "ClientTls",
    "Identity",
    "ListenTls",
    "ServerTls",
    "TlsError",
    "error_text",
    "fault_text",
    "files_digest",
    "handshake_facts",
    "is_alert",
]

_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_MAX_FILE_BYTES = 16 << 20  # the authorities of a distribution are about 200 KiB
_OP_NO_RENEGOTIATION = 1 << 30  # SSL_OP_NO_RENEGOTIATION; pyOpenSSL has it only where OpenSSL did
_KEY = re.compile(rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
_CERTIFICATE = re.compile(
    rb"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----.*?-----END \1-----", re.DOTALL
)

Found = list[tuple[tuple[str, ...], str]]
"""Faults: the key of the setting that each belongs to, and a message."""


class TlsError(MonconnError):
    """A file or a setting that TLS cannot use, or a peer's certificate that is refused.

    :param found: each fault, with the path of the setting's key, such as ``("certificates",
        "www.example.org", "key")``; empty for a fault of a peer.
    """

    def __init__(self, *found: tuple[tuple[str, ...], str]) -> None:
        super().__init__("; ".join(message for _, message in found))
        self.found = list(found)


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
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _fault(f"{_file(path)} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise _fault(f"{_file(path)} is too big for keys and certificates")
    return content


def _file(path: str) -> str:
    """A path for a message: in quotes as others are, but whole."""
    return f'"{path}"' if path.isprintable() else repr(path)


def _fault(message: str) -> TlsError:
    return TlsError(((), message))


def _certificates_in(path: str) -> list[x509.Certificate]:
    """The certificates in a PEM file.

    :raises TlsError: there is none, or one cannot be used.
    """
    blocks = [match[0] for match in _CERTIFICATE.finditer(_read(path))]
    if not blocks:
        raise _fault(f"{_file(path)} has no certificate in PEM (-----BEGIN CERTIFICATE-----)")
    try:
        return [
            crypto.load_certificate(crypto.FILETYPE_PEM, each).to_cryptography() for each in blocks
        ]
    except (crypto.Error, ValueError):
        raise _fault(f"{_file(path)} has a certificate that cannot be read") from None


def _key_in(path: str, passphrase: bytes | None) -> Any:
    """The private key in a PEM file.

    :raises TlsError: there is none, or it cannot be used.
    """
    block = _KEY.search(_read(path))
    if block is None:
        raise _fault(f"{_file(path)} has no private key in PEM (-----BEGIN PRIVATE KEY-----)")
    is_encrypted = b"ENCRYPTED" in block[0][:200]
    if is_encrypted and passphrase is None:
        raise _fault(f"the key in {_file(path)} is encrypted: name its passphrase_file")
    try:
        return serialization.load_pem_private_key(block[0], passphrase if is_encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        what = "passphrase is wrong for the key" if is_encrypted else "key cannot be used: that"
        raise _fault(f"the {what} in {_file(path)}") from None


def _passphrase_in(path: str) -> bytes:
    """The passphrase in the first line of a file.

    :raises TlsError: there is none.
    """
    line = _read(path).partition(b"\n")[0].rstrip(b"\r")
    if not line:
        raise _fault(f"{_file(path)} has no passphrase in its first line")
    return line


def _use_identity(
    context: SSL.Context, identity: Identity, found: Found
) -> x509.Certificate | None:
    """Have a context show a certificate; what is wrong with its files is added to ``found``.

    :returns: the certificate, if nothing was.
    """
    faults = len(found)

    def read(key: str, load: Callable[[str], Any], path: str) -> Any:
        try:
            return load(path)
        except TlsError as error:
            found.append(((key,), str(error)))
            return None

    passphrase = None
    if identity.passphrase_file is not None:
        passphrase = read("passphrase_file", _passphrase_in, identity.passphrase_file)
    certificates = read("certificate", _certificates_in, identity.certificate)
    chain = [] if identity.chain is None else read("chain", _certificates_in, identity.chain)
    key_path, key = identity.key or identity.certificate, None
    # A passphrase that cannot be read is one fault, and not another one of the key.
    has_passphrase = passphrase is not None or identity.passphrase_file is None
    if has_passphrase and (certificates is not None or identity.key is not None):
        key = read(
            "certificate" if identity.key is None else "key",
            lambda path: _key_in(path, passphrase),
            key_path,
        )
    if len(found) > faults:
        return None
    assert key is not None
    own: x509.Certificate = certificates[0]
    if _public(own.public_key()) != _public(key.public_key()):
        where = "" if identity.key is None else f" in {_file(identity.key)}"
        found.append(
            (
                ("certificate" if identity.key is None else "key",),
                f"the key{where} is not that of the first certificate in"
                f" {_file(identity.certificate)}",
            )
        )
        return None
    try:
        _give(context.use_certificate, crypto.X509.from_cryptography, own)
        for each in (*certificates[1:], *chain):
            _give(context.add_extra_chain_cert, crypto.X509.from_cryptography, each)
        _give(context.use_privatekey, crypto.PKey.from_cryptography_key, key)
    except (SSL.Error, crypto.Error, TypeError) as error:
        text = _openssl_text(error) or "it is of a kind that TLS has not"
        found.append((("certificate",), f"OpenSSL refuses {_file(identity.certificate)}: {text}"))
        return None
    return own


def _public(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


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
    is_folder, has_any = Path(ca).is_dir(), False
    for each in _in(ca):
        try:
            _certificates_in(str(each))  # OpenSSL would say less of what is wrong
            context.load_verify_locations(str(each))
        except (TlsError, SSL.Error) as error:
            if (
                not is_folder
            ):  # what else is in a folder is passed over, as by trustRoots= of Twisted's
                found.append(
                    (
                        ("ca",),
                        str(error)
                        if isinstance(error, TlsError)
                        else f"OpenSSL refuses {_file(ca)}: {_openssl_text(error)}",
                    )
                )
        else:
            has_any = True
    if is_folder and not has_any:
        found.append((("ca",), f"{_file(ca)} has no *.pem file with a certificate"))


def _in(ca: str) -> list[Path]:
    """The file of authorities, or the files in a folder of them."""
    path = Path(ca)
    return sorted(path.glob("*.[pP][eE][mM]")) if path.is_dir() else [path]


def files_digest(settings: ListenTls | BackendTls) -> bytes:
    """A digest of the content of all files that settings name; those not readable count, too."""
    identities = [settings.identity]
    if isinstance(settings, ListenTls):
        identities += settings.certificates.values()
    files = [] if isinstance(settings, ListenTls) or settings.ca is None else _in(settings.ca)
    for each in identities:
        if each is not None:
            named = (each.certificate, each.key, each.passphrase_file, each.chain)
            files += [Path(name) for name in named if name is not None]
    digest = hashlib.sha256()
    for file in files:
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
        """What clients are likely to refuse, in sentences: certificates out of their time."""
        self._protocols = tuple(each.encode() for each in settings.alpn)
        self._main = self._context(settings.identity, found)
        self._by_name: dict[str, SSL.Context] = {}
        for name, identity in settings.certificates.items():
            faults: Found = []
            self._by_name[name] = self._context(identity, faults)
            found += [
                (("certificates", name, *key), message)
                for key, message in faults
                if key != ("ciphers",)  # is said of the main one
            ]
        if found:
            raise TlsError(*found)

    def _context(self, identity: Identity, found: Found) -> SSL.Context:
        settings = self.settings
        context = _context(SSL.TLS_METHOD, settings.minimum_version, settings.ciphers, found)
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
        # Tickets are valid under every server name: all contexts are the same but for this.
        context.set_session_id(b"monconn")
        # Chosen by the context that the server name has selected.
        context.set_alpn_select_callback(self._choose_protocol)
        if settings.certificates:
            context.set_tlsext_servername_callback(self._choose_certificate)
        own = _use_identity(context, identity, found)
        if own is not None and (when := _out_of_time(own)):
            self.warnings.append(f"the certificate in {_file(identity.certificate)} {when}")
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
        # and raises it from do_handshake: so it must be an error like any other of a handshake.
        raise SSL.Error(fault)


# -- with backends


class ClientTls:
    """Makes the TLS connections to a backend.

    The files are read here, once: what is put in their place later is seen by the next instance.

    :param settings: whom to trust, and what to show.
    :param host: the backend's host: a name or an IP address.
    :raises TlsError: with everything that is wrong in the files or the settings.
    """

    def __init__(self, settings: BackendTls, host: str) -> None:
        found: Found = []
        self.settings = settings
        # Certificates have names without the dot of the root, and SNI has none (RFC 6066, 3).
        self._host = (settings.server_name or host).removesuffix(".").partition("%")[0]
        context = _context(SSL.TLS_METHOD, settings.minimum_version, settings.ciphers, found)
        self._context = context
        if settings.verify:
            context.set_verify(SSL.VERIFY_PEER, _verified)
            _trust(context, settings.ca, found)
        else:
            context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        if settings.alpn:
            context.set_alpn_protos([each.encode() for each in settings.alpn])
        if settings.identity is not None:
            _use_identity(context, settings.identity, found)
        sends_name = settings.server_name != "" and _ip(self._host) is None
        self._server_name = self._host.encode("ascii") if sends_name else None
        if found:
            raise TlsError(*found)

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


def _verified(
    connection: SSL.Connection, shown: crypto.X509, error: int, depth: int, is_ok: int
) -> bool:
    """Called by OpenSSL for each certificate of a chain, the backend's own one last."""
    assert isinstance(connection, _Connection)
    try:
        if not is_ok:
            connection.fault = _chain_fault(shown, error, depth)
        elif depth == 0:
            connection.fault = _name_fault(shown.to_cryptography(), connection.host)
            connection.is_verified = not connection.fault
    except Exception as failure:  # of any kind: nothing is known of what a stranger shows
        connection.fault = f"the backend's certificate cannot be read: {printable(failure)}"
    return not connection.fault


def _name_fault(certificate: x509.Certificate, host: str) -> str:
    """Why a certificate is not for a host; empty if it is (RFC 9525)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    known = [each for each in names if isinstance(each, x509.DNSName | x509.IPAddress)]
    if not known:  # service_identity takes it for one that is for every host
        return "the backend's certificate names no host (subjectAltName)"
    ip = _ip(host)
    try:
        if ip is not None:
            verify_certificate_ip_address(certificate, str(ip))
        else:
            verify_certificate_hostname(certificate, host)
    except (VerificationError, CertificateError):
        return f"the backend's certificate is not for {host}, but for {_listed(known)}"
    return ""


_MOST_NAMES = 5


def _listed(names: Iterable[x509.GeneralName]) -> str:
    texts = [printable(str(each.value)[:100]) for each in names]
    more = len(texts) - _MOST_NAMES
    return ", ".join(texts[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


# -- faults in words


_NO_ISSUER = (2, 20, 21, 27)  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT and its like: see x509_vfy.h
_CHAIN_FAULTS = {
    5: "its key cannot be read",
    7: "its signature is wrong",
    18: "it is self-signed, and not one of the trusted certificates",
    19: "the authority at the end of its chain is self-signed, and not trusted",
    22: "its chain is too long",
    24: "a certificate that is no authority's has signed it",
    25: "its authority does not allow so many others below it",
    26: "it is not meant for TLS servers",
    28: "it is rejected explicitly",
    34: "it has a critical extension that OpenSSL does not know",
    47: "its authority may not sign for its names",
    66: "its key is too small",
    67: "its authority's key is too small",
    68: "its signature's hash is too weak",
}


def _chain_fault(shown: crypto.X509, error: int, depth: int) -> str:
    certificate = shown.to_cryptography()
    what = "the backend's certificate"
    if depth:
        what = f"the certificate {_subject(certificate.subject)} in the backend's chain"
    if error in (9, 10) and (when := _out_of_time(certificate)):
        return f"{what} {when}"
    if error in _NO_ISSUER:
        issuer = _subject(certificate.issuer)
        return f"{what} is not trusted: its authority {issuer} is not known"
    text = _CHAIN_FAULTS.get(error) or f"OpenSSL's fault {error}"
    return f"{what} is not trusted: {text}"


def _out_of_time(certificate: x509.Certificate) -> str:
    """Since or until when a certificate is not valid; empty if it is now."""
    now = datetime.now(timezone.utc)
    if now < certificate.not_valid_before_utc:
        return f"is not valid before {_day(certificate.not_valid_before_utc)}"
    if now > certificate.not_valid_after_utc:
        return f"has expired on {_day(certificate.not_valid_after_utc)}"
    return ""


def _subject(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return quoted(str(common[0].value) if common else name.rfc4514_string())


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


# By OpenSSL's text of an alert: its name in RFC 8446, 6, and what it means where that is not plain.
_ALERTS = {
    "close notify": ("close_notify", ""),
    "unexpected message": ("unexpected_message", ""),
    "bad record mac": ("bad_record_mac", ""),
    "record overflow": ("record_overflow", ""),
    "handshake failure": ("handshake_failure", "it found no cipher or key exchange in common"),
    "no certificate": ("no_certificate", ""),
    "bad certificate": ("bad_certificate", "it cannot use the certificate"),
    "unsupported certificate": ("unsupported_certificate", "it cannot use such a certificate"),
    "certificate revoked": ("certificate_revoked", ""),
    "certificate expired": ("certificate_expired", ""),
    "certificate unknown": ("certificate_unknown", "it does not accept the certificate"),
    "illegal parameter": ("illegal_parameter", ""),
    "unknown ca": ("unknown_ca", "it does not trust the certificate's authority"),
    "access denied": ("access_denied", ""),
    "decode error": ("decode_error", ""),
    "decrypt error": ("decrypt_error", ""),
    "protocol version": ("protocol_version", "it has no version of TLS in common"),
    "insufficient security": ("insufficient_security", "it wants stronger ciphers"),
    "internal error": ("internal_error", ""),
    "inappropriate fallback": ("inappropriate_fallback", ""),
    "user cancelled": ("user_canceled", ""),
    "no renegotiation": ("no_renegotiation", ""),
    "missing extension": ("missing_extension", ""),
    "unsupported extension": ("unsupported_extension", ""),
    "unrecognized name": ("unrecognized_name", "it does not know the server name"),
    "bad certificate status response": ("bad_certificate_status_response", ""),
    "unknown psk identity": ("unknown_psk_identity", ""),
    "certificate required": ("certificate_required", "it wants a certificate from us"),
    "no application protocol": (
        "no_application_protocol",
        "it has no protocol in common (ALPN)",
    ),
}
# Its beginning differs from release to release, and from alert to alert.
_ALERT = re.compile(r"(?:(?:sslv3|tlsv1|tlsv13|ssl/tls|tls) alert|tlsv1|tlsv13) (.*)")
_FAULTS = {
    "http request": "the {peer} speaks plain HTTP",
    "https proxy request": "the {peer} speaks plain HTTP, to a proxy",
    "wrong version number": "the {peer} does not speak TLS",
    "packet length too long": "the {peer} does not speak TLS",
    "record layer failure": "the {peer} does not speak TLS",
    "unsupported protocol": "the {peer} has only versions of TLS below the minimum_version",
    "version too low": "the {peer} has only versions of TLS below the minimum_version",
    "unknown protocol": "the {peer} has no version of TLS in common with us",
    "no shared cipher": "the {peer} has no cipher in common with us",
    "no suitable signature algorithm": "the {peer} knows no signature that our key can make",
    "no suitable key share": "the {peer} has no key exchange in common with us",
    "no suitable groups": "the {peer} has no key exchange in common with us",
    "dh key too small": "the {peer}'s Diffie-Hellman key is too small",
    "ee key too small": "the {peer}'s key is too small",
    "unexpected eof while reading": "the {peer} has left amid the handshake",
    "certificate verify failed": "the {peer}'s certificate is not trusted",
    "decryption failed or bad record mac": "a record of the {peer}'s has been altered on its way",
}


def is_alert(error: SSL.Error) -> bool:
    """Whether it was the peer that gave the connection up, by a fatal alert."""
    return _ALERT.fullmatch(_openssl_text(error)) is not None


def fault_text(error: Exception, connection: SSL.Connection) -> str:
    """What ended a TLS connection or its handshake, in one line for people.

    :param error: what OpenSSL, or :meth:`ClientTls.check_peer`, has raised.
    :param connection: of :class:`ServerTls` or :class:`ClientTls`.
    """
    assert isinstance(connection, _Connection)
    return connection.fault or error_text(error, connection.peer)


def error_text(error: Exception, peer: str) -> str:
    """An error of TLS in one line for people.

    :param peer: ``client`` or ``backend``.
    """
    if isinstance(error, TlsError):
        return str(error)
    if isinstance(error, SSL.SysCallError | OSError):
        number = error.args[0] if error.args else 0
        if isinstance(number, int) and number > 0:
            return errno.errorcode.get(number, str(number))
        return f"the {peer} has left amid the handshake"
    if isinstance(error, SSL.ZeroReturnError):
        return f"the {peer} has ended TLS (close_notify)"
    text = _openssl_text(error)
    alert = _ALERT.fullmatch(text)
    if alert is not None:
        name, meaning = _ALERTS.get(alert[1], (alert[1].replace(" ", "_"), ""))
        sent = f"the {peer} has sent the alert {name}"
        return f"{sent}: {meaning}" if meaning else sent
    if text in _FAULTS:
        return _FAULTS[text].format(peer=peer)
    if not text and error.args and error.args[0]:  # an alert is the only error without a text
        return f"the {peer} has sent an alert that OpenSSL has no name for"
    return text or "TLS has failed"


def _openssl_text(error: Exception) -> str:
    """OpenSSL's reason for an error; empty if it has none."""
    entries = error.args[0] if error.args else None
    if not isinstance(entries, list):
        return "" if entries is None else " ".join(printable(entries).split())
    texts = [printable(each[-1]) for each in entries if isinstance(each, tuple) and each]
    # The last is the fault, and those before it its cause, unless it says only where it was.
    while len(texts) > 1 and texts[-1] in ("", "record layer failure"):
        texts.pop()
    return texts[-1] if texts else ""


def handshake_facts(connection: SSL.Connection) -> dict[str, str]:
    """What a client's handshake has settled, for the facts of its record."""
    facts = {"tls_version": connection.get_protocol_version_name().removeprefix("TLSv")}
    if name := connection.get_servername():
        facts["tls_server_name"] = name.decode("utf-8", "replace")
    if protocol := connection.get_alpn_proto_negotiated():
        facts["alpn"] = protocol.decode("utf-8", "replace")
    return facts
