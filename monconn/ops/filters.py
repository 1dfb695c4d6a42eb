"""The filter language: which rows of a listing are wanted, or which connections an action is for.

``service:mqtt client:10.0.0.0/8 idle:5m.. not:reason:client_closed``: ``docs/filters.md`` is its
reference. A text is parsed once into a frozen :class:`Filter`, which then matches live records,
plain rows, or, translated to SQL, the rows of a history. What keys there are in each listing is in
:mod:`monconn.ops.filter_keys`.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, Protocol

import attrs

from monconn.addresses import Network, parse_network
from monconn.errors import AddressError, MonconnError, UnitError, quoted
from monconn.model.reasons import REFUSALS
from monconn.model.record import ConnectionRecord
from monconn.model.uid import parse_uid
from monconn.policy.networks import matcher
from monconn.units import parse_duration, parse_size

Kind = Literal["text", "choice", "network", "seconds", "bytes", "rate", "count", "port"]
"""The types of the values of keys. ``count`` and ``port`` are whole numbers that may be given
exactly; ``seconds``, ``bytes`` and ``rate`` (bytes a second) only as a range."""
Mode = Literal["listing", "action"]
"""A listing also takes bare words; an action takes ids and ``key:`` terms, and at least one."""

MAX_TERMS = 100
"""The most terms beside ids; more are an error: each may cost a search in every row."""
MAX_IDS = 2_000
"""The most ids, in a filter and in an action; more are an error. As JSON, this many of 18 digits
fit into the 64 KiB that one value in AMP may have."""

_MAX_BYTES = 10**18 - 1  # what units.parse_size reads back, and SQLite stores, as digits
_FACT_PREFIX = "fact."
_FACT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_OTHER_NAMES = {
    "client_ip": "client",
    "ip": "client",
    "sid": "service",
    "listener": "port",
    "age_seconds": "age",
    "duration_seconds": "age",
    "idle_seconds": "idle",
    "up_rate": "rate",
    "down_rate": "rate",
    "refusal": "reason",
    "last_reason": "reason",
    "code": "reason",
}
"""Names of columns, and in JSON, that users may try as keys, and the keys to suggest instead."""
_ONLY_LIVE = ("rate",)
"""Keys that listings without live connections lack: there, they are an error rather than facts, of
which no row would have one."""
_PLAIN_TEXT = {
    "": re.compile(r"""[^ \t\r\n\\'"]+"""),
    "'": re.compile(r"[^']+"),
    '"': re.compile(r"""[^"\\]+"""),
}
"""What stands for itself outside of quotes, and in each kind of them."""
_RANGE_EXAMPLES: dict[Kind, str] = {
    "seconds": "5m",
    "bytes": "1MiB",
    "rate": "10KiB",
    "count": "5",
    "port": "443",
}


class FilterError(MonconnError, ValueError):
    """A filter that cannot be understood; its text is one line for people.

    :param problem: what is wrong.
    :param term: the number of the term, from 1; None where no term is to blame.
    :param text: the term as it was written.
    :param position: the offset of the term (or of an open quote) in the text; None where the terms
        came one by one.
    :param suggestion: what to write instead; may be empty.
    """

    def __init__(
        self,
        problem: str,
        term: int | None = None,
        text: str = "",
        position: int | None = None,
        suggestion: str = "",
    ) -> None:
        place = "" if term is None else f" in term {term} {quoted(text)}"
        super().__init__(f"filter: {problem}{place}" + (suggestion and f": {suggestion}"))
        self.problem = problem
        self.term = term
        self.text = text
        self.position = position
        self.suggestion = suggestion


class RateSource(Protocol):
    """Knows how fast bytes move, as :class:`~monconn.ops.rates.Rates` does."""

    def of(self, record: ConnectionRecord, now: float) -> tuple[float, float]:
        """Bytes a second up and down."""


