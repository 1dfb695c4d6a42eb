"""Community ID: test vectors of https://github.com/corelight/community-id-spec (baseline)."""

from __future__ import annotations

import pytest

from monconn.errors import AddressError
from monconn.model.community_id import community_id

from .test_record import make_record

VECTORS = [
    ("128.232.110.120:34855", "66.35.250.204:80", "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (
        "[2001:470:e5bf:dead:4957:2174:e82c:4887]:63943",
        "[2607:f8b0:400c:c03::1a]:25",
        "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
    ),
    # Computed by the reference implementation: the same address twice, so that ports decide.
    ("127.0.0.1:40000", "127.0.0.1:443", "1:zKwXEDULx4mp1OHTCIvxDrfCuwo="),
    ("[fe80::1]:40000", "[fe80::2]:443", "1:vPH67/OMdZD1Xhw6wZwhN+LwIYU="),
]


@pytest.mark.parametrize(("one", "other", "expected"), VECTORS)
def test_published_vectors(one: str, other: str, expected: str) -> None:
    assert community_id(one, other) == community_id(other, one) == expected


def test_a_zone_is_not_in_the_packets() -> None:
    assert community_id("[fe80::1%eth0]:40000", "[fe80::2]:443") == VECTORS[3][2]


@pytest.mark.parametrize(
    "text",
    [
        *("unix:1", "unix", "", "80", "name:80", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"),
        *("127.1:80", "[::1]:80", "127.0.0.1:+1", "127.0.0.1:\u0663", "127.0.0.1\0:1", "\udc80:1"),
    ],
)
def test_what_has_none(text: str) -> None:
    with pytest.raises(AddressError):
        community_id("127.0.0.1:1", text)


def test_a_record_has_those_that_are_known() -> None:
    (client, local, expected), (peer, own, backends), *_ = VECTORS
    record = make_record(client=client)
    assert record.community_id is record.backend_community_id is None
    record.client_local = local
    assert record.community_id == expected
    record.backend_local, record.backend_peer = own, peer
    assert record.backend_community_id == backends


def test_what_is_on_the_wire_counts() -> None:
    client, local, expected = VECTORS[0]
    record = make_record(client="192.0.2.7:4711", client_local=local, client_peer=client)
    assert record.community_id == expected


def test_a_unix_socket_has_none() -> None:
    assert make_record(client="unix:77", client_local="127.0.0.1:80").community_id is None
