"""Configuration: the meaning of a file, and the messages for one that is wrong."""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monconn import addresses, files
from monconn.addresses import (
    EndpointAddress,
    TcpAddress,
    UnixAddress,
    parse_backend,
    parse_listen,
)
from monconn.config import config, listeners
from monconn.config import yaml as yamlmap
from monconn.config.sections import StateConfig
from monconn.errors import ConfigError, Problem
from monconn.policy.devices import DeviceRules
from monconn.policy.policy import Policy
from monconn.policy.recorder import RecorderSettings
from monconn.policy.sides import Keepalive, Sides
from tests.properties import examples

SOURCE = "monconn.yaml"

NATIVE = """\
services:
  web:
    listen: ":80"
    backend: "10.0.0.5:8080"
    connect_timeout: 5s
    read_timeout: 15m
    write_timeout: 1.5
    max_idle: 0
    half_close_timeout: "30"
    max_lifetime: 1d
    wait_timeout: 0
    conn_limit: 1_000
    when_full: refuse
    ip_limit: 64
    ip_blacklist: [10.1.2.3, 192.168.1.1/16, "2001:db8::/32", "::ffff:1.2.3.4"]
    keepalive: off
    print_bytes: yes
"""

GO = """\
ssh:
  listen_ip: 192.168.1.1
  listen_port: 22
  backend_ip: 10.0.0.5
  backend_port: 2222
  read_timeout: 60
  write_timeout: 120
  wait_timeout: 5
  max_idle: 300
  conn_limit: 100
  ip_limit: 10
  keepalive: false
  print_bytes: true
  ip_blacklist:
    - 10.1.2.3
    - 10.1.2.4
"""


def parse(text: str) -> config.Config:
    return config.parse(text, SOURCE)


def service(name: str, listen: Any, backend: Any, **settings: Any) -> config.ServiceConfig:
    return config.ServiceConfig(name, listen, backend).changed(**settings)


def parse_one(text: str) -> config.ServiceConfig:
    (service,) = parse(text).services
    return service


def problems_of(text: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert all(problem.source == SOURCE for problem in caught.value.problems)
    return [(problem.line, problem.path, problem.message) for problem in caught.value.problems]


def networks(*texts: str) -> tuple[addresses.Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


# -- the native style


def test_native_service() -> None:
    assert parse_one(NATIVE) == service(
        name="web",
        listen=TcpAddress("", 80),
        backend=TcpAddress("10.0.0.5", 8080),
        connect_timeout=5.0,
        read_timeout=900.0,
        write_timeout=1.5,
        max_idle=0.0,
        half_close_timeout=30.0,
        max_lifetime=86400.0,
        wait_timeout=0.0,
        conn_limit=1000,
        when_full="refuse",
        ip_limit=64,
        ip_blacklist=networks("10.1.2.3", "192.168.0.0/16", "2001:db8::/32", "1.2.3.4"),
        keepalive=False,
        print_bytes=True,
    )


def test_native_defaults() -> None:
    settings = parse_one('services: {web: {listen: ":80", backend: ":81"}}').policy.settings()
    assert sorted(settings.items()) == sorted(
        [
            ("connect_timeout", 10.0),
            ("read_timeout", 0.0),
            ("write_timeout", 600.0),
            ("max_idle", 900.0),
            ("half_close_timeout", None),
            ("max_lifetime", 0.0),
            ("wait_timeout", 60.0),
            ("spread", 0.0),
            ("conn_limit", 0),
            ("when_full", "wait"),
            ("ip_limit", 0),
            ("block", ()),
            ("block_files", ()),
            ("allow", ()),
            ("auto_block", None),
            ("per_ip_limit", 0),
            ("rate", None),
            ("per_ip_rate", None),
            ("bandwidth", None),
            ("per_connection_bandwidth", None),
            ("dry_run", ()),
            ("keepalive", Sides(Keepalive(), Keepalive())),
            ("unreachable_timeout", Sides(0.0, 0.0)),
            ("print_bytes", False),
            ("payload", "allowed"),
            ("recorder", None),
            ("decode", "auto"),
            # None: as devices: of the file says.
            ("prefix_v4", None),
            ("prefix_v6", None),
            ("kept", None),
            ("silent_heartbeats", None),
            ("storm_connections", None),
            ("storm_within", None),
            ("outage_devices", None),
            ("outage_percent", None),
            ("identity", None),
            ("names", None),
        ]
    )


def test_devices_of_a_service() -> None:
    config = parse(
        "defaults: {devices: {storm_within: 2m}}\n"
        "devices: {silent_heartbeats: 4}\n"
        "services:\n"
        '  web: {listen: ":80", backend: ":81", devices: {silent_heartbeats: 0, prefix_v4: 24}}\n'
        '  ssh: {listen: ":22", backend: ":23"}\n'
    )
    web, ssh = config.services
    assert web.policy.devices == DeviceRules(prefix_v4=24, silent_heartbeats=0, storm_within=120.0)
    assert ssh.policy.devices.given() == {"storm_within": 120.0}
    assert config.devices.silent_heartbeats == 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{silent: 0}", "services.web.devices.silent: is not a known key: did you mean silent_h"),
        ("{prefix_v4: 33}", "services.web.devices.prefix_v4: must be from 1 to 32"),
        ("{kept: 0}", "services.web.devices.kept: must be from 1 to"),
        ("{identity: []}", "services.web.devices.identity: must not be empty"),
        ("{identity: [address, x]}", "services.web.devices.identity: must have address last"),
        ("{identity: [A]}", "services.web.devices.identity: must be a list of names of facts"),
        ("{names: {x: y}}", 'services.web.devices.names.x: "x" is neither an IP address nor'),
        ('{names: {10.0.0.5: ""}}', "services.web.devices.names.10.0.0.5: must have names of 1"),
        ("{names: [x]}", "services.web.devices.names: must be a mapping such as"),
        ("{storm_within: 0}", "services.web.devices.storm_within: must be more than 0"),
        ("5", "services.web.devices: must be a mapping such as {silent_heartbeats: 0}"),
    ],
)
def test_wrong_devices_of_a_service(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f'services:\n  web:\n    listen: ":80"\n    backend: ":81"\n    devices: {text}\n')
    assert f":5: {problem}" in str(caught.value)


