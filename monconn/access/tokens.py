"""Tokens of the HTTP API, and the file that lists them: names, roles and digests.

One token a line, ``NAME ROLE sha256:DIGEST``, with comments from ``#`` on. No token can be made out
of its digest, so who reads the file gets none. A plain SHA-256 will do, and no slow hash: tokens
are 256 random bits, which nobody tries out.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

import attrs

from monconn.errors import FileError, quoted
from monconn.files import file_name
from monconn.roles import ROLES, Role

MOST_TOKENS = 1_000
MOST_BYTES = 1 << 20
"""The size up to which a file is read."""
PREFIX = "monconn_"
"""Of tokens that are made here: programs that look for secrets in other files know them by it."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
# RFC 6750, 2.1, without what pads base64. One that was made elsewhere must be no short password.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{32,256}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_FAULTS = 10


@attrs.frozen
class Token:
    """What is known of a token; not itself.

    :param digest: SHA-256 of its characters.
    """

    name: str
    role: Role
    digest: bytes = attrs.field(repr=False)

    def line(self) -> str:
        """It as a line of a file, without the end of the line."""
        return f"{self.name} {self.role} sha256:{self.digest.hex()}"


def digest_of(token: str) -> bytes | None:
    """The digest by which a token is found; None for what cannot be one."""
    return hashlib.sha256(token.encode()).digest() if _TOKEN.fullmatch(token) else None


def make_token() -> str:
    """A new token: 256 bits of the kernel's random numbers."""
    return PREFIX + secrets.token_urlsafe(32)


def is_name(text: str) -> bool:
    """Whether a token may have this name: it must look the same wherever it is shown."""
    return _NAME.fullmatch(text) is not None


@attrs.frozen
class Tokens:
    """The tokens that are in force."""

    known: tuple[Token, ...] = ()
    _all: frozenset[Token] = attrs.field(
        init=False,
        eq=False,
        repr=False,
        default=attrs.Factory(lambda it: frozenset(it.known), True),
    )

    def __contains__(self, token: Token) -> bool:
        return token in self._all

    def find(self, digest: bytes) -> Token | None:
        """The token of a digest; it takes the same time whichever it is."""
        found = None
        for each in self.known:
            if hmac.compare_digest(each.digest, digest):
                found = each
        return found

    def named(self, name: str) -> Token | None:
        """The token of a name."""
        return next((each for each in self.known if each.name == name), None)


def parse_tokens(content: bytes, path: str) -> Tokens:
    """The tokens that a file lists. One wrong line makes all of it wrong.

    :param path: of the file, for the message.
    :raises FileError: with the first lines that are wrong.
    """
    faults: list[str] = []
    tokens: dict[str, Token] = {}
    digests: set[bytes] = set()
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise FileError(f"{file_name(path)} is no text in UTF-8") from None
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        fault = _fault_of(words)
        if fault is None:
            name, role, digest = words
            token = Token(name, _role(role), bytes.fromhex(digest.partition(":")[2]))
            if name in tokens:
                fault = f"there is a token named {name} already"
            elif token.digest in digests:
                fault = f"{name} is the same token as another one"
            elif len(tokens) == MOST_TOKENS:
                raise FileError(f"{file_name(path)} lists more than {MOST_TOKENS:,} tokens")
            else:
                tokens[name] = token
                digests.add(token.digest)
        if fault is not None:
            faults.append(f"{path}:{number}: {fault}")
            if len(faults) == _MOST_FAULTS:
                break
    if faults:
        raise FileError("; ".join(faults))
    return Tokens(tuple(tokens.values()))


def _fault_of(words: list[str]) -> str | None:
    if len(words) != 3:
        # It may be a token: what is written is not repeated.
        return "must be NAME ROLE sha256:DIGEST, as monconn web --token writes it"
    name, role, digest = words
    if not is_name(name):
        return f"{quoted(name)} is no name: letters, digits and . _ @ - are, 64 at most"
    if role not in ROLES:
        return f"{quoted(role)} is no role: view or operate"
    if not _DIGEST.fullmatch(digest):
        return "the digest must be sha256: and 64 hexadecimal digits in lower case"
    return None


def _role(word: str) -> Role:
    return "operate" if word == "operate" else "view"


def with_token(content: bytes, token: Token, comment: str) -> bytes:
    """A file's content with one token more; what is in it stays as it is.

    :param comment: is written above it; one line.
    """
    if content and not content.endswith(b"\n"):
        content += b"\n"
    return content + f"# {comment}\n{token.line()}\n".encode()


def without_token(content: bytes, name: str) -> bytes:
    """A file's content without one token; what else is in it stays as it is."""
    lines = content.split(b"\n")
    return b"\n".join(each for each in lines if _name_in(each) != name.encode())


def _name_in(line: bytes) -> bytes:
    return b"".join(line.partition(b"#")[0].split()[:1])


def may_hand_out(giver: Role, role: Role) -> bool:
    """Whether somebody with a role may let others have one."""
    return giver == "operate" or role == "view"
