"""The HTTP API without a network, over connections that are made up."""

from __future__ import annotations

import json
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from monconn.addresses import TcpAddress
from monconn.clock import Clock
from monconn.config.http import HttpConfig
from monconn.faces.http.app import HttpApp
from monconn.faces.http.caller import Caller
from monconn.faces.http.guard import Guard, Unknown
from monconn.net.http.messages import Request, Response
from monconn.ops.access import Access
from monconn.roles import Role
from tests.ops.world import World

HOST = "localhost:9180"


class NamedGuard(Guard):
    """Lets in whoever says what its role and its name are."""

    def __init__(self, clock: Clock) -> None:
        config = HttpConfig(TcpAddress("127.0.0.1", 9180))
        super().__init__(config, Access(config, "", None, None, clock), clock)  # type: ignore[arg-type]

    def identify(self, request: Request) -> Caller | Unknown:
        role, _, name = request.headers.get("authorization", "").partition(" ")
        if role not in ("view", "operate"):
            return Unknown("nobody is known")
        known: Role = "operate" if role == "operate" else "view"
        return Caller(known, name, "token")


@attrs.frozen
class Reply:
    """What was answered."""

    response: Response

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def json(self) -> Any:
        assert isinstance(self.response.body, bytes)
        return json.loads(self.response.body)

    def header(self, name: str) -> str:
        return dict(self.response.headers)[name]


class Api(World):
    """An API over services, on a clock of the test's own."""

    def __init__(self, *services: str, **kwargs: Any) -> None:
        super().__init__(*services)
        for name, value in kwargs.items():
            setattr(self.operations, name, value)
        self.guard = NamedGuard(self.clock)
        self.app = HttpApp(self.operations, self.guard)

    def send(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        role: str = "operate",
        name: str = "test",
        headers: dict[str, str] | None = None,
    ) -> Deferred[Response]:
        """Send a request; a body that is no bytes is sent as JSON."""
        path, _, query = target.partition("?")
        sent = {"host": HOST, "authorization": f"{role} {name}"}
        content = b""
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent["content-type"] = "application/json"
        answer = self.app(Request(method, path, query, sent | (headers or {}), content))
        assert isinstance(answer, Deferred)
        return answer

    def ask(self, method: str, target: str, body: Any = None, **kwargs: Any) -> Reply:
        """What a request is answered, now or some turns later."""
        return Reply(self.result(self.send(method, target, body, **kwargs)))

    def get(self, target: str, **kwargs: Any) -> Any:
        """The JSON that a GET is answered, if all is well."""
        reply = self.ask("GET", target, **kwargs)
        assert reply.status == 200, reply.response
        return reply.json

    def result(self, deferred: Deferred[Any]) -> Any:
        results: list[Any] = []
        deferred.addBoth(results.append)
        for _ in range(200):
            if results:
                return results[0]
            self.clock.advance(0.25)
            self.clock.turn()
        raise AssertionError("it is not answered")
