"""What an attacker may try: names that lead here, pages elsewhere, guesses, and cookies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from monconn.access.sessions import IDLE_SECONDS, Session
from monconn.addresses import TcpAddress, UnixAddress
from monconn.config.http import HttpTlsConfig
from monconn.faces.http.caller import Caller
from monconn.faces.http.checked_streams import CHECK_SECONDS
from monconn.faces.http.guard import (
    CONTENT_SECURITY_POLICY,
    FAILURE_SECONDS,
    LOGIN_WINDOW_SECONDS,
    LOGINS_PER_WINDOW,
    MOST_WAITING,
    SECURITY_HEADERS,
    Guard,
    Unknown,
    _authority,
)
from monconn.faces.http.service import make_factory
from monconn.net.http.messages import Answer, Request, Response
from tests.logged import logged_lines
from tests.net.http.clients import Clients
from tests.ops.access_world import ROOT, World, result, world_in
from tests.properties import examples

from .streaming import Client

OURS = "127.0.0.1:9180"
API = "/api/v1/services"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path, hosts=("mon.example",), allow_origins=("https://tools.example",)) as it:
        yield it


@pytest.fixture
def guard(world: World) -> Iterator[Guard]:
    made = guard_of(world)
    yield made
    made.stop()


def guard_of(world: World) -> Guard:
    return Guard(world.config, world.access, world.clock)


def request(method: str = "GET", path: str = API, is_tls: Any = False, **headers: str) -> Request:
    """A request; headers by their names with ``_`` in place of ``-``."""
    given = {"host": OURS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Request(method, path, headers=given, is_tls=is_tls, origin="192.0.2.1")


def timers(world: World) -> int:
    """How many timers are set, but for the one that looks at the file of tokens."""
    return len(world.clock.getDelayedCalls()) - 1


def log_in(world: World, guard: Guard, made: Request | None = None, role: Any = None) -> str:
    """Log a browser in; its cookie."""
    made = request("POST", "/api/v1/session", origin=f"http://{OURS}") if made is None else made
    answer = guard.log_in(made, code=world.code(role))
    assert isinstance(answer, Response)
    assert answer.status == 204
    ((name, cookie),) = answer.headers
    assert name == "Set-Cookie"
    return cookie.partition(";")[0]


def status(answer: Answer | None) -> int | None:
    """The status of an answer that is there."""
    assert not isinstance(answer, Deferred)
    return None if answer is None else answer.status


# -- DNS rebinding


OUR_HOSTS = (
    *("localhost", "localhost:1", "LOCALHOST:65535", "localhost.", "127.0.0.1", "127.9.9.9:80"),
    *("[::1]", "[::1]:9180", "mon.example", "MON.example.:443"),
)


def test_names_of_this_machine(guard: Guard) -> None:
    assert [each for each in OUR_HOSTS if guard.check(request(host=each)) is not None] == []


OTHER_HOSTS = (
    *("", " ", "evil.example", "evil.example:9180", "mon.example.evil.example", "0.0.0.0"),
    *("localhost.evil.example", "evil.localhost", "x@localhost", "localhost@evil.example"),
    *("127.0.0.1.evil.example", "127.0.0.1, evil.example", "localhost,evil.example"),
    *("localhost:9180:1", "localhost:x", "localhost:123456", "localhost/", "localhost#", "::1"),
    *("[::1", "[::1]evil", "[evil.example]", "[::ffff:192.0.2.1]", "192.0.2.1", "127.1"),
    *(
        "0x7f.1",
        "2130706433",
        "127.0.0.1\\@evil.example",
        "ⓛocalhost",
        "１２７.0.0.1",
        "[v1.x]",
    ),
    *("localhost\n", "localhost ", "localhost..", "x" * 300, "[fe80::1%25eth0]"),
)


def test_names_that_lead_here(guard: Guard) -> None:
    for path in (API, "/", "/page/app.js", "/openapi.json", "/metrics"):
        requests = [request(path=path, host=each) for each in OTHER_HOSTS]
        assert {status(guard.check(each)) for each in requests} == {421}


def test_a_request_without_any_host(guard: Guard) -> None:
    assert status(guard.check(Request("GET", API))) == 421


def test_the_host_of_an_absolute_target_counts(guard: Guard) -> None:
    assert status(guard.check(request(path=f"http://evil.example{API}"))) == 421
    assert status(guard.check(request(path=f"HTTPS://u@localhost{API}"))) == 421
    assert guard.check(request(path=f"http://localhost{API}")) is None


def test_the_health_of_the_server_is_no_secret(guard: Guard) -> None:
    for path in ("/health", "/health/live", "/health/ready"):
        assert guard.check(Request("GET", path)) is None
    for path in ("/health/", "/health/x", "/healthy", "//health", "/health/../api/v1/services"):
        assert status(guard.check(Request("GET", path))) == 421


@pytest.mark.parametrize(
    ("listen", "host", "is_let_in"),
    [
        (TcpAddress("10.0.0.5", 9180), "10.0.0.5:9180", True),
        (TcpAddress("10.0.0.5", 9180), "10.0.0.6:9180", False),
        (TcpAddress("fd00::5", 9180), "[FD00::5]:9180", True),
        (TcpAddress("mon.local", 9180), "mon.local", True),
        (TcpAddress("", 9180), "192.0.2.7", True),  # no name leads to an address
        (TcpAddress("0.0.0.0", 9180), "[2001:db8::1]:1", True),
        (TcpAddress("::", 9180), "evil.example", False),
        (TcpAddress("", 9180), ".", False),
        (TcpAddress("", 9180), "", False),
        (UnixAddress("/x"), "localhost", True),
        (UnixAddress("/x"), "evil.example", False),
    ],
)
def test_the_address_that_is_listened_on(
    tmp_path: Path, listen: Any, host: str, is_let_in: bool
) -> None:
    tls = HttpTlsConfig("c", "k") if isinstance(listen, TcpAddress) else None
    with world_in(tmp_path, listen=listen, tls=tls) as world:
        found = guard_of(world).check(request(host=host))
        assert (found is None) == is_let_in


@given(st.text(max_size=60) | st.from_regex(r"[\[\]:.0-9a-z@]{0,40}"))
@settings(max_examples=examples(100))
def test_whatever_is_named(text: str) -> None:
    found = _authority(text)
    assert found is None or re.fullmatch(r"[0-9a-z:._-]+", found[0] + found[1])


VALUES = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"https?://[a-z0-9.:\[\]@/]{0,20}"),
    st.sampled_from(["null", "same-origin", "cross-site", f"http://{OURS}", "Bearer x", "Bearer "]),
)
NAMES = ("host", "origin", "sec-fetch-site", "authorization", "cookie", "sec-fetch-mode")


@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.text(max_size=20), st.booleans())
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_request_says_it_is_of_nobody(
    guard: Guard, headers: dict[str, str], path: str, is_tls: bool
) -> None:
    for method in ("GET", "POST"):
        made = Request(method, path, headers=headers, is_tls=is_tls)
        refused = guard.check(made)
        assert refused is None or refused.status in (403, 421)
        assert isinstance(guard.identify(made), Unknown)
        guard.secured(made, Response())


# -- pages of other origins

FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": f"http://{OURS}.evil.example"},
    {"origin": "http://127.0.0.1:3000"},  # another port of this machine
    {"origin": "http://127.0.0.1"},
    {"origin": "http://localhost:9180"},  # another name of it
    {"origin": f"http://{OURS}/"},
    {"origin": f"http://u@{OURS}"},
    {"origin": f"ftp://{OURS}"},
    {"origin": f"http://{OURS}, http://evil.example"},
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site"},
    {"sec_fetch_site": "Same-Origin"},
    {"origin": f"http://{OURS}", "sec_fetch_site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_page_elsewhere_gets_nothing(world: World, guard: Guard, headers: dict[str, str]) -> None:
    cookie = log_in(world, guard)
    for method in ("GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS"):
        for path in (API, "/api/v1/live", "/api/v1/session", "/metrics", "/page/app.js"):
            assert status(guard.check(request(method, path, cookie=cookie, **headers))) == 403
            assert status(guard.check(request(method, path, **headers))) == 403  # logs in others


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": f"http://{OURS}"},
        {"sec_fetch_site": "same-origin"},
        {"origin": f"http://{OURS}", "sec_fetch_site": "same-origin"},
    ],
)
def test_the_page_itself_is_let_in(world: World, guard: Guard, headers: dict[str, str]) -> None:
    cookie = log_in(world, guard)
    for method in ("GET", "POST", "DELETE"):
        made = request(method, cookie=cookie, **headers)
        assert guard.check(made) is None
        assert isinstance(guard.identify(made), Caller)


def test_a_cookie_alone_changes_nothing(world: World, guard: Guard) -> None:
    cookie = log_in(world, guard)
    for method in ("POST", "DELETE", "PUT"):
        assert status(guard.check(request(method, cookie=cookie))) == 403
    assert guard.check(request("GET", cookie=cookie)) is None  # typed as an address
    token = f"Bearer {world.token()}"
    assert guard.check(request("POST", cookie=cookie, authorization=token)) is None
    assert guard.check(request("POST")) is None  # a program that logs in


def test_a_link_elsewhere_may_lead_to_the_page_only(guard: Guard) -> None:
    followed = {
        "sec_fetch_site": "cross-site",
        "sec_fetch_mode": "navigate",
        "sec_fetch_dest": "document",
    }
    assert guard.check(request(path="/", **followed)) is None
    assert status(guard.check(request(path=API, **followed))) == 403
    assert status(guard.check(request("POST", "/", **followed))) == 403
    framed = {**followed, "sec_fetch_dest": "iframe"}
    assert status(guard.check(request(path="/", **framed))) == 403


@pytest.mark.parametrize(
    ("origin", "host", "is_tls", "is_let_in"),
    [
        ("https://mon.example", "mon.example", True, True),
        ("https://mon.example", "mon.example:443", True, True),
        ("https://mon.example:443", "mon.example", True, True),
        ("https://mon.example:8443", "mon.example", True, False),
        ("http://mon.example", "mon.example", True, False),
        # Behind a proxy, whose own scheme and port the browser says.
        ("https://mon.example", "mon.example", False, True),
        ("http://mon.example", "mon.example", False, True),
        ("https://mon.example", "mon.example:80", False, False),
    ],
)
def test_the_scheme_and_the_port_of_an_origin(
    guard: Guard, origin: str, host: str, is_tls: bool, is_let_in: bool
) -> None:
    made = request("POST", is_tls=is_tls, host=host, origin=origin)
    assert (guard.check(made) is None) == is_let_in


def test_a_link_does_not_replace_the_session_of_another_name(world: World, guard: Guard) -> None:
    """Else what a user does would be done as whoever has sent the link."""
    mine = request("POST", "/api/v1/session", origin=f"http://{OURS}")
    answer = guard.log_in(mine, token=world.token())
    assert isinstance(answer, Response)
    cookie = answer.headers[0][1].partition(";")[0]
    made = request("POST", "/api/v1/session", origin=f"http://{OURS}", cookie=cookie)
    code = world.code()
    refused = guard.log_in(made, code=code)
    assert isinstance(refused, Response)
    assert (refused.status, refused.headers) == (409, ())
    assert isinstance(refused.body, bytes)
    assert b"logged in as token" in refused.body
    # The code is not used up; one of the same name needs no question.
    answer = guard.log_in(made, code=code, replace=True)
    assert isinstance(answer, Response)
    assert answer.status == 204
    cookie = answer.headers[0][1].partition(";")[0]
    made = request("POST", "/api/v1/session", origin=f"http://{OURS}", cookie=cookie)
    assert status(guard.log_in(made, code=world.code())) == 204


def test_one_name_logs_in_so_often(world: World, guard: Guard) -> None:
    """Each time is a line of the log, and an action."""
    made, text = request("POST", "/api/v1/session"), world.token()
    answers = [status(guard.log_in(made, token=text)) for _ in range(LOGINS_PER_WINDOW + 10)]
    assert answers == [204] * LOGINS_PER_WINDOW + [429] * 10
    logged = [each for each in world.noted.actions if each.startswith("logged in")]
    assert len(logged) == LOGINS_PER_WINDOW
    assert status(guard.log_in(made, code=world.code())) == 204  # another name
    world.clock.advance(LOGIN_WINDOW_SECONDS)
    assert status(guard.log_in(made, token=text)) == 204


# -- CORS

TOOLS = "https://tools.example"


def test_a_page_of_an_allowed_origin_needs_a_token(world: World, guard: Guard) -> None:
    cookie, token = log_in(world, guard), f"Bearer {world.token(role='view')}"
    asked = request("OPTIONS", origin=TOOLS, access_control_request_method="GET")
    preflight = guard.check(asked)
    assert isinstance(preflight, Response)
    sent = dict(guard.secured(asked, preflight).headers)
    assert (preflight.status, sent["Access-Control-Allow-Origin"]) == (204, TOOLS)
    assert "Authorization" in sent["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in sent
    assert sent["Vary"] == "Origin"
    made = request(origin=TOOLS, cookie=cookie, sec_fetch_site="cross-site")
    assert guard.check(made) is None
    assert isinstance(guard.identify(made), Unknown)
    made = request(origin=TOOLS, authorization=token, sec_fetch_site="cross-site")
    assert isinstance(guard.identify(made), Caller)
    code = world.code()
    made = request("POST", "/api/v1/session", origin=TOOLS)
    assert guard.check(made) is None
    assert status(guard.log_in(made, code=code)) == 403
    assert status(guard.log_in(request("POST", "/api/v1/session"), code=code)) == 204


def test_other_origins_get_no_cors(guard: Guard) -> None:
    for origin in (
        "https://evil.example",
        "https://tools.example.evil.example",
        "null",
        f"{TOOLS}/",
    ):
        asked = request("OPTIONS", origin=origin, access_control_request_method="GET")
        refused = guard.check(asked)
        assert isinstance(refused, Response)
        sent = dict(guard.secured(asked, refused).headers)
        assert refused.status == 403
        assert not any(name.startswith("Access-Control") for name in sent)
        assert sent["Vary"] == "Origin"


# -- tokens


def test_a_token_is_sent_as_a_bearer(world: World, guard: Guard) -> None:
    token = world.token("view", "grafana")
    callers = []
    for value in (f"Bearer {token}", f"bearer  {token}", f"BEARER {token} "):
        caller = guard.identify(request(authorization=value))
        assert isinstance(caller, Caller)
        assert (caller.name, caller.role, caller.kind) == ("grafana", "view", "token")
        assert caller.actor().describe() == "token grafana"
        assert caller.is_valid()
        callers.append(caller)
    result(world.access.revoke_token(ROOT, "grafana"))
    assert not any(each.is_valid() for each in callers)


def test_tokens_elsewhere_do_not_count(world: World, guard: Guard) -> None:
    token = world.token()
    query = attrs.evolve(request(), query=f"token={token}&access_token={token}")
    for made in (
        query,
        request(authorization=token),
        request(authorization=f"Basic {token}"),
        request(authorization=f"Token {token}"),
        request(cookie=f"token={token}"),
        request(x_api_key=token),
    ):
        assert isinstance(guard.identify(made), Unknown)
    for value in (f"Bearer {token}, Bearer {token}", f"Bearer {token}x", f"Bearer {token[:-1]}"):
        unknown = guard.identify(request(authorization=value))
        assert isinstance(unknown, Unknown)
        assert unknown.is_guess


def test_a_wrong_token_is_not_made_up_for_by_a_cookie(world: World, guard: Guard) -> None:
    cookie = log_in(world, guard)
    made = request(authorization="Bearer x", cookie=cookie)
    assert isinstance(guard.identify(made), Unknown)
    proxied = request(authorization="Basic eDp5", cookie=cookie)  # a proxy's own password
    assert isinstance(guard.identify(proxied), Caller)


def test_whoever_says_nothing_is_told_at_once(guard: Guard) -> None:
    unknown = guard.identify(request())
    assert isinstance(unknown, Unknown)
    answer = guard.refuse(request(), unknown)
    assert isinstance(answer, Response)
    assert answer.status == 401
    assert dict(answer.headers)["WWW-Authenticate"] == 'Bearer realm="monconn"'
    assert answer.content_type == "application/problem+json"


def guess(guard: Guard) -> Answer:
    made = request(authorization="Bearer wrong")
    unknown = guard.identify(made)
    assert isinstance(unknown, Unknown)
    answer = guard.refuse(made, unknown)
    if isinstance(answer, Deferred):
        answer.addErrback(lambda failure: failure.trap(CancelledError))
    return answer


def test_guesses_wait_and_right_tokens_do_not(world: World, guard: Guard) -> None:
    token = world.token()
    waiting = [guess(guard) for _ in range(MOST_WAITING)]
    assert all(isinstance(each, Deferred) and not each.called for each in waiting)
    more = [guess(guard) for _ in range(1000)]
    assert {status(each) for each in more} == {429}
    assert isinstance(guard.identify(request(authorization=f"Bearer {token}")), Caller)
    cookie = log_in(world, guard)
    assert isinstance(guard.identify(request(cookie=cookie)), Caller)
    world.clock.advance(FAILURE_SECONDS)
    for each in waiting:
        assert isinstance(each, Deferred)
        answer = result(each)
        assert answer.status == 401
        assert 'error="invalid_token"' in dict(answer.headers)["WWW-Authenticate"]
    assert isinstance(guess(guard), Deferred)


def test_who_leaves_while_waiting_makes_room(world: World, guard: Guard) -> None:
    for _ in range(3 * MOST_WAITING):
        waiting = guess(guard)
        assert isinstance(waiting, Deferred)
        waiting.cancel()
    guard.stop()
    assert timers(world) == 0


def test_guesses_are_logged_and_not_each(world: World, guard: Guard) -> None:
    with logged_lines("monconn.faces.http") as lines:
        for _ in range(500):
            guess(guard)
        world.clock.advance(2)
    assert len(lines) <= 5
    assert "from 192.0.2.1: the token is wrong" in lines[0]
    assert "498 the token is wrong" in lines[-1]
    assert not any("Bearer" in each or "wrong " in each for each in lines[:1])


# -- logging in


def test_codes_are_guessed_slowly(world: World, guard: Guard) -> None:
    made = request("POST", "/api/v1/session", origin=f"http://{OURS}")
    waiting = guard.log_in(made, code="x" * 43)
    assert isinstance(waiting, Deferred)
    assert guard.log_in(made, code=world.code()).status == 204  # type: ignore[union-attr]
    world.clock.advance(FAILURE_SECONDS)
    assert result(waiting).status == 401
    waiting = guard.log_in(made, token="x" * 43)
    world.clock.advance(FAILURE_SECONDS)
    assert isinstance(waiting, Deferred)
    assert result(waiting).status == 401


def test_a_session_by_a_token_has_its_role_and_ends_with_it(world: World, guard: Guard) -> None:
    made = request("POST", "/api/v1/session", origin=f"http://{OURS}")
    answer = guard.log_in(made, token=world.token("view", "kiosk"))
    assert isinstance(answer, Response)
    cookie = answer.headers[0][1].partition(";")[0]
    caller = guard.identify(request(cookie=cookie))
    assert isinstance(caller, Caller)
    assert (caller.role, caller.kind) == ("view", "session")
    assert caller.actor().describe() == "token kiosk, in a browser"
    result(world.access.revoke_token(ROOT, "kiosk"))
    assert not caller.is_valid()
    assert isinstance(guard.identify(request(cookie=cookie)), Unknown)


# -- cookies


def test_the_attributes_of_a_cookie(world: World, guard: Guard) -> None:
    post = ("POST", "/api/v1/session")
    for made, is_secure in (
        (request(*post, origin=f"http://{OURS}"), False),
        (request(*post, host="mon.example", origin="https://mon.example", is_tls=True), True),
        (request(*post, host="mon.example", origin="https://mon.example"), True),  # by a proxy
        (request(*post), False),
        (request(*post, is_tls=True), True),
    ):
        answer = guard.log_in(made, code=world.code())
        assert isinstance(answer, Response)
        cookie = answer.headers[0][1]
        prefix = "__Host-" if is_secure else ""
        assert cookie.startswith(f"{prefix}{world.access.cookie_name}=")
        attributes = cookie.partition("; ")[2].split("; ")
        assert {"Path=/", "HttpOnly", "SameSite=Strict"} <= set(attributes)
        assert ("Secure" in attributes) == is_secure
        assert f"Max-Age={int(IDLE_SECONDS)}" in attributes
        assert not any(each.startswith("Domain") for each in attributes)


def test_the_servers_of_a_host_do_not_log_each_other_out(tmp_path: Path) -> None:
    """A browser sends the cookies of all ports to each of them."""
    with world_in(tmp_path) as one, world_in(tmp_path, listen=TcpAddress("::1", 1)) as other:
        cookies = f"{log_in(one, guard_of(one))}; {log_in(other, guard_of(other))}"
        for world in (one, other):
            assert isinstance(guard_of(world).identify(request(cookie=cookies)), Caller)


def test_a_cookie_that_another_port_has_set_logs_nobody_out(world: World, guard: Guard) -> None:
    cookie = log_in(world, guard)
    name = cookie.partition("=")[0]
    for cookies in (f"{name}=junk; {cookie}", f"{cookie}; {name}=junk", f"x=y,{cookie}"):
        assert isinstance(guard.identify(request(cookie=cookies)), Caller)
    many = "; ".join([f"{name}=junk"] * 10_000)
    unknown = guard.identify(request(cookie=many))
    assert isinstance(unknown, Unknown)


def test_a_session_of_somebody_else_is_not_taken(world: World, guard: Guard) -> None:
    """Else what the victim does would be done in the attacker's name, or the other way."""
    mine, theirs = log_in(world, guard), log_in(world, guard, role="view")
    for cookies in (f"{mine}; {theirs}", f"{theirs}; {mine}"):
        assert isinstance(guard.identify(request(cookie=cookies)), Unknown)
    assert isinstance(guard.identify(request(cookie=f"{mine}; {mine}")), Caller)


