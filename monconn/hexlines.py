"""Bytes as lines of offset, hex and ASCII."""

from __future__ import annotations

BYTES_A_LINE = 16
ARROWS = {"up": "→", "down": "←"}
"""The sign of each direction, in the headline of a dump."""


def dump(data: bytes, offset: int = 0) -> str:
    """Bytes as ``hexdump -C`` lays them out; a line has 78 characters up to an offset of 4 GiB.

    :param offset: of the first byte.
    """
    return "".join(
        f"{line(offset + at, data[at : at + BYTES_A_LINE])}\n"
        for at in range(0, len(data), BYTES_A_LINE)
    )


def line(offset: int, piece: bytes) -> str:
    """One of these lines, without its end.

    :param piece: :data:`BYTES_A_LINE` at most.
    """
    left, right = piece[:8].hex(" "), piece[8:].hex(" ")
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece)
    return f"{offset:08x}  {left:<23}  {right:<23}  |{text}|"
