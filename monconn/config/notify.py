"""The section ``notify:``: who is notified of events, and of which."""

from __future__ import annotations

import base64
import binascii
import difflib
import importlib.util
import logging
import re
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

import attrs

from monconn.config import address_fields, fields
from monconn.config.fields import Wrong
from monconn.config.yaml import Node, Scalar, Sequence
from monconn.errors import os_error_text, quoted
from monconn.files import read_until_end
from monconn.model.alarms import ALARM_KINDS
from monconn.policy.kinds import PositiveSeconds
from monconn.policy.tls import BackendTls

NOTIFY_ON: tuple[str, ...] = (
    "alarm",
    *ALARM_KINDS,
    "backend_up",
    "opened",
    "refused",
    "closed",
    "action",
    "blocked",
    "unblocked",
)
"""What an output may be told of: all alarms, or those of a kind, as they begin and as they are over
(of ``backend_down`` that is ``backend_up``); connections; actions, or those that block."""
WEBHOOK_SCHEMES = ("http", "https")
_EXAMPLE = "a mapping such as {url: https://example.com/hook, on: [alarm]}"
_KEY = re.compile("[a-z_]{1,20}")
_HIDDEN_KEY = "has a key that is not known (not shown here: it may be secret); write url: before it"
_SCHEME = re.compile("[a-zA-Z][a-zA-Z0-9+.-]{0,31}(?=://)")
_HOST = re.compile(r"[^\s/?#@\\]+")
_MOST_URL = 2_000
_LEAST_SECRET, _MOST_SECRET = 8, 1_024
_STANDARD_SECRET = "whsec_"
MOST_OUTPUTS = 32
"""Each has a thread and a queue of its own."""


@attrs.frozen(repr=False)
class NotifyUrl:
    """Where notifications go; as text, without what may be secret in it."""

    text: str

    @property
    def scheme(self) -> str:
        """In lower case."""
        return self.text.partition("://")[0].lower()

    @property
    def is_webhook(self) -> bool:
        """Whether it is our own: others are Apprise's."""
        return self.scheme in WEBHOOK_SCHEMES

    def __str__(self) -> str:
        # Paths are as secret as passwords: those who know the address of a chat's hook may post.
        if not self.is_webhook:
            return f"{self.scheme}://..."
        parts = urlsplit(self.text)
        host = parts.netloc.rpartition("@")[2]
        has_more = parts.path not in ("", "/") or parts.query or "@" in parts.netloc
        return f"{self.scheme}://{host}/{'...' if has_more else ''}"

    def __repr__(self) -> str:
        return f"NotifyUrl({self})"


@attrs.frozen
class Secret:
    """A key for signatures, which is never shown."""

    key: bytes = attrs.field(repr=lambda _: "...")

    def __str__(self) -> str:
        return "(not shown)"


def _read_url(node: Node) -> NotifyUrl:
    text = fields.read_text(node).strip()
    found = _SCHEME.match(text)
    # No message has the text: whatever is wrong with it, there may be a password in it.
    if found is None:
        raise Wrong.here("must be a URL such as https://example.com/hook or mailto://...")
    if len(text) > _MOST_URL or not text.isprintable():
        raise Wrong.here(f"must be a URL of at most {_MOST_URL} printable characters")
    url = NotifyUrl(text)
    if url.is_webhook:
        split_webhook(url)
    else:
        _check_apprise(url)
    return url


def split_webhook(url: NotifyUrl) -> SplitResult:
    """The parts of a webhook's URL.

    :raises Wrong: it is none.
    """
    try:
        parts = urlsplit(url.text)
        _ = parts.port  # raises ValueError
    except ValueError:
        raise Wrong.here("is no URL: check its host and port") from None
    if not parts.hostname or not _HOST.fullmatch(parts.netloc.rpartition("@")[2]):
        raise Wrong.here("has no host: write it as https://HOST/PATH")
    if " " in url.text or not url.text.isascii():
        raise Wrong.here("must have ASCII characters alone, and others as %XX")
    try:
        parts.hostname.encode("idna")  # as getaddrinfo does: no label is empty or too long
    except UnicodeError:
        raise Wrong.here("is no URL: check its host and port") from None
    return parts


def _check_apprise(url: NotifyUrl) -> None:
    scheme = url.scheme
    if importlib.util.find_spec("apprise") is None:
        raise Wrong.here(
            f"{scheme}:// needs Apprise, which is not installed: pip install 'monconn[notify]'"
            " (a webhook, http:// or https://, needs nothing)"
        )
    if make_apprise(url) is None:
        raise Wrong.here(
            f"is nothing that Apprise can use: it knows no {scheme}://, or more must follow"
            " (https://github.com/caronc/apprise/wiki)"
        )


def make_apprise(url: NotifyUrl) -> Any:
    """The object of Apprise's that sends to a URL; None if it takes it for none."""
    # Imported here, as it takes a quarter of a second and 30 MB.
    import apprise

    logger = logging.getLogger("apprise")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())  # else Python prints its warnings, URLs and all
        logger.propagate = False
    try:
        return apprise.Apprise.instantiate(url.text, suppress_exceptions=True)
    except Exception:  # a plugin's own fault, whose text may have the URL
        return None


