"""What a user gets from pip: the wheel's contents, and a plugin that Twisted finds."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from man import make
from monconn.faces.cli.main import main
from tests import ROOT

PLUGIN = "twisted/plugins/monconn_plugin.py"

# Prints the file that the plugin came from, if Twisted lists our service maker.
FIND_PLUGIN = """
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
makers = [maker for maker in getPlugins(IServiceMaker) if maker.tapname == "monconn"]
assert len(makers) == 1, f"Twisted lists {len(makers)} plugins with the tapname monconn"
import twisted.plugins.monconn_plugin
print(twisted.plugins.monconn_plugin.__file__)
"""


def run_python(*arguments: str, cwd: Path, **environment: str) -> str:
    """Run this environment's Python apart from the repository; return what it printed.

    :param environment: variables beside ours, of which those for Python are left out.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{arguments}:\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def make_wheel(source: Path, folder: Path) -> Path:
    """Make a wheel of a folder or of a source archive."""
    pip_wheel = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run_python(*pip_wheel, "--wheel-dir", str(folder), str(source), cwd=folder)
    (path,) = folder.glob("monconn-*.whl")
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, with its links: a build leaves files beside setup.py."""
    path = tmp_path_factory.mktemp("source") / "source"
    made = (
        ".venv*",
        ".typescript",
        ".git",
        ".*_cache",
        "*.egg-info",
        "__pycache__",
        "build",
        "dist",
    )
    ignored = shutil.ignore_patterns(*made, ".hypothesis", "dropin.cache")
    shutil.copytree(ROOT, path, ignore=ignored, symlinks=True)
    return path


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def archive(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive."""
    folder = tmp_path_factory.mktemp("archive")
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run_python("-c", build, str(folder), cwd=source)
    (path,) = folder.glob("monconn-*.tar.gz")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def read(wheel: Path, file_name: str) -> str:
    """The text of a file in the wheel's ``.dist-info``."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(f".dist-info/{file_name}")]
        return archive.read(name).decode()


def modules(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.py"):
        yield path.relative_to(folder.parent).as_posix()


def test_wheel_holds_every_module(names: list[str]) -> None:
    """A folder without ``__init__.py`` would be left out silently."""
    in_wheel = {name for name in names if name.startswith("monconn/") and name.endswith(".py")}
    assert in_wheel == set(modules(ROOT / "monconn"))


def test_wheel_holds_the_plugin(names: list[str]) -> None:
    assert PLUGIN in names


def test_wheel_does_not_replace_twisted(names: list[str]) -> None:
    """An ``__init__.py`` of ours would overwrite the one of Twisted."""
    assert [name for name in names if name.startswith("twisted/")] == [PLUGIN]


def test_wheel_holds_nothing_else(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names if not re.match(r"[^/]*\.(dist-info|data)/", name)}
    assert tops == {"monconn", "monconn_command.py", "twisted"}
    data = [name.partition(".data/data/")[2] for name in names if ".data/" in name]
    assert sorted(data) == ["share/man/man1/monconn.1", "share/man/man5/monconn.yaml.5"]
    others = {name for name in names if name.startswith("monconn/") and not name.endswith(".py")}
    pages = {f"monconn/docs/{path.name}" for path in ROOT.glob("docs/*.md")}
    assert others == {"monconn/py.typed", *pages, *files_of_the_page()}


def files_of_the_page() -> set[str]:
    """What a browser is sent."""
    folder = ROOT / "monconn" / "faces" / "http" / "page"
    return {str(path.relative_to(ROOT)) for path in folder.rglob("*") if path.is_file()}


def test_wheel_holds_the_page(names: list[str]) -> None:
    page = "monconn/faces/http/page"
    assert {f"{page}/{name}" for name in ("index.html", "style/base.css", "app.js")} <= set(names)
    assert any(name.startswith(f"{page}/views/") for name in names)


def test_wheel_is_typed(names: list[str]) -> None:
    assert "monconn/py.typed" in names


def test_wheel_has_the_command(wheel: Path) -> None:
    entry_points = configparser.ConfigParser()
    entry_points.read_string(read(wheel, "entry_points.txt"))
    assert dict(entry_points["console_scripts"]) == {"monconn": "monconn_command:main"}


def test_lowest_versions_are_the_ones_tested(wheel: Path) -> None:
    """Every lower bound that a user sees is a pin of ``.ci/lowest.txt``."""
    pins = {}
    for line in (ROOT / ".ci" / "lowest.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version

    checked = set()
    for text in Parser().parsestr(read(wheel, "METADATA")).get_all("Requires-Dist", []):
        requirement = Requirement(text)
        name, marker = canonicalize_name(requirement.name), requirement.marker
        # The linters of "dev" are not for users.
        if marker and not any(marker.evaluate({"extra": extra}) for extra in ("all", "test")):
            continue
        assert str(requirement.specifier) == f">={pins.get(name)}", text
        checked.add(name)
    assert {"twisted", "textual", "pytest"} <= checked


def test_installed_wheel_shows_the_plugin(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip_install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    run_python(*pip_install, "--target", str(target), str(wheel), cwd=tmp_path)

    # -S reads no .pth file, so that the editable install cannot stand in for the wheel.
    path = os.pathsep.join([str(target), sysconfig.get_path("purelib")])
    found = run_python("-S", "-c", FIND_PLUGIN, cwd=tmp_path, PYTHONPATH=path)
    assert found == str(target / PLUGIN)


def test_editable_install_shows_the_plugin(tmp_path: Path) -> None:
    """As `make test` installs it; setuptools' import hook would hide the plugin."""
    assert run_python("-c", FIND_PLUGIN, cwd=tmp_path) == str(ROOT / PLUGIN)


