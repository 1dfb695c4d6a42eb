"""The command line: what is run, and how mistakes are reported."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
from click.testing import CliRunner, Result

from monconn.addresses import TcpAddress, UnixAddress
from monconn.faces.cli.main import main
from monconn.relay.sockets.loop import HAS_EPOLL

from ...certificates import make_certificate

RIGHT = "services: {web: {listen: ':0', backend: '10.0.0.5:80'}}\n"
WRONG = "services:\n  web: {listn: ':80', backend: '10.0.0.5:80'}\n"


@pytest.fixture
def run() -> Iterator[Mock]:
    with patch("monconn.faces.cli.run.run", return_value=0) as mock:
        yield mock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "monconn.yaml"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where control sockets would be."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def monconn(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_pairs_are_run_and_named_by_their_listener(run: Mock) -> None:
    result = monconn("-p", ":2222=127.0.0.1:22", "--pair", "unix:/tmp/s=[::1]:80")
    assert (result.exit_code, result.output) == (0, "")
    config = run.call_args.args[0]
    assert [service.name for service in config.services] == [":2222", "unix:/tmp/s"]
    assert config.services[0].listen == TcpAddress("", 2222)
    assert config.services[1].listen == UnixAddress("/tmp/s")
    assert run.call_args.kwargs == {"debug": False}


def test_pairs_with_a_recorder(run: Mock) -> None:
    assert monconn("-p", ":2222=127.0.0.1:22", "--record").exit_code == 0
    (service,) = run.call_args.args[0].services
    assert service.policy.recorder is not None


def test_a_file_is_run(run: Mock, file: Path) -> None:
    file.write_text(RIGHT)
    assert monconn("-D", "-c", file).exit_code == 0
    assert [service.name for service in run.call_args.args[0].services] == ["web"]
    assert run.call_args.kwargs.keys() == {"debug", "file"}
    assert (run.call_args.kwargs["debug"], run.call_args.kwargs["file"].path) == (True, str(file))


def test_the_status_is_that_of_the_run(run: Mock) -> None:
    run.return_value = 1
    assert monconn("-p", ":2222=127.0.0.1:22").exit_code == 1


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ([], "nothing to do: give -p or -c, as in monconn -p :2222=127.0.0.1:22"),
        (["-c", "x.yaml", "-p", ":1=:2"], "-c and -p do not go together"),
        (["-c", "", "-p", ":1=:2"], "-c and -p do not go together"),
        (["-c", "x.yaml", "--record"], "--record is for -p: write recorder: true into the file"),
        (["--record"], "nothing to do: give -p or -c, as in monconn -p :2222=127.0.0.1:22"),
        (
            ["-p", ":1=:2", "check", "x.yaml"],
            "-p, -c, --record and --http do not go with a command",
        ),
        (["-c", "x.yaml", "demo"], "-p, -c, --record and --http do not go with a command"),
        (["--http", "127.0.0.1:1", "demo"], "-p, -c, --record and --http do not go with a command"),
        (["--record", "demo"], "-p, -c, --record and --http do not go with a command"),
        (["check"], "Missing argument 'FILE'"),
        (["nosuch"], "No such command 'nosuch'"),
    ],
)
def test_wrong_use(run: Mock, args: list[str], problem: str) -> None:
    result = monconn(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in result.stderr
    run.assert_not_called()


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["-p", "nonsense"], '-p: "nonsense" has no'),
        (["-c", ""], "cannot be read"),
        (["-c", "no-such-file.yaml"], "no-such-file.yaml: cannot be read: No such file"),
        (["check", "no-such-file.yaml"], "no-such-file.yaml: cannot be read: No such file"),
    ],
)
def test_a_wrong_configuration_is_reported_in_one_line(
    run: Mock, args: list[str], problem: str
) -> None:
    result = monconn(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    run.assert_not_called()


def test_check_of_a_right_file(file: Path) -> None:
    file.write_text(RIGHT)
    result = monconn("check", file)
    assert (result.exit_code, result.output) == (0, f"{file} is valid: 1 service\n")
    file.write_text(RIGHT.replace("{web", "{ssh: {listen: ':0', backend: ':22'}, web"))
    assert monconn("check", file).output == f"{file} is valid: 2 services\n"


def test_check_warns_of_a_certificate_that_has_expired(file: Path, tmp_path: Path) -> None:
    made = make_certificate(tmp_path, days=(-3, -1))
    made.key.chmod(0o600)
    tls = f"tls: {{certificate: {made.certificate}, key: {made.key}}}"
    file.write_text(RIGHT.replace("'10.0.0.5:80'", f"'10.0.0.5:80', {tls}"))
    result = monconn("check", file)
    assert (result.exit_code, result.stdout) == (0, f"{file} is valid: 1 service\n")
    place = f"{file}:1: services.web.tls: warning: the certificate in "
    assert result.stderr.startswith(place)
    assert " has expired on " in result.stderr


def test_check_finds_what_the_start_will_miss(file: Path, tmp_path: Path) -> None:
    there, gone = tmp_path / "here.log", tmp_path / "gone"
    (tmp_path / "keys").write_text("nonsense\n")
    file.write_text(
        f"services: {{web: {{listen: 'unix:{gone}/a', backend: 'unix:{gone}/b'}}}}\n"
        f"control: {{listen: 'unix:{gone}/c'}}\n"
        f"metrics: {{listen: 'unix:{tmp_path}/here.sock'}}\n"
        f"manhole:\n  listen: 'unix:{tmp_path}/d'\n  authorized_keys: {tmp_path}/keys\n"
        f"json_log: {{path: {there}}}\n"
        f"history: {{path: {gone}/history.db}}\n"
    )
    result = monconn("check", file)
    assert (result.exit_code, result.stdout) == (2, "")
    missing = f'no such file or directory: there is no folder "{gone}", and monconn makes none'
    assert result.stderr.splitlines() == [
        f"{file}:1: services.web.listen: cannot listen on unix:{gone}/a: {missing}",
        f"{file}:2: control.listen: cannot listen on unix:{gone}/c: {missing}",
        f"{file}:6: manhole.authorized_keys: authorized_keys {tmp_path}/keys: has no usable key",
        f"{file}:8: history.path: {gone}/history.db: {missing}",
    ]


def test_check_in_the_style_of_the_go_tool(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file.write_text(f"web:\n  listen_ip: 127.0.0.1\n  listen_port: {port}\n  backend_port: 9\n")
        result = monconn("check", file)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{file}:3: web.listen_port: cannot listen on 127.0.0.1:{port}")


def test_check_of_a_file_that_is_no_history(file: Path) -> None:
    file.write_text(f"{RIGHT}history: {{path: {file}}}\n")
    result = monconn("check", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"{file}:2: history.path: {file}: file is not a database\n"


def test_check_of_a_wrong_file_reports_all_problems(file: Path) -> None:
    file.write_text(WRONG)
    result = monconn("check", file)
    assert (result.exit_code, result.stdout) == (2, "")
    missing, unknown = result.stderr.splitlines()
    assert missing.startswith(f"{file}:2: services.web.listen: ")
    assert unknown.startswith(f"{file}:2: services.web.listn: ")


def test_demo_is_run() -> None:
    with patch("monconn.faces.cli.demo.run_demo", return_value=3) as run_demo:
        assert monconn("-D", "demo").exit_code == 3
    run_demo.assert_called_once_with(debug=True)


_SHOWS_REACTOR = """
import sys
import monconn.faces.cli.run as running
from monconn.faces.cli.main import main

