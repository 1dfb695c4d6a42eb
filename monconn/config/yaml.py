"""YAML text into plain nodes that know their lines, with hard limits on what a text may cost.

Read from PyYAML's events rather than from its trees: those are built by recursion, forget how a
number was written, and let the last of two equal keys win.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import attrs
import yaml

from monconn.errors import Problem, quoted

MAX_CHARACTERS = 1024 * 1024
MAX_DEPTH = 20
MAX_NODES = 100_000
"""Counted as if every alias were written out."""

TOO_BIG = f"the file is too big: at most {MAX_CHARACTERS // 1024} KiB are read"

Path = tuple[str | int, ...]


@attrs.frozen(eq=False)
class Scalar:
    """One plain value, and the text that it was written as."""

    line: int
    value: str | int | float | bool | None
    text: str


@attrs.frozen(eq=False)
class Sequence:
    """A list."""

    line: int
    nodes: list[Node]


@attrs.frozen(eq=False)
class Mapping:
    """Names and what they stand for, and each name's line."""

    line: int
    nodes: dict[str, Node] = attrs.field(factory=dict)
    lines: dict[str, int] = attrs.field(factory=dict)
    is_whole: bool = True
    """False if some of what it says could not be read, which is a problem already."""


Node = Scalar | Sequence | Mapping


def read(text: str, source: str) -> tuple[Node | None, list[Problem]]:
    """The root node, or None for an empty text or one that is no YAML; and all problems found.

    :param source: the file's name, for the problems.
    """
    if len(text) > MAX_CHARACTERS:
        return None, [Problem(source, None, "", TOO_BIG)]
    problems: list[Problem] = []
    try:
        return _Reader(text, source, problems).root(), problems
    except _UnreadableError as error:
        return None, [*problems, Problem(source, error.line, "", str(error))]


def plain(node: Node) -> Any:
    """What a node stands for, in Python's own values."""
    if isinstance(node, Mapping):
        return {name: plain(each) for name, each in node.nodes.items()}
    if isinstance(node, Sequence):
        return [plain(each) for each in node.nodes]
    return node.value


def line_of(root: Node, path: Path) -> int:
    """The line of a path, or of the part of it that is there."""
    node, line = root, root.line
    for part in path:
        if isinstance(node, Mapping) and part in node.nodes:
            line, node = node.lines[str(part)], node.nodes[str(part)]
        elif isinstance(node, Sequence) and isinstance(part, int):
            node = node.nodes[part]
            line = node.line
    return line


def format_path(path: Path) -> str:
    """A path as people read it: ``services.web.ip_blacklist[2]``."""
    parts = (part for part in path if part != "")
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_name(part)}" for part in parts)
    return text.removeprefix(".")


def _name(part: str) -> str:
    return part if part.isprintable() and len(part) <= 80 else quoted(part)


