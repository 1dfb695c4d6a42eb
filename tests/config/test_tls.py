"""TLS in a configuration: its keys, endpoint strings that mean the same, and what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from monconn.addresses import Address, EndpointAddress, TcpAddress, parse_backend, parse_listen
from monconn.config import config
from monconn.config.config import ServiceConfig
from monconn.errors import ConfigError, SettingError
from monconn.policy.tls import BackendTls, Identity, ListenTls
from monconn.policy.tls_endpoints import tls_backend, tls_backend_parts, tls_listener
from tests import ROOT
from tests.certificates import Certificate, make_certificate

PAGE = (ROOT / "docs" / "tls.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("other"), common_name="other")


def service(**keys: Any) -> ServiceConfig:
    """One service, its file written as JSON, which is YAML."""
    keys = {"listen": "127.0.0.1:0", "backend": "10.0.0.5:80", **keys}
    (one,) = config.parse(json.dumps({"services": {"web": keys}}), "monconn.yaml").services
    return one


def problems(**keys: Any) -> dict[str, str]:
    """The messages for one service, by the path of the key below it."""
    with pytest.raises(ConfigError) as raised:
        service(**keys)
    found = {
        each.path.removeprefix("services.web."): each.message for each in raised.value.problems
    }
    assert len(found) == len(raised.value.problems)
    return found


# -- the keys


def test_tls_of_a_listener(made: Certificate, other: Certificate) -> None:
    certificate, key = str(made.certificate), str(made.key)
    identity = {"certificate": str(other.certificate), "key": str(other.key)}
    config = service(
        tls={
            "certificate": certificate,
            "key": key,
            "certificates": {"WWW.example.org": identity, "*.example.org": identity},
            "minimum_version": 1.3,
            "ciphers": "ECDHE+AESGCM",
            "alpn": ["h2", "http/1.1"],
            "handshake_timeout": "3s",
        }
    )
    expected = Identity(str(other.certificate), str(other.key))
    assert config.tls == ListenTls(
        certificate,
        key,
        certificates={"www.example.org": expected, "*.example.org": expected},
        minimum_version="1.3",
        ciphers="ECDHE+AESGCM",
        alpn=("h2", "http/1.1"),
        handshake_timeout=3.0,
    )
    assert config.listening() == (TcpAddress("127.0.0.1", 0), config.tls)


def test_the_smallest_tls_and_its_defaults(made: Certificate) -> None:
    config = service(
        listen="unix:/run/web.sock",
        tls={"certificate": str(made.certificate), "key": str(made.key), "alpn": "mqtt"},
    )
    assert config.tls == ListenTls(str(made.certificate), str(made.key), alpn=("mqtt",))
    assert config.tls.minimum_version == "1.2"
    assert config.tls.handshake_timeout == 10.0


def test_tls_of_a_backend(made: Certificate) -> None:
    backend_tls = {
        "ca": str(made.certificate),
        "server_name": "www.example.org",
        "alpn": ["h2"],
        "minimum_version": "1.3",
        "certificate": str(made.certificate),
        "key": str(made.key),
    }
    config = service(backend="tls:10.0.0.5:443", backend_tls=backend_tls)
    expected = BackendTls(
        str(made.certificate),
        server_name="www.example.org",
        alpn=("h2",),
        minimum_version="1.3",
        certificate=str(made.certificate),
        key=str(made.key),
    )
    assert config.backend_tls == expected
    assert config.forwarding() == (TcpAddress("10.0.0.5", 443), expected)
    assert str(config.backend) == "tls:10.0.0.5:443"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tls:www.example.org:443", TcpAddress("www.example.org", 443)),
        ("TLS:www.example.org.:443", TcpAddress("www.example.org.", 443)),
        ("tls:10.0.0.5:8883", TcpAddress("10.0.0.5", 8883)),
        ("tls:[::1]:8883", TcpAddress("::1", 8883)),
        (r"tls:\:\:1:8883", TcpAddress("::1", 8883)),
        ("tls:host=www.example.org:port=443", TcpAddress("www.example.org", 443)),
    ],
)
def test_a_backend_without_settings_is_verified(text: str, address: TcpAddress) -> None:
    config = service(backend=text)
    assert config.backend == EndpointAddress(text)
    assert config.forwarding() == (address, BackendTls())
    verify = BackendTls(verify=False)
    config = service(backend=text, backend_tls={"verify": False})
    assert config.forwarding() == (address, verify)


def test_plain_addresses_have_none() -> None:
    config = service()
    assert config.listening() == (config.listen, None)
    assert config.forwarding() == (config.backend, None)


# -- endpoint strings


def own_listener(text: str) -> Any:
    return tls_listener(parse_listen(text))


def own_backend(text: str) -> Any:
    return tls_backend(parse_backend(text))


EVERYWHERE = TcpAddress("0.0.0.0", 443)


@pytest.mark.parametrize(
    ("text", "address", "settings"),
    [
        ("ssl:443", EVERYWHERE, ListenTls("server.pem")),
        ("SSL:port=443", EVERYWHERE, ListenTls("server.pem")),
        ("ssl:443:privateKey=both.pem", EVERYWHERE, ListenTls("both.pem")),
        ("ssl:443:privateKey=k:certKey=c", EVERYWHERE, ListenTls("c", "k")),
        ("ssl:443:certKey=c", EVERYWHERE, ListenTls("c", "server.pem")),
        (
            r"ssl:443:privateKey=a\:b:certKey=c:extraCertChain=d",
            EVERYWHERE,
            ListenTls("c", "a:b", chain="d"),
        ),
        ("ssl:443:interface=127.0.0.1", TcpAddress("127.0.0.1", 443), ListenTls("server.pem")),
        (r"ssl:443:interface=\:\:1", TcpAddress("::1", 443), ListenTls("server.pem")),
    ],
)
def test_listeners_whose_tls_is_ours(text: str, address: TcpAddress, settings: ListenTls) -> None:
    assert own_listener(text) == (address, settings)


@pytest.mark.parametrize(
    "text",
    [
        ":443",
        "unix:/run/web.sock",
        "ssl:443:sslmethod=TLSv1_2_METHOD",
        "ssl:443:dhParameters=dh.pem",
        "ssl:443:backlog=5",
        "ssl:443:k.pem",
        "ssl:https",
        "ssl:443:interface=not a host",
        "ssl:443:certKey=a:certKey=b",
        "ssl:443:privateKey=",
        "ssl:certKey=c",
        "tls:/etc/keys:443",
        "systemd:domain=INET:index=0",
    ],
)
def test_listeners_of_twisted(text: str) -> None:
    assert own_listener(text) is None


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("tls:web:443", BackendTls()),
        ("tls:web:443:trustRoots=/ca", BackendTls("/ca")),
        ("tls:web:443:certificate=c", BackendTls(certificate="c")),
        (
            "tls:web:443:privateKey=k:trustRoots=/ca:certificate=c",
            BackendTls("/ca", certificate="c", key="k"),
        ),
        ("ssl:web:443", BackendTls(verify=False, server_name="")),
        ("ssl:host=web:port=443", BackendTls(verify=False, server_name="")),
        ("ssl:web:443:hostname=www.example.org", BackendTls(server_name="www.example.org")),
        (
            "ssl:web:443:hostname=w:caCertsDir=/ca:certKey=c:privateKey=k",
            BackendTls("/ca", server_name="w", certificate="c", key="k"),
        ),
    ],
)
def test_backends_whose_tls_is_ours(text: str, settings: BackendTls) -> None:
    assert own_backend(text) == (TcpAddress("web", 443), settings)


@pytest.mark.parametrize(
    "text",
    [
        "web:443",
        "tls:web",
        "tls:web:443:bogus=1",
        "tls:web:443:privateKey=k",
        "tls:web:0",
        "tls:a b:443",
        "tls:web:443:trustRoots=",
        "ssl:web:443:caCertsDir=/ca",
        "ssl:web:443:certKey=c",
        "unix:/run/web.sock",
        "tcp:web:443:timeout=5",
    ],
)
def test_backends_of_twisted(text: str) -> None:
    assert own_backend(text) is None
    assert tls_backend_parts(parse_backend(text)) is None


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("tls:web:443:timeout=5", {"timeout": "5"}),
        ("tls:web:443:bindAddress=10.0.0.1", {"bindAddress": "10.0.0.1"}),
        (r"tls:web:443:endpoint=unix\:/run/web", {"endpoint": "unix:/run/web"}),
    ],
)
def test_backends_that_twisted_connects_to_with_our_tls(text: str, options: dict[str, str]) -> None:
    assert own_backend(text) is None
    expected = (TcpAddress("web", 443), BackendTls(), options)
    assert tls_backend_parts(parse_backend(text)) == expected


def test_two_listeners_at_one_place(made: Certificate) -> None:
    ssl = f"ssl:443:privateKey={made.key}:certKey={made.certificate}"
    services = {
        "a": {"listen": "0.0.0.0:443", "backend": ":1"},
        "b": {"listen": ssl, "backend": ":1"},
    }
    with pytest.raises(ConfigError, match='the service "a" listens there already'):
        config.parse(json.dumps({"services": services}), "monconn.yaml")


# -- what is wrong


def test_files_are_read(made: Certificate, other: Certificate, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    cannot = f'"{missing}" cannot be read: No such file or directory'
    assert problems(
        backend="tls:web:443",
        tls={
            "certificate": missing,
            "key": missing,
            "ciphers": "NONSENSE",
            "certificates": {
                "www.example.org": {"certificate": missing, "passphrase_file": missing}
            },
        },
        backend_tls={"ca": missing, "certificate": missing},
    ) == {
        "tls.certificate": cannot,
        "tls.key": cannot,
        "tls.ciphers": 'OpenSSL does not know "NONSENSE": see openssl ciphers -v ALL',
        "tls.certificates.www.example.org.certificate": cannot,
        "tls.certificates.www.example.org.passphrase_file": cannot,
        "backend_tls.ca": cannot,
        "backend_tls.certificate": cannot,
    }
    found = problems(tls={"certificate": str(made.certificate), "key": str(other.key)})
    assert "is not that of the first certificate in" in found["tls.key"]
    ssl = f"ssl:443:privateKey={other.key}:certKey={made.certificate}"
    assert "is not that of the first certificate in" in problems(listen=ssl)["listen"]
    found = problems(backend=f"tls:web:443:trustRoots={missing}")
    assert found == {"backend": cannot}


@pytest.mark.parametrize(
    ("keys", "path", "message"),
    [
        ({"tls": {"key": "k"}}, "tls.certificate", "is missing, and has no default"),
        ({"tls": {"certificate": "c", "keys": "k"}}, "tls.keys", "did you mean key?"),
        ({"tls": True}, "tls", "must be a mapping such as {certificate: FILE, key: FILE}"),
        ({"tls": {"certificate": " "}}, "tls.certificate", "must be the path of a file"),
        ({"tls": {"certificate": "c", "minimum_version": 1.1}}, "tls.minimum_version", '"1.2" or'),
        ({"tls": {"certificate": "c", "ciphers": "TLS_AES_128_GCM_SHA256"}}, "tls.ciphers", "1.3"),
        ({"tls": {"certificate": "c", "alpn": ["a", "a"]}}, "tls.alpn", "each protocol once"),
        (
            {"tls": {"certificate": "c", "handshake_timeout": 0}},
            "tls.handshake_timeout",
            "must be more than 0",
        ),
        (
            {"tls": {"certificate": "c", "certificates": {"a b": {"certificate": "x"}}}},
            "tls.certificates.a b",
            "must be a host name such as",
        ),
        (
            {"tls": {"certificate": "c", "certificates": {"a": {}}}},
            "tls.certificates.a.certificate",
            "is missing",
        ),
        (
            {"tls": {"certificate": "c", "certificates": ["a"]}},
            "tls.certificates",
            "must be a mapping such as",
        ),
        ({"backend_tls": {"server_name": "a b"}}, "backend_tls.server_name", "neither an IP"),
        ({"backend_tls": {"verify": "maybe"}}, "backend_tls.verify", "must be true or false"),
        ({"backend_tls": {"key": "k"}}, "backend_tls.key", "belongs to a certificate"),
    ],
)
def test_values(made: Certificate, keys: dict[str, Any], path: str, message: str) -> None:
    if isinstance(keys.get("tls"), dict) and keys["tls"].get("certificate") == "c":
        keys = {"tls": {"key": str(made.key), **keys["tls"], "certificate": str(made.certificate)}}
    found = problems(**{"backend": "tls:web:443", **keys})
    assert message in found[path]
    assert list(found) == [path]


def test_every_problem_is_found_at_once(made: Certificate) -> None:
    """Files are read beside a key that is wrong, and addresses compared with keys that are."""
    found = problems(
        backend="web:443",
        tls={"certificate": str(made.key), "key": str(made.certificate), "minimum_version": "1.1"},
        backend_tls={"bogus": 1},
    )
    assert sorted(found) == [
        "backend_tls",
        "backend_tls.bogus",
        "tls.certificate",
        "tls.key",
        "tls.minimum_version",
    ]


def test_keys_that_have_no_meaning_beside_an_address(made: Certificate) -> None:
    tls = {"certificate": str(made.certificate), "key": str(made.key)}
    ssl = f"ssl:443:privateKey={made.key}:certKey={made.certificate}"
    for listen in (ssl, "tcp:443:backlog=5"):
        assert "is for listen: HOST:PORT" in problems(listen=listen, tls=tls)["tls"]
    for backend, message in (
        ("web:443", 'write it as "tls:web:443"'),
        ("unix:/run/web", '"tls:HOST:PORT"'),
        ("tls:web:443:timeout=5", '"tls:HOST:PORT"'),
        ("ssl:web:443", 'is for "tls:web:443" alone'),
        (f"tls:web:443:trustRoots={made.certificate.parent}", 'is for "tls:web:443" alone'),
    ):
        found = problems(backend=backend, backend_tls={"verify": True})
        assert message in found["backend_tls"]


@pytest.mark.parametrize(
    ("listen", "backend", "settings"),
    [
        (EndpointAddress("ssl:443"), TcpAddress("web", 80), {"tls": ListenTls("c")}),
        (TcpAddress("", 443), TcpAddress("web", 80), {"backend_tls": BackendTls()}),
    ],
)
def test_python_code_hears_of_it_too(
    listen: Address, backend: Address, settings: dict[str, Any]
) -> None:
    """Else what was to be encrypted would not be."""
    with pytest.raises(SettingError, match=r"^web: (backend_)?tls is for"):
        ServiceConfig("web", listen, backend, **settings)


def test_tls_belongs_to_one_service() -> None:
    text = 'defaults: {tls: {certificate: c}}\nservices: {web: {listen: ":1", backend: ":2"}}'
    with pytest.raises(ConfigError, match=r"defaults\.tls: belongs to one service"):
        config.parse(text, "monconn.yaml")


# -- the page


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_configurations_of_the_page(
    block: str, made: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # for those with relative paths
    for name in set(re.findall(r"(?:/etc/monconn/|: )(\w[\w.]*\.\w+)", block)):
        source = made.key if name.endswith(".key") else made.certificate
        (tmp_path / name).write_bytes(source.read_bytes())
    parsed = config.parse(block.replace("/etc/monconn", str(tmp_path)), "tls.md")
    assert len(parsed.services) == 1


@pytest.mark.parametrize(("table", "cls"), [("tls", ListenTls), ("backend_tls", BackendTls)])
def test_the_tables_of_the_page_are_complete(table: str, cls: type) -> None:
    rows = PAGE.partition(f"| key of `{table}` |")[2].partition("\n\n")[0]
    keys = [
        key for row in rows.splitlines()[2:] for key in re.findall(r"`(\w+)`", row.split("|")[1])
    ]
    assert sorted(keys) == sorted(each.name for each in attrs.fields(cls))
    defaults = {each.name: each.default for each in attrs.fields(cls)}
    for key, default in re.findall(r"^\| `(\w+)` \| `?([\w.]+)`? \|", rows, re.MULTILINE):
        shown = str(defaults[key]).lower().removesuffix(".0")
        assert default in (shown, "none") or key == "certificate", key
