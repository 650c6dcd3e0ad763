"""What attacks cost at most, against the passes that are counted while they run."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from rome_core.attacks import Goal, Oracle
from rome_core.attacks.catalogue import attack
from rome_core.costs import at_most, expected
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import (
    SETTINGS,
    ApgdSettings,
    AutoAttackSettings,
    ClampSettings,
    CleanSettings,
    CwSettings,
    DeepFoolSettings,
    FabSettings,
    FgsmSettings,
    MiFgsmSettings,
    PgdSettings,
    Settings,
    SpsaSettings,
    SquareSettings,
    VmiFgsmSettings,
)
from rome_core.recipes.protocols import PROTOCOLS
from tests.rome_core.evaluation.conftest import some, trained

N = 6


def stubborn(x: Tensor) -> Tensor:
    """Sure of class 0 whatever it sees, though it has a gradient."""
    rest = x.flatten(1)[:, :9].tanh()
    return torch.cat([torch.full_like(rest[:, :1], 10), rest], dim=1)


def seen(x: Tensor) -> Tensor:
    return trained()((x - 0.3) / 0.38)


def passes(settings: Settings, *, targeted: bool = False, stays: bool = True) -> list[int]:
    """Of each image: forward and backward, of a model that stays right, or one that breaks."""
    test = some(N)
    labels = torch.zeros(N, dtype=torch.int64) if stays else test.labels
    oracle = Oracle(stubborn if stays else seen, N)
    goal = Goal(labels, (labels + 1) % 10 if targeted else None)
    attack(oracle, test.pixels, goal, settings, ImageDraws(1, images=torch.arange(N)))
    return (oracle.forwards + oracle.backwards).tolist()


def grid(kind: type[Settings], **values: list[Any]) -> list[Settings]:
    return [kind(**dict(zip(values, chosen, strict=True))) for chosen in product(*values.values())]


# Exact for an image that never breaks: every step is made.
EXACT = [
    CleanSettings(),
    ClampSettings(),
    FgsmSettings(),
    *grid(PgdSettings, steps=[1, 3], restarts=[1, 2], early_stop=[True, False]),
    *grid(ApgdSettings, steps=[1, 4], restarts=[1, 2], loss=["ce", "dlr", "margin"], eot=[1, 2]),
    *grid(ApgdSettings, steps=[3], loss=["dlr-targeted"], restarts=[1, 2], target_classes=[2, 99]),
    *grid(FabSettings, steps=[1, 3], restarts=[1, 2], target_classes=[2, 99]),
    *grid(FabSettings, steps=[1, 3], restarts=[1, 2], multi_target=[False]),
    *grid(SquareSettings, queries=[1, 7], restarts=[1, 2], norm=["linf", "l2"]),
    *grid(AutoAttackSettings, version=["standard", "plus", "rand"], steps=[1, 2], queries=[5]),
    *grid(SpsaSettings, steps=[1, 3], samples=[2, 6], early_stop=[True, False]),
    *grid(MiFgsmSettings, steps=[1, 4]),
    *grid(VmiFgsmSettings, steps=[1, 4], samples=[1, 3]),
]
# These leave off where nothing is to be gained.
BOUNDED = [
    *grid(DeepFoolSettings, steps=[1, 4], classes=[2, 5, None], overshoot_on=["total", "step"]),
    *grid(CwSettings, steps=[1, 7], binary_search_steps=[1, 3], stop=["image", "batch"]),
]


def name(settings: Settings) -> str:
    changed = settings.model_dump(exclude_defaults=True)
    return " ".join([settings.attack, *(f"{key}={value}" for key, value in changed.items())])


@pytest.mark.parametrize("settings", EXACT, ids=name)
def test_an_image_that_stays_right_costs_the_most(settings: Settings) -> None:
    assert passes(settings) == [at_most(settings, 10)] * N


def test_every_attack_is_tried() -> None:
    assert {settings.attack for settings in (*EXACT, *BOUNDED)} == set(SETTINGS)


@pytest.mark.parametrize("settings", [*EXACT, *BOUNDED], ids=name)
def test_no_image_costs_more(settings: Settings) -> None:
    assert max(passes(settings, stays=False)) <= at_most(settings, 10)
    assert max(passes(settings)) <= at_most(settings, 10)
    if not isinstance(settings, AutoAttackSettings):
        assert max(passes(settings, targeted=True)) <= at_most(settings, 10)


def test_a_published_attack_costs_what_its_steps_say() -> None:
    known = {
        "rome-2025@1": {"fgsm": 3, "pgd": 21, "square": 5000, "spsa": 257, "cw": 201},
        "pixel@1": {
            "pgd": 41,
            "apgd-ce": 203,
            "apgd-t": 1 + 9 * 202,
            "fab-t": 1 + 9 * 300,
            "autoattack": 1 + 203 + (1 + 9 * 202) + (1 + 9 * 300) + 5000,
            "spsa": 40 * 129 + 1,
            "mi-fgsm": 21,
            "vmi-fgsm": 20 + 9 * 10 + 1,
        },
    }
    for protocol, attacks in known.items():
        for attack_name, cost in attacks.items():
            settings = PROTOCOLS[protocol].entry(attack_name).settings
            assert at_most(settings, 10) == cost, attack_name


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.id)
def test_what_is_expected_is_at_most_the_most(protocol: Any) -> None:
    for entry in protocol.entries:
        for classes in (2, 10, 100):
            assert 0 < expected(entry.settings, classes) <= at_most(entry.settings, classes)


def test_costs_are_known_without_torch() -> None:
    code = "import sys; import rome_core.costs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
