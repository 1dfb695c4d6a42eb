"""Places of strangers: whoever comes gets one, and many of one group spare those of another."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from monconn.places import Places
from tests.properties import examples


def places(limit: int) -> Places[str]:
    return Places(limit, lambda client: client[0])  # the first letter is the group


def test_the_first_of_the_group_that_has_most_is_replaced() -> None:
    taken = places(3)
    assert [taken.enter(each) for each in ("a1", "b1", "b2")] == [None] * 3
    assert taken.replaced_by("a") == "a1"  # as many as of the other then, and it came first
    assert taken.replaced_by("c") == "b1"
    assert taken.enter("b3") == "b1"
    taken.leave("b2")
    taken.leave("b2")
    assert taken.replaced_by("c") is None
    assert taken.enter("c1") is None
    assert len(taken) == 3
    assert taken.enter("d1") == "a1"  # of several that have the most, the one that came first


def test_a_group_may_change() -> None:
    groups = {1: "old", 2: "old", 3: "new"}
    taken = Places[int](3, groups.__getitem__)
    for each in groups:
        taken.enter(each)
    groups[2] = "new"
    groups[4] = "other"
    assert taken.enter(4) == 2


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_one_alone_is_never_driven_out_by_others(groups: list[str]) -> None:
    taken = places(4)
    taken.enter("z")
    for number, group in enumerate(groups):
        assert taken.enter(f"{group}{number}") != "z"
        assert len(taken) <= 4
