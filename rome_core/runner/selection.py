"""The judge of iterates, for methods that return their best one.

Owns what "best" means: mean accuracy of fresh students, on images as they are or under PGD
(`selection_score`), of held-out training images (`selection: holdout`) or, to reproduce released
codes, of the test set. Students start from the rate of the set, which its method may have learned.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch

from rome_core.attacks.gradient import Model
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

BLOCK = 500  # images judged at a time; changes no value, for no image's attack looks at another

Correct = Callable[[Model, TestSet], int]
"""How many images of a block a model gets right."""


def selection(
    method: object,
    dataset: Dataset,
    hyperparameters: object,
    seed: int,
    context: Context,
    plan: Plan,
) -> Evaluation | None:
    """The evaluation the engine runs between iterations, or None where nothing is selected.

    Reads the hyperparameters `selection`, `selection_score`, `eval_interval`, `num_eval`,
    `eval_epochs` and `network`, for robust scores `attack_domain` and the attack's, and the
    method's `held_out` positions for holdout.
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
        dataset.space,
    )
    robust = getattr(hp, "selection_score", "robust") == "robust"
    correct = _under_attack(hp, seed) if robust else _clean
    phase = "attacking" if robust else "testing students"
    recipe = Students(
        count=hp.num_eval, network=hp.network, epochs=hp.eval_epochs, learning_rate="set"
    )
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
        judged = number * len(test)
        model = Passes(student.network, plan).bind(student.network.state_dict())
        right = 0
        for rows in test.blocks(BLOCK):
            block = test.part(rows)
            right += correct(model, block)
            judged += len(block)
            tell(step, Progress(phase, judged, recipe.count * len(test)))
        return right / len(test)

    def score(synthetic: SyntheticSet, step: int) -> float:
        training = TrainingSet.of(synthetic, device=context.device)
        names = [f"{step}/{number}" for number in range(recipe.count)]
        for number, name in enumerate(names):
            if name not in finished:
                finished[name] = judge(training, step, number)
        return fmean(finished[name] for name in names)

    return Evaluation(score, hp.eval_interval, finished)


def _clean(model: Model, block: TestSet) -> int:
    predicted = model(block.space.from_pixels(block.pixels)).argmax(dim=1)
    return int((predicted == block.labels).sum())


def _under_attack(hp: Any, seed: int) -> Correct:
    aimed = hp.target_rule != "untargeted"
    protocol = _protocol(hp, hp.target_rule if aimed else "modC")
    (entry,) = protocol.entries
    mode: Mode = "targeted" if aimed else "untargeted"

    def correct(model: Model, block: TestSet) -> int:
        return int(face(model, block, protocol, entry, mode, seed=seed).faced.correct.sum())

    return correct


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
