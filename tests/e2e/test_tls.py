"""TLS on either side, by endpoint strings in a file."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.certificates import Certificate, make_certificate

from .programs import Backend, Monconn, connect, echo, receive, until, write_config

ANSWER = bytes(range(256)) * 4096
QUESTION = b"how long is the coast?"
SPEECH = random.Random(16).randbytes(16 << 20)
"""More than the buffers on its way take."""
SIZES = (1, 100, 16383, 16384, 16385, 65536, 300_000)


def answer_late(client: socket.socket) -> None:
    """Answer once the client has ended its half."""
    if receive(client, len(QUESTION) + 1) == QUESTION:
        client.sendall(ANSWER)


def answer_and_leave(client: socket.socket) -> None:
    """Answer, and leave before the client does."""
    if receive(client, len(QUESTION)) == QUESTION:
        client.sendall(ANSWER)


def chunks_of(data: bytes) -> Iterator[bytes]:
    """All of it, in chunks of many sizes."""
    chance, at = random.Random(7), 0
    while at < len(data):
        size = chance.choice(SIZES)
        yield data[at : at + size]
        at += size


class Speaker:
    """Sends much first, then receives, and answers with the number of bytes received."""

    def __init__(self) -> None:
        self.sent = 0

    def __call__(self, client: socket.socket) -> None:
        self.sent = 0
        for chunk in chunks_of(SPEECH):
            client.sendall(chunk)
            self.sent += len(chunk)
        digest = hashlib.sha256(receive(client, len(SPEECH)))
        client.sendall(digest.digest())

    def has_stalled(self) -> bool:
        before = self.sent
        time.sleep(0.1)
        return 0 < self.sent == before < len(SPEECH)


speaker = Speaker()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def cut_off(client: socket.socket) -> None:
    """Answer a part, and close TCP alone, if that can be seen."""
    if receive(client, len(QUESTION)) == QUESTION:
        client.sendall(ANSWER[:100])
        os.close(client.detach())


BEHAVIOURS: dict[str, Callable[[socket.socket], object]] = {
    "echo": echo,
    "late": answer_late,
    "leaving": answer_and_leave,
    "speaking": speaker,
    "cutting": cut_off,
}


@pytest.fixture(scope="module")
def backends(certificate: Certificate) -> Iterator[dict[str, Backend]]:
    """Each behaviour, in plain and over TLS."""
    context = certificate.server_side()

    def over_tls(serve: Callable[[socket.socket], object]) -> Callable[[socket.socket], None]:
        def serve_tls(client: socket.socket) -> None:
            with context.wrap_socket(client, server_side=True) as wrapped:
                serve(wrapped)
                if wrapped.fileno() >= 0:
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
    roots = certificate.certificate.parent
    # An option that Twisted alone has, and a name that needs no resolving.
    twisted = rf"tls:localhost.:{port}:endpoint=tcp\:127.0.0.1\:{port}"
    cutting = backends["tls_cutting"].port
    cut = rf"tls:localhost.:{cutting}:endpoint=tcp\:127.0.0.1\:{cutting}:trustRoots={roots}"
    services["over_twisted_cutting"] = {**plain, "backend": cut}
    services["by_twisted"] = {**plain, "backend": f"{twisted}:trustRoots={roots}"}
    services["mistrusting_by_twisted"] = {**plain, "backend": twisted}
    echo_address = f"127.0.0.1:{backends['plain_echo'].port}"
    services["tls_by_twisted"] = {"listen": f"{tls}:backlog=50", "backend": echo_address}
    services["tls_blocked"] = {**plain, "listen": tls, "ip_blacklist": ["127.0.0.0/8"]}
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


@pytest.fixture
def client(monconn: Monconn, certificate: Certificate) -> Iterator[Callable[[str], socket.socket]]:
    """Connects to a service, over TLS if its name says so."""
    sockets: list[socket.socket] = []

    def _client(service: str) -> socket.socket:
        sockets.append(connect(monconn.port(service)))
        if service.startswith("tls"):
            context = certificate.client_side()
            sockets.append(context.wrap_socket(sockets.pop(), server_hostname="127.0.0.1"))
        return sockets[-1]

    yield _client
    for sock in sockets:
        sock.close()


Client = Callable[[str], socket.socket]


def _bare_fin(front: str) -> str:
    """What is said of our clients, which end TLS by ending TCP."""
    return r" \(the client ended without close_notify\)" if front.startswith("tls") else ""


@pytest.mark.parametrize("front", FRONTS)
def test_question_and_answer(monconn: Monconn, client: Client, front: str) -> None:
    sock = client(f"{front}_echo")
    for _ in range(3):
        sock.sendall(QUESTION)
        assert receive(sock, len(QUESTION)) == QUESTION
    sock.close()
    counted = rf"up 66 B, down 66 B{_bare_fin(front)}$"
    monconn.log.wait_for(rf"{front}_echo: \S+ client_closed after \S+, {counted}")


@pytest.mark.parametrize("front", FRONTS)
def test_a_backend_that_leaves_first(monconn: Monconn, client: Client, front: str) -> None:
    sock = client(f"{front}_leaving")
    sock.sendall(QUESTION)
    assert receive(sock, len(ANSWER) + 1) == ANSWER
    sock.close()
    counted = rf"up 22 B, down 1\.0 MiB{_bare_fin(front)}$"
    monconn.log.wait_for(rf"{front}_leaving: \S+ backend_closed after \S+, {counted}")


@pytest.mark.parametrize("front", FRONTS)
def test_much_both_ways_with_a_reader_that_stalls(client: Client, front: str) -> None:
    sock = client(f"{front}_speaking")
    until(speaker.has_stalled)
    assert receive(sock, len(SPEECH)) == SPEECH
    for chunk in chunks_of(SPEECH):
        sock.sendall(chunk)
    assert receive(sock, 32) == hashlib.sha256(SPEECH).digest()


@pytest.mark.parametrize("front", FRONTS)
def test_a_client_that_resets_instead_of_reading(
    monconn: Monconn, client: Client, front: str
) -> None:
    sock = client(f"{front}_speaking")
    until(speaker.has_stalled)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    monconn.log.wait_for(rf"{front}_speaking: \S+ client_reset after .*ECONNRESET")


@pytest.mark.parametrize("front", FRONTS)
def test_a_client_that_ends_its_half_gets_a_late_answer(
    monconn: Monconn, client: Client, front: str
) -> None:
    sock = client(f"{front}_late")
    sock.sendall(QUESTION)
    socket.socket.shutdown(sock, socket.SHUT_WR)  # over TLS, Python's own would forget its keys
    assert receive(sock, len(ANSWER) + 1) == ANSWER
    counted = rf"up 22 B, down 1\.0 MiB{_bare_fin(front)}$"
    monconn.log.wait_for(rf"{front}_late: \S+ client_closed after \S+, {counted}")


def test_a_backend_without_verification(monconn: Monconn) -> None:
    with connect(monconn.port("unverified")) as client:
        client.sendall(QUESTION)
        assert client.recv(100) == QUESTION


def test_an_untrusted_backend(monconn: Monconn) -> None:
    with connect(monconn.port("mistrusting")) as client:
        assert client.recv(100) == b""
    ended = r"mistrusting: \S+ backend_unreachable after \S+, up 0 B, down 0 B"
    monconn.log.wait_for(rf"{ended} \(the backend.s certificate is not trusted: it is self-signed")


def test_a_backend_that_twisted_connects_to(monconn: Monconn) -> None:
    with connect(monconn.port("by_twisted")) as client:
        client.sendall(QUESTION)
        assert client.recv(100) == QUESTION
    with connect(monconn.port("mistrusting_by_twisted")) as client:
        assert client.recv(100) == b""
    ended = r"mistrusting_by_twisted: \S+ backend_unreachable after \S+, up 0 B, down 0 B"
    monconn.log.wait_for(rf"{ended} \(the backend.s certificate is not trusted: it is self-signed")


@pytest.mark.parametrize("service", ["over_twisted_cutting", "plain_to_tls_cutting"])
def test_a_backend_that_cuts_its_answer_off(monconn: Monconn, service: str) -> None:
    with connect(monconn.port(service)) as client:
        client.sendall(QUESTION)
        assert receive(client, 100) == ANSWER[:100]
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    ended = rf"{service}: \S+ backend_reset after \S+, up 22 B, down 100 B"
    monconn.log.wait_for(rf"{ended} \(the backend ended without close_notify\)$")


def test_a_listener_of_twisted(monconn: Monconn, client: Client) -> None:
    sock = client("tls_by_twisted")
    sock.sendall(QUESTION)
    assert receive(sock, len(QUESTION)) == QUESTION
    with connect(monconn.port("tls_by_twisted")) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        try:
            while plain.recv(100):
                pass
        except ConnectionResetError:
            pass
    ended = r"tls_by_twisted: \S+ error after \S+, up 0 B, down 0 B"
    monconn.log.wait_for(rf"{ended} \(the client speaks plain HTTP\)$")
    context = ssl.create_default_context()
    with (
        connect(monconn.port("tls_by_twisted")) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname="localhost")
    ended = r"tls_by_twisted: \S+ client_reset after \S+, up 0 B, down 0 B"
    monconn.log.wait_for(rf"{ended} \(the client has sent the alert unknown_ca: it does not trust")


def test_a_refused_client_is_closed(monconn: Monconn, client: Client) -> None:
    with pytest.raises(OSError, match=r"closed|EOF|reset"):
        client("tls_blocked").recv(1)
    monconn.log.wait_for(r"tls_blocked: 127\.0\.0\.1:\d+ refused: blocked$")


@pytest.mark.parametrize(
    "address",
    [
        "tls:localhost:{port}:trustRoots={roots}",
        "ssl:127.0.0.1:{port}:hostname=localhost:caCertsDir={roots}",
    ],
    ids=["tls", "ssl"],
)
@pytest.mark.parametrize("names", [[], [x509.RFC822Name("a@localhost")]], ids=["none", "mail"])
def test_a_trusted_backend_whose_certificate_names_no_host(
    launch: Callable[..., Monconn], tmp_path: Path, names: list[x509.GeneralName], address: str
) -> None:
    """Else any certificate of the same authority would be valid for every host."""
    made = make_certificate(tmp_path, names)
    context = made.server_side()

    def serve(client: socket.socket) -> None:
        context.wrap_socket(client, server_side=True).sendall(b"impostor")

    backend = Backend(serve)
    address = address.format(port=backend.port, roots=made.certificate.parent)
    file = write_config(tmp_path, web={"listen": "127.0.0.1:0", "backend": address})
    monconn = launch("monconn", "-c", file)
    with connect(monconn.port("web")) as client:
        assert client.recv(100) == b""
    monconn.log.wait_for(r"web: \S+ backend_unreachable after .*certificate names no host")
    backend.close()


@pytest.mark.parametrize("options", ["", ":timeout=9"], ids=["sockets", "twisted"])
@pytest.mark.parametrize(
    ("how", "ended"),
    [
        ("reset", r"backend_reset after \S+, up 0 B, down 0 B"),
        ("fin", r"backend_unreachable after .* \(closed amid the handshake\)$"),
    ],
)
def test_a_backend_that_leaves_amid_the_handshake(
    launch: Callable[..., Monconn],
    serve: Callable[..., Backend],
    tmp_path: Path,
    options: str,
    how: str,
    ended: str,
) -> None:
    """It was not connected: the client gets an end, whoever makes the TLS connection."""

    def leave(client: socket.socket) -> None:
        while len(client.recv(1 << 16)) == 1 << 16:
            pass  # bytes that are left unread make any close a reset
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    address = f"tls:127.0.0.1:{serve(leave).port}{options}"
    file = write_config(tmp_path, web={"listen": "127.0.0.1:0", "backend": address})
    monconn = launch("monconn", "-c", file)
    with connect(monconn.port("web")) as client:
        assert client.recv(100) == b""
    monconn.log.wait_for(rf"web: \S+ {ended}")


@pytest.mark.parametrize(
    "address",
    ["tls:localhost:{port}", r"tls:localhost.:{port}:endpoint=tcp\:127.0.0.1\:{port}"],
    ids=["ours", "twisted"],
)
def test_a_backend_that_accepts_and_never_speaks(
    launch: Callable[..., Monconn], tmp_path: Path, address: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        backend = address.format(port=silent.getsockname()[1])
        service = {"listen": "127.0.0.1:0", "backend": backend, "connect_timeout": 0.3}
        monconn = launch("monconn", "-c", write_config(tmp_path, web=service))
        with connect(monconn.port("web")) as client:
            assert client.recv(100) == b""
        detail = r"\(the backend's TLS handshake was not complete\)"
        monconn.log.wait_for(rf"web: \S+ connect_timeout after .*{detail}$")


@pytest.mark.parametrize(
    "address",
    [
        "tls:localhost:{port}:trustRoots={roots}",
        r"tls:localhost.:{port}:endpoint=tcp\:127.0.0.1\:{port}:trustRoots={roots}",
    ],
    ids=["ours", "twisted"],
)
def test_a_backend_that_wants_a_certificate(
    launch: Callable[..., Monconn], tmp_path: Path, address: str, certificate: Certificate
) -> None:
    """In TLS 1.3 its alert comes when the handshake is done for us."""
    context = certificate.server_side()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate.certificate)

    def serve(client: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(client, server_side=True)

    backend = Backend(serve)
    address = address.format(port=backend.port, roots=certificate.certificate.parent)
    file = write_config(tmp_path, web={"listen": "127.0.0.1:0", "backend": address})
    monconn = launch("monconn", "-c", file)
    with connect(monconn.port("web")) as client, pytest.raises(ConnectionResetError):
        client.recv(100)
    detail = "the backend has sent the alert certificate_required: it wants a certificate from us"
    monconn.log.wait_for(rf"web: \S+ backend_reset after .*\({detail}\)$")
    backend.close()
