"""One SSH session: a command, a prompt in a terminal, or lines from a pipe."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from twisted.conch.interfaces import ISession
from twisted.conch.ssh.session import SSHSessionProcessProtocol
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall
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
PIECE_BYTES = 1 << 15
"""Of output, written in one turn of the reactor: to encrypt it takes half a millisecond."""

_log = Logger(namespace="monconn.manhole")


class Shell(Protocol):
    """Receives a client's input."""

    def dataReceived(self, data: bytes) -> None:
        """Handle input."""

    def end_of_input(self) -> None:
        """The client has sent its end of input."""

    def resized(self, columns: int, lines: int) -> None:
        """The client's window has another size."""

    @property
    def is_busy(self) -> bool:
        """Whether input waits until what came before it is done."""


class Output:
    """What a session writes: in pieces, and only as fast as the client reads.

    Conch would encrypt and store all of it at once. Whoever writes a lot waits for :meth:`drained`
    before the next.

    :param process: Conch's side of the session.
    :param transport: the connection.
    """

    def __init__(self, process: SSHSessionProcessProtocol, transport: Transport) -> None:
        self._process: SSHSessionProcessProtocol | None = process
        self._transport = transport
        self._waiting = bytearray()
        self._timer: IDelayedCall | None = None
        self._drained: list[Deferred[None]] = []

    def write(self, data: bytes) -> None:
        """Write, or store until there is room; nothing after :meth:`close`."""
        if self._process is not None:
            self._waiting += data
            if self._timer is None:
                self._write_piece()

    def drained(self) -> Deferred[None]:
        """Fires when everything is written, or cannot be written any more.

        Not in the same turn of the reactor: whoever waits after each line runs one in a turn.
        """
        if self._process is None:
            return succeed(None)
        waits: Deferred[None] = Deferred()
        self._drained.append(waits)
        self.continue_soon()
        return waits

    def ask_for_input(self) -> None:
        """Grant the client what its window for input lacks, see ``Connection.adjustWindow``."""
        if self._process is not None:
            channel = self._process.session
            missing = channel.localWindowSize - channel.localWindowLeft
            if missing > channel.localWindowSize // 2:
                channel.conn.adjustWindow(channel, missing)

    def continue_soon(self) -> None:
        """There may be room again."""
        if self._timer is None:
            self._timer = self._transport.factory.clock.callLater(0, self._next_turn)

    def close(self) -> None:
        """Write nothing more: the client has gone."""
        self._process = None
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fire()

    def _next_turn(self) -> None:
        self._timer = None
        self._write_piece()

    def _write_piece(self) -> None:
        if self._process is None or not self._has_room():
            return
        piece = bytes(self._waiting[:PIECE_BYTES])
        del self._waiting[:PIECE_BYTES]
        if piece:
            self._process.outReceived(piece)
        if self._waiting:
            self.continue_soon()
        else:
            self._fire()

    def _has_room(self) -> bool:
        channel = self._process.session if self._process is not None else None
        return (
            channel is not None
            and not channel.buf  # what is beyond the client's window
            and not self._transport.is_congested
        )

    def _fire(self) -> None:
        waiting, self._drained = self._drained, []
        for each in waiting:
            each.callback(None)


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
        self.output: Output | None = None

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
        self.output = output = Output(process, self._transport)
        arguments = (self._user.operations, self._transport.actor, output, self._end)
        if self._size is None:
            self._shell = LineShell(*arguments)
        else:
            lines, columns = self._size
            self._shell = Terminal(*arguments)
            self._shell.resized(columns, lines)
        _log.info("{peer} has a prompt", peer=self._transport.peer)
        process.makeConnection(_input(self._shell.dataReceived))
        self._transport.factory.clock.callLater(0, output.ask_for_input)

    def execCommand(self, process: Any, command: bytes) -> None:
        """Implements ``ISession.execCommand``."""
        self._process = process
        self.output = Output(process, self._transport)
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
        if self.output is not None:
            self.output.close()

    @property
    def is_busy(self) -> bool:
        """Whether input waits until what came before it is done."""
        return self._shell is not None and self._shell.is_busy

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
        output = self.output
        if output is None:
            return
        output.write(self._encode(answer.out))
        await output.drained()
        if self._process is not None:  # the client may have gone meanwhile
            self._process.errReceived(self._encode(answer.err))
            self._end(answer.status)

    def _encode(self, text: str) -> bytes:
        # With ssh -t, the client's terminal is in raw mode and does not return at a newline.
        return (text if self._size is None else text.replace("\n", "\r\n")).encode()

    def _end(self, status: int) -> None:
        """End when everything is written."""
        if self.output is not None:
            self.output.drained().addCallback(lambda _: self._end_now(status))

    def _end_now(self, status: int) -> None:
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
