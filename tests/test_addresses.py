"""Parsing addresses, pairs and networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from monconn import addresses
from monconn.addresses import (
    Address,
    EndpointAddress,
    TcpAddress,
    UnixAddress,
    parse_backend,
    parse_host,
    parse_listen,
    parse_network,
    plain_ip,
    refuse_local_names,
    split_pair,
)
from monconn.errors import AddressError
from monconn.policy import networks as bans

LISTEN = [
    (":80", TcpAddress("", 80)),
    (":0", TcpAddress("", 0)),
    (":65535", TcpAddress("", 65535)),
    (" :80 ", TcpAddress("", 80)),
    ("0.0.0.0:80", TcpAddress("0.0.0.0", 80)),
    ("name:80", TcpAddress("name", 80)),
    ("my_service-2.example.org.:80", TcpAddress("my_service-2.example.org.", 80)),
    ("monconn:80", TcpAddress("monconn", 80)),
    ("1a.2b:80", TcpAddress("1a.2b", 80)),
    ("[::1]:80", TcpAddress("::1", 80)),
    ("[::]:80", TcpAddress("::", 80)),
    ("[2001:DB8:0:0::1]:80", TcpAddress("2001:db8::1", 80)),
    ("[fe80::1%eth0]:80", TcpAddress("fe80::1%eth0", 80)),
    ("[::ffff:10.0.0.1]:80", TcpAddress("10.0.0.1", 80)),
    ("tcp:8080", TcpAddress("0.0.0.0", 8080)),
    ("TCP:8080", TcpAddress("0.0.0.0", 8080)),
    ("tcp:port=80", TcpAddress("0.0.0.0", 80)),
    ("tcp:8080:interface=127.0.0.1", TcpAddress("127.0.0.1", 8080)),
    ("tcp:8080:127.0.0.1", TcpAddress("127.0.0.1", 8080)),
    ("tcp:interface=127.0.0.1:port=0", TcpAddress("127.0.0.1", 0)),
    (r"tcp:80:interface=\:\:1", TcpAddress("::1", 80)),
    ("tcp6:80", TcpAddress("::", 80)),
    (r"tcp6:80:interface=\:\:1", TcpAddress("::1", 80)),
    ("tcp:80:backlog=5", EndpointAddress("tcp:80:backlog=5")),
    ("tcp:80:127.0.0.1:5", EndpointAddress("tcp:80:127.0.0.1:5")),
    ("unix:/run/web.sock", UnixAddress("/run/web.sock")),
    ("unix:web.sock", UnixAddress("web.sock")),
    ("unix:/run/web.sock:mode=600", UnixAddress("/run/web.sock", 0o600)),
    ("unix:address=/run/web.sock:mode=0660", UnixAddress("/run/web.sock", 0o660)),
    ("unix:mode=600:address=/run/web.sock", UnixAddress("/run/web.sock", 0o600)),
    ("unix:/run/a=b", UnixAddress("/run/a=b")),
    (r"unix:/run/a\:b", UnixAddress("/run/a:b")),
    ("unix:" + "a" * 107, UnixAddress("a" * 107)),
    ("unix:/run/w:lockfile=0", EndpointAddress("unix:/run/w:lockfile=0")),
    ("ssl:443", EndpointAddress("ssl:443")),
    ("ssl:443:privateKey=k.pem", EndpointAddress("ssl:443:privateKey=k.pem")),
    ("tls:/etc/keys:443", EndpointAddress("tls:/etc/keys:443")),
    ("systemd:domain=INET:index=0", EndpointAddress("systemd:domain=INET:index=0")),
    ("onion:public_port=80", EndpointAddress("onion:public_port=80")),
]

BACKEND = [
    (":80", TcpAddress("127.0.0.1", 80)),
    ("10.0.0.5:80", TcpAddress("10.0.0.5", 80)),
    ("[::1]:80", TcpAddress("::1", 80)),
    ("tcp:web:80", TcpAddress("web", 80)),
    ("tcp:host=web:port=80", TcpAddress("web", 80)),
    ("tcp:host=web:80", TcpAddress("web", 80)),
    ("tcp:web:port=80", TcpAddress("web", 80)),
    (r"tcp:\:\:1:80", TcpAddress("::1", 80)),
    ("tcp:web:80:timeout=3", EndpointAddress("tcp:web:80:timeout=3")),
    ("tcp:web:80:bindAddress=10.0.0.1", EndpointAddress("tcp:web:80:bindAddress=10.0.0.1")),
    ("tcp6:web:80", EndpointAddress("tcp6:web:80")),
    ("tls:web:443", EndpointAddress("tls:web:443")),
    ("unix:/run/web.sock", UnixAddress("/run/web.sock")),
    ("unix:path=/run/web.sock", UnixAddress("/run/web.sock")),
]

# Addresses that are wrong on either side, and text that the message must contain.
WRONG = [
    ("", "empty"),
    ("  ", "empty"),
    ("80", "colon before it: :80"),
    ("web", "no port"),
    ("web:", "must be a number"),
    ("web:80a", "must be a number"),
    ("web:-1", "must be a number"),
    ("web:+80", "must be a number"),
    ("web: 80", "must be a number"),
    ("web:\u0668\u0660", "must be a number"),
    (":65536", "65535"),
    (":" + "9" * 50, "65535"),
    ("300.1.2.3:80", "neither an IP address nor a host name"),
    ("1.2.3:80", "neither an IP address nor a host name"),
    ("22:22", "neither an IP address nor a host name"),
    ("010.0.0.1:80", "neither an IP address nor a host name"),
    ("-web:80", "neither an IP address nor a host name"),
    ("a..b:80", "neither an IP address nor a host name"),
    ("w eb:80", "neither an IP address nor a host name"),
    ("a" * 64 + ":80", "neither an IP address nor a host name"),
    ("a." * 127 + "a:80", "neither an IP address nor a host name"),
    ("::1:80", "write [::1]:80"),
    ("fe80::1%eth0:80", "write [fe80::1%eth0]:80"),
    ("2001:db8::a", "write [2001:db8::a]:80"),
    ("a:b:c", "too many colons"),
    ("a:b:80", "too many colons"),
    ("[::1]", "no port"),
    ("[::1", "not an IPv6 address"),
    ("[::1]x:80", "not an IPv6 address"),
    ("[::g]:80", "not an IPv6 address"),
    ("[::1%e th]:80", "not an IPv6 address"),
    ("[fe80::1]:80", "write its interface, too, fe80::1%eth0"),
    ("[127.0.0.1]:80", "brackets are for IPv6"),
    ("http://web:80", "is a URL"),
    ("unix:", "path is missing"),
    ("unix:mode=600", "path is missing"),
    ("unix:" + "a" * 108, "at most 107"),
    ("unix:" + "é" * 54, "at most 107"),
    ("unix:/a\0b", "NUL"),
    ("unix:/a\ud800", "cannot be a path"),
    ("unix:/run/a:b", r"\:"),
    ("tcp:", "port"),
    ("tcp:port=x", "port"),
    ("ssl:a\\", "backslash"),
    ("x" * 5000, "too long"),
]

WRONG_TO_LISTEN_ON = [
    ("*:80", ":80"),
    ("unix:/run/w:mode=999", "octal"),
    ("unix:/run/w:mode=6", "octal"),
    ("tcp:interface=127.0.0.1", "no port"),
    ("tcp:80:interface=1.2.3", "neither"),
    ("tcp6:80:interface=127.0.0.1", "not an IPv6 address"),
]

WRONG_TO_CONNECT_TO = [
    (":0", "from 1 to 65535"),
    ("*:80", "neither"),
    ("tcp:web", "no port"),
    ("tcp:host=:port=80", "neither"),
    ("unix:/run/w:mode=600", "mode= is for a socket to listen on"),
]


@pytest.mark.parametrize(("text", "address"), LISTEN)
def test_listen(text: str, address: Address) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize(("text", "address"), BACKEND)
def test_backend(text: str, address: Address) -> None:
    assert parse_backend(text) == address


@pytest.mark.parametrize(("text", "expected_text"), WRONG + WRONG_TO_LISTEN_ON)
def test_invalid_to_listen_on(text: str, expected_text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_listen(text)
    assert expected_text in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("text", "expected_text"), WRONG + WRONG_TO_CONNECT_TO)
def test_invalid_to_connect_to(text: str, expected_text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_backend(text)
    assert expected_text in str(caught.value)
    assert str(caught.value).isprintable()


def refusal(parse: Callable[[str], object], text: str) -> str | None:
    """The message for a text that is refused; None for one that is accepted."""
    try:
        parse(text)
    except AddressError as error:
        return str(error)
    return None


texts = st.text() | st.text(alphabet="[]:=.%\\/*01afgtcpunix6", max_size=30)


either_side = st.sampled_from([parse_listen, parse_backend])


@given(parse=either_side, text=texts)
def test_a_refusal_always_has_a_message(parse: Callable[[str], object], text: str) -> None:
    message = refusal(parse, text)
    assert message is None or (message and message.isprintable())


names = st.from_regex(r"[a-z][a-z0-9_-]{0,9}[a-z0-9](\.[a-z]{2,5}\.?)?", fullmatch=True)


def written(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An IP as it is written; one of a link has its interface."""
    return f"{ip}%eth0" if ip.version == 6 and ip.is_link_local else plain_ip(str(ip))


