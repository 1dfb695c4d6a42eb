"""The sections beside the services: log, metrics, history, devices, observers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from monconn.addresses import TcpAddress, UnixAddress
from monconn.config.config import Config, parse
from monconn.config.sections import (
    CaptureConfig,
    DevicesConfig,
    HistoryConfig,
    JsonLogConfig,
    MetricsConfig,
)
from monconn.errors import ConfigError
from monconn.monitor.interfaces import Observer

SERVICES = 'services: {web: {listen: ":80", backend: ":8080"}}\n'


def read(text: str) -> Config:
    return parse(SERVICES + text, "file.yaml")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


class OwnFilter(Observer):
    """One that has options with the names of ours."""

    def __init__(self, filter: Any, services: Any = None) -> None:
        self.filter = filter
        self.services = services


class CustomObserver(Observer):
    """A custom observer."""

    def __init__(self, path: Any, *, limit: int = 3) -> None:
        self.path = path
        self.limit = limit


def test_everything_is_off_except_devices() -> None:
    config = read("")
    assert (config.json_log, config.metrics, config.history) == (None, None, None)
    assert config.devices == DevicesConfig()
    assert config.observers == ()


@pytest.mark.parametrize("port", ["9180", "'9180'"])
@pytest.mark.parametrize("key", ["http: {listen: %s}", "manhole: {listen: %s, authorized_keys: k}"])
def test_what_is_advised_for_a_port_alone_is_taken(key: str, port: str) -> None:
    (problem,) = problems(key % port)
    advised = "127.0.0.1:9180"
    assert problem.endswith(f"a number alone is no address: write {advised}")
    if key.startswith("http"):
        http = read(key % advised).http
        assert http is not None
        assert http.listen == TcpAddress("127.0.0.1", 9180)


def test_captures() -> None:
    assert read("").capture == CaptureConfig()
    assert read("capture: {}\n").capture == CaptureConfig()
    assert read("capture: false\n").capture is None
    config = read(
        """
capture:
  folder: /var/captures
  filter: service:mqtt client:10.0.0.0/8
  on: [client_lost, "alarm:silent", client_lost]
  next: 5
  within: 10m
  first: all
  rotate_size: 1MiB
  keep: 3
  max_total: 2MiB
"""
    )
    assert config.capture == CaptureConfig(
        "/var/captures",
        "service:mqtt client:10.0.0.0/8",
        ("client_lost", "alarm:silent"),
        5,
        600.0,
        0,
        1 << 20,
        3,
        1 << 21,
    )
    for text in ("0", "'0'", "all"):
        assert read(f"capture: {{first: {text}}}\n").capture == CaptureConfig(first=0)
    assert read("capture: {on: client_lost}\n").capture == CaptureConfig(on=("client_lost",))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("true", "capture: must be false, or a mapping such as {filter: service:mqtt}"),
        ("{folder: ''}", "capture.folder: must be the path"),
        ("{first: false}", "capture.first: must be a number of bytes"),
        ("{first: some}", "or all"),
        ("{rotate_size: 1}", "capture.rotate_size: must be at least 64KiB"),
        ("{max_total: 1}", "capture.max_total: must be at least 64KiB"),
        ("{max_total: 100MiB}", "capture.max_total: of 100MiB must be at least twice the"),
        ("{keep: 0}", "capture.keep: must be more than 0"),
        ("{next: 0}", "capture.next: must be more than 0"),
        ("{within: 0}", "capture.within: must be more than 0"),
        ("{on: [client_lots]}", 'capture.on[0]: "client_lots" is nothing that a capture begins on'),
        ("{on: [client_lots]}", "did you mean client_lost?"),
        ("{on: [silent]}", "did you mean alarm:silent?"),
        ("{on: [5.5]}", "client_lost, ...), abnormal or alarm:KIND"),
        ("{on: [[]]}", "capture.on[0]: must be a text"),
        ("{files: 3}", "capture.files: is not a known key"),
    ],
)
def test_captures_that_are_wrong(text: str, problem: str) -> None:
    (found,) = problems(f"capture: {text}\n")
    assert problem in found


def test_every_section() -> None:
    config = read(
        """
json_log: {path: stdout, at_open: true, at_half_close: true, every: 5m}
metrics: {listen: "127.0.0.1:9100"}
history: {path: /var/lib/h.sqlite, keep: 7d, max_size: 10MiB, resume_counters: false}
devices: {prefix_v4: 24, prefix_v6: 56, kept: 10, silent_heartbeats: 5,
          storm_connections: 3, storm_within: 2m}
