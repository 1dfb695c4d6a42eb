"""Tokens: what a file of them may say, and what is one."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.access import tokens
from monconn.access.tokens import (
    MOST_TOKENS,
    Token,
    Tokens,
    digest_of,
    parse_tokens,
    with_token,
    without_token,
)
from monconn.errors import FileError
from tests.properties import examples

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


def test_a_new_token_is_long_and_random_and_found_by_its_digest() -> None:
    one, other = tokens.make_token(), tokens.make_token()
    assert one != other
    assert one.startswith("monconn_")
    assert len(one) >= len("monconn_") + 43  # 256 bits in base64
    digest = digest_of(one)
    assert digest == hashlib.sha256(one.encode()).digest()
    known = Tokens((Token("a", "view", bytes(32)), Token("b", "operate", digest)))
    found = known.find(digest)
    assert found is not None
    assert found.name == "b"
    assert known.find(bytes(31) + b"\1") is None


@pytest.mark.parametrize("text", ["", "short", "x" * 31, "x" * 257, "x" * 40 + " ", "é" * 40])
def test_what_cannot_be_a_token_has_no_digest(text: str) -> None:
    assert digest_of(text) is None


def test_a_file() -> None:
    text = f"# by hand\n\n grafana  view {DIGEST} # since May\r\nops operate {OTHER}"
    found = parse_tokens(text.encode(), "tokens")
    assert [(each.name, each.role) for each in found.known] == [
        ("grafana", "view"),
        ("ops", "operate"),
    ]
    assert found.known[0].digest == b"\xab" * 32


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("grafana view", "must be NAME ROLE sha256:DIGEST"),
        (f"grafana view {DIGEST} more", "must be NAME ROLE sha256:DIGEST"),
        (f"gra/fana view {DIGEST}", '"gra/fana" is no name'),
        (f"{'x' * 65} view {DIGEST}", "is no name"),
        (f"grafana admin {DIGEST}", '"admin" is no role: view or operate'),
        (f"grafana VIEW {DIGEST}", "is no role"),
        ("grafana view sha256:ab", "64 hexadecimal digits"),
        (f"grafana view {DIGEST.upper()}", "64 hexadecimal digits"),
        ("grafana view md5:" + "ab" * 32, "64 hexadecimal digits"),
        (f"ok view {OTHER}\nok view {DIGEST}", "f:2: there is a token named ok already"),
        (f"ok view {DIGEST}\nok2 operate {DIGEST}", "f:2: ok2 is the same token as another one"),
    ],
)
def test_one_wrong_line_makes_all_of_it_wrong(line: str, fault: str) -> None:
    with pytest.raises(FileError) as caught:
        parse_tokens(line.encode(), "f")
    assert fault in str(caught.value)


def test_a_token_that_was_written_in_place_of_its_digest_is_not_repeated() -> None:
    token = tokens.make_token()
    for line in (f"grafana view {token}", token, f"grafana {token}"):
        with pytest.raises(FileError) as caught:
            parse_tokens(line.encode(), "f")
        assert token not in str(caught.value)


def test_there_are_not_too_many() -> None:
    lines = [f"t{number} view sha256:{number:064x}" for number in range(MOST_TOKENS + 1)]
    assert len(parse_tokens("\n".join(lines[:-1]).encode(), "f").known) == MOST_TOKENS
    with pytest.raises(FileError, match="more than 1,000 tokens"):
        parse_tokens("\n".join(lines).encode(), "f")


def test_many_wrong_lines_are_not_all_reported() -> None:
    with pytest.raises(FileError) as caught:
        parse_tokens(b"x\n" * 100_000, "f")
    assert str(caught.value).count("must be") == 10


def test_a_token_is_added_and_removed_and_comments_stay() -> None:
    before = f"# mine\ngrafana view {DIGEST} # keep".encode()
    token = Token("ops", "operate", b"\xcd" * 32)
    added = with_token(before, token, "made by me")
    assert added.decode() == (
        f"# mine\ngrafana view {DIGEST} # keep\n# made by me\nops operate {OTHER}\n"
    )
    assert parse_tokens(added, "f").named("ops") == token
    gone = without_token(added, "ops")
    assert gone.decode() == f"# mine\ngrafana view {DIGEST} # keep\n# made by me\n"
    assert without_token(added, "mine") == added


TEXTS = st.text(max_size=300).map(lambda text: text.encode("utf-8", "ignore"))


@given(st.binary(max_size=300) | TEXTS)
@settings(max_examples=examples(60))
def test_whatever_is_in_a_file(content: bytes) -> None:
    with suppress(FileError):
        assert all(tokens.is_name(each.name) for each in parse_tokens(content, "f").known)
