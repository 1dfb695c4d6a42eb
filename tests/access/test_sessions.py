"""Sessions: what a cookie is good for."""

from __future__ import annotations

import base64
import json

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from monconn.access import sessions
from monconn.access.codes import CODE_SECONDS, MOST_CODES, Codes, Grant
from monconn.access.sessions import (
    IDLE_SECONDS,
    MOST_LOGGED_OUT,
    MOST_OF_NAME,
    MOST_SECONDS,
    Session,
    SessionKeys,
    decode_keys,
)
from tests.properties import examples

NOW = 1_795_000_000.0
KEYS = SessionKeys.new()


def make_session(keys: SessionKeys = KEYS) -> Session:
    return keys.new_session("uid 0 (root)", "operate", NOW)


def test_a_cookie_is_read_back_and_says_nothing_that_is_secret() -> None:
    session = make_session()
    cookie = KEYS.sign(session)
    assert KEYS.read(cookie, NOW + 1) == session
    assert KEYS.key not in base64.urlsafe_b64decode(cookie.partition(".")[0] + "==")
    assert set(cookie) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
    )  # RFC 6265, 4.1.1


def test_each_session_has_an_id_of_its_own() -> None:
    assert len({make_session().id for _ in range(100)}) == 100


def test_a_cookie_of_another_key_is_not_known() -> None:
    assert SessionKeys.new().read(KEYS.sign(make_session()), NOW) == "unknown"
    assert SessionKeys.new(KEYS.instance).read(KEYS.sign(make_session()), NOW) == "unknown"


def forged(values: object) -> str:
    """A cookie with another content, and the signature that it had."""
    signature = KEYS.sign(make_session()).partition(".")[2]
    payload = base64.urlsafe_b64encode(json.dumps(values).encode()).rstrip(b"=").decode()
    return f"{payload}.{signature}"


def test_nothing_of_a_cookie_can_be_changed() -> None:
    viewer = KEYS.new_session("x", "view", NOW)
    values = list(attrs.astuple(viewer)[:-1])
    values[2] = "operate"
    assert KEYS.read(forged(values), NOW) == "unknown"
    cookie = KEYS.sign(viewer)
    for index in range(len(cookie)):
        other = "A" if cookie[index] != "A" else "B"
        changed = f"{cookie[:index]}{other}{cookie[index + 1 :]}"
        assert KEYS.read(changed, NOW) == "unknown", index


def test_there_is_one_writing_of_a_cookie() -> None:
    cookie = KEYS.sign(make_session())
    for other in (f"{cookie}=", f" {cookie}", f"{cookie}.", f"{cookie}\n", f".{cookie}"):
        assert KEYS.read(other, NOW) == "unknown"


@given(st.text(max_size=200))
@settings(max_examples=examples(60))
def test_whatever_comes_as_a_cookie(text: str) -> None:
    assert KEYS.read(text, NOW) == "unknown"


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=9))
@settings(max_examples=examples(60))
def test_whatever_is_signed(values: object) -> None:
    """As another version of monconn may have."""
    payload = json.dumps(values).encode()
    cookie = f"{sessions._encoded(payload)}.{sessions._encoded(KEYS._signature(payload))}"
    assert KEYS.read(cookie, NOW) == "ended"


@pytest.mark.parametrize(
    ("at", "is_open"),
    [
        (NOW - 200, True),  # the clock was set back a little
        (NOW - 3600, False),
        (NOW + IDLE_SECONDS - 1, True),
        (NOW + IDLE_SECONDS, False),
    ],
)
def test_a_session_ends_once_nothing_was_asked_for_long(at: float, is_open: bool) -> None:
    assert isinstance(KEYS.read(KEYS.sign(make_session()), at), Session) == is_open


def test_a_session_ends_although_it_is_used() -> None:
    session = attrs.evolve(make_session(), renewed_at=NOW + MOST_SECONDS - 10)
    assert KEYS.read(KEYS.sign(session), NOW + MOST_SECONDS - 1) == session
    assert KEYS.read(KEYS.sign(session), NOW + MOST_SECONDS) == "ended"


