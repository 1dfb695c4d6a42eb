"""How a message is delivered: by our own webhook, or by Apprise. All of it blocks: for threads."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import socket
import ssl
import threading
import time
from typing import Any, Protocol
from urllib.parse import unquote

from monconn._version import __version__
from monconn.config.notify import NotifyConfig, NotifyUrl, make_apprise, split_webhook
from monconn.errors import MonconnError, os_error_text, printable
from monconn.sinks.notify.messages import Message

SEND_SECONDS = 15.0
"""The time for one attempt at a webhook, from connecting to the head of the answer."""
CONNECT_SECONDS = 10.0
"""Of it, for one address of several."""
_MOST_ADDRESSES = 4
_MOST_HEAD = 16 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([^\r\n]{0,60}))?[^\r\n]*\r?\n")
_REFUSED_FOR_GOOD = frozenset((400, 413, 415, 422))
_ZONE = re.compile(r"%[^\]]*")
"""Answers about the message itself, which will be no other the next time."""


class DeliveryError(MonconnError):
    """A message was not delivered; the text has nothing of the URL but its host.

    :param is_final: whether there is no use in another attempt.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


class Sender(Protocol):
    """Delivers messages, one at a time."""

    def send(self, message: Message) -> str:
        """Deliver one.

        :returns: what the receiver has answered.
        :raises DeliveryError: it was not delivered, as far as is known.
        """


def make_sender(config: NotifyConfig) -> Sender:
    """What delivers to an output.

    :raises DeliveryError: a file that it needs cannot be used.
    """
    if config.url.is_webhook:
        return WebhookSender(config.url, config.key, config.ca)
    return AppriseSender(config.url)


# -- webhooks


def signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The header ``webhook-signature`` of Standard Webhooks 1.0.0 (its scheme ``v1``).

    :param key: the bytes of the secret.
    :param timestamp: whole seconds since 1970, as in the header ``webhook-timestamp``.
    """
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"


class WebhookSender:
    """Posts our JSON over HTTP/1.1, one connection a message.

    Written on a socket, since ``http.client`` bounds neither the time of an answer as a whole (a
    byte every few seconds keeps it waiting for ever) nor the number of interim answers, and
    ``urllib`` follows redirects and environment variables that name proxies.

    :param key: signs the messages; None for no signature.
    :param ca: a file with the authorities that are trusted; None for the system's.
    :raises DeliveryError: that file cannot be used.
    """

    def __init__(self, url: NotifyUrl, key: bytes | None = None, ca: str | None = None) -> None:
        parts = split_webhook(url)
        self._key = key
        # A zone is written as %25ZONE in URLs, by most as %ZONE; it means something to this host
        # alone, and is not sent (RFC 6874, sections 2 and 4).
        self._host: str = (parts.hostname or "").replace("%25", "%", 1)
        self._tls: ssl.SSLContext | None = None
        if url.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=ca)
            except (OSError, ValueError) as error:
                text = f"ca: {ca} cannot be used: {_tls_text(error)}"
                raise DeliveryError(text) from None
        self._port = parts.port or (80 if self._tls is None else 443)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        credentials, _, host = parts.netloc.rpartition("@")
        self._headers = [
            f"Host: {_ZONE.sub('', host)}",
            f"User-Agent: monconn/{__version__}",
            "Content-Type: application/json",
            "Connection: close",
        ]
        if credentials:
            encoded = base64.b64encode(unquote(credentials).encode()).decode()
            self._headers.append(f"Authorization: Basic {encoded}")

    def send(self, message: Message) -> str:
        """Implements ``Sender.send``: any answer of 2xx is a delivery."""
        until = time.monotonic() + SEND_SECONDS
        try:
            with self._connect(until) as sock:
                sock.settimeout(_left(until))
                sock.sendall(self._request(message))
                status, phrase = _read_status(sock, until)
        except TimeoutError:
            raise DeliveryError(f"no answer within {SEND_SECONDS:g} s") from None
        except ssl.SSLError as error:
            raise DeliveryError(f"TLS failed: {_tls_text(error)}") from None
        except OSError as error:
            raise DeliveryError(os_error_text(error)) from None
        answer = f"answered {status}{f' {phrase}' if phrase else ''}"
        if 200 <= status < 300:
            return answer
        if 300 <= status < 400:
            answer += ": redirects are not followed, as the secret may be for this address alone"
        raise DeliveryError(answer, is_final=status in _REFUSED_FOR_GOOD)

    def _connect(self, until: float) -> socket.socket:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise DeliveryError(
                f"{self._host} cannot be resolved: {os_error_text(error)}"
            ) from None
        failure: OSError = TimeoutError()
        for family, kind, protocol, _, address in found[:_MOST_ADDRESSES]:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(min(CONNECT_SECONDS, _left(until)))
                sock.connect(address)
                if self._tls is not None:
                    sock = self._tls.wrap_socket(sock, server_hostname=self._host.partition("%")[0])
            except OSError as error:
                sock.close()
                failure = error
                continue
            return sock
        raise failure

    def _request(self, message: Message) -> bytes:
        # The time of this attempt: receivers refuse what is old, so that nobody can send again
        # what they have recorded.
        timestamp = str(int(time.time()))
        headers = [
            *self._headers,
            f"Content-Length: {len(message.body)}",
            f"webhook-id: {message.id}",
            f"webhook-timestamp: {timestamp}",
        ]
        if self._key is not None:
            signed = signature(self._key, message.id, timestamp, message.body)
            headers.append(f"webhook-signature: {signed}")
        head = "\r\n".join((f"POST {self._target} HTTP/1.1", *headers, "", ""))
        return head.encode("ascii") + message.body


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _read_status(sock: socket.socket, until: float) -> tuple[int, str]:
    """The status of an answer, and what it is called; nothing of the answer's body is read."""
    head = b""
    while True:
        # Interim answers (RFC 9110, 15.2) may come before it, each with headers of its own.
        while (found := _STATUS.match(head)) is not None and found[1].startswith(b"1"):
            _, blank, head_after = head.partition(b"\r\n\r\n")
            if not blank:
                break
            head = head_after
        if found is not None and not found[1].startswith(b"1"):
            phrase = (found[2] or b"").decode("ascii", "replace").strip()
            return int(found[1]), printable(phrase)
        if len(head) >= _MOST_HEAD:
            raise DeliveryError("what it answered is no HTTP")
        sock.settimeout(_left(until))
        received = sock.recv(4096)
        if not received:
            text = "what it answered is no HTTP" if head else "closed the connection, no answer"
            raise DeliveryError(text)
        head += received
        if not b"HTTP/1.".startswith(head[:7]):
            raise DeliveryError("what it answered is no HTTP")


