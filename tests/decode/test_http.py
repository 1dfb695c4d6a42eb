"""What the head of an HTTP request says."""

from __future__ import annotations

import pytest

from tests.decode.world import decoded

HOST = b"Host: www.example.org\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "method", "path", "host"),
    [
        (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", "GET", "/", "www.example.org"),
        (b"POST /a/b?key=1 HTTP/1.1\r\nA: b\r\nhost:h:81 \r\n\r\n", "POST", "/a/b", "h:81"),
        (b"GET /a#b HTTP/1.0\n\n", "GET", "/a", None),
        (b"GET /a HTTP/1.1\r\nA: b\r\n\r\n" + HOST, "GET", "/a", None),  # in the body
        (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", "OPTIONS", "*", "www.example.org"),
        (b"M-SEARCH * HTTP/1.1\r\n" + HOST + b"\r\n", "M-SEARCH", "*", "www.example.org"),
        (b"SUBSCRIBE /x HTTP/1.1\r\n" + HOST + b"\r\n", "SUBSCRIBE", "/x", "www.example.org"),
        # The target's goes before the header (RFC 9112, 3.2.2).
        (b"GET http://a.example/b?c HTTP/1.1\r\n" + HOST + b"\r\n", "GET", "/b", "a.example"),
        (b"GET http://a.example HTTP/1.1\r\n" + HOST + b"\r\n", "GET", "/", "a.example"),
        (b"GET http://a.example?q=x/y HTTP/1.1\r\n\r\n", "GET", "", "a.example"),
        (b"CONNECT a.example:443 HTTP/1.1\r\n\r\n", "CONNECT", None, "a.example:443"),
        (b"GET /caf\xc3\xa9 HTTP/1.1\r\n\r\n", "GET", "/café", None),
        (b"GET /\xff HTTP/1.1\r\n\r\n", "GET", "/\N{REPLACEMENT CHARACTER}", None),
    ],
)
def test_method_path_and_host_are_told(
    request_bytes: bytes, method: str, path: str | None, host: str | None
) -> None:
    facts = {"protocol": "http", "http_method": method, "http_path": path, "http_host": host}
    expected = {name: value for name, value in facts.items() if value is not None}
    assert decoded(("up", request_bytes)) == expected


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /?token=secret HTTP/1.1\r\n\r\n",
        b"GET http://ada:secret@a.example/?secret HTTP/1.1\r\n\r\n",
        b"CONNECT ada:secret@a.example:443 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: ada:secret@a.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nAuthorization: Bearer secret\r\nCookie: secret\r\n\r\n",
        b"GET /?secret" + b"x" * 5000,
    ],
)
def test_no_secret_is_told(request_bytes: bytes) -> None:
    facts = decoded(("up", request_bytes))
    assert facts["protocol"] == "http"
    assert "secret" not in str(facts)


@pytest.mark.parametrize("blanks", [b" ", b"\t", b" \t", b"\n", b"a:\n", b"\r", b"Host:"])
def test_no_request_takes_more_than_linear_time(blanks: bytes) -> None:
    # Cubic, as a pattern with two runs of blanks would be, it would take a minute.
    for line in (b"", b"GET / HTTP/1.1\r\nHost:", b"GET / HTTP/1.1\r\nHost", b"GET / HTTP/1.1\r\n"):
        assert decoded(("up", line + blanks * (4000 // len(blanks)) + b"x"))


def test_http_2_is_told_by_its_preface() -> None:
    assert decoded(("up", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) == {"protocol": "http"}


@pytest.mark.parametrize(
    "data",
    [
        b"NICK ada\r\n",
        b"OPTIONS rtsp://a.example RTSP/1.0\r\n",
        b"GET /\r\n",
        b"GET  / HTTP/1.1\r\n",
        b"GET /\x1b[2J HTTP/1.1\r\n\r\n",
        b"CONNECT\naccept-version:1.2\n",
        b"PRI * HTTP/3.0\r\n",
        b"A" * 100,
    ],
)
def test_other_protocols_of_text_are_unknown(data: bytes) -> None:
    assert decoded(("up", data)) == {"protocol": "unknown"}
