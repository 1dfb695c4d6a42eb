"""``monconn web``: the page in a browser, and tokens."""

from __future__ import annotations

import html
import json
import re
import stat
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch
from urllib.parse import unquote, urlparse

import pytest
from click.testing import CliRunner, Result

from monconn.config.config import from_pairs
from monconn.errors import ConfigError
from monconn.faces.cli.main import main

URL = "http://127.0.0.1:9180/#login/abc-_123"
HELLO = {"version": "1", "server": "monconn 0.2.0", "web": "True"}


class FakeServer:
    """Answers what a server would."""

    where = "unix:/run/x"

    def __init__(self) -> None:
        self.hello: dict[str, str] = dict(HELLO)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, dict[str, str]] = {
            "WebLink": {"url": URL, "seconds": "60.0"},
            "MakeToken": {
                "token": "monconn_xyz",
                "name": "grafana",
                "role": "view",
                "file": "/t",
            },
            "ListTokens": {"rows": '[{"name": "grafana", "role": "view"}]', "file": "/t"},
            "RevokeToken": {},
            "LogOutAll": {},
        }

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, command: str, **arguments: Any) -> dict[str, str]:
        self.asked.append((command, arguments))
        return self.answers[command]

    def rows_of(self, answer: dict[str, str]) -> Any:
        return json.loads(answer["rows"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeServer:
    made = FakeServer()
    monkeypatch.setattr("monconn.faces.cli.verbs.Client", lambda where: made)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    return made


def web(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["web", *arguments, "--control", "/x"])


@pytest.fixture
def browser() -> Any:
    with patch("webbrowser.open", Mock(return_value=True)) as opened:
        yield opened


def test_the_link_is_printed(server: FakeServer, browser: Mock) -> None:
    result = web("--print")
    assert result.stdout == f"{URL}\n"
    assert "good for 60 s, and once" in result.stderr
    assert server.asked == [("WebLink", {"role": None})]
    assert browser.call_count == 0
    assert web("--print", "--role", "view").exit_code == 0
    assert server.asked[-1] == ("WebLink", {"role": "view"})
    assert web("--json").stdout.startswith('{"url": "http://127.0.0.1:9180/#login/abc-_123"')


def test_the_browser_is_opened_and_no_other_user_sees_the_link(
    server: FakeServer, browser: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    for _ in range(2):  # what is left of an earlier one does no harm
        result = web()
        assert result.exit_code == 0
        assert URL in result.stderr  # if a browser cannot read the file
    (opened,) = browser.call_args.args
    assert "abc-_123" not in opened  # it is an argument of the browser's process
    path = Path(unquote(urlparse(opened).path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    (place,) = re.findall(r'content="0;url=([^"]*)"', path.read_text())
    assert html.unescape(place) == URL


def test_the_folder_of_the_file_is_not_one_of_others(
    server: FakeServer, browser: Mock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    (tmp_path / "monconn").mkdir(mode=0o700)
    (tmp_path / "monconn").chmod(0o777)
    result = web()
    assert result.exit_code == 1
    assert "is open to other users: chmod 700" in result.stderr
    assert browser.call_count == 0


def test_without_a_display_the_link_is_printed(
    server: FakeServer, browser: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = web()
    assert result.stdout == f"{URL}\n"
    assert "there is no display here: open this link elsewhere within 60 s" in result.stderr
    assert "ssh -L" not in result.stderr
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22")
    assert "ssh -L 9180:127.0.0.1:9180 THIS_HOST" in web().stderr
    assert browser.call_count == 0


def test_without_a_browser_the_link_is_printed(
    server: FakeServer, browser: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    browser.return_value = False
    result = web()
    assert result.stdout == f"{URL}\n"
    assert "no browser was found" in result.stderr


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "javascript:alert(1)", "http://x/\x1b[2J", "http://x/é"]
)
def test_a_server_that_sends_no_link(
    server: FakeServer, browser: Mock, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    server.answers["WebLink"]["url"] = url
    for arguments in ((), ("--print",), ("--json",)):
        result = web(*arguments)
        assert result.exit_code == 1
        assert "sends no link" in result.stderr
        assert "\x1b" not in result.output
    assert browser.call_count == 0


def test_a_token_is_made(server: FakeServer) -> None:
    result = web("--token", "view", "--as", "grafana")
    assert result.stdout == "monconn_xyz\n"
    assert "is shown only now" in result.stderr
    assert server.asked == [("MakeToken", {"role": "view", "name": "grafana"})]
    assert '"token": "monconn_xyz"' in web("--token", "operate", "--json").stdout


def test_tokens_are_listed_and_revoked(server: FakeServer) -> None:
    result = web("--tokens")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["NAME", "ROLE"],
        ["grafana", "view"],
    ]
    assert "listed in /t" in result.stderr
    assert web("--tokens", "--json").stdout.strip() == '[{"name": "grafana", "role": "view"}]'
    assert "grafana is revoked" in web("--revoke", "grafana").stdout
    assert "all browsers are logged out" in web("--log-out-all").stdout
    assert [each for each, _ in server.asked[-2:]] == ["RevokeToken", "LogOutAll"]
    assert json.loads(web("--revoke", "grafana", "--json").stdout) == {"revoked": "grafana"}
    assert json.loads(web("--log-out-all", "--json").stdout) == {"logged_out": True}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--print", "--tokens"], "one"),
        (["--token", "view", "--revoke", "x"], "one"),
        (["--role", "view", "--log-out-all"], "one"),
        (["--as", "x"], "--as goes with --token"),
        (["--token", "root"], "'view', 'operate'"),
        (["--role", "root"], "'view', 'operate'"),
    ],
)
def test_wrong_use(server: FakeServer, arguments: list[str], problem: str) -> None:
    result = web(*arguments)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert server.asked == []


def test_an_older_server(server: FakeServer) -> None:
    del server.hello["web"]
    result = web()
    assert result.exit_code == 1
    assert "monconn 0.2.0 runs, which is too old to have a page: restart it" in result.stderr


# -- the page beside -p


def test_pairs_with_a_page() -> None:
    pairs = [":2222=127.0.0.1:22"]
    assert from_pairs(pairs).http is None
    http = from_pairs(pairs, http="[::1]:9180").http
    assert str(http and http.listen) == "[::1]:9180"
    assert from_pairs(pairs, http="unix:/run/x").http is not None


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("0.0.0.0:9180", "must be on this machine"),
        (":9180", "must be on this machine"),
        ("192.0.2.1:9180", "tls: {certificate: FILE, key: FILE}: tokens could be read"),
        ("nonsense", "--http: "),
        ("9181", "--http: 9181 is a port alone: write 127.0.0.1:9181"),
        ("127.0.0.1:2222", 'the service ":2222" listens there already'),
        ("tls:9180:interface=127.0.0.1", "must be on this machine"),
    ],
)
def test_where_no_page_can_be(address: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        from_pairs([":2222=127.0.0.1:22"], http=address)
    assert problem in str(raised.value)


def test_the_option() -> None:
    with patch("monconn.faces.cli.run.run", Mock(return_value=0)) as run:
        for arguments, where in (
            (["--http"], "127.0.0.1:9180"),
            (["--http", "127.0.0.1:9999"], "127.0.0.1:9999"),
            (["--http=localhost:1"], "localhost:1"),
        ):
            result = CliRunner().invoke(main, ["-p", ":2222=127.0.0.1:22", *arguments])
            assert result.exit_code == 0, result.output
            assert str(run.call_args.args[0].http.listen) == where
    result = CliRunner().invoke(main, ["-c", "x.yaml", "--http"])
    assert result.exit_code == 2
    assert "write http: {listen: 127.0.0.1:9180} into the file" in result.stderr
