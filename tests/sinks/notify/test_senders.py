"""Webhooks and Apprise, at real servers of this host."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.config.notify import NotifyConfig, NotifyUrl, Secret
from monconn.sinks.notify import senders
from monconn.sinks.notify.messages import Message, make_message
from monconn.sinks.notify.output import ThreadedDelivery
from monconn.sinks.notify.senders import (
    AppriseSender,
    DeliveryError,
    WebhookSender,
    make_sender,
    signature,
)
from tests.certificates import make_certificate
from tests.properties import examples

PASSWORD = "hunter2hunter2"
WAIT_SECONDS = 10.0
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Server:
    """Reads one request of each connection, and does with the socket what it is told."""

    def __init__(self, act: Callable[[socket.socket], object]) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self._act = act
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.is_done = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with sock:
                try:
                    self.requests.append(read_request(sock))
                    self._act(sock)
                except OSError:
                    pass


def read_request(sock: socket.socket) -> tuple[str, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        received = sock.recv(65536)
        if not received:
            raise OSError
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    while len(body) < int(headers["Content-Length"]):
        body += sock.recv(65536)
    return first, headers, body


@contextmanager
def serving(act: Callable[[socket.socket], object] | bytes = OK) -> Iterator[Server]:
    answer = act
    server = Server((lambda sock: sock.sendall(answer)) if isinstance(answer, bytes) else answer)
    try:
        yield server
    finally:
        server.is_done.set()
        server.listener.close()


def message(text: str = "it is so") -> Message:
    return make_message("silent", text, {"event": "alarm", "alarm": "silent"}, service="web")


def url(server: Server, path: str = f"/hook/{PASSWORD}?a=b#fragment") -> NotifyUrl:
    return NotifyUrl(f"http://127.0.0.1:{server.port}{path}")


def send(server: Server) -> str:
    return WebhookSender(url(server)).send(message())


def test_a_request() -> None:
    sent = message()
    with serving() as server:
        answer = WebhookSender(url(server)).send(sent)
        ((first, headers, body),) = server.requests
    assert answer == "answered 204 No Content"
    assert first == f"POST /hook/{PASSWORD}?a=b HTTP/1.1"
    assert headers["Host"] == f"127.0.0.1:{server.port}"
    assert headers["Content-Type"] == "application/json"
    assert headers["webhook-id"] == sent.id == json.loads(body)["id"]
    assert "webhook-signature" not in headers
    assert "Authorization" not in headers


def test_the_signature_is_of_standard_webhooks() -> None:
    """The example of their specification's libraries."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_attempt_is_signed_with_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = message()
    with serving() as server:
        sender = WebhookSender(url(server), b"0123456789abcdef")
        for now in (1_000.7, 2_000.2):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            sender.send(sent)
    for (_, headers, body), at in zip(server.requests, ("1000", "2000"), strict=True):
        assert (headers["webhook-id"], headers["webhook-timestamp"]) == (sent.id, at)
        signed = f"{sent.id}.{at}.".encode() + body
        made = hmac.new(b"0123456789abcdef", signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(made).decode()}"


def test_credentials_are_a_header() -> None:
    with serving() as server:
        with_password = NotifyUrl(f"http://me:p%40ss@127.0.0.1:{server.port}")
        WebhookSender(with_password).send(message())
        ((first, headers, _),) = server.requests
    assert first == "POST / HTTP/1.1"
    assert headers["Host"] == f"127.0.0.1:{server.port}"
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"me:p@ss"