class _UnreadableError(Exception):
    """Reading cannot go on after this line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


_STRING_TAG = "tag:yaml.org,2002:str"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_VALUE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))
# Longer ones are texts, whatever they look like; some forms of number take quadratic time to read.
_MAX_VALUE_CHARACTERS = 64


class _Reader:
    """Builds nodes from events, and counts what they cost."""

    def __init__(self, text: str, source: str, problems: list[Problem]) -> None:
        self._text = text
        self._source = source
        self._problems = problems
        self._loader = self._guarded(1, lambda: yaml.SafeLoader(text))
        self._path: list[str | int] = []
        self._nodes = 0
        self._anchors: dict[str, tuple[Node, int]] = {}

    def root(self) -> Node | None:
        self._next()  # the stream's start
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        root = self._node(self._next())
        self._next()  # the document's end
        rest = self._next()
        if not isinstance(rest, yaml.StreamEndEvent):
            raise _UnreadableError(_line(rest), "a second YAML document starts here: keep one")
        return None if isinstance(root, Scalar) and root.value is None else root

    def _next(self) -> Any:
        return self._guarded(self._loader.line + 1, self._loader.get_event)

    def _guarded(self, line: int, step: Any) -> Any:
        """What a step of PyYAML's gives, with each of its errors in words for people."""
        try:
            return step()
        except yaml.MarkedYAMLError as error:
            raise self._syntax_error(error, line) from None
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, error.position) + 1
            character = f"U+{error.character:04X}"
            raise _UnreadableError(line, f"the character {character} may not stand here") from None
        except (ValueError, OverflowError):
            # The scanner does not check escapes such as "\UFFFFFFFF".
            raise _UnreadableError(line, "not valid YAML: there is no such character") from None

    def _syntax_error(self, error: yaml.MarkedYAMLError, line: int) -> _UnreadableError:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else line
        context = " ".join((error.context or "").split())
        if error.context_mark and error.context_mark.line + 1 != line:
            context += f" from line {error.context_mark.line + 1}"
        said = ": ".join(part for part in (context, error.problem) if part)
        return _UnreadableError(line, f"not valid YAML: {said}{self._advice(line, said)}")

    def _advice(self, line: int, said: str) -> str:
        lines = self._text.splitlines()[max(line - 2, 0) : line]
        # Only within braces a text may not begin with a colon.
        unquoted = _UNQUOTED_IN_BRACES if "but found ':'" in said else _UNQUOTED_ADDRESS
        if any(unquoted.search(text) for text in lines):
            return (
                "; an address that starts with :, [ or * must be in quotes,"
                ' such as ":80" or "[::1]:80"'
            )
        if "'\\t'" in said:
            return "; indent with spaces, not with tabs"
        if "mapping values are not allowed" in said:
            return '; a text with ": " in it must be in quotes'
        return ""

    def _node(self, event: Any) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self._nodes
        self._count(event, 1)
        if isinstance(event, yaml.ScalarEvent):
            node: Node = self._scalar(event)
        else:
            node = self._collection(event)
        if event.anchor:
            self._anchors[event.anchor] = node, self._nodes - before
        return node

    def _collection(self, event: Any) -> Node:
        if len(self._path) >= MAX_DEPTH:
            raise _UnreadableError(_line(event), f"nested more than {MAX_DEPTH} levels deep")
        if not _is_plain_tag(event.tag, ("seq", "map")):
            self._problem(event, (), _tag_message(event.tag))
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(event)
        return self._mapping(event)

    def _alias(self, event: Any) -> Node:
        known = self._anchors.get(event.anchor)
        if known is None:
            raise _UnreadableError(
                _line(event),
                f"the alias *{event.anchor} has no &{event.anchor} before it;"
                " an address that starts with * must be in quotes",
            )
        self._count(event, known[1])
        return known[0]

    def _count(self, event: Any, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _UnreadableError(
                _line(event), f"the file is too big: it has more than {MAX_NODES} values"
            )

    def _scalar(self, event: Any) -> Scalar:
        if not _is_plain_tag(event.tag, ("str",)):
            self._problem(event, (), _tag_message(event.tag))
        return Scalar(_line(event), self._value(event), event.value)

    def _value(self, event: Any) -> Any:
        tag = self._resolved_tag(event)
        if tag not in _VALUE_TAGS:
            return event.value
        construct = yaml.SafeLoader.yaml_constructors[tag]
        try:
            return construct(self._loader, yaml.ScalarNode(tag, event.value))
        except ValueError:
            return event.value  # such as 0x_, which only looks like a number

    def _resolved_tag(self, event: Any) -> str:
        """What PyYAML takes an unquoted text for."""
        if event.tag or len(event.value) > _MAX_VALUE_CHARACTERS:
            return _STRING_TAG
        return str(self._loader.resolve(yaml.ScalarNode, event.value, event.implicit))

    def _sequence(self, event: Any) -> Sequence:
        nodes = []
        for index, item in enumerate(self._events_until(yaml.SequenceEndEvent)):
            self._path.append(index)
            nodes.append(self._node(item))
            self._path.pop()
        return Sequence(_line(event), nodes)

    def _mapping(self, event: Any) -> Mapping:
        mapping, is_whole = Mapping(_line(event)), True
        merged: list[tuple[Any, Node]] = []
        for key_event in self._events_until(yaml.MappingEndEvent):
            is_merge = isinstance(key_event, yaml.ScalarEvent) and (
                self._resolved_tag(key_event) == _MERGE_TAG
            )
            key = "<<" if is_merge else self._key(key_event)
            self._path.append(key or "")
            value = self._node(self._next())
            self._path.pop()
            if is_merge:
                merged.append((key_event, value))
            elif key is not None:
                self._enter(mapping, key, value, key_event)
            else:
                is_whole = False
        for key_event, node in merged:
            is_whole &= self._merge(mapping, node, key_event)
        return attrs.evolve(mapping, is_whole=is_whole)

    def _key(self, event: Any) -> str | None:
        self._path.append("")
        node = self._node(event)
        self._path.pop()
        if not isinstance(node, Scalar) or node.value is None:
            self._problem(event, (), "a key must be a name, not a list, a mapping or nothing")
            return None
        if not node.text.strip() or not node.text.isprintable():
            self._problem(event, (), f"a key must be printable text, not {quoted(node.text)}")
            return None
        return node.text

    def _enter(self, mapping: Mapping, key: str, value: Node, event: Any) -> None:
        if key in mapping.nodes:
            first = mapping.lines[key]
            self._problem(event, (key,), f"stands here twice, first in line {first}: keep one")
            return
        mapping.nodes[key] = value
        mapping.lines[key] = _line(event)

    def _merge(self, mapping: Mapping, node: Node, event: Any) -> bool:
        """``<<: *other``: what the mapping does not say itself it takes from the other.

        Gives whether all of the other could be read.
        """
        others = node.nodes if isinstance(node, Sequence) else [node]
        is_whole = True
        for other in others:
            if not isinstance(other, Mapping):
                self._problem(event, ("<<",), "must be an alias of a mapping, such as *web")
                is_whole = False
                continue
            is_whole &= other.is_whole
            mapping.nodes.update({k: v for k, v in other.nodes.items() if k not in mapping.nodes})
            mapping.lines.update({k: v for k, v in other.lines.items() if k not in mapping.lines})
        return is_whole

    def _events_until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := self._next(), end):
            yield event

    def _problem(self, event: Any, below: Path, message: str) -> None:
        path = format_path((*self._path, *below))
        self._problems.append(Problem(self._source, _line(event), path, message))


_UNQUOTED_ADDRESS = re.compile(r"\[[0-9A-Fa-f:.%]*:|\*:[0-9]")
_UNQUOTED_IN_BRACES = re.compile(rf"{_UNQUOTED_ADDRESS.pattern}|:\s+:\S")


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _is_plain_tag(tag: str | None, names: tuple[str, ...]) -> bool:
    return tag in (None, "!", *(f"tag:yaml.org,2002:{name}" for name in names))


def _tag_message(tag: str) -> str:
    short = tag.replace("tag:yaml.org,2002:", "!!")
    return f"the tag {quoted(short)} is not understood: leave it out"
