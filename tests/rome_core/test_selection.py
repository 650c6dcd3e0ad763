"""What iterates are judged on, under which attack and by whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rome_core.attacks.gradient import Model
from rome_core.data import Dataset
from rome_core.distillation.engine import Evaluation
from rome_core.distillation.idm import Idm
from rome_core.distillation.rome import Rome
from rome_core.evaluation import robustness
from rome_core.evaluation.robustness import Block, TestSet
from rome_core.evaluation.students import Student
from rome_core.passes import plan
from rome_core.progress import Progress, Stopped
from rome_core.recipes.attacks import Mode, PgdSettings
from rome_core.recipes.idm import IdmHyperparameters
from rome_core.recipes.protocols import Entry, Protocol
from rome_core.recipes.rome import RomeHyperparameters
from rome_core.runner import Context
from rome_core.runner.selection import selection
from rome_core.synthetic import SyntheticSet
from tests.rome_core.distillation.conftest import tiny_dataset

SETTINGS: dict[str, Any] = {
    "iterations": 4,
    "network": "convnet-d1-w4",
    "net_begin": 1,
    "net_num": 2,
    "fetch_net_num": 1,
    "eval_interval": 2,
    "num_eval": 2,
    "eval_epochs": 1,
    "pgd_epsilon": "6/255",
    "pgd_step": "3/255",
    "pgd_steps": 2,
}


@dataclass(frozen=True)
class Asked:
    """One call of `face`, and what its student says to fixed images."""

    test: TestSet
    protocol: Protocol
    entry: Entry
    mode: Mode | None
    answers: Tensor


class Spy:
    """Attacks, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def __call__(
        self,
        model: Model,
        test: TestSet,
        protocol: Protocol,
        entry: Entry,
        mode: Mode | None,
        **more: Any,
    ) -> Block:
        self.asked.append(Asked(test, protocol, entry, mode, model(torch.ones(2, 3, 8, 8))))
        return robustness.face(model, test, protocol, entry, mode, **more)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    made = Spy()
    monkeypatch.setattr("rome_core.runner.selection.face", made)
    return made


@pytest.fixture
def students(monkeypatch: pytest.MonkeyPatch) -> list[Student]:
    """All that are trained, in order."""
    made: list[Student] = []

    def remembered(*given: Any, **more: Any) -> Student:
        made.append(Student(*given, **more))
        return made[-1]

    monkeypatch.setattr("rome_core.runner.selection.Student", remembered)
    return made


@pytest.fixture
def dataset() -> Dataset:
    """Test images that are no training images."""
    tiny = tiny_dataset()
    return replace(tiny, test_images=1 - tiny.test_images)


def judging(
    dataset: Dataset, context: Context, **changes: Any
) -> tuple[Rome, Evaluation, SyntheticSet]:
    settings = RomeHyperparameters(**{**SETTINGS, **changes})
    how = plan(mode="eager", threads=1)
    method = Rome(dataset, settings, ipc=1, seed=3, plan=how)
    evaluation = selection(method, dataset, settings, 3, context, how)
    assert evaluation is not None
    return method, evaluation, method.synthetic_set()


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(workdir=tmp_path, data_root=tmp_path)


@pytest.mark.parametrize("domain", ["pixel", "reference"])
def test_holdout_judges_on_held_out_training_images(
    domain: str, dataset: Dataset, context: Context, spy: Spy
) -> None:
    method, evaluation, images = judging(
        dataset, context, selection="holdout", holdout=0.25, attack_domain=domain
    )
    evaluation.score(images, 2)
    assert len(spy.asked) == 2
    for asked in spy.asked:
        assert torch.equal(asked.test.pixels, dataset.train_images[method.held_out])
        assert torch.equal(asked.test.labels, dataset.train_labels[method.held_out])
        assert (asked.protocol.domain, asked.protocol.target_rule) == (domain, "modC")
        assert asked.protocol.attacks_everything
        assert asked.mode == "targeted"
        assert asked.entry.settings == PgdSettings(
            epsilon="6/255", step="3/255", steps=2, random_start=True, early_stop=False
        )