def _tls_text(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "failed").lower().replace("_", " ")
    return os_error_text(error)


# -- Apprise


class AppriseSender:
    """Sends by Apprise; its plugins bound the time of their connections themselves."""

    def __init__(self, url: NotifyUrl) -> None:
        self._url = url
        self._plugin: Any = None

    def send(self, message: Message) -> str:
        """Implements ``Sender.send``."""
        if self._plugin is None:
            self._plugin = make_apprise(self._url)
        if self._plugin is None:
            raise DeliveryError("Apprise does not take its URL", is_final=True)
        good, test = message.is_good, message.kind in ("test", "summary")
        notes = _ThreadNotes(self._url)
        logger = logging.getLogger("apprise")
        logger.addHandler(notes)
        try:
            done = self._plugin.notify(
                title=message.title,
                body=message.text,
                notify_type="info" if test else "success" if good else "warning",
                # Text of peers is in it: else some plugins would take that for their markup.
                body_format="text",
            )
        except Exception as error:  # a plugin's own fault, whose text may have anything in it
            raise DeliveryError(f"Apprise failed: {type(error).__name__}") from None
        finally:
            logger.removeHandler(notes)
        if done:
            return "sent"
        raise DeliveryError(notes.first or "Apprise could not deliver it")


class _ThreadNotes(logging.Handler):
    """Notes the first warning that Apprise logs in this thread, without parts of the URL."""

    def __init__(self, url: NotifyUrl) -> None:
        super().__init__(logging.WARNING)
        self._thread = threading.get_ident()
        words = re.split(r"[/?&=:@#,;+]+", url.text.partition("://")[2])
        self._secrets = [each for word in words for each in {word, unquote(word)} if each]
        self.first = ""

    def emit(self, record: logging.LogRecord) -> None:
        if self.first or record.thread != self._thread:
            return
        text = record.getMessage()
        for secret in sorted(self._secrets, key=len, reverse=True):
            # What is that short is no secret, but a word of every language.
            if len(secret) > 3:
                text = text.replace(secret, "...")
        self.first = printable(" ".join(text.split())[:200])
