"""A custom observer, as in the documentation."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import ROOT

from .programs import Monconn, connect, receive, until, write_config

DOCS = ROOT / "docs"
PAGE = (DOCS / "observers.md").read_text()


def block(language: str) -> str:
    """The first block of the page in a language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("how", ["monconn", "twist"])
def test_the_documented_observer_is_notified_of_connections(
    launch: Callable[..., Monconn], echo_port: int, tmp_path: Path, how: str
) -> None:
    (tmp_path / "transfers.py").write_text(block("python"))
    text = block("yaml").replace("2121", "0").replace("127.0.0.1:21\n", f"127.0.0.1:{echo_port}\n")
    (tmp_path / "monconn.yaml").write_text(text)
    monconn = launch(how, "-c", tmp_path / "monconn.yaml", env={"PYTHONPATH": str(tmp_path)})
    log = tmp_path / "transfers.log"
    for count in (10, 40_000):
        with connect(monconn.port()) as client:
            client.sendall(bytes(count))
            assert len(receive(client, count)) == count
    until(lambda: log.exists() and "moved" in log.read_text())
    assert monconn.stop() == 0
    (line,) = log.read_text().splitlines()
    assert re.fullmatch(
        r"127\.0\.0\.1 moved 40000 up, 40000 down in [\d.]+ s: client_(closed|reset)", line
    )


def test_an_observer_that_cannot_be_made_is_reported_in_one_line(
    launch: Callable[..., Monconn], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("class Mine:\n    def __init__(self): raise OSError('no')\n")
    path = write_config(tmp_path, web={"listen": "127.0.0.1:0", "backend": "127.0.0.1:9"})
    path.write_text(path.read_text()[:-1] + ', "observers": [{"use": "mine:Mine"}]}')
    monconn = launch("monconn", "-c", path, env={"PYTHONPATH": str(tmp_path)})
    assert monconn.status() == 1
    errors = str(monconn.program.err)
    assert errors == "monconn: observers: mine:Mine cannot be made: OSError: no\n"


def test_a_module_that_exits_on_import_is_reported(
    launch: Callable[..., Monconn], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("import sys\nsys.exit(0)\n")
    path = write_config(tmp_path, web={"listen": "127.0.0.1:0", "backend": "127.0.0.1:9"})
    path.write_text(path.read_text()[:-1] + ', "observers": [{"use": "mine:Mine"}]}')
    monconn = launch("monconn", "-c", path, env={"PYTHONPATH": str(tmp_path)})
    assert monconn.status() == 2
    assert '"mine:Mine" cannot be imported: SystemExit: 0' in str(monconn.program.err)


def test_an_object_that_is_no_observer_is_reported(
    launch: Callable[..., Monconn], tmp_path: Path
) -> None:
    path = write_config(tmp_path, web={"listen": "127.0.0.1:0", "backend": "127.0.0.1:9"})
    path.write_text(path.read_text()[:-1] + ', "observers": [{"use": "types:SimpleNamespace"}]}')
    monconn = launch("monconn", "-c", path, env={"PYTHONPATH": os.fspath(tmp_path)})
    assert monconn.status() == 1
    assert "types:SimpleNamespace is no observer, it has no alarmed, closed, " in str(
        monconn.program.err
    )
