"""The settings of TLS, for clients and for backends; :mod:`monconn.net.tls` makes use of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import attrs

from monconn.addresses import parse_host
from monconn.errors import quoted
from monconn.policy.kinds import Flag, Kind, PositiveSeconds
from monconn.policy.settings import validated

_MAX_CHARACTERS = 4096
_MAX_PROTOCOL_BYTES = 255  # RFC 7301, 3.1: a protocol's name is preceded by its length in one byte
_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_CIPHER = re.compile(r"[-+!@]?[A-Za-z0-9_+=-]+")


def _check_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("must be a text")
    if not value.strip():
        raise ValueError("must not be empty")
    if len(value) > _MAX_CHARACTERS or "\0" in value:
        raise ValueError("is too long or contains a NUL")
    return value


def _check_optional_text(value: object) -> str | None:
    return None if value is None else _check_text(value)


def _check_version(value: object) -> str:
    if value not in ("1.2", "1.3"):
        raise ValueError('must be "1.2" or "1.3", in quotes: older versions of TLS are not secure')
    return str(value)


def _check_ciphers(value: object) -> str | None:
    if value is None:
        return None
    text = _check_text(value)
    for cipher in split_ciphers(text):
        if cipher.upper().startswith("TLS_"):
            raise ValueError(
                f"is for TLS 1.2, and {quoted(cipher)} is of TLS 1.3, whose few are always offered"
            )
        if not _CIPHER.fullmatch(cipher):
            raise ValueError(f"must be a list of OpenSSL's names with colons, not {quoted(cipher)}")
    return text


def split_ciphers(text: str) -> list[str]:
    """The words of a list of ciphers, which OpenSSL separates by colons, commas or spaces."""
    return [word for word in re.split(r"[:,\s]+", text) if word]


def _check_protocols(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError("must be a list such as [h2, http/1.1]")
    protocols = tuple(value)
    for each in protocols:
        if not isinstance(each, str) or not each.isascii() or not each.isprintable():
            raise ValueError(f"must be a list of names in ASCII, and {each!r} is none")
        if not 0 < len(each) <= _MAX_PROTOCOL_BYTES:
            raise ValueError(f"must be a list of names of 1 to {_MAX_PROTOCOL_BYTES} bytes")
    if len(set(protocols)) < len(protocols):
        raise ValueError("must name each protocol once")
    return protocols


def check_server_name(value: object) -> str:
    """A server name as clients ask for it: a host name, or ``*.`` and one; in lower case.

    :raises ValueError: it is none.
    """
    name = _check_text(value).lower().removesuffix(".")
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise ValueError(
            f"must be a host name such as www.example.org or *.example.org, not {quoted(name)}"
        )
    return name


def check_host(value: object) -> str:
    """The host that a certificate is to be for: a name or an IP address.

    :raises ValueError: it is neither.
    """
    return parse_host(_check_text(value))


def _check_optional_host(value: object) -> str | None:
    # "" is for endpoint strings that send none; a configuration cannot say it.
    return value if value is None or value == "" else check_host(value)


def _check_certificates(value: object) -> dict[str, Identity]:
    if not isinstance(value, Mapping):
        raise TypeError("must be a mapping of server names to certificates")
    certificates: dict[str, Identity] = {}
    for name, identity in value.items():
        if not isinstance(identity, Identity):
            raise TypeError(f"must be a mapping to Identity(...), and {name!r} is not")
        certificates[check_server_name(name)] = identity
    if len(certificates) < len(value):
        raise ValueError("must have each server name once, in whatever case")
    return certificates


FILE = Kind("file", _check_text, _check_text)
OPTIONAL_FILE = Kind("file or nothing", _check_optional_text, _check_text)
TLS_VERSION = Kind("version of TLS", _check_version, _check_version)
CIPHERS = Kind("ciphers", _check_ciphers, _check_ciphers)
PROTOCOLS = Kind("protocols", _check_protocols, lambda text: _check_protocols(text.split(",")))
SERVER_NAME = Kind("server name", _check_optional_host, _check_optional_host)
CERTIFICATES = Kind("certificates", _check_certificates, _check_certificates)

File = Annotated[str, FILE]
OptionalFile = Annotated["str | None", OPTIONAL_FILE]
TlsVersion = Annotated[Literal["1.2", "1.3"], TLS_VERSION]
Ciphers = Annotated["str | None", CIPHERS]
Protocols = Annotated[tuple[str, ...], PROTOCOLS]
ServerName = Annotated["str | None", SERVER_NAME]


@attrs.frozen(field_transformer=validated)
class Identity:
    """A certificate and its key; the files are in PEM.

    :raises SettingError: a value is not valid.
    """

    certificate: File
    """The certificate, followed by those that lead from it to an authority, if any."""
    key: OptionalFile = None
    """Its private key; None if that is in the certificate's file."""
    passphrase_file: OptionalFile = None
    """A file whose first line is the passphrase of the key."""
    chain: OptionalFile = None
    """A file with the rest of the chain, if it is not in the certificate's."""


@attrs.frozen(field_transformer=validated)
class ListenTls:
    """TLS with clients.

    :raises SettingError: a value is not valid.
    """

    certificate: File
    """As in :class:`Identity`; for every client whose server name has none in ``certificates``."""
    key: OptionalFile = None
    passphrase_file: OptionalFile = None
    chain: OptionalFile = None
    certificates: Annotated[Mapping[str, Identity], CERTIFICATES] = attrs.field(
        factory=dict, hash=False
    )
    """Other certificates, by the server name (SNI) that clients ask for; ``*.`` is one label."""
    minimum_version: TlsVersion = "1.2"
    ciphers: Ciphers = None
    """OpenSSL's list of ciphers of TLS 1.2; None for its default."""
    alpn: Protocols = ()
    """The protocols to choose from, the preferred one first; if empty, none is ever chosen."""
    handshake_timeout: PositiveSeconds = 10.0
    """Seconds from the client's connect to the end of its handshake."""

    @property
    def identity(self) -> Identity:
        """The main certificate and its key."""
        return Identity(self.certificate, self.key, self.passphrase_file, self.chain)


@attrs.frozen(field_transformer=validated)
class BackendTls:
    """TLS with a backend.

    :raises SettingError: a value is not valid.
    """

    ca: OptionalFile = None
    """The authorities that are trusted: a file of certificates, or a folder of ``*.pem`` files;
    None for those of the operating system."""
    verify: Flag = True
    """Whether the certificate must be trusted, and for the server name."""
    server_name: ServerName = None
    """The name that the certificate must have, and that is asked for (SNI); None for the backend's
    host, and "" to verify that but ask for none."""
    alpn: Protocols = ()
    """The protocols that are offered."""
    minimum_version: TlsVersion = "1.2"
    ciphers: Ciphers = None
    certificate: OptionalFile = None
    """A certificate to show to the backend; see :class:`Identity`."""
    key: OptionalFile = None
    passphrase_file: OptionalFile = None
    chain: OptionalFile = None

    @property
    def identity(self) -> Identity | None:
        """What is shown to the backend; None for nothing."""
        if self.certificate is None:
            return None
        return Identity(self.certificate, self.key, self.passphrase_file, self.chain)