def test_under_tls_only_a_cookie_of_this_host_counts(world: World, guard: Guard) -> None:
    cookie = log_in(world, guard, request("POST", is_tls=True))
    assert cookie.startswith("__Host-")
    assert isinstance(guard.identify(request(cookie=cookie, is_tls=True)), Caller)
    tossed = cookie.removeprefix("__Host-")
    assert isinstance(guard.identify(request(cookie=tossed, is_tls=True)), Unknown)


def test_a_session_is_new_with_each_login(world: World, guard: Guard) -> None:
    old = log_in(world, guard)
    made = request("POST", "/api/v1/session", origin=f"http://{OURS}", cookie=old)
    new = log_in(world, guard, made)
    ids = []
    for cookie in (old, new):
        caller = guard.identify(request(cookie=cookie))
        assert isinstance(caller, Caller)
        assert isinstance(caller.session, Session)
        ids.append(caller.session.id)
    assert ids[0] != ids[1]


def test_logging_out(world: World, guard: Guard) -> None:
    cookie = log_in(world, guard)
    made = request("DELETE", "/api/v1/session", cookie=cookie, origin=f"http://{OURS}")
    caller = guard.identify(made)
    assert isinstance(caller, Caller)
    answer = guard.log_out(made, caller)
    assert "Max-Age=0" in answer.headers[0][1]
    assert answer.headers[0][1].startswith(f"{world.access.cookie_name}=;")
    unknown = guard.identify(request(cookie=cookie))
    assert isinstance(unknown, Unknown)
    assert not unknown.is_guess
    assert len(guard.secured(made, answer, caller).headers) == len(
        set(guard.secured(made, answer).headers)
    )


