"""Serve TLS in front of a plain server, and take a renewed certificate without losing a connection.

    python examples/renew_certificates.py

Makes its own certificates, which sign themselves, and ends by itself.
"""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.internet.task import react

import monconn
from monconn.addresses import TcpAddress
from monconn.config.config import ServiceConfig
from monconn.policy.tls import ListenTls
from monconn.run.supervisor import Supervisor


def make_certificate(certificate: Path, key: Path, serial_number: int) -> None:
    """Write a key, and a certificate for localhost, which is valid for a day."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), serial_number)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


class Upper(Protocol):
    """The backend: answers in capitals, and knows nothing of TLS."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data.upper())


class Client(Protocol):
    """Sends words, and waits for the answer to each."""

    def __init__(self) -> None:
        self.answer: Deferred[str] = Deferred()

    def ask(self, word: str) -> Deferred[str]:
        self.answer = Deferred()
        self.transport.write(word.encode())
        return self.answer

    def serial_number(self) -> int:
        shown = self.transport.getPeerCertificate()
        return shown.to_cryptography().serial_number

    def dataReceived(self, data: bytes) -> None:
        self.answer.callback(data.decode())


async def main(reactor: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        await renew(reactor, Path(folder))


async def renew(reactor: Any, folder: Path) -> None:
    certificate, key = folder / "web.pem", folder / "web.key"
    make_certificate(certificate, key, 1)

    backend = reactor.listenTCP(0, Factory.forProtocol(Upper), interface="127.0.0.1")
    supervisor = Supervisor(reactor, monconn.registry)
    service = ServiceConfig(
        "web",
        listen=TcpAddress("127.0.0.1", 0),
        backend=TcpAddress("127.0.0.1", backend.getHost().port),
        tls=ListenTls(str(certificate), str(key)),
    )
    print((await supervisor.apply((), [service])).describe())
    port = int(monconn.get("web").listen.rpartition(":")[2])  # chosen by the kernel

    async def connect() -> Client:
        trusted = Certificate.loadPEM(certificate.read_bytes())
        options = optionsForClientTLS("localhost", trustRoot=trusted)
        endpoint = wrapClientTLS(options, TCP4ClientEndpoint(reactor, "127.0.0.1", port))
        return await connectProtocol(endpoint, Client())

    first = await connect()
    print(await first.ask("hello"), "from certificate", first.serial_number())

    make_certificate(certificate, key, 2)
    print((await supervisor.apply([service], [service])).describe())

    second = await connect()
    print(await second.ask("hello"), "from certificate", second.serial_number())
    print(await first.ask("still here"), "from certificate", first.serial_number())
    for client in (first, second):
        client.transport.loseConnection()
    await supervisor.stop()
    print([record.facts["tls_version"] for record in monconn.get("web").closed_records])


react(main)
