"""The programs that are compared, each with its settings, as ``RESULTS.md`` prints them."""

from __future__ import annotations

import ctypes
import datetime
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import attrs

HERE = Path(__file__).parent
_PLACES_OF_PROGRAMS = "/usr/sbin:/sbin:/usr/local/sbin"
BULK = ("bulk-1", "bulk-8")
PLAIN = (*BULK, "connect", "messages-1", "messages-64")
TRANSPORTS = ("bulk-1", "connect")
TLS = ("tls-bulk", "tls-connect")
SYSLOG = "syslog"
CERTIFICATE_FILES = ("key.pem", "cert.pem", "both.pem")


@attrs.frozen
class Place:
    """The values that differ between starts; with placeholders they make the printed settings."""

    port: int | str = "PORT"
    backend_port: int | str = "BACKEND"
    folder: Path | str = "FOLDER"
    held: int = 5000
    """The number of idle connections to allow for, besides those of the loads."""
    nginx_module: str = "ngx_stream_module.so"


@attrs.frozen
class Contestant:
    """One forwarder with one set of settings."""

    name: str
    title: str
    command: Callable[[Place], list[str]]
    loads: tuple[str, ...] = PLAIN
    files: Callable[[Place], dict[str, str]] = lambda place: {}
    holds: bool = False
    """Whether its memory with thousands of connections is measured."""
    peer: bool = False
    """Whether it is another project's, whose throughput monconn must exceed."""
    log: str = ""
    """The file in its folder that gets a line for each connection; :data:`SYSLOG` is a datagram
    socket that is read meanwhile."""
    metrics: str = ""
    """The UNIX socket in its folder where metrics are fetched at the end of each run."""
    settle_seconds: float = 0.1
    """Waited after a run, so that what it leaves to be done still counts for it: the ends of its
    last connections, and what is written later."""
    says_memory_in_use: bool = False
    """Whether it is ``in_use.py``."""
    note: str = ""


def _pair(place: Place) -> str:
    return f"127.0.0.1:{place.port}=127.0.0.1:{place.backend_port}"


def _monconn_file(
    listen: Callable[[Place], str], more: str = ""
) -> Callable[[Place], dict[str, str]]:
    def files(place: Place) -> dict[str, str]:
        backend = f"127.0.0.1:{place.backend_port}"
        service = f'services:\n  bench:\n    listen: "{listen(place)}"\n    backend: {backend}\n'
        return {"monconn.yaml": service + more.format(folder=place.folder)}

    return files


_JSON_LOG = "json_log: {{path: {folder}/log.json}}\n"


def _monconn_with_file(place: Place) -> list[str]:
    return ["monconn", "-c", f"{place.folder}/monconn.yaml"]


def _portforward(listen: Callable[[Place], str]) -> Callable[[Place], list[str]]:
    return lambda place: [
        "python",
        "benchmarks/portforward.py",
        listen(place),
        "127.0.0.1",
        str(place.backend_port),
    ]


def _tcp_endpoint(place: Place) -> str:
    return f"tcp:{place.port}:interface=127.0.0.1:backlog=4096"


def _plain(place: Place) -> str:
    return f"127.0.0.1:{place.port}"


def _monconn_tls_files(place: Place) -> dict[str, str]:
    return {
        "monconn.yaml": f"""\
services:
  bench:
    listen: 127.0.0.1:{place.port}
    tls:
      certificate: {place.folder}/cert.pem
      key: {place.folder}/key.pem
    backend: 127.0.0.1:{place.backend_port}
"""
    }


def _tls_endpoint(place: Place) -> str:
    return (
        f"ssl:{place.port}:interface=127.0.0.1:backlog=4096"
        f":privateKey={place.folder}/key.pem:certKey={place.folder}/cert.pem"
    )


def _haproxy_files(
    tuning: str = "", options: str = "", bind: str = ""
) -> Callable[[Place], dict[str, str]]:
    return lambda place: {
        "haproxy.cfg": f"""\
global
    nbthread 1
    maxconn {place.held + 200}
{tuning.format(folder=place.folder)}defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
{options}frontend bench
    bind 127.0.0.1:{place.port} backlog 4096{bind.format(folder=place.folder)}
    default_backend bench
backend bench
    server bench 127.0.0.1:{place.backend_port}
"""
    }


def _haproxy(place: Place) -> list[str]:
    return ["haproxy", "-db", "-f", f"{place.folder}/haproxy.cfg"]


