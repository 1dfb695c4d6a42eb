"""The prompt: Python inside the running program, with the commands as functions."""

from __future__ import annotations

import re
import sys
from cmd import Cmd
from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from types import SimpleNamespace
from typing import Any, Protocol

from twisted.conch.insults import insults
from twisted.conch.manhole import ColoredManhole, ManholeInterpreter, lastColorizedLine
from twisted.internet.defer import Deferred, DeferredList, DeferredQueue
from twisted.python.failure import Failure

from monconn.errors import MonconnError
from monconn.faces.manhole.commands import Commands
from monconn.faces.manhole.completion import complete
from monconn.log import Logger
from monconn.model.actions import Actor, running_code_of
from monconn.monitor.monitor import Monitor
from monconn.ops.operations import Operations
from monconn.turns import in_turns

PROMPTS = (b"\x1b[1;32mmonconn>\x1b[0m ", b"\x1b[32m     ...\x1b[0m ")
MAX_LINE_BYTES = 1 << 16
"""The longest line of a session without a terminal."""
MAX_TYPED_CHARACTERS = 4096
"""The longest line in a terminal."""
MAX_COLOURED_CHARACTERS = 1000
KEYS_PER_STEP = 4
"""Of input in a terminal: to redraw the line after a key takes up to half a millisecond."""

_log = Logger(namespace="monconn.manhole")
_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
_HELP = """\
monitors                      each service in figures; monitors["web"] is one monitor
monitor("web")                the same; Tab completes names
connections("web idle:5m..")  the live connections that a filter finds, or all; takes
                              sort="idle", limit=10 and closed=True for those that ended last
show(42)                      all that is known of a connection
recording(42)                 the first and last bytes of a connection
explain("client_reset")       what an end means; explain(42): that of a connection
device("192.0.2.7")           one device: its rhythm, its alarms, and what happened to it
close(42, reset=False)        end a connection, or those that a filter finds
block("10.0.0.0/8")           refuse a network at every service, and end its connections;
                              for_="1h", service="web", reason="...", keep_open=True
unblock("10.0.0.0/8")         let it in again
blocks()                      what is blocked
operations                    everything that can be asked or done; actions take an actor
help()                        this list
exit()                        leave, as Ctrl-D does
close, block and unblock take dry_run=True, to say only what they would do.
This is Python inside the running service: whatever blocks here blocks the service."""