def test_the_source_archive_has_every_folder_that_the_tests_import() -> None:
    """setuptools adds only what is installed."""
    grafted = set(re.findall(r"^graft (\w+)$", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE))
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"monconn"} <= grafted


def test_the_source_archive_makes_the_same_wheel(
    archive: Path, names: list[str], tmp_path: Path
) -> None:
    with zipfile.ZipFile(make_wheel(archive, tmp_path)) as made:
        assert sorted(made.namelist()) == sorted(names)


def test_the_source_archive_has_all_that_the_tests_need(archive: Path) -> None:
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no clone")
    left_out = set(listed.stdout.split()) - packed
    assert left_out == {".gitignore"}


def test_an_installed_wheel_runs_and_brings_the_pages_along(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, with only our dependencies from this one."""
    venv = tmp_path / "venv"
    run_python("-m", "venv", "--without-pip", str(venv), cwd=tmp_path)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip = ["-m", "pip", "--python", str(venv), "install", "--quiet", "--no-deps", "--no-index"]
    run_python(*pip, str(wheel), cwd=tmp_path)

    def monconn(*words: str) -> str:
        environment = {key: os.environ[key] for key in os.environ if not key.startswith("PYTHON")}
        argv = [str(venv / "bin" / "monconn"), *words]
        return subprocess.run(
            argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    where = [str(venv / "bin" / "python"), "-c", "import monconn; print(monconn.__file__)"]
    assert subprocess.check_output(where, cwd=tmp_path, text=True).startswith(str(site))
    assert monconn("help", "reasons") == (ROOT / "docs" / "reasons.md").read_text()
    assert "which-device-drops" in monconn("help")
    for name in ("man1/monconn.1", "man5/monconn.yaml.5"):
        assert (venv / "share" / "man" / name).is_file()


# -- manual pages


@pytest.mark.parametrize("name", make.PAGES)
def test_the_manual_pages_are_up_to_date(name: str) -> None:
    current = (ROOT / "man" / name).read_text(encoding="utf-8") == make.PAGES[name]()
    assert current, "run make man"


@pytest.mark.parametrize("name", make.PAGES)
def test_mandoc_finds_nothing_wrong_with_the_manual_pages(
    name: str, program: Callable[[str], str]
) -> None:
    argv = [program("mandoc"), "-Tlint", str(ROOT / "man" / name)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_manual_page_names_every_verb(program: Callable[[str], str]) -> None:
    argv = [program("mandoc"), "-Tascii", str(ROOT / "man" / "monconn.1")]
    text = re.sub(".\b", "", subprocess.check_output(argv, text=True))
    for verb in main.commands.values():
        assert re.search(rf"^ +{verb.name} \[OPTIONS\]", text, re.MULTILINE) or verb.hidden


# -- the metadata


def test_the_description_leads_nowhere_that_does_not_exist(wheel: Path) -> None:
    description = str(Parser().parsestr(read(wheel, "METADATA")).get_payload())
    assert description.startswith("# monconn\n")
    assert re.findall(r"\]\((?!https?://)[^)]*\)", description) == []


# -- make install


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_install_links_the_command_and_nothing_else(tmp_path: Path) -> None:
    environment = Path(sysconfig.get_path("scripts")).parent
    link = tmp_path / "bin" / "monconn"

    def install() -> subprocess.CompletedProcess[str]:
        command = f"make -s -o {environment}/.has-run install VENV={environment} BIN={link.parent}"
        return subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, timeout=60)

    for _ in range(2):  # the second time changes nothing
        done = install()
        assert done.returncode == 0, done.stderr
        assert link.resolve() == (environment / "bin" / "monconn").resolve()
        assert f"{link.parent} is not on your PATH" in done.stdout
    printed = subprocess.run([link, "--version"], capture_output=True, text=True, timeout=60)
    assert printed.stdout.startswith("monconn, version ")
    link.unlink()
    link.write_text("not ours")
    done = install()
    assert done.returncode != 0
    assert f"monconn: {link} is there already, and is not of this clone" in done.stderr
    assert link.read_text() == "not ours"