@attrs.frozen
class Context:
    """The data besides a filter that matching a row needs.

    :param now: monotonic seconds.
    :param rates: for ``rate``; without it every rate is 0.
    """

    now: float = 0.0
    rates: RateSource | None = None


@attrs.frozen(eq=False)
class Key:
    """One key of a listing.

    :param get: the value of a row; None where it has none.
    :param choices: all values of a ``choice``.
    :param address: of a ``network``, the row's IP; ``get`` gives the text to search otherwise.
    :param is_many: whether ``get`` gives several values, of which one must match.
    :param sql: the columns or expressions that hold the value; several as with ``is_many``.
    :param sql_address: of a ``network``, the column with the packed IP.
    """

    name: str
    kind: Kind
    get: Callable[[Any, Context], Any]
    choices: tuple[str, ...] = ()
    address: Callable[[Any], str | None] | None = None
    is_many: bool = False
    sql: tuple[str, ...] = ()
    sql_address: str = ""


@attrs.frozen(eq=False)
class Keys:
    """The keys of one kind of listing.

    :param text: what a bare word is searched in.
    :param facts: the facts of a row; None where rows have none.
    :param sql_text: an SQL expression for the same text.
    :param sql_facts: the column with the facts as JSON; empty where there is none.
    """

    by_name: Mapping[str, Key]
    text: Callable[[Any], str]
    facts: Callable[[Any], Mapping[str, Any]] | None = None
    sql_text: str = ""
    sql_facts: str = ""


@attrs.frozen
class Part:
    """A substring of the value, case-insensitive; folded."""

    text: str


@attrs.frozen
class Exact:
    """The whole value, case-insensitive; folded."""

    text: str


@attrs.frozen
class Range:
    """A number between two, both included; None is an open end."""

    low: float | None
    high: float | None


Value = Part | Exact | Range | Network


@attrs.frozen
class Term:
    """One condition.

    :param key: empty for a bare word; ``fact.NAME`` for a fact.
    """

    key: str
    value: Value
    is_negated: bool = False


@attrs.frozen
class Condition:
    """A filter in SQL, for a ``WHERE``.

    :param values: for the named parameters in the text.
    :param functions: those of one argument that the text calls, to be created on the connection.
    """

    text: str
    values: dict[str, Any]
    functions: Mapping[str, Callable[[Any], Any]]


_Test = Callable[[Any], bool]
_Check = tuple[Callable[[Any, Context], Any], _Test]


@attrs.frozen
class Filter:
    """Terms that were parsed for one kind of listing; without terms, everything matches."""

    terms: tuple[Term, ...]
    keys: Keys = attrs.field(repr=False)
    _checks: tuple[_Check, ...] = attrs.field(init=False, eq=False, repr=False)

    @_checks.default
    def _make_checks(self) -> tuple[_Check, ...]:
        return tuple(
            _check(self.keys, key, values, is_negated)
            for key, values, is_negated in _grouped(self.terms)
        )

    def __bool__(self) -> bool:
        return bool(self.terms)

    def uses(self, key: str) -> bool:
        """Whether a term uses this key: rates, for instance, need to be measured first."""
        return any(term.key == key for term in self.terms)

    def matches(self, row: Any, context: Context) -> bool:
        """Whether a row passes the filter."""
        return all(test(get(row, context)) for get, test in self._checks)

    def sift(self, rows: Iterable[Any], context: Context) -> Iterator[Any]:
        """The rows that pass the filter, and None for each that does not.

        So whoever iterates has the time between two rows in hand, however many do not pass.

        :param rows: may have None among them, which are passed on.
        """
        checks = self._checks
        for row in rows:
            # A loop instead of all(): a generator for each row costs more than the tests.
            if row is not None:
                for get, test in checks:
                    if not test(get(row, context)):
                        row = None
                        break
            yield row

    def select(self, rows: Iterable[Any], context: Context) -> Iterator[Any]:
        """The rows that pass the filter, in their order."""
        return (row for row in self.sift(rows, context) if row is not None)

    def to_text(self) -> str:
        """The canonical text, which parses to an equal filter; quoted for a shell where needed."""
        return " ".join(shlex.quote(each) for each in self.to_terms())

    def to_terms(self) -> list[str]:
        """The same term by term, without quotes."""
        return [_term_text(self.keys, term) for term in self.terms]

    def to_sql(self) -> Condition:
        """The filter as an SQL condition on the columns that the keys name.

        :raises FilterError: a key has no column.
        """
        values: dict[str, Any] = {}
        functions = dict(SQL_FUNCTIONS)

        def bind(value: Any) -> str:
            name = f"filter{len(values)}"
            values[name] = value
            return f":{name}"

        conditions = []
        for number, (name, group, is_negated) in enumerate(_grouped(self.terms)):
            key = self.keys.by_name.get(name)
            if key is not None:
                columns = key.sql
            elif not name:
                columns = (self.keys.sql_text,)
            else:
                function = f"monconn_filter_fact{number}"
                functions[function] = _fact_reader(name[len(_FACT_PREFIX) :])
                columns = (self.keys.sql_facts and f"{function}({self.keys.sql_facts})",)
            if not (columns and all(columns)):
                raise FilterError(f"{name or 'a bare word'} cannot be asked of the history")
            alternatives = " OR ".join(_sql(key, columns, group, bind))
            # A value that is not there (NULL) does not match, and so passes a not:. Elsewhere
            # no coalesce(), which would keep SQLite from using an index.
            negated = f"NOT coalesce({alternatives}, 0)"
            conditions.append(negated if is_negated else f"({alternatives})")
        return Condition(" AND ".join(conditions) or "TRUE", values, functions)