def test_services_keep_their_order_and_are_frozen() -> None:
    services = parse(
        "services:\n"
        '  zebra: {listen: ":3", backend: ":9"}\n'
        '  80: {listen: ":2", backend: ":9"}\n'
        '  "on the left": {listen: ":1", backend: ":9"}\n'
        '  1:30: {listen: "unix:/run/a:mode=600", backend: "unix:/run/b"}\n'
        '  on: {listen: ":4", backend: "tls:example.org:443"}\n'
    ).services
    assert [service.name for service in services] == ["zebra", "80", "on the left", "1:30", "on"]
    assert services[3].listen == UnixAddress("/run/a", 0o600)
    assert services[4].backend == EndpointAddress("tls:example.org:443")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        services[0].name = "other"  # type: ignore[misc]


def test_anchors_aliases_and_merge_keys() -> None:
    one, two = parse(
        "services:\n"
        '  one: &one {listen: ":1", backend: &there "10.0.0.5:80", max_idle: 5}\n'
        '  two: {<<: *one, listen: ":2", backend: *there, ip_limit: 3}\n'
    ).services
    assert two == attrs.evolve(
        one, name="two", listen=TcpAddress("", 2), policy=one.policy.changed(ip_limit=3)
    )


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "monconn.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + NATIVE.encode())
    state = StateConfig(None, str(path))
    assert config.load(path) == config.load(str(path)) == attrs.evolve(parse(NATIVE), state=state)


# -- defaults for all services


def test_defaults_apply_to_services_without_a_setting_of_their_own() -> None:
    loaded = parse(
        "services:\n"
        '  one: {listen: ":1", backend: ":9"}\n'
        '  two: {listen: ":2", backend: ":9", max_idle: 10, ip_blacklist: []}\n'
        "defaults: {max_idle: 5m, keepalive: false, ip_blacklist: [10.0.0.0/8]}\n"
    )
    one, two = loaded.services
    assert loaded.defaults == Policy.of(
        max_idle=300, keepalive=False, ip_blacklist=networks("10.0.0.0/8")
    )
    assert one.policy == loaded.defaults
    assert two.policy == Policy.of(max_idle=10, keepalive=False)


def test_each_wrong_default_is_reported_once_with_its_line() -> None:
    assert problems_of(
        "defaults:\n"
        "  max_idle: soon\n"
        "  max_ilde: 1\n"
        '  listen: ":1"\n'
        "  name: web\n"
        "services:\n"
        '  one: {listen: ":1", backend: ":9"}\n'
        '  two: {listen: ":2", backend: ":9", conn_limit: -1}\n'
    ) == [
        (2, "defaults.max_idle", TOO_SOON),
        (3, "defaults.max_ilde", "is not a known key: did you mean max_idle?"),
        (4, "defaults.listen", "belongs to one service: write it under its name in services"),
        (5, "defaults.name", "is not a known key: a service's name is written before its colon"),
        (8, "services.two.conn_limit", 'must be from 0 to 1000000000, not "-1"'),
    ]


TOO_SOON = 'must be a number of seconds or a text like 500ms, 15m or 1h30m, not "soon"'


@pytest.mark.parametrize("defaults", ["[]", "5", "web"])
def test_defaults_that_are_no_mapping(defaults: str) -> None:
    ((line, path, message),) = problems_of(
        f'defaults: {defaults}\nservices:\n  one: {{listen: ":1", backend: ":9"}}\n'
    )
    assert (line, path) == (1, "defaults")
    assert message.startswith("must be a mapping of settings for all services")


def test_defaults_without_services() -> None:
    ((line, path, message),) = problems_of("defaults: {max_idle: 5m}")
    assert (line, path) == (1, "defaults")
    assert message == 'is for the services under "services:", and there are none'


def test_in_the_go_tools_style_defaults_is_a_service() -> None:
    assert parse_one("defaults: {listen_port: 80, backend_port: 81}").name == "defaults"


@pytest.mark.parametrize(
    ("written", "settings"),
    [
        ("keepalive: false", {"keepalive": False}),
        ("keepalive: {idle: 1m, count: 3}", {"keepalive": Keepalive(60, 30, 3)}),
        (
            "keepalive: {client: {idle: 30s, interval: 10s, count: 3}, backend: false}",
            {"keepalive": Sides(Keepalive(30, 10, 3), False)},
        ),
        ("keepalive: {backend: off}", {"keepalive": Sides(True, False)}),
        ("keepalive: {client: {idle: 5}}", {"keepalive": Sides(Keepalive(idle=5), True)}),
        ("unreachable_timeout: 20s", {"unreachable_timeout": 20}),
        ("unreachable_timeout: 0", {}),
        (
            "unreachable_timeout: {client: 20s, backend: 5s}",
            {"unreachable_timeout": Sides(20, 5)},
        ),
        ("unreachable_timeout: {backend: 1.5}", {"unreachable_timeout": Sides(0, 1.5)}),
    ],
)
def test_settings_of_each_side(written: str, settings: dict[str, Any]) -> None:
    native = f'services: {{web: {{listen: ":80", backend: ":81", {written}}}}}'
    assert parse_one(native).policy == Policy.of(**settings)
    go = f"80: {{listen_port: 80, backend_port: 81, {written}}}"
    assert parse_one(go) == GO_DEFAULTS.changed(**settings)


def test_a_services_value_replaces_the_defaults_of_both_sides() -> None:
    (service,) = parse(
        'services: {one: {listen: ":1", backend: ":9", keepalive: {client: {idle: 5}}}}\n'
        "defaults: {keepalive: {backend: false}}\n"
    ).services
    assert service.policy.keepalive == Sides(Keepalive(idle=5), Keepalive())


@pytest.mark.parametrize(
    ("written", "path", "expected_text"),
    [
        ("keepalive: {idle: 1.5}", "keepalive.idle", "whole seconds: the kernel takes no fraction"),
        ("keepalive: {idle: 0}", "keepalive.idle", "from 1 to 32767 seconds"),
        ("keepalive: {interval: 10h}", "keepalive.interval", "from 1 to 32767 seconds"),
        ("keepalive: {count: 0}", "keepalive.count", "from 1 to 127"),
        ("keepalive: {count: 3.0}", "keepalive.count", "a whole number such as 100"),
        ("keepalive: {ilde: 5}", "keepalive.ilde", "did you mean idle?"),
        ("keepalive: {idle: 5, cuont: 3}", "keepalive.cuont", "did you mean count?"),
        ("keepalive: {clint: off}", "keepalive.clint", "did you mean client?"),
        ("keepalive: {client: {ilde: 5}}", "keepalive.client.ilde", "did you mean idle?"),
        ("keepalive: {client: off, idle: 5}", "keepalive.idle", "belongs to one side"),
        ("keepalive: {client: 30}", "keepalive.client", "must be true or false, without quotes"),
        ("keepalive: [30]", "keepalive", "must be true or false, without quotes, or a mapping"),
        ("unreachable_timeout: {idle: 5}", "unreachable_timeout.idle", "is not a known key"),
        ("keepalive: {int: 5}", "keepalive.int", "is not a known key: did you mean interval?"),
        ("unreachable_timeout: {client: -1}", "unreachable_timeout.client", "0 or more seconds"),
        ("unreachable_timeout: yes", "unreachable_timeout", "a number of seconds or a text"),
    ],
)
def test_wrong_settings_of_each_side(written: str, path: str, expected_text: str) -> None:
    text = f'services:\n  web:\n    listen: ":1"\n    backend: ":2"\n    {written}\n'
    ((line, found, message),) = problems_of(text)
    assert (line, found) == (5, f"services.web.{path}")
    assert expected_text in message


