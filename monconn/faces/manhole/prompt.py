"""The prompt: Python, with the operations at hand. Whoever has it may do all that we may."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from twisted.conch.insults import insults
from twisted.conch.manhole import ColoredManhole, ManholeInterpreter, lastColorizedLine

from monconn.errors import MonconnError
from monconn.faces.manhole.completion import complete
from monconn.faces.manhole.operations import Operations
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry

PROMPTS = (b"\x1b[1;32mmonconn>\x1b[0m ", b"\x1b[32m     ...\x1b[0m ")
LONGEST_LINE_BYTES = 1 << 16
"""From a pipe."""

_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
_HELP = """\
monitors                    each service in figures; monitors["web"] is one monitor
monitor("web")              the same; Tab completes names
connections("web")          the live connections, of all services without a name
show(42)                    all that is known of a connection
close(42, reset=False)      end a connection
block("10.0.0.0/8")         refuse a network at every service, and end its connections
unblock("10.0.0.0/8")       let it in again
blocks()                    what is blocked
help()                      this list
exit()                      leave, as Ctrl-D does
This is Python inside the running service: whatever blocks here blocks the service."""


class Monitors(Mapping[str, Monitor]):
    """A registry's monitors by name, at any time."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    @property
    def _registry(self) -> Registry:
        return self._operations.registry

    def __getitem__(self, name: str) -> Monitor:
        return self._registry.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry.names())

    def __len__(self) -> int:
        return len(self._registry)

    def __repr__(self) -> str:
        return "\n".join(self._operations.stats())


def namespace(
    operations: Operations, columns: Callable[[], int | None], leave: Callable[[], None]
) -> dict[str, Any]:
    """The names that a session begins with.

    :param columns: how wide lines may be; None for as wide as they are.
    :param leave: ends the session.
    """

    def say(lines: list[str]) -> None:
        width = columns()
        for line in lines:
            print(line[:width])

    def connections(service: str | None = None) -> None:
        say(operations.connections(service))

    def show(connection_id: int) -> None:
        say(operations.show(connection_id))

    def close(connection_id: int, *, reset: bool = False) -> None:
        say(operations.close(connection_id, reset=reset))

    def block(network: str) -> None:
        say(operations.block(str(network)))

    def unblock(network: str) -> None:
        say(operations.unblock(str(network)))

    def blocks() -> None:
        say(operations.blocks())

    def help_() -> None:
        print(_HELP)

    return {
        "__name__": "__manhole__",
        "registry": operations.registry,
        "monitors": Monitors(operations),
        "monitor": operations.registry.get,
        "connections": connections,
        "show": show,
        "close": close,
        "block": block,
        "unblock": unblock,
        "blocks": blocks,
        "help": help_,
        "exit": leave,  # Python's own would close our standard input
        "quit": leave,
    }


class Interpreter(ManholeInterpreter):
    """Runs lines; an operation that cannot be done takes one line to say so.

    :param handler: has ``addOutput``.
    :param leave: ends the session.
    """

    def __init__(self, handler: Any, names: dict[str, Any], leave: Callable[[], None]) -> None:
        super().__init__(handler, names)
        self._leave = leave
        self.has_failed = False
        """Whether the last line has raised."""

    def runcode(self, *args: Any, **kwargs: Any) -> None:
        """See ``InteractiveInterpreter``."""
        self.has_failed = False
        try:
            super().runcode(*args, **kwargs)
        except SystemExit:
            self._leave()

    def showtraceback(self) -> None:
        """See ``InteractiveInterpreter``."""
        self.has_failed = True
        problem = sys.exc_info()[1]
        if isinstance(problem, MonconnError):
            self.write(f"{problem}\n")
        else:
            super().showtraceback()

    def showsyntaxerror(self, *args: Any, **kwargs: Any) -> None:
        """See ``InteractiveInterpreter``."""
        self.has_failed = True
        super().showsyntaxerror(*args, **kwargs)

    def displayhook(self, obj: Any) -> None:
        """See ``sys.displayhook``: a monitor is shown by what it counts."""
        if isinstance(obj, Monitor):
            self.locals["_"] = obj
            self.write(obj.describe())
        else:
            super().displayhook(obj)