running.run = lambda config, file, debug: print(type(sys.modules["twisted.internet.reactor"]))
main()
"""


@pytest.mark.skipif(not HAS_EPOLL, reason="there is no epoll here")
def test_a_file_with_an_endpoint_runs_on_our_reactor(tmp_path: Path) -> None:
    """To parse an endpoint, Twisted installs its default reactor, if there is none yet."""
    file = tmp_path / "monconn.yaml"
    file.write_text('services: {web: {listen: "tcp:0:interface=127.0.0.1", backend: "[::1]:80"}}')
    command = [sys.executable, "-c", _SHOWS_REACTOR, "-c", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "MonconnReactor" in result.stdout, result.stderr


def test_the_settings_in_effect(file: Path, tmp_path: Path) -> None:
    file.write_text(
        "defaults: {max_idle: 5m}\n"
        "services:\n"
        "  web:\n"
        "    listen: ':0'\n"
        "    backend: '10.0.0.5:80'\n"
        f"    ip_blacklist: [{', '.join(f'192.0.2.{number}' for number in range(20))}]\n"
    )
    result = monconn("check", "--explain", file)
    assert (result.exit_code, result.stderr) == (0, "")
    title, *lines = result.stdout.splitlines()
    assert title == "services.web"
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert ["listen", ":0", "line 4"] in cells
    assert ["max_idle", "5m", "defaults, line 1"] in cells
    assert ["connect_timeout", "10s", "built in"] in cells
    assert ["manhole", "off", "built in"] in cells
    assert ["listen", f"unix:{tmp_path}/monconn/control.sock", "built in"] in cells
    (row,) = json_rows(monconn("check", "--explain", "--json", file), "max_idle")
    expected = {"section": "services.web", "value": "5m", "from": "defaults", "line": 1}
    assert row == {"key": "max_idle", "file": str(file), **expected}
    assert monconn("check", "--json", file).exit_code == 2


def json_rows(result: Result, key: str) -> list[dict[str, object]]:
    return [row for row in json.loads(result.stdout) if row["key"] == key]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_settings_are_as_wide_as_the_terminal_and_never_cut(file: Path, width: int) -> None:
    networks = [f"192.0.2.{number}" for number in range(40)]
    path = "/" + "x" * 90
    file.write_text(
        f"services: {{web: {{listen: 'unix:{path}', backend: ':1', block:"
        f" [{', '.join(networks)}], keepalive: {{client: false}},"
        " unreachable_timeout: {client: 5s}}}\n"
    )
    with patch("monconn.faces.cli.check.terminal_width", return_value=width):
        lines = monconn("check", "--explain", file).stdout.splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(lines).replace(" ", "").replace("line1", "")
    assert f"unix:{path}" in text
    assert f"[{','.join(f'{each}/32' for each in networks)}]" in text
    assert len({line.rindex("built in") for line in lines if line.endswith("built in")}) == 1


def test_the_verbs_need_nothing_of_twisted() -> None:
    """It would be a good part of the time that each of them, and each TAB, takes to start."""
    code = """
import sys
import monconn.faces.cli.main, monconn.faces.control.instances
print(*sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    heavy = {"twisted.internet", "OpenSSL", "textual", "rich"}
    assert {"click", *heavy} & set(result.stdout.split()) == {"click"}


@pytest.mark.parametrize(
    "expression",
    [
        "monconn.monitor.monitor.Monitor is monconn.Monitor",
        "monconn.errors.MonconnError and monconn.wrapping and monconn.net.sockets",
        "monconn.new == monconn.registry.new and monconn.get('x')",
        "set(monconn.__all__) <= set(dir(monconn))",
    ],
)
def test_what_the_package_has_is_there_without_being_imported(expression: str) -> None:
    code = f"""
import monconn
try:
    assert {expression}
except monconn.errors.UnknownService:
    pass
from monconn import *
assert Monitor and registry and MonitoringFactory
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_the_list_of_verbs_has_whole_sentences_in_80_columns() -> None:
    for arguments in (["--help"], ["notify", "--help"], ["capture", "--help"]):
        printed = CliRunner().invoke(main, arguments, terminal_width=80).stdout
        _, _, verbs = printed.partition("Commands:")
        assert verbs
        assert [line for line in verbs.splitlines() if line.endswith("...")] == []
