"""What went wrong with TLS, in words: alerts, errors of OpenSSL's, and refused certificates."""

from __future__ import annotations

import errno
import ipaddress
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from itertools import pairwise

from cryptography import x509
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)

from monconn.errors import MonconnError, printable, quoted

Found = list[tuple[tuple[str, ...], str]]
"""Faults: the key of the setting that each belongs to, and a message."""

SOON = timedelta(days=14)
"""How long before its end a certificate should have been renewed: most are after two thirds of
their time, which is a month before the end of one for three months."""


class TlsError(MonconnError):
    """A file or a setting that TLS cannot use, or a peer's certificate that is refused.

    :param found: each fault, with the path of the setting's key, such as ``("certificates",
        "www.example.org", "key")``; empty for a fault of a peer.
    """

    def __init__(self, *found: tuple[tuple[str, ...], str]) -> None:
        super().__init__("; ".join(message for _, message in found))
        self.found = list(found)


# -- errors and alerts


UNFINISHED = "the backend's TLS handshake was not complete"
"""The detail of a ``connect_timeout`` that has struck amid it: the backend has accepted TCP."""
# By OpenSSL's text of an alert: its name in RFC 8446, 6, and what it means where that is not plain.
_ALERTS = {
    "close notify": ("close_notify", ""),
    "unexpected message": ("unexpected_message", ""),
    "bad record mac": ("bad_record_mac", ""),
    "record overflow": ("record_overflow", ""),
    "handshake failure": (  # OpenSSL sends it in TLS 1.2, too, if it wants a certificate
        "handshake_failure",
        "it misses something, such as a cipher in common or a certificate",
    ),
    "no certificate": ("no_certificate", ""),
    "bad certificate": ("bad_certificate", "it cannot use the certificate"),
    "unsupported certificate": ("unsupported_certificate", "it cannot use such a certificate"),
    "certificate revoked": ("certificate_revoked", ""),
    "certificate expired": ("certificate_expired", ""),
    "certificate unknown": ("certificate_unknown", "it does not accept the certificate"),
    "illegal parameter": ("illegal_parameter", ""),
    "unknown ca": ("unknown_ca", "it does not trust the certificate's authority"),
    "access denied": ("access_denied", ""),
    "decode error": ("decode_error", ""),
    "decrypt error": ("decrypt_error", ""),
    "protocol version": ("protocol_version", "it has no version of TLS in common"),
    "insufficient security": ("insufficient_security", "it wants stronger ciphers"),
    "internal error": ("internal_error", ""),
    "inappropriate fallback": ("inappropriate_fallback", ""),
    "user cancelled": ("user_canceled", ""),
    "no renegotiation": ("no_renegotiation", ""),
    "missing extension": ("missing_extension", ""),
    "unsupported extension": ("unsupported_extension", ""),
    "unrecognized name": ("unrecognized_name", "it does not know the server name"),
    "bad certificate status response": ("bad_certificate_status_response", ""),
    "unknown psk identity": ("unknown_psk_identity", ""),
    "certificate required": ("certificate_required", "it wants a certificate from us"),
    "no application protocol": (
        "no_application_protocol",
        "it has no protocol in common (ALPN)",
    ),
}
# Its beginning differs from release to release, and from alert to alert.
_ALERT = re.compile(r"(?:(?:sslv3|tlsv1|tlsv13|ssl/tls|tls) alert|tlsv1|tlsv13) (.*)")
_FAULTS = {
    "http request": "the {peer} speaks plain HTTP",
    "https proxy request": "the {peer} speaks plain HTTP, to a proxy",
    "wrong version number": "the {peer} does not speak TLS",
    "packet length too long": "the {peer} does not speak TLS",
    "data length too long": "the {peer} does not speak TLS",
    "encrypted length too long": "the {peer} does not speak TLS",
    "bad record type": "the {peer} does not speak TLS",
    "record layer failure": "the {peer} does not speak TLS",
    "unsupported protocol": "the {peer} has only versions of TLS below the minimum_version",
    "version too low": "the {peer} has only versions of TLS below the minimum_version",
    "unknown protocol": "the {peer} has no version of TLS in common with us",
    "no shared cipher": "the {peer} has no cipher in common with us",
    "no suitable signature algorithm": "the {peer} knows no signature that our key can make",
    "no suitable key share": "the {peer} has no key exchange in common with us",
    "no suitable groups": "the {peer} has no key exchange in common with us",
    "dh key too small": "the {peer}'s Diffie-Hellman key is too small",
    "ee key too small": "the {peer}'s key is too small",
    "unexpected eof while reading": "the {peer} has left amid the handshake",
    "certificate verify failed": "the {peer}'s certificate is not trusted",
    "decryption failed or bad record mac": "a record of the {peer}'s has been altered on its way",
}


def is_alert(error: SSL.Error) -> bool:
    """Whether it was the peer that gave the connection up, by a fatal alert."""
    text = openssl_text(error)
    return _ALERT.fullmatch(text) is not None or _is_nameless_alert(error, text)


def _is_nameless_alert(error: Exception, text: str) -> bool:
    """Whether it is an alert newer than OpenSSL's texts, the only error without one."""
    return not text and bool(error.args and error.args[0])


