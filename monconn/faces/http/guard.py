"""Which requests are let in, and whose they are: Host, Origin, tokens and cookies.

A browser sends a request wherever anybody's page tells it to, with the cookies of that host. So
each request has to name a host that is ours (else a name that leads to this machine would make a
stranger's page one of ours: DNS rebinding), and must not come from a page of another origin.
``SameSite`` alone does not do: for it, all ports of a host are one site.

Sources: the Fetch standard (https://fetch.spec.whatwg.org) for ``Origin`` and CORS, W3C's Fetch
Metadata (https://www.w3.org/TR/fetch-metadata/) for ``Sec-Fetch-Site``,
draft-ietf-httpbis-rfc6265bis for ``SameSite`` and ``__Host-``, RFC 6750 for tokens.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from monconn.access.sessions import IDLE_SECONDS, Session
from monconn.addresses import TcpAddress, is_loopback
from monconn.clock import Clock
from monconn.config.http import HttpConfig
from monconn.faces.http.caller import Caller
from monconn.faces.http.checked_streams import CheckedStream, CheckedStreams
from monconn.faces.http.problems import Problem
from monconn.log import Logger
from monconn.net.http.messages import (
    Answer,
    Headers,
    Request,
    Response,
)
from monconn.ops.access import Access, token_session_name
from monconn.ratelimit import RateLimitedLog, RateLimiter

FAILURE_SECONDS = 1.0
"""How long a wrong token, code or cookie waits for its answer."""
MOST_WAITING = 64
"""How many of these may wait; more are answered at once, with 429. Whoever has a right token is
served meanwhile as always."""
LOGINS_PER_WINDOW = 60
"""How often one name may log in within :data:`LOGIN_WINDOW_SECONDS`."""
LOGIN_WINDOW_SECONDS = 60.0
_MOST_NAMES = 1_000
_LOG_LINES_PER_SECOND = 2
_MOST_COOKIES = 4
_PREFLIGHT_SECONDS = 600

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Headers = (
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # A request to another site would tell it which devices there are. For our own there is one, as
    # without any a browser leaves the Origin out, too.
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
# No Strict-Transport-Security: it is for all ports of a host, which are not ours.

_AUTHORITY = re.compile(
    r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_][A-Za-z0-9._-]{0,254})(?::([0-9]{1,5}))?"
)
_ORIGIN = re.compile(r"(https?)://([^/?#@\\\s]+)")
_TARGET = re.compile(r"(?:https?)://([^/?#]*)", re.IGNORECASE)
_BEARER = re.compile(r"bearer +(.*)", re.IGNORECASE)
_NO_COOKIES = "pages of other sites need a token: cookies are not for them"
_WRONG_TOKEN = "the token is wrong, or was revoked"
_PORTS = {"http": "80", "https": "443"}


@attrs.frozen
class Unknown:
    """A request of nobody who is known.

    :param detail: why, for people.
    :param is_guess: whether it had a token, a code or a cookie that was never a right one.
    :param has_token: whether that was a token.
    """

    detail: str
    is_guess: bool = False
    has_token: bool = False


class Guard:
    """Lets requests in.

    For each request: :meth:`check`; then, if its route needs somebody, :meth:`identify`; and
    :meth:`secured` for whatever is answered.

    :param config: the names by which it is reached, and the origins of pages elsewhere.
    :param access: knows tokens and sessions.
    :param clock: monotonic time and timers.
    """

    _log = Logger()

    def __init__(self, config: HttpConfig, access: Access, clock: Clock) -> None:
        self._config = config
        self._access = access
        self._clock = clock
        self._origins = frozenset(config.allow_origins)
        listen = config.listen
        host = listen.host.lower() if isinstance(listen, TcpAddress) else "localhost"
        self._takes_ips = host in ("", "0.0.0.0", "::")
        """Whether it listens on all addresses: any may be named, as no address is rebound."""
        own = () if self._takes_ips else (host,)
        self._hosts = frozenset(("localhost", *own, *config.hosts))
        self._logins: dict[str, RateLimiter] = {}
        self._waiting: dict[Deferred[Response], IDelayedCall] = {}
        self._streams = CheckedStreams(clock)
        self.most_waiting = MOST_WAITING
        """How many guesses may wait; fewer where there are few places for clients."""
        self._failures = RateLimitedLog(clock, _LOG_LINES_PER_SECOND, self._write_summary)

    @property
    def cookie_name(self) -> str:
        """Of a session, without TLS."""
        return self._access.cookie_name

    def stop(self) -> None:
        """Answer nobody who waits, and check no streams."""
        self._streams.stop()
        for each in tuple(self._waiting):
            each.cancel()
        self._failures.flush()

    # -- where it comes from

    def check(self, request: Request) -> Response | None:
        """Whether a request may be looked at at all.

        :returns: what it is answered if it may not, or if it only asks what it may (CORS); None if
            it may.
        """
        if is_health(request.path):  # which tells nobody anything, and balancers send no Host
            return None
        if not self._is_our_host(request):
            return _problem(
                421,
                "the Host of the request is no name of this server: if it is one, add it to hosts:"
                " of http: in the configuration",
                "unknown-host",
            )
        origin = request.headers.get("origin")
        if origin is not None and self._is_allowed(origin, request):
            is_preflight = "access-control-request-method" in request.headers
            return _preflight() if request.method == "OPTIONS" and is_preflight else None
        if self._is_foreign(request):
            return _problem(
                403, "pages of other sites may not send requests to this one", "foreign-origin"
            )
        is_safe = request.method in ("GET", "HEAD", "OPTIONS")
        tells = origin is not None or "sec-fetch-site" in request.headers
        # A browser that tells neither is older than all that the page works in.
        if not (is_safe or tells) and _bearer(request) is None and self._has_cookie(request):
            return _problem(
                403,
                "the request has a cookie, but neither Origin nor Sec-Fetch-Site: programs use a"
                " token",
                "foreign-origin",
            )
        return None

    def _is_our_host(self, request: Request) -> bool:
        target = _TARGET.match(
            request.path
        )  # in absolute form, as a proxy is asked (RFC 9112, 3.2)
        named = [request.headers.get("host", ""), *([target[1]] if target else [])]
        return all(map(self._is_ours, named))

    def _is_ours(self, authority: str) -> bool:
        found = _authority(authority)
        if found is None:
            return False
        host = found[0]
        if host in self._hosts:
            return True
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return False
        # All of 127.0.0.0/8 and ::1, whatever is listened on: no name is behind an address.
        return self._takes_ips or is_loopback(str(ip))

    def _is_foreign(self, request: Request) -> bool:
        """Whether a page of another origin has sent a request, as far as the browser tells."""
        site = request.headers.get("sec-fetch-site", "none")
        origin = request.headers.get("origin")
        if origin is not None and not _is_same(origin, request):
            return True
        if site in ("same-origin", "none"):
            return False
        # A link elsewhere may lead to the page; not to what the page asks for.
        is_followed = (
            request.method in ("GET", "HEAD")
            and request.path == "/"
            and request.headers.get("sec-fetch-mode") == "navigate"
            and request.headers.get("sec-fetch-dest") == "document"
        )
        return not is_followed

    def _is_allowed(self, origin: str, request: Request) -> bool:
        """Whether a page elsewhere may use the API, with a token."""
        return origin in self._origins and not _is_same(origin, request)

    # -- who it is

    def identify(self, request: Request) -> Caller | Unknown:
        """Who has sent a request that :meth:`check` has let pass."""
        bearer = _bearer(request)
        if bearer is not None:
            token = self._access.token(bearer)
            if token is None:
                return Unknown(_WRONG_TOKEN, True, True)
            held = token
            return Caller(held.role, held.name, "token", lambda: self._access.is_in_force(held))
        origin = request.headers.get("origin")
        if origin is not None and self._is_allowed(origin, request):
            return Unknown(_NO_COOKIES)
        return self._session_of(request)

    def _session_of(self, request: Request) -> Caller | Unknown:
        found = [self._access.session(each) for each in self._cookies(request)]
        sessions = {each.id: each for each in found if isinstance(each, Session)}
        if len(sessions) == 1:
            (session,) = sessions.values()
            return Caller(
                session.role,
                session.name,
                "session",
                lambda: self._access.is_open(session),
                session,
            )
        if sessions:  # another port of this host may have set one, to have actions be its own
            return Unknown("there are cookies of several sessions: log in again")
        if "ended" in found:
            return Unknown("the session has ended: log in again")
        if found:
            return Unknown("the session is not known: log in again", True)
        return Unknown(
            "needs a token (Authorization: Bearer TOKEN), or a browser that is logged in"
        )

    def _has_cookie(self, request: Request) -> bool:
        return next(self._cookies(request), None) is not None

    def _cookies(self, request: Request) -> Iterator[str]:
        """The values of our cookies: under TLS only those that nobody else can have set."""
        name = self._access.cookie_name
        names = {f"__Host-{name}"} if request.is_tls else {f"__Host-{name}", name}
        count = 0
        for pair in re.split("[;,]", request.headers.get("cookie", "")):
            key, _, value = pair.strip().partition("=")
            if key in names:
                count += 1
                if count > _MOST_COOKIES:
                    return
                yield value

    def refuse(self, request: Request, unknown: Unknown) -> Answer:
        """Answer somebody who is not known: 401; after a while, if it was a guess."""
        challenge = 'Bearer realm="monconn"'
        if unknown.has_token:
            challenge += ', error="invalid_token"'  # RFC 6750, 3.1
        headers = (("WWW-Authenticate", challenge),)
        response = _problem(401, unknown.detail, "not-logged-in", headers)
        if not unknown.is_guess:
            return response
        return self._later(request, response, unknown.detail)

    def _later(self, request: Request, response: Response, why: str) -> Answer:
        """Answer a guess."""
        origin = request.origin or "the UNIX socket"
        if self._failures.has_room():
            self._log.warn("HTTP request from {origin}: {why}", origin=origin, why=why)
        else:
            self._failures.add(why)
        if len(self._waiting) >= self.most_waiting:
            wait = (("Retry-After", "1"),)
            return _problem(429, "too many wrong tokens: try again", "too-many", wait)
        waiting: Deferred[Response] = Deferred(self._stop_waiting)

        def answer() -> None:
            del self._waiting[waiting]
            waiting.callback(response)

        self._waiting[waiting] = self._clock.callLater(FAILURE_SECONDS, answer)
        return waiting

    def _stop_waiting(self, waiting: Deferred[Response]) -> None:
        self._waiting.pop(waiting).cancel()

    def _write_summary(self, count: int, kinds: str) -> None:
        self._log.warn("HTTP requests with no line each: {kinds}", kinds=kinds)

    # -- log in and out

    def log_in(
        self,
        request: Request,
        *,
        code: str | None = None,
        token: str | None = None,
        replace: bool = False,
    ) -> Answer:
        """Begin a session, with a one-time code or a token.

        :param replace: whether a link may end what the browser does by another name. Anybody may
            have it open a link: what its user does then would be that other one's.
        :returns: 204 with the cookie; 401 if there is no such code or token, after a while; 409 if
            the browser is logged in by another name; 429 if this name logs in too often.
        """
        origin = request.headers.get("origin")
        if origin is not None and self._is_allowed(origin, request):
            return _problem(403, _NO_COOKIES, "foreign-origin")
        if (refused := self._refused_login(request, code, token, replace)) is not None:
            return refused
        if code is not None:
            session = self._access.log_in(code, request.origin)
        else:
            session = self._access.log_in_with_token(token or "", request.origin)
        if session is None:
            why = _WRONG_TOKEN if code is None else "the link was used already, or is too old"
            return self._later(request, _problem(401, why, "not-logged-in"), why)
        return Response(204, headers=(self._set_cookie(request, session),))

    def _refused_login(
        self, request: Request, code: str | None, token: str | None, replace: bool
    ) -> Response | None:
        """Why somebody may not log in now who has a right code or token, which is not used up."""
        if code is not None:
            grant = self._access.grant(code)
            name = None if grant is None else grant.name
            held = self._session_of(request)
            if grant and isinstance(held, Caller) and held.name != grant.name and not replace:
                return _problem(
                    409,
                    f"this browser is logged in as {held.name} ({held.role}), and the link is for"
                    f" {grant.name} ({grant.role})",
                    "other-session",
                )
        else:
            known = self._access.token(token or "")
            name = None if known is None else token_session_name(known)
        if name is None or self._has_room(name):
            return None
        wait = (("Retry-After", str(int(LOGIN_WINDOW_SECONDS))),)
        most = f"{LOGINS_PER_WINDOW} times within {LOGIN_WINDOW_SECONDS:.0f} seconds"
        return _problem(429, f"{name} has logged in {most}: wait", "too-many", wait)

    def _has_room(self, name: str) -> bool:
        """Count a login, unless there were too many of this name: each is a line of the log, and
        an action in the history."""
        room = self._logins.pop(name, None)
        if room is None:
            room = RateLimiter(self._clock, LOGINS_PER_WINDOW, LOGIN_WINDOW_SECONDS)
        self._logins[name] = room
        if len(self._logins) > _MOST_NAMES:
            del self._logins[next(iter(self._logins))]  # the one that was used least recently
        return room.take()

    def log_out(self, request: Request, caller: Caller) -> Response:
        """End the session of a browser."""
        if caller.session is not None:
            self._access.log_out(caller.session)
        return Response(204, headers=(self._set_cookie(request, None),))

    def _set_cookie(self, request: Request, session: Session | None) -> tuple[str, str]:
        is_secure = request.is_tls or _is_over_tls(request)
        # Browsers take a cookie with this prefix only over TLS, with Path=/ and without Domain: so
        # no other host of the same domain can have set it.
        name = f"__Host-{self._access.cookie_name}" if is_secure else self._access.cookie_name
        value = "" if session is None else self._access.cookie_of(session)
        seconds = 0 if session is None else int(IDLE_SECONDS)
        attributes = f"Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict"
        return "Set-Cookie", f"{name}={value}; {attributes}{'; Secure' if is_secure else ''}"

    # -- what is answered

    def secured(
        self, request: Request, response: Response, caller: Caller | None = None
    ) -> Response:
        """An answer with the headers that every one has, and a newer cookie if the session's is
        old. What the answer has of them already stays. A stream ends once its caller's token is
        revoked, or its session ends."""
        has = {name.lower() for name, _ in response.headers}
        more = [each for each in SECURITY_HEADERS if each[0].lower() not in has]
        if "cache-control" not in has:
            more.append(("Cache-Control", "no-store"))
        if self._origins:
            more.append(("Vary", "Origin"))
            origin = request.headers.get("origin")
            if origin is not None and self._is_allowed(origin, request):
                more.append(("Access-Control-Allow-Origin", origin))
        session = None if caller is None else caller.session
        if session is not None and "set-cookie" not in has and self._access.is_old(session):
            more.append(self._set_cookie(request, session))
        body = response.body
        if caller is not None and not isinstance(body, bytes):
            body = CheckedStream(body, caller, self._streams)
        return attrs.evolve(response, body=body, headers=(*response.headers, *more))


def is_health(path: str) -> bool:
    """Whether a path is one of those that everybody may ask."""
    return path in ("/health", "/health/live", "/health/ready")


def _bearer(request: Request) -> str | None:
    """The token of a request. Other schemes are not ours: a proxy may ask for passwords."""
    found = _BEARER.fullmatch(request.headers.get("authorization", "").strip())
    return found[1] if found else None


def _authority(text: str) -> tuple[str, str] | None:
    """A host in lower case and a port, which may be empty; None if it is none."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    return found[1].lower().strip("[]").removesuffix("."), found[2] or ""


def _is_same(origin: str, request: Request) -> bool:
    """Whether an origin is that of the request itself."""
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return False
    scheme = found[1]
    if request.is_tls and scheme != "https":
        return False
    theirs, ours = _authority(found[2]), _authority(request.headers.get("host", ""))
    if theirs is None or ours is None:
        return False
    # Without TLS of our own, a proxy may have some: then it is the origin that tells the scheme.
    port = _PORTS[scheme]
    return (theirs[0], theirs[1] or port) == (ours[0], ours[1] or port)


def _is_over_tls(request: Request) -> bool:
    """Whether a browser has reached a proxy in front of us by HTTPS, as it says of its own page."""
    origin = request.headers.get("origin", "")
    return origin.startswith("https:") and _is_same(origin, request)


def _preflight() -> Response:
    """What a page elsewhere may send (CORS); with a token, as no credentials are allowed."""
    return Response(
        204,
        headers=(
            ("Access-Control-Allow-Methods", "GET, POST, DELETE"),
            ("Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID"),
            ("Access-Control-Max-Age", str(_PREFLIGHT_SECONDS)),
        ),
    )


def _problem(status: int, detail: str, kind: str, headers: Headers = ()) -> Response:
    return Problem(status, detail, kind, headers=headers).response()
