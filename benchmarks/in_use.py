"""monconn that says, at each SIGUSR2, how much of its memory is in use: ``in_use.py PAIR``.

Resident memory also has what is free, and what the interpreter holds for its next objects: its
allocator returns memory by the megabyte (an arena), and only one of which nothing is in use.
"""

import ctypes
import signal
import sys

from monconn.config.config import from_pairs
from monconn.faces.cli.run import run
from monconn.run.application import Application


class MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33 and later; see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = MallocInfo


def report(number: int, frame: object) -> None:
    """Write both allocators' figures to standard error."""
    sys._debugmallocstats()  # has a line "# bytes in allocated blocks"
    info = mallinfo2()
    print(f"# bytes in use by malloc = {info.uordblks + info.hblkhd}", file=sys.stderr, flush=True)


def handle_signal(app: Application, reactor: object, log: object) -> None:
    signal.signal(signal.SIGUSR2, report)


sys.exit(run(from_pairs(sys.argv[1:]), prepare=handle_signal))
