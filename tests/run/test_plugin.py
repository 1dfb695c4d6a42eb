"""The plugin's options, and its service; tests/e2e runs it under the real launchers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.python.usage import UsageError

from monconn._version import __version__
from monconn.config.config import Config
from monconn.errors import ListenError
from monconn.run import plugin
from monconn.run.application import Application

RIGHT = "services: {web: {listen: '127.0.0.1:0', backend: '10.0.0.5:80'}}\n"
WRONG = "services: {web: {listn: ':80', backend: '10.0.0.5:80'}}\n"


def options(*args: object) -> plugin.Options:
    parsed = plugin.Options()
    parsed.parseOptions([str(arg) for arg in args])
    return parsed


def names(config: Config) -> list[str]:
    return [service.name for service in config.services]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "monconn.yaml"
    path.write_text(RIGHT)
    return path


def test_twisted_finds_it() -> None:
    (maker,) = [maker for maker in getPlugins(IServiceMaker) if maker.tapname == "monconn"]
    assert maker.options is plugin.Options
    assert maker.makeService is plugin.makeService


def test_it_leaves_the_reactor_to_the_launcher() -> None:
    code = "import monconn.run.plugin, sys; sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_pairs() -> None:
    parsed = options("-p", ":2222=127.0.0.1:22", "--pair", ":80=10.0.0.5:80")
    assert names(parsed["loaded"]) == [":2222", ":80"]
    assert [each.policy.recorder for each in parsed["loaded"].services] == [None, None]


def test_pairs_with_a_recorder() -> None:
    (service,) = options("-p", ":2222=127.0.0.1:22", "--record")["loaded"].services
    assert service.policy.recorder is not None


def test_pairs_with_a_page() -> None:
    parsed = options("-p", ":2222=127.0.0.1:22", "--http", "127.0.0.1:9180")
    assert str(parsed["loaded"].http.listen) == "127.0.0.1:9180"


def test_a_file(file: Path) -> None:
    assert names(options("--config", file)["loaded"]) == ["web"]
    assert names(options("-c", file)["loaded"]) == ["web"]


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ([], r"nothing to do: give -p or -c, as in \S+ monconn -p :2222=127\.0\.0\.1:22"),
        (["-c", "x.yaml", "-p", ":1=:2"], "-c and -p do not go together: put the services into"),
        (["-c", "x.yaml", "--record"], "--record is for -p: write recorder: true into the file"),
        (["-c", "x.yaml", "--http", "unix:/x"], "--http is for -p: write http: {listen: unix:/x}"),
        (["x.yaml"], r'unexpected "x\.yaml": a file is given by -c FILE'),
    ],
)
def test_wrong_use(args: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=f"^{problem}"):
        options(*args)


def test_the_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        options("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"monconn, version {__version__}\n"


def test_a_wrong_configuration_ends_the_program_with_its_problems(file: Path) -> None:
    file.write_text(WRONG)
    with pytest.raises(SystemExit) as caught:
        options("-c", file)
    assert "services.web.listn" in str(caught.value.code)
    with pytest.raises(SystemExit, match="nonsense"):
        options("-p", "nonsense")


def test_the_service_has_all_services() -> None:
    made: Any = plugin.makeService(options("-p", ":2222=127.0.0.1:22", "-p", ":80=10.0.0.5:80"))
    assert names(made.config) == [":2222", ":80"]


def test_the_tac_file_reads_the_configuration_of_the_environment(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(plugin.CONFIG_VARIABLE, raising=False)
    made: Any = plugin.service_from_environment()
    assert names(made.config) == ["web"]
    monkeypatch.setenv(plugin.CONFIG_VARIABLE, "other.yaml")
    with pytest.raises(SystemExit, match=r"other\.yaml: cannot be read"):
        plugin.service_from_environment()


def test_an_unavailable_listener_ends_the_program(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = plugin.makeService(options("-c", file))
    refusing = Mock(side_effect=ListenError("cannot listen on x"))
    with (
        patch("monconn.run.plugin._TwistdApp.take_process"),
        patch.object(Application, "privilegedStartService", refusing),
        pytest.raises(plugin.CannotStart) as caught,
    ):
        made.privilegedStartService()
    assert capfd.readouterr().err == "monconn: cannot listen on x\n"
    assert caught.value.code == 1  # for the shell
    assert str(caught.value) == "cannot listen on x"  # printed by the parent of a daemon
    assert isinstance(caught.value, Exception)  # else twistd leaves its PID file behind


@pytest.mark.parametrize("arguments", [[], ["-D"]])
def test_debugging_is_off_unless_asked_for(arguments: list[str]) -> None:
    made = options(*arguments, "-p", ":2222=127.0.0.1:22")
    with patch("monconn.run.plugin.make_service") as make_service:
        plugin.makeService(made)
    make_service.assert_called_once_with(made["loaded"], None, debug=bool(arguments))
