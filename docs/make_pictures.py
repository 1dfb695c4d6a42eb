"""Make the pictures of README and docs: of ``monconn demo``, as it is now.

Runs the demo for some minutes, has ``monconn top`` and a browser show it, and runs the commands
that list what it does. Each picture of a terminal is an SVG that needs nothing from a network;
those of the page are PNGs. From a clone, with Debian's chromium::

    make .venv/.has-dev && .venv/bin/python docs/make_pictures.py

Ends with exit status 1, and says why, if a picture cannot be made; none is left half written.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text
from textual.pilot import Pilot

from monconn.errors import MonconnError
from monconn.faces.control.client import Client, find_server
from monconn.faces.tui.screen import TopApp
from monconn.faces.tui.theme import DARK, LIGHT

DOCS = Path(__file__).resolve().parent
PICTURES = DOCS / "pictures"
MONCONN = Path(sys.executable).with_name("monconn")
START_SECONDS = 15.0
SHOW_SECONDS, LONG_SECONDS = 6.0, 40.0
WATCH_SECONDS = 25.0
"""How long the demo is watched: its devices vanish, crash and storm by then."""
COLUMNS, LINES = 80, 24
DEMO_COLUMNS, DEMO_LINES = 100, 46
"""Of the picture of what the demo writes: its lines are those of a log."""
_FONTS = "DejaVu Sans Mono, Menlo, Consolas, ui-monospace, monospace"
_THEME = TerminalTheme(
    (15, 20, 27),
    (216, 222, 233),
    [
        (29, 37, 48),
        (255, 123, 134),
        (127, 216, 143),
        (229, 181, 103),
        (108, 182, 255),
        (199, 146, 234),
        (108, 200, 210),
        (216, 222, 233),
    ],
)
"""The colours of :data:`monconn.faces.tui.theme.DARK`, for what a terminal shows."""
PAGE_SECONDS = 180.0
"""How long the demo has run before the page is shown: its charts have something to show by then."""
_MOST_BYTES = 120_000
"""Of a picture of the page."""
_VIEWS: tuple[tuple[str, str, bool, int, int], ...] = (
    ("web-services", "services", False, 1160, 440),
    ("web-connections", "connections", True, 1160, 480),
    ("web-closed", "closed", False, 1160, 560),
    ("web-devices", "devices?service=demo", True, 1160, 560),
    ("web-phone", "services", False, 360, 640),
    ("web-connection", "connections/5", False, 1160, 660),
)
"""The pictures of the page: their names, what is shown, whether in the dark, width and height."""
_COMMANDS: tuple[tuple[str, Sequence[str]], ...] = (
    ("list", ("list",)),
    ("list-closed", ("list", "--closed", "--limit", "14")),
    ("devices", ("devices",)),
    ("recording", ("recording", "3", "--text")),
    ("tap", ("tap", "1")),
)


class PictureError(Exception):
    """A picture cannot be made."""


def main() -> int:
    """Make all pictures.

    :returns: the exit status.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="monconn-pictures-") as folder:
            os.environ["XDG_RUNTIME_DIR"] = folder
            made = _make_all()
        PICTURES.mkdir(exist_ok=True)
        for path, content in made.items():
            path.write_bytes(content)
            print(f"{path.relative_to(DOCS.parent)}: {len(content):,} bytes")
    except (PictureError, MonconnError, OSError) as error:
        print(f"make_pictures: {error}", file=sys.stderr)
        return 1
    return 0


def _make_all() -> dict[Path, bytes]:
    with _demo() as (where, output):
        began = time.monotonic()
        made = asyncio.run(_top_pictures(where))
        for name, arguments in _COMMANDS:
            command = [os.fspath(MONCONN), *arguments]
            if name == "tap":  # which goes on until it is interrupted
                command = ["sh", "-c", f"timeout --foreground -s INT 4 {' '.join(command)} || true"]
            text = _run_in_terminal(command)
            if text.count("\n") < 3:
                raise PictureError(f"monconn {' '.join(arguments)} lists nothing: {text!r}")
            made[PICTURES / f"{name}.svg"] = _terminal(text, f"$ monconn {' '.join(arguments)}")
        made[DOCS / "demo.svg"] = _terminal(_first_lines(output), "$ monconn demo", DEMO_COLUMNS)
        pages = _page_pictures(_link(output), began + PAGE_SECONDS)
    return {path: svg.encode() for path, svg in made.items()} | pages


# -- the demo


@contextmanager
def _demo() -> Iterator[tuple[str, bytearray]]:
    """The address of a running demo's control port, and what the demo has written so far."""
    process, terminal = _start_in_terminal([os.fspath(MONCONN), "demo"])
    output = bytearray()
    # All the time: a terminal that nobody reads from would have the demo wait.
    reader = threading.Thread(target=_read_all, args=(terminal, output), daemon=True)
    reader.start()
    try:
        yield _address(process, output), output
    finally:
        _stop(process)
        reader.join(START_SECONDS)
        os.close(terminal)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], output: bytearray) -> str:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            return find_server(None)
        except MonconnError:
            time.sleep(0.1)
    raise PictureError(f"monconn demo does not start: {output.decode(errors='replace')}")


