"""The loop: resume is bit-identical, stopping leaves a checkpoint, evaluations pick an iterate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_core.data import Dataset
from rome_core.distillation.checkpoints import Cadence, Checkpoints
from rome_core.distillation.engine import Distilled, Evaluation, distil
from rome_core.distillation.rome import Rome
from rome_core.passes import plan
from rome_core.progress import Progress, Stopped
from rome_core.recipes.rome import RomeHyperparameters
from rome_core.space import Normalised
from rome_core.synthetic import SyntheticSet

ITERATIONS = 9
# The pool is full from iteration 0, evicts from iteration 2; the released meter forgets at 4 and 8.
TINY: dict[str, Any] = {
    "iterations": ITERATIONS,
    "network": "convnet-d2-w8",
    "batch_real": 6,
    "batch_train": 8,
    "net_begin": 2,
    "net_num": 3,
    "net_generate_interval": 2,
    "model_train_steps": 2,
    "pgd_steps": 2,
    "eval_interval": 4,
}
RELEASED = {"attack_domain": "reference", "image_step": "per_class", "meter": "since_evaluation"}


class Never(Cadence):
    def due(self) -> bool:
        return False


class Always(Cadence):
    def due(self) -> bool:
        return True


def make(dataset: Dataset, **changes: Any) -> Rome:
    hyperparameters = RomeHyperparameters(**{**TINY, **changes})
    return Rome(dataset, hyperparameters, ipc=2, seed=5, plan=plan(mode="eager"))


def after(calls: int) -> Callable[[], bool]:
    """A should_stop that says so the time after `calls` times."""
    left = iter([False] * calls)
    return lambda: next(left, True)


def run(
    method: Rome | Learner,
    folder: Path,
    *earlier: Path,
    stop: Callable[[], bool] = lambda: False,
    reports: list[Progress] | None = None,
    cadence: Cadence | None = None,
    evaluation: Evaluation | None = None,
) -> Distilled:
    return distil(
        method,
        checkpoints=Checkpoints(folder, earlier),
        report=(reports if reports is not None else []).append,
        should_stop=stop,
        cadence=cadence or Never(),
        evaluation=evaluation,
    )


def assert_same_state(one: Rome, other: Rome) -> None:
    """Bit for bit, everything a checkpoint holds."""
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("stops", [(0,), (1,), (3,), (8,), (2, 3, 1)])
@pytest.mark.parametrize("changes", [RELEASED, {}], ids=["released", "pixel"])
def test_an_interrupted_run_ends_bit_identical(
    tiny: Dataset, tmp_path: Path, stops: tuple[int, ...], changes: dict[str, Any]
) -> None:
    undisturbed = make(tiny, **changes)
    expected = run(undisturbed, tmp_path / "undisturbed")

    folders: list[Path] = []
    for attempt, count in enumerate(stops):
        folder = tmp_path / str(attempt)
        with pytest.raises(Stopped):
            run(make(tiny, **changes), folder, *folders, stop=after(count))
        folders.insert(0, folder)
    last = make(tiny, **changes)
    got = run(last, tmp_path / "last", *folders)

    assert torch.equal(got.synthetic.images, expected.synthetic.images)
    assert_same_state(last, undisturbed)
    assert got.resumed == (f"resumed at iteration {sum(stops)}",)


def test_every_checkpoint_of_a_run_leads_to_the_same_end(tiny: Dataset, tmp_path: Path) -> None:
    """As after a kill at any instant: what is on disk is the newest whole checkpoint."""
    undisturbed = make(tiny)
    run(undisturbed, tmp_path / "whole")
    for step in range(1, ITERATIONS):
        folder = tmp_path / str(step)
        with pytest.raises(Stopped):
            run(make(tiny), folder, stop=after(step), cadence=Always())
        newest = max(folder.glob("step-*.json"))
        newest.write_bytes(newest.read_bytes()[:100])  # damaged: the one before must serve
        resumed = make(tiny)
        run(resumed, folder)
        assert_same_state(resumed, undisturbed)


def test_progress_counts_up_and_says_what_is_safe(tiny: Dataset, tmp_path: Path) -> None:
    reports: list[Progress] = []
    run(make(tiny), tmp_path, reports=reports, cadence=Always())
    assert [report.step for report in reports] == list(range(ITERATIONS + 1))
    assert {report.total for report in reports} == {ITERATIONS}
    assert {report.phase for report in reports} == {"distilling"}
    assert [report.checkpoint_step for report in reports] == [None, *range(1, ITERATIONS + 1)]
    assert reports[0].eta_seconds is None
    assert reports[-1].eta_seconds == 0
    assert all(report.scalars["images_per_second"] > 0 for report in reports[1:])


def test_a_stop_writes_a_checkpoint_first(tiny: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="after 4 of 9"):
        run(make(tiny), tmp_path, stop=after(4))
    found = Checkpoints(tmp_path).newest()
    assert found is not None
    assert found.step == 4


def test_a_finished_run_is_not_run_again(tiny: Dataset, tmp_path: Path) -> None:
    first = run(make(tiny), tmp_path)
    reports: list[Progress] = []
    second = run(make(tiny), tmp_path, reports=reports)
    assert torch.equal(first.synthetic.images, second.synthetic.images)
    assert [report.step for report in reports] == [ITERATIONS]


def test_resuming_elsewhere_is_said(tiny: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(make(tiny), tmp_path, stop=after(2))
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.newest()
    assert found is not None
    assert found.circumstances["plan"]["compiled"] is False
    checkpoints.save(found.step, found.state, {**found.circumstances, "threads": 64})
    reports: list[Progress] = []
    got = run(make(tiny), tmp_path, reports=reports)
    assert any("threads was 64 before" in note for note in got.resumed)
    assert reports[0].scalars == {"resumed_at": 2.0, "circumstances_changed": 1.0}


def mean_of(synthetic: SyntheticSet, step: int) -> float:
    """Best at step 4 by construction."""
    return -abs(step - 4) + 0 * synthetic.images.mean().item()


def test_the_best_judged_iterate_is_returned(tiny: Dataset, tmp_path: Path) -> None:
    evaluation = Evaluation(mean_of, interval=4)
    got = run(make(tiny), tmp_path / "judged", evaluation=evaluation)
    assert dict(got.scores) == {4: 0.0, 8: -4.0}
    assert got.step == 4
    until = make(tiny)
    for _ in range(4):
        until.step()
    assert torch.equal(got.synthetic.images, until.synthetic_set().images)
    whole = make(tiny)
    run(whole, tmp_path / "whole")
    assert got.last is not None
    assert torch.equal(got.last.images, whole.images)

    with pytest.raises(Stopped):
        run(make(tiny), tmp_path / "stopped", evaluation=evaluation, stop=after(6))
    resumed = run(make(tiny), tmp_path / "resumed", tmp_path / "stopped", evaluation=evaluation)
    assert resumed.scores == got.scores
    assert torch.equal(resumed.synthetic.images, got.synthetic.images)


class Learner:
    """Of a rate and of soft labels, both of which say the iteration."""

    iterations = 6

    def __init__(self) -> None:
        self.made = 0

    def step(self) -> dict[str, float]:
        self.made += 1
        return {"images": 1.0}

    def state_dict(self) -> dict[str, Any]:
        return {"learner": {"made": self.made}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.made = state["learner"]["made"]

    def synthetic_set(self) -> SyntheticSet:
        soft = torch.full((2, 2), 1.0 - self.made / 10)
        soft[:, 1] = self.made / 10
        return SyntheticSet(
            images=torch.full((2, 1, 4, 4), float(self.made)),
            labels=torch.arange(2),
            factor=1,
            dataset="tiny",
            classes=2,
            ipc=1,
            space=Normalised.of((0.5,), (0.2,)),
            augmentation="none",
            learning_rate=self.made / 100,
            method="learner",
            soft_labels=soft,
        )


def test_the_best_iterate_keeps_the_rate_and_labels_that_it_was_judged_with(
    tmp_path: Path,
) -> None:
    evaluation = Evaluation(mean_of, interval=2)  # best at 4
    whole = run(Learner(), tmp_path / "whole", evaluation=evaluation)
    with pytest.raises(Stopped):
        run(Learner(), tmp_path / "stopped", evaluation=evaluation, stop=after(5))
    resumed = run(Learner(), tmp_path / "on", tmp_path / "stopped", evaluation=evaluation)
    for got in (whole, resumed):
        assert got.step == 4
        assert float(got.synthetic.images.max()) == 4
        assert got.synthetic.learning_rate == 0.04
        assert got.synthetic.soft_labels is not None
        assert got.synthetic.soft_labels[:, 1].tolist() == pytest.approx([0.4, 0.4])
        assert got.last is not None
        assert got.last.learning_rate == 0.06


def test_checkpoints_that_hold_the_best_images_alone_are_still_read(tmp_path: Path) -> None:
    evaluation = Evaluation(mean_of, interval=2)
    with pytest.raises(Stopped):
        run(Learner(), tmp_path / "stopped", evaluation=evaluation, stop=after(5))
    checkpoints = Checkpoints(tmp_path / "stopped")
    found = checkpoints.newest()
    assert found is not None
    state = {**found.state, "engine/best": found.state["engine/best"]["images"]}
    checkpoints.save(found.step, state, found.circumstances)
    got = run(Learner(), tmp_path / "on", tmp_path / "stopped", evaluation=evaluation)
    assert (got.step, float(got.synthetic.images.max())) == (4, 4)


def test_of_equal_iterates_the_first_is_returned(tiny: Dataset, tmp_path: Path) -> None:
    got = run(make(tiny), tmp_path, evaluation=Evaluation(lambda _, step: 0.5, interval=2))
    assert dict(got.scores) == {2: 0.5, 4: 0.5, 6: 0.5, 8: 0.5}
    assert got.step == 2


def test_the_last_iterate_is_judged_where_it_falls_on_the_interval(
    tiny: Dataset, tmp_path: Path
) -> None:
    got = run(make(tiny, iterations=8), tmp_path, evaluation=Evaluation(lambda _, s: s, interval=4))
    assert sorted(got.scores) == [4, 8]
    assert got.step == 8
    assert got.last is None


def test_only_touched_networks_are_written_again(tiny: Dataset, tmp_path: Path) -> None:
    method = make(tiny, net_begin=6, net_num=7, net_generate_interval=100)
    checkpoints = Checkpoints(tmp_path)
    method.step()
    checkpoints.save(1, method.state_dict())
    before = {path.name for path in (tmp_path / "chunks").iterdir()}
    method.step()
    checkpoints.save(2, method.state_dict())
    added = {path.name for path in (tmp_path / "chunks").iterdir()} - before
    # Two networks learned; the iteration and the images moved; the batched step has no velocity.
    assert len(added) == 2 + 2


def test_a_stop_while_judging_leaves_a_checkpoint_too(tiny: Dataset, tmp_path: Path) -> None:
    halfway: dict[str, float] = {}

    def interrupted(synthetic: SyntheticSet, step: int) -> float:
        halfway["first student"] = 0.25
        raise Stopped("stopped while judging")

    with pytest.raises(Stopped, match="judging"):
        run(make(tiny), tmp_path, evaluation=Evaluation(interrupted, 4, halfway))
    found = Checkpoints(tmp_path).newest()
    assert found is not None
    assert found.step == 4

    judged: list[tuple[int, dict[str, float]]] = []
    finished: dict[str, float] = {}

    def score(synthetic: SyntheticSet, step: int) -> float:
        judged.append((step, dict(finished)))
        return float(step)

    got = run(make(tiny), tmp_path, evaluation=Evaluation(score, 4, finished))
    assert judged == [(4, {"first student": 0.25}), (8, {})]
    assert got.step == 8
