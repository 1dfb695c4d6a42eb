"""The public keys that are accepted, and the host key; in doubt, a file is refused."""

from __future__ import annotations

import os
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.conch.ssh.keys import FingerprintFormats, Key

from monconn.errors import FileError, ListenError, os_error_text, quoted
from monconn.files import (
    check_folders,
    check_trusted,
    making_fault,
    read_trusted_file,
    reading_errors,
    state_folder,
)
from monconn.log import Logger

MAX_FILE_BYTES = 1 << 20
MIN_RSA_BITS = 2048
MAX_WARNINGS = 20
"""Lines of a file that are logged one by one."""
CHANGE_SECONDS = 0.1
"""How long after a change another one may leave a file's times as they are."""
_WRITABLE = 0o022
TYPES = frozenset(
    {
        b"ssh-ed25519",
        b"ecdsa-sha2-nistp256",
        b"ecdsa-sha2-nistp384",
        b"ecdsa-sha2-nistp521",
        b"ssh-rsa",
    }
)
"""The types of public keys that are accepted."""

_log = Logger(namespace="monconn.manhole")


def fingerprint(key: Key) -> str:
    """A key's fingerprint, in the notation of ``ssh-keygen -l``."""
    return f"SHA256:{key.fingerprint(FingerprintFormats.SHA256_BASE64).rstrip('=')}"


class AuthorizedKeys:
    """The public keys in a file in OpenSSH's format ``authorized_keys``.

    Strangers can ask for keys as often as they like, so the file is read once for each change of
    it. Whether others could have written it is checked each time.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.unused: list[str] = []
        """The lines of the file that are not used, and why: in sentences, the first of many."""
        self._read: tuple[int, ...] | None = None
        self._digest = b""
        self._blobs: frozenset[bytes] = frozenset()

    def blobs(self) -> frozenset[bytes]:
        """The keys in the wire format of RFC 4253, 6.6; the lines that are not used are logged.

        :raises FileError: others could have written the file, or it cannot be read.
        """
        # A user who can write to a folder on either path, to a link's or to its target's, could
        # put another file there.
        with reading_errors(self._path):
            paths = Path(os.path.abspath(self._path)), Path(os.path.realpath(self._path))
            folders = dict.fromkeys([*paths[0].parents, *paths[1].parents])
            check_folders(self._path, folders)
            found = os.stat(self._path)
            check_trusted(self._path, found, _WRITABLE)
            if _identity(found) == self._read and not _may_change_unseen(found):
                return self._blobs
            data, found = read_trusted_file(
                self._path, MAX_FILE_BYTES, folders, forbidden=_WRITABLE
            )
        digest = sha256(data).digest()
        if digest != self._digest:
            self._blobs = self._parse(data)
            for line in self.unused:
                _log.warn("{line}", line=line)
        self._read, self._digest = _identity(found), digest
        return self._blobs

    def _parse(self, data: bytes) -> frozenset[bytes]:
        blobs, self.unused, unused_lines = set(), [], 0
        for number, line in enumerate(data.splitlines(), 1):
            line = line.strip()
            if not line or line.startswith(b"#"):
                continue
            blob, problem = _parse_line(line)
            if not problem:
                blobs.add(blob)
                continue
            unused_lines += 1
            if unused_lines <= MAX_WARNINGS:
                self.unused.append(f"{self._path}:{number}: not used: {problem}")
        if unused_lines > MAX_WARNINGS:
            more = unused_lines - MAX_WARNINGS
            self.unused.append(f"{self._path}: further lines that are not used: {more}")
        return frozenset(blobs)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _may_change_unseen(found: os.stat_result) -> bool:
    # Linux takes a file's times from a clock that advances once a tick, 10 ms at most: what is
    # written in the tick of the write before leaves them as they are.
    return abs(time.time() - found.st_ctime) < CHANGE_SECONDS


def _parse_line(line: bytes) -> tuple[bytes, str]:
    """The key of a line, or what is wrong with it.

    Not by ``Key.fromString``, which takes 0.1 ms for each. Whether a key's numbers are good ones
    is found when a client offers the same.
    """
    words = line.split(None, 2)
    # Options come before the type. One that is not implemented here may forbid what we would allow.
    if words[0] not in TYPES:
        return b"", "options, or a type other than ed25519, ecdsa and rsa"
    try:
        blob = b64decode(words[1], validate=True)
        kind, *fields = _strings(blob)
    except (IndexError, ValueError):
        return b"", "not a public key"
    if kind != words[0]:
        return b"", "not a public key of the type that the line begins with"
    sizes = [len(each) for each in fields]
    if kind == b"ssh-ed25519":
        is_good = sizes == [32]  # RFC 8709, 4
    elif kind == b"ssh-rsa":
        is_good = len(sizes) == 2
        if is_good and int.from_bytes(fields[1], "big").bit_length() < MIN_RSA_BITS:
            return b"", f"an RSA key of fewer than {MIN_RSA_BITS} bits"
    else:
        is_good = len(sizes) == 2 and kind == b"ecdsa-sha2-" + fields[0]  # RFC 5656, 3.1
    return (blob, "") if is_good else (b"", "not a public key")


def _strings(blob: bytes) -> list[bytes]:
    """The strings that a key consists of (RFC 4251, 5: a length in four bytes, then the bytes)."""
    found, at = [], 0
    while at < len(blob):
        end = at + 4 + int.from_bytes(blob[at : at + 4], "big")
        if end > len(blob):
            raise ValueError("cut short")
        found.append(blob[at + 4 : end])
        at = end
    return found


def is_strong(key: Key) -> bool:
    """Whether a key is of an accepted type and size."""
    kind = key.sshType()
    return kind in TYPES and (kind != b"ssh-rsa" or key.size() >= MIN_RSA_BITS)


def default_host_key() -> Path:
    """The path of the host key if none is configured: in the user's state folder."""
    return Path(state_folder()) / "ssh_host_ed25519_key"