# -- the Go tool's style


def test_go_service() -> None:
    assert parse_one(GO) == service(
        name="ssh",
        listen=TcpAddress("192.168.1.1", 22),
        backend=TcpAddress("10.0.0.5", 2222),
        read_timeout=60.0,
        half_close_timeout=0.0,
        write_timeout=120.0,
        wait_timeout=5.0,
        max_idle=300.0,
        conn_limit=100,
        ip_limit=10,
        keepalive=False,
        print_bytes=True,
        ip_blacklist=networks("10.1.2.3", "10.1.2.4"),
    )


GO_DEFAULTS = service(
    name="80",
    listen=TcpAddress("", 80),
    backend=TcpAddress("127.0.0.1", 81),
    read_timeout=600.0,
    half_close_timeout=0.0,
)


@pytest.mark.parametrize(
    ("rules", "changes"),
    [
        ("", {}),
        ("read_timeout: 0, write_timeout: 0, wait_timeout: 0, max_idle: 0", {}),
        ("connect_timeout: 0, half_close_timeout: 0, max_lifetime: 0", {}),
        ("listen_ip: '', backend_ip: '', conn_limit: 0, ip_limit: 0", {}),
        ("keepalive: null, ip_blacklist: null, listen_ip: null, max_idle: null", {}),
        ("keepalive: false", {"keepalive": False}),
        ("keepalive: yes", {"keepalive": True}),
        ("ip_blacklist: 10.1.2.3", {"ip_blacklist": networks("10.1.2.3")}),
        ("ip_blacklist: []", {}),
        ("listen_ip: ' '", {}),
        ("listen_ip: '::1'", {"listen": TcpAddress("::1", 80)}),
        ("listen_ip: '[::1]'", {"listen": TcpAddress("::1", 80)}),
        ("backend_ip: fe80::1%eth0", {"backend": TcpAddress("fe80::1%eth0", 81)}),
        ("backend_ip: db.example.org", {"backend": TcpAddress("db.example.org", 81)}),
        ("connect_timeout: 3", {"connect_timeout": 3.0}),
        ("half_close_timeout: 3", {"half_close_timeout": 3.0}),
        ("max_lifetime: 1h", {"max_lifetime": 3600.0}),
        ("when_full: refuse", {"when_full": "refuse"}),
    ],
)
def test_go_defaults(rules: str, changes: dict[str, Any]) -> None:
    changes = dict(changes)
    addresses = {key: changes.pop(key) for key in ("listen", "backend") if key in changes}
    expected = attrs.evolve(GO_DEFAULTS, **addresses).changed(**changes)
    assert parse_one(f"80: {{listen_port: '80', backend_port: 81, {rules}}}") == expected


# -- pairs


def test_pairs() -> None:
    one, two = config.from_pairs([":80=10.0.0.5:8080", "[::1]:22 = unix:/run/ssh"]).services
    assert one == config.ServiceConfig(":80", TcpAddress("", 80), TcpAddress("10.0.0.5", 8080))
    assert two == config.ServiceConfig("[::1]:22", TcpAddress("::1", 22), UnixAddress("/run/ssh"))


def test_pairs_are_recorded_if_asked_for() -> None:
    pairs = [":80=10.0.0.5:8080", ":22=10.0.0.5:22"]
    assert all(s.policy.recorder is None for s in config.from_pairs(pairs).services)
    recorded = config.from_pairs(pairs, record=True).services
    assert [s.policy.recorder for s in recorded] == [RecorderSettings()] * 2