ips = st.ip_addresses().map(written)


@given(parse=either_side, host=ips | names, port=st.integers(1, 65535))
def test_every_host_and_port_can_be_read_back(
    parse: Callable[[str], object], host: str, port: int
) -> None:
    assume(host not in ("ssl", "tls", "tcp", "unix", "stdio", "systemd", "haproxy", "tcp6"))
    address = TcpAddress(host, port)
    assert parse(str(address)) == address


paths = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=25)


@given(path=paths, mode=st.none() | st.integers(0, 0o777))
def test_every_path_can_be_read_back(path: str, mode: int | None) -> None:
    assume(path == path.strip())
    address = UnixAddress(path, mode)
    assert parse_listen(str(address)) == address


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        (":80=10.0.0.5:80", (":80", "10.0.0.5:80")),
        (" :80 = :90 ", (":80", ":90")),
        ("unix:/a=b=:80", ("unix:/a=b", ":80")),
        (":80=unix:/a=b", (":80", "unix:/a=b")),
        ("tcp:port=80=:90", ("tcp:port=80", ":90")),
        # Neither split has two good sides: the first one is taken, to be complained of later.
        ("a=b=c", ("a", "b=c")),
        (":80=:99999", (":80", ":99999")),
    ],
)
def test_split_pair(text: str, pair: tuple[str, str]) -> None:
    assert split_pair(text) == pair