@pytest.mark.parametrize("zone", ["%lo", "%25lo"])
def test_a_zone_is_used_and_not_sent(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[Any] = []

    def resolve(*args: Any, **_: Any) -> list[Any]:
        resolved.append(args)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", server.port))]

    with serving() as server:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", resolve)
            target = NotifyUrl(f"http://[fe80::1{zone}]:{server.port}/")
            WebhookSender(target).send(message())
        ((_, headers, _),) = server.requests
    assert resolved == [("fe80::1%lo", server.port)]
    assert headers["Host"] == f"[fe80::1]:{server.port}"


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving() as server:
        assert send(server) == "answered 204 No Content"


@pytest.mark.parametrize(
    ("answer", "expected", "is_final"),
    [
        (
            b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
            "answered 500 Internal Server Error",
            False,
        ),
        (b"HTTP/1.0 404\r\n\r\n", "answered 404", False),
        (b"HTTP/1.1 400 Bad\r\n\r\n", "answered 400 Bad", True),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\n", "answered 429 Too Many Requests", False),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
            "redirects are not",
            False,
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n\r\n", "answered 503 No", False),
        (b"SSH-2.0-OpenSSH\r\n", "is no HTTP", False),
        (b"HTTP/1.1 2O0 OK\r\n" + b"x" * 20_000, "is no HTTP", False),
        (b"HTTP/1.", "is no HTTP", False),
        (b"", "closed the connection, no answer", False),
        (b"\x00" * 100_000, "is no HTTP", False),
        (b"HTTP/1.1 500 \x1b[31m\xff\r\n\r\n", "answered 500", False),
    ],
)
def test_answers_that_are_no_delivery(answer: bytes, expected: str, is_final: bool) -> None:
    with serving(answer) as server, pytest.raises(DeliveryError, match=expected) as caught:
        send(server)
    assert caught.value.is_final is is_final
    assert str(caught.value).isprintable()
    assert PASSWORD not in str(caught.value)
    assert len(server.requests) == 1


def test_interim_answers_are_passed_over() -> None:
    with serving(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n") as server:
        assert send(server) == "answered 200 OK"


class Pieces:
    """A socket from which pieces come, and then its end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    def settimeout(self, _: float) -> None:
        pass

    def recv(self, _: int) -> bytes:
        return next(self._pieces, b"")


ODD = st.binary(min_size=1, max_size=40) | st.sampled_from(
    [
        b"HTTP/1.1 ",
        b"100",
        b"204",
        b" OK",
        b"\r\n",
        b"\r\n\r\n",
        b"HTTP/1.0 500 \xff\r\n",
        b"x" * 4096,
    ]
)


@settings(deadline=None, max_examples=examples(200))
@given(st.lists(ODD, max_size=12))
def test_whatever_is_answered_is_a_status_or_a_failure(pieces: list[bytes]) -> None:
    made: Any = Pieces(pieces)
    try:
        status, phrase = senders._read_status(made, float("inf"))
    except DeliveryError:
        return
    assert 200 <= status <= 999 or status < 100
    assert phrase.isprintable()
    assert len(phrase) <= 240


def test_a_huge_answer_is_not_read() -> None:
    def act(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:  # until it is reset
            sock.sendall(b"x" * 100_000)

    with serving(act) as server:
        assert send(server) == "answered 200 OK"


def test_one_that_resets() -> None:
    def act(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with serving(act) as server, pytest.raises(DeliveryError, match="reset"):
        send(server)


@pytest.mark.parametrize("piece", [b"", b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_one_that_hangs_or_dribbles(monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    monkeypatch.setattr(senders, "SEND_SECONDS", 0.3)

    def act(sock: socket.socket) -> None:
        head = b"HTTP/1.1 "
        for number in range(1_000):
            sent = head[number : number + 1] or b"x" if piece == b"H" else piece
            if sent:
                sock.sendall(sent)
            if server.is_done.wait(0.02):
                return

    with serving(act) as server, pytest.raises(DeliveryError, match=r"no answer within 0.3 s|HTTP"):
        send(server)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DeliveryError, match=r"^connection refused$"):
        WebhookSender(NotifyUrl(f"http://127.0.0.1:{port}/{PASSWORD}")).send(message())
    with pytest.raises(DeliveryError, match=r"^nothing\.invalid cannot be resolved"):
        WebhookSender(NotifyUrl(f"http://nothing.invalid/{PASSWORD}")).send(message())


def test_certificates_are_verified(tmp_path: Path) -> None:
    made = make_certificate(tmp_path / "made", [x509.DNSName("localhost")])
    context, ca = made.server_side(), str(made.certificate)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(sock, server_side=True) as secured:
                    read_request(secured)
                    secured.sendall(OK)
            except OSError:
                sock.close()

    threading.Thread(target=serve, daemon=True).start()
    target = f"https://localhost:{listener.getsockname()[1]}/{PASSWORD}"
    with listener:
        with pytest.raises(DeliveryError, match="its certificate is not accepted"):
            WebhookSender(NotifyUrl(target)).send(message())
        good = WebhookSender(NotifyUrl(target), ca=ca)
        assert good.send(message()) == "answered 204 No Content"
        other = WebhookSender(NotifyUrl(target.replace("localhost", "127.0.0.1")), ca=ca)
        with pytest.raises(DeliveryError, match="its certificate is not accepted"):
            other.send(message())


def test_a_file_of_authorities_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(DeliveryError, match=r"ca: .*ca\.pem cannot be used"):
        WebhookSender(NotifyUrl("https://h/"), ca=str(tmp_path / "ca.pem"))


# -- Apprise


def apprise_url(server: Server) -> NotifyUrl:
    return NotifyUrl(f"json://me:{PASSWORD}@127.0.0.1:{server.port}/{PASSWORD}")


def test_apprise_sends_a_title_and_a_text() -> None:
    with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as server:
        sender = make_sender(NotifyConfig(apprise_url(server)))
        assert isinstance(sender, AppriseSender)
        assert sender.send(message("<b>it *is*</b>")) == "sent"
        ((_, _, body),) = server.requests
    sent = json.loads(body)
    assert (sent["title"], sent["type"]) == ("monconn: silent at web", "warning")
    assert "it *is*" in sent["message"]


def test_what_apprise_says_of_a_failure_has_no_secret() -> None:
    answer = f"HTTP/1.1 500 {PASSWORD}\r\nContent-Length: 0\r\n\r\n".encode()
    with serving(answer) as server, pytest.raises(DeliveryError) as caught:
        AppriseSender(apprise_url(server)).send(message())
    assert "500" in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_plugin_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin:
        def notify(self, **_: object) -> bool:
            raise RuntimeError(PASSWORD)

    monkeypatch.setattr(senders, "make_apprise", lambda url: Plugin())
    with pytest.raises(DeliveryError, match=r"^Apprise failed: RuntimeError$"):
        AppriseSender(NotifyUrl("json://h")).send(message())


# -- in a thread


class FakeReactor:
    def __init__(self) -> None:
        self.called = threading.Event()
        self.answers: list[tuple[str, DeliveryError | None]] = []

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        call(*arguments)
        self.called.set()

    def done(self, answer: str, failure: DeliveryError | None) -> None:
        self.answers.append((answer, failure))


def test_a_thread_delivers_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    reactor = FakeReactor()
    with serving() as server:
        delivery = ThreadedDelivery(
            NotifyConfig(url(server), secret=Secret(b"0123456789")), reactor
        )
        before = set(threading.enumerate())
        delivery.begin(message(), reactor.done)
        delivery.close()
        assert reactor.called.wait(WAIT_SECONDS)
    assert reactor.answers == [("answered 204 No Content", None)]
    until = time.monotonic() + WAIT_SECONDS
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, until - time.monotonic()))
        assert not thread.is_alive()


def test_an_attempt_after_a_failure_reads_files_anew(tmp_path: Path) -> None:
    made = make_certificate(tmp_path / "made", [x509.DNSName("localhost")])
    ca = tmp_path / "ca.pem"
    ca.write_text("half of it")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    delivery = ThreadedDelivery(
        NotifyConfig(NotifyUrl(f"https://127.0.0.1:{port}"), ca=str(ca)), reactor := FakeReactor()
    )
    for _ in range(2):
        reactor.called.clear()
        delivery.begin(message(), reactor.done)
        assert reactor.called.wait(WAIT_SECONDS)
        ca.write_bytes(made.certificate.read_bytes())
    delivery.close()
    unusable, refused = (failure for _, failure in reactor.answers)
    assert unusable is not None
    assert "cannot be used" in str(unusable)
    assert not unusable.is_final
    assert str(refused) == "connection refused"


def test_whatever_goes_wrong_in_the_thread_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise MemoryError(PASSWORD)

    monkeypatch.setattr("monconn.sinks.notify.output.make_sender", fail)
    reactor = FakeReactor()
    ThreadedDelivery(NotifyConfig(NotifyUrl("http://h")), reactor).begin(message(), reactor.done)
    assert reactor.called.wait(WAIT_SECONDS)
    ((_, failure),) = reactor.answers
    assert str(failure) == "failed: MemoryError"
