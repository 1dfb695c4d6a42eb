"""What a PostgreSQL client's start-up says."""

from __future__ import annotations

import struct

import pytest

from tests.decode.world import client_hello, decoded, startup

TLS, GSS = struct.pack(">II", 8, 80877103), struct.pack(">II", 8, 80877104)
ADA = {"protocol": "postgresql", "postgresql_user": "ada", "postgresql_database": "sales"}
STARTUP = startup(user="ada", database="sales", application_name="psql")


@pytest.mark.parametrize(
    "up",
    [
        STARTUP,
        STARTUP + b"p\0\0\0\x0bsecret\0",
        startup(version=3 << 16 | 2, database="sales", user="ada"),
        TLS + STARTUP,  # the server has answered N
        GSS + TLS + STARTUP,
    ],
)
def test_user_and_database_are_told(up: bytes) -> None:
    assert decoded(("up", up)) == ADA


def test_the_password_is_not_told() -> None:
    assert "secret" not in str(decoded(("up", STARTUP), ("up", b"p\0\0\0\x0bsecret\0")))


def test_a_server_name_is_told_of_what_goes_on_in_tls() -> None:
    hello = client_hello("db.example.org")
    assert decoded(("up", TLS), ("down", b"S"), ("up", hello)) == {
        "protocol": "postgresql",
        "tls_server_name": "db.example.org",
    }


@pytest.mark.parametrize(
    "up",
    [
        struct.pack(">IIII", 16, 80877102, 1234, 5678),
        TLS,
        GSS + b"\0\0\0\x05hello",
        TLS + GSS + TLS,
    ],
)
def test_without_a_start_up_the_protocol_is_told(up: bytes) -> None:
    assert decoded(("up", up)) == {"protocol": "postgresql"}


@pytest.mark.parametrize(
    "up",
    [
        struct.pack(">IHHIh", 30, 3, 0, 1, 6) + b"client" + bytes(16),  # Kafka asks for metadata
        struct.pack(">IIQI", 45, 0, 0, 30_000) + bytes(29),  # ZooKeeper
        startup(database="sales"),
        startup(version=2 << 16, user="ada"),
        bytes(100),
    ],
)
def test_what_only_begins_like_a_start_up_is_unknown(up: bytes) -> None:
    assert decoded(("up", up)) == {"protocol": "unknown"}