class Prompt(ColoredManhole):
    """Reads lines from a terminal, and edits and colours them meanwhile."""

    namespace: dict[str, Any]
    ps = PROMPTS
    mode = "insert"

    def __init__(self, console: Terminal, operations: Operations) -> None:
        super().__init__(namespace(operations, lambda: self.width, console.leave))
        self._console = console
        self._operations = operations

    def connectionMade(self) -> None:
        """See ``ITerminalProtocol``."""
        super().connectionMade()
        self.interpreter = Interpreter(self, self.namespace, self._console.leave)

    def initializeScreen(self) -> None:
        """See ``RecvLine``: what stands on the screen may stay."""
        self.terminal.write(self._operations.greeting())
        self.terminal.nextLine()
        self.terminal.write(self.ps[0])

    def terminalSize(self, width: int, height: int) -> None:
        """See ``ITerminalProtocol``."""
        self.width, self.height = width, height

    def setInsertMode(self) -> None:
        """See ``RecvLine``; the terminal need not know, as we draw the line ourselves."""
        self.mode = "insert"

    def setTypeoverMode(self) -> None:
        """See ``RecvLine``."""
        self.mode = "typeover"

    def handle_QUIT(self) -> None:
        """See ``Manhole``: leave."""
        self.terminal.nextLine()
        self._console.leave()

    def handle_TAB(self) -> None:
        """See ``RecvLine``: complete a name, or indent."""
        before = self.currentLineBuffer()[0].decode("ascii", "replace")
        found = complete(before, self.namespace, self._operations.registry.names())
        if not before.strip():
            self._insert("    ")
        elif found.addition:
            self._insert(found.addition)
        elif len(found.candidates) > 1:
            self._offer(found.candidates)
        else:
            self.terminal.write(b"\a")

    def _insert(self, text: str) -> None:
        self._deliverBuffer([bytes([each]) for each in text.encode("ascii", "ignore")])

    def _offer(self, candidates: list[str]) -> None:
        cell = max(map(len, candidates)) + 2
        in_a_row = max(1, self.width // cell)
        self.terminal.nextLine()
        for start in range(0, len(candidates), in_a_row):
            row = candidates[start : start + in_a_row]
            self.terminal.write("".join(f"{each:<{cell}}" for each in row).rstrip())
            self.terminal.nextLine()
        self._draw()

    def _deliverBuffer(self, buf: Any) -> None:
        for each in buf:
            self.characterReceived(bytes([each]) if isinstance(each, int) else each, True)
        self._draw()

    def keystrokeReceived(self, keyID: Any, modifier: Any) -> None:
        """See ``ITerminalProtocol``; what cannot be typed here is answered by the bell."""
        if self._console.has_left:
            return
        if keyID in self.keyHandlers or (
            isinstance(keyID, bytes) and keyID in self._printableChars
        ):
            super().keystrokeReceived(keyID, modifier)
        else:
            self.terminal.write(b"\a")

    def characterReceived(self, ch: bytes, moreCharactersComing: bool) -> None:
        """See ``RecvLine``."""
        index = self.lineBufferIndex
        self.lineBuffer[index : index + (self.mode == "typeover")] = [ch]
        self.lineBufferIndex += 1
        if moreCharactersComing:
            return
        if self._visible() > self.width:
            self.terminal.write(b"\x1b[@" + ch)  # it has wrapped: only the terminal knows where
        else:
            self._draw()

    def _visible(self) -> int:
        return len(_COLOUR.sub(b"", self.ps[self.pn])) + len(self.lineBuffer)

    def _draw(self) -> None:
        self.terminal.write(b"\r")
        self.terminal.eraseToLineEnd()
        self.terminal.write(self.ps[self.pn] + self._coloured())
        after = len(self.lineBuffer) - self.lineBufferIndex
        if after:
            self.terminal.cursorBackward(after)

    def _coloured(self) -> bytes:
        line = b"".join(self.lineBuffer)
        bare = line.rstrip()
        try:
            drawn = bytes(lastColorizedLine(b"\n".join([*self.interpreter.buffer, bare])))
        except Exception:  # of many types: half a line is seldom good Python
            return line
        # The colourer may lose what is no token.
        return drawn + line[len(bare) :] if _COLOUR.sub(b"", drawn) == bare else line


class Terminal(insults.ServerProtocol):
    """A terminal with a prompt.

    :param write: to the client.
    :param end: ends the session with an exit status.
    """

    def __init__(
        self, operations: Operations, write: Callable[[bytes], None], end: Callable[[int], None]
    ) -> None:
        super().__init__(Prompt, self, operations)
        self._write = write
        self._end = end
        self.has_left = False

    def start(self) -> None:
        """Greet."""
        self.makeConnection(_Wire(self._write))
        self.resized(self.termSize.x, self.termSize.y)

    def received(self, data: bytes) -> None:
        """Take what they typed."""
        self.dataReceived(data)

    def resized(self, columns: int, lines: int) -> None:
        """Hear that their window has another size."""
        self.termSize = insults.Vector(columns, lines)
        if self.terminalProtocol is not None:
            self.terminalProtocol.terminalSize(columns, lines)

    def end_of_input(self) -> None:
        """Hear that they will type no more."""
        self.leave()

    def leave(self) -> None:
        """End the session."""
        if not self.has_left:
            self.has_left = True
            self._end(0)


class LineShell:
    """The same without a terminal: lines in, answers out, no prompt.

    It ends with the input; the exit status is 1 if the last line failed.
    """

    def __init__(
        self, operations: Operations, write: Callable[[bytes], None], end: Callable[[int], None]
    ) -> None:
        self._write = write
        self._end = end
        self._rest = b""
        self._last = b"\n"
        self.has_left = False
        names = namespace(operations, lambda: None, self.leave)
        self._interpreter = Interpreter(self, names, self.leave)

    def addOutput(self, text: str, isAsync: bool | None = None) -> None:
        """See ``Manhole``."""
        data = text.encode()
        self._last = data[-1:] or self._last
        self._write(data)

    def received(self, data: bytes) -> None:
        """Take what they typed."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._run(line)
        if len(self._rest) > LONGEST_LINE_BYTES:
            self.addOutput("the line is too long\n")
            self._leave(1)

    def _run(self, line: bytes) -> None:
        if self.has_left:
            return
        self._interpreter.push(line.rstrip(b"\r").decode("utf-8", "replace").encode())
        if self._last != b"\n":
            self.addOutput("\n")

    def end_of_input(self) -> None:
        """Hear that they will type no more."""
        rest, self._rest = self._rest, b""
        for line in (rest, b""):  # the empty one ends a block
            if line or self._interpreter.buffer:
                self._run(line)
        self._leave(int(self._interpreter.has_failed))

    def resized(self, columns: int, lines: int) -> None:
        """Hear of a window, which is not there."""

    def leave(self) -> None:
        """End the session."""
        self._leave(0)

    def _leave(self, status: int) -> None:
        if not self.has_left:
            self.has_left = True
            self._end(status)


class _Wire:
    """What a terminal writes to."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write

    def loseConnection(self) -> None:
        """See ``ITransport``: leaving is done otherwise."""
