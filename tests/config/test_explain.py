"""The settings in effect, and where each comes from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monconn.config import http, sections
from monconn.config.config import parse_file
from monconn.config.explain import SECTIONS, SERVICE_KEYS, Section, explain
from monconn.policy.policy import SETTINGS
from tests import ROOT
from tests.certificates import make_certificate

NATIVE = """\
defaults:
  max_idle: 5m
  ip_blacklist: [192.0.2.0/24]
  keepalive: {client: {idle: 1h}}
services:
  web:
    listen: ":8080"
    backend: 10.0.0.5:80
    max_idle: 1h30m
    conn_limit: 2000
    unreachable_timeout:
      client: 20s
  ssh: {listen: "[::1]:22", backend: "unix:/x"}
control: false
history:
  path: /var/lib/x.db
  keep: 7d
observers:
- use: "tests.config.test_explain:Some"
  password: hunter2
  url: "amqp://me:hunter2@broker/x"
  nested: {api_key: hunter2, colour: red}
  filter: "client:10.0.0.0/8"
"""


class Some:
    """An observer, with options that are nobody's business."""

    def __init__(self, **options: object) -> None:
        pass


def rows(text: str) -> dict[str, list[tuple[str, str, str, int | None]]]:
    found: list[Section] = explain(parse_file(text, "f"))
    return {
        section.path: [(each.key, each.value, each.origin, each.line) for each in section.settings]
        for section in found
    }


def test_each_setting_has_its_origin() -> None:
    found = rows(NATIVE)
    assert list(found) == ["services.web", "services.ssh", *SECTIONS, "observers[0]"]
    web, ssh = found["services.web"], found["services.ssh"]
    for row in (
        ("listen", ":8080", "file", 7),
        ("backend", "10.0.0.5:80", "file", 8),
        ("max_idle", "1h30m", "file", 9),
        ("conn_limit", "2000", "file", 10),
        ("ip_limit", "0 (no limit)", "built_in", None),
        ("block", "[192.0.2.0/24]", "defaults", 3),
        ("connect_timeout", "10s", "built_in", None),
        ("half_close_timeout", "1m once the backend has ended", "built_in", None),
        ("keepalive.client", "{idle: 1h, interval: 30s, count: 9}", "defaults", 4),
        ("keepalive.backend", "{idle: 30s, interval: 30s, count: 9}", "built_in", None),
        ("unreachable_timeout.client", "20s", "file", 12),
        ("unreachable_timeout.backend", "0 (off)", "built_in", None),
        ("tls", "none", "built_in", None),
        ("print_bytes", "false", "built_in", None),
    ):
        assert row in web
    assert ("max_idle", "5m", "defaults", 2) in ssh
    assert ("listen", "[::1]:22", "file", 13) in ssh
    assert ("unreachable_timeout", "0 (off)", "built_in", None) in ssh
    assert found["control"] == [("control", "off", "file", 14)]
    assert found["manhole"] == [("manhole", "off", "built_in", None)]
    assert found["history"] == [
        ("path", "/var/lib/x.db", "file", 16),
        ("keep", "7d", "file", 17),
        ("max_size", "1GiB", "built_in", None),
        ("resume_counters", "true", "built_in", None),
    ]
    assert {row[2] for row in found["devices"]} == {"built_in"}


def test_an_older_name_is_told_beside_the_line() -> None:
    (web, *_) = explain(parse_file(NATIVE, "f"))
    (block,) = (each for each in web.settings if each.key == "block")
    assert (block.line, block.written_as) == (3, "ip_blacklist")
    assert not [each for each in web.settings if each.written_as and each is not block]


def test_what_is_secret_is_not_shown() -> None:
    observer = rows(NATIVE)["observers[0]"]
    assert "hunter2" not in repr(observer)
    assert ("password", "(not shown)", "file", 20) in observer
    assert ("url", "amqp://me:***@broker/x", "file", 21) in observer
    assert ("nested", "{api_key: (not shown), colour: red}", "file", 22) in observer
    assert ("filter", "client:10.0.0.0/8", "file", 23) in observer


def test_a_file_of_the_go_tool() -> None:
    text = "web:\n  listen_ip: 127.0.0.1\n  listen_port: 80\n  backend_port: 81\n"
    (section, *_) = explain(parse_file(f"{text}  max_idle: 0\n  read_timeout: 5\n", "f"))
    found = {each.key: each for each in section.settings}
    listen = found["listen"]
    assert (listen.value, listen.line) == ("127.0.0.1:80", 3)
    assert listen.written_as == "listen_ip, listen_port"
    assert (found["backend"].value, found["backend"].line) == ("127.0.0.1:81", 4)
    assert (found["max_idle"].value, found["max_idle"].origin) == ("15m", "built_in")
    assert (found["read_timeout"].value, found["read_timeout"].line) == ("5s", 6)
    assert (found["half_close_timeout"].value, found["wait_timeout"].value) == ("0 (off)", "1m")


def test_tls(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    identity = f"certificate: {made.certificate}, key: {made.key}"
    text = (
        f"services:\n  web:\n    listen: ':0'\n    backend: 'tls:localhost:9'\n"
        f"    tls:\n      certificate: {made.certificate}\n      key: {made.key}\n"
        f"      alpn: [h2, http/1.1]\n"
        f"      certificates: {{www.example.org: {{{identity}}}}}\n"
        f"    backend_tls: {{verify: false}}\n"
    )
    found = rows(text)["services.web"]
    assert ("tls.certificate", str(made.certificate), "file", 6) in found
    assert ("tls.alpn", "[h2, http/1.1]", "file", 8) in found
    assert ("tls.minimum_version", "1.2", "built_in", None) in found
    assert ("tls.certificates.www.example.org.key", str(made.key), "file", 9) in found
    assert ("backend_tls.verify", "false", "file", 10) in found
    assert ("backend_tls.ca", "none", "built_in", None) in found


def documented(page: str, heading: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text().partition(f"## {heading}")[2]
    return re.findall(r"^\| `(\w+)` \|", text.partition("\n## ")[0], re.MULTILINE)


def test_the_order_is_that_of_the_documentation() -> None:
    known = documented("configuration.md", "Keys of a service")
    assert [key for key in known if key in SERVICE_KEYS] == list(SERVICE_KEYS)
    own = {key for key, each in SETTINGS.items() if each.path[0] != "devices"}
    assert not own - set(SERVICE_KEYS)
    others = documented("configuration.md", "Other sections")
    assert [key for key in others if key not in ("observers", "notify")] == list(SECTIONS)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_is_explained(name: str) -> None:
    module = http if name == "http" else sections
    assert hasattr(module, "".join(part.capitalize() for part in name.split("_")))
