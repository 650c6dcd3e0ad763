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
from rome_core.evaluation.robustness import Measure, TestSet, measure
from rome_core.evaluation.students import Student, TrainingSet
from rome_core.passes import Passes, Plan
from rome_core.progress import Progress, Stopped
from rome_core.recipes.evaluate import DomainBudget, Students
from rome_core.runner.context import Context
from rome_core.synthetic import SyntheticSet


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
        dataset.classes,
        tuple(dataset.mean.tolist()),
        tuple(dataset.std.tolist()),
    )
    aimed = hp.target_rule != "untargeted"
    what = Measure("pgd", hp.attack_domain, "targeted" if aimed else "untargeted")
    budget = DomainBudget(
        epsilon=hp.pgd_epsilon,
        step=hp.pgd_step,
        steps=hp.pgd_steps,
        target_rule=hp.target_rule if aimed else "modC",
    )
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
        attacked = number * len(test.pixels)

        def tick(images: int) -> None:
            nonlocal attacked
            attacked += images
            tell(step, Progress("attacking", attacked, recipe.count * len(test.pixels)))

        model = Passes(student.network, plan).bind(student.network.state_dict())
        return measure(model, test, what, budget, seed=seed, tick=tick).accuracy

    def score(synthetic: SyntheticSet, step: int) -> float:
        training = TrainingSet.of(synthetic, device=context.device)
        names = [f"{step}/{number}" for number in range(recipe.count)]
        for number, name in enumerate(names):
            if name not in finished:
                finished[name] = judge(training, step, number)
        return fmean(finished[name] for name in names)

    return Evaluation(score, hp.eval_interval, finished)