@pytest.mark.parametrize(
    ("pairs", "wrong"),
    [
        ([":22="], {":22=": "the backend is missing"}),
        (
            [":22", "=:22", ":22=:x", ":23=:24", ":=:"],
            {
                ":22": "has no '='",
                "=:22": "the address to listen on is missing",
                ":22=:x": 'from 1 to 65535, not "x"',
                ":=:": 'from 0 to 65535, not ""',
            },
        ),
        ([":80=ssl:web:443"], {":80=ssl:web:443": "belong in the configuration file"}),
        (["ssl:443=:80"], {"ssl:443=:80": "belong in the configuration file"}),
        ([":80=:80"], {":80=:80": "forwards to its own listener"}),
        ([":80=:1", "0.0.0.0:80=:1"], {"0.0.0.0:80=:1": '":80" listens there already'}),
        ([":0=:1", ":0=:2"], {":0=:2": '":0" is given twice'}),
        ([""], {"": "has no '='"}),
    ],
)
def test_wrong_pairs(pairs: list[str], wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.from_pairs(pairs)
    for problem, (pair, expected_text) in zip(caught.value.problems, wrong.items(), strict=True):
        assert f'"{pair}"' in problem.message
        assert expected_text in problem.message


def test_a_pair_whose_name_would_be_unprintable() -> None:
    with pytest.raises(ConfigError, match="its name would be no printable text: use -c FILE"):
        config.from_pairs(["unix:/run/a\x1b=:1"])


def test_no_pairs() -> None:
    with pytest.raises(ConfigError, match=r"^-p: no services: write LISTEN=BACKEND"):
        config.from_pairs([])


# -- wrong values: each in a service that is right otherwise

WRONG_RULES = [
    ("connect_timeout: 0", "more than 0"),
    ("connect_timeout: 0s", "more than 0"),
    ("read_timeout: -1", "0 or more"),
    ("read_timeout: .nan", "not nan"),
    ("read_timeout: .inf", "not inf"),
    ("read_timeout: true", "a number of seconds or a text like 15m, not true or false"),
    ("read_timeout: [1]", "a number of seconds or a text like 15m, not a list"),
    ("read_timeout: {a: 1}", "a number of seconds or a text like 15m, not a mapping"),
    ("read_timeout:", "a number of seconds or a text like 15m, not nothing"),
    ("read_timeout: soon", 'not "soon"'),
    ("read_timeout: 010", "YAML reads 010 as the number 8"),
    ("read_timeout: 1:30", "YAML reads 1:30 as the number 90"),
    ("conn_limit: -1", 'not "-1"'),
    ("conn_limit: true", "a whole number"),
    ("conn_limit: 1.5", "a whole number"),
    ('conn_limit: "10"', "a whole number"),
    ("conn_limit: []", "a whole number such as 100, not a list"),
    ("conn_limit: 0x10", "YAML reads 0x10 as the number 16"),
    ("conn_limit: " + "9" * 60, "from 0 to 1000000000"),
    ("conn_limit: " + "9" * 5000, "a whole number"),
    ("conn_limit: 1" + ":1" * 5000, "a whole number"),
    ("ip_limit: none", "a whole number"),
    ("when_full: drop", 'wait or refuse, not "drop"'),
    ("when_full: [wait]", "wait or refuse, not a list"),
    ("keepalive: 1", "true or false"),
    ('keepalive: "yes"', "without quotes"),
    ("payload: sometimes", 'must be allowed or never, not "sometimes"'),
    ("payload: no", "must be allowed or never"),
    ("decode: on", 'must be auto, off or mqtt, not "on"'),
    ("decode: http", 'must be auto, off or mqtt, not "http"'),
    ("decode: []", "must be auto, off or mqtt, not a list"),
    ("print_bytes:", "true or false, without quotes, not nothing"),
    ("ip_blacklist: {}", "a list such as"),
    ("ip_blacklist:", "a list such as"),
    ("ip_blacklist: web", "neither an IP address nor a network"),
    ("ip_blacklist: true", "not true or false"),
    ("lisen: 1", "did you mean listen?"),
    ("max_ilde: 1", "did you mean max_idle?"),
    ("zzz: 1", "not a known key"),
    ("name: other", "is written before its colon"),
    ("print_bytes: !!python/object:os.system x", "leave it out"),
]


@pytest.mark.parametrize(("rule", "expected_text"), WRONG_RULES)
def test_wrong_rules(rule: str, expected_text: str) -> None:
    text = f'services:\n  web:\n    listen: ":1"\n    backend: ":2"\n    {rule}\n'
    (line, path, message), *others = problems_of(text)
    assert (line, path) == (5, f"services.web.{rule.partition(':')[0]}")
    assert expected_text in message
    # A tag is left out, and what remains is judged as well.
    assert bool(others) == ("!!" in rule)


@pytest.mark.parametrize(
    ("rules", "wrong"),
    [
        ("    payload: never\n    print_bytes: true\n", [(6, "services.web.print_bytes")]),
        (
            "    recorder: true\n    print_bytes: true\n    payload: never\n",
            [(5, "services.web.recorder"), (6, "services.web.print_bytes")],
        ),
        ("    print_bytes: true\ndefaults: {payload: never}\n", [(5, "services.web.print_bytes")]),
        ("    payload: never\ndefaults: {print_bytes: true}\n", [(5, "services.web.payload")]),
        ("defaults:\n  recorder: true\n  payload: never\n", [(6, "defaults.recorder")]),
    ],
)
def test_payload_never_contradicts_what_shows_or_stores_bytes(
    rules: str, wrong: list[tuple[int, str]]
) -> None:
    text = f'services:\n  web:\n    listen: ":1"\n    backend: ":2"\n{rules}'
    found = problems_of(text)
    assert [(line, path) for line, path, _ in found] == wrong
    assert all(
        "payload: never forbids " in each and ": false, or payload:" in each for *_, each in found
    )


def test_payload_never_with_what_is_switched_off() -> None:
    text = """
defaults: {payload: never, print_bytes: false, recorder: false}
services:
  web: {listen: ":1", backend: ":2"}
  open: {listen: ":3", backend: ":4", payload: allowed, print_bytes: true, recorder: true}
"""
    web, other = parse(text).services
    assert (web.policy.payload, other.policy.payload) == ("never", "allowed")


WRONG_LISTENERS = [
    ("22:22", 'YAML reads 22:22 as the number 1342: write it in quotes, "22:22"'),
    ("1:30.5", 'YAML reads 1:30.5 as the number 90.5: write it in quotes, "1:30.5"'),
    ("8080", 'write ":8080"'),
    ("0x50", "YAML reads 0x50 as the number 80"),
    ("[fe80::1]", "YAML reads [ as a list: write it in quotes"),
    ("[::1]:80", "must be in quotes"),
    ("[::1]", "must be in quotes"),
    ("*:80", "must be in quotes"),
    ("*web", "must be in quotes"),
    ("yes", "not true or false"),
    ("null", "not nothing"),
    ("{a: 1}", "not a mapping"),
    ("web: 80", "in quotes"),
    ('"::1:80"', "write [::1]:80"),
    ('"300.1.2.3:80"', "neither an IP address nor a host name"),
    ('":65536"', "from 0 to 65535"),
    ('"nonsense:a:b"', "no such type of endpoint"),
    ('"web:http"', "the port a number"),
    ('"ssl:443:privateKey=/no/such/key.pem"', "No such file or directory"),
    ('"ssl:443:privateKey=/etc/passwd"', "has no certificate in PEM"),
    ('"ssl:443:privateKey=/etc/passwd:backlog=5"', "a key or a certificate in it cannot be read"),
    ('"ssl:port"', "Twisted cannot use"),
    ('"systemd:domain=INET:index=99"', "names something that is not there"),
    ('"tcp:80:bogus=1"', "it has no option 'bogus'"),
    (r'"ssl:443:privateKey=a\\"', "backslash"),
    (r'"we\ud800b:80"', r"'we\ud800b'"),
    ('"stdio:"', '"stdio:" is no place where clients can connect'),
    (r"'monconn:stdio\:'", "is no place where clients can connect"),
    ('"fd:3"', '"fd:3" is no place where clients can connect'),
    (
        '"tls:8443"',
        'followed by a folder of certificates, and "8443" is none: write listen: ":8443"',
    ),
    ('"tcp:65536:backlog=5"', "from 0 to 65535"),
    ('"unix:/"', "there is a folder, which is left alone"),
    ('"ssl:443:privateKey=/dev/zero"', '"/dev/zero" is a device, and no regular file'),
    ('"ssl:443:privateKey=/dev/zero:backlog=5"', '"/dev/zero" is a device, and no regular file'),
]


@pytest.mark.parametrize(("listen", "expected_text"), WRONG_LISTENERS)
def test_wrong_listeners(listen: str, expected_text: str) -> None:
    text = f'services:\n  web:\n    listen: {listen}\n    backend: ":2"\n'
    ((line, path, message),) = problems_of(text)
    assert line == 3
    assert path in ("services.web.listen", "")
    assert expected_text in message


@pytest.mark.parametrize(
    ("backend", "expected_text"),
    [
        ("22:22", "in quotes"),
        ('":0"', "from 1 to 65535"),
        ('"tls:web"', "'port' is missing"),
        ('"tls:web:99999"', "from 1 to 65535"),
        ('"ssl:web:0"', "from 1 to 65535"),
        ('"tcp:web:65536:timeout=5"', "from 1 to 65535"),
        ('"tls:web:https"', "'https' is not a number"),
        ('"tls:web:443:trustRoot=/tmp"', "it has no option 'trustRoot'"),
        ('"ssl:web:443:caCertsDir=/no/such"', "No such file or directory"),
        ('"tcp6:web:80"', "no such type of endpoint"),
        ('"unix:/run/web:mode=600"', "a backend has none"),
    ],
)
def test_wrong_backends(backend: str, expected_text: str) -> None:
    text = f'services:\n  web:\n    listen: ":1"\n    backend: {backend}\n'
    ((line, path, message),) = problems_of(text)
    assert (line, path) == (4, "services.web.backend")
    assert expected_text in message


@pytest.mark.parametrize("listen", ['"tcp:0:backlog=5"', '"tcp6:0:backlog=5"'])
def test_endpoints_that_twisted_can_use(listen: str) -> None:
    service = parse_one(f'services: {{web: {{listen: {listen}, backend: ":2"}}}}')
    assert service.listen == EndpointAddress(listen.strip('"'))


@pytest.mark.parametrize(
    "listen",
    [
        "haproxy:tcp:80",
        "HAProxy:tcp:80",
        "monconn:haproxy:tcp:80",
        r"monconn:haproxy\:tcp\:80\:interface\=127.0.0.1",
        r"monconn:monconn\:haproxy\:tcp\:80:mon.name=web",
    ],
)
def test_proxy_headers_are_refused(listen: str) -> None:
    text = f"services:\n  web:\n    backend: ':2'\n    listen: '{listen}'\n"
    ((line, path, message),) = problems_of(text)
    assert (line, path) == (4, "services.web.listen")
    assert "would record, limit and block the load balancer" in message
    assert "Listen without haproxy:" in message
    assert "\n" not in message


# -- services that lead back to themselves

CYCLES: dict[str, list[tuple[str, str]]] = {
    "itself": [(":80", ":80")],
    "localhost": [("127.0.0.1:80", "localhost:80")],
    "localhost by IPv6": [("[::1]:80", "LOCALHOST.:80")],
    "a name of localhost": [("127.0.0.1:80", "web.localhost:80")],
    "any address": [("127.0.0.1:80", "0.0.0.0:80")],
    "another loopback address": [("0.0.0.0:80", "127.0.0.9:80")],
    "IPv4 of all": [(":80", "127.0.0.1:80")],
    "IPv6 of all": [("[::]:80", "[::1]:80")],
    "the same name": [("web.test:80", "WEB.test.:80")],
    "the same address": [("192.0.2.1:80", "192.0.2.1:80")],
    "with a zone": [("[fe80::1%eth0]:80", "[fe80::1%eth0]:80")],
    "a path": [("unix:/run/web", "unix:/run/../run/web")],
    "two": [(":80", ":81"), (":81", ":80")],
    "three and a chain": [(":1", ":2"), (":2", ":3"), (":3", ":4"), (":4", ":2")],
    "through a path": [(":80", "unix:/run/a"), ("unix:/run/a", "localhost:80")],
    "endpoint strings": [(":80", "tcp:localhost:81:timeout=3"), ("tcp:81:backlog=9", ":80")],
    "named options": [(":80", "tcp:port=81:host=127.0.0.1:timeout=3"), (":81", ":80")],
    "an endpoint on one address": [(r"tcp6:81:interface=\:\:1:backlog=9", "[::1]:81")],
    "a path in an endpoint": [("unix:/run/a:lockfile=0", ":81"), (":81", "unix:/run/a:timeout=3")],
    "wrapped": [(":80", ":81"), (r"monconn:tcp\:81:mon.name=web", ":80")],
    "TLS": [(":80", "tls:localhost:443"), (":443", ":80")],
}
NO_CYCLES: dict[str, list[tuple[str, str]]] = {
    "elsewhere": [(":80", ":81"), (":81", ":82"), (":83", ":81")],
    "another family": [("0.0.0.0:80", "[::1]:80")],
    "another address": [("127.0.0.1:80", "127.0.0.2:80")],
    "not where any address leads": [("127.0.0.2:80", "0.0.0.0:80")],
    "another host's": [(":80", "192.0.2.1:80")],
    "another name": [("web.test:80", "api.test:80")],
    "another zone": [("[fe80::1%eth0]:80", "[fe80::1%eth1]:80")],
    "another path": [("unix:/run/a", "unix:/run/b")],
    "any port": [(":0", ":5")],
    "not known": [("systemd:domain=INET:index=0", ":80"), (":80", "tls:example.org:80")],
    "without a port": [("ssl:interface=127.0.0.1:port=x", ":80")],
}


def services_of(pairs: list[tuple[str, str]]) -> list[config.ServiceConfig]:
    return [
        config.ServiceConfig(chr(ord("a") + index), parse_listen(listen), parse_backend(backend))
        for index, (listen, backend) in enumerate(pairs)
    ]


@pytest.mark.parametrize("pairs", CYCLES.values(), ids=CYCLES)
def test_cycles(pairs: list[tuple[str, str]]) -> None:
    ((name, message),) = listeners.cycles(services_of(pairs))
    assert name == ("b" if len(pairs) == 4 else "a")
    assert "each connection would make another" in message


@pytest.mark.parametrize("pairs", NO_CYCLES.values(), ids=NO_CYCLES)
def test_no_cycles(pairs: list[tuple[str, str]]) -> None:
    assert listeners.cycles(services_of(pairs)) == []


def test_each_cycle_is_said_once_with_its_way() -> None:
    pairs = [(":4", ":2"), (":1", ":1"), (":3", ":4"), (":2", ":3")]
    assert [message.partition(":")[0] for _, message in listeners.cycles(services_of(pairs))] == [
        "leads back to its own listener (a → d → c → a)",
        "forwards to its own listener, ",
    ]


def test_a_long_chain_is_no_cycle_and_its_end_may_make_it_one() -> None:
    pairs = [(f":{port}", f":{port + 1}") for port in range(1, 3000)]
    assert listeners.cycles(services_of(pairs)) == []
    ((name, _),) = listeners.cycles(services_of([*pairs, (":3000", ":1")]))
    assert name == "a"


def test_a_symbolic_link_leads_to_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    pairs = [(f"unix:{tmp_path}/link/web", f"unix:{tmp_path}/real/web")]
    assert listeners.cycles(services_of(pairs))
    assert listeners.clashes(services_of([(pairs[0][0], ":1"), (pairs[0][1], ":1")]))


@pytest.mark.parametrize(
    ("text", "expected_path"),
    [
        ('services: {web: {listen: ":80", backend: ":80"}}', "services.web.backend"),
        ("web: {listen_port: 80, backend_ip: 127.0.0.1, backend_port: 80}", "web.backend_port"),
    ],
)
def test_a_cycle_is_a_problem_of_the_backend(text: str, expected_path: str) -> None:
    ((_, path, message),) = problems_of(text)
    assert (path, message) == (
        expected_path,
        "forwards to its own listener, :80: each connection would make another",
    )


WRONG_GO_RULES = [
    ("listen_port: 65536", "listen_port", "from 0 to 65535"),
    ("listen_port: [80]", "listen_port", "a port such as 80, not a list"),
    ("listen_port: 22:22", "listen_port", "from 0 to 65535"),
    ("listen_port: true", "listen_port", "not true or false"),
    ("backend_port: 0", "backend_port", "from 1 to 65535"),
    ("backend_port: http", "backend_port", "from 1 to 65535"),
    ("backend_port: null", "", "is missing"),
    ("listen_ip: 1.2.3", "listen_ip", "neither an IP address nor a host name"),
    ("backend_ip: [1.2.3.4]", "backend_ip", "not a list"),
    ("ip_blacklist: [1.2.3.4, x]", "ip_blacklist[1]", "neither an IP address nor a network"),
    ("max_ilde: 5", "max_ilde", "did you mean max_idle?"),
    ('listen: ":80"', "listen", 'under "services:"'),
    ('backend: ":80"', "backend", 'under "services:"'),
]


@pytest.mark.parametrize(("rule", "key", "expected_text"), WRONG_GO_RULES)
def test_wrong_go_rules(rule: str, key: str, expected_text: str) -> None:
    rules = {"listen_port": "80", "backend_port": "81", rule.partition(":")[0]: None}
    lines = [rule if value is None else f"{key}: {value}" for key, value in rules.items()]
    ((_, path, message),) = problems_of("web:\n" + "".join(f"  {line}\n" for line in lines))
    assert path.startswith(f"web.{key}".rstrip("."))
    assert expected_text in message


# -- wrong files


WRONG_FILES = [
    ("", None, "", "no services"),
    ("# nothing\n", None, "", "no services"),
    ("~", None, "", "no services"),
    ("services: {}", 1, "services", "no services"),
    ("services:", 1, "services", "not nothing"),
    ("\nservices: [a]", 2, "services", "not a list"),
    ("- a", 1, "", "not a list"),
    ("text", 1, "", "not a text"),
    ("services:\n  web: 80\n", 2, "services.web", "not a number"),
    ("services:\n  web:\n", 2, "services.web", "not nothing"),
    ("web: 80\n", 1, "web", 'under "services:"'),
    ("listen: ':80'\n", 1, "listen", 'under "services:"'),
    ("servces:\n  web: {listen: ':80'}\n", 1, "servces", 'did you mean "services"?'),
    ("other:\n  web: {listen: ':80'}\n", 1, "other", 'did you mean "services"?'),
    (NATIVE + "servics: {}\n", 18, "servics", "did you mean services?"),
    (NATIVE + GO, 18, "ssh", "not a known key"),
    (NATIVE + "services: {}\n", 18, "services", "duplicate key, first on line 1"),
    (NATIVE + "  web: {}\n", 18, "services.web", "duplicate key, first on line 2"),
    (NATIVE + "    max_idle: 3\n", 18, "services.web.max_idle", "duplicate key, first on line 8"),
    (NATIVE + '  "":\n    a: b\n', 18, "services", "printable"),
    (NATIVE + '  "a\\0":\n    a: b\n', 18, "services", "printable"),
    (NATIVE + "~: 1\n", 18, "", "a key must be a name"),
    (NATIVE + "[a]: 1\n", 18, "", "a key must be a name"),
    (NATIVE + "? {a: 1}\n: 1\n", 18, "", "a key must be a name"),
    (NATIVE + "---\n", 18, "", "second YAML document"),
    (NATIVE + "  <<: 3\n", 18, "services.<<", "must be an alias"),
    ("a: &a [*a]\n", 1, "", "the alias *a"),
    ("services: {a: {listen: :80, backend: :81}}", 1, "", 'in quotes, such as ":80"'),
    ('services:\n  a: {listen: ":80",\n    backend: :81}\n', 3, "", 'in quotes, such as ":80"'),
    ("services: {a: {listen: ::1:80}}", 1, "", 'in quotes, such as ":80"'),
    ("services: {a: {listen: [::1]:80}}", 1, "", 'in quotes, such as ":80"'),
    ("services: {a: {listen: *:80}}", 1, "", 'in quotes, such as ":80"'),
    ("web:\n    listen: :80\n\tbackend: :81\n", 3, "", "not with tabs"),
    ('services: {"": {listen: ":80", backend: ":81"}}', 1, "services", "printable"),
    ("services: {~: {}}", 1, "services", "a key must be a name"),
    ("services: {<<: 3}", 1, "services.<<", "must be an alias"),
    ("services: {<<: {[a]: 1}}", 1, "services.<<", "a key must be a name"),
    ('"": {listen_port: 80, backend_port: 81}', 1, "", "printable"),
    ("a:\n\tb: 1\n", 2, "", "not with tabs"),
    ("a: b: c\n", 1, "", "in quotes"),
    ("a: 1\nb: [1, 2\nc: 3\n", 3, "", "not valid YAML: while parsing a flow sequence from line 2"),
    ("a: 'b\n\n", 3, "", "from line 1"),
    ("a: b\nc: \0\n", 2, "", "U+0000"),
    ("a: \ud800\n", 1, "", "U+D800"),
    ('a: "\\UFFFFFFFF"\n', 1, "", "no such character"),
    ("a: " + "[" * 30, 1, "", "20 levels"),
    ("".join(f"{' ' * i}a:\n" for i in range(100)), 21, "", "20 levels"),
    ("a: " + "x" * (1024 * 1024), None, "", "too big"),
]


@pytest.mark.parametrize(("text", "line", "path", "expected_text"), WRONG_FILES)
def test_wrong_files(text: str, line: int | None, path: str, expected_text: str) -> None:
    ((found_line, found_path, message),) = problems_of(text)
    assert (found_line, found_path) == (line, path)
    assert expected_text in message


def test_too_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlmap, "MAX_NODES", 100)
    ((line, _, message),) = problems_of("a:\n" + "- 1\n" * 101)
    assert line == 99
    assert "more than 100 values" in message