def parse(
    terms: str | Sequence[str],
    keys: Keys,
    mode: Mode = "listing",
    known: Mapping[str, Collection[str]] | None = None,
) -> Filter:
    """Understand a filter.

    :param terms: one line, split as a shell does (quotes, backslash); or the terms one by one, as
        in ``argv``.
    :param known: by key, values that exist now, such as the services' names: one that is given in
        full means only itself; by ``fact``, the names of facts: any other one is an error then,
        unless it says ``fact.`` before it.
    :raises FilterError: says which term is wrong, and what to write.
    """
    most = MAX_TERMS + MAX_IDS
    pieces: list[tuple[str, int | None]]
    if isinstance(terms, str):
        pieces = list(islice(_split(terms), most + 1))
    else:
        pieces = [(term, None) for term in terms[: most + 1]]
    if len(pieces) > most:  # before each is parsed, even if they are the same
        raise FilterError(f"too many terms: at most {MAX_TERMS}, and {MAX_IDS} ids")
    if mode == "action" and not pieces:
        raise FilterError("nothing is chosen", suggestion="give ids, or terms such as client:NET")
    parsed: dict[Term, None] = {}
    for number, (text, position) in enumerate(pieces, 1):
        try:
            parsed[_parse_term(text, keys, mode, known or {})] = None
        except _Wrong as wrong:
            raise FilterError(wrong.problem, number, text, position, wrong.suggestion) from None
    ids = sum(term.key == "id" and _is_point(term.value) for term in parsed)
    if len(parsed) - ids > MAX_TERMS:
        raise FilterError(f"too many terms, {len(parsed) - ids}: at most {MAX_TERMS}")
    if ids > MAX_IDS:
        raise FilterError(f"too many ids, {ids}: at most {MAX_IDS}")
    return Filter(tuple(parsed), keys)


def complete(
    partial: str, keys: Keys, known: Mapping[str, Collection[str]] | None = None
) -> list[str]:
    """The completions of a term that is being typed, in order.

    :param known: as for :func:`parse`.
    """
    known = known or {}
    prefix = "not:" if partial.lower().startswith("not:") else ""
    typed = partial[len(prefix) :]
    name, colon, value = typed.partition(":")
    if not colon:
        facts = known.get("fact", ()) if keys.facts is not None else ()
        names = [f"{each}:" for each in (*keys.by_name, *facts)] + ([] if prefix else ["not:"])
        return [prefix + each for each in names if each.startswith(name.lower())]
    key = keys.by_name.get(name.lower())
    values = (*(key.choices if key else ()), *known.get(name.lower(), ()))
    exact, value = ("=", value[1:]) if value.startswith("=") else ("", value)
    return [
        f"{prefix}{name}:{exact}{each}"
        for each in dict.fromkeys(values)
        if each.casefold().startswith(value.casefold())
    ]