def test_test_judges_on_the_test_set(dataset: Dataset, context: Context, spy: Spy) -> None:
    _, evaluation, images = judging(
        dataset,
        context,
        selection="test",
        attack_domain="reference",
        target_rule="untargeted",
        pgd_step="2/225",
    )
    evaluation.score(images, 2)
    for asked in spy.asked:
        assert torch.equal(asked.test.pixels, dataset.test_images)
        assert torch.equal(asked.test.labels, dataset.test_labels)
        assert (asked.protocol.domain, asked.mode) == ("reference", "untargeted")
        assert isinstance(asked.entry.settings, PgdSettings)
        assert (asked.entry.settings.epsilon, asked.entry.settings.step) == ("6/255", "2/225")


def test_every_student_of_every_iterate_is_another(
    dataset: Dataset, context: Context, spy: Spy
) -> None:
    _, evaluation, images = judging(dataset, context, selection="holdout")
    for step in (2, 4):
        evaluation.score(images, step)
    answers = [asked.answers for asked in spy.asked]
    assert len(answers) == 4
    for number, one in enumerate(answers):
        assert not any(torch.equal(one, other) for other in answers[:number])


def test_a_stop_is_heard_while_attacking_and_finished_students_are_kept(
    dataset: Dataset, context: Context, spy: Spy
) -> None:
    _, whole, images = judging(dataset, context, selection="holdout")
    expected = whole.score(images, 2)
    spy.asked.clear()
    seen: list[Progress] = []
    stopping = replace(
        context,
        report=seen.append,
        should_stop=lambda: len(spy.asked) == 2 and seen[-1].phase == "attacking",
    )
    _, evaluation, _ = judging(dataset, stopping, selection="holdout")
    with pytest.raises(Stopped, match="iterate 2"):
        evaluation.score(images, 2)
    assert list(evaluation.finished) == ["2/0"]
    spy.asked.clear()
    _, resumed, _ = judging(dataset, context, selection="holdout")
    resumed.finished.update(evaluation.finished)
    assert resumed.score(images, 2) == expected
    assert len(spy.asked) == 1


def test_clean_scores_are_accuracies_of_images_as_they_are(
    dataset: Dataset,
    context: Context,
    spy: Spy,
    students: list[Student],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rome_core.runner.selection.BLOCK", 4)
    phases: list[str] = []
    listening = replace(context, report=lambda progress: phases.append(progress.phase))
    method, evaluation, images = judging(
        dataset, listening, selection="holdout", holdout=0.5, selection_score="clean", eval_epochs=9
    )
    score = evaluation.score(images, 2)
    assert not spy.asked
    assert set(phases) == {"training students", "testing students"}
    x = dataset.normalise(dataset.train_images[method.held_out])
    labels = dataset.train_labels[method.held_out]
    right = [(student.network(x).argmax(dim=1) == labels).float().mean() for student in students]
    assert len(students) == 2
    assert score == pytest.approx(sum(map(float, right)) / 2)
    assert 0 < score < 1


def test_a_clean_score_of_the_test_set_needs_no_reference_domain(
    dataset: Dataset, context: Context, students: list[Student]
) -> None:
    settings = IdmHyperparameters(**{**SETTINGS, "selection": "test", "eval_epochs": 9})
    how = plan(mode="eager", threads=1)
    method = Idm(dataset, settings, ipc=1, seed=3, plan=how)
    evaluation = selection(method, dataset, settings, 3, context, how)
    assert evaluation is not None
    score = evaluation.score(method.synthetic_set(), 2)
    x, labels = dataset.normalise(dataset.test_images), dataset.test_labels
    right = [(student.network(x).argmax(dim=1) == labels).float().mean() for student in students]
    assert score == pytest.approx(sum(map(float, right)) / 2)


def test_students_learn_at_the_rate_of_the_set(
    dataset: Dataset, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that learned its rate is judged by it."""
    rates: list[float] = []

    def remembered(*given: Any, **more: Any) -> Student:
        made = Student(*given, **more)
        rates.append(made.state_dict()["rate"])
        return made

    monkeypatch.setattr("rome_core.runner.selection.Student", remembered)
    _, evaluation, images = judging(dataset, context, selection="holdout")
    evaluation.score(replace(images, learning_rate=0.25), 2)
    assert rates == [0.25, 0.25]
