"""Experts: the naive loop's, whoever else is trained, stopped and resumed anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_core.data import Dataset
from rome_core.distillation import expert_training
from rome_core.distillation.checkpoints import Cadence, Checkpoints
from rome_core.distillation.engine import carry_out
from rome_core.distillation.expert_training import ExpertsTraining, group_size
from rome_core.distillation.experts import Experts
from rome_core.errors import CoreError
from rome_core.passes import plan
from rome_core.progress import Progress, Stopped
from rome_core.randomness import generator
from rome_core.recipes.experts import ExpertTraining
from tests.rome_core.distillation.naive_experts import naive_expert

NETWORK = "convnet-d2-w8"
ATTACK = {"steps": 2, "epsilon": "16/255", "step": "8/255"}
OPTIONS: dict[str, dict[str, Any]] = {
    "published": {},
    "sgd": {"momentum": 0.9, "weight_decay": 5e-2, "schedule": "step", "learning_rate": 0.1},
    "adversarial": {"adversarial": ATTACK},
    "reference": {"adversarial": {**ATTACK, "domain": "reference", "random_start": False}},
    "curvature": {"curvature_weight": 0.5, "curvature_step": 0.7},
    "layer norm": {"network": "convnet-d1-w4-layer", "curvature_weight": 0.5},
    "both": {"adversarial": ATTACK, "curvature_weight": 0.5, "momentum": 0.5},
}


class Always(Cadence):
    def due(self) -> bool:
        return True


class Never(Cadence):
    def due(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches of ten a step, so that an epoch of 36 images has two steps."""
    monkeypatch.setattr(expert_training, "STEP_IMAGES", 20)


def recipe(**changes: Any) -> ExpertTraining:
    told = {"network": NETWORK, "count": 3, "epochs": 3, "batch": 10, **changes}
    return ExpertTraining.model_validate(told)


def made(
    dataset: Dataset, training: ExpertTraining, checkpoints: Checkpoints, **how: Any
) -> ExpertsTraining:
    return ExpertsTraining(
        dataset, training, seed=5, checkpoints=checkpoints, plan=plan(mode="eager"), **how
    )


def run(
    dataset: Dataset,
    training: ExpertTraining,
    folder: Path,
    *earlier: Path,
    stop: Callable[[], bool] = lambda: False,
    cadence: Cadence | None = None,
    reports: list[Progress] | None = None,
    **how: Any,
) -> Experts:
    checkpoints = Checkpoints(folder, earlier)
    task = made(dataset, training, checkpoints, **how)
    carry_out(
        task,
        phase="training experts",
        checkpoints=checkpoints,
        report=(reports if reports is not None else []).append,
        should_stop=stop,
        cadence=cadence or Never(),
    )
    path = folder / "experts.safetensors"
    task.save(path)
    return Experts.open(path)


def after(calls: int) -> Callable[[], bool]:
    left = iter([False] * calls)
    return lambda: next(left, True)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(("name", "whiten"), [*((n, False) for n in OPTIONS), ("both", True)])
def test_experts_equal_a_naive_loop(
    tiny: Dataset, tmp_path: Path, name: str, whiten: bool, stacked: bool
) -> None:
    """Every epoch of every expert in float64, and everything recorded."""
    dataset = tiny.whitened() if whiten else tiny
    training = recipe(**{"count": 2, "epochs": 2, **OPTIONS[name]})
    experts = run(dataset, training, tmp_path, group=2, stacked=stacked, dtype=torch.float64)
    assert experts.epochs == (0, 1, 2)
    assert experts.forgetting is not None
    for number in range(2):
        naive = naive_expert(dataset, training, seed=5, number=number, dtype=torch.float64)
        for epoch, weights in enumerate(naive.snapshots):
            torch.testing.assert_close(
                experts.flat(number, epoch), weights.float(), rtol=1e-6, atol=1e-8
            )
        assert experts.train_accuracy[number].tolist() == pytest.approx(naive.train_accuracy)
        assert experts.train_loss[number].tolist() == pytest.approx(naive.train_loss, rel=1e-9)
        assert experts.forgetting[number].tolist() == naive.forgetting()
        assert experts.accuracy[number] == pytest.approx(naive.accuracy)