def test_a_cookie_is_renewed_with_an_answer(world: World, guard: Guard) -> None:
    made = request(cookie=log_in(world, guard))
    caller = guard.identify(made)
    assert isinstance(caller, Caller)
    assert "Set-Cookie" not in dict(guard.secured(made, Response(), caller).headers)
    world.wall_seconds += 3600
    renewed = dict(guard.secured(made, Response(), caller).headers)["Set-Cookie"]
    world.wall_seconds += IDLE_SECONDS - 1
    assert isinstance(guard.identify(made), Unknown)
    assert isinstance(guard.identify(request(cookie=renewed.partition(";")[0])), Caller)
    world.access.log_out(caller.session)  # type: ignore[arg-type]
    assert "Set-Cookie" not in dict(guard.secured(made, Response(), caller).headers)


# -- what every answer has


def test_the_headers_of_every_answer(guard: Guard) -> None:
    for response in (Response(), Response(404, b"x"), guard.check(request(host="evil.example"))):
        assert response is not None
        sent = {name.lower(): value for name, value in guard.secured(request(), response).headers}
        assert sent["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert "unsafe" not in sent["content-security-policy"]
        assert sent["x-content-type-options"] == "nosniff"
        assert sent["x-frame-options"] == "DENY"
        assert sent["referrer-policy"] == "same-origin"
        assert sent["cross-origin-opener-policy"] == "same-origin"
        assert sent["cross-origin-resource-policy"] == "same-origin"
        assert sent["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in sent


def test_what_an_answer_says_itself_stays(guard: Guard) -> None:
    own = Response(headers=(("cache-control", "no-cache"), ("ETag", '"1"')))
    sent = guard.secured(request(), own).headers
    assert [value for name, value in sent if name.lower() == "cache-control"] == ["no-cache"]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5000 + b"\r\n", 431),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
        (b"GET http://u@localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", 200),  # RFC 9112, 3.2.2
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET / HTTP/1.0\r\n\r\n", 421),
    ],
)
def test_what_the_server_answers_itself_has_them_too(
    world: World, guard: Guard, sent: bytes, expected: int
) -> None:
    def answer(request: Request) -> Response:
        refused = guard.check(request)
        return guard.secured(request, Response() if refused is None else refused)

    clients = Clients(make_factory(answer, world.clock), world.clock)
    client = clients.connect(sent)
    client.read_all()
    head = bytes(client.written).partition(b"\r\n\r\n")[0].decode("latin-1")
    assert head.startswith(f"HTTP/1.1 {expected} ")
    for name, value in SECURITY_HEADERS:
        assert head.count(f"\r\n{name}: {value}") == 1
    clients.factory.close()