@pytest.mark.parametrize(
    ("text", "expected_text"),
    [
        ("", "no '='"),
        (":80", "no '='"),
        (":22=", "the backend is missing"),
        (":22= ", "the backend is missing"),
        ("=:22", "the address to listen on is missing"),
        ("=", "the address to listen on is missing"),
    ],
)
def test_no_pair(text: str, expected_text: str) -> None:
    with pytest.raises(AddressError) as caught:
        split_pair(text)
    assert expected_text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "host"),
    [("::1", "::1"), ("[::1]", "::1"), ("0:0::1", "::1"), ("10.0.0.1", "10.0.0.1"), ("a", "a")],
)
def test_host(text: str, host: str) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    ("ip", "plain"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::FFFF:1.2.3.4", "1.2.3.4"),
        ("::ffff:102:304", "1.2.3.4"),
        ("::FFFF:102:304", "1.2.3.4"),
        ("0:0:0:0:0:ffff:1.2.3.4", "1.2.3.4"),
        ("::1", "::1"),
        ("2001:DB8::1", "2001:DB8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("2001:ffff::1", "2001:ffff::1"),
        ("::ffff:1.2.3.999", "::ffff:1.2.3.999"),
        ("::ffff:1.2.3.04", "::ffff:1.2.3.04"),
        ("", ""),
        ("a:b", "a:b"),
    ],
)
def test_plain_ip(ip: str, plain: str) -> None:
    assert plain_ip(ip) == plain


@given(ip=st.ip_addresses(v=4))
def test_every_mapped_address_becomes_ipv4(ip: ipaddress.IPv4Address) -> None:
    assert plain_ip(f"::ffff:{ip}") == plain_ip(str(ip)) == str(ip)


@given(text=texts | st.ip_addresses(v=6).map(str))
def test_plain_ip_leaves_all_others_alone(text: str) -> None:
    assume("ffff" not in text.lower())
    assert plain_ip(text) == text


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.1.2.3", "10.1.2.3/32"),
        (" 10.1.2.3 ", "10.1.2.3/32"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::1", "::1/128"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("::/0", "::/0"),
        ("::ffff:1.2.3.4", "1.2.3.4/32"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:0:0/95", "::fffe:0:0/95"),
    ],
)
def test_network(text: str, network: str) -> None:
    assert parse_network(text) == ipaddress.ip_network(network)


@pytest.mark.parametrize(
    "text", ["", "10", "10.0.0.0/33", "10.0.0.0/", "web", "1.2.3.4:80", "[::1]"]
)
def test_no_network(text: str) -> None:
    with pytest.raises(AddressError, match="neither an IP address nor a network"):
        parse_network(text)


@given(text=texts)
def test_network_never_raises_anything_else(text: str) -> None:
    message = refusal(parse_network, text)
    assert message is None or message.isprintable()


def test_one_kind_of_network() -> None:
    assert bans.Network is addresses.Network  # type: ignore[attr-defined]


def test_a_rule_knows_no_zone() -> None:
    with pytest.raises(AddressError, match='rules hold on all of them: write "fe80::1"'):
        parse_network("fe80::1%eth0")


@pytest.mark.parametrize(
    ("text", "listens"),
    [
        ("tcp:80:interface=name.test:backlog=5", True),
        ("ssl:443:interface=name.test:sslmethod=TLSv1_METHOD", True),
        ("monconn:tcp:80:interface=name.test", True),
        ("tls:back.test:443:bindAddress=name.test", False),
    ],
)
def test_a_name_of_this_host_in_an_endpoint_string_is_refused(text: str, listens: bool) -> None:
    """Twisted would look it up in the reactor's thread."""
    key = "interface" if listens else "bindAddress"
    with pytest.raises(AddressError, match=f'{key} must be an IP address, and "name.test" is'):
        refuse_local_names(EndpointAddress(text), listens=listens)
    for here in ("127.0.0.1", r"\:\:1", "localhost", ""):
        refuse_local_names(EndpointAddress(text.replace("name.test", here)), listens=listens)
    refuse_local_names(EndpointAddress(text), listens=not listens)