def test_an_alias_bomb_is_refused() -> None:
    bomb = "a: &a [" + "x," * 9 + "]\n"
    for name, below in zip("bcdefghijkl", "abcdefghijk", strict=True):
        bomb += f"{name}: &{name} [" + f"*{below}," * 9 + "]\n"
    ((_, _, message),) = problems_of(bomb)
    assert "too big" in message


def test_a_chain_of_merges_is_limited() -> None:
    chain = "a0: &a0 {k: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: *a{i - 1}, k{i}: 1}}\n" for i in range(1, 5000)
    )
    ((_, _, message),) = problems_of(chain)
    assert "too big" in message


@pytest.mark.parametrize(
    ("content", "line", "expected_text"),
    [
        (b"services:\n  a\xff", 2, "UTF-8"),
        (bytes(range(256)), 2, "UTF-8"),
        (b"x" * (1024 * 1024 + 1), None, "too big"),
        ("é".encode() * 600_000, None, "too big"),
        (b"", None, "no services"),
    ],
)
def test_wrong_content(
    tmp_path: Path, content: bytes, line: int | None, expected_text: str
) -> None:
    path = tmp_path / "monconn.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    (problem,) = caught.value.problems
    assert (problem.source, problem.line) == (str(path), line)
    assert expected_text in problem.message


