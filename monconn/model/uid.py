"""Lasting ids of connections: unique over restarts and hosts, as the numbers that ids are are not.

``k7xq2m9tbw4c-42`` is the connection with the id 42 of one run of the program: so an id can be read
off it, and all connections of a run begin alike. It is made when it is shown; nothing is stored for
it.
"""

from __future__ import annotations

import os
import re

# Crockford's alphabet (base 32), in lower case: no two characters of it look alike, and none needs
# quotes in a shell. As filters ignore case, the alphabet must not depend on it.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LETTERS = _ALPHABET[10:]
_RUN_CHARACTERS = 12
_UID = re.compile(f"([{_LETTERS}][{_ALPHABET}]{{{_RUN_CHARACTERS - 1}}})-([1-9][0-9]{{0,17}})")


def new_run() -> str:
    """A random name of a run: 59 bits, so that of a billion runs hardly two have the same one.

    It begins with a letter: no uid can be taken for an id.
    """
    first, *rest = os.urandom(_RUN_CHARACTERS)
    return _LETTERS[first % len(_LETTERS)] + "".join(_ALPHABET[each % 32] for each in rest)


run = new_run()
"""What the uids of this process begin with."""


def _renew() -> None:
    global run
    run = new_run()


os.register_at_fork(after_in_child=_renew)  # which goes on with the same ids


def parse_uid(text: str) -> tuple[str, int] | None:
    """The run and the id of a uid; None if the text is none."""
    found = _UID.fullmatch(text.lower())
    return None if found is None else (found[1], int(found[2]))
