"""AutoAttack (Croce and Hein 2020): attacks in cascade, each for the images the others left.

Owns the cascade alone; what it is made of is `rome_core.recipes.autoattack.stages`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rome_core.attacks.apgd import apgd
from rome_core.attacks.fab import fab
from rome_core.attacks.goal import Goal
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked, begin
from rome_core.attacks.square import square
from rome_core.errors import CoreError
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import (
    ApgdSettings,
    AutoAttackSettings,
    FabSettings,
    Settings,
    SquareSettings,
)
from rome_core.recipes.autoattack import stages

STAGES: Mapping[type[Settings], Callable[..., Any]] = {
    ApgdSettings: apgd,
    FabSettings: fab,
    SquareSettings: square,
}


@torch.no_grad()
def autoattack(
    oracle: Oracle,
    x: Tensor,
    goal: Goal,
    settings: AutoAttackSettings,
    draws: ImageDraws,
    *,
    held: dict[str, Any] | None = None,
) -> Attacked:
    """Every stage of the version, on what is left.

    After each stage `held`, where given, is all that a later call needs to go on from there. Its
    `broken_by` (n,) says which stage reached the goal, counted from 1 in the order of `stages`: 0
    for the look at the images as they were, -1 where none did.

    x is (n, c, h, w) in the attack's space and is looked at first, clamped to [0, 1]: one pass, on
    top of those of the stages. Each of those draws under its own name. What no stage breaks keeps
    the first one's best try, the point of the highest cross-entropy. Raises CoreError for a
    targeted goal.
    """
    if goal.targets is not None:
        raise CoreError(
            "attack_unsuitable",
            "AutoAttack flees the true label and has no targeted form.",
            "Run it untargeted, or choose apgd for targets.",
            field="modes",
        )
    held = {} if held is None else held
    if "stages" in held:
        # Copies: what is held must stay as it is until the next stage is done.
        done = Attacked(
            *(held[name].to(x.device, copy=True) for name in ("images", "reached", "queries"))
        )
        oracle.recall(held["forwards"].to(x.device), held["backwards"].to(x.device))
        classes, broken_by = held["classes"], held["broken_by"].to(x.device)
    else:
        done, logits = begin(oracle, x, goal)
        classes, broken_by = logits.shape[1], torch.where(done.reached, 0, -1)
    for number, (name, stage) in enumerate(stages(settings, classes)):
        if number < held.get("stages", 0):
            continue
        run_stage(oracle, x, goal, stage, draws.under(name), done, first=number == 0)
        broken_by = broken_by.masked_fill(done.reached & (broken_by < 0), number + 1)
        # Copies, for a checkpoint may be written while the next stage is under way.
        held.update(
            stages=number + 1,
            classes=classes,
            images=done.images.clone(),
            reached=done.reached.clone(),
            queries=done.queries.clone(),
            broken_by=broken_by,
            forwards=oracle.forwards.clone(),
            backwards=oracle.backwards.clone(),
        )
    return done


def run_stage(
    oracle: Oracle,
    x: Tensor,
    goal: Goal,
    settings: Settings,
    draws: ImageDraws,
    done: Attacked,
    *,
    first: bool,
) -> None:
    """One stage on the images that are open in `done`, which it carries on.

    Passes are counted in the oracle, and queries on top of what the images have cost before. The
    `first` stage leaves its best tries too.
    """
    rows = done.open()
    if not len(rows):
        return
    run = STAGES[type(settings)]
    made: Attacked = run(oracle.view(rows), x[rows], goal.take(rows), settings, draws.take(rows))
    if first:
        done.note(rows, made.images)
    hit = made.reached
    done.keep(rows[hit], made.images[hit], made.queries[hit])
