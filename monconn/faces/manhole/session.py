"""One SSH session: a command, a prompt in a terminal, or lines from a pipe."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from twisted.conch.interfaces import ISession
from twisted.conch.ssh.session import SSHSessionProcessProtocol
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.errors import quoted
from monconn.faces.manhole import commands
from monconn.faces.manhole.prompt import LineShell, Terminal
from monconn.log import Logger

if TYPE_CHECKING:
    from monconn.faces.manhole.server import Transport, User

DEFAULT_SIZE = (24, 80)
"""Lines and columns, where the client does not know."""

_log = Logger(namespace="monconn.manhole")


class Shell(Protocol):
    """Receives a client's input."""

    def dataReceived(self, data: bytes) -> None:
        """Handle input."""

    def end_of_input(self) -> None:
        """The client has sent its end of input."""

    def resized(self, columns: int, lines: int) -> None:
        """The client's window has another size."""


@implementer(ISession)
class Session:
    """One session of a login.

    To Conch it is a process that ends with an exit status.
    """

    def __init__(self, user: User) -> None:
        self._user = user
        self._size: tuple[int, int] | None = None
        self._shell: Shell | None = None
        self._process: SSHSessionProcessProtocol | None = None

    @property
    def _transport(self) -> Transport:
        transport: Transport = self._user.conn.transport
        return transport

    # -- ISession

    def getPty(self, term: Any, windowSize: Any, modes: Any) -> None:
        """Implements ``ISession.getPty``."""
        self._size = _usable_size(windowSize)

    def openShell(self, process: Any) -> None:
        """Start a prompt if the client has a terminal, otherwise a :class:`LineShell`."""
        self._process = process
        arguments = (self._user.operations, self._transport.actor, self._write, self._end)
        if self._size is None:
            self._shell = LineShell(*arguments)
        else:
            lines, columns = self._size
            self._shell = Terminal(*arguments)
            self._shell.resized(columns, lines)
        _log.info("{peer} has a prompt", peer=self._transport.peer)
        process.makeConnection(_input(self._shell.dataReceived))

    def execCommand(self, process: Any, command: bytes) -> None:
        """Implements ``ISession.execCommand``."""
        self._process = process
        process.makeConnection(_input(lambda data: None))
        line = command.decode("utf-8", "replace")
        # Later: Conch confirms the request when this method has returned, and OpenSSH does not
        # expect output, or the end, before that.
        self._transport.factory.clock.callLater(
            0, lambda: Deferred.fromCoroutine(self._run_command(line))
        )

    def windowChanged(self, windowSize: Any) -> None:
        """Implements ``ISession.windowChanged``."""
        self._size = lines, columns = _usable_size(windowSize)
        if self._shell is not None:
            self._shell.resized(columns, lines)

    def eofReceived(self) -> None:
        """Implements ``ISession.eofReceived``; a command takes no input and goes on."""
        if self._shell is not None:
            self._shell.end_of_input()

    def closed(self) -> None:
        """Implements ``ISession.closed``."""
        self._process = None

    # -- what it does

    async def _run_command(self, line: str) -> None:
        if self._process is None:
            return
        try:
            answer = await commands.run(line, self._user.operations, self._transport.actor)
        except Exception:
            _log.failure("a command failed")
            answer = commands.Answer(commands.FAILED, err="it failed; the log says why\n")
        _log.info(
            "{peer} ran {line}: status {status}",
            peer=self._transport.peer,
            line=quoted(line),
            status=answer.status,
        )
        if self._process is not None:  # the client may have gone meanwhile
            self._process.outReceived(self._encode(answer.out))
            self._process.errReceived(self._encode(answer.err))
            self._end(answer.status)

    def _encode(self, text: str) -> bytes:
        # With ssh -t, the client's terminal is in raw mode and does not return at a newline.
        return (text if self._size is None else text.replace("\n", "\r\n")).encode()

    def _write(self, data: bytes) -> None:
        if self._process is not None:  # a Deferred may fire after the end
            self._process.outReceived(data)

    def _end(self, status: int) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            reason = ProcessTerminated(exitCode=status) if status else ProcessDone(0)
            process.processEnded(Failure(reason))


def _input(write: Callable[[bytes], object]) -> SimpleNamespace:
    """A transport of a process, as Conch expects it: it passes on the client's input."""
    return SimpleNamespace(write=write, loseConnection=lambda: None)  # closed() is called, too


def _usable_size(window: Any) -> tuple[int, int]:
    lines, columns = window[:2]
    return (lines, columns) if lines and columns else DEFAULT_SIZE
