from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given, settings, strategies

from monconn.model import uid
from monconn.model.uid import new_run, parse_uid
from tests.properties import examples

from .test_record import make_record


def test_a_uid_is_read_back() -> None:
    record = make_record(id=42)
    assert record.uid == f"{uid.run}-42"
    assert record.snapshot(101.0)["uid"] == record.uid
    assert parse_uid(record.uid) == parse_uid(record.uid.upper()) == (uid.run, 42)


@settings(max_examples=examples(200))
@given(strategies.integers(1, 10**18 - 1))
def test_every_run_and_id(number: int) -> None:
    run = new_run()
    assert parse_uid(f"{run}-{number}") == (run, number)
    assert run[0].isalpha()


def test_runs_differ() -> None:
    assert len({new_run() for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    "text",
    [
        *("", "42", "k7xq2m9tbw4c", "k7xq2m9tbw4c-", "k7xq2m9tbw4c-0", "k7xq2m9tbw4c-042"),
        *("7kxq2m9tbw4c-1", "k7xq2m9tbw4-42", "k7xq2m9tbw4i-42", "k7xq2m9tbw4c-42x"),
        "a k7xq2m9tbw4c-42",
    ],
)
def test_what_is_no_uid(text: str) -> None:
    assert parse_uid(text) is None


@pytest.mark.skipif(sys.platform != "linux", reason="forks while there may be threads")
def test_a_forked_process_is_another_run() -> None:
    # Its ids go on from the same number as ours.
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, uid.run.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as pipe:
        assert pipe.read() not in ("", uid.run)