def error_text(error: Exception, peer: str) -> str:
    """An error of TLS in one line for people.

    :param peer: ``client`` or ``backend``.
    """
    if isinstance(error, TlsError):
        return str(error)
    if isinstance(error, SSL.SysCallError | OSError):
        number = error.args[0] if error.args else 0
        if isinstance(number, int) and number > 0:
            return errno.errorcode.get(number, str(number))
        return f"the {peer} has left amid the handshake"
    if isinstance(error, SSL.ZeroReturnError):
        return f"the {peer} has ended TLS (close_notify)"
    text = openssl_text(error)
    alert = _ALERT.fullmatch(text)
    if alert is not None:
        name, meaning = _ALERTS.get(alert[1], (alert[1].replace(" ", "_"), ""))
        sent = f"the {peer} has sent the alert {name}"
        return f"{sent}: {meaning}" if meaning else sent
    if text in _FAULTS:
        return _FAULTS[text].format(peer=peer)
    if _is_nameless_alert(error, text):
        return f"the {peer} has sent an alert that OpenSSL has no name for"
    return f"TLS has failed: {text}" if text else "TLS has failed"


def cut_text(peer: str) -> str:
    """A detail for the record of a peer that has ended TCP only, and not TLS (RFC 8446, 6.1)."""
    return f"the {peer} ended without close_notify"


def openssl_text(error: Exception) -> str:
    """OpenSSL's reason for an error; empty if it has none."""
    entries = error.args[0] if error.args else None
    if not isinstance(entries, list):
        return "" if entries is None else " ".join(printable(entries).split())
    texts = [printable(each[-1]) for each in entries if isinstance(each, tuple) and each]
    # The last is the fault, and those before it its cause, unless it says only where it was.
    while len(texts) > 1 and texts[-1] in ("", "record layer failure"):
        texts.pop()
    return texts[-1] if texts else ""


# -- certificates


def name_fault(
    certificate: x509.Certificate, host: str, what: str = "the backend's certificate"
) -> str:
    """Why a certificate is not for a host; empty if it is (RFC 9525).

    :param host: a name or an IP address; a name that begins with ``*.`` must be in it as it is.
    :param what: the certificate, for the message.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    known = [each for each in names if isinstance(each, x509.DNSName | x509.IPAddress)]
    if not known:  # service_identity takes it for one that is for every host
        return f"{what} names no host (subjectAltName)"
    if host.startswith("*.") and any(str(each.value).lower() == host for each in known):
        return ""
    ip = ip_of(host)
    try:
        if ip is not None:
            verify_certificate_ip_address(certificate, str(ip))
        else:
            verify_certificate_hostname(certificate, host)
    except (VerificationError, CertificateError, ValueError):
        return f"{what} is not for {host}, but for {_listed(known)}"
    return ""


_MOST_NAMES = 5


def _listed(names: Iterable[x509.GeneralName]) -> str:
    texts = [printable(str(each.value)[:100]) for each in names]
    more = len(texts) - _MOST_NAMES
    return ", ".join(texts[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a host is; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


_NO_ISSUER = (2, 20, 21, 27)  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT and its like: see x509_vfy.h
_CHAIN_FAULTS = {
    5: "its key cannot be read",
    7: "its signature is wrong",
    18: "it is self-signed, and not one of the trusted certificates",
    19: "the authority at the end of its chain is self-signed, and not trusted",
    22: "its chain is too long",
    24: "a certificate that is no authority's has signed it",
    25: "its authority does not allow so many others below it",
    26: "it is not meant for TLS servers",
    28: "it is rejected explicitly",
    34: "it has a critical extension that OpenSSL does not know",
    47: "its authority may not sign for its names",
    66: "its key is too small",
    67: "its authority's key is too small",
    68: "its signature's hash is too weak",
}


def chain_fault(certificate: x509.Certificate, error: int, depth: int) -> str:
    """Why OpenSSL does not trust a certificate of the backend's chain.

    :param error: one of ``X509_V_ERR_…`` of OpenSSL's ``x509_vfy.h``.
    :param depth: how far it is from the backend's own certificate, which is 0.
    """
    what = "the backend's certificate"
    if depth:
        what = f"the certificate {_subject(certificate.subject)} in the backend's chain"
    if error in (9, 10) and (when := out_of_time(certificate)):
        return f"{what} {when}"
    if error in _NO_ISSUER:
        issuer = _subject(certificate.issuer)
        return f"{what} is not trusted: its authority {issuer} is not known"
    text = _CHAIN_FAULTS.get(error) or f"OpenSSL's fault {error}"
    return f"{what} is not trusted: {text}"


def out_of_time(certificate: x509.Certificate) -> str:
    """Since or until when a certificate is not valid; empty if it is now."""
    now = datetime.now(timezone.utc)
    if now < certificate.not_valid_before_utc:
        return f"is not valid before {_day(certificate.not_valid_before_utc)}"
    if now > certificate.not_valid_after_utc:
        return f"has expired on {_day(certificate.not_valid_after_utc)}"
    return ""


def order_fault(certificates: Sequence[x509.Certificate]) -> str:
    """Which certificate of a chain is not followed by its authority's; empty if none.

    Some clients look for it at another place, too, and others refuse (RFC 8446, 4.4.2).
    """
    for each, signer in pairwise(certificates):
        if each.issuer != signer.subject:
            names = _subject(each.subject), _subject(signer.subject), _subject(each.issuer)
            return "{} is followed by {}, and not by its authority {}".format(*names)
    return ""


def ends_soon(certificate: x509.Certificate) -> str:
    """When a certificate expires, if that is within :data:`SOON`; empty if not."""
    rest = certificate.not_valid_after_utc - datetime.now(timezone.utc)
    if not timedelta() <= rest < SOON:
        return ""
    days = "in less than a day" if rest.days < 1 else f"in {rest.days + 1} days"
    return f"expires {days}, on {_day(certificate.not_valid_after_utc)}"


def subject(certificate: x509.Certificate) -> str:
    """Whom a certificate is about, for a message."""
    return _subject(certificate.subject)


def _subject(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return quoted(str(common[0].value) if common else name.rfc4514_string())


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