class Monitors(Mapping[str, Monitor]):
    """The monitors by name; always those of the moment."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def __getitem__(self, name: str) -> Monitor:
        return self._operations.registry.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._operations.registry.names())

    def __len__(self) -> int:
        return len(self._operations.registry)

    def __repr__(self) -> str:
        return "\n".join(monitor.describe() for monitor in self._operations.monitors())


class Shell(Protocol):
    """The session that an interpreter runs in."""

    @property
    def width(self) -> int | None:
        """Characters in a line of the terminal; None without a terminal."""

    def addOutput(self, data: str, isAsync: bool | None = None) -> None:
        """Write text."""

    def leave(self) -> None:
        """End the session."""


class Output(Protocol):
    """Where a session writes to."""

    def write(self, data: bytes) -> None:
        """Write to the client."""

    def drained(self) -> Deferred[None]:
        """Fires when everything is written."""

    def ask_for_input(self) -> None:
        """What came is done: the client may send more."""


class Interpreter(ManholeInterpreter):
    """Runs lines of Python, with the commands of a login as functions.

    :param actor: the user that actions are attributed to.
    """

    def __init__(self, shell: Shell, operations: Operations, actor: Actor) -> None:
        self._shell = shell
        self._actor = actor
        self._answers: list[Deferred[None]] = []
        self.has_failed = False
        """Whether the last line raised an exception."""
        commands = Commands(operations, actor, self.write, lambda: shell.width)
        super().__init__(
            shell,
            {
                "__name__": "__manhole__",
                "registry": operations.registry,
                "operations": operations,
                "actor": actor,
                "monitors": Monitors(operations),
                "monitor": operations.registry.get,
                "connections": self._awaited(commands.connections),
                "show": self._awaited(commands.show),
                "recording": commands.recording,
                "explain": self._awaited(commands.explain),
                "device": self._awaited(commands.device),
                "close": self._awaited(commands.close),
                "block": commands.block,
                "unblock": commands.unblock,
                "blocks": self._awaited(commands.blocks),
                "reload": self._awaited(commands.reload),
                "pause": commands.pause,
                "resume": commands.resume,
                "drain": commands.drain,
                "help": lambda: print(_HELP),
                "exit": shell.leave,  # Python's own would close this process's standard input
                "quit": shell.leave,
            },
        )

    def _awaited(self, command: Callable[..., Deferred[None]]) -> Callable[..., None]:
        """The command as a function without a result: the next line waits for its answer."""

        def ask(*args: Any, **kwargs: Any) -> None:
            self._answers.append(command(*args, **kwargs).addErrback(self._write_failure))

        return ask

    def _write_failure(self, failure: Failure) -> None:
        self.has_failed = True
        is_mistake = failure.check(MonconnError)
        self.write(f"{failure.value}\n" if is_mistake else failure.getTraceback())

    def run_line(self, line: bytes) -> Deferred[bool]:
        """Run a line, or store it as part of a statement that goes on.

        :returns: whether it goes on; fires when every answer that the line asked for is written.
        """
        self._answers = []
        goes_on = bool(self.push(line))
        return DeferredList(self._answers).addCallback(lambda _: goes_on)

    def runcode(self, *args: Any, **kwargs: Any) -> None:
        """Run a code object; SystemExit, which the base class raises, ends the session."""
        self.has_failed = False
        try:
            with running_code_of(self._actor):  # monitor.close(42), too, is the user's doing
                super().runcode(*args, **kwargs)
        except SystemExit:
            self._shell.leave()

    def showtraceback(self) -> None:
        """Write the current exception; without a traceback if the user can correct it."""
        self.has_failed = True
        problem = sys.exc_info()[1]
        if isinstance(problem, MonconnError):
            self.write(f"{problem}\n")
        else:
            super().showtraceback()

    def showsyntaxerror(self, *args: Any, **kwargs: Any) -> None:
        """Implements ``InteractiveInterpreter.showsyntaxerror``."""
        self.has_failed = True
        super().showsyntaxerror(*args, **kwargs)

    def displayhook(self, obj: Any) -> None:
        """Display a line's value, as ``sys.displayhook``; a monitor is displayed as its totals."""
        if isinstance(obj, Monitor):
            self.locals["_"] = obj
            self.write(obj.describe())
        else:
            super().displayhook(obj)