# -- streams


class FakeStream:
    """Writes what it is told to."""

    def __init__(self) -> None:
        self.writer: Any = None
        self.calls: list[str] = []

    def start(self, writer: Any) -> None:
        self.writer = writer

    def resume(self) -> None:
        self.calls.append("resume")

    def stop(self) -> None:
        self.calls.append("stop")


@pytest.mark.parametrize("how", ["revoked", "logged_out", "logged_out_all", "expired"])
def test_a_stream_ends_with_the_right_to_it(world: World, guard: Guard, how: str) -> None:
    token = world.token(name="ops")
    made = request(cookie=log_in(world, guard))
    if how == "revoked":
        made = request(authorization=f"Bearer {token}")
    caller = guard.identify(made)
    assert isinstance(caller, Caller)
    stream = FakeStream()
    body = guard.secured(made, Response(body=stream), caller).body
    assert not isinstance(body, bytes)
    client = Client(body)
    stream.writer.write(b":\n\n")
    world.clock.advance(CHECK_SECONDS)
    assert client.comments() == 1
    assert not client.writer.is_finished
    client.be_slow()
    assert stream.writer.is_slow
    client.catch_up()
    if how == "revoked":
        result(world.access.revoke_token(ROOT, "ops"))
    elif how == "logged_out":
        assert caller.session is not None
        world.access.log_out(caller.session)
    elif how == "logged_out_all":
        result(world.access.log_out_all(ROOT))
    else:
        world.wall_seconds += IDLE_SECONDS
    world.clock.advance(CHECK_SECONDS)
    assert client.writer.is_finished
    assert stream.calls == ["resume", "stop"]
    stream.writer.write(b":\n\n")
    assert client.comments() == 0


def test_nobody_is_checked_who_has_left(world: World, guard: Guard) -> None:
    made = request(authorization=f"Bearer {world.token()}")
    caller = guard.identify(made)
    assert isinstance(caller, Caller)
    for is_left in (True, False):
        stream = FakeStream()
        body = guard.secured(made, Response(body=stream), caller).body
        client = Client(body)
        if is_left:
            client.leave()
        else:
            stream.writer.finish()
            assert client.writer.is_finished
        world.clock.advance(CHECK_SECONDS)
        assert timers(world) == 0
