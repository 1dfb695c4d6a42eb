"""The HTTP API: from a request to an operation, and from its result or error to an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.python.failure import Failure

from monconn.errors import MonconnError, quoted
from monconn.faces.http import (
    api_blocks,
    api_connections,
    api_devices,
    api_history,
    api_live,
    api_program,
    api_services,
)
from monconn.faces.http.caller import Caller
from monconn.faces.http.encoding import encode
from monconn.faces.http.guard import Guard, Unknown
from monconn.faces.http.openapi import describe
from monconn.faces.http.problems import ArgumentFault, Problem, bad_arguments, problem_of
from monconn.faces.http.routes import Call, Route
from monconn.faces.http.shared import Shared
from monconn.log import Logger
from monconn.net.http.messages import JSON, Answer, Request, Response
from monconn.ops.operations import Operations

_MOST_ARGUMENTS = 50

ROUTES: tuple[Route, ...] = (
    *api_program.ROUTES,
    *api_services.ROUTES,
    *api_connections.ROUTES,
    *api_devices.ROUTES,
    *api_blocks.ROUTES,
    *api_history.ROUTES,
    *api_live.ROUTES,
)


class HttpApp:
    """Answers requests; a :data:`~monconn.net.http.messages.Handler`.

    :param operations: what is asked and done.
    :param guard: knows who may.
    :param routes: what there is.
    :param elsewhere: answers what is no route, such as the page's files; None for what it has not.
    """

    _log = Logger()

    def __init__(
        self,
        operations: Operations,
        guard: Guard,
        routes: Sequence[Route] = ROUTES,
        elsewhere: Callable[[Request], Answer | None] = lambda request: None,
    ) -> None:
        self._operations = operations
        self._guard = guard
        self._elsewhere = elsewhere
        described = Route(
            "GET",
            "/openapi.json",
            "view",
            "This description.",
            self._describe,
            schema={"type": "object"},
        )
        self.routes = (*routes, described)
        self._paths = _Paths(self.routes)
        self._description = b""
        self.shared = Shared(operations)

    def __call__(self, request: Request) -> Answer:
        """Answer a request, now or later; never fails but by being cancelled."""
        caller: list[Caller] = []
        serve: Callable[..., Any] = self._serve
        answer: Deferred[Response] = maybeDeferred(serve, request, caller)
        answer.addErrback(self._explain, request)
        return answer.addCallback(lambda response: self._guard.secured(request, response, *caller))

    def _serve(self, request: Request, known: list[Caller]) -> Answer:
        """Answer a request, or raise.

        :param known: gets who has sent it.
        """
        refused = self._guard.check(request)
        if refused is not None:
            return refused
        # The server sends the head of the answer to a HEAD, and no body.
        method = "GET" if request.method == "HEAD" else request.method
        try:
            route, segments = self._paths.find(request.path, method)
        except Problem as problem:
            answer = self._elsewhere(request) if problem.status == 404 else None
            if answer is None:
                raise
            return answer
        caller = None
        if route.role is not None:
            found = self._guard.identify(request)
            if isinstance(found, Unknown):
                return self._guard.refuse(request, found)
            known.append(found)
            _check_role(found, route)
            caller = found
        arguments = read_arguments(route, segments, request)
        call = Call(self._operations, request, caller, arguments, self.shared, self._guard)
        return self._run(route, call)

    def _run(self, route: Route, call: Call) -> Answer:
        answers, queues = self.shared.answers, self.shared.queues
        name = "" if call.caller is None else call.caller.name

        def acted(result: Any) -> Any:
            answers.acted(name)
            return result

        if route.method != "GET":
            run: Callable[[Call], Any] = route.run
            answer: Deferred[Response] = maybeDeferred(run, call)
            answer.addBoth(acted)
            return answer
        max_age = call.arguments.get("max_age")
        if not max_age or "cursor" in call.arguments:  # the rest of a list is its caller's own
            if call.caller is None:
                return route.run(call)
            return queues.run(call.caller, lambda: route.run(call))
        # As they were sent: of 1h, the value is another one each time.
        others = sorted(pair for pair in _query(call.request, []) if pair[0] != "max_age")
        key = call.request.path, tuple(others)
        get = partial(answers.get, key, max_age, lambda: route.run(call), name)
        return get() if call.caller is None else queues.share(call.caller, get)

    def _explain(self, failure: Failure, request: Request) -> Response:
        failure.trap(Exception)
        if isinstance(failure.value, MonconnError):
            return problem_of(failure.value).response()
        if failure.check(CancelledError):
            failure.raiseException()  # the client has left
        self._log.failure("{method} {path}", failure, method=request.method, path=request.path)
        return Problem(500, "an error of monconn's own: its log has more").response()

    def _describe(self, call: Call) -> Response:
        if not self._description:  # made once
            self._description = encode(describe(self.routes, self._guard.cookie_name))
        return Response(200, self._description, JSON)

    def close(self) -> None:
        """Hold nothing any more."""
        self.shared.close()


# -- the route


class _Paths:
    """The routes by their paths."""

    def __init__(self, routes: Iterable[Route]) -> None:
        by_path: dict[str, dict[str, Route]] = {}
        for each in routes:
            by_path.setdefault(each.path, {})[each.method] = each
        # Of /connections/close and /connections/{id}, the one without a parameter is meant.
        self._by_path = sorted(
            ((path.split("/"), methods) for path, methods in by_path.items()),
            key=lambda pair: [each.startswith("{") for each in pair[0]],
        )

    def find(self, path: str, method: str) -> tuple[Route, dict[str, str]]:
        """The route of a request, and the segments of its path that are arguments.

        :raises Problem: there is none.
        """
        segments = path.split("/")
        for pattern, methods in self._by_path:
            found = _matched(pattern, segments)
            if found is None:
                continue
            if method not in methods:
                raise _not_allowed(methods)
            return methods[method], found
        known = ": /openapi.json has all paths" if path.startswith("/api/") else ""
        raise Problem(404, f"there is no {quoted(path)}{known}", "unknown-path")


def _matched(pattern: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    if len(pattern) != len(segments):
        return None
    found = {}
    for expected, each in zip(pattern, segments, strict=True):
        if expected.startswith("{"):
            if not each:
                return None
            found[expected[1:-1]] = each
        elif expected != each:
            return None
    return found


def _not_allowed(methods: Iterable[str]) -> Problem:
    allowed = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
    listed = ", ".join(allowed)
    return Problem(405, f"this path has only {listed}", headers=(("Allow", listed),))


# -- the role


def _check_role(caller: Caller, route: Route) -> None:
    if route.role == "operate" and caller.role != "operate":
        raise Problem(403, f"this needs the role operate; {caller.name} has {caller.role}", "role")


# -- arguments


def read_arguments(route: Route, segments: Mapping[str, str], request: Request) -> dict[str, Any]:
    """The arguments of a request, by the names of the route's parameters.

    :param segments: those of the path, as they were sent.
    :raises Problem: they cannot be understood; it names all that are wrong.
    """
    given: dict[str, Any] = {}
    faults: list[ArgumentFault] = []
    for name, segment in segments.items():
        try:
            given[name] = unquote(segment, errors="strict")
        except UnicodeDecodeError:
            faults.append(ArgumentFault(name, "is no UTF-8"))
    known = {each.name: each for each in route.parameters}
    elsewhere = [each for each in known if each not in segments]
    in_body = route.method == "POST"
    if request.body and not in_body:  # in which somebody may have said dry_run
        raise Problem(
            400, f"a {request.method} has no body: arguments are in the query", "bad-body"
        )
    for name, value in _body(request) if in_body else ():
        if name not in elsewhere:
            faults.append(_unknown(name, elsewhere))
        given.setdefault(name, value)
    for name, text in _query(request, faults):
        if in_body and name in elsewhere:
            faults.append(ArgumentFault(name, "belongs into the JSON object of the body"))
        elif in_body or name not in elsewhere:
            faults.append(_unknown(name, [] if in_body else elsewhere))
        elif name in given:
            faults.append(ArgumentFault(name, "is given more than once"))
        given.setdefault(name, text)
    arguments = {}
    for name, parameter in known.items():
        if name in given:
            try:
                arguments[name] = parameter.read(given[name])
            except ValueError as error:
                faults.append(ArgumentFault(name, str(error)))
        elif parameter.is_required and not any(each.name == name for each in faults):
            faults.append(ArgumentFault(name, "is missing"))
    if faults:
        raise bad_arguments(faults)
    return arguments


def _unknown(name: str, known: Sequence[str]) -> ArgumentFault:
    there = f"there are {', '.join(known)}" if known else "there is none"
    return ArgumentFault(quoted(name).strip('"'), f"is no argument here: {there}")


def _query(request: Request, faults: list[ArgumentFault]) -> list[tuple[str, str]]:
    if not request.query:
        return []
    try:
        return parse_qsl(
            request.query,
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST_ARGUMENTS,
        )
    except UnicodeDecodeError:
        raise Problem(400, "the query is no UTF-8", "bad-argument") from None
    except ValueError:
        raise Problem(400, f"more than {_MOST_ARGUMENTS} arguments", "bad-argument") from None


def _body(request: Request) -> Iterable[tuple[str, Any]]:
    if not request.body:
        return ()
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Problem(
            415,
            "the body must be application/json, and say so: Content-Type: application/json",
            headers=(("Accept-Post", "application/json"),),
        )
    try:
        values = orjson.loads(request.body)
    except ValueError as error:
        raise Problem(400, f"the body is no JSON: {error}", "bad-body") from None
    if not isinstance(values, dict):
        raise Problem(400, "the body must be a JSON object of the arguments", "bad-body")
    if len(values) > _MOST_ARGUMENTS:  # each would have a line of the answer
        raise Problem(400, f"more than {_MOST_ARGUMENTS} arguments", "bad-argument")
    return values.items()
