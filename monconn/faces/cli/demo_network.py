"""A network that loses packets, for ``monconn demo``: the kernel drops what comes in."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it
# Of classic BPF (linux/filter.h): the operation, two jumps, and a value. What a filter returns is
# how many bytes of a packet remain; a packet of none is dropped before TCP sees it.
_Instruction = tuple[int, int, int, int]
Program = tuple[_Instruction, ...]
_RETURN, _LOAD_WORD, _JUMP_IF_GREATER = 0x06, 0x20, 0x25
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_DROP: _Instruction = (_RETURN, 0, 0, 0)
_KEEP: _Instruction = (_RETURN, 0, 0, 0xFFFFFFFF)
DROP_ALL: Program = (_DROP,)
DROP_A_FIFTH: Program = (
    (_LOAD_WORD, 0, 0, _RANDOM),
    (_JUMP_IF_GREATER, 0, 1, 0xFFFFFFFF // 5 * 4),
    _DROP,
    _KEEP,
)


def drop_packets(sock: socket.socket, program: Program) -> None:
    """Have the kernel drop packets to a TCP socket, as a network would.

    :raises OSError: this kernel, or this user, must not: newer ones ask for CAP_NET_ADMIN.
    """
    code = b"".join(struct.pack("HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(code)
    filter_ = struct.pack("HL", len(program), ctypes.addressof(buffer))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)


def may_drop_packets() -> bool:
    """Whether this kernel lets this user have it do so."""
    if not sys.platform.startswith("linux"):
        return False
    with socket.socket() as sock:
        try:
            drop_packets(sock, DROP_A_FIFTH)
        except OSError:
            return False
    return True