@pytest.mark.parametrize(
    ("name", "expected_text"),
    [
        ("missing", "No such file"),
        (".", "Is a directory"),
        ("a\0b", "NUL"),
        ("a" * 999, "too long"),
        ("a\ud800", "a character that no path can have"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, expected_text: str) -> None:
    path = os.path.join(tmp_path, name)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    (problem,) = caught.value.problems
    assert (problem.source, problem.line) == (path, None)
    assert expected_text in problem.message


def test_a_pipe_is_read_and_never_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    text = NATIVE.encode()
    with monkeypatch.context() as patched:
        patched.setattr(files, "READ_SECONDS", 0.0)
        with pytest.raises(ConfigError, match="cannot be read: its end did not come within"):
            config.load(fifo)  # nobody writes
        end = os.open(fifo, os.O_RDWR)
        os.write(end, text)
        with pytest.raises(ConfigError, match="cannot be read: its end did not come within"):
            config.load(fifo)  # and nobody ends it
        os.close(end)
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    assert [each.name for each in config.load(f"/dev/fd/{reader}").services] == ["web"]
    os.close(reader)


def test_all_problems_at_once_in_the_order_of_their_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(
            "services:\n"
            "  a:\n"
            "    max_idle: soon\n"
            '    listen: ":80"\n'
            "    ip_blacklist:\n"
            "      - 1.2.3.4\n"
            "      - x\n"
            "      - [y]\n"
            "    max_ilde: 5\n"
            '  b: {listen: ":80", backend: ":1"}\n'
            '  c: {listen: ":80", backend: ":1"}\n'
            '  c: {listen: ":81", backend: ":1"}\n'
            "kontrol: {}\n"
        )
    problems = caught.value.problems
    assert [(problem.line, problem.path) for problem in problems] == [
        (2, "services.a.backend"),
        (3, "services.a.max_idle"),
        (7, "services.a.ip_blacklist[1]"),
        (8, "services.a.ip_blacklist[2]"),
        (9, "services.a.max_ilde"),
        (11, "services.c.listen"),
        (12, "services.c"),
        (13, "kontrol"),
    ]
    assert str(caught.value).splitlines()[0] == (
        f"{SOURCE}:2: services.a.backend: is missing, and has no default"
    )
    assert len(str(caught.value).splitlines()) == len(problems)


def test_a_merged_problem_has_the_line_where_it_is_written() -> None:
    text = (
        "services:\n"
        '  one: &one {listen: ":1", backend: ":1",\n'
        "    max_idle: soon}\n"
        '  two: {<<: *one, listen: ":2"}\n'
    )
    places = [(line, path) for line, path, _ in problems_of(text)]
    assert places == [(3, "services.one.max_idle"), (3, "services.two.max_idle")]


def test_a_long_name_is_cut() -> None:
    ((_, path, _),) = problems_of(f"services:\n  {'x' * 500}: 1\n")
    assert len(path) < 100


# -- two services on one listener


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (":80", ":80"),
        (":80", "127.0.0.1:80"),
        ("127.0.0.1:80", ":80"),
        (":80", "[::1]:80"),
        (":80", "0.0.0.0:80"),
        ("[::]:80", ":80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "tcp:80"),
        ("[::]:80", "[::1]:80"),
        ("[::1]:80", "[0:0::1]:80"),
        ("Name:80", "name:80"),
        ("unix:/run/a", "unix:/run/./a:mode=600"),
    ],
)
def test_listeners_that_clash(one: str, other: str) -> None:
    text = (
        f'services:\n  one: {{listen: "{one}", backend: ":1"}}\n'
        '  between: {listen: ":7", backend: ":1"}\n'
        f'  other: {{listen: "{other}", backend: ":1"}}\n'
    )
    ((line, path, message),) = problems_of(text)
    assert (line, path) == (4, "services.other.listen")
    assert 'the service "one" listens there already' in message


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (":80", ":81"),
        (":0", ":0"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("0.0.0.0:80", "[::]:80"),
        ("unix:/run/a", "unix:/run/b"),
        ("unix:80", ":80"),
    ],
)
def test_listeners_that_do_not_clash(one: str, other: str) -> None:
    text = (
        f'services:\n  one: {{listen: "{one}", backend: ":1"}}\n'
        f'  other: {{listen: "{other}", backend: ":1"}}\n'
    )
    assert len(parse(text).services) == 2