def _nginx_files(options: str = "", listen: str = "") -> Callable[[Place], dict[str, str]]:
    return lambda place: {
        "nginx.conf": f"""\
load_module {place.nginx_module};
daemon off;
worker_processes 1;
pid {place.folder}/nginx.pid;
error_log {place.folder}/nginx.log;
events {{
    worker_connections {2 * place.held + 500};
}}
stream {{
    server {{
        listen 127.0.0.1:{place.port} backlog=4096{listen};
        proxy_pass 127.0.0.1:{place.backend_port};
        proxy_timeout 1h;
{options.format(folder=place.folder)}    }}
}}
""".replace("load_module ;\n", "")
    }


def _nginx(place: Place) -> list[str]:
    folder = str(place.folder)
    return ["nginx", "-p", folder, "-e", f"{folder}/nginx.log", "-c", f"{folder}/nginx.conf"]


def _socat(place: Place) -> list[str]:
    listen = f"TCP-LISTEN:{place.port},bind=127.0.0.1,backlog=4096,reuseaddr,fork,nodelay"
    return ["socat", "-b", "65536", listen, f"TCP:127.0.0.1:{place.backend_port},nodelay"]


CONTESTANTS = (
    Contestant(
        "monconn",
        "monconn",
        lambda place: ["monconn", "-p", _pair(place)],
        holds=True,
        note="All defaults: records, rules, timeouts, its log on standard output, into a file.",
    ),
    Contestant(
        "monconn-watched",
        "monconn, payload watched",
        lambda place: ["python", "benchmarks/watched.py", _pair(place)],
        note="As above, with an observer that reads each chunk and adds up the lengths.",
    ),
    Contestant(
        "monconn-in-use",
        "monconn, memory in use",
        lambda place: ["python", "benchmarks/in_use.py", _pair(place)],
        (),
        holds=True,
        says_memory_in_use=True,
        note="As the first; it says how much of its memory is in use, and how much only held free.",
    ),
    Contestant(
        "monconn-json",
        "monconn, with JSON log",
        _monconn_with_file,
        ("connect", "messages-64"),
        _monconn_file(_plain, _JSON_LOG),
        log="log.json",
        settle_seconds=0.3,
        note="As the first, and a line of JSON for each connection, into a file.",
    ),
    Contestant(
        "monconn-all",
        "monconn, with JSON log, history and metrics",
        _monconn_with_file,
        ("connect",),
        _monconn_file(
            _plain,
            _JSON_LOG
            + "history: {{path: {folder}/history.db}}\n"
            + "metrics: {{listen: 'unix:{folder}/metrics'}}\n",
        ),
        log="log.json",
        metrics="metrics",
        settle_seconds=1.3,  # the history is written once a second
        note="As above, and a row for each connection in a history; metrics fetched once a run.",
    ),
    Contestant(
        "monconn-transports",
        "monconn over Twisted's transports",
        _monconn_with_file,
        TRANSPORTS,
        _monconn_file(_tcp_endpoint),
        note="An endpoint with an option of Twisted's own uses the data path that TLS uses.",
    ),
    Contestant(
        "portforward",
        "twisted portforward",
        _portforward(_tcp_endpoint),
        holds=True,
        peer=True,
        note="`twisted.protocols.portforward.ProxyFactory`, Twisted's default reactor, no log.",
    ),
    Contestant(
        "haproxy",
        "HAProxy",
        _haproxy,
        files=_haproxy_files(),
        holds=True,
        peer=True,
        note="One thread, no log, everything else as it comes: buffers of 16 KiB.",
    ),
    Contestant(
        "haproxy-splice",
        "HAProxy, splicing",
        _haproxy,
        BULK,
        _haproxy_files(options="    option splice-request\n    option splice-response\n"),
        peer=True,
        note="Bulk only. Always splices; `option splice-auto` brought nothing over its defaults.",
    ),
    Contestant(
        "haproxy-256k",
        "HAProxy, 256 KiB buffers",
        _haproxy,
        BULK,
        _haproxy_files(tuning="    tune.bufsize 262144\n"),
        peer=True,
        note="Bulk only.",
    ),
    Contestant(
        "haproxy-log",
        "HAProxy, with tcplog",
        _haproxy,
        ("connect",),
        _haproxy_files(
            tuning="    log {folder}/" + SYSLOG + " local0 info\n",
            options="    log global\n    option tcplog\n",
        ),
        peer=True,
        log=SYSLOG,
        note="As above, and a line for each connection, to a socket that another program reads.",
    ),
    Contestant(
        "nginx",
        "nginx stream",
        _nginx,
        files=_nginx_files(),
        holds=True,
        peer=True,
        note="One worker, no access log, everything else as it comes: buffers of 16 KiB."
        " Memory includes its master's.",
    ),
    Contestant(
        "nginx-256k",
        "nginx stream, 256 KiB buffers",
        _nginx,
        BULK,
        _nginx_files("        proxy_buffer_size 256k;\n"),
        peer=True,
        note="Bulk only.",
    ),
    Contestant(
        "socat",
        "socat",
        _socat,
        peer=True,
        note="A process per connection, so it is not asked to hold thousands."
        " Buffers of 64 KiB: with its own of 8 KiB, bulk costs it twice as much.",
    ),
    Contestant(
        "monconn-tls",
        "monconn, TLS",
        _monconn_with_file,
        TLS,
        _monconn_tls_files,
        note="TLS from the client, plain to the backend.",
    ),
    Contestant(
        "haproxy-tls",
        "HAProxy, TLS",
        _haproxy,
        TLS,
        _haproxy_files(bind=" ssl crt {folder}/both.pem"),
        note="The same, with one thread; tickets and everything else of TLS as they come.",
    ),
    Contestant(
        "nginx-tls",
        "nginx stream, TLS",
        _nginx,
        TLS,
        _nginx_files(
            "        ssl_certificate {folder}/cert.pem;\n"
            "        ssl_certificate_key {folder}/key.pem;\n"
            "        ssl_protocols TLSv1.2 TLSv1.3;\n",
            " ssl",
        ),
        note="The same, with one worker. Memory includes its master's.",
    ),
    Contestant(
        "portforward-tls",
        "twisted portforward, TLS",
        _portforward(_tls_endpoint),
        TLS,
        note="The same endpoint in front of the same `ProxyFactory`.",
    ),
)
BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}


