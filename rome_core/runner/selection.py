"""The judge of iterates, for methods that return their best one.

Owns what "best" means: mean accuracy of fresh students under targeted PGD, on held-out training
images (`selection: holdout`) or, to reproduce the released code, on the test set.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

import torch

from rome_core.data import Dataset
from rome_core.distillation.engine import Evaluation
from rome_core.evaluation.robustness import TestSet, face
from rome_core.evaluation.students import Student, TrainingSet
from rome_core.passes import Passes, Plan
from rome_core.progress import Progress, Stopped
from rome_core.recipes.attacks import Domain, Mode, PgdSettings
from rome_core.recipes.evaluate import Students
from rome_core.recipes.protocols import Entry, Protocol
from rome_core.runner.context import Context
from rome_core.synthetic import SyntheticSet

BLOCK = 500  # images attacked at a time; changes no value, for no image's attack looks at another


def selection(
    method: object,
    dataset: Dataset,
    hyperparameters: object,
    seed: int,
    context: Context,
    plan: Plan,
) -> Evaluation | None:
    """The evaluation the engine runs between iterations, or None where nothing is selected.

    Reads the hyperparameters `selection`, `eval_interval`, `num_eval`, `eval_epochs`, `network`,
    `attack_domain` and the attack's, and the method's `held_out` positions for holdout.
    """
    rule = getattr(hyperparameters, "selection", "none")
    if rule == "none":
        return None
    hp: Any = hyperparameters
    if rule == "holdout":
        held: torch.Tensor = getattr(method, "held_out")  # noqa: B009 — only such methods have it
        pixels, labels = dataset.train_images[held], dataset.train_labels[held]
    else:
        pixels, labels = dataset.test_images, dataset.test_labels
    test = TestSet(
        pixels.to(context.device),
        labels.to(context.device),
        torch.arange(len(pixels), device=context.device),
        dataset.classes,
        tuple(dataset.mean.tolist()),
        tuple(dataset.std.tolist()),
    )
    aimed = hp.target_rule != "untargeted"
    protocol = _protocol(hp, "modC" if not aimed else hp.target_rule)
    mode: Mode = "targeted" if aimed else "untargeted"
    recipe = Students(count=hp.num_eval, network=hp.network, epochs=hp.eval_epochs)
    finished: dict[str, float] = {}  # "step/number" of a student -> its accuracy

    def tell(step: int, progress: Progress) -> None:
        context.report(progress)
        if context.should_stop():
            raise Stopped(f"stopped while judging iterate {step}")

    def judge(training: TrainingSet, step: int, number: int) -> float:
        student = Student(training, recipe, seed=seed, number=f"{step}/{number}")
        total = recipe.count * student.epochs
        for epoch in student.train():
            done = number * student.epochs + epoch.index + 1
            tell(step, Progress("training students", done, total, {"loss": epoch.loss}))
        attacked = number * len(test)

        model = Passes(student.network, plan).bind(student.network.state_dict())
        right = 0
        for rows in test.blocks(BLOCK):
            block = test.part(rows)
            (entry,) = protocol.entries
            right += int(face(model, block, protocol, entry, mode, seed=seed).faced.correct.sum())
            attacked += len(block)
            tell(step, Progress("attacking", attacked, recipe.count * len(test)))
        return right / len(test)

    def score(synthetic: SyntheticSet, step: int) -> float:
        training = TrainingSet.of(synthetic, device=context.device)
        names = [f"{step}/{number}" for number in range(recipe.count)]
        for number, name in enumerate(names):
            if name not in finished:
                finished[name] = judge(training, step, number)
        return fmean(finished[name] for name in names)

    return Evaluation(score, hp.eval_interval, finished)


def _protocol(hp: Any, target_rule: str) -> Protocol:
    """The attack that a method's own hyperparameters describe, on every image."""
    settings = PgdSettings(
        epsilon=hp.pgd_epsilon,
        step=hp.pgd_step,
        steps=hp.pgd_steps,
        random_start=True,
        early_stop=False,
    )
    return Protocol(
        name="selection",
        version=1,
        title="PGD as in distillation",
        summary="Chooses among a method's own iterates.",
        source="the method's hyperparameters",
        domain=Domain(hp.attack_domain),
        target_rule=target_rule,
        entries=(Entry("pgd", "PGD", settings),),
        default=("pgd",),
        attacks_everything=True,
        images=None,
        probe_images=0,
    )
