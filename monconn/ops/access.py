"""Who may use the HTTP API: its tokens, the links that log a browser in, and its sessions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from monconn.access import files
from monconn.access.codes import CODE_SECONDS, Codes, Grant
from monconn.access.sessions import RENEW_SECONDS, NoSession, Session, SessionKeys
from monconn.access.tokens import (
    MOST_TOKENS,
    Token,
    Tokens,
    digest_of,
    is_name,
    make_token,
    may_hand_out,
    with_token,
    without_token,
)
from monconn.addresses import TcpAddress
from monconn.background import LastingThread, ThreadReactor, run_in_thread
from monconn.clock import Clock
from monconn.config.http import HttpConfig
from monconn.errors import (
    FileError,
    Forbidden,
    NotConfigured,
    QuestionError,
    os_error_text,
    quoted,
)
from monconn.files import file_name
from monconn.log import Logger
from monconn.model.actions import CONFIGURATION, ActionKind, Actor
from monconn.model.record import iso_time
from monconn.monitor.registry import Registry
from monconn.ops.reporting import Reporter
from monconn.ops.rows import TokenRow
from monconn.roles import ROLES, Role
from monconn.turns import uncancellable

T = TypeVar("T")

WATCH_SECONDS = 2.0
"""How often the file of tokens is looked at."""


@attrs.frozen
class Link:
    """What logs a browser in.

    :param url: with a code in its fragment, which no browser sends: so neither the logs of a proxy
        nor another site get it.
    :param seconds: how long it may be used, once.
    """

    url: str = attrs.field(repr=False)
    seconds: float


@attrs.frozen
class NewToken:
    """A token that was made; it is nowhere else.

    :param path: of the file that has its digest.
    """

    name: str
    role: Role
    token: str = attrs.field(repr=False)
    path: str


class Access(Service):
    """Knows who may use the HTTP API, and follows the file of tokens.

    Disks may hang: while it runs, files are read and written in threads, and one change at a time
    is under way. While the file of tokens is damaged, or open to others, no token is in force.

    :param config: where the files are, and what the links lead to.
    :param config_path: the configuration's file; empty without one.
    :param registry: whose observers are notified of what is done.
    :param reactor: where threads report to.
    :param clock: monotonic time and timers.
    :param wall: wall-clock seconds: sessions outlast a restart of the machine.
    """

    _log = Logger()

    def __init__(
        self,
        config: HttpConfig,
        config_path: str,
        registry: Registry,
        reactor: ThreadReactor,
        clock: Clock,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._config_path = config_path
        self._reactor = reactor
        self._clock = clock
        self._wall = wall
        self._report = Reporter(registry)
        self._lock = DeferredLock()
        self.tokens_path = files.tokens_path(config, config_path)
        self._keys_path = files.sessions_path(config, config_path)
        self._tokens = Tokens()
        """Those in force."""
        self._listed = Tokens()
        """Those that the file had when it could be used last."""
        self._look = files.Look()
        self._fault = ""
        self._looking = LastingThread(reactor)
        self._is_looking = False
        self._changes = 0
        self._keys = SessionKeys.new()
        self._is_to_store = False
        self._storing: list[Deferred[None]] = []
        self._ids: tuple[Tokens, SessionKeys, dict[str, Token]] = (self._tokens, self._keys, {})
        """What sessions say of tokens, as it is with these tokens and this key."""
        self._codes = Codes(clock)
        self._timer: IDelayedCall | None = None
        self.port: int | None = None
        """The port that is listened on, if the configuration leaves it to the kernel."""

    def startService(self) -> None:
        """Read the files, and follow that of tokens.

        :raises FileError: one is damaged, or open to others.
        """
        looked, keys = files.read_files(self._config, self._config_path)
        if keys is None:
            try:
                files.write_keys(self._keys_path, self._keys)
            except OSError as error:
                problem = files.not_kept(self._keys_path, os_error_text(error))
                self._log.warn("http: {problem}", problem=problem)
        else:
            self._keys = keys
        self._use(looked)
        super().startService()
        self._timer = self._clock.callLater(WATCH_SECONDS, self._poll)

    def stopService(self) -> None:
        """Follow the file no more."""
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._looking.stop()

    # -- the file of tokens

    def _poll(self) -> None:
        self._timer = self._clock.callLater(WATCH_SECONDS, self._poll)
        if self._is_looking:  # the disk hangs
            return
        path, before, changes = self.tokens_path, self._look, self._changes

        def done(outcome: Any) -> None:
            self._is_looking = False
            # What was changed here meanwhile is newer than what was seen.
            if isinstance(outcome, files.Looked) and changes == self._changes and self.running:
                self._use(outcome)

        def look() -> files.Looked:
            return files.look_at_tokens(path, before)

        self._is_looking = True
        if not self._looking.do(look, done):
            self._is_looking = False

    def _use(self, looked: files.Looked) -> None:
        self._look = looked.look
        if looked.tokens is None:
            return
        if looked.fault and looked.fault != self._fault:
            self._log.error("{fault}: no token is in force until then", fault=looked.fault)
        elif not looked.fault and self._fault:
            self._log.info("{path} can be used again", path=file_name(self.tokens_path))
        self._tokens, self._fault = looked.tokens, looked.fault
        if not looked.fault:
            before, self._listed = self._listed, looked.tokens
            if self.running:
                self._report_edit(before, looked.tokens)

    def _report_edit(self, before: Tokens, after: Tokens) -> None:
        """Report what somebody has changed in the file."""
        added = [each for each in after.known if each not in before]
        gone = [each for each in before.known if each not in after]
        if added:
            self._done("make_token", CONFIGURATION, _names(added), "in the file")
        if gone:
            self._done("revoke_token", CONFIGURATION, _names(gone), "in the file")

    def _changed_file(
        self, change: Callable[[bytes, Tokens], bytes], report: Callable[[], T]
    ) -> Deferred[T]:
        """Change the file in a thread, use what is in it then, and report it: also if whoever has
        asked for it has left meanwhile."""

        def use(looked: files.Looked) -> T:
            self._changes += 1
            self._look, self._fault = looked.look, ""
            self._tokens = self._listed = looked.tokens or Tokens()
            return report()

        def explain(failure: Failure) -> T:
            failure.trap(OSError)
            text = os_error_text(failure.value)
            raise FileError(f"{file_name(self.tokens_path)} cannot be written: {text}")

        def work() -> Deferred[T]:
            changing = self._in_thread(lambda: files.change_tokens(self.tokens_path, change))
            return changing.addCallbacks(use, explain)

        changed: Deferred[T] = self._lock.run(work)
        return uncancellable(changed)

    def _in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        done: Deferred[T] = Deferred()

        def finish(outcome: Any) -> None:
            if isinstance(outcome, BaseException):
                done.errback(Failure(outcome))
            else:
                done.callback(outcome)

        try:
            run_in_thread(self._reactor, "monconn access", work, finish)
        except RuntimeError as error:
            return fail(OSError(f"no thread can be started: {error}"))
        return done

    # -- who it is

    @property
    def cookie_name(self) -> str:
        """The name of cookies: another one for each monconn, as browsers send the cookies of a host
        to all its ports."""
        return f"monconn_{self._keys.instance}"

    def token(self, text: str) -> Token | None:
        """The token that somebody has; None if it is none, or none any more."""
        digest = digest_of(text)
        return None if digest is None else self._tokens.find(digest)

    def is_in_force(self, token: Token) -> bool:
        """Whether a token was neither revoked nor changed."""
        return token in self._tokens

    def session(self, cookie: str) -> Session | NoSession:
        """The session of a cookie, or why there is none."""
        session = self._keys.read(cookie, self._wall())
        if isinstance(session, Session) and not self.is_open(session):
            return "ended"
        return session

    def is_open(self, session: Session) -> bool:
        """Whether a session has not ended, nor its token been revoked or changed."""
        if session.key_id != self._keys.key_id or not self._keys.is_open(session, self._wall()):
            return False
        if not session.token:
            return True
        token = self._token_of(session)
        return token is not None and token.role == session.role

    def _token_of(self, session: Session) -> Token | None:
        """The token that a session was opened with, unless it was revoked."""
        tokens, keys, found = self._ids
        if tokens is not self._tokens or keys is not self._keys:
            found = {self._keys.token_id(each.digest): each for each in self._tokens.known}
            self._ids = self._tokens, self._keys, found
        return found.get(session.token)

    def cookie_of(self, session: Session) -> str:
        """The value of a session's cookie, which lasts longer from now on."""
        return self._keys.sign(attrs.evolve(session, renewed_at=self._wall()))

    def is_old(self, session: Session) -> bool:
        """Whether the cookie of a session that is open is to be replaced."""
        is_recent = 0 <= self._wall() - session.renewed_at < RENEW_SECONDS
        return not is_recent and self.is_open(session)

    # -- sessions

    def grant(self, code: str) -> Grant | None:
        """What a one-time code gives, which is not used by that; None if there is no such code, or
        none any more."""
        return self._codes.look_up(code)

    def log_in(self, code: str, origin: str) -> Session | None:
        """Use a one-time code.

        :param origin: where from, for the audit trail.
        :returns: None if there is no such code, or none any more.
        """
        grant = self._codes.take(code)
        if grant is None:
            return None
        session = self._keys.new_session(grant.name, grant.role, self._wall())
        return self._logged_in(session, f"{_from(origin)} by a link for {grant.by}")

    def log_in_with_token(self, text: str, origin: str) -> Session | None:
        """Begin a session for a token; it ends when that is revoked.

        :returns: None if there is no such token.
        """
        token = self.token(text)
        if token is None:
            return None
        session = self._keys.new_session(
            token_session_name(token),
            token.role,
            self._wall(),
            self._keys.token_id(token.digest),
        )
        return self._logged_in(session, _from(origin))

    def _logged_in(self, session: Session, how: str) -> Session:
        self._done("log_in", Actor.session(session.name), session.role, how)
        return session

    def log_out(self, session: Session) -> None:
        """End one session."""
        self._keys = self._keys.without(session, self._wall())
        self._done("log_out", Actor.session(session.name), session.role)
        self._store_keys()

    def log_out_all(self, actor: Actor) -> Deferred[None]:
        """End all sessions, and let no link that was made be used.

        :raises FileError: in the Deferred: they have ended, but would be back after a restart.
        """
        self._keys = SessionKeys.new(self._keys.instance)
        self._codes.clear()
        self._done("log_out_all", actor)
        stored: Deferred[None] = Deferred()
        self._storing.append(stored)
        self._store_keys()
        return uncancellable(stored)

    def _store_keys(self) -> None:
        """Store the key and who has logged out, as they are once it is their turn."""
        if not self._is_to_store:
            self._is_to_store = True
            self._lock.run(self._store)

    def _store(self) -> Deferred[None]:
        self._is_to_store = False
        keys, path = self._keys, self._keys_path
        storing, self._storing = self._storing, []

        def stored(_: None) -> None:
            for each in storing:
                each.callback(None)

        def failed(failure: Failure) -> None:
            failure.trap(OSError)
            text = f"{file_name(path)} cannot be written: {os_error_text(failure.value)}"
            problem = f"who was logged out may be logged in again after a restart: {text}"
            self._log.warn("{problem}", problem=problem)
            for each in storing:
                each.errback(FileError(problem))

        return self._in_thread(lambda: files.write_keys(path, keys)).addCallbacks(stored, failed)

    # -- links and tokens

    def make_link(
        self,
        actor: Actor,
        giver: Role,
        role: str | None = None,
        *,
        seconds: float = CODE_SECONDS,
    ) -> Link:
        """A link that opens the page and logs in, once.

        :param giver: what whoever asks for it may do.
        :param role: what the session may do; the giver's role if left out.
        :param seconds: how long it may be used.
        :raises QuestionError: there is no such role.
        :raises Forbidden: that is more than the giver may.
        :raises NotConfigured: no browser can reach the HTTP API.
        """
        base, granted = self.url(), _granted(giver, role)
        code = self._codes.make(Grant(_name_of(actor), granted, actor.describe()), seconds)
        return Link(f"{base}/#login/{code}", seconds)

    def make_token(
        self, actor: Actor, giver: Role, role: str | None = None, name: str | None = None
    ) -> Deferred[NewToken]:
        """Make a token, and have the file list it.

        :param giver: what whoever asks for it may do.
        :param role: what it may do; the giver's role if left out.
        :param name: one is made up if it is left out.
        :raises Forbidden: the role is more than the giver may.
        :raises QuestionError: there is no such role, or it is no name; in the Deferred: there is
            one of that name, or there are too many.
        :raises FileError: in the Deferred: the file cannot be changed.
        """
        granted = _granted(giver, role)
        if name is not None and not is_name(name):
            raise QuestionError(
                f"{quoted(name)} is no name of a token: letters, digits and . _ @ - are, 64 at most"
            )
        text = make_token()
        digest = digest_of(text)
        assert digest is not None
        token = Token(name or f"{granted}-{secrets.token_hex(3)}", granted, digest)
        comment = f"made {iso_time(self._wall())} for {actor.describe()}"

        def change(content: bytes, tokens: Tokens) -> bytes:
            if tokens.named(token.name) is not None:
                raise QuestionError(
                    f"there is a token named {token.name} already: revoke it, or choose another"
                    " name"
                )
            # Those who may only view leave room for others.
            most = MOST_TOKENS if giver == "operate" else MOST_TOKENS // 2
            if len(tokens.known) >= most:
                raise QuestionError(f"there are {most:,} tokens already: revoke some")
            return with_token(content, token, comment)

        def report() -> NewToken:
            self._done("make_token", actor, _names([token]))
            return NewToken(token.name, granted, text, self.tokens_path)

        return self._changed_file(change, report)

    def tokens(self) -> list[TokenRow]:
        """The tokens that are in force.

        :raises FileError: the file cannot be used.
        """
        if self._fault:
            raise FileError(self._fault)
        return [TokenRow(name=each.name, role=each.role) for each in self._tokens.known]

    def revoke_token(self, actor: Actor, name: str) -> Deferred[None]:
        """Have a token and the sessions that were begun with it be of no use any more.

        :raises QuestionError: in the Deferred: there is none of that name.
        :raises FileError: in the Deferred: the file cannot be changed.
        """

        def change(content: bytes, tokens: Tokens) -> bytes:
            if tokens.named(name) is None:
                raise QuestionError(f"there is no token named {quoted(name)}")
            return without_token(content, name)

        def report() -> None:
            self._done("revoke_token", actor, name)

        return self._changed_file(change, report)

    def url(self) -> str:
        """Where a browser finds the page, without the slash at the end.

        :raises NotConfigured: it is served at a UNIX socket, and no name is known.
        """
        listen, hosts = self._config.listen, self._config.hosts
        if isinstance(listen, TcpAddress):
            scheme = "http" if self._config.tls is None else "https"
            host = listen.host
            # The certificate is for a name; and one of this machine's has cookies of its own.
            if hosts and (self._config.tls is not None or hosts[0].endswith(".localhost")):
                host = hosts[0]
            elif host in ("", "0.0.0.0", "::"):
                host = "localhost"
            return f"{scheme}://{TcpAddress(host, self.port or listen.port)}"
        if hosts:
            return f"https://{hosts[0]}"  # the proxy in front of it
        raise NotConfigured(
            f"browsers cannot open {listen}: listen at 127.0.0.1:PORT, or have a proxy in front of"
            " it, and its name in hosts: [NAME] of http:"
        )

    def _done(self, kind: ActionKind, actor: Actor, target: str = "", detail: str = "") -> None:
        self._report(kind, actor, (), None, target, detail=detail)


def _granted(giver: Role, role: str | None) -> Role:
    """The role that is given, within that of the giver."""
    for each in ROLES:
        if role == each:
            if not may_hand_out(giver, each):
                raise Forbidden(f"who has the role {giver} cannot give the role {each}")
            return each
    if role is not None:
        raise QuestionError(f"{quoted(role)} is no role: {' or '.join(ROLES)}")
    return giver


def token_session_name(token: Token) -> str:
    """Whom sessions are of that were begun with a token."""
    return f"token {token.name}"


def _names(tokens: Sequence[Token]) -> str:
    return ", ".join(f"{each.name} ({each.role})" for each in tokens)


def _from(origin: str) -> str:
    return f"from {origin}" if origin else "over the UNIX socket"


def _name_of(actor: Actor) -> str:
    """Whom a session is for: it outlasts the process that has asked for the link."""
    if actor.kind == "process":
        return f"uid {actor.uid}{f' ({actor.name})' if actor.name else ''}"
    return actor.describe()
