"""The first lines of the ``monconn`` command: what a signal does while Python imports the rest.

Beside the package and not in it, as whatever is in it imports the package first. By itself Python
would answer Ctrl-C with the traceback of an import, or lose it in a callback of the import system.
So as little as possible is imported before the handlers are set.
"""

import os
import signal


def main() -> None:
    """Run the ``monconn`` command."""
    before = {number: signal.getsignal(number) for number in (*_ENDING, *_OTHERS)}
    for number in _ENDING:
        signal.signal(number, _end)
    for number in _OTHERS:
        if before[number] is signal.SIG_DFL:
            signal.signal(number, _ignore)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    from monconn.faces.cli.main import main as command

    command(obj=restore)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
_OTHERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def _end(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # before anything that can hang
    try:
        os.write(2, f"monconn: ended by {signal.Signals(number).name} during its start\n".encode())
    except OSError:
        pass
    os.kill(os.getpid(), number)  # so that the shell knows
    os._exit(128 + number)  # the first process of a container survives that


def _ignore(number: int, frame: object) -> None:
    """Do nothing: what these mean is known once the configuration is."""