def _read_on(node: Node) -> tuple[str, ...]:
    nodes = node.nodes if isinstance(node, Sequence) else [node]
    kinds: list[str] = []
    found: fields.Found = []
    for index, each in enumerate(nodes):
        text = fields.read_text(each)
        if text not in NOTIFY_ON:
            alike = difflib.get_close_matches(text, NOTIFY_ON, 1)
            advice = f"did you mean {alike[0]}?" if alike else f"one of {', '.join(NOTIFY_ON)}"
            path = (index,) if isinstance(node, Sequence) else ()
            found.append((path, f"{quoted(text)} is nothing that is notified: {advice}"))
        kinds.append(text)
    if not kinds:
        found.append(((), f"must name at least one of {', '.join(NOTIFY_ON)}"))
    if found:
        raise Wrong(*found)
    return tuple(dict.fromkeys(kinds))


def _secret_of(text: str) -> Secret:
    """The key of a secret: Standard Webhooks writes it in base64 behind a prefix."""
    key = text.encode()
    if text.startswith(_STANDARD_SECRET):
        try:
            key = base64.b64decode(text.removeprefix(_STANDARD_SECRET), validate=True)
        except (binascii.Error, ValueError):
            raise Wrong.here(f"begins with {_STANDARD_SECRET}, so base64 must follow") from None
    if not _LEAST_SECRET <= len(key) <= _MOST_SECRET:
        raise Wrong.here(f"must have {_LEAST_SECRET} to {_MOST_SECRET} bytes")
    return Secret(key)


def _read_secret(node: Node) -> Secret:
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        raise Wrong.here("must be a text in quotes")
    return _secret_of(node.value)


def _read_secret_file(node: Node) -> Secret:
    path = fields.read_file_path(node)
    try:
        content = read_until_end(path, _MOST_SECRET * 2)
    except OSError as error:
        raise Wrong.here(f"{quoted(path)} cannot be read: {os_error_text(error)}") from None
    try:
        return _secret_of(content.decode().strip())
    except UnicodeDecodeError:
        raise Wrong.here(f"{quoted(path)} must be a text in UTF-8") from None
    except Wrong as wrong:
        raise Wrong.here(f"what {quoted(path)} has {wrong}") from None


def _read_per_minute(node: Node) -> int:
    count = fields.read_count(node)
    if not 1 <= count <= 1_000:
        raise Wrong.here("must be from 1 to 1000")
    return count


@attrs.frozen
class NotifyConfig:
    """One output: who is notified, and of what."""

    url: Annotated[NotifyUrl, _read_url]
    """``http://`` and ``https://`` are webhooks, others are Apprise's."""
    on: Annotated[tuple[str, ...], _read_on] = ("alarm",)
    """The events that it is told of: see :data:`NOTIFY_ON`."""
    filter: Annotated[str | None, fields.read_text] = None
    """Of these, those that match, in the filter language; None for all."""
    secret: Annotated[Secret | None, _read_secret] = None
    """The key by which a webhook's messages are signed; None for no signature."""
    secret_file: Annotated[Secret | None, _read_secret_file] = None
    """The same, from a file."""
    ca: Annotated[str | None, fields.read_file_path] = None
    """A file with the authorities that a webhook's certificate may be from; None for the system's.
    """
    per_minute: Annotated[int, _read_per_minute] = 20
    """Messages in a minute about alarms and actions, and as many about connections; what is more is
    counted in one message at the end of the minute."""
    retry_for: PositiveSeconds = 900.0
    """Seconds for which a message that cannot be delivered is tried again."""
    lines: dict[str, int] = attrs.field(factory=dict, init=False, eq=False, repr=False)
    """The lines of the file at which its keys are."""

    @property
    def key(self) -> bytes | None:
        """The key for signatures."""
        secret = self.secret or self.secret_file
        return None if secret is None else secret.key


def _read_output(node: Node) -> NotifyConfig:
    mapping = fields.require_mapping(node, _EXAMPLE)
    # No message has such a key: it may be a URL that was written without its url:.
    hidden = [key for key in mapping.nodes if not _KEY.fullmatch(key)]
    found: fields.Found = [((), _HIDDEN_KEY)] if hidden else []
    nodes = {key: each for key, each in mapping.nodes.items() if key not in hidden}
    try:
        output = fields.structure(attrs.evolve(mapping, nodes=nodes), NotifyConfig)
    except Wrong as wrong:
        raise Wrong(*found, *wrong.found) from None
    if output.secret is not None and output.secret_file is not None:
        found.append((("secret",), "or secret_file, not both"))
    if not output.url.is_webhook:
        for key in ("secret", "secret_file", "ca"):
            if key in mapping.nodes:
                found.append(((key,), "is for webhooks (http:// and https://) alone"))
    elif output.ca is not None and output.url.scheme != "https":
        found.append((("ca",), "is for https:// alone"))
    elif output.ca is not None:
        found += address_fields.tls_faults(BackendTls(ca=output.ca))
    if found:
        raise Wrong(*found)
    output.lines.update(mapping.lines)
    return output


def _read_outputs(node: Node) -> tuple[NotifyConfig, ...]:
    if not isinstance(node, Sequence):
        raise Wrong.here(f"must be a list of outputs, each {_EXAMPLE}")
    if len(node.nodes) > MOST_OUTPUTS:
        raise Wrong.here(f"must have at most {MOST_OUTPUTS} outputs")
    outputs: list[NotifyConfig] = []
    found: fields.Found = []
    for index, each in enumerate(node.nodes):
        try:
            outputs.append(_read_output(each))
        except Wrong as wrong:
            found += [((index, *path), message) for path, message in wrong.found]
    if found:
        raise Wrong(*found)
    return tuple(outputs)


Notify = Annotated[tuple[NotifyConfig, ...], _read_outputs]
