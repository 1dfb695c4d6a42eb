"""A configuration of several files: what ``include:`` names is read into one tree of nodes.

An included file may have every section of the main one. The services of all files are those of
the configuration; of any other section there is one, in whichever file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import attrs

from monconn.config import yaml as yamlmap
from monconn.config.yaml import Mapping, Node, Path, Scalar, Sequence, Source
from monconn.errors import FileError, Problem, os_error_text, quoted
from monconn.files import path_fault, read_file, read_until_end

KEY = "include"
MAX_DEPTH = 8
"""How many files may include one another in a row."""
MAX_FILES = 1000
MAX_BYTES = 4 * yamlmap.MAX_CHARACTERS
"""Of all files together: YAML is read at some 100 KiB a second."""
_SUFFIXES = (".yaml", ".yml")
_AN_INCLUDE = "must be the path of a file or of a folder, or a list of them"


Stamp = tuple[int, int, int]
"""Which file it is, and how: its inode, its size, and when it was written, in nanoseconds."""


def stamp(path: str) -> Stamp | None:
    """How a file is now, by which it is known again as unchanged; None if it cannot be asked."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@attrs.define
class Tree:
    """What was read.

    :param root: None if the main file is empty, or cannot be read.
    :param problems: those with the files and their YAML.
    :param sources: the names of all files, in the order in which they were read.
    :param stamps: the absolute paths of all files, in the order in which they were read, and how
        each was before.
    """

    root: Node | None = None
    problems: list[Problem] = attrs.field(factory=list)
    sources: list[str] = attrs.field(factory=list)
    stamps: dict[str, Stamp | None] = attrs.field(factory=dict)


def read_tree(path: str | os.PathLike[str]) -> Tree:
    """Read a file, and all that it includes.

    What is wrong is among the problems: nothing is raised.
    """
    return _Reading().main(os.fspath(path))


def is_included(root: Node) -> bool:
    """Whether a file says what it includes: in the Go tool's style ``include`` may be a service."""
    if not isinstance(root, Mapping) or KEY not in root.nodes:
        return False
    return "services" in root.nodes or not isinstance(root.nodes[KEY], Mapping)


