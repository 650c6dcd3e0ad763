"""Every attack's settings: complete, strict, exact and JSON."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from pydantic import ValidationError

from rome_core.recipes.attacks import (
    SETTINGS,
    Budget,
    FgsmSettings,
    PgdSettings,
    Settings,
    SpsaSettings,
    parse_fraction,
)

KINDS = pytest.mark.parametrize("kind", SETTINGS.values(), ids=SETTINGS.keys())


@KINDS
def test_settings_survive_json(kind: type[Settings]) -> None:
    made = kind()
    told = json.loads(json.dumps(made.model_dump(mode="json"), allow_nan=False))
    assert kind.model_validate(told) == made
    assert told["attack"] == made.attack
    assert SETTINGS[made.attack] is kind


@KINDS
def test_settings_are_strict_and_frozen(kind: type[Settings]) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        kind.model_validate({"nonsense": 1})
    with pytest.raises(ValidationError, match="attack"):
        kind.model_validate({"attack": "another"})
    with pytest.raises(ValidationError, match="frozen"):
        kind().attack = "another"


@KINDS
def test_no_number_may_be_out_of_its_range(kind: type[Settings]) -> None:
    """Counts are at least one, sizes finite, and neither is a text or a truth value."""
    for name in kind.model_fields:
        default: Any = getattr(kind(), name)
        bad: list[Any] = []
        if isinstance(default, bool):
            bad = [1, "true", None]
        elif isinstance(default, int):
            bad = [0, -1, 1.5, "3", True]
        elif isinstance(default, float):
            bad = [-1.0, float("inf"), float("nan"), "0.5", None]
        elif name != "attack":
            bad = ["nonsense", 3]
        for value in bad:
            with pytest.raises(ValidationError):
                kind.model_validate({name: value})


def test_a_radius_may_exceed_one_where_a_ball_may_hold_more_than_an_image() -> None:
    assert PgdSettings(norm="l2", epsilon="55/2").epsilon == "55/2"
    with pytest.raises(ValidationError, match="between 0 and 1"):
        FgsmSettings(epsilon="55/2")
    with pytest.raises(ValidationError, match="at most 10000"):
        PgdSettings(epsilon="10001")


def test_spsa_queries_in_pairs() -> None:
    assert SpsaSettings(samples=2).samples == 2
    with pytest.raises(ValidationError, match="multiple of 2"):
        SpsaSettings(samples=3)


def test_texts_are_kept_and_read_exactly() -> None:
    assert PgdSettings(step="2/225").step == "2/225"
    assert parse_fraction("2/225") == Fraction(2, 225)
    assert parse_fraction("0.1") == Fraction(1, 10)
    assert parse_fraction(3) == 3
    for bad in ("", " 1", "1e3", "-1", "+1", "1/0", ".5", "1.", "0x1", "١"):
        with pytest.raises(ValueError, match="not a number like"):
            parse_fraction(bad)
    with pytest.raises(ValueError, match="negative"):
        parse_fraction(Fraction(-1, 2))


def test_a_budget_says_what_is_wrong_with_it() -> None:
    assert Budget.of() == Budget(Fraction(8, 255), Fraction(2, 255), 10, True)
    with pytest.raises(ValueError, match="epsilon -1"):
        Budget(Fraction(-1), Fraction(0), 1, False)
    with pytest.raises(ValueError, match="steps -1"):
        Budget(Fraction(0), Fraction(0), -1, False)
