"""Links, tokens and sessions, and the files that outlast the program."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from monconn.access.sessions import IDLE_SECONDS, Session
from monconn.access.tokens import MOST_TOKENS
from monconn.addresses import TcpAddress, UnixAddress
from monconn.config.http import HttpConfig, HttpTlsConfig
from monconn.errors import FileError, Forbidden, NotConfigured, QuestionError
from monconn.model.actions import Actor
from monconn.monitor.registry import Registry
from monconn.ops.access import WATCH_SECONDS, Access
from tests.logged import logged_lines

from .access_world import ROOT, World, result, world_in

LINE = "grafana view sha256:" + "ab" * 32


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as made:
        yield made


def session_of(access: Access, cookie: str) -> Session:
    found = access.session(cookie)
    assert isinstance(found, Session)
    return found


def mode_of(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


# -- tokens


def test_a_token_is_made_and_nobody_else_can_read_the_file(world: World) -> None:
    old = os.umask(0)
    try:
        made = result(world.access.make_token(ROOT, "operate", "view", "grafana"))
    finally:
        os.umask(old)
    assert (made.name, made.role) == ("grafana", "view")
    assert mode_of(world.tokens) == mode_of(f"{world.tokens}.lock") == 0o600
    text = world.tokens.read_text()
    assert made.token not in text
    assert made.token.removeprefix("monconn_") not in text
    assert made.token not in repr(made)
    found = world.access.token(made.token)
    assert found is not None
    assert (found.name, found.role) == ("grafana", "view")
    assert world.noted.actions == ["made the token grafana (view) for uid 0 (root), pid 7"]
    assert "uid 0 (root), pid 7" in text


def test_a_token_holds_over_a_restart(world: World) -> None:
    token = world.token()
    found = world.another().token(token)
    assert found is not None
    assert found.role == "operate"


def test_a_token_gets_a_name_and_the_role_of_whom_it_is_for(world: World) -> None:
    made = result(world.access.make_token(ROOT, "view"))
    assert made.role == "view"
    assert made.name.startswith("view-")
    assert [(each.name, each.role) for each in world.access.tokens()] == [(made.name, "view")]


@pytest.mark.parametrize(
    "name", ["", "a b", "-x", "x" * 65, "é", "a\nb operate sha256:", "#", "../x"]
)
def test_a_name_that_is_none(world: World, name: str) -> None:
    with pytest.raises(QuestionError, match="is no name of a token"):
        world.access.make_token(ROOT, "operate", "view", name)
    assert not world.tokens.exists()


def test_there_is_one_token_of_a_name(world: World) -> None:
    world.token(name="ops")
    with pytest.raises(QuestionError, match="there is a token named ops already"):
        world.token(name="ops")


def test_there_are_not_too_many(world: World) -> None:
    lines = [f"t{number} view sha256:{number:064x}" for number in range(MOST_TOKENS)]
    world.write("\n".join(lines))
    with pytest.raises(QuestionError, match="there are 1,000 tokens already"):
        world.token()
    world.write("\n".join(lines[: MOST_TOKENS // 2]))
    with pytest.raises(QuestionError, match="there are 500 tokens already"):
        result(world.access.make_token(ROOT, "view"))
    world.token()


@pytest.mark.parametrize("role", ["operate", "admin", ""])
def test_who_may_view_hands_out_no_more(world: World, role: str) -> None:
    for ask in (world.access.make_link, world.access.make_token):
        with pytest.raises((Forbidden, QuestionError), match=r"cannot give|is no role"):
            ask(ROOT, "view", role)
    assert not world.tokens.exists()
    assert world.noted.actions == []


def test_a_token_is_revoked_with_its_sessions(world: World) -> None:
    token, other = world.token(name="ops"), world.token(name="other")
    session = world.access.log_in_with_token(token, "192.0.2.1")
    others = world.access.log_in_with_token(other, "192.0.2.1")
    assert session is not None
    assert others is not None
    cookie = world.access.cookie_of(session)
    held = world.access.token(token)
    assert held is not None
    assert world.access.is_in_force(held)
    result(world.access.revoke_token(ROOT, "ops"))
    assert world.access.token(token) is None
    assert not world.access.is_in_force(held)
    assert not world.access.is_open(session)
    assert world.access.session(cookie) == "ended"
    assert world.access.is_open(others)
    assert world.noted.actions[-1] == "revoked the token ops for uid 0 (root), pid 7"
    assert world.another().token(token) is None
    with pytest.raises(QuestionError, match='there is no token named "ops"'):
        result(world.access.revoke_token(ROOT, "ops"))
    # A new one of that name does not bring them back.
    world.token(name="ops")
    assert world.access.session(cookie) == "ended"


# -- the file, edited by hand


def test_the_file_is_followed(world: World) -> None:
    world.write(f"# mine\n{LINE}\n")
    world.look(1)
    assert world.access.tokens() == []  # it may not be whole yet
    world.look(1)
    assert [each.name for each in world.access.tokens()] == ["grafana"]
    world.write("")
    world.look()
    assert world.access.tokens() == []
    assert world.noted.actions == [
        "made the token grafana (view) (in the file) for the configuration",
        "revoked the token grafana (view) (in the file) for the configuration",
    ]


def test_a_token_of_another_role_is_another_one(world: World) -> None:
    token = world.token("operate", "ops")
    session = world.access.log_in_with_token(token, "")
    assert session is not None
    world.write(world.tokens.read_text().replace("ops operate", "ops view"))
    world.look()
    found = world.access.token(token)
    assert found is not None
    assert found.role == "view"
    assert not world.access.is_open(session)


@pytest.mark.parametrize(
    ("text", "mode", "fault"),
    [
        (LINE, 0o640, "chmod 600"),
        (LINE, 0o604, "chmod 600"),
        (LINE, 0o602, "chmod 600"),
        (f"{LINE}\nnonsense", 0o600, ":2: must be NAME ROLE sha256:DIGEST"),
    ],
)
def test_a_file_that_cannot_be_trusted_lets_nobody_in(
    world: World, text: str, mode: int, fault: str
) -> None:
    token = world.token()
    session = world.access.log_in_with_token(token, "")
    assert session is not None
    before = world.tokens.read_text()
    world.write(f"{before}{text}", mode)
    with logged_lines("monconn.ops.access") as lines:
        world.look(5)
    (line,) = lines
    assert str(world.tokens) in line
    assert fault.replace(":2", ":4") in line
    assert world.access.token(token) is None
    assert not world.access.is_open(session)
    with pytest.raises(FileError, match="must be NAME" if mode == 0o600 else "chmod 600"):
        world.access.tokens()
    with pytest.raises(FileError):
        world.another()
    with pytest.raises(FileError):
        world.token()  # which does not mend what it does not understand
    assert world.tokens.read_text() == f"{before}{text}"
    world.write(before)
    world.look()
    assert world.access.token(token) is not None
    assert world.access.is_open(session)
    assert len(world.noted.actions) == 2  # it was made, and somebody has logged in


def test_a_file_of_another_user_is_refused(world: World) -> None:
    if os.geteuid():
        pytest.skip("needs root")
    world.write(LINE)
    os.chown(world.tokens, 1234, -1)
    with pytest.raises(FileError, match="belongs to another user"):
        world.another()


def test_a_folder_in_which_others_can_replace_the_file(world: World) -> None:
    world.write(LINE)
    world.folder.chmod(0o777)
    with pytest.raises(FileError, match="chmod go-w"):
        world.another()
    world.folder.chmod(0o1777)  # as /tmp: nobody else can rename it
    assert len(world.another().tokens()) == 1


def test_a_folder_that_is_opened_to_others_while_it_runs(world: World) -> None:
    token = world.token()
    world.look()
    assert world.access.token(token) is not None
    world.folder.chmod(0o777)
    world.look()
    assert world.access.token(token) is None
    with pytest.raises(FileError, match="chmod go-w"):
        world.access.tokens()
    world.folder.chmod(0o700)
    world.look()
    assert world.access.token(token) is not None


def test_what_is_no_file(world: World) -> None:
    world.tokens.mkdir()
    with pytest.raises(FileError, match="is a folder"):
        world.another()
    world.tokens.rmdir()
    os.mkfifo(world.tokens)
    with pytest.raises(FileError, match="is a FIFO"):
        world.another()


def test_a_file_that_is_gone_lets_nobody_in(world: World) -> None:
    token = world.token()
    world.tokens.unlink()
    world.look()
    assert world.access.token(token) is None


def test_a_link_leads_to_what_is_replaced(world: World) -> None:
    real = world.folder / "real"
    world.tokens.symlink_to(real)
    access = world.another()
    result(access.make_token(ROOT, "operate", "view", "a"))
    assert world.tokens.is_symlink()
    assert "a view" in real.read_text()


def test_a_file_that_cannot_be_written(world: World) -> None:
    world.folder.joinpath("tokens.new").mkdir()
    with pytest.raises(FileError, match="cannot be written"):
        world.token()
    assert world.access.tokens() == []
    assert world.noted.actions == []


def test_a_disk_that_hangs_holds_up_nobody(world: World) -> None:
    token = world.token()
    world.disk_hangs = True
    world.look(5)
    assert len(world.held) == 1  # one look at a time
    making = world.access.make_token(ROOT, "operate", "view", "late")
    revoking = world.access.revoke_token(ROOT, "late")
    assert len(world.held) == 2  # and one change
    assert world.access.token(token) is not None
    making.cancel()  # whoever has asked for it has left
    world.release()
    making.addErrback(lambda failure: failure.trap(CancelledError))
    assert result(revoking) is None
    assert [each.role for each in world.access.tokens()] == ["operate"]
    assert [each.partition(" for")[0] for each in world.noted.actions[1:]] == [
        "made the token late (view)",
        "revoked the token late",
    ]


def test_many_that_log_out_wait_for_one_write(world: World) -> None:
    sessions = [world.access.log_in(world.code(), "") for _ in range(10)]
    world.disk_hangs = True
    for each in filter(None, sessions):
        world.access.log_out(each)
    logged_out = world.access.log_out_all(ROOT)
    assert len(world.held) == 1
    world.release()
    assert result(logged_out) is None
    assert world.another()._keys == world.access._keys


def test_what_was_seen_before_a_change_is_not_used_after_it(world: World) -> None:
    world.write(LINE)
    world.disk_hangs = True
    world.look(2)
    (look,) = world.held
    world.disk_hangs, world.held = False, []
    world.token(name="mine")
    stale = world.access._tokens
    look()
    assert world.access._tokens is stale


# -- links


def test_a_link_logs_in_once(world: World) -> None:
    link = world.access.make_link(ROOT, "operate")
    assert link.url.startswith("http://127.0.0.1:9180/#login/")
    assert "#login" not in repr(link)
    code = link.url.rpartition("/")[2]
    session = world.access.log_in(code, "192.0.2.1")
    assert session is not None
    assert (session.name, session.role) == ("uid 0 (root)", "operate")
    assert world.access.log_in(code, "192.0.2.1") is None
    assert world.noted.actions == [
        "logged in with the role operate (from 192.0.2.1 by a link for uid 0 (root), pid 7)"
        " for uid 0 (root), in a browser"
    ]


def test_a_link_of_a_viewer_lets_view(world: World) -> None:
    session = world.access.log_in(world.code(giver="view"), "")
    assert session is not None
    assert session.role == "view"
    assert "over the UNIX socket" in world.noted.actions[0]


def test_who_has_a_certificate(world: World) -> None:
    link = world.access.make_link(Actor.certificate("CN=ada"), "view")
    session = world.access.log_in(link.url.rpartition("/")[2], "")
    assert session is not None
    assert session.name == "certificate CN=ada"


@pytest.mark.parametrize(
    ("config", "url"),
    [
        ({}, "http://127.0.0.1:9180"),
        ({"listen": TcpAddress("::1", 9)}, "http://[::1]:9"),
        ({"listen": TcpAddress("localhost", 9), "hosts": ("a.example",)}, "http://localhost:9"),
        ({"listen": TcpAddress("", 9), "tls": 1}, "https://localhost:9"),
        ({"listen": TcpAddress("::", 9), "tls": 1, "hosts": ("a.example",)}, "https://a.example:9"),
        ({"hosts": ("mon.localhost",)}, "http://mon.localhost:9180"),
        ({"listen": UnixAddress("/x"), "hosts": ("a.example",)}, "https://a.example"),
    ],
)
def test_where_a_link_leads(tmp_path: Path, config: dict[str, Any], url: str) -> None:
    if "tls" in config:
        config = {**config, "tls": HttpTlsConfig("c", "k")}
    with world_in(tmp_path, **config) as world:
        assert world.access.url() == url


def test_a_port_that_the_kernel_has_chosen(tmp_path: Path) -> None:
    with world_in(tmp_path, listen=TcpAddress("127.0.0.1", 0)) as world:
        world.access.port = 4711
        assert world.access.url() == "http://127.0.0.1:4711"


def test_no_browser_reaches_a_unix_socket(tmp_path: Path) -> None:
    with (
        world_in(tmp_path, listen=UnixAddress("/x")) as world,
        pytest.raises(NotConfigured, match="a proxy in front of it, and its name in hosts"),
    ):
        world.access.make_link(ROOT, "view")


# -- sessions


def test_a_session_holds_over_a_restart(world: World) -> None:
    session = world.access.log_in(world.code(), "")
    assert session is not None
    later = world.another()
    assert later.cookie_name == world.access.cookie_name
    assert session_of(later, world.access.cookie_of(session)).id == session.id
    (path,) = (world.folder / "state" / "monconn").iterdir()
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700


def test_a_session_is_logged_out_for_good(world: World) -> None:
    session = world.access.log_in(world.code(), "")
    assert session is not None
    cookie = world.access.cookie_of(session)
    world.access.log_out(session)
    assert world.access.session(cookie) == "ended"
    assert world.another().session(cookie) == "ended"
    assert world.noted.actions[-1] == "logged out for uid 0 (root), in a browser"


def test_all_are_logged_out(world: World) -> None:
    session = world.access.log_in(world.code(), "")
    assert session is not None
    cookie, code, token = world.access.cookie_of(session), world.code(), world.token()
    result(world.access.log_out_all(ROOT))
    assert world.access.session(cookie) == "unknown"
    assert not world.access.is_open(session)
    assert world.another().session(cookie) == "unknown"
    assert world.access.log_in(code, "") is None
    assert world.access.token(token) is not None
    assert world.noted.actions[-1] == "logged all browsers out for uid 0 (root), pid 7"


def test_all_are_logged_out_although_that_cannot_be_stored(world: World) -> None:
    session = world.access.log_in(world.code(), "")
    assert session is not None
    (path,) = (world.folder / "state" / "monconn").iterdir()
    path.with_name(f"{path.name}.new").mkdir()
    with pytest.raises(FileError, match="may be logged in again after a restart"):
        result(world.access.log_out_all(ROOT))
    assert not world.access.is_open(session)


def test_a_cookie_is_renewed_while_it_is_used(world: World) -> None:
    session = world.access.log_in(world.code(), "")
    assert session is not None
    assert not world.access.is_old(session)
    world.wall_seconds += IDLE_SECONDS - 1
    assert world.access.is_old(session)
    renewed = world.access.cookie_of(session)
    world.wall_seconds += IDLE_SECONDS - 1
    assert session_of(world.access, renewed).id == session.id
    assert not world.access.is_open(session)


def test_two_servers_have_cookies_of_different_names(tmp_path: Path) -> None:
    with world_in(tmp_path) as one, world_in(tmp_path, listen=TcpAddress("::1", 1)) as other:
        assert one.access.cookie_name != other.access.cookie_name


@pytest.mark.parametrize("damage", ["content", "mode"])
def test_a_damaged_key_is_refused(world: World, damage: str) -> None:
    (path,) = (world.folder / "state" / "monconn").iterdir()
    if damage == "content":
        path.write_text("x")
    else:
        path.chmod(0o644)
    with pytest.raises(FileError, match="remove it, which logs" if damage == "content" else "600"):
        world.another()


def test_without_a_place_for_the_key_sessions_end_with_the_program(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in its way")
    with logged_lines("monconn.ops.access") as lines, world_in(tmp_path) as world:
        session = world.access.log_in(world.code(), "")
        assert session is not None
        assert world.access.is_open(session)
        assert world.another().session(world.access.cookie_of(session)) == "unknown"
        world.access.log_out(session)
    assert "a restart will log browsers out" in lines[0]
    assert "may be logged in again" in lines[-1]


def test_the_file_is_followed_by_one_thread_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To start one takes the reactor's thread a while, on a busy machine."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def count(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", count)
    told: SimpleQueue[Callable[[], object]] = SimpleQueue()

    class Reactor:
        def callFromThread(self, call: Callable[..., object], /, *args: Any) -> object:
            told.put(partial(call, *args))
            return None

    clock, tokens = Clock(), tmp_path / "tokens"
    config = HttpConfig(listen=TcpAddress("127.0.0.1", 9180), tokens=str(tokens))
    access = Access(config, "", Registry(), Reactor(), clock)
    access.startService()
    assert not started
    for _ in range(5):
        clock.advance(WATCH_SECONDS)
        told.get(timeout=30)()
    (thread,) = started
    access.stopService()
    thread.join(30)
    assert not thread.is_alive()
