"""One session: a command, a prompt on a terminal, or lines from a pipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.conch.interfaces import ISession
from twisted.conch.ssh.session import SSHSessionProcessProtocol
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn.errors import quoted
from monconn.faces.manhole import verbs
from monconn.faces.manhole.prompt import LineShell, Terminal

if TYPE_CHECKING:
    from monconn.faces.manhole.server import User

NO_SIZE = (24, 80)
"""Lines and columns, where the client does not know."""

_log = Logger(namespace="monconn.manhole")


class Shell(Protocol):
    """What reads from a client."""

    def received(self, data: bytes) -> None:
        """Take what they typed."""

    def end_of_input(self) -> None:
        """Hear that they will type no more."""

    def resized(self, columns: int, lines: int) -> None:
        """Hear that their window has another size."""


class Feed:
    """What Conch takes for the process of a session; it only wants to be written to."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write

    def loseConnection(self) -> None:
        """See ``ITransport``: the session hears of it by ``closed``."""


@implementer(ISession)
class Session:
    """One session of a user's."""

    def __init__(self, user: User) -> None:
        self._user = user
        self._size: tuple[int, int] | None = None
        self._shell: Shell | None = None
        self._process: SSHSessionProcessProtocol | None = None

    # -- ISession

    def getPty(self, term: Any, windowSize: Any, modes: Any) -> None:
        """See ``ISession``."""
        self._size = _size(windowSize)

    def openShell(self, process: Any) -> None:
        """See ``ISession``: a prompt if there is a terminal, or else lines in and out."""
        self._process = process
        if self._size is None:
            self._shell = LineShell(self._user.operations, self._write, self._end)
        else:
            lines, columns = self._size
            self._shell = Terminal(self._user.operations, self._write, self._end)
            self._shell.resized(columns, lines)
            self._shell.start()
        _log.info("{peer} has a prompt", peer=self._peer)
        process.makeConnection(Feed(self._shell.received))

    def execCommand(self, process: Any, command: bytes) -> None:
        """See ``ISession``."""
        self._process = process
        process.makeConnection(Feed(lambda data: None))
        line = command.decode("utf-8", "replace")
        # Later, so that the client hears first that its request was understood.
        self._clock.callLater(0, self._run, line)

    def windowChanged(self, windowSize: Any) -> None:
        """See ``ISession``."""
        self._size = lines, columns = _size(windowSize)
        if self._shell is not None:
            self._shell.resized(columns, lines)

    def eofReceived(self) -> None:
        """See ``ISession``; a command takes no input and goes on."""
        if self._shell is not None:
            self._shell.end_of_input()

    def closed(self) -> None:
        """See ``ISession``."""
        self._process = None

    # -- what it does

    @property
    def _transport(self) -> Any:
        return self._user.conn.transport

    @property
    def _peer(self) -> str:
        return str(self._transport.peer)

    @property
    def _clock(self) -> Any:
        return self._transport.factory.clock

    def _run(self, line: str) -> None:
        if self._process is None:
            return
        try:
            answer = verbs.run(line, self._user.operations)
        except Exception:
            _log.failure("a command failed")
            answer = verbs.Answer(verbs.FAILED, err="it failed; the log says why\n")
        _log.info(
            "{peer} ran {line}: status {status}",
            peer=self._peer,
            line=quoted(line),
            status=answer.status,
        )
        if answer.out:
            self._process.outReceived(self._lines(answer.out))
        if answer.err:
            self._process.errReceived(self._lines(answer.err))
        self._end(answer.status)

    def _lines(self, text: str) -> bytes:
        # A client's terminal is raw if it was told of (ssh -t), and wants to hear of both.
        return (text if self._size is None else text.replace("\n", "\r\n")).encode()

    def _write(self, data: bytes) -> None:
        if self._process is not None:  # what a Deferred gives may come after the end
            self._process.outReceived(data)

    def _end(self, status: int) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            reason = ProcessTerminated(exitCode=status) if status else ProcessDone(0)
            process.processEnded(Failure(reason))


def _size(window: Any) -> tuple[int, int]:
    lines, columns = window[:2]
    return (lines, columns) if lines and columns else NO_SIZE
