"""What a ClientHello says."""

from __future__ import annotations

import pytest

from monconn.decode.tls import decode
from tests.decode.world import client_hello, decoded, in_records

PROTOCOLS = ("h2", "http/1.1")
WHOLE = {
    "protocol": "tls",
    "tls_server_name": "broker.example.org",
    "tls_alpn_offered": "h2,http/1.1",
}


def test_server_name_and_protocols_are_told() -> None:
    assert decoded(("up", client_hello(protocols=PROTOCOLS))) == WHOLE


def test_a_hello_may_have_neither() -> None:
    assert decoded(("up", client_hello(None))) == {"protocol": "tls"}


@pytest.mark.parametrize("size", [10, 63, 511])
def test_a_hello_may_come_in_many_records(size: int) -> None:
    assert decoded(("up", in_records(client_hello(protocols=PROTOCOLS), size))) == WHOLE


def test_what_has_come_of_a_hello_is_told_at_the_end() -> None:
    hello = client_hello(protocols=PROTOCOLS)
    end_of_name = hello.index(b"broker.example.org") + len(b"broker.example.org")
    assert decoded(("up", hello[:end_of_name])) == {
        "protocol": "tls",
        "tls_server_name": "broker.example.org",
    }
    assert decoded(("up", hello[: end_of_name - 1])) == {"protocol": "tls"}


def test_that_it_is_tls_is_told_before_the_hello_is_whole() -> None:
    outcome = decode(client_hello()[:100], b"", False)
    assert outcome is not None
    assert outcome == ({"protocol": "tls"}, False)


def test_a_long_hello_is_decoded_as_far_as_it_goes() -> None:
    hello = client_hello(protocols=PROTOCOLS)
    # A ticket of 8 KiB comes last (RFC 8446, 4.2.11).
    ticket = b"\0\x29" + (8192).to_bytes(2, "big") + bytes(8192)
    message = bytearray(hello[5:] + ticket)
    message[1:4] = (len(message) - 4).to_bytes(3, "big")
    at = 4 + 2 + 32
    at += 1 + message[at]
    at += 2 + int.from_bytes(message[at : at + 2], "big")
    at += 1 + message[at]
    message[at : at + 2] = (len(message) - at - 2).to_bytes(2, "big")
    record = hello[:3] + len(message).to_bytes(2, "big") + message
    assert decoded(("up", record[:1000]), ("up", record[1000:])) == WHOLE


def test_names_that_only_test_servers_are_left_out() -> None:
    hello = client_hello(protocols=("\x0a\x0a", "h2"))
    assert decoded(("up", hello))["tls_alpn_offered"] == "h2"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\x05\x02\0\0\1\0",  # another message of a handshake
        b"\x16\x02\x01\x00\x05\x01\0\0\1\0",
        b"\x16\x03\x01\xff\x05\x01\0\0\1\0",  # longer than a record may be
        b"\x16\x03\x09",
    ],
)
def test_what_only_begins_like_a_hello_is_none(data: bytes) -> None:
    assert decoded(("up", data)) == {"protocol": "unknown"}