class _Reading:
    """One reading of a main file and all that it includes."""

    def __init__(self) -> None:
        self._tree = Tree()
        self._places: dict[str, str] = {}
        """By the real path of each file, where it is included."""
        self._bytes = 0
        self._has_too_many = False

    def main(self, path: str) -> Tree:
        """Read the main file, which may also be a pipe."""
        # Absolute: a daemon changes its directory, and the file is read again.
        source = Source(path, os.path.dirname(os.path.abspath(path)))
        self._tree.sources.append(path)
        self._tree.stamps[os.path.abspath(path)] = stamp(path)
        try:
            content = read_until_end(path, yamlmap.MAX_CHARACTERS)
        except OSError as error:
            self._problem(source, None, f"cannot be read: {error.strerror}")
            return self._tree
        except ValueError:
            self._problem(source, None, f"cannot be read: {path_fault(path)}")
            return self._tree
        if not os.path.isfile(path):  # a pipe is in no folder
            source = attrs.evolve(source, folder=os.getcwd())
        real = os.path.realpath(path)
        self._places[real] = path
        root = self._parsed(content, source)
        if root is not None and is_included(root):
            assert isinstance(root, Mapping)
            root = self._with_included(root, [real])
            # It is no file of the Go tool's style, whatever it includes.
            services = root.nodes.setdefault("services", Mapping(root.line, source=root.source))
            root.lines.setdefault("services", root.line)
            if self._tree.problems and isinstance(services, Mapping):
                root.nodes["services"] = attrs.evolve(services, is_whole=False)
        self._tree.root = root
        return self._tree

    def _parsed(self, content: bytes, source: Source) -> Node | None:
        self._bytes += len(content)
        if len(content) > yamlmap.MAX_CHARACTERS:
            self._problem(source, None, yamlmap.TOO_BIG)
            return None
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            self._problem(source, line, "is not a text in UTF-8")
            return None
        root, problems = yamlmap.read(text, source.name, source.folder)
        self._tree.problems += problems
        return root

    def _with_included(self, root: Mapping, stack: list[str]) -> Mapping:
        """A file's sections and those of all that it includes.

        :param stack: the real paths of the file and of those by which it is included.
        """
        merged = Mapping(root.line, is_whole=root.is_whole, source=root.source)
        self._add(merged, root)
        for node in self._wanted(root):
            for path in self._files(node):
                included = self._included(path, node, stack)
                if included is not None:
                    self._add(merged, included)
        return merged

    def _add(self, merged: Mapping, part: Mapping) -> None:
        """Add sections to those of other files, and services to their services."""
        for key, node in part.nodes.items():
            if key == KEY:
                continue
            services = merged.nodes.get(key)
            if key == "services" and isinstance(node, Mapping):
                if services is None:
                    services = merged.nodes[key] = attrs.evolve(node, nodes={}, lines={})
                    merged.lines[key] = part.lines[key]
                if isinstance(services, Mapping):
                    for name in node.nodes:
                        self._add_one(services, node, name, (key, name))
                    continue
            self._add_one(merged, part, key, (key,))

    def _add_one(self, merged: Mapping, part: Mapping, key: str, path: Path) -> None:
        node, line = part.nodes[key], part.lines[key]
        other = merged.nodes.get(key)
        if other is None:
            merged.nodes[key], merged.lines[key] = node, line
        elif other is not node:
            first = f"{other.source.name}:{merged.lines[key]}"
            self._problem(node.source, line, f"duplicate key, first at {first}: keep one", path)

    def _wanted(self, root: Mapping) -> Iterator[Scalar]:
        """The paths that a file includes."""
        node = root.nodes.get(KEY)
        if node is None:
            return
        items = node.nodes if isinstance(node, Sequence) else [node]
        for index, each in enumerate(items):
            path: Path = (KEY, index) if isinstance(node, Sequence) else (KEY,)
            if not isinstance(each, Scalar) or each.value is None or not each.text.strip():
                line = root.lines[KEY] if isinstance(each, Mapping) else each.line
                self._problem(each.source, line, _AN_INCLUDE, path)
            elif fault := path_fault(each.text):
                text = f"{quoted(each.text)} cannot be a path: {fault}"
                self._problem(each.source, each.line, text, path)
            else:
                yield each

    def _files(self, node: Scalar) -> list[tuple[str, str]]:
        """What one path of an ``include`` means: the name of each file, and its absolute path."""
        written = os.path.expanduser(node.text)
        path = os.path.join(node.source.folder, written)
        # As the file that names it is named itself, so that messages are short.
        name = os.path.join(os.path.dirname(node.source.name), written)
        if not os.path.isdir(path):
            return [(name, path)]
        try:
            names = sorted(each for each in os.listdir(path) if _is_configuration(each))
        except OSError as error:
            text = f"the folder {quoted(name)} cannot be read: {os_error_text(error)}"
            self._problem(node.source, node.line, text, (KEY,))
            return []
        return [(os.path.join(name, each), os.path.join(path, each)) for each in names]

    def _included(self, file: tuple[str, str], node: Scalar, stack: list[str]) -> Mapping | None:
        """The sections of an included file; None if there are none, or if it cannot be used."""
        name, path = file
        real = os.path.realpath(path)
        if self._has_too_many:
            return None  # which was told once: a folder may have a hundred thousand
        message = self._refusal(name, real, stack)
        content = b""
        if message is None:
            self._places[real] = f"{node.source.name}:{node.line}"
            self._tree.sources.append(name)
            self._tree.stamps[path] = stamp(path)
            try:
                content = read_file(path, yamlmap.MAX_CHARACTERS)
            except FileError as error:
                message = str(error)
            if self._bytes + len(content) > MAX_BYTES:
                self._has_too_many = True
                message = f"all files together are too big: at most {MAX_BYTES >> 20} MiB are read"
        if message is not None:
            self._problem(node.source, node.line, message, (KEY,))
            return None
        source = Source(name, os.path.dirname(os.path.abspath(path)))
        root = self._parsed(content, source)
        if root is None:
            return None
        if not isinstance(root, Mapping):
            self._problem(source, root.line, "must be a mapping of sections, such as services:")
            return None
        return self._with_included(root, [*stack, real])

    def _refusal(self, name: str, real: str, stack: list[str]) -> str | None:
        """Why a file is not read; None if it is."""
        if real in stack:
            return f"{quoted(name)} includes itself{_by_way_of(stack, real)}"
        if real in self._places:
            return f"{quoted(name)} is included already, at {self._places[real]}"
        if len(stack) > MAX_DEPTH:
            return f"{quoted(name)}: files include one another more than {MAX_DEPTH} levels deep"
        if len(self._places) > MAX_FILES:
            self._has_too_many = True
            return f"{quoted(name)}: at most {MAX_FILES} files are included"
        return None

    def _problem(self, source: Source, line: int | None, message: str, path: Path = ()) -> None:
        text = yamlmap.format_path(path)
        self._tree.problems.append(Problem(source.name, line, text, message))


def _is_configuration(name: str) -> bool:
    """Whether a file of a folder is included: not what editors and package managers leave there."""
    return name.endswith(_SUFFIXES) and not name.startswith(".")


def _by_way_of(stack: list[str], real: str) -> str:
    others = stack[stack.index(real) + 1 :]
    return f", by way of {', '.join(map(quoted, others))}" if others else ""