def test_a_file_names_the_datasets_own_strategy(tiny: Dataset, tmp_path: Path) -> None:
    dataset = replace(tiny, augmentation="crop_rotate")
    own = run(dataset, recipe(count=1, epochs=1), tmp_path / "own")
    named = run(dataset, recipe(count=1, epochs=1, augmentation="crop_rotate"), tmp_path / "named")
    assert own.training == named.training
    assert own.training.augmentation == "crop_rotate"
    assert own.path.read_bytes() == named.path.read_bytes()


def test_forgetting_is_counted_over_many_epochs(tiny: Dataset, tmp_path: Path) -> None:
    """Of labels that mean nothing some images are forgotten twice, and some never learned."""
    shuffled = torch.randperm(len(tiny.train_labels), generator=generator(1, "shuffled"))
    dataset = replace(tiny, train_labels=tiny.train_labels[shuffled])
    training = recipe(count=1, epochs=9, learning_rate=0.1, keep="last")
    experts = run(dataset, training, tmp_path, dtype=torch.float64)
    naive = naive_expert(dataset, training, seed=5, number=0, dtype=torch.float64)
    assert experts.forgetting is not None
    counts = experts.forgetting[0].tolist()
    assert counts == naive.forgetting()
    assert {0, 1, 2, 10} <= set(counts)