class Prompt(ColoredManhole):
    """Edits and colours lines in a terminal, and runs them.

    What is overridden: Twisted's own clears the screen at the beginning, after each change of the
    window's size and at the end; leaves the user's terminal in another mode (IRM); redraws lines
    wrongly that its tokenizer rejects or that are wider than the screen; and logs a warning for
    each key that it does not know.
    """

    ps = PROMPTS
    mode = "insert"
    interpreter: Interpreter

    terminal: Terminal

    def __init__(self, operations: Operations, actor: Actor, output: Output) -> None:
        super().__init__()
        self._operations = operations
        self._actor = actor
        self._output = output
        self.is_running = False
        self._typed_ahead: list[tuple[Any, Any]] = []

    def connectionMade(self) -> None:
        """Implements ``ITerminalProtocol.connectionMade``."""
        super().connectionMade()
        self.interpreter = Interpreter(self, self._operations, self._actor)

    def initializeScreen(self) -> None:
        """Write a summary of the services and the first prompt; do not clear the screen."""
        registry = self._operations.registry
        services = _counted(len(registry), "service")
        live = _counted(sum(map(len, registry)), "connection")
        self.terminal.write(
            f"monconn: {services}, {live}. help() says what can be done, Ctrl-D leaves.\n"
        )
        self.terminal.write(self.ps[0])

    def terminalSize(self, width: int, height: int) -> None:
        """Implements ``ITerminalProtocol.terminalSize``."""
        self.width, self.height = width, height

    def leave(self) -> None:
        """End the session."""
        self.terminal.loseConnection()

    def handle_QUIT(self) -> None:
        """End the session (Ctrl-\\ in Twisted's key map)."""
        self.terminal.nextLine()
        self.leave()

    def handle_INSERT(self) -> None:
        """Switch between insert and typeover; unlike the stock method, not the terminal's mode."""
        self.mode = "typeover" if self.mode == "insert" else "insert"

    def handle_TAB(self) -> None:
        """Complete the word before the cursor, or indent."""
        line = self.currentLineBuffer()[0].decode("ascii")
        found = complete(line, self.interpreter.locals, self._operations.registry.names())
        if not line.strip():
            self._deliverBuffer(b"    ")
        elif found.addition:
            self._deliverBuffer(found.addition.encode("ascii", "ignore"))
        elif len(found.candidates) > 1:
            in_columns = StringIO()
            Cmd(stdout=in_columns).columnize(found.candidates, self.width)
            self.terminal.nextLine()
            self.terminal.write(in_columns.getvalue())
            self.drawInputLine()
        else:
            self.terminal.write(b"\a")

    def lineReceived(self, line: bytes) -> None:
        """Run a line; the next prompt, and input typed meanwhile, are handled after its answer."""
        self.is_running = True
        self.interpreter.run_line(line).addCallback(self._answered)

    def _answered(self, goes_on: bool) -> None:
        # The next line waits until the client has read this one's answer.
        self._output.drained().addCallback(lambda _: self._line_done(goes_on))

    def _line_done(self, goes_on: bool) -> None:
        self.is_running = False
        self.pn = int(goes_on)
        if self._needsNewline():
            self.terminal.nextLine()
        self.terminal.write(self.ps[self.pn])
        typed, self._typed_ahead = self._typed_ahead, []
        for key, modifier in typed:
            self.keystrokeReceived(key, modifier)
        self.terminal.continue_input()

    def keystrokeReceived(self, keyID: Any, modifier: Any) -> None:
        """Handle a key; one without a binding rings the bell."""
        if self.terminal.has_left:
            return
        if self.is_running:
            self._typed_ahead.append((keyID, modifier))
        elif keyID in self.keyHandlers or (
            isinstance(keyID, bytes) and keyID in self._printableChars
        ):
            super().keystrokeReceived(keyID, modifier)
        else:
            self.terminal.write(b"\a")

    def characterReceived(self, ch: bytes, moreCharactersComing: bool) -> None:
        """Insert a character, and redraw once no more follow at once."""
        if len(self.lineBuffer) >= MAX_TYPED_CHARACTERS:
            if not moreCharactersComing:
                self.terminal.write(b"\a")
            return
        index = self.lineBufferIndex
        self.lineBuffer[index : index + (self.mode == "typeover")] = [ch]
        self.lineBufferIndex += 1
        if moreCharactersComing:
            return
        prompt_width = len(_COLOUR.sub(b"", self.ps[self.pn]))
        if prompt_width + len(self.lineBuffer) > self.width:
            # "\r" would go to the start of the last screen line only: insert this one character.
            self.terminal.write(b"\x1b[@" + ch)
        else:
            self.drawInputLine()

    def _deliverBuffer(self, buf: bytes | list[bytes]) -> None:
        # The stock method takes bytes only, and addOutput gives it the list that lineBuffer is.
        for each in buf:
            self.characterReceived(bytes([each]) if isinstance(each, int) else each, True)
        self.drawInputLine()

    def drawInputLine(self) -> None:
        """Redraw prompt and line, with the cursor in its place."""
        self.terminal.write(b"\r")
        self.terminal.eraseToLineEnd()
        self.terminal.write(self.ps[self.pn] + self._coloured_line())
        after_cursor = len(self.lineBuffer) - self.lineBufferIndex
        if after_cursor:
            self.terminal.cursorBackward(after_cursor)

    def _coloured_line(self) -> bytes:
        line = b"".join(self.lineBuffer)
        bare = line.rstrip()
        # All lines of a statement are read anew for each key.
        if len(line) + sum(map(len, self.interpreter.buffer)) > MAX_COLOURED_CHARACTERS:
            return line
        try:
            coloured = bytes(lastColorizedLine(b"\n".join([*self.interpreter.buffer, bare])))
        except Exception:  # TokenError, SyntaxError, IndexError: half a line is seldom good Python
            return line
        # Characters that belong to no token are lost: then without colours.
        return coloured + line[len(bare) :] if _COLOUR.sub(b"", coloured) == bare else line