def test_go_listeners_that_clash() -> None:
    ((line, path, message),) = problems_of(
        "a: {listen_port: 80, backend_port: 1}\n"
        "b: {listen_ip: 10.0.0.1, listen_port: '80', backend_port: 1}\n"
    )
    assert (line, path) == (2, "b.listen_port")
    assert 'the service "a"' in message


# -- any input gives a configuration or problems


def check_any_text(text: str) -> None:
    try:
        result = parse(text)
    except ConfigError as error:
        check_problems(error.problems, len(text.splitlines()) + 2)
    else:
        assert isinstance(result, config.Config)
        assert result.services


def check_problems(problems: tuple[Problem, ...], most_lines: int) -> None:
    assert problems
    for problem in problems:
        assert problem.source
        assert problem.message
        assert str(problem).isprintable()
        assert problem.line is None or 1 <= problem.line <= most_lines


YAML_PIECES = [
    *("services", "web", "listen", "backend", "max_idle", "listen_port", "backend_port"),
    *('":80"', "22:22", "80", "[::1]:80", "15m", "yes", "~", ".inf", "0x_", "1_0", "2001-99-99"),
    *(": ", ":\n", "\n", "\n  ", "\n    ", "- ", "? ", "{", "}", "[", "]", ", ", " ", "\t", "#"),
    *("&a ", "*a", "<<: *a", "!!int ", "!!binary ", "! ", "---\n", "...\n", "%YAML 1.1\n"),
    *("|\n", ">\n", '"', "'", "\\", "\\ud800", "\\x00", "é", "\u2028", "@", "`"),
]
yamlish = st.lists(st.sampled_from(YAML_PIECES), max_size=40).map("".join)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid configuration with some pieces removed, repeated or inserted."""
    text = draw(st.sampled_from([NATIVE, GO]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(start + 20, len(text))))
        piece = draw(st.sampled_from(["", text[start:end] * 2]) | yamlish | st.text(max_size=5))
        text = text[:start] + piece + text[end:]
    return text


@settings(max_examples=examples(300), deadline=None)
@given(text=mutated() | yamlish | st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    check_any_text(text)


@settings(max_examples=examples(100), deadline=None)
@given(listen=st.text(), rule=st.text())
def test_any_value_is_read_or_refused(listen: str, rule: str) -> None:
    # JSON's quoted texts are YAML's, too.
    check_any_text(
        f"services: {{a: {{listen: {json.dumps(listen)}, backend: {json.dumps(rule)},"
        f" max_idle: {json.dumps(rule)}, {json.dumps(rule)}: 1}}}}"
    )


@settings(max_examples=examples(100), deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        config.load(path)
    except ConfigError as error:
        check_problems(error.problems, len(content) + 2)


@settings(max_examples=examples(100), deadline=None)
@given(pairs=st.lists(st.text() | st.text(alphabet=":=80unix/[]", max_size=12), max_size=3))
def test_any_pairs_are_read_or_refused(pairs: list[str]) -> None:
    try:
        config.from_pairs(pairs)
    except ConfigError as error:
        check_problems(error.problems, 0)


@pytest.mark.parametrize(
    ("first", "second", "is_clash"),
    [
        ("systemd:domain=INET:index=0", "systemd:domain=INET:index=0", True),
        ("systemd:domain=INET:index=0", "systemd:domain=INET:index=1", False),
        ("tcp:80:interface=127.0.0.1:backlog=5", "127.0.0.1:80", True),
        ("tcp:80:backlog=5", "127.0.0.1:80", True),
        ("tcp:80:backlog=5", "[::1]:80", False),
        ("tcp:80:interface=127.0.0.1:backlog=5", "127.0.0.2:80", False),
        ("ssl:80:privateKey=k.pem", ":80", True),
        ("localhost:80", "127.0.0.1:80", True),
        ("localhost:80", "127.0.0.2:80", False),
        ("unix:/tmp/a/../x", "unix:/tmp/x", True),
    ],
)
def test_a_place_that_is_claimed_twice(
    first: str, second: str, is_clash: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(2, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr("monconn.config.listeners.socket.getaddrinfo", lambda *_, **__: found)
    pairs = [
        (addresses.parse_listen(each), addresses.parse_backend(":9")) for each in (first, second)
    ]
    services = [config.ServiceConfig(name, *pair) for name, pair in zip("ab", pairs, strict=True)]
    assert bool(listeners.clashes(services)) == is_clash
    assert bool(listeners.clashes(services[::-1])) == is_clash


@pytest.mark.parametrize("suffix", ["", "-wal", ".lock"])
def test_a_log_that_is_the_history(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    text = (
        "services: {web: {listen: ':80', backend: ':81'}}\n"
        f"json_log: {{path: {tmp_path}/link/file{suffix}}}\nhistory: {{path: {tmp_path}/file}}\n"
    )
    with pytest.raises(ConfigError, match=r":2: json_log.path: .* is the history's"):
        config.parse(text, "f")
    config.parse(text.replace("/link/file", "/link/other"), "f")


# -- files of networks


def test_files_of_networks_are_read_with_the_configuration(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("10.0.0.1\n")
    two.write_text("10.0.0.2\n")
    text = 'services: {{web: {{listen: ":80", backend: ":81", block_files: {}}}}}'
    for written, count in (
        (f"[{one}, {two}]", 2),
        (str(one), 1),
        ("[]", 0),
        (f"[{one}, {one}]", 1),
    ):
        assert len(parse_one(text.format(written)).policy.rules.block_files) == count
    two.write_text("# fine\nweb\n10.0.0.2\nx/y\n")
    found = problems_of(text.format(f"[{one}, {two}, /no/such, {{}}]"))
    assert [path for _, path, _ in found] == [
        f"services.web.block_files[{index}]" for index in (1, 1, 2, 3)
    ]
    messages = [message for _, _, message in found]
    assert messages[0].startswith(f'{two}:2: "web" is neither an IP address')
    assert messages[1].startswith(f'{two}:4: "x/y" is neither')
    assert messages[2].startswith('"/no/such" cannot be read: No such file or directory')
    assert messages[3].startswith("must be a text, not a mapping")


def test_a_service_takes_back_the_rates_of_all() -> None:
    text = (
        "defaults: {rate: 5/s, per_ip_rate: 1/s, bandwidth: 1MiB/s, allow: [10.0.0.0/8]}\n"
        "services: {a: {listen: ':1', backend: ':2'},"
        " b: {listen: ':3', backend: ':4', rate: none, per_ip_rate: 0, bandwidth: none, allow: []}}"
    )
    first, second = (each.policy.rules for each in parse(text).services)
    assert (str(first.rate), str(first.per_ip_rate), str(first.bandwidth)) == (
        "5/s",
        "1/s",
        "1MiB/s",
    )
    assert (second.rate, second.per_ip_rate, second.bandwidth) == (None, None, None)
    assert (len(first.allow), len(second.allow)) == (1, 0)