# -- parsing


class _Wrong(Exception):
    """A problem in one term, before its place is known."""

    def __init__(self, problem: str, suggestion: str = "") -> None:
        super().__init__(problem)
        self.problem, self.suggestion = problem, suggestion


def _split(line: str) -> Iterator[tuple[str, int]]:
    """The terms of a line with their offsets, as a POSIX shell splits words.

    Not :func:`shlex.split`, which knows no offsets.
    """
    term: list[str] | None = None
    offset = start = opened = 0
    quote = ""
    while offset < len(line):
        plain = _PLAIN_TEXT[quote].match(line, offset)
        if plain is not None:  # at once, as a line may have 64 KiB
            if term is None:
                term, start = [], offset
            term.append(plain[0])
            offset = plain.end()
            continue
        character = line[offset]
        if not quote and character in " \t\r\n":
            if term is not None:
                yield "".join(term), start
            term = None
            offset += 1
            continue
        if term is None:
            term, start = [], offset
        if character == "\\":
            escaped = line[offset + 1 : offset + 2]
            if not escaped:
                raise FilterError("a backslash at the end", position=offset)
            # Inside of double quotes a backslash protects only these two.
            term.append(f"\\{escaped}" if quote and escaped not in '"\\' else escaped)
            offset += 2
            continue
        if quote:
            quote = ""
        else:
            quote, opened = character, offset
        offset += 1
    if quote:
        raise FilterError(f"the quote {quote} is not closed", position=opened)
    if term is not None:
        yield "".join(term), start


def _parse_term(text: str, keys: Keys, mode: Mode, known: Mapping[str, Collection[str]]) -> Term:
    if not text:
        raise _Wrong("nothing", "leave it out")
    try:
        text.encode()
    except UnicodeEncodeError:  # argv that was no UTF-8
        raise _Wrong("a byte sequence that is not UTF-8") from None
    is_negated = text[:4].lower() == "not:"
    rest = text[4:] if is_negated else text
    if not rest:
        raise _Wrong("not: without a term", "write not:KEY:VALUE")
    name, colon, value = rest.partition(":")
    if mode == "listing" and not colon and _is_old_form(rest, keys):
        name, colon, value = rest.partition("=")
    folded = name.casefold()
    key: Key | None = None
    if colon and folded in keys.by_name:
        key = keys.by_name[folded]
    elif not colon or _is_address(folded, value, rest):
        key_name, word = _bare_word(rest, keys, mode, known)
        return Term(key_name, word, is_negated)
    elif folded == "not":
        raise _Wrong("not: twice", "write not:KEY:VALUE")
    else:
        # If a misspelling named a fact that no row has, not: would match every connection.
        name = _fact_name(name, keys, known, must_be_known=is_negated and mode == "action")
    if not value:
        raise _Wrong(f"no value after {name}:", f"write {name}:VALUE")
    if key is None:
        return Term(_FACT_PREFIX + name, _text_value(value), is_negated)
    return Term(key.name, _parse_value(key, value, known.get(key.name, ())), is_negated)


def _is_address(name: str, value: str, text: str) -> bool:
    """Whether a colon does not end a key, but belongs to an IP, to ``[::1]:80``, ``10.0.0.5:80``,
    ``db-1.example:80``, ``fe80::1%eth0`` or ``unix:PID``."""
    is_name = _FACT_NAME.fullmatch(name) is not None and name != "unix"
    if not is_name or value.startswith(":") or _network(text) is not None:
        return True
    # No fact can be named so (model/record.py), but hosts are.
    is_host = name == "localhost" or re.search("[.-]", name) is not None
    is_fact = name.startswith(_FACT_PREFIX)
    return is_host and not is_fact and re.fullmatch("[0-9]{1,5}", value) is not None


