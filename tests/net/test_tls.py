"""TLS contexts from settings, and faults in words: two ends in memory."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa, x25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from monconn.errors import SettingError
from monconn.net.tls import ClientTls, ServerTls, fault_text, handshake_facts
from monconn.net.tls_faults import TlsError
from monconn.policy.tls import BackendTls, Identity, ListenTls
from tests.certificates import Certificate, make_certificate

DNS = x509.DNSName
Make = Callable[..., Certificate]


@attrs.frozen
class Shaken:
    """Two ends after their handshake, and the fault of each in words; empty for none."""

    server: SSL.Connection
    client: SSL.Connection
    server_fault: str
    client_fault: str


def move(source: SSL.Connection, target: SSL.Connection) -> None:
    """Bring what one end has to say to the other one."""
    while True:
        try:
            target.bio_write(source.bio_read(65536))
        except SSL.Error:
            return


def shake(server: ServerTls, client: ClientTls) -> Shaken:
    return shake_ends(server.connection(), client.connection(), client.check_peer)


def shake_ends(
    server: SSL.Connection, client: SSL.Connection, check: Callable[[SSL.Connection], None]
) -> Shaken:
    faults: dict[SSL.Connection, str] = {}
    for _ in range(10):
        for end, other in ((client, server), (server, client)):
            if end in faults:
                continue
            try:
                end.do_handshake()
                if end is client:
                    check(end)
                end.recv(1)  # after a handshake of TLS 1.3 an alert may still come
            except SSL.WantReadError:
                pass
            except (SSL.Error, TlsError) as error:
                faults[end] = fault_text(error, end)
            move(end, other)
    return Shaken(server, client, faults.get(server, ""), faults.get(client, ""))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def _make(name: str, *args: object, **arguments: object) -> Certificate:
        return make_certificate(tmp_path / name, *args, **arguments)  # type: ignore[arg-type]

    return _make


def identity(made: Certificate) -> Identity:
    return Identity(str(made.certificate), str(made.key))


def server_of(made: Certificate, **settings: object) -> ServerTls:
    return ServerTls(ListenTls(str(made.certificate), str(made.key), **settings))  # type: ignore[arg-type]


def client_of(made: Certificate, host: str = "localhost", **settings: object) -> ClientTls:
    return ClientTls(BackendTls(str(made.certificate), **settings), host)  # type: ignore[arg-type]


def shown_name(shaken: Shaken) -> str:
    """The common name of the certificate that the client has seen."""
    certificate = shaken.client.get_peer_certificate()
    assert certificate is not None
    ((name,),) = (
        certificate.to_cryptography().subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME),
    )
    return str(name.value)


# -- handshakes that succeed


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "127.0.0.1"])
def test_a_handshake(make: Make, version: str, host: str) -> None:
    made = make("a")
    server = server_of(made, minimum_version=version)
    shaken = shake(server, client_of(made, host, minimum_version=version))
    assert (shaken.server_fault, shaken.client_fault) == ("", "")
    expected = {"tls_version": "1.3"}
    if host != "127.0.0.1":  # RFC 6066, 3: no literal address, and no dot at the end
        expected["tls_server_name"] = host.removesuffix(".")
    assert handshake_facts(shaken.server) == expected


def test_an_ipv6_address_with_a_zone(make: Make) -> None:
    made = make("a", [x509.IPAddress(ipaddress.ip_address("fe80::1"))])
    shaken = shake(server_of(made), client_of(made, "fe80::1%eth0"))
    assert shaken.client_fault == ""
    assert shaken.server.get_servername() is None


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("www.example.org", "exact"),
        ("WWW.Example.org", "exact"),
        ("mail.example.org", "wildcard"),
        ("a.mail.example.org", "main"),
        ("example.org", "main"),
        ("other.net", "main"),
        ("192.0.2.1", "main"),
    ],
)
def test_a_certificate_by_server_name(make: Make, asked: str, shown: str) -> None:
    made = {name: make(name, common_name=name) for name in ("main", "exact", "wildcard")}
    server = server_of(
        made["main"],
        certificates={
            "www.example.ORG": identity(made["exact"]),
            "*.example.org": identity(made["wildcard"]),
        },
    )
    shaken = shake(server, ClientTls(BackendTls(verify=False), asked))
    assert shaken.client_fault == ""
    assert shown_name(shaken) == shown


@pytest.mark.parametrize("name", ["www.example.org", "other.net"])
@pytest.mark.parametrize(
    ("ours", "offered", "chosen"),
    [
        (["h2", "http/1.1"], ["http/1.1", "h2"], "h2"),
        (["http/1.1"], ["h2", "http/1.1"], "http/1.1"),
        (["h2"], [], None),
        ([], ["h2"], None),
    ],
)
def test_protocols(
    make: Make, name: str, ours: list[str], offered: list[str], chosen: str | None
) -> None:
    made = make("a")
    certificates = {"www.example.org": identity(make("b"))}
    server = server_of(made, alpn=ours, certificates=certificates)
    shaken = shake(server, ClientTls(BackendTls(verify=False, alpn=tuple(offered)), name))
    assert (shaken.server_fault, shaken.client_fault) == ("", "")
    assert handshake_facts(shaken.server).get("alpn") == chosen


def test_a_client_certificate(make: Make) -> None:
    made = make("a")
    own = make("own", common_name="device-7", passphrase=b"sesame")
    passphrase = own.folder / "passphrase"
    passphrase.write_bytes(b"sesame\r\nnot this line\n")
    client = client_of(
        made,
        certificate=str(own.certificate),
        key=str(own.key),
        passphrase_file=str(passphrase),
    )
    server = server_of(made)
    for each in (server._main,):
        each.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    shaken = shake(server, client)
    assert (shaken.server_fault, shaken.client_fault) == ("", "")
    shown = shaken.server.get_peer_certificate()
    assert shown is not None
    assert "device-7" in shown.to_cryptography().subject.rfc4514_string()


@pytest.mark.parametrize("has_chain_apart", [False, True])
def test_a_chain(make: Make, has_chain_apart: bool) -> None:
    root = make("root", [], common_name="root")
    middle = make("middle", [], signer=root, common_name="middle")
    leaf = make("leaf", signer=middle, is_authority=False)
    chain = None
    if has_chain_apart:
        chain = str(middle.certificate)
    else:
        with leaf.certificate.open("ab") as file:
            file.write(middle.certificate.read_bytes())
    server = ServerTls(ListenTls(str(leaf.certificate), str(leaf.key), chain=chain))
    assert shake(server, client_of(root)).client_fault == ""


@pytest.mark.parametrize("suffix", ["pem", "PEM"])
def test_a_folder_of_authorities(make: Make, tmp_path: Path, suffix: str) -> None:
    made, other = make("a"), make("other", common_name="other")
    folder = tmp_path / "authorities"
    folder.mkdir()
    (folder / f"one.{suffix}").write_bytes(other.certificate.read_bytes())
    (folder / f"two.{suffix}").write_bytes(made.certificate.read_bytes())
    (folder / "three.pem").write_text("not a certificate")
    (folder / "four.pem").symlink_to("/no/such/file")
    assert (
        shake(server_of(made), ClientTls(BackendTls(str(folder)), "localhost")).client_fault == ""
    )
    (folder / f"two.{suffix}").rename(folder / "two.txt")
    fault = shake(server_of(made), ClientTls(BackendTls(str(folder)), "localhost")).client_fault
    assert "self-signed" in fault


def test_a_key_in_the_certificates_file(make: Make, tmp_path: Path) -> None:
    made = make("a")
    both = tmp_path / "both.pem"
    both.write_bytes(made.key.read_bytes() + made.certificate.read_bytes())
    assert shake(ServerTls(ListenTls(str(both))), client_of(made)).client_fault == ""


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_sessions_are_resumed(make: Make, version: str) -> None:
    made = make("a")
    certificates = {"localhost": identity(made)}
    server = server_of(made, minimum_version=version, certificates=certificates)
    client = client_of(made, minimum_version=version)
    if version == "1.2":
        client._context.set_max_proto_version(SSL.TLS1_2_VERSION)
    first = shake(server, client)
    session = first.client.get_session()
    assert session is not None
    again = client.connection()
    again.set_session(session)
    second = shake_ends(server.connection(), again, lambda _: None)
    assert (second.server_fault, second.client_fault) == ("", "")
    with pytest.raises(TlsError):  # as none was shown this time
        client.check_peer(again)
    assert handshake_facts(second.server)["tls_server_name"] == "localhost"


def test_backends_with_the_same_settings_share_what_is_big(make: Make) -> None:
    made = make("a")
    one, two = client_of(made, "localhost"), client_of(made, "127.0.0.1")
    assert one._context is two._context
    assert shake(server_of(made), two).client_fault == ""
    made.certificate.write_bytes(make("b").certificate.read_bytes())
    renewed = client_of(made, "localhost")
    assert renewed._context is not one._context
    assert client_of(made, alpn=("h2",))._context is not renewed._context


# -- certificates that are refused


def test_a_certificate_for_others(make: Make) -> None:
    names = [DNS(f"www{number}.example.org") for number in range(7)]
    made = make("a", names)
    for host in ("localhost", "example.org", "x.www1.example.org", "192.0.2.1"):
        shaken = shake(server_of(made), client_of(made, host))
        assert shaken.client_fault == (
            f"the backend's certificate is not for {host}, but for www0.example.org,"
            " www1.example.org, www2.example.org, www3.example.org, www4.example.org and 2 more"
        )
        assert shaken.server_fault.startswith("the client has sent the alert ")


def test_a_server_name_instead_of_the_host(make: Make) -> None:
    made = make("a", [DNS("*.example.org")])
    shaken = shake(server_of(made), client_of(made, "192.0.2.1", server_name="www.example.org"))
    assert shaken.client_fault == ""
    assert shaken.server.get_servername() == b"www.example.org"


@pytest.mark.parametrize("names", [[], [x509.RFC822Name("root@localhost")]])
def test_a_certificate_without_a_host(make: Make, names: list[x509.GeneralName]) -> None:
    made = make("a", names)
    for host in ("localhost", "127.0.0.1"):
        fault = shake(server_of(made), client_of(made, host)).client_fault
        assert fault == "the backend's certificate names no host (subjectAltName)"


def test_a_certificate_with_names_that_cannot_be_read(make: Make) -> None:
    made = make("a", [])
    make_unreadable_extension(made)
    fault = shake(server_of(made), client_of(made)).client_fault
    assert fault.startswith("the backend's certificate ")


def make_unreadable_extension(made: Certificate) -> None:
    """Put a subjectAltName into a certificate that is no list of names."""
    from cryptography.hazmat.primitives import hashes

    key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    old = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x03\x82\x05a")
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(old.serial_number)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(broken, critical=False)
    )
    signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    made.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def test_a_self_signed_certificate(make: Make) -> None:
    fault = shake(server_of(make("a")), client_of(make("b", common_name="b"))).client_fault
    assert fault == (
        "the backend's certificate is not trusted:"
        " it is self-signed, and not one of the trusted certificates"
    )


def test_an_unknown_authority(make: Make) -> None:
    root = make("root", [], common_name="Some root")
    leaf = make("leaf", signer=root, common_name="leaf", is_authority=False)
    fault = shake(server_of(leaf), client_of(make("b", common_name="b"))).client_fault
    assert fault == (
        'the backend\'s certificate is not trusted: its authority "Some root" is not known'
    )


def test_an_untrusted_authority_that_is_shown(make: Make) -> None:
    root = make("root", [], common_name="Some root")
    leaf = make("leaf", signer=root, common_name="leaf", is_authority=False)
    server = ServerTls(ListenTls(str(leaf.certificate), str(leaf.key), None, str(root.certificate)))
    fault = shake(server, client_of(make("b", common_name="b"))).client_fault
    assert fault == (
        'the certificate "Some root" in the backend\'s chain is not trusted:'
        " the authority at the end of its chain is self-signed, and not trusted"
    )


@pytest.mark.parametrize(
    ("days", "text"),
    [((-9, -2), "has expired on 2"), ((2, 9), "is not valid before 2")],
)
def test_a_certificate_out_of_its_time(make: Make, days: tuple[int, int], text: str) -> None:
    made = make("a", days=days)
    fault = shake(server_of(made), client_of(made)).client_fault
    assert fault.startswith(f"the backend's certificate {text}")
    assert fault.endswith(" UTC")


@pytest.mark.parametrize(
    ("days", "text"),
    [((-9, -2), "has expired on 2"), ((2, 9), "is not valid before 2"), ((-1, 1), "")],
)
def test_a_certificate_of_our_own_out_of_its_time(
    make: Make, days: tuple[int, int], text: str
) -> None:
    """No error: clients may have another clock, or look away; but whoever runs it should know."""
    names = (x509.DNSName("www.example.org"),)
    made, right = make("a", names, days=days), make("b")
    for server in (
        server_of(made),
        server_of(right, certificates={"www.example.org": identity(made)}),
    ):
        warnings = [f'the certificate in "{made.certificate}" {text}'] if text else []
        assert len(server.warnings) == len(warnings)
        for warning, begin in zip(server.warnings, warnings, strict=True):
            assert warning.startswith(begin)


def test_a_certificate_for_clients_only(make: Make) -> None:
    """One with an extended key usage that leaves servers out."""
    from cryptography.hazmat.primitives import hashes

    root = make("root", [], common_name="root")
    leaf = make("leaf", signer=root, common_name="leaf")
    key = serialization.load_pem_private_key(root.key.read_bytes(), None)
    old = x509.load_pem_x509_certificate(leaf.certificate.read_bytes())
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(old.serial_number)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
        .add_extension(usage, critical=False)
    )
    signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    leaf.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    fault = shake(server_of(leaf), client_of(root)).client_fault
    assert fault == "the backend's certificate is not trusted: it is not meant for TLS servers"


def test_the_operating_systems_authorities(make: Make) -> None:
    fault = shake(server_of(make("a")), ClientTls(BackendTls(), "localhost")).client_fault
    assert "not trusted" in fault


def test_no_certificate_at_all(make: Make) -> None:
    """An anonymous cipher has none to check: nothing is proved, and so it is refused."""
    client = client_of(make("a"))
    with pytest.raises(TlsError, match="has shown no certificate"):
        client.check_peer(client.connection())
    ClientTls(BackendTls(verify=False), "localhost").check_peer(client.connection())


# -- handshakes that fail


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "the client speaks plain HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the client does not speak TLS"),
        (bytes(range(256)), "the client does not speak TLS"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "the client has left amid the handshake"),
        (b"", "the client has left amid the handshake"),
    ],
)
def test_what_is_no_handshake(make: Make, sent: bytes, text: str) -> None:
    server = server_of(make("a")).connection()
    if sent:
        server.bio_write(sent)
    server.bio_shutdown()
    with pytest.raises(SSL.Error) as raised:
        server.do_handshake()
    assert fault_text(raised.value, server) == text


def test_no_cipher_in_common(make: Make) -> None:
    made = make("a")
    server = server_of(made, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
    client = client_of(made, ciphers="ECDHE-ECDSA-AES256-GCM-SHA384")
    client._context.set_max_proto_version(SSL.TLS1_2_VERSION)
    shaken = shake(server, client)
    assert shaken.server_fault == "the client has no cipher in common with us"
    assert shaken.client_fault == (
        "the backend has sent the alert handshake_failure:"
        " it misses something, such as a cipher in common or a certificate"
    )


def test_a_version_that_is_too_old(make: Make) -> None:
    made = make("a")
    server, client = server_of(made, minimum_version="1.3"), client_of(made)
    client._context.set_max_proto_version(SSL.TLS1_2_VERSION)
    shaken = shake(server, client)
    assert shaken.server_fault == ("the client has only versions of TLS below the minimum_version")
    assert shaken.client_fault == (
        "the backend has sent the alert protocol_version: it has no version of TLS in common"
    )


def test_no_protocol_in_common(make: Make) -> None:
    made = make("a")
    shaken = shake(server_of(made, alpn=["h2"]), client_of(made, alpn=("mqtt", "x")))
    assert shaken.server_fault == ("the client offers none of our protocols (ALPN), but mqtt, x")
    assert shaken.client_fault in (
        "the backend has sent the alert no_application_protocol:"
        " it has no protocol in common (ALPN)",
        "the backend has sent an alert that OpenSSL has no name for",  # releases before 3.3
    )


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_client_that_does_not_trust_us(make: Make, version: str) -> None:
    server = server_of(make("a"), minimum_version=version)
    client = client_of(make("b", common_name="b"))
    if version == "1.2":
        client._context.set_max_proto_version(SSL.TLS1_2_VERSION)
    assert shake(server, client).server_fault == (
        "the client has sent the alert unknown_ca: it does not trust the certificate's authority"
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SSL.SysCallError(104, "ECONNRESET"), "ECONNRESET"),
        (SSL.SysCallError(-1, "Unexpected EOF"), "the client has left amid the handshake"),
        (ConnectionResetError(104, "Connection reset by peer"), "ECONNRESET"),
        (SSL.ZeroReturnError(), "the client has ended TLS (close_notify)"),
        (SSL.Error([]), "TLS has failed"),
        (
            SSL.Error([("SSL routines", "", "")]),
            "the client has sent an alert that OpenSSL has no name for",
        ),
        (SSL.Error([("SSL routines", "", "something new")]), "TLS has failed: something new"),
        (
            SSL.Error([("a", "b", "asn1 lib"), ("SSL routines", "", "odd\n\x1b[2Jthing")]),
            "TLS has failed: odd\\n\\x1b[2Jthing",
        ),
        (
            SSL.Error([("SSL routines", "", "ssl/tls alert certificate unknown")]),
            "the client has sent the alert certificate_unknown: it does not accept the certificate",
        ),
        (
            SSL.Error([("SSL routines", "", "sslv3 alert bad certificate")]),
            "the client has sent the alert bad_certificate: it cannot use the certificate",
        ),
        (
            SSL.Error([("SSL routines", "", "tlsv1 unrecognized name")]),
            "the client has sent the alert unrecognized_name: it does not know the server name",
        ),
    ],
)
def test_texts(make: Make, error: Exception, text: str) -> None:
    connection = server_of(make("a")).connection()
    assert fault_text(error, connection) == text


# -- files and settings that cannot be used


def problems_of(settings: ListenTls | BackendTls) -> dict[tuple[str, ...], str]:
    def load() -> object:
        if isinstance(settings, ListenTls):
            return ServerTls(settings)
        return ClientTls(settings, "localhost")

    with pytest.raises(TlsError) as raised:
        load()
    error = raised.value
    found = dict(error.found)
    assert len(found) == len(error.found)
    assert all(message in str(error) for message in found.values())
    return found


def test_files_that_are_not_there(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    found = problems_of(
        ListenTls(
            missing, missing, missing, missing, {"www.example.org": Identity(missing, missing)}
        )
    )
    text = f'"{missing}" cannot be read: No such file or directory'
    assert found == {
        ("certificate",): text,
        ("passphrase_file",): text,
        ("chain",): text,
        ("certificates", "www.example.org", "certificate"): text,
        ("certificates", "www.example.org", "key"): text,
    }
    assert problems_of(BackendTls(missing, certificate=missing)) == {
        ("ca",): text,
        ("certificate",): text,
    }


def test_a_relative_path_that_is_not_there_says_where_it_was_looked_for() -> None:
    advice = "(relative paths are those of the folder in which monconn is started)"
    assert problems_of(ListenTls("no/such.pem", "no/such.key"))[("key",)].endswith(advice)


def test_files_without_what_they_should_have(make: Make, tmp_path: Path) -> None:
    made = make("a")
    certificate, key = str(made.certificate), str(made.key)
    assert "has no certificate in PEM" in problems_of(ListenTls(key))[("certificate",)]
    alone = problems_of(ListenTls(certificate))[("certificate",)]
    assert "has no private key in PEM" in alone
    assert alone.endswith(": name the file that has it as key")
    swapped = problems_of(ListenTls(key, certificate))
    assert "has no certificate in PEM" in swapped[("certificate",)]
    assert "has no private key in PEM" in swapped[("key",)]
    (tmp_path / "empty").mkdir()
    assert "has no *.pem file" in problems_of(BackendTls(str(tmp_path / "empty")))[("ca",)]
    assert "has no certificate in PEM" in problems_of(BackendTls(key))[("ca",)]


def test_a_certificate_and_a_key_that_are_damaged(make: Make) -> None:
    made = make("a")
    lines = made.certificate.read_text().splitlines()
    made.certificate.write_text("\n".join([lines[0], "AAAA", *lines[2:]]))
    lines = made.key.read_text().splitlines()
    made.key.write_text("\n".join([lines[0], "AAAA", lines[-1]]))
    found = problems_of(ListenTls(str(made.certificate), str(made.key)))
    assert "has a certificate that cannot be read" in found[("certificate",)]
    assert "key cannot be used" in found[("key",)]


def write_key(folder: Path, key: Any, format: serialization.PrivateFormat) -> str:
    path = folder / "other.pem"
    nothing = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, format, nothing))
    return str(path)


def test_a_key_of_another_certificate(make: Make, tmp_path: Path) -> None:
    made, other = make("a"), make("b")
    found = problems_of(ListenTls(str(made.certificate), str(other.key)))
    assert found == {
        ("key",): f'the key in "{other.key}" is not that of the first certificate in'
        f' "{made.certificate}"'
    }
    rsa_key = rsa.generate_private_key(65537, 2048)
    path = write_key(tmp_path, rsa_key, serialization.PrivateFormat.TraditionalOpenSSL)
    found = problems_of(ListenTls(str(made.certificate), path))
    assert "is not that of the first certificate" in found[("key",)]


def test_keys_of_kinds_that_tls_has_not(make: Make, tmp_path: Path) -> None:
    made = make("a")
    key = x25519.X25519PrivateKey.generate()
    path = write_key(tmp_path, key, serialization.PrivateFormat.PKCS8)
    found = problems_of(ListenTls(str(made.certificate), path))
    assert "is not that of the first certificate in" in found[("key",)]


def test_passphrases(make: Make, tmp_path: Path) -> None:
    made = make("a", passphrase=b"sesame")
    certificate, key = str(made.certificate), str(made.key)
    wrong, empty, right = (tmp_path / name for name in ("wrong", "empty", "right"))
    wrong.write_text("other\n")
    empty.write_text("\nsesame\n")
    right.write_text("sesame")
    assert "name its passphrase_file" in problems_of(ListenTls(certificate, key))[("key",)]
    found = problems_of(ListenTls(certificate, key, str(wrong)))
    assert found == {("key",): f'the passphrase is wrong for the key in "{key}"'}
    found = problems_of(ListenTls(certificate, key, str(empty)))
    assert found == {("passphrase_file",): f'"{empty}" has no passphrase in its first line'}
    ServerTls(ListenTls(certificate, key, str(right)))
    plain = make("plain")
    ServerTls(ListenTls(str(plain.certificate), str(plain.key), str(right)))


@pytest.mark.parametrize(
    ("ciphers", "text"),
    [
        ("AES128-SHA:NONSENSE", 'OpenSSL does not know "NONSENSE"'),
        ("!NONSENSE:ALL", 'OpenSSL does not know "!NONSENSE"'),
        ("@NONSENSE", 'OpenSSL does not know "@NONSENSE"'),
    ],
)
def test_unknown_ciphers(make: Make, ciphers: str, text: str) -> None:
    made = make("a")
    settings = ListenTls(str(made.certificate), str(made.key), ciphers=ciphers)
    assert text in problems_of(settings)[("ciphers",)]


@pytest.mark.parametrize(
    "ciphers",
    [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "HIGH:!aNULL:!MD5",
        "ECDHE+AESGCM:ECDHE+CHACHA20",
        "DEFAULT@SECLEVEL=1".replace("@", ":@"),
        "ALL:@STRENGTH",
    ],
)
def test_known_ciphers(make: Make, ciphers: str) -> None:
    made = make("a")
    assert shake(server_of(made, ciphers=ciphers), client_of(made)).client_fault == ""


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"minimum_version": "1.1"}, 'must be "1.2" or "1.3"'),
        ({"ciphers": "TLS_AES_128_GCM_SHA256"}, "is of TLS 1.3"),
        ({"ciphers": ""}, "must not be empty"),
        ({"alpn": ["h2", "h2"]}, "must name each protocol once"),
        ({"alpn": ["h\n2"]}, "must be a list of names"),
        ({"alpn": ["x" * 256]}, "1 to 255 bytes"),
        ({"alpn": "h2"}, "must be a list"),
        ({"certificates": {"*": Identity("x")}}, "must be a host name"),
        ({"certificates": {"a": Identity("x"), "A": Identity("y")}}, "each server name once"),
        ({"certificates": {"a": "x"}}, "must be a mapping"),
        ({"certificate": ""}, "must not be empty"),
        ({"key": 5}, "must be a text"),
    ],
)
def test_settings_that_are_not_valid(settings: dict[str, object], text: str) -> None:
    with pytest.raises(SettingError, match="ListenTls") as raised:
        ListenTls(**{"certificate": "x", **settings})  # type: ignore[arg-type]
    assert text in str(raised.value)


def test_a_server_name_that_is_not_valid() -> None:
    for name in ("a b", "*.example.org", "-"):
        with pytest.raises(SettingError, match="neither an IP address nor a host name"):
            BackendTls(server_name=name)
