"""Every attack by the type of its settings.

Owns the one way to run an attack that was asked for in words. A new attack is one file, one
settings class and one row here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rome_core.attacks.apgd import apgd
from rome_core.attacks.autoattack import autoattack
from rome_core.attacks.cw import cw
from rome_core.attacks.deepfool import deepfool
from rome_core.attacks.fab import fab
from rome_core.attacks.fgsm import fgsm
from rome_core.attacks.goal import Goal
from rome_core.attacks.mi_fgsm import mi_fgsm
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked, begin
from rome_core.attacks.pgd import pgd
from rome_core.attacks.spsa import spsa
from rome_core.attacks.square import square
from rome_core.attacks.vmi_fgsm import vmi_fgsm
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import (
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


def attack(
    oracle: Oracle, x: Tensor, goal: Goal, settings: Settings, draws: ImageDraws
) -> Attacked:
    """Run the attack that `settings` are of on images x (n, c, h, w) in the attack's space."""
    made: Attacked = ATTACKS[type(settings)](oracle, x, goal, settings, draws)
    return made


def unharmed(
    oracle: Oracle, x: Tensor, goal: Goal, settings: CleanSettings, draws: ImageDraws
) -> Attacked:
    """The images as they are."""
    done, rows = Attacked.start(x), torch.arange(len(x), device=x.device)
    hit = goal.reached(oracle.logits(x, rows), rows)
    done.keep(rows[hit], x[hit], oracle.forwards[rows[hit]])
    return done


def clamped(
    oracle: Oracle, x: Tensor, goal: Goal, settings: ClampSettings, draws: ImageDraws
) -> Attacked:
    """The images clamped to [0, 1]: what an attack of no strength leaves of them."""
    done, _ = begin(oracle, x, goal)
    return done


ATTACKS: Mapping[type[Settings], Callable[..., Any]] = {
    CleanSettings: unharmed,
    ClampSettings: clamped,
    FgsmSettings: fgsm,
    PgdSettings: pgd,
    DeepFoolSettings: deepfool,
    CwSettings: cw,
    ApgdSettings: apgd,
    FabSettings: fab,
    SquareSettings: square,
    AutoAttackSettings: autoattack,
    SpsaSettings: spsa,
    MiFgsmSettings: mi_fgsm,
    VmiFgsmSettings: vmi_fgsm,
}