def _is_old_form(text: str, keys: Keys) -> bool:
    """Whether it is ``client=``, ``service=`` or ``state=``, as the live view took them first."""
    name = text.partition("=")[0].casefold()
    return "=" in text and name in ("client", "service", "state") and name in keys.by_name


def _bare_word(
    word: str, keys: Keys, mode: Mode, known: Mapping[str, Collection[str]]
) -> tuple[str, Value]:
    """The key and the value that a term without a key stands for."""
    # Before all else, as there may be thousands.
    if mode == "action" and re.fullmatch(r"[0-9]{1,18}", word) and "id" in keys.by_name:
        return "id", Range(int(word), int(word))
    if "uid" in keys.by_name and parse_uid(word) is not None:
        return "uid", Exact(word.casefold())
    network = _network(word)
    if mode == "action":
        advice = "write an id, or KEY:VALUE"
        if network is not None and "client" in keys.by_name:
            advice = f"write client:{word}"
        elif word in known.get("service", ()):
            advice = f"write service:{word}"
        raise _Wrong("a word without a key", advice)
    if network is not None and "client" in keys.by_name:
        return "client", network
    folded = word.casefold()
    if "state" in keys.by_name and folded in keys.by_name["state"].choices:
        return "state", Exact(folded)
    if "service" in keys.by_name and word in known.get("service", ()):
        return "service", Exact(folded)
    return "", Part(folded)


def _fact_name(
    name: str, keys: Keys, known: Mapping[str, Collection[str]], must_be_known: bool
) -> str:
    """The name of the fact that is meant by a key which is none of the listing's.

    :param must_be_known: unless it says ``fact.`` before it.
    """
    if keys.facts is not None:
        if name.startswith(_FACT_PREFIX) and len(name) > len(_FACT_PREFIX):
            return name[len(_FACT_PREFIX) :]
        if name in known.get("fact", ()) and not must_be_known:
            return name
    meant = _meant_key(name.lower(), keys.by_name)
    if meant:
        raise _Wrong(f"unknown key {quoted(name)}", f"did you mean {meant}?")
    if keys.facts is None or name.lower() in _ONLY_LIVE:
        raise _Wrong(f"unknown key {quoted(name)}", f"there are {', '.join(keys.by_name)}")
    if must_be_known:
        raise _Wrong(f"unknown key {quoted(name)}", f"write not:fact.{name}:VALUE for a fact")
    if "fact" in known:
        keys_text = f"there are {', '.join(keys.by_name)}"
        advice = f"{keys_text}; fact.{name}:VALUE for a fact that no connection has had yet"
        raise _Wrong(f"unknown key {quoted(name)}", advice)
    return name


def _meant_key(name: str, names: Iterable[str]) -> str | None:
    """The key that a name is a misspelling or a prefix of, if there is one.

    Stricter than :mod:`difflib`: ``client_id`` and ``protocol`` are facts, not misspellings.
    """
    distances = {each: _edit_distance(name, each) for each in names}
    if _OTHER_NAMES.get(name) in distances:
        return _OTHER_NAMES[name]
    allowed = 1 if len(name) < 5 else 2
    best = min(distances, key=lambda each: distances[each], default=None)
    if best is not None and distances[best] <= allowed:
        return best
    return next((each for each in distances if len(name) >= 3 and each.startswith(name)), None)