class Terminal(insults.ServerProtocol):
    """A terminal with a prompt.

    :param output: to the client.
    :param end: ends the session with an exit status.
    """

    terminalProtocol: Prompt

    def __init__(
        self, operations: Operations, actor: Actor, output: Output, end: Callable[[int], None]
    ) -> None:
        super().__init__(Prompt, operations, actor, output)
        self._clock = operations.clock
        self._output = output
        self._end = end
        self._input = bytearray()
        self._is_reading = False
        self._has_all_input = False
        self.has_left = False
        self.makeConnection(SimpleNamespace(write=output.write))

    @property
    def is_busy(self) -> bool:
        """Whether input waits until what came before it is done."""
        return bool(self._input) or self.terminalProtocol.is_running

    def dataReceived(self, data: bytes) -> None:
        """Handle input; what is pasted, in as many turns of the reactor as it takes."""
        self._input += data
        self.continue_input()

    def continue_input(self) -> None:
        """Handle the input that waits, up to the next line that runs for longer."""
        if not self._is_reading:
            self._is_reading = True
            in_turns(self._clock, self._read_input()).addBoth(self._has_read)

    def _read_input(self) -> Iterator[None]:
        while self._input and not self.has_left and not self.terminalProtocol.is_running:
            keys = bytes(self._input[:KEYS_PER_STEP])
            del self._input[:KEYS_PER_STEP]
            super().dataReceived(keys)
            yield

    def _has_read(self, result: object) -> None:
        self._is_reading = False
        if isinstance(result, Failure):
            _log.failure("a session failed", result)
            self.loseConnection()
        elif self._has_all_input:
            self.loseConnection()
        elif not self.is_busy:
            self._output.ask_for_input()
        elif not self.terminalProtocol.is_running and not self.has_left:
            self.continue_input()

    def resized(self, columns: int, lines: int) -> None:
        """Store the size of the client's window."""
        self.terminalProtocol.terminalSize(columns, lines)

    def end_of_input(self) -> None:
        """The client has sent its end of input: handle what it has pasted, then end."""
        self._has_all_input = True
        if not self._is_reading:
            self.loseConnection()

    def loseConnection(self) -> None:
        """End the session; the stock method clears the client's screen first."""
        if not self.has_left:
            self.has_left = True
            self._end(0)


class LineShell:
    """The prompt without a terminal: lines in, answers out, neither prompt nor colours.

    It ends with the input; the exit status is 1 if the last line failed.

    :param output: to the client.
    :param end: ends the session with an exit status.
    """

    width = None

    def __init__(
        self, operations: Operations, actor: Actor, output: Output, end: Callable[[int], None]
    ) -> None:
        self._output = output
        self._end = end
        self.is_busy = False
        self._unfinished_line = b""
        self._last_byte = b"\n"
        self._has_left = False
        self._interpreter = Interpreter(self, operations, actor)
        self._lines: DeferredQueue[bytes | None] = DeferredQueue()
        Deferred.fromCoroutine(self._run_lines()).addErrback(self._broken)

    async def _run_lines(self) -> None:
        while (line := await self._lines.get()) is not None and not self._has_left:
            self.is_busy = True
            if line or self._interpreter.buffer:  # an empty line does nothing but end a block
                await self._interpreter.run_line(line.decode("utf-8", "replace").encode())
            if self._last_byte != b"\n":
                self.addOutput("\n")
            await self._output.drained()
            self.is_busy = bool(self._lines.pending)
            if not self.is_busy:
                self._output.ask_for_input()
        self._leave(int(self._interpreter.has_failed))

    def _broken(self, failure: Failure) -> None:
        _log.failure("a session failed", failure)
        self._leave(1)

    def addOutput(self, data: str, isAsync: bool | None = None) -> None:
        """Write text to the client."""
        encoded = data.encode()
        self._last_byte = encoded[-1:] or self._last_byte
        self._output.write(encoded)

    def dataReceived(self, data: bytes) -> None:
        """Run the lines that are complete."""
        if self._has_left:
            return
        *lines, self._unfinished_line = (self._unfinished_line + data).split(b"\n")
        for line in lines:
            self._lines.put(line.removesuffix(b"\r"))
        if len(self._unfinished_line) > MAX_LINE_BYTES:
            self.addOutput("the line is too long\n")
            self._leave(1)

    def end_of_input(self) -> None:
        """The client has sent its end of input: run what it has sent, then end."""
        for line in (self._unfinished_line, b"", None):  # the empty one ends a block
            self._lines.put(line)

    def resized(self, columns: int, lines: int) -> None:
        """A window does not matter here."""

    def leave(self) -> None:
        """End the session."""
        self._leave(0)

    def _leave(self, status: int) -> None:
        if not self._has_left:
            self._has_left = True
            self._end(status)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
