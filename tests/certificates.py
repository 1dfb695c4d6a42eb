"""Keys and certificates for the tests' TLS."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@attrs.frozen
class Certificate:
    """A key and its self-signed certificate for the loopback."""

    folder: Path

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "trusted" / "certificate.pem"

    def server_side(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_side(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.set_alpn_protocols(["h2", "http/1.1"])  # as browsers and curl do
        return context


FOR_LOOPBACK = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
)


def make_certificate(
    folder: Path,
    names: Sequence[x509.GeneralName] = FOR_LOOPBACK,
    *,
    signer: Certificate | None = None,
    days: tuple[float, float] = (-1, 1),
    common_name: str = "localhost",
    passphrase: bytes | None = None,
    is_authority: bool = True,
) -> Certificate:
    """Make a key and its certificate.

    :param signer: the authority; the certificate signs itself if left out.
    :param days: from and until when it is valid, in days from now.
    :param passphrase: encrypts the key.
    """
    made = Certificate(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    name = issuer = _named(common_name)
    signing_key: Any = key
    if signer is not None:
        issuer = x509.load_pem_x509_certificate(signer.certificate.read_bytes()).subject
        signing_key = serialization.load_pem_private_key(signer.key.read_bytes(), None)
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(signing_key, hashes.SHA256())
    made.key.parent.mkdir(parents=True, exist_ok=True)
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()
            if passphrase is None
            else serialization.BestAvailableEncryption(passphrase),
        )
    )
    made.certificate.parent.mkdir()
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return made


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