def _edit_distance(one: str, other: str) -> int:
    """How many letters are left out, added, changed or swapped with the next one (the optimal
    string alignment distance); more than the difference matters is not counted exactly."""
    if abs(len(one) - len(other)) > 2:
        return 3
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        earlier, before = before, row
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _parse_value(key: Key, text: str, known: Collection[str]) -> Value:
    if key.kind == "choice":
        return _choice_value(key, text)
    if key.kind == "network":
        network = _network(text)
        if network is not None:
            return network
        if re.fullmatch(r"[0-9a-fA-F.:]*/[0-9]*", text):
            raise _Wrong(f"{quoted(text)} is no network", "write 10.0.0.0/8 or 2001:db8::/32")
        return _text_value(text)
    if key.kind == "text":
        is_known = text.casefold() in map(str.casefold, known)
        if key.name == "uid":  # a whole one, which others may begin with, means only itself
            is_known = parse_uid(text) is not None
        return Exact(text.casefold()) if is_known else _text_value(text)
    return _range_value(key, text)


def _text_value(text: str) -> Value:
    if not text.startswith("="):
        return Part(text.casefold())
    if text == "=":
        raise _Wrong("no value after =")
    return Exact(text[1:].casefold())


def _choice_value(key: Key, text: str) -> Value:
    wanted = text.removeprefix("=").lower()
    if wanted in key.choices:
        return Exact(wanted)
    if not text.startswith("=") and any(wanted in each for each in key.choices):
        return Part(wanted)
    if key.name == "reason" and wanted in REFUSALS:
        where = "refused clients are in events, and in history --events"
        raise _Wrong(f"{quoted(text)} is a refusal, and no reason of a connection", where)
    parts = [each for each in key.choices if wanted in each]
    close = parts or difflib.get_close_matches(wanted, key.choices, 1)
    suggestion = f"did you mean {close[0]}?" if close else f"there are {', '.join(key.choices)}"
    raise _Wrong(f"unknown {key.name} {quoted(text)}", suggestion)


def _range_value(key: Key, text: str) -> Range:
    low, dots, high = text.partition("..")
    example = _RANGE_EXAMPLES[key.kind]
    if dots:
        if not low and not high:
            raise _Wrong("a range without ends", f"write {key.name}:{example}..")
        ends = [_number(key, end) if end else None for end in (low, high)]
        if ends[0] is not None and ends[1] is not None and ends[0] > ends[1]:
            raise _Wrong("a range that ends before it begins", f"write {key.name}:{high}..{low}")
        return Range(ends[0], ends[1])
    number = _number(key, text)
    if key.kind not in ("count", "port"):
        # An exact duration would match to the microsecond, which is never what is meant.
        raise _Wrong(
            f"{quoted(text)} is no range",
            f"write {key.name}:{text}.. for at least, {key.name}:..{text} for at most",
        )
    return Range(number, number)


def _number(key: Key, text: str) -> float:
    try:
        if key.kind == "seconds":
            return round(parse_duration(text), 9)
        if key.kind in ("bytes", "rate"):
            size = parse_size(text.removesuffix("/s") if key.kind == "rate" else text)
            if size > _MAX_BYTES:
                raise _Wrong(f"{quoted(text)} is more bytes than are ever counted")
            return size
    except UnitError as error:
        raise _Wrong(f"{key.name} {error}") from None
    if not re.fullmatch(r"[0-9]{1,18}", text) or (key.kind == "port" and int(text) > 65535):
        kind = "a port from 0 to 65535" if key.kind == "port" else "a whole number"
        raise _Wrong(
            f"{quoted(text)} is not {kind}", f"write {key.name}:{_RANGE_EXAMPLES[key.kind]}"
        )
    return int(text)


def _network(text: str) -> Network | None:
    # Most texts are none, and an exception costs more than this.
    if not re.fullmatch(r"[0-9a-fA-F.:]+(/[0-9.]+)?", text):
        return None
    try:
        return parse_network(text)
    except AddressError:
        return None


# -- to text


def _term_text(keys: Keys, term: Term) -> str:
    prefix = "not:" if term.is_negated else ""
    value = term.value
    if not term.key:
        assert isinstance(value, Part)
        return prefix + value.text
    key = keys.by_name.get(term.key)
    return f"{prefix}{term.key}:{_value_text(key, value)}"


