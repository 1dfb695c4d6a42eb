"""Every route that is served, with every kind of caller: none forgets what it needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred

from monconn.access.sessions import IDLE_SECONDS, Session, SessionKeys
from monconn.faces.http.app import HttpApp
from monconn.faces.http.guard import FAILURE_SECONDS, Guard
from monconn.faces.http.routes import Call, Route
from monconn.faces.http.service import HttpService
from monconn.net.http.messages import Request, Response
from monconn.ops.operations import Operations
from tests.ops.access_world import ROOT, World, result, world_in

HOST = "127.0.0.1:9180"
RUN = b"it was run"
Headers = dict[str, str]


class Matrix(World):
    """A whole server, each route of which only says that it was run."""

    app: HttpApp

    def serve(self) -> None:
        operations = Operations(self.registry, self.clock)
        config = attrs.evolve(self.config, metrics=True)
        anything: Any = lambda *_: Response()  # noqa: E731
        served = HttpService(
            config, self.registry, anything, self.clock, operations, metrics=anything
        )
        self.routes = served._app.routes
        guard = Guard(config, self.access, self.clock)
        self.app = HttpApp(operations, guard, [attrs.evolve(each, run=run) for each in self.routes])

    def ask(self, route: Route, headers: Headers, method: str = "") -> int:
        """The status that a route answers; 200 or that of a faulty argument if it lets in."""
        path = re.sub(r"\{\w+\}", "1", route.path)
        sent = {"host": HOST, "origin": f"http://{HOST}", **headers}
        answer: Any = self.app(Request(method or route.method, path, headers=sent))
        assert isinstance(answer, Deferred)
        answers: list[Response] = []
        answer.addCallback(answers.append)
        if not answers:
            self.clock.advance(FAILURE_SECONDS)
        (response,) = answers
        lets_in = response.status in (200, 400)
        assert lets_in or response.body != RUN
        return response.status

    # -- callers, as what they send

    def cookie(self, session: Session, keys: SessionKeys | None = None) -> Headers:
        value = self.access.cookie_of(session) if keys is None else keys.sign(session)
        return {"cookie": f"{self.access.cookie_name}={value}"}

    def session(self, role: str) -> Session:
        session = self.access.log_in(self.code(role), "192.0.2.1")
        assert session is not None
        return session

    def session_by_token(self, role: str) -> Session:
        session = self.access.log_in_with_token(self.token(role, f"by-{role}"), "192.0.2.1")
        assert session is not None
        return session


def run(call: Call) -> Response:
    return Response(200, RUN)


def bearer(token: str) -> Headers:
    return {"authorization": f"Bearer {token}"}


def revoked(world: Matrix) -> Headers:
    token = world.token(name="gone")
    result(world.access.revoke_token(ROOT, "gone"))
    return bearer(token)


def revoked_session(world: Matrix) -> Headers:
    session = world.session_by_token("operate")
    result(world.access.revoke_token(ROOT, "by-operate"))
    return world.cookie(session)


def logged_out(world: Matrix) -> Headers:
    session = world.session("operate")
    world.access.log_out(session)
    return world.cookie(session)


def all_logged_out(world: Matrix) -> Headers:
    cookie = world.cookie(world.session("operate"))
    result(world.access.log_out_all(ROOT))
    return cookie


def expired(world: Matrix) -> Headers:
    cookie = world.cookie(world.session("operate"))
    world.wall_seconds += IDLE_SECONDS
    return cookie


def of_another(world: Matrix) -> Headers:
    return world.cookie(world.session("operate"), SessionKeys.new())


def with_another_role(world: Matrix) -> Headers:
    session = world.session("view")
    signature = world.cookie(session)["cookie"].rpartition(".")[2]
    other = world.cookie(attrs.evolve(session, role="operate"))["cookie"].rpartition(".")[0]
    return {"cookie": f"{other}.{signature}"}


def file_open_to_others(world: Matrix) -> Headers:
    token = world.token()
    world.tokens.chmod(0o644)
    world.look()
    return bearer(token)


def elsewhere(world: Matrix) -> Headers:
    token = world.token()
    return {"x-api-key": token, "cookie": f"token={token}", "authorization": f"Basic {token}"}


def demoted(world: Matrix) -> Headers:
    token = world.token(name="less")
    world.write(world.tokens.read_text().replace("less operate", "less view"))
    world.look()
    return bearer(token)


NOBODY: tuple[Callable[[Matrix], Headers], ...] = (
    lambda world: {},
    lambda world: bearer("x" * 40),
    revoked,
    revoked_session,
    logged_out,
    all_logged_out,
    expired,
    of_another,
    with_another_role,
    file_open_to_others,
    elsewhere,
)
VIEW: tuple[Callable[[Matrix], Headers], ...] = (
    lambda world: bearer(world.token("view")),
    lambda world: world.cookie(world.session("view")),
    lambda world: world.cookie(world.session_by_token("view")),
    demoted,
)
OPERATE: tuple[Callable[[Matrix], Headers], ...] = (
    lambda world: bearer(world.token("operate")),
    lambda world: world.cookie(world.session("operate")),
    lambda world: world.cookie(world.session_by_token("operate")),
)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Matrix]:
    monkeypatch.setattr("tests.ops.access_world.World", Matrix)
    with world_in(tmp_path) as made:
        assert isinstance(made, Matrix)
        made.serve()
        yield made


@pytest.mark.parametrize(
    ("role", "caller"),
    [
        *(("", each) for each in NOBODY),
        *(("view", each) for each in VIEW),
        *(("operate", each) for each in OPERATE),
    ],
)
def test_what_each_caller_gets(
    world: Matrix, role: str, caller: Callable[[Matrix], Headers]
) -> None:
    headers = caller(world)
    assert len(world.routes) > 45
    for route in world.routes:
        methods = [route.method, *(["HEAD"] if route.method == "GET" else [])]
        for method in methods:
            status = world.ask(route, headers, method)
            if route.role is None or route.role == role or role == "operate":
                assert status in (200, 400), (route.path, status)
            else:
                assert status == (403 if role else 401), (route.path, status)


def test_who_needs_nothing_is_named_here(world: Matrix) -> None:
    assert {(each.method, each.path) for each in world.routes if each.role is None} == {
        ("POST", "/api/v1/session"),
        ("GET", "/health"),
        ("GET", "/health/live"),
        ("GET", "/health/ready"),
    }
    changing = {each.path for each in world.routes if each.method != "GET"} - {"/api/v1/session"}
    operating = {each.path for each in world.routes if each.role == "operate"}
    assert operating == changing | {"/api/v1/connections/{id}/recording", "/api/v1/tap"}