def program(name: str) -> str | None:
    """The path of a command's program: ours next to this Python, others from PATH."""
    if name == "python":
        return sys.executable
    if name == "monconn":
        beside = Path(sys.executable).with_name(name)
        return str(beside) if beside.exists() else shutil.which(name)
    return shutil.which(name) or shutil.which(name, path=_PLACES_OF_PROGRAMS)


def missing(contestant: Contestant) -> str:
    """Why a contestant cannot run here; empty if it can."""
    name = contestant.command(Place())[0]
    if program(name) is None:
        return f"{name} is not installed"
    if name == "nginx" and nginx_module() is None:
        return "nginx is here without its stream module (Debian: libnginx-mod-stream)"
    if contestant.name == "nginx-tls" and "--with-stream_ssl_module" not in _output_of(name, "-V"):
        return "nginx is here without TLS for streams"
    if contestant.says_memory_in_use and not hasattr(ctypes.CDLL(None), "mallinfo2"):
        return "this system's C library does not say how much memory is in use (mallinfo2)"
    return ""


def nginx_module() -> str | None:
    """The module that nginx must load for streams; empty if built in, None if there is none."""
    built_with = _output_of("nginx", "-V")
    if re.search(r"--with-stream( |$)", built_with):
        return ""
    folder = re.search(r"--modules-path=(\S+)", built_with)
    path = Path(folder[1] if folder else "", "ngx_stream_module.so")
    return str(path) if path.is_file() else None


def versions() -> dict[str, str]:
    """The versions of the programs that are compared and installed."""
    found = {
        "monconn": version("monconn"),
        "Twisted": version("Twisted"),
        "Python": platform.python_version(),
        "OpenSSL (cryptography's)": _openssl_version(),
    }
    for name, flag in (("haproxy", "-v"), ("nginx", "-v"), ("socat", "-V")):
        number = re.search(r"version[: /a-z]*(\d+(\.\d+)+)", _output_of(name, flag))
        found[name] = number[1] if number else "not installed"
    return found


def _openssl_version() -> str:
    from cryptography.hazmat.backends.openssl import backend

    return backend.openssl_version_text().split()[1]


def _output_of(name: str, flag: str) -> str:
    path = program(name)
    if path is None:
        return ""
    done = subprocess.run([path, flag], capture_output=True, text=True, timeout=10)
    return done.stdout + done.stderr


def make_certificate(folder: Path) -> None:
    """Make a key (P-256) and a self-signed certificate for the TLS endpoints, valid for a day."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    contents = (private, public, public + private)
    for file, content in zip(CERTIFICATE_FILES, contents, strict=True):
        (folder / file).write_bytes(content)