def host_key(path: Path) -> Key:
    """The host key, which is created if there is none.

    :raises ListenError: it is no ed25519 key, is open to others, or can be neither read nor
        created.
    """
    with _host_key_errors(path):
        if not os.path.lexists(path):
            _create_host_key(path)
    return _existing_host_key(path)


def check_host_key(path: Path) -> None:
    """Find what :func:`host_key` would fail with, without creating anything.

    :raises ListenError: the same as that would.
    """
    with _host_key_errors(path):
        is_there = os.path.lexists(path)
        if not is_there:
            _check_creation(path)
            if path.parent.exists():
                check_folders(os.fspath(path), [path.parent])
    if is_there:
        _existing_host_key(path)


def _existing_host_key(path: Path) -> Key:
    with _host_key_errors(path):
        data, _ = read_trusted_file(os.fspath(path), MAX_FILE_BYTES, [path.parent], forbidden=0o077)
    try:
        key: Key = Key.fromString(data)
    except Exception:  # of many types: BadKeyError, EncryptedKeyError, …
        raise _host_key_error(
            f"host key {path}: not a private key, or one with a passphrase"
        ) from None
    if key.isPublic() or key.sshType() != b"ssh-ed25519":
        raise _host_key_error(f"host key {path}: not a private key of type ed25519")
    return key


@contextmanager
def _host_key_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError:  # NUL, or a character that file names cannot have
        raise _host_key_error(f"host key {quoted(str(path))}: not a path") from None
    except OSError as error:
        raise _host_key_error(f"host key {path}: {os_error_text(error)}") from None
    except FileError as error:
        raise _host_key_error(f"host key {error}") from None


def _host_key_error(message: str) -> ListenError:
    return ListenError(message, "host_key")


def _check_creation(path: Path) -> None:
    """Check that a file can be made, with the folders that are missing above it.

    :raises OSError: it cannot.
    """
    first = next(each for each in (path, *path.parents) if os.path.lexists(each.parent))
    if fault := making_fault(os.fspath(first)):
        raise fault


def _create_host_key(path: Path) -> None:
    _check_creation(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    # Written under another name and linked, so that the key is complete whenever it is there, and
    # of two processes that start at once both use the key of the first.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
