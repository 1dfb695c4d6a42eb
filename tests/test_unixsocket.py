"""Whether a path has a listener, and which files may be removed."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from monconn.unixsocket import ListeningSocket, identify, is_listening, listen, remove_stale


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sock"


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(0)
        yield sock


def test_a_listener_is_left_alone(path: Path, listener: socket.socket) -> None:
    assert is_listening(path)
    remove_stale(path)
    assert path.exists()


def test_a_listener_does_not_notice_that_it_is_looked_for(
    path: Path, listener: socket.socket
) -> None:
    listener.setblocking(False)
    remove_stale(path)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_socket_that_does_not_listen_yet_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        remove_stale(path)
        assert path.exists()


def test_a_listener_whose_queue_is_full_is_left_alone(path: Path, listener: socket.socket) -> None:
    waiting = []
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        waiting.append(client)
        if client.connect_ex(str(path)):
            break
    assert is_listening(path)
    remove_stale(path)
    assert path.exists()
    for client in waiting:
        client.close()


def test_what_a_program_left_behind_is_removed(path: Path, listener: socket.socket) -> None:
    listener.close()
    assert not is_listening(path)
    remove_stale(path)
    assert not path.exists()
    remove_stale(path)  # harmless


def test_other_files_are_left_alone(path: Path) -> None:
    path.write_text("precious")
    assert not is_listening(path)
    remove_stale(path)
    assert path.read_text() == "precious"


def test_a_file_is_recognized_by_its_inode(path: Path, tmp_path: Path) -> None:
    assert identify(str(path)) is None
    path.touch()
    first = identify(str(path))
    assert first == identify(str(path))
    os.rename(path, tmp_path / "away")
    path.touch()
    assert identify(str(path)) not in (None, first)


def test_a_link_to_a_socket_is_left_alone(path: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "elsewhere"))
    path.symlink_to("elsewhere")
    remove_stale(path)
    assert path.is_symlink()
    with pytest.raises(OSError, match="there is a symbolic link, which is left alone"):
        listen(str(path), None, 1)


def listen_at_once(path: Path, count: int) -> tuple[list[ListeningSocket], list[OSError]]:
    """Have threads listen at a path at once; their sockets, and their errors."""
    made: list[ListeningSocket] = []
    failed: list[OSError] = []
    together = threading.Barrier(count)

    def start() -> None:
        together.wait()
        try:
            made.append(listen(str(path), 0o600, 8))
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made, failed


def test_of_many_who_find_a_stale_socket_one_listens(path: Path) -> None:
    """Without the lock some removed the new socket of another, which was unreachable then."""
    for _ in range(20):
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        made, failed = listen_at_once(path, 8)
        assert len(made) == 1
        assert made[0].file.is_in_place()
        assert is_listening(path)
        assert {error.errno for error in failed} == {errno.EADDRINUSE}
        made[0].close()


def test_a_folder_that_stays_locked_is_a_clear_error(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monconn.unixsocket._LOCK_PAUSES_SECONDS", (0.0,) * 3)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(OSError, match="another program has locked the folder") as caught:
        listen(str(path), None, 1)
    assert caught.value.errno == errno.EBUSY
    assert not path.exists()
    os.close(folder)


def test_no_other_file_gets_the_mode(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who may write to the folder has replaced the socket by a link meanwhile."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    bind = socket.socket.bind

    def replaced(sock: socket.socket, address: str) -> None:
        bind(sock, address)
        path.unlink()
        path.symlink_to(secret)

    monkeypatch.setattr(ListeningSocket, "bind", replaced)
    with pytest.raises(OSError, match="replaced") as caught:
        listen(str(path), 0o666, 1)
    assert caught.value.errno == errno.EBUSY
    assert secret.stat().st_mode & 0o777 == 0o600


def test_the_file_has_the_mode_that_is_asked_for(path: Path) -> None:
    with listen(str(path), 0o660, 1) as sock:
        assert path.stat().st_mode & 0o777 == sock.file.mode == 0o660
        sock.file.remove()


def test_only_the_file_that_was_made_is_removed(path: Path, tmp_path: Path) -> None:
    with listen(str(path), None, 1) as sock:
        os.rename(path, tmp_path / "away")
        path.touch()
        assert not sock.file.is_in_place()
        sock.file.remove()
        assert path.exists()
        os.replace(tmp_path / "away", path)
        assert sock.file.is_in_place()
        sock.file.remove()
        assert not path.exists()
