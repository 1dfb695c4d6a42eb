from __future__ import annotations

import attrs
import pytest

from monconn.errors import SettingError
from monconn.policy.quantities import Rate
from monconn.policy.rules import REFUSAL_OF, RULES, Rules


def test_rules_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Rules().conn_limit = 5  # type: ignore[misc]
    assert Rules().block == ()


def test_each_rule_is_a_setting_and_has_its_own_refusal() -> None:
    assert set(RULES) <= {each.name for each in attrs.fields(Rules)}
    assert len(set(REFUSAL_OF.values())) == len(RULES) == len(REFUSAL_OF)


def test_texts_are_taken() -> None:
    rules = Rules(rate="20/s burst 50", dry_run=["rate", "block"])  # type: ignore[arg-type]
    assert rules.rate == Rate(20, 1.0, 50)
    assert rules.dry_run == ("block", "rate")


@pytest.mark.parametrize("value", ["rate", ["rates"], 5])
def test_rules_that_are_none(value: object) -> None:
    with pytest.raises(SettingError):
        Rules(dry_run=value)  # type: ignore[arg-type]
