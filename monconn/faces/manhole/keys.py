"""Whose key lets in, and the key that the manhole shows; whatever is doubtful is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.conch.ssh.keys import FingerprintFormats, Key
from twisted.logger import Logger

from monconn.errors import ListenError, MonconnError, os_error_text

MOST_BYTES = 1 << 20
"""Of a file of keys."""
LEAST_RSA_BITS = 2048
TYPES = frozenset(
    {
        b"ssh-ed25519",
        b"ecdsa-sha2-nistp256",
        b"ecdsa-sha2-nistp384",
        b"ecdsa-sha2-nistp521",
        b"ssh-rsa",
    }
)
"""Of the keys that may let in."""

_log = Logger(namespace="monconn.manhole")


class KeyFileError(MonconnError):
    """A file of keys that is not to be trusted, or cannot be read."""


def fingerprint(key: Key) -> str:
    """A key's name, as ``ssh-keygen -l`` shows it."""
    return f"SHA256:{key.fingerprint(FingerprintFormats.SHA256_BASE64).rstrip('=')}"


def authorized_keys(path: str) -> list[Key]:
    """The keys in an ``authorized_keys`` file; lines that are not understood are logged.

    :raises KeyFileError: others could have written it, or it cannot be read.
    """
    whole, real = Path(os.path.abspath(path)), Path(os.path.realpath(path))
    folders = dict.fromkeys([*whole.parents, *real.parents])
    lines = _read_trusted(path, folders, forbidden=0o022).splitlines()
    return list(_keys_of(path, lines))


def _keys_of(path: str, lines: list[bytes]) -> Iterator[Key]:
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if line and not line.startswith(b"#"):
            try:
                yield _key_of(line)
            except KeyFileError as error:
                _log.warn(
                    "{path}:{number}: not used: {error}", path=path, number=number, error=str(error)
                )


def _key_of(line: bytes) -> Key:
    # Options come before the type. One that we do not know may forbid what we would allow.
    if line.split(None, 1)[0] not in TYPES:
        raise KeyFileError("options, and other types of keys than ed25519, ecdsa and rsa")
    try:
        key: Key = Key.fromString(line, type="public_openssh")
    except Exception:  # Conch's for bad keys, and whatever its parser stumbles over
        raise KeyFileError("no public key") from None
    if not key.isPublic() or key.sshType() != line.split(None, 1)[0]:
        raise KeyFileError("no public key of the type that it claims")
    if not is_strong(key):
        raise KeyFileError(f"an RSA key of fewer than {LEAST_RSA_BITS} bits")
    return key


def is_strong(key: Key) -> bool:
    """Whether a key is of a type and a size that may let in."""
    kind = key.sshType()
    return kind in TYPES and (kind != b"ssh-rsa" or key.size() >= LEAST_RSA_BITS)


def default_host_key() -> Path:
    """Where the host key is if nothing else is said: in the user's state folder."""
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return folder / "monconn" / "ssh_host_ed25519_key"


def host_key(path: Path) -> Key:
    """The host key, which is made if there is none.

    :raises ListenError: it is no ed25519 key, is open to others, or cannot be had.
    """
    try:
        if not os.path.lexists(path):
            _make_host_key(path)
        data = _read_trusted(os.fspath(path), [path.parent], forbidden=0o077)
    except OSError as error:
        raise ListenError(f"host key {path}: {os_error_text(error)}") from None
    except KeyFileError as error:
        raise ListenError(f"host key {error}") from None
    try:
        key: Key = Key.fromString(data)
    except Exception:  # of many types; an encrypted key is one of the causes
        raise ListenError(f"host key {path}: no private key without a passphrase") from None
    if key.isPublic() or key.sshType() != b"ssh-ed25519":
        raise ListenError(f"host key {path}: no private key of type ed25519")
    return key


def _make_host_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    # Written beside and linked: whoever finds the key finds all of it, and the first one stays.
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


def _read_trusted(path: str, folders: Iterable[Path], *, forbidden: int) -> bytes:
    """A file that only its owner, we or root, could have written.

    :param folders: those above it that are to be looked at as well.
    :param forbidden: the bits that its mode must not have.
    """
    try:
        _check_folders(path, folders)
        # Not to wait for somebody to write to it, should it be a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_file(path, os.fstat(descriptor), forbidden)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MOST_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise KeyFileError(f"{path}: {os_error_text(error)}") from None


def _check_file(path: str, found: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise KeyFileError(f"{path}: is no file")
    if not _is_ours(found):
        raise KeyFileError(f"{path}: belongs to another user")
    if found.st_mode & forbidden:
        mode = stat.S_IMODE(found.st_mode)
        what = "open to other users" if forbidden & 0o044 else "writable by others"
        raise KeyFileError(f"{path}: is {what} (mode {mode:04o}): chmod 600 {path}")
    if found.st_size > MOST_BYTES:
        raise KeyFileError(f"{path}: is too big")


def _check_folders(path: str, folders: Iterable[Path]) -> None:
    """Whoever may write to a folder above a file may put another one into its place."""
    for folder in folders:
        found = os.stat(folder)
        if not _is_ours(found):
            raise KeyFileError(f"{path}: its folder {folder} belongs to another user")
        # In a sticky one, such as /tmp, they cannot touch what is not theirs.
        if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            raise KeyFileError(f"{path}: its folder {folder} is writable by others")


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid in (0, os.geteuid())
