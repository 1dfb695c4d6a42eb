"""The public keys that are accepted, and the host key; in doubt, a file is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.conch.ssh.keys import FingerprintFormats, Key

from monconn.errors import ListenError, MonconnError, os_error_text
from monconn.log import Logger

MAX_FILE_BYTES = 1 << 20
MIN_RSA_BITS = 2048
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


class KeyFileError(MonconnError):
    """A file of keys that others could have written or read, or that cannot be read."""


def fingerprint(key: Key) -> str:
    """A key's fingerprint, in the notation of ``ssh-keygen -l``."""
    return f"SHA256:{key.fingerprint(FingerprintFormats.SHA256_BASE64).rstrip('=')}"


def authorized_keys(path: str) -> list[Key]:
    """The keys in a file in OpenSSH's format ``authorized_keys``; unusable lines are logged.

    :raises KeyFileError: others could have written it, or it cannot be read.
    """
    # A user who can write to a folder on either path, to a link's or to its target's, could put
    # another file there.
    absolute, real = Path(os.path.abspath(path)), Path(os.path.realpath(path))
    folders = dict.fromkeys([*absolute.parents, *real.parents])
    found = []
    for number, line in enumerate(_read_trusted(path, folders, forbidden=0o022).splitlines(), 1):
        line = line.strip()
        if line and not line.startswith(b"#"):
            try:
                found.append(_parse_line(line))
            except KeyFileError as error:
                _log.warn(
                    "{path}:{number}: not used: {error}", path=path, number=number, error=str(error)
                )
    return found


def _parse_line(line: bytes) -> Key:
    # Options come before the type. One that is not implemented here may forbid what we would allow.
    if line.split(None, 1)[0] not in TYPES:
        raise KeyFileError("options, or a type other than ed25519, ecdsa and rsa")
    try:
        key: Key = Key.fromString(line, type="public_openssh")
    except Exception:  # BadKeyError, and whatever else its parser raises
        raise KeyFileError("not a public key") from None
    if not key.isPublic() or key.sshType() != line.split(None, 1)[0]:
        raise KeyFileError("not a public key of the type that the line begins with")
    if not is_strong(key):
        raise KeyFileError(f"an RSA key of fewer than {MIN_RSA_BITS} bits")
    return key


def is_strong(key: Key) -> bool:
    """Whether a key is of an accepted type and size."""
    kind = key.sshType()
    return kind in TYPES and (kind != b"ssh-rsa" or key.size() >= MIN_RSA_BITS)


def default_host_key() -> Path:
    """The path of the host key if none is configured: in the user's state folder."""
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return folder / "monconn" / "ssh_host_ed25519_key"


def host_key(path: Path) -> Key:
    """The host key, which is created if there is none.

    :raises ListenError: it is no ed25519 key, is open to others, or can be neither read nor
        created.
    """
    try:
        if not os.path.lexists(path):
            _create_host_key(path)
        data = _read_trusted(os.fspath(path), [path.parent], forbidden=0o077)
    except OSError as error:
        raise ListenError(f"host key {path}: {os_error_text(error)}") from None
    except KeyFileError as error:
        raise ListenError(f"host key {error}") from None
    try:
        key: Key = Key.fromString(data)
    except Exception:  # of many types: BadKeyError, EncryptedKeyError, …
        raise ListenError(f"host key {path}: not a private key, or one with a passphrase") from None
    if key.isPublic() or key.sshType() != b"ssh-ed25519":
        raise ListenError(f"host key {path}: not a private key of type ed25519")
    return key


def _create_host_key(path: Path) -> None:
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


def _read_trusted(path: str, folders: Iterable[Path], *, forbidden: int) -> bytes:
    """Read a file that only its owner could have written: this process's user, or root.

    :param folders: those above it that are to be checked as well.
    :param forbidden: the bits that its mode must not have.
    """
    try:
        _check_folders(path, folders)
        # O_NONBLOCK: to open a FIFO would block until another process opens it for writing.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_file(path, os.fstat(descriptor), forbidden)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_FILE_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise KeyFileError(f"{path}: {os_error_text(error)}") from None


def _check_file(path: str, found: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise KeyFileError(f"{path}: is not a regular file")
    if not _is_own_or_roots(found):
        raise KeyFileError(f"{path}: belongs to another user")
    if found.st_mode & forbidden:
        mode = stat.S_IMODE(found.st_mode)
        what = "open to other users" if forbidden & 0o044 else "writable by others"
        raise KeyFileError(f"{path}: is {what} (mode {mode:04o}): chmod 600 {path}")
    if found.st_size > MAX_FILE_BYTES:
        raise KeyFileError(f"{path}: is too big")


def _check_folders(path: str, folders: Iterable[Path]) -> None:
    """Check that no other user can replace the file."""
    for folder in folders:
        found = os.stat(folder)
        if not _is_own_or_roots(found):
            raise KeyFileError(f"{path}: its folder {folder} belongs to another user")
        # In a sticky folder, such as /tmp, others cannot rename or remove what is not theirs.
        if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            raise KeyFileError(f"{path}: its folder {folder} is writable by others")


def _is_own_or_roots(found: os.stat_result) -> bool:
    return found.st_uid in (0, os.geteuid())
