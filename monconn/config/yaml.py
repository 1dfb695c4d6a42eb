"""YAML text as nodes that know their lines, with hard limits on what a text may cost.

PyYAML composes the text into its nodes; these still have each scalar as it was written, and every
key of a mapping, duplicates included. A walk over them makes ours. PyYAML's last step, which
constructs Python values, is left out: it forgets lines and how a number was written, and lets
the last of two equal keys win.
"""

from __future__ import annotations

import re
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


@attrs.frozen
class Source:
    """A file, as its nodes know it.

    :param name: for people, as it was given.
    :param folder: where its relative paths begin; empty for the working directory.
    """

    name: str
    folder: str = ""


_NO_FILE = Source("")


@attrs.frozen(eq=False)
class Scalar:
    """One plain value, and the text that it was written as."""

    line: int
    value: str | int | float | bool | None
    text: str
    source: Source = _NO_FILE


@attrs.frozen(eq=False)
class Sequence:
    """A list."""

    line: int
    nodes: list[Node]
    source: Source = _NO_FILE


@attrs.frozen(eq=False)
class Mapping:
    """Keys and their values, and the line of each key."""

    line: int
    nodes: dict[str, Node] = attrs.field(factory=dict)
    lines: dict[str, int] = attrs.field(factory=dict)
    is_whole: bool = True
    """False if some of its keys could not be read, for which a problem is reported already."""
    source: Source = _NO_FILE
    """Where it is written; of keys from several files, each value knows its own."""


Node = Scalar | Sequence | Mapping


def read(text: str, source: str, folder: str = "") -> tuple[Node | None, list[Problem]]:
    """Read one YAML document.

    :param source: the file's name, for the problems.
    :param folder: where relative paths in it begin.
    :returns: the root node, None if the text is empty or cannot be read; and all problems.
    """
    if len(text) > MAX_CHARACTERS:
        return None, [Problem(source, None, "", TOO_BIG)]
    try:
        root = _compose(text)
    except _UnreadableError as error:
        return None, [Problem(source, error.line, "", str(error))]
    if root is None:
        return None, []
    walk = _Walk(Source(source, folder))
    node = walk.node(root)
    return None if isinstance(node, Scalar) and node.value is None else node, walk.problems


def plain(node: Node) -> Any:
    """The value of a node as Python's dict, list, str, int, float, bool or None."""
    if isinstance(node, Mapping):
        return {name: plain(each) for name, each in node.nodes.items()}
    if isinstance(node, Sequence):
        return [plain(each) for each in node.nodes]
    return node.value


def line_of(root: Node, path: Path) -> int:
    """The line of a path, or of the deepest part of it that exists."""
    return place_of(root, path)[1]


def place_of(root: Node, path: Path) -> tuple[str, int]:
    """The file and the line of a path, or of the deepest part of it that exists."""
    node, line = root, root.line
    for part in path:
        if isinstance(node, Mapping) and part in node.nodes:
            line, node = node.lines[str(part)], node.nodes[str(part)]
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.nodes):
            node = node.nodes[part]
            line = node.line
    return node.source.name, line


def format_path(path: Path) -> str:
    """A path as text, such as ``services.web.block[2]``."""
    parts = (part for part in path if part != "")
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_name(part)}" for part in parts)
    return text.removeprefix(".")


def _name(part: str) -> str:
    return part if part.isprintable() and len(part) <= 80 else quoted(part)


