"""The page formats figures, times and strange texts as the command line does."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from monconn.errors import printable
from monconn.units import format_bytes, format_duration, format_rate, local_time

_PAGE = Path(__file__).parents[3] / "monconn" / "faces" / "http" / "page"
_SCRIPT = """
const [folder] = process.argv.slice(1);
const units = await import(`file://${folder}/units.mjs`);
const dom = await import(`file://${folder}/dom.mjs`);
let text = "";
for await (const piece of process.stdin) text += piece;
const { seconds, bytes, rates, texts, times } = JSON.parse(text);
console.log(JSON.stringify({
  seconds: seconds.map(units.formatDuration),
  bytes: bytes.map(units.formatBytes),
  rates: rates.map(units.formatRate),
  texts: texts.map(dom.printable),
  times: times.map((time) => units.formatTime(time)),
}));
"""
_SECONDS = (
    *(0, 0.000004, 0.000006, 0.00021, 0.0021, 0.00996, 0.0125, 0.038, 0.9994, 0.9996, 1.25, 9.994),
    *(9.996, 12.34, 60.5, 62.5, 59.94, 59.96, 60, 245, 3599.4, 3599.7, 7380, 86399, 86400, 277200),
    *(1e7, -5),
)
_BYTES = (0, 1, 1023, 1024, 1075, 1076, 1229, 1048524, 1048525, 1 << 20, 35651584, 10**12, 1 << 62)
_RATES = (0.4, 1, 1500.9, 12390, 5e8)
_TEXTS = ("plain äöü", "a\x1b[31m", "\u202egpj", "\U0001f600", "a\nb\tc\\", "\xa0\u200b\u2028", "")


def _formatted(node: str, folder: Path, values: dict[str, Any]) -> dict[str, list[str]]:
    for name in ("units", "dom"):  # by their names, older ones of Node.js take them for CommonJS
        shutil.copyfile(_PAGE / f"{name}.js", folder / f"{name}.mjs")
    done = subprocess.run(
        [node, "--input-type=module", "--eval", _SCRIPT, "--", str(folder)],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, list[str]] = json.loads(done.stdout)
    return made


def test_the_page_formats_as_the_command_line(
    program: Callable[[str], str], tmp_path: Path
) -> None:
    now = datetime.now(timezone.utc)
    times = [now.isoformat(), (now - timedelta(days=3)).isoformat()]
    values: dict[str, Any] = {
        "seconds": _SECONDS,
        "bytes": _BYTES,
        "rates": _RATES,
        "texts": _TEXTS,
        "times": times,
    }
    assert _formatted(program("node"), tmp_path, values) == {
        "seconds": [format_duration(each) for each in _SECONDS],
        "bytes": [format_bytes(each) for each in _BYTES],
        "rates": [format_rate(each) for each in _RATES],
        "texts": [printable(each) for each in _TEXTS],
        "times": [local_time(each) for each in times],
    }