def _first_lines(output: bytearray) -> str:
    """What the demo says first, and some of the ends that follow."""
    lines = output.decode(errors="replace").replace("\r", "").strip("\n").split("\n")
    return "\n".join(lines[:DEMO_LINES])


# -- monconn top


async def _top_pictures(where: str) -> dict[Path, str]:
    app = TopApp(lambda: Client(where), where)
    made: dict[Path, str] = {}
    async with app.run_test(size=(120, 40)) as pilot:

        async def picture(name: str, *keys: str) -> None:
            await pilot.press(*keys)
            await asyncio.sleep(1.5)  # for the next answer of the server
            made[PICTURES / f"{name}.svg"] = _local(app.export_screenshot(title="monconn top"))

        app.theme = DARK
        await _until_watched(app, pilot)
        await picture("top")
        app.theme = LIGHT
        await picture("top-light")
        app.theme = DARK
        await pilot.resize_terminal(100, 36)
        await picture("top-devices", "d")
        await picture("top-details", "escape", "home", "enter")
        await pilot.resize_terminal(COLUMNS, LINES)
        await picture("top-80", "escape")
        await picture("top-filter", "slash", *"reason", "colon", *"cli")
    return made


async def _until_watched(app: TopApp, pilot: Pilot[int]) -> None:
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        await pilot.pause(0.5)
    if not app.model.rows or not app.model.closed_rows or app.model.lost:
        raise PictureError(f"monconn top shows no connections: {app.model.lost or 'none came'}")


# -- the page


def _link(output: bytearray) -> str:
    """The link of the demo, which logs in."""
    found = re.search(rb"http://127\.0\.0\.1:\d+/#login\S+", output)
    if found is None:
        raise PictureError("monconn demo prints no link")
    return found[0].decode()


def _page_pictures(link: str, begin: float) -> dict[Path, bytes]:
    """Those of the page, which is open until then: its charts begin when it is opened."""
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if chromium is None:
        raise PictureError("the page needs a browser: apt install chromium")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    made = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_page(reduced_motion="reduce")
        page.goto(link)
        page.wait_for_selector(".view-services")
        page.wait_for_timeout(max(0.0, begin - time.monotonic()) * 1000)
        for name, place, is_dark, width, height in _VIEWS:
            picture = _picture_of(page, place, is_dark, width, height)
            made[PICTURES / f"{name}.png"] = picture
        browser.close()
    for path, picture in made.items():
        if len(picture) > _MOST_BYTES:
            raise PictureError(f"{path.name} is too big: {len(picture):,} bytes")
    return made


def _picture_of(page: Page, place: str, is_dark: bool, width: int, height: int) -> bytes:
    page.emulate_media(color_scheme="dark" if is_dark else "light", reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate("place => { location.hash = place }", f"#/{place}")
    # For rates, which are the difference of two answers, and for a chart of one connection.
    seconds = LONG_SECONDS if place.startswith("connections/") else SHOW_SECONDS
    page.wait_for_timeout(seconds * 1000)
    page.evaluate("document.getElementById('notices').style.display = 'none'")
    return page.screenshot()


# -- terminals


def _start_in_terminal(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    # With the command's own folder first on the path, it is written as people type it.
    environment |= {
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
        "PATH": f"{MONCONN.parent}{os.pathsep}{environment.get('PATH', '')}",
    }
    process = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True
    )
    os.close(its)
    return process, ours


def _read_all(terminal: int, output: bytearray) -> None:
    """Read until the other side is closed."""
    while True:
        try:
            data = os.read(terminal, 65_536)
        except OSError:  # EIO
            return
        if not data:
            return
        output += data


def _run_in_terminal(command: Sequence[str]) -> str:
    process, terminal = _start_in_terminal(command)
    output = bytearray()
    reader = threading.Thread(target=_read_all, args=(terminal, output), daemon=True)
    reader.start()
    try:
        status = process.wait(START_SECONDS)
    except subprocess.TimeoutExpired:
        raise PictureError(f"{' '.join(command)} does not end") from None
    finally:
        _stop(process)
        reader.join(START_SECONDS)
        os.close(terminal)
    text = output.decode(errors="replace").replace("\r", "")
    if status:
        raise PictureError(f"{' '.join(command)} ends with {status}: {text}")
    return text


# -- SVG


def _terminal(text: str, title: str, columns: int = COLUMNS) -> str:
    """A picture of what a terminal shows."""
    console = Console(
        record=True,
        width=columns,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    text = text.replace(f"{MONCONN.parent}{os.sep}", "")
    console.print(Text.from_ansi(text.strip("\n")), soft_wrap=False, highlight=False)
    return _local(console.export_svg(title=title, theme=_THEME))


def _local(svg: str) -> str:
    """An SVG without what it would load from elsewhere, and without what points here.

    :raises PictureError: something of it is left.
    """
    svg = re.sub(r"@font-face\s*\{.*?\}", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: (?:\"Fira Code\"|Fira Code)[^;]*;", f"font-family: {_FONTS};", svg)
    svg = re.sub(r"\n\s*\n+", "\n", svg)
    for wrong in ("url(http", "Fira", os.fspath(DOCS.parent), os.fspath(Path.home()) + os.sep):
        if wrong in svg:
            raise PictureError(f"a picture contains {wrong}")
    return svg


if __name__ == "__main__":
    sys.exit(main())
