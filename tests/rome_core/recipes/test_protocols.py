"""Protocols: they never change, rome-2025 is the published one, and every change of one shows."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from rome_core.recipes import SpecError, protocols
from rome_core.recipes.attacks import (
    MODES,
    SETTINGS,
    AutoAttackSettings,
    DeepFoolSettings,
    Domain,
    PgdSettings,
    parse_fraction,
)
from rome_core.recipes.protocols import PROTOCOLS, Protocol, crafting, find, overridden, threat

PIXEL, QUICK, PUBLISHED = (PROTOCOLS[name] for name in ("pixel@1", "quick@1", "rome-2025@1"))

DIGESTS = {
    "rome-2025@1": "9f6ef355f6efa5d1efe0fee57d3f14dc04a2a41d69c57a400a217cab2adcb7ed",
    "pixel@1": "193ac8e5b49f1693ea5a157799497d066c6eca1e08a1cc1f7f3d9fca5dca0694",
    "quick@1": "d6d61be57d3001f9c58707e510a5e337cd2c2cab728bb162ea4b115ff66e47ba",
}


def test_a_protocol_never_changes() -> None:
    assert {name: protocol.digest for name, protocol in PROTOCOLS.items()} == DIGESTS, (
        "numbers of before would be compared with numbers of after under one name: leave the "
        "protocol as it was, add the next version beside it, and its digest here"
    )


# Section by section of the published evaluation code: the class's name in its logs, its arguments,
# and whether it can be aimed. What it does not say are torchattacks' defaults.
PUBLISHED_ATTACKS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "fgsm": ("FGSM", {"epsilon": "8/255"}, True),
    "pgd": (
        "PGD",
        {
            "norm": "linf",
            "epsilon": "8/255",
            "step": "2/225",
            "steps": 10,
            "random_start": False,
            "restarts": 1,
            "loss": "ce",
            "early_stop": False,
        },
        True,
    ),
    "pgd-l2": (
        "PGD_L2",
        {
            "norm": "l2",
            "epsilon": "128/255",
            "step": "15/255",
            "steps": 10,
            "random_start": False,
            "restarts": 1,
            "loss": "ce",
            "early_stop": False,
        },
        True,
    ),
    "deepfool": (
        "Deepfool",
        {
            "steps": 50,
            "overshoot": 0.02,
            "overshoot_on": "step",
            "classes": None,
            "epsilon": None,
        },
        False,
    ),
    "cw": (
        "CW",
        {
            "c": 1.0,
            "kappa": 0.0,
            "steps": 100,
            "learning_rate": 0.01,
            "binary_search_steps": 1,
            "margin": "published",
            "stop": "batch",
            "epsilon": None,
        },
        True,
    ),
    "autoattack": (
        "AA",
        {"norm": "linf", "epsilon": "8/255", "version": "standard", "steps": 10, "queries": 5000},
        False,
    ),
    "square": (
        "Square",
        {
            "norm": "linf",
            "epsilon": "8/255",
            "queries": 5000,
            "restarts": 1,
            "p_init": 0.8,
            "loss": "margin",
        },
        True,
    ),
    "spsa": (
        "Spsa",
        {
            "epsilon": "8/255",
            "delta": 0.01,
            "learning_rate": 0.01,
            "steps": 1,
            "samples": 256,  # 128 pairs
            "early_stop": False,
        },
        False,
    ),
}


def test_rome_2025_is_the_published_protocol() -> None:
    assert PUBLISHED.domain is Domain.REFERENCE
    assert PUBLISHED.target_rule == "mod10"
    assert PUBLISHED.attacks_everything
    assert PUBLISHED.images is None
    assert PUBLISHED.names() == ["clean", "clamp", *PUBLISHED_ATTACKS]
    for name, (published, settings, aimed) in PUBLISHED_ATTACKS.items():
        entry = PUBLISHED.entry(name)
        told = entry.settings.model_dump(mode="json")
        del told["attack"]
        assert told == settings, name
        assert entry.published == published
        assert entry.modes == (MODES if aimed else ("untargeted",))
        # These give an image back untouched unless they succeed.
        assert entry.keeps_original is (name in {"autoattack", "square"})
    assert PUBLISHED.entry("clean").published == "Clean"


def test_what_the_published_protocol_gets_wrong_is_named() -> None:
    told = {flaw.code for flaw in PUBLISHED.flaws}
    assert told == {"clamp_normalised", "targets_mod10", "wall_clock"}
    of = {entry.name: {flaw.code for flaw in entry.flaws} for entry in PUBLISHED.entries}
    assert of == {
        "clean": set(),
        "clamp": set(),
        "fgsm": set(),
        "pgd": {"step_misprint"},
        "pgd-l2": {"inert"},
        "deepfool": {"targeted_recorded_clean", "boundary_noise"},
        "cw": {"margin_zeroed"},
        "autoattack": {"targeted_recorded_clean", "not_standard", "fab_mended"},
        "square": set(),
        "spsa": {"one_step"},
    }
    assert PIXEL.flaws == ()


def test_pixel_is_the_standard_threat_models_with_standard_autoattack() -> None:
    assert PIXEL.domain is Domain.PIXEL
    assert PIXEL.target_rule == "modC"
    assert not PIXEL.attacks_everything
    balls = {entry.threat for entry in PIXEL.entries}
    assert balls == {None, "linf 8/255", "l2 1/2"}
    for norm, name in (("linf", "autoattack"), ("l2", "autoattack-l2")):
        settings = PIXEL.entry(name).settings
        assert isinstance(settings, AutoAttackSettings)
        assert (settings.norm, settings.version) == (norm, "standard")
        assert (settings.steps, settings.queries) == (100, 5000)
        assert name in PIXEL.default


def test_quick_has_the_threats_of_pixel() -> None:
    assert (QUICK.domain, QUICK.target_rule) == (PIXEL.domain, PIXEL.target_rule)
    assert {entry.threat for entry in QUICK.entries} == {entry.threat for entry in PIXEL.entries}
    assert QUICK.images is not None


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.id)
def test_protocols_are_whole(protocol: Protocol) -> None:
    names = protocol.names()
    assert names[0] == "clean"
    assert len(set(names)) == len(names)
    assert set(protocol.default) | set(protocol.transfer) <= set(names)
    assert protocol.default[0] == "clean"
    assert all(protocol.entry(name).modes for name in protocol.transfer)
    json.dumps(protocol.as_dict(), allow_nan=False)
    for entry in protocol.entries:
        assert SETTINGS[entry.settings.attack] is type(entry.settings)
        if entry.modes:  # every mode is either there or explained
            assert set(entry.modes) ^ set(entry.inapplicable) == set(MODES)
            assert entry.access != "none"
        else:
            assert entry.access == "none"


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.id)
def test_every_ball_of_a_name_is_one_ball(protocol: Protocol) -> None:
    """Worst cases are taken by name, so 1/2 must not be written 0.5 beside it."""
    names = {entry.threat for entry in protocol.entries if entry.threat is not None}
    balls = {(norm, parse_fraction(size)) for norm, size in map(str.split, names)}
    assert len(balls) == len(names)


def test_balls_are_named_by_norm_and_radius() -> None:
    assert threat(PgdSettings(norm="l2", epsilon="0.5")) == "l2 0.5"
    assert threat(DeepFoolSettings(epsilon="1/2")) == "l2 1/2"
    assert threat(DeepFoolSettings(epsilon=None)) is None
    assert {e.name: e.threat for e in PUBLISHED.entries} == {
        **dict.fromkeys(("clean", "clamp", "deepfool", "cw")),
        **dict.fromkeys(("fgsm", "pgd", "autoattack", "square", "spsa"), "linf 8/255"),
        "pgd-l2": "l2 128/255",
    }


def test_names_with_and_without_their_version() -> None:
    assert find("pixel") is find("pixel@1") is PIXEL
    for unknown in ("pixel@2", "pixel@", "@1", "", "clean"):
        assert find(unknown) is None


def test_the_digest_is_of_what_changes_numbers() -> None:
    worded = replace(PIXEL, title="x", summary="y", source="z", flaws=PUBLISHED.flaws)
    entries = tuple(replace(entry, title="x", flaws=PUBLISHED.flaws[:1]) for entry in PIXEL.entries)
    assert replace(worded, entries=entries).digest == PIXEL.digest
    others = [
        replace(PIXEL, domain=Domain.REFERENCE),
        replace(PIXEL, target_rule="mod10"),
        replace(PIXEL, attacks_everything=True),
        replace(PIXEL, images=10),
        replace(PIXEL, entries=PIXEL.entries[:-1]),
        overridden(PIXEL, {"pgd": {"steps": 21}}),
        PUBLISHED,
        QUICK,
    ]
    assert len({PIXEL.digest, *(other.digest for other in others)}) == len(others) + 1


def test_overrides_are_named_by_attack_and_field() -> None:
    changed = overridden(PIXEL, {"pgd": {"steps": 50, "norm": "linf"}, "cw": {"c": 2.0}})
    assert changed.overridden == ("pgd.steps", "cw.c")
    assert changed.entry("pgd").settings == PgdSettings(steps=50)
    assert changed.entry("fgsm") == PIXEL.entry("fgsm")
    assert (changed.id, changed.names()) == (PIXEL.id, PIXEL.names())
    again = overridden(changed, {"fgsm": {"epsilon": "1/255"}})
    assert again.overridden == ("pgd.steps", "cw.c", "fgsm.epsilon")
    assert PIXEL.overridden == ()  # nothing is changed in place


def test_what_the_protocol_says_already_is_no_override() -> None:
    for same in ({}, {"pgd": {}}, {"pgd": {"steps": 20, "epsilon": "8/255"}}):
        assert overridden(PIXEL, same).digest == PIXEL.digest


def test_an_override_of_another_protocols_attack_is_passed_over() -> None:
    assert overridden(QUICK, {"cw": {"c": 2.0}}).digest == QUICK.digest


def test_every_bad_override_is_told() -> None:
    changes = {
        "pgd": {"steps": 0, "stepz": 1},
        "fgsm": {"attack": "pgd"},
        "square": {"queries": "many"},
        "autoattack": {"version": "strong"},
    }
    with pytest.raises(SpecError) as caught:
        overridden(PIXEL, changes)
    told = {problem.field: problem.remedy for problem in caught.value.problems}
    assert set(told) == {
        "overrides.pgd.steps",
        "overrides.pgd.stepz",
        "overrides.fgsm.attack",
        "overrides.square.queries",
        "overrides.autoattack.version",
    }
    assert "Did you mean 'step" in told["overrides.pgd.stepz"]
    assert all(told.values())


def test_crafting_makes_all_steps_on_all_images() -> None:
    made = crafting(overridden(PIXEL, {"pgd": {"steps": 7}}))
    assert made.attacks_everything
    assert made.overridden == ("pgd.steps",)
    for entry in made.entries:
        assert getattr(entry.settings, "early_stop", False) is False
    pgd = made.entry("pgd").settings
    assert pgd == PgdSettings(steps=7, early_stop=False)
    assert made.entry("mi-fgsm") == PIXEL.entry("mi-fgsm")
    assert made.digest != PIXEL.digest


def test_radii_are_exact() -> None:
    texts = [
        getattr(entry.settings, name)
        for protocol in PROTOCOLS.values()
        for entry in protocol.entries
        for name in ("epsilon", "step")
        if getattr(entry.settings, name, None) is not None
    ]
    assert all(isinstance(text, str) and Fraction(text) > 0 for text in texts)


def test_an_unknown_protocol_comes_with_the_nearest_known_one() -> None:
    problem = protocols.unknown_protocol("protocols", "pixle")
    assert problem.field == "protocols"
    assert problem.remedy.startswith("Did you mean 'pixel'?")