"""
    )
    assert config.json_log == JsonLogConfig("stdout", at_open=True, at_half_close=True, every=300.0)
    assert config.metrics == MetricsConfig(TcpAddress("127.0.0.1", 9100))
    assert config.history == HistoryConfig("/var/lib/h.sqlite", 7 * 86400.0, 10 * 2**20, False)
    assert config.devices == DevicesConfig(24, 56, 10, 5, 3, 120.0)


def test_defaults() -> None:
    config = read("json_log: {path: x, format: ecs, community_id: true}\n")
    assert config.json_log == JsonLogConfig("x", format="ecs", community_id=True)
    config = read("json_log: {path: x}\nmetrics: {listen: 'unix:/m'}\nhistory: {path: y}\n")
    assert config.json_log == JsonLogConfig("x", at_open=False, every=60.0)
    assert config.metrics == MetricsConfig(UnixAddress("/m"))
    assert config.history == HistoryConfig("y", 30 * 86400.0, 2**30, True)
    assert config.devices == DevicesConfig(32, 64, 100_000, 3, 10, 60.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("json_log: {}", "json_log.path: is missing"),
        ("json_log: true", "json_log: must be a mapping of settings, not true or false"),
        ("json_log: {path: x, at_opem: true}", "json_log.at_opem: is not a known key: did you"),
        ("metrics: {}", "metrics.listen: is missing"),
        ("metrics: {listen: 'ssl:443'}", "metrics.listen: "),
        ("history: {path: x, keep: 0}", "history.keep: must be more than 0"),
        ("history: {path: x, max_size: 1GB}", "history.max_size: must be a number of bytes or a"),
        ("history: {path: x, max_size: 0}", "history.max_size: must be more than 0"),
        ("history: {path: x, max_size: 1.5}", "history.max_size: must be a number of bytes or a"),
        ("history: {path: ''}", "history.path: must be the path of a file, not an empty text"),
        ("json_log: {path: ' '}", "json_log.path: must be the path of a file, not an empty"),
        (
            'json_log: {path: "a\\0b"}',
            "json_log.path: 'a\\x00b' cannot be a path: a path has no NUL",
        ),
        ('history: {path: "a\\uD800"}', "cannot be a path: it has a character that no path can"),
        (
            'manhole: {listen: "127.0.0.1:0", authorized_keys: "a\\0"}',
            "manhole.authorized_keys: 'a\\x00' cannot be a path",
        ),
        (
            "json_log: {path: /}",
            'json_log.path: no lines can be appended to "/": it is a folder',
        ),
        ("history: {path: ':memory:'}", "means a database in memory to SQLite: give the path of"),
        ("history: {path: 'file:x?mode=memory'}", "is a URI: give the path of the file, without"),
        (
            "history: {path: /dev/null}",
            '"/dev/null" cannot be used: it is a device, and no',
        ),
        (
            "manhole: {listen: '127.0.0.1:0', authorized_keys: /, host_key: k}",
            'manhole.authorized_keys: "/" cannot be used: it is a folder, and no regular file',
        ),
        ("json_log: {path: x, format: xml}", 'json_log.format: must be native or ecs, not "xml"'),
        ("json_log: {path: x, format: 1}", "json_log.format: must be"),
        ("json_log: {path: x, community_id: 1}", "json_log.community_id: must be true or false"),
        ("json_log: {path: /proc/self/mem}", "it is a file of the kernel's"),
        (
            "control: {listen: 'unix:/'}",
            'control.listen: cannot listen on "unix:/": there is a fol',
        ),
        ("metrics: {listen: ':80'}", 'metrics.listen: cannot listen on :80: the service "web" lis'),
        (
            "metrics: {listen: 'unix:/run/x:mode=600'}\ncontrol: {listen: 'unix:/run/x'}",
            "metrics.listen: cannot listen on unix:/run/x:mode=600: control listens there already",
        ),
        ("history: {path: x, max_size: 10}", "history.max_size: must be at least 1MiB"),
        ("devices: {prefix_v4: 33}", "devices.prefix_v4: must be from 1 to 32"),
        ("devices: {prefix_v6: 0}", "devices.prefix_v6: must be from 1 to 128"),
        ("devices: {kept: 0}", "devices.kept: must be more than 0"),
        ("observers: {use: x}", "observers: must be a list of observers, each"),
        ("observers: [x]", "observers[0]: must be a mapping such as {use: package.module:Class}"),
        ("observers: [{path: x}]", "observers[0].use: is missing"),
        ("observers: [{use: json}]", "observers[0].use: must be package.module:Class"),
        ("observers: [{use: 'no.such:Thing'}]", "cannot be imported: ModuleNotFoundError"),
        ("observers: [{use: 'json:Nothing'}]", "cannot be imported: AttributeError"),
        ("observers: [{use: 'sys:path'}]", 'observers[0].use: "sys:path" is not a class'),
        (
            f"observers: [{{use: '{__name__}:CustomObserver', limit: 1}}]",
            "cannot be made with these options: missing a required argument: 'path'",
        ),
    ],
)
def test_problems_are_reported(text: str, message: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith("file.yaml:2: ")
    assert message in problem


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("services: web", "observers[0].services: must be a list of services' names, such as"),
        ("services: []", "observers[0].services: must be a list of services' names, such as"),
        ("services: [web, wbe]", 'observers[0].services: there is no service named "wbe"'),
        ("services: [[]]", "observers[0].services: must be a text, not"),
        ("filter: [x]", "observers[0].filter: must be a text, not"),
    ],
)
def test_problems_with_what_an_observer_chooses(keys: str, message: str) -> None:
    (problem,) = problems(f"observers: [{{use: '{__name__}:CustomObserver', path: x, {keys}}}]")
    assert problem.startswith("file.yaml:2: ")
    assert message in problem


def test_an_observer_may_choose_services_and_connections() -> None:
    config = read(
        f"observers: [{{use: '{__name__}:CustomObserver', path: x, services: [web],"
        " filter: 'client:10.0.0.0/8'}]"
    )
    (each,) = config.observers
    assert (each.services, each.filter) == (("web",), "client:10.0.0.0/8")
    assert each.options == {"path": "x"}


def test_options_of_a_class_go_before_our_keys_of_the_same_names() -> None:
    config = read(f"observers: [{{use: '{__name__}:OwnFilter', filter: [a], services: b}}]")
    (each,) = config.observers
    assert each.options == {"filter": ["a"], "services": "b"}
    assert (each.services, each.filter) == (None, None)


def test_all_that_is_wrong_with_observers_at_once() -> None:
    assert len(problems("observers: [{use: 1}, {use: 'json:loads', a: 1}, {}]")) == 3


def test_observers_with_options_of_every_kind() -> None:
    config = read(
        f"observers:\n  - use: {__name__}:CustomObserver\n    path: {{a: [1, null, x]}}\n"
    )
    (each,) = config.observers
    made = each.make(**each.options)
    assert isinstance(made, CustomObserver)
    assert made.path == {"a": [1, None, "x"]}
    assert made.limit == 3


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "SystemExit(3)", "GeneratorExit"])
def test_a_module_that_would_end_the_program_is_reported(
    raised: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "observer_that_exits.py").write_text(f"raise {raised}")
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = problems("observers: [{use: 'observer_that_exits:X'}]")
    assert f"cannot be imported: {raised.partition('(')[0]}" in problem


def test_files_of_the_control_port_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    tls = f"{{certificate: {tmp_path}/none, key: {tmp_path}/fifo, client_authority: /dev/zero}}"
    found = problems(f"control: {{listen: '127.0.0.1:0', tls: {tls}}}")
    assert found == [
        f'file.yaml:2: control.tls.certificate: "{tmp_path}/none" cannot be read:'
        " No such file or directory",
        'file.yaml:2: control.tls.client_authority: "/dev/zero" is a device, and no regular file',
        f'file.yaml:2: control.tls.key: "{tmp_path}/fifo" is a FIFO, and no regular file',
    ]


def test_a_failing_module_is_reported_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "observer_that_fails.py").write_text("raise RuntimeError('no\\nluck')")
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = problems("observers: [{use: 'observer_that_fails:X'}]")
    assert problem.endswith("cannot be imported: RuntimeError: no luck")


# -- http


def test_names_and_origins_of_http_are_as_browsers_write_them() -> None:
    http = read(
        "http: {listen: '127.0.0.1:9180', hosts: [Mon.Example., localhost],"
        " allow_origins: ['HTTPS://Tools.example/', 'http://[::1]:80', 'https://a:8443']}"
    ).http
    assert http is not None
    assert http.hosts == ("mon.example", "localhost")
    assert http.allow_origins == ("https://tools.example", "http://[::1]", "https://a:8443")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hosts: []", "hosts: must be a list of host names"),
        ("hosts: mon.example", "hosts: must be a list of host names"),
        ("hosts: ['a.example:443']", "without a port"),
        ("hosts: [ok, '*.example']", "http.hosts[1]: "),
        ("hosts: ['https://a.example']", "must be the name of a host"),
        ("hosts: ['']", "must"),
        ("allow_origins: ['*']", "there is no wildcard"),
        ("allow_origins: ['null']", "must be an origin"),
        ("allow_origins: [tools.example]", "must be an origin"),
        ("allow_origins: ['https://a.example/path']", "must be an origin"),
        ("allow_origins: ['https://u@a.example', 'x']", "http.allow_origins[1]: "),
    ],
)
def test_names_and_origins_of_http_that_are_none(text: str, problem: str) -> None:
    found = problems(f"http: {{listen: '127.0.0.1:9180', {text}}}")
    assert any(problem in each for each in found), found