def test_a_session_that_was_logged_out_has_ended_though_its_cookie_is_renewed() -> None:
    session, other = make_session(), make_session()
    keys = KEYS.without(session, NOW)
    assert keys.read(keys.sign(session), NOW) == "ended"
    renewed = attrs.evolve(session, renewed_at=NOW + IDLE_SECONDS - 1)
    assert keys.read(keys.sign(renewed), NOW + IDLE_SECONDS) == "ended"
    assert keys.read(keys.sign(other), NOW) == other


def test_too_many_that_have_logged_out_log_all_out() -> None:
    first, other = make_session(), make_session()
    keys = KEYS.without(first, NOW)
    many = {str(number): NOW + 10 for number in range(MOST_LOGGED_OUT - 1)}
    keys = attrs.evolve(keys, logged_out={**keys.logged_out, **many})
    later = keys.without(make_session(), NOW + 11)  # those have ended by then
    assert len(later.logged_out) == 2
    full = keys.without(make_session(), NOW)
    assert full.instance == keys.instance
    assert full.logged_out == {}
    assert full.read(keys.sign(other), NOW) == full.read(keys.sign(first), NOW) == "unknown"


def test_who_logs_out_very_often_ends_no_session_of_others() -> None:
    other, first = make_session(), make_session()
    keys = KEYS
    for number in range(MOST_LOGGED_OUT + 1):
        keys = keys.without(attrs.evolve(first, id=f"{number}", name="token grafana"), NOW)
    assert keys.read(keys.sign(other), NOW) == other
    assert keys.read(keys.sign(attrs.evolve(first, id="0", name="token grafana")), NOW) == "ended"


def test_too_many_of_one_name_log_all_of_that_name_out() -> None:
    keys, same, other = KEYS, make_session(), attrs.evolve(make_session(), name="another")
    gone = [attrs.evolve(same, id=f"{number}") for number in range(MOST_OF_NAME + 1)]
    for each in gone:
        assert isinstance(keys.read(keys.sign(same), NOW), Session)
        keys = keys.without(each, NOW)
    assert keys.logged_out == {}
    assert {keys.read(keys.sign(each), NOW) for each in (*gone, same)} == {"ended"}
    assert keys.read(keys.sign(other), NOW) == other
    later = attrs.evolve(same, id="later", opened_at=NOW + 1, renewed_at=NOW + 1)
    assert keys.read(keys.sign(later), NOW + 1) == later
    assert decode_keys(keys.encode()) == keys
    assert keys.without(other, NOW + MOST_SECONDS).ended == {}


def test_the_file_brings_back_the_same() -> None:
    keys = KEYS.without(make_session(), NOW)
    assert decode_keys(keys.encode()) == keys


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"monconn_sessions": 2}',
        KEYS.encode().replace(KEYS.key.hex().encode(), b"abcd"),
        KEYS.encode().replace(KEYS.key.hex().encode(), b""),
        KEYS.encode().replace(KEYS.instance.encode(), b"a; b"),
        KEYS.encode().replace(b"{}", b"[]"),
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_none(content: bytes) -> None:
    assert decode_keys(content) is None


# -- one-time codes

GRANT = Grant("uid 0 (root)", "view", "uid 0 (root), pid 7")


def test_a_code_is_used_once() -> None:
    codes = Codes(Clock())
    code = codes.make(GRANT)
    assert len(code) >= 43  # 256 bits in base64
    assert codes.take(f"{code}x") is None
    assert codes.take("\udcff") is None
    assert codes.take(code) == GRANT
    assert codes.take(code) is None


def test_a_code_does_not_last() -> None:
    clock = Clock()
    codes = Codes(clock)
    longer, code = codes.make(GRANT, CODE_SECONDS + 1), codes.make(GRANT)
    clock.advance(CODE_SECONDS)
    assert codes.take(code) is None
    assert codes.take(longer) == GRANT


def test_codes_are_not_too_many() -> None:
    codes = Codes(Clock())
    operator = codes.make(attrs.evolve(GRANT, role="operate"))
    made = [codes.make(GRANT) for _ in range(MOST_CODES + 1)]
    assert codes.take(operator) is not None
    assert codes.take(made[0]) is None
    assert codes.take(made[1]) == GRANT
    codes.clear()
    assert codes.take(made[2]) is None