@pytest.mark.parametrize("changes", [OPTIONS["sgd"], OPTIONS["both"]], ids=["sgd", "both"])
def test_stacked_and_single_experts_agree_within_rounding(
    tiny: Dataset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    training = recipe(**changes)
    one = run(tiny, training, tmp_path / "one")
    other = run(tiny, training, tmp_path / "other", group=3, stacked=True)
    for number in range(3):
        torch.testing.assert_close(one.flat(number, 3), other.flat(number, 3), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("group", [2, 3, 7])
def test_an_expert_is_the_same_whoever_else_is_trained(
    tiny: Dataset, tmp_path: Path, group: int
) -> None:
    """To the last bit where experts of a group are trained one after another."""
    four = run(tiny, recipe(count=4), tmp_path / "four", group=group)
    two = run(tiny, recipe(count=2), tmp_path / "two")
    for number in range(2):
        for epoch in four.epochs:
            assert torch.equal(four.flat(number, epoch), two.flat(number, epoch))
    assert four.accuracy[:2] == two.accuracy
    assert not torch.equal(four.flat(0, 0), four.flat(1, 0))


def test_snapshots_are_copies_of_their_own(tiny: Dataset, tmp_path: Path) -> None:
    """The published code's are views of the weights on a CPU: all equal the final ones."""
    experts = run(tiny, recipe(), tmp_path)
    for number in range(3):
        kept = [experts.flat(number, epoch) for epoch in experts.epochs]
        for one, other in itertools.pairwise(kept):
            assert not torch.equal(one, other)


def test_only_the_last_epoch_is_kept_if_so_asked(tiny: Dataset, tmp_path: Path) -> None:
    every = run(tiny, recipe(), tmp_path / "all")
    last = run(tiny, recipe(keep="last"), tmp_path / "last")
    assert last.epochs == (3,)
    for number in range(3):
        assert torch.equal(last.flat(number, 3), every.flat(number, 3))


@pytest.mark.parametrize("keep", ["all", "last"])
def test_no_epochs_leave_fresh_networks(tiny: Dataset, tmp_path: Path, keep: str) -> None:
    experts = run(tiny, recipe(epochs=0, keep=keep), tmp_path, group=2)
    assert experts.epochs == (0,)
    naive = naive_expert(tiny, recipe(epochs=0), seed=5, number=2, dtype=torch.float32)
    assert torch.equal(experts.flat(2, 0), naive.snapshots[0])
    assert experts.forgetting is not None
    assert experts.forgetting.unique().tolist() == [1]


@pytest.mark.parametrize("how", [{"group": 2}, {"group": 2, "stacked": True}])
def test_a_run_stopped_after_any_step_ends_bit_identical(
    tiny: Dataset, tmp_path: Path, how: dict[str, Any]
) -> None:
    """In the middle of an epoch and of a group, and at the end of each; the earlier folder goes."""
    training = recipe(**OPTIONS["sgd"], epochs=2)
    run(tiny, training, tmp_path / "whole", **how)
    expected = (tmp_path / "whole" / "experts.safetensors").read_bytes()
    steps = made(tiny, training, Checkpoints(tmp_path / "none"), **how).iterations
    assert steps == 2 * 4  # groups of two and of one, two epochs of two steps
    for count in range(steps):
        first, second = tmp_path / f"{count}-first", tmp_path / f"{count}-second"
        with pytest.raises(Stopped):
            run(tiny, training, first, stop=after(count), **how)
        checkpoints = Checkpoints(second, (first,))
        task = made(tiny, training, checkpoints, **how)

        def report(progress: Progress, first: Path = first) -> None:
            """As soon as the second attempt has a checkpoint the first one's may be removed."""
            if progress.checkpoint_step is not None and first.exists():
                first.rename(first.with_suffix(".gone"))

        carry_out(
            task,
            phase="training experts",
            checkpoints=checkpoints,
            report=report,
            should_stop=lambda: False,
            cadence=Always(),
        )
        assert not first.exists()
        task.save(second / "experts.safetensors")
        assert (second / "experts.safetensors").read_bytes() == expected


def test_a_resumed_run_keeps_its_group(tiny: Dataset, tmp_path: Path) -> None:
    """It may go on on another device, where another number at a time would be chosen."""
    expected = run(tiny, recipe(), tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tiny, recipe(), tmp_path / "first", stop=after(3), group=2)
    got = run(tiny, recipe(), tmp_path / "second", tmp_path / "first", group=1)
    for number in range(3):
        assert torch.equal(got.flat(number, 3), expected.flat(number, 3))


def test_weights_are_written_once(tiny: Dataset, tmp_path: Path) -> None:
    """A checkpoint after every step adds what is under way; a snapshot has no other's storage."""
    checkpoints = Checkpoints(tmp_path)
    task = made(tiny, recipe(count=2), checkpoints, group=2)
    written: dict[str, int] = {}
    for step in range(task.iterations):
        task.step()
        checkpoints.save(step + 1, task.state_dict())
        for path in (tmp_path / "chunks").iterdir():
            assert written.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    state = task.state_dict()
    kept = {f"weights/{number}/{epoch}" for number in range(2) for epoch in range(4)}
    assert kept | {"forgetting/0", "forgetting/1"} <= set(state)
    for name in kept:
        assert 0 < state[name].size - 4 * task._gradients.layout.size < 2_000


def test_a_state_taken_over_is_a_copy(tiny: Dataset, tmp_path: Path) -> None:
    """What goes on from it leaves the one it came from as it was."""
    checkpoints = Checkpoints(tmp_path)
    first = made(tiny, recipe(**OPTIONS["sgd"]), checkpoints)
    for _ in range(3):
        first.step()
    state = first.state_dict()
    before = deepcopy(state)
    second = made(tiny, recipe(**OPTIONS["sgd"]), checkpoints)
    second.load_state_dict(state)
    for _ in range(3):
        second.step()
    after = first.state_dict()
    assert after["experts"] == before["experts"]
    torch.testing.assert_close(after["group"], before["group"], rtol=0, atol=0)


def test_progress_tells_losses_and_accuracies(tiny: Dataset, tmp_path: Path) -> None:
    reports: list[Progress] = []
    experts = run(tiny, recipe(count=2, epochs=1), tmp_path, reports=reports)
    assert {report.phase for report in reports} == {"training experts"}
    ends = [report for report in reports if "test_accuracy" in report.scalars]
    assert [report.scalars["test_accuracy"] for report in ends] == pytest.approx(experts.accuracy)
    for number, report in enumerate(ends):
        assert report.scalars["loss"] == pytest.approx(float(experts.train_loss[number, -1]))
        accuracy = float(experts.train_accuracy[number, -1])
        assert report.scalars["train_accuracy"] == pytest.approx(accuracy)


def test_experts_learn(tmp_path: Path, tiny: Dataset) -> None:
    experts = run(tiny, recipe(epochs=12, learning_rate=0.1), tmp_path)
    assert (experts.train_loss[:, -1] < 0.7 * experts.train_loss[:, 0]).all()


def test_diverging_experts_are_told_of(tiny: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CoreError, match="no longer finite") as caught:
        run(tiny, recipe(learning_rate=100.0, weight_decay=1.0, epochs=8), tmp_path)
    assert caught.value.code == "diverged"


def test_groups_are_for_gpus(tiny: Dataset) -> None:
    training = recipe(count=100, network="convnet", batch=256)
    large = replace(tiny, train_images=torch.empty(300, 3, 32, 32, device="meta"))
    assert group_size(training, large, "cpu") == 1
    assert 2 <= group_size(training, large, "cuda") <= 100
    assert group_size(recipe(count=3), tiny, "cuda:0") == 3
