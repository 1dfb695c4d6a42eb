"""Whatever a file says, the answer is a configuration or its problems, and nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monconn.config import config as reader
from monconn.config.config import Config, parse
from monconn.config.notify import NOTIFY_ON, NotifyConfig
from monconn.config.sections import (
    CaptureConfig,
    ControlConfig,
    DevicesConfig,
    HistoryConfig,
    JsonLogConfig,
    ManholeConfig,
    MetricsConfig,
    TlsConfig,
)
from monconn.errors import ConfigError
from monconn.policy.auto_block import COUNTED, AutoBlock
from monconn.policy.sides import Keepalive
from monconn.policy.tls import BackendTls, ListenTls
from monconn.run.observers import check_observers
from tests.properties import examples

LONGEST_PROBLEM = 2000
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # those of YAML


def judge(text: str) -> None:
    """Read a text, as ``monconn check`` does."""
    try:
        check_observers(parse(text, "file.yaml"), "file.yaml")
    except ConfigError as error:
        problems = error.problems
    else:
        return
    assert problems
    for problem in problems:
        shown = str(problem)
        assert shown.isprintable(), repr(shown)
        assert len(shown) < LONGEST_PROBLEM
        assert problem.line is None or 1 <= problem.line <= len(LINE_BREAK.split(text))


def names_of(cls: type) -> list[str]:
    return [field.name for field in attrs.fields(cls)]


SECTIONS: dict[str, type] = {
    "capture": CaptureConfig,
    "control": ControlConfig,
    "devices": DevicesConfig,
    "history": HistoryConfig,
    "json_log": JsonLogConfig,
    "manhole": ManholeConfig,
    "metrics": MetricsConfig,
}
LISTS: dict[str, type] = {"control": ControlConfig, "notify": NotifyConfig}
KEYS = sorted(
    {
        *names_of(Config),
        *reader._NATIVE_READERS,
        *reader._GO_READERS,
        *(name for cls in SECTIONS.values() for name in names_of(cls)),
        *names_of(TlsConfig),
        *names_of(ListenTls),
        *names_of(BackendTls),
        *names_of(Keepalive),
        *names_of(NotifyConfig),
        *(name.rstrip("_") for name in names_of(AutoBlock)),
        *("client", "use", "filter", "include", "down"),
    }
)
ODD_TEXTS = [
    ":80",
    "127.0.0.1:0",
    "unix:/",
    "unix:/run/x:mode=9",
    "tcp:80:interface=",
    "tcp6:0:interface=::1",
    "tls:a:b:c",
    "ssl:443:privateKey=/dev/zero",
    "ssl:443:certKey=/:backlog=x",
    "systemd:domain=INET:index=-1",
    "stdio:",
    "fd:0",
    "haproxy:monconn:haproxy:tcp:1",
    "monconn:",
    "monconn:monconn:tcp:0",
    "[::1%lo]:80",
    "[fe80::1]:80",
    "a\0b",
    "\ud800",
    "\udcff",
    "\x1b[31mred",
    "\u202eevil",
    "\u2028",
    "\\",
    "a\\",
    "/dev/zero",
    "/dev/null",
    "/proc/self/mem",
    "/",
    "~",
    "~nobody/x",
    ":memory:",
    "stdout",
    "36525d",
    "1e999",
    "-1",
    "0x10",
    "1_000",
    "٣",
    "½",
    "1h1h",
    "9" * 5000,
    "1.5GiB",
    "10.0.0.0/33",
    "::/0",
    "::ffff:1.2.3.4/97",
    "wait",
    "1.2",
    "@SECLEVEL=9",
    "ALL:!ALL",
    "*.example.org",
    "json:loads",
    "builtins:str",
    "monconn:Observer",
    "monconn:AsyncObserver",
    "client:10.0.0.0/8 not:idle:5m..",
    "up:..",
    "20/s burst 50",
    "0/s",
    "1/0s",
    "9999999999999999999999/s burst 1",
    "1MiB/s",
    "1e300 GiB/s",
    "rate",
    "blocked",
    "view",
    "alarm",
    "http://[::1",
    "http://u:p@h:99999/",
    "https://h\\@evil/",
    "file:///etc/passwd",
    "mailto://a:b@",
    "json://x",
    "whsec_!",
    *NOTIFY_ON[:3],
]
SCALARS = st.one_of(
    st.sampled_from(ODD_TEXTS),
    st.text(max_size=30),
    st.integers(),
    st.sampled_from([10**400, -(2**63), 2**64]),
    st.floats(),
    st.booleans(),
    st.none(),
)
NAMES = st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS), st.text(max_size=10))
STRUCTURES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=8)),
    max_leaves=25,
)
AUTO_BLOCKS = st.fixed_dictionaries(
    {"of": st.lists(st.sampled_from([*COUNTED, "operator", "x"]), max_size=3)},
    optional={key.rstrip("_"): SCALARS | STRUCTURES for key in names_of(AutoBlock) if key != "of"},
)
SERVICES = st.dictionaries(
    st.one_of(st.just("web"), st.text(max_size=8)),
    st.dictionaries(st.sampled_from(sorted(reader._NATIVE_READERS)), STRUCTURES, max_size=5).map(
        lambda keys: {"listen": ":80", "backend": ":81"} | keys
    )
    | AUTO_BLOCKS.map(lambda keys: {"listen": ":80", "backend": ":81", "auto_block": keys}),
    max_size=2,
)
OBSERVERS = st.dictionaries(
    st.sampled_from(["filter", "services", "path"]), STRUCTURES, max_size=2
).flatmap(
    lambda keys: st.sampled_from(["monconn:Observer", "json:loads", "builtins:str", "no:x"]).map(
        lambda use: {"use": use} | keys
    )
)
FILES = st.fixed_dictionaries(
    {"services": SERVICES},
    optional={
        **{
            name: st.dictionaries(st.sampled_from(names_of(cls)), SCALARS | STRUCTURES, max_size=4)
            for name, cls in SECTIONS.items()
        },
        "defaults": STRUCTURES,
        "include": SCALARS | STRUCTURES,
        "state": SCALARS,
        **{
            name: st.lists(
                st.dictionaries(st.sampled_from(names_of(cls)), SCALARS | STRUCTURES, max_size=4),
                max_size=2,
            )
            for name, cls in LISTS.items()
        },
        "observers": st.lists(OBSERVERS, max_size=2),
    },
)
VALID = """defaults: &all {max_idle: 5m, keepalive: {idle: 30s}}
services:
  web:
    <<: *all
    listen: "[::1]:80"
    backend: "10.0.0.5:80"
    ip_blacklist: [10.0.0.0/8, "2001:db8::/32"]
json_log: {path: stdout, every: 1m}
history: {path: /var/lib/x.db, keep: 30d, max_size: 1GiB}
"""


def spoilt(edits: list[tuple[int, int, str]]) -> str:
    """A valid file with pieces of it replaced."""
    text = VALID
    for start, length, piece in edits:
        at = start % (len(text) + 1)
        text = text[:at] + piece + text[at + length :]
    return text


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FILES | FILES | STRUCTURES)
def test_structures(structure: Any) -> None:
    # JSON is YAML, with each character that is odd as an escape.
    judge(json.dumps(structure))


@settings(max_examples=examples(100), deadline=None)
@given(st.text(max_size=200))
def test_texts(text: str) -> None:
    judge(text)


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1000),
            st.integers(0, 20),
            st.one_of(
                st.text(max_size=5),
                st.sampled_from(["&a ", "*a", "<<: ", "!!python/name:os.abort ", "- ", "? ", "\t"]),
                st.sampled_from(["\n  ", "{", "[", "|\n", "'", '"', "%YAML 9", "---\n", "\ufeff"]),
            ),
        ),
        max_size=4,
    )
)
def test_spoilt_files(edits: list[tuple[int, int, str]]) -> None:
    judge(spoilt(edits))
