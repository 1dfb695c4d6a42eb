"""Where control sockets are: server and clients look in the same folder."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from monconn import unixsocket
from monconn.errors import ControlError, os_error_text

FIRST_NAME = "control.sock"


def control_folder() -> Path:
    """The folder of this user's control sockets, whether or not it exists."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "monconn"
    return Path(tempfile.gettempdir()) / f"monconn-{os.getuid()}"


def make_folder(folder: Path) -> None:
    """Make a folder that only this user can enter.

    :raises ControlError: it belongs to another user, is open to others, or cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ControlError(f"{folder}: {os_error_text(error)}") from None
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Make sure that no other user can have put anything into a folder.

    :raises ControlError: it belongs to another user, or is open to others.
    """
    try:
        found = os.lstat(folder)
    except OSError as error:
        raise ControlError(f"{folder}: {os_error_text(error)}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ControlError(f"{folder} is not a folder of this user's")
    if found.st_mode & 0o077:
        raise ControlError(f"{folder} is open to other users: chmod 700 {folder}")


def remove_stale(folder: Path) -> None:
    """Remove the sockets in a folder that have no listener any more."""
    for path in folder.glob("control*.sock"):
        try:
            unixsocket.remove_stale(path)
        except FileNotFoundError:
            pass  # another program did


def live_sockets(folder: Path) -> list[Path]:
    """The sockets in a folder at which someone answers."""
    try:
        paths = sorted(folder.glob("control*.sock"), key=lambda path: (len(path.name), path.name))
    except OSError:
        return []
    return [path for path in paths if unixsocket.is_listening(path)]