def _value_text(key: Key | None, value: Value) -> str:
    if isinstance(value, Part):
        return value.text
    if isinstance(value, Exact):
        return value.text if key is not None and key.kind == "choice" else f"={value.text}"
    if isinstance(value, Range):
        assert key is not None
        kind = key.kind
        if value.low == value.high and kind in ("count", "port"):
            return _number_text(kind, value.low)
        return f"{_number_text(kind, value.low)}..{_number_text(kind, value.high)}"
    return str(value.network_address if value.num_addresses == 1 else value)


def _number_text(kind: Kind, number: float | None) -> str:
    """A number with the largest unit that divides it."""
    if number is None:
        return ""
    if kind == "seconds":
        for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
            if number and number % seconds == 0:
                return f"{int(number) // seconds}{unit}"
        return f"{number:.9f}".rstrip("0").rstrip(".") + "s"
    count = int(number)
    if kind in ("bytes", "rate"):
        for power, unit in ((6, "EiB"), (5, "PiB"), (4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
            if count and count % 1024**power == 0:
                return f"{count // 1024**power}{unit}"
    return str(count)


# -- matching


def _grouped(terms: Iterable[Term]) -> Iterator[tuple[str, list[Value], bool]]:
    """Groups terms by key: one value of a group must match, or none if the group is negated."""
    groups: dict[tuple[str, bool], list[Value]] = {}
    for term in terms:
        if term.key or term.is_negated:
            groups.setdefault((term.key, term.is_negated), []).append(term.value)
        else:  # each bare word must be found
            yield "", [term.value], False
    for (key, is_negated), values in groups.items():
        yield key, values, is_negated


def _is_point(value: Value) -> bool:
    return isinstance(value, Range) and value.low == value.high


def _check(keys: Keys, name: str, values: Sequence[Value], is_negated: bool) -> _Check:
    key = keys.by_name.get(name)
    get: Callable[[Any, Context], Any]
    if key is not None:
        get, test = _key_check(key, values)
    elif name:
        facts, fact = keys.facts, name[len(_FACT_PREFIX) :]
        assert facts is not None
        get, test = (lambda row, _: facts(row).get(fact)), _text_test(values)
    else:
        text = keys.text
        get, test = (lambda row, _: text(row)), _text_test(values)
    return (get, (lambda value: not test(value))) if is_negated else (get, test)


def _key_check(key: Key, values: Sequence[Value]) -> _Check:
    if key.kind == "network":
        return _network_check(key, values)
    if key.kind == "choice":
        members = frozenset(member for value in values for member in _members(key, value))
        test: _Test = members.__contains__
    elif key.kind == "text":
        test = _text_test(values)
    else:
        test = _range_test([value for value in values if isinstance(value, Range)])
    if not key.is_many:
        return key.get, test
    one = test
    return key.get, lambda several: any(map(one, several))


def _network_check(key: Key, values: Sequence[Value]) -> _Check:
    address = key.address
    assert address is not None
    texts = [value for value in values if isinstance(value, (Part, Exact))]
    covers = matcher([v for v in values if not isinstance(v, (Part, Exact, Range))])
    has_text = _text_test(texts)
    if not texts:
        return (lambda row, _: address(row)), covers
    get = key.get
    if key.is_many:
        return (
            lambda row, context: (address(row), get(row, context)),
            lambda pair: covers(pair[0]) or any(map(has_text, pair[1])),
        )
    return (
        lambda row, context: (address(row), get(row, context)),
        lambda pair: covers(pair[0]) or has_text(pair[1]),
    )


def _members(key: Key, value: Value) -> Iterator[str]:
    if isinstance(value, Exact):
        yield value.text
    elif isinstance(value, Part):
        yield from (each for each in key.choices if value.text in each)


def _text_test(values: Sequence[Value]) -> _Test:
    parts = [value.text for value in values if isinstance(value, Part)]
    wholes = frozenset(value.text for value in values if isinstance(value, Exact))
    if len(parts) == 1 and not wholes:
        part = parts[0]
        return lambda text: text is not None and part in _fold(text)

    def test(text: Any) -> bool:
        if text is None:
            return False
        folded = _fold(text)
        return folded in wholes or any(part in folded for part in parts)

    return test


def _range_test(ranges: Sequence[Range]) -> _Test:
    points = frozenset(each.low for each in ranges if _is_point(each))
    limits = [
        (
            float("-inf") if each.low is None else each.low,
            float("inf") if each.high is None else each.high,
        )
        for each in ranges
        if not _is_point(each)
    ]
    if not limits:
        return points.__contains__
    if len(limits) == 1 and not points:
        low, high = limits[0]
        return lambda number: number is not None and low <= number <= high
    return lambda number: (
        number is not None and (number in points or any(a <= number <= b for a, b in limits))
    )


def _fold(text: Any) -> str:
    return str(text).casefold()


# -- SQL


def _sql(
    key: Key | None, columns: Sequence[str], values: Sequence[Value], bind: Callable[[Any], str]
) -> Iterator[str]:
    """Conditions of which one must hold, for the values of one key.

    :param key: None for a fact and for a bare word.
    """
    # One list for all points: SQLite nests expressions 1,000 deep at most, and there may be as
    # many ids.
    points = [value.low for value in values if isinstance(value, Range) and _is_point(value)]
    for column in columns if points else ():
        yield f"{column} IN ({', '.join(map(bind, points))})"
    for value in values:
        if isinstance(value, (Part, Exact, Range)):
            if not _is_point(value):
                yield from (f"({_sql_test(key, column, value, bind)})" for column in columns)
        elif key is not None:
            first, last = value.network_address.packed, value.broadcast_address.packed
            column = key.sql_address
            # Compare the length first: as bytes, an IPv4 address may lie between two IPv6 ones.
            yield (
                f"(length({column}) = {len(first)}"
                f" AND {column} BETWEEN {bind(first)} AND {bind(last)})"
            )


def _sql_test(key: Key | None, column: str, value: Value, bind: Callable[[Any], str]) -> str:
    if isinstance(value, Range):
        ends = [(">=", value.low), ("<=", value.high)]
        return " AND ".join(f"{column} {sign} {bind(end)}" for sign, end in ends if end is not None)
    if key is not None and key.kind == "choice":
        members = ", ".join(bind(each) for each in _members(key, value))
        return f"{column} IN ({members})"
    assert isinstance(value, (Part, Exact))
    if isinstance(value, Exact):
        return f"monconn_fold({column}) = {bind(value.text)}"
    return f"instr(monconn_fold({column}), {bind(value.text)}) > 0"


def port_of(text: str | None) -> int | None:
    """The port at the end of an address; None for a UNIX socket, or where there is none."""
    if not text or text.startswith("unix"):
        return None
    _, colon, digits = text.rpartition(":")
    is_port = colon and digits.isascii() and digits.isdecimal() and len(digits) <= 5
    return int(digits) if is_port else None


def _fact_reader(name: str) -> Callable[[str | None], str | None]:
    """A function that takes one fact from the JSON of all, as the text that terms are matched with.

    Not SQLite's json_extract(), to which true is 1, and 1e20 another text than to Python: SQL would
    match other rows than :meth:`Filter.matches`. And so no name gets into a statement.
    """

    def read(facts: str | None) -> str | None:
        value = None if facts is None else json.loads(facts).get(name)
        return None if value is None else str(value)

    return read


def _fact_values(facts: str | None) -> str | None:
    return None if facts is None else "\n".join(map(str, json.loads(facts).values()))


SQL_FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    # SQLite's own lower() knows the letters of ASCII only.
    "monconn_fold": lambda text: None if text is None else _fold(text),
    "monconn_port": port_of,
    "monconn_fact_values": _fact_values,
}
"""The functions that any condition in SQL may call, by name: each takes one argument."""