class _UnreadableError(Exception):
    """Reading cannot continue after this line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


_STRING_TAG = "tag:yaml.org,2002:str"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_VALUE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))
# Longer scalars are strings, even in the form of a number: PyYAML takes quadratic time to read some
# forms of number, such as 1:1:1:…, and Python refuses integers of more than 4,300 digits.
_MAX_VALUE_CHARACTERS = 64


class _Loader(yaml.SafeLoader):
    """Composes nodes, and counts what they cost while it does.

    Composing is recursive, so that depth must be limited before it and not after. An alias is one
    more reference to the same node, but code that reads the tree visits that node again: it counts
    as often as it is referred to.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0
        self._sizes: dict[str, int] = {}

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        """Compose the next node, unless it exceeds a limit or refers to itself."""
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            # Known from the end of the node on, so that none contains itself.
            if event.anchor not in self._sizes:
                raise _UnreadableError(
                    _line(event),
                    f"the alias *{event.anchor} has no &{event.anchor} before it;"
                    " an address that starts with * must be in quotes",
                )
            self._count(event, self._sizes[event.anchor])
            return super().compose_node(parent, index)
        before = self._nodes
        self._count(event, 1)
        if not isinstance(event, yaml.ScalarEvent) and self._depth >= MAX_DEPTH:
            raise _UnreadableError(_line(event), f"nested more than {MAX_DEPTH} levels deep")
        # YAML allows the same anchor again, PyYAML does not.
        self.anchors.pop(event.anchor, None)
        self._sizes.pop(event.anchor, None)
        self._depth += 1
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        node.explicit_tag = event.tag
        if event.anchor:
            self._sizes[event.anchor] = self._nodes - before
        return node  # type: ignore[no-any-return]

    def _count(self, event: Any, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _UnreadableError(
                _line(event), f"the file is too big: it has more than {MAX_NODES} values"
            )

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """The tag of an untagged node: what PyYAML takes an unquoted scalar for."""
        if kind is yaml.ScalarNode and len(value) > _MAX_VALUE_CHARACTERS:
            return _STRING_TAG
        return super().resolve(kind, value, implicit)


def _compose(text: str) -> yaml.Node | None:
    """PyYAML's root node; None for an empty text.

    :raises _UnreadableError: with each of PyYAML's errors in terms of a configuration file.
    """
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        root = loader.get_node() if loader.check_node() else None
        if loader.check_node():
            line = _line(loader.peek_event())
            raise _UnreadableError(line, "a second YAML document starts here: keep one")
        return root
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(text, error) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{error.character:04X}"
        raise _UnreadableError(line, f"the character {character} is not allowed here") from None
    except (ValueError, OverflowError):
        # PyYAML's scanner passes escapes such as "\UFFFFFFFF" to chr() unchecked.
        line = loader.line + 1 if loader is not None else 1
        raise _UnreadableError(line, "not valid YAML: there is no such character") from None


def _syntax_error(text: str, error: yaml.MarkedYAMLError) -> _UnreadableError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    context = " ".join((error.context or "").split())
    if error.context_mark and error.context_mark.line + 1 != line:
        context += f" from line {error.context_mark.line + 1}"
    message = ": ".join(part for part in (context, error.problem) if part)
    return _UnreadableError(line, f"not valid YAML: {message}{_advice(text, line, message)}")


_UNQUOTED_ADDRESS = re.compile(r"\[[0-9A-Fa-f:.%]*:|\*:[0-9]")
_UNQUOTED_IN_BRACES = re.compile(rf"{_UNQUOTED_ADDRESS.pattern}|:\s+:\S")


def _advice(text: str, line: int, message: str) -> str:
    """Advice for syntax errors that are frequent in configurations."""
    lines = text.splitlines()[max(line - 2, 0) : line]
    # Only within braces a scalar may not start with a colon.
    unquoted = _UNQUOTED_IN_BRACES if "but found ':'" in message else _UNQUOTED_ADDRESS
    if any(unquoted.search(text) for text in lines):
        return (
            '; an address that starts with :, [ or * must be in quotes, such as ":80" or "[::1]:80"'
        )
    if "'\\t'" in message:
        return "; indent with spaces, not with tabs"
    if "mapping values are not allowed" in message:
        return '; a text with ": " in it must be in quotes'
    return ""


class _Walk:
    """Makes our nodes of PyYAML's, and collects what is wrong with them."""

    def __init__(self, source: Source) -> None:
        self.problems: list[Problem] = []
        self._source = source
        self._path: list[str | int] = []
        # A node with aliases is made once, so that its problems are reported once.
        self._made: dict[int, Node] = {}

    def node(self, node: Any) -> Node:
        made = self._made.get(id(node))
        if made is None:
            self._check_tag(node)
            if isinstance(node, yaml.ScalarNode):
                made = Scalar(_line(node), _value(node), node.value, self._source)
            elif isinstance(node, yaml.SequenceNode):
                items = [self._below(index, item) for index, item in enumerate(node.value)]
                made = Sequence(_line(node), items, self._source)
            else:
                made = self._mapping(node)
            self._made[id(node)] = made
        return made

    def _below(self, key: str | int, node: Any) -> Node:
        self._path.append(key)
        made = self.node(node)
        self._path.pop()
        return made

    def _mapping(self, node: Any) -> Mapping:
        mapping, is_whole = Mapping(_line(node), source=self._source), True
        merged: list[tuple[Any, Node]] = []
        for key_node, value_node in node.value:
            is_merge = key_node.tag == _MERGE_TAG and not key_node.explicit_tag
            key = "<<" if is_merge else self._key(key_node)
            value = self._below(key or "", value_node)
            if is_merge:
                merged.append((key_node, value))
            elif key is None:
                is_whole = False
            elif key in mapping.nodes:
                first = mapping.lines[key]
                self._problem(key_node, (key,), f"duplicate key, first on line {first}")
            else:
                mapping.nodes[key] = value
                mapping.lines[key] = _line(key_node)
        for key_node, other in merged:
            is_whole &= self._merge(mapping, other, key_node)
        return attrs.evolve(mapping, is_whole=is_whole)

    def _key(self, key_node: Any) -> str | None:
        node = self._below("", key_node)
        if not isinstance(node, Scalar) or node.value is None:
            self._problem(key_node, (), "a key must be a name, not a list, a mapping or nothing")
            return None
        if not node.text.strip() or not node.text.isprintable():
            self._problem(key_node, (), f"a key must be printable text, not {quoted(node.text)}")
            return None
        return node.text

    def _merge(self, mapping: Mapping, node: Node, key_node: Any) -> bool:
        """``<<: *other``: take from another mapping the keys that this one does not have.

        :returns: whether all of the other could be read.
        """
        others = node.nodes if isinstance(node, Sequence) else [node]
        is_whole = True
        for other in others:
            if not isinstance(other, Mapping):
                self._problem(key_node, ("<<",), "must be an alias of a mapping, such as *web")
                is_whole = False
                continue
            is_whole &= other.is_whole
            mapping.nodes.update({k: v for k, v in other.nodes.items() if k not in mapping.nodes})
            mapping.lines.update({k: v for k, v in other.lines.items() if k not in mapping.lines})
        return is_whole

    def _check_tag(self, node: Any) -> None:
        names = ("str",) if isinstance(node, yaml.ScalarNode) else ("seq", "map")
        if node.explicit_tag not in (None, "!", *(f"tag:yaml.org,2002:{name}" for name in names)):
            short = node.explicit_tag.replace("tag:yaml.org,2002:", "!!")
            self._problem(node, (), f"the tag {quoted(short)} is not understood: leave it out")

    def _problem(self, node: Any, below: Path, message: str) -> None:
        path = format_path(tuple(_shown(part) for part in (*self._path, *below)))
        self.problems.append(Problem(self._source.name, _line(node), path, message))


def _shown(part: str | int) -> str | int:
    """A key without what may be secret in it: a URL that should be a value."""
    return f"{part.partition('://')[0]}://..." if isinstance(part, str) and "://" in part else part


_CONSTRUCTOR: Any = yaml.SafeLoader("")


def _value(node: Any) -> Any:
    """The value of a scalar; a string if it has a tag, is quoted, or is a malformed number."""
    if node.explicit_tag or node.tag not in _VALUE_TAGS:
        return node.value
    try:
        return yaml.SafeLoader.yaml_constructors[node.tag](_CONSTRUCTOR, node)
    except ValueError:
        return node.value  # such as 0x_


def _line(marked: Any) -> int:
    """The line, counted from 1, at which an event or a node of PyYAML's starts."""
    return int(marked.start_mark.line) + 1
