"""TLS on either side, by endpoint strings in a file."""

from __future__ import annotations

import datetime
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .programs import Backend, Monconn, connect, echo, write_config

LATE_ANSWER = bytes(range(256)) * 4096
QUESTION = b"how long is the coast?"


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
        return ssl.create_default_context(cafile=str(self.certificate))


def make_certificate(folder: Path) -> Certificate:
    made = Certificate(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    made.certificate.parent.mkdir()
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return made


class TlsClient:
    """A client that can end its half of the conversation, which ``SSLSocket`` cannot."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._socket = connect(port)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._do(self._tls.do_handshake)

    def _do(self, verb: Callable[[], object]) -> object:
        while True:
            try:
                return verb()
            except ssl.SSLWantReadError:
                self._exchange()
            finally:
                self._send()

    def _send(self) -> None:
        self._socket.sendall(self._outgoing.read())

    def _exchange(self) -> None:
        self._send()
        data = self._socket.recv(65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def send(self, data: bytes) -> None:
        self._do(lambda: self._tls.write(data))

    def end(self) -> None:
        """Say that no more will come (``close_notify``)."""
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:  # for the other side's, which may take its time
            self._send()

    def read_to_the_end(self) -> bytes:
        pieces = []
        while True:
            try:
                pieces.append(self._do(lambda: self._tls.read(65536)))
            except ssl.SSLZeroReturnError:
                return b"".join(pieces)

    def close(self) -> None:
        self._socket.close()


def answer_late(client: socket.socket) -> None:
    """Answer once the client has ended its half."""
    question = b""
    while piece := client.recv(65536):
        question += piece
    client.sendall(LATE_ANSWER if question == QUESTION else b"what?")


def answer_first(client: socket.socket) -> None:
    """Answer and leave, whatever the client does."""
    client.recv(len(QUESTION))
    client.sendall(b"goodbye")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


BEHAVIOURS = {"echo": echo, "late": answer_late, "first": answer_first}


@pytest.fixture(scope="module")
def backends(certificate: Certificate) -> Iterator[dict[str, Backend]]:
    """Each behaviour, in plain and over TLS."""
    context = certificate.server_side()

    def over_tls(serve: Callable[[socket.socket], object]) -> Callable[[socket.socket], None]:
        def serve_tls(client: socket.socket) -> None:
            with context.wrap_socket(client, server_side=True) as wrapped:
                serve(wrapped)
                wrapped.unwrap()

        return serve_tls

    made = {f"plain_{name}": Backend(serve) for name, serve in BEHAVIOURS.items()}
    made |= {f"tls_{name}": Backend(over_tls(serve)) for name, serve in BEHAVIOURS.items()}
    yield made
    for backend in made.values():
        backend.close()


@pytest.fixture(scope="module")
def monconn(
    certificate: Certificate, backends: dict[str, Backend], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Monconn]:
    """One service for each pair of a listener and a backend."""
    tls = (
        f"ssl:0:interface=127.0.0.1:privateKey={certificate.key}:certKey={certificate.certificate}"
    )
    services: dict[str, dict[str, object]] = {}
    for name, backend in backends.items():
        address = f"127.0.0.1:{backend.port}"
        if name.startswith("tls"):
            address = f"tls:localhost:{backend.port}:trustRoots={certificate.certificate.parent}"
        services[f"plain_to_{name}"] = {"listen": "127.0.0.1:0", "backend": address}
        services[f"tls_to_{name}"] = {"listen": tls, "backend": address}
    port = backends["tls_echo"].port
    plain = {"listen": "127.0.0.1:0", "backend": f"127.0.0.1:{port}"}
    services["unverified"] = {**plain, "backend": f"ssl:127.0.0.1:{port}"}
    services["mistrusting"] = {**plain, "backend": f"tls:localhost:{port}"}
    services["blocked"] = {**plain, "listen": tls, "ip_blacklist": ["127.0.0.0/8"]}
    folder = tmp_path_factory.mktemp("monconn")
    made = Monconn("monconn", ["-c", write_config(folder, **services)], folder)
    try:
        yield made
        assert made.stop() == 0
        assert "Traceback" not in str(made.log)
        assert str(made.program.err) == ""
    finally:
        made.close()


FRONTS = ["plain_to_tls", "tls_to_plain", "tls_to_tls"]


@pytest.mark.parametrize("front", FRONTS)
def test_question_and_answer(monconn: Monconn, certificate: Certificate, front: str) -> None:
    with connect(monconn.port(f"{front}_echo")) as sock:
        name = re.escape("{}:{}".format(*sock.getsockname()))
        client = sock
        if front.startswith("tls"):
            client = certificate.client_side().wrap_socket(sock, server_hostname="127.0.0.1")
        for _ in range(3):
            client.sendall(QUESTION)
            assert client.recv(100) == QUESTION
        client.close()
    monconn.log.wait_for(rf"{name} client_closed after \S+, up 66 B, down 66 B$")


@pytest.mark.parametrize("front", FRONTS)
def test_a_late_answer_is_whole(monconn: Monconn, certificate: Certificate, front: str) -> None:
    port = monconn.port(f"{front}_late")
    if front.startswith("tls"):
        client = TlsClient(port, certificate.client_side())
        client.send(QUESTION)
        client.end()
        assert client.read_to_the_end() == LATE_ANSWER
        client.close()
    else:
        with connect(port) as plain:
            plain.sendall(QUESTION)
            plain.shutdown(socket.SHUT_WR)
            assert plain.recv(2 * len(LATE_ANSWER), socket.MSG_WAITALL) == LATE_ANSWER
    monconn.log.wait_for(rf"{front}_late: \S+ client_closed after \S+, up 22 B, down 1\.0 MiB$")


@pytest.mark.parametrize("front", FRONTS)
def test_a_backend_that_leaves_first(
    monconn: Monconn, certificate: Certificate, front: str
) -> None:
    port = monconn.port(f"{front}_first")
    if front.startswith("tls"):
        client = TlsClient(port, certificate.client_side())
        client.send(QUESTION)
        assert client.read_to_the_end() == b"goodbye"
        client.close()
    else:
        with connect(port) as plain:
            plain.sendall(QUESTION)
            assert plain.recv(100, socket.MSG_WAITALL) == b"goodbye"
    monconn.log.wait_for(rf"{front}_first: \S+ backend_closed after \S+, up 22 B, down 7 B$")


def test_a_backend_without_verification(monconn: Monconn) -> None:
    with connect(monconn.port("unverified")) as client:
        client.sendall(QUESTION)
        assert client.recv(100) == QUESTION


def test_a_backend_that_is_not_trusted(monconn: Monconn) -> None:
    with connect(monconn.port("mistrusting")) as client:
        assert client.recv(100) == b""
    monconn.log.wait_for(r"mistrusting: \S+ error after \S+, up 0 B, down 0 B \(.*verify failed")


def test_a_refused_client_is_closed(monconn: Monconn, certificate: Certificate) -> None:
    with connect(monconn.port("blocked")) as sock:
        name = re.escape("{}:{}".format(*sock.getsockname()))
        with pytest.raises((ssl.SSLError, OSError)):
            certificate.client_side().wrap_socket(sock, server_hostname="localhost").recv(1)
    monconn.log.wait_for(rf"blocked: {name} refused: blocked$")
