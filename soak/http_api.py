"""``make api-test``: schemathesis against the HTTP API of a monconn that has traffic.

schemathesis reads ``/openapi.json``, and sends requests that are as it says, and others.
Each answer must be one that it describes, none an error of the server's, and none late.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).parent.parent)

from benchmarks.servers import free_port

ROOT = Path(__file__).parent.parent
EXAMPLES = 50
START_SECONDS = 20.0
ANSWER_SECONDS = 10.0
CONNECTIONS = 20
STREAMS = "/(events|tap|live)$"
"""They have no end; tests/faces/http has them."""


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(4096):
                self.request.sendall(data)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class Traffic:
    """Clients that talk, leave, and come again when they are closed.

    :param ports: of the services.
    """

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        clients: list[socket.socket] = []
        number = 0
        while not self._is_over.wait(0.05):
            number += 1
            port = self._ports[number % len(self._ports)]
            with contextlib.suppress(OSError):
                source = f"127.0.0.{1 + number % 9}"
                client = socket.create_connection(("127.0.0.1", port), 1, (source, 0))
                client.settimeout(1)
                clients.append(client)
            for each in clients[-5:]:
                with contextlib.suppress(OSError):
                    each.send(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
            while len(clients) > CONNECTIONS:
                clients.pop(0).close()
        for each in clients:
            each.close()

    def stop(self) -> None:
        """End all clients."""
        self._is_over.set()
        self._thread.join()


def _configuration(folder: Path, http: int, ports: list[int], backend: int) -> dict[str, Any]:
    return {
        "services": {
            name: {"listen": f"127.0.0.1:{port}", "backend": f"127.0.0.1:{backend}", **more}
            for name, port, more in (
                ("web", ports[0], {"recorder": True}),
                ("a/b ü", ports[1], {"payload": "never"}),
            )
        },
        "control": {"listen": f"unix:{folder}/control"},
        "http": {"listen": f"127.0.0.1:{http}", "tokens": f"{folder}/tokens"},
        "history": {"path": f"{folder}/history.db"},
        "capture": {"folder": f"{folder}/captures", "rotate_size": "1MiB", "max_total": "8MiB"},
        "state": f"{folder}/state",
        "notify": [{"url": f"http://127.0.0.1:{free_port()}/hook", "on": ["alarm"]}],
    }


@contextlib.contextmanager
def monconn(folder: Path) -> Iterator[tuple[str, str]]:
    """A monconn with traffic; gives its URL and a token that may do everything."""
    with _Server(("127.0.0.1", 0), _Echo) as backend:
        threading.Thread(target=backend.serve_forever, daemon=True).start()
        http, *ports = free_port(), free_port(), free_port()
        config = folder / "monconn.yaml"
        made = _configuration(folder, http, ports, backend.server_address[1])
        config.write_text(json.dumps(made))
        (folder / "captures").mkdir(mode=0o700)
        environment = os.environ | {"XDG_STATE_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        command = [str(Path(sys.executable).with_name("monconn"))]
        with (folder / "monconn.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "-c", str(config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
            )
        traffic = Traffic(ports)
        try:
            url = f"http://127.0.0.1:{http}"
            _wait(url, process, folder / "monconn.log")
            token = subprocess.run(
                [*command, "web", "--token", "operate", "--control", f"{folder}/control"],
                capture_output=True,
                check=True,
                text=True,
                cwd=ROOT,
                env=environment,
            ).stdout.strip()
            yield url, token
        finally:
            traffic.stop()
            process.terminate()
            process.wait(30)
            backend.shutdown()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{url}/api/v1/services", timeout=1)
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"monconn does not start:\n{log.read_text()}") from None
            time.sleep(0.05)


def _settings(folder: Path) -> Path:
    """What schemathesis need not find fault with."""
    path = folder / "schemathesis.toml"
    path.write_text(
        # A service that exists, a connection that lives: most names that are made up are unknown,
        # and what is to be done to a service may be impossible in its present state.
        "[checks.positive_data_acceptance]\n"
        'expected-statuses = ["2xx", "401", "403", "404", "409", "422", "503"]\n'
        "[checks.negative_data_rejection]\n"
        'expected-statuses = ["400", "401", "403", "404", "405", "409", "413", "415", "422"]\n'
    )
    return path


def main() -> int:
    """Run schemathesis; its status is ours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of each operation")
    parser.add_argument("--seed", type=int, help="for the same requests again")
    parser.add_argument("more", nargs="*", help="options of schemathesis, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="monconn-api-") as name:
        folder = Path(name)
        with monconn(folder) as (url, token):
            done = subprocess.run(
                [
                    str(Path(sys.executable).with_name("schemathesis")),
                    f"--config-file={_settings(folder)}",
                    "run",
                    f"{url}/openapi.json",
                    f"--header=Authorization: Bearer {token}",
                    f"--exclude-path-regex={STREAMS}",
                    f"--max-examples={options.examples}",
                    f"--max-response-time={ANSWER_SECONDS}",
                    "--request-timeout=30",
                    "--phases=examples,coverage,fuzzing,stateful",
                    "--continue-on-failure",
                    *([] if options.seed is None else [f"--seed={options.seed}"]),
                    *options.more,
                ],
                cwd=folder,
                env=os.environ
                | {"SCHEMATHESIS_HOOKS": "soak.http_api_values", "PYTHONPATH": str(ROOT)},
                check=False,
            )
            log = (folder / "monconn.log").read_text(errors="replace")
        faults = [line for line in log.splitlines() if "Traceback" in line]
        if faults:
            print(log[-10_000:])
            print(f"{len(faults)} tracebacks in monconn's log")
    return done.returncode or bool(faults)


if __name__ == "__main__":
    sys.exit(main())
