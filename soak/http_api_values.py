"""Values of the formats that the description of the HTTP API names, for schemathesis."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

from monconn.faces.http.columns import LISTINGS
from monconn.ops.explanations import EXPLANATIONS
from monconn.ops.filters import Key

SERVICES = ("web", "a/b ü")
"""Those that there are."""

_NETWORKS = st.one_of(
    st.ip_addresses().map(str),
    st.integers(8, 32).map(lambda length: f"10.0.0.0/{length}"),
    st.sampled_from(["127.0.0.1", "127.0.0.0/8", "2001:db8::/32", "::1"]),
)
_TIMES = st.one_of(
    st.integers(1, 10_000).map(lambda seconds: f"{seconds}s"),
    st.sampled_from(["1h", "1h30m", "2026-01-31T08:00Z", "2026-01-31T08:00:00+01:00", "0"]),
    st.integers(0, 4_000_000_000).map(str),
)
_RANGES = st.sampled_from(["1..", "..5", "1..5"])


def _term(key: Key) -> st.SearchStrategy[str]:
    values: st.SearchStrategy[str]
    if key.kind == "choice":
        values = st.sampled_from(key.choices)
    elif key.kind == "text":
        values = st.sampled_from(["web", "=web", "127", "k7xq2m9tbw4c-42"])
    elif key.kind == "network":
        values = _NETWORKS
    elif key.kind in ("count", "port"):
        values = st.one_of(_RANGES, st.integers(0, 65535).map(str))
    else:
        values = _RANGES
    prefix = st.sampled_from(["", "not:"])
    return st.tuples(prefix, values).map(lambda pair: f"{pair[0]}{key.name}:{pair[1]}")


def _name(known: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Mostly something that there is."""
    return st.one_of(known, known, known, st.text(min_size=1, max_size=8))


formats = {
    "network": _NETWORKS,
    "time": _TIMES,
    "service": _name(st.sampled_from(SERVICES)),
    "connection": _name(st.integers(1, 500).map(str)),
    "word": _name(st.sampled_from([each.word for each in EXPLANATIONS])),
}
keys = {name: each.keys.by_name for name, each in LISTINGS.items() if each.keys is not None}
keys["captures"] = {name: each for name, each in keys["connections"].items() if name != "rate"}
for name, by_name in keys.items():
    terms = st.one_of(*map(_term, by_name.values()))
    formats[f"filter-{name}"] = st.lists(terms, min_size=1, max_size=3).map(" ".join)
for name, strategy in formats.items():
    schemathesis.openapi.format(f"monconn-{name}", strategy)
