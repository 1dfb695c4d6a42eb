"""How verbs show the bytes of connections, and where they write them."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from monconn.errors import FileError, os_error_text
from monconn.faces.cli import completion
from monconn.faces.cli.output import has_colours, print_note, print_text, terminal_width
from monconn.model.flow import FlowEncoder
from monconn.ops.flow_text import HexEncoder, JsonEncoder, PlainTextEncoder

pcap_option = click.option(
    "--pcap",
    metavar="FILE|-",
    shell_complete=completion.files,
    help="Write a pcapng file, for Wireshark; - is the standard output.",
)


def check_no_terminal() -> None:
    """Let nobody's terminal obey the bytes of a peer.

    :raises click.UsageError: the standard output is a terminal.
    """
    if terminal_width() is not None:
        raise click.UsageError(
            "--raw and --pcap - write bytes, which are not for a terminal: redirect the output"
        )


def encoder_of(*, as_text: bool, as_json: bool) -> FlowEncoder:
    """What shows bytes on the standard output: a hex dump, if nothing else is asked for."""
    if as_json:
        return JsonEncoder()
    encoder = PlainTextEncoder if as_text else HexEncoder
    return encoder(coloured=has_colours())


def write_text(data: bytes) -> None:
    """Print what such an encoder has made."""
    print_text(data.decode("utf-8", "backslashreplace"))


def write_bytes(data: bytes) -> None:
    """Write to the standard output, at once.

    :raises FileError: it is closed.
    """
    if sys.stdout is None:
        raise FileError("the standard output is closed")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@contextmanager
def opened(path: str) -> Iterator[Callable[[bytes], None]]:
    """A file that is written anew, and that nobody else may read; or the standard output.

    Says at the end, also after Ctrl-C, that the file is written.

    :raises FileError: it cannot be written.
    """
    if path == "-":
        yield write_bytes
        return
    try:
        # A pipe with a name is opened once somebody reads it.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot write {path}: {os_error_text(error)}") from None
    with open(fd, "wb", buffering=0) as file:

        def write(data: bytes) -> None:
            view = memoryview(data)
            try:
                while view:
                    view = view[file.write(view) or 0 :]
            except BrokenPipeError:
                raise
            except OSError as error:
                raise FileError(f"cannot write {path}: {os_error_text(error)}") from None

        if stat.S_ISREG(os.fstat(fd).st_mode):
            try:
                os.fchmod(fd, 0o600)  # it may have been there, open to others
            except OSError as error:
                raise FileError(f"cannot write {path}: {os_error_text(error)}") from None
        try:
            yield write
        except KeyboardInterrupt:
            print_note(f"written: {path}")
            raise
    print_note(f"written: {path}")
