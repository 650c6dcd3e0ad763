"""The order of an evaluation's work, and that it ends alike however often it is interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_core import costs
from rome_core.data import Dataset
from rome_core.distillation.checkpoints import Cadence, Checkpoints
from rome_core.errors import CoreError
from rome_core.evaluation import evaluation as module
from rome_core.evaluation import probes, work
from rome_core.evaluation.evaluation import Evaluated, Evaluation, work_of
from rome_core.evaluation.outcomes import write_parquet
from rome_core.evaluation.reporting import outcome_tables, protocol_reports
from rome_core.evaluation.robustness import face
from rome_core.evaluation.students import TrainingSet
from rome_core.evaluation.subjects import Subject
from rome_core.passes import Plan
from rome_core.progress import Progress, Report, Stopped
from rome_core.recipes.evaluate import EvaluateSpec, resolved
from rome_core.recipes.protocols import PROTOCOLS
from tests.rome_core.evaluation.conftest import PLAN, bound, digits, subject, trained

OVERRIDES = {
    "pgd": {"steps": 2},
    "autoattack": {"steps": 1, "queries": 3},
    "square": {"queries": 4},
    "cw": {"steps": 3},
}
MODELS: dict[str, Any] = {
    "models": [{"file": "a"}],
    "dataset": "digits",
    "protocols": ["quick@1"],
    "attacks": ["pgd", "autoattack"],
    "modes": ["untargeted"],
    "overrides": OVERRIDES,
    "limit": 3,
    "seed": 9,
}
SET: dict[str, Any] = {
    "artifact": "art_1",
    "protocols": ["rome-2025@1", "quick@1"],
    "attacks": ["pgd"],
    "modes": ["untargeted"],
    "overrides": OVERRIDES,
    "students": {"count": 2, "network": "convnet-d1-w4", "epochs": 1},
    "limit": 3,
    "probes": False,
}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images a block, few probes, and no sign of life by the clock: as many polls each run."""
    monkeypatch.setattr(module, "block_size", lambda entry, device: 2)
    monkeypatch.setattr(work, "PULSE_SECONDS", float("inf"))
    monkeypatch.setattr(probes, "CURVE", ("0", "8/255"))
    monkeypatch.setattr(probes, "CURVE_STEPS", 1)
    monkeypatch.setattr(probes, "LONGER", 2)
    monkeypatch.setattr(
        probes, "UNBOUNDED", probes.UNBOUNDED.model_copy(update={"steps": 2, "step": "1"})
    )


def training() -> TrainingSet:
    data = digits()
    x, y = data.train_images[:20], data.train_labels[:20]
    return TrainingSet(data.normalise(x), y, 10, "none", data.space)


def evaluation(
    body: dict[str, Any],
    subjects: TrainingSet | Sequence[Subject] | None = None,
    *,
    plan: Plan = PLAN,
    data: Dataset | None = None,
) -> Evaluation:
    data = data or digits(10 if "artifact" in body else 4)
    if subjects is None:
        subjects = training() if "artifact" in body else [subject("a", classes=4)]
    return Evaluation(subjects, data, EvaluateSpec(**body), space=data.space, plan=plan)


def silent(progress: Progress) -> None:
    """Nobody listens."""


class Polls:
    """Asks to stop from the n-th poll on, or goes wrong there."""

    def __init__(self, until: float = float("inf"), error: Exception | None = None) -> None:
        self.count, self.until, self.error = 0, until, error

    def __call__(self) -> bool:
        self.count += 1
        if self.count < self.until:
            return False
        if self.error is not None:
            raise self.error
        return True


def run(
    made: Evaluation,
    folder: Path,
    *,
    earlier: Sequence[Path] = (),
    report: Report = silent,
    should_stop: Callable[[], bool] | None = None,
    identity: str = "one run",
) -> Evaluated:
    return made.run(
        checkpoints=Checkpoints(folder, earlier, identity={"spec": identity}),
        report=report,
        should_stop=should_stop or Polls(),
    )


def told(done: Evaluated, folder: Path) -> dict[str, Any]:
    """Everything that comes of an evaluation, but how long it took and was interrupted."""
    write_parquet(list(outcome_tables(done)), folder / "outcomes.parquet")
    reports = [
        report.model_dump(mode="json") for report in protocol_reports(done, seed=1, students=False)
    ]
    return {
        "reports": json.dumps(reports),
        "outcomes": (folder / "outcomes.parquet").read_bytes(),
        "evidence": json.dumps(dict(done.evidence)),
        "samples": {
            name: [
                sample.measure,
                *(
                    tensor.numpy().tobytes()
                    for tensor in vars(sample).values()
                    if isinstance(tensor, torch.Tensor)
                ),
            ]
            for name, sample in done.samples.items()
        },
        "train_accuracy": done.train_accuracy,
        "weights": [
            {name: value.numpy().tobytes() for name, value in s.network.state_dict().items()}
            for s in done.subjects
        ],
    }


@pytest.mark.parametrize("body", [MODELS, SET], ids=["models", "set"])
def test_stopped_at_any_poll_it_goes_on_and_ends_alike(
    body: dict[str, Any], tmp_path: Path
) -> None:
    """Between epochs and blocks, within a block, in every stage of AutoAttack, while probing."""
    counted = Polls()
    expected = told(run(evaluation(body), tmp_path / "whole", should_stop=counted), tmp_path)
    assert counted.count > 25
    for until in range(1, counted.count + 1):
        first, second = tmp_path / f"{until}" / "first", tmp_path / f"{until}" / "second"
        with pytest.raises(Stopped):
            run(evaluation(body), first, should_stop=Polls(until))
        resumed = run(evaluation(body), second, earlier=[first])
        assert told(resumed, tmp_path) == expected, f"stopped at poll {until} of {counted.count}"
        assert resumed.notes[0].startswith("resumed after")


def test_stopped_again_and_again_it_ends_alike(tmp_path: Path) -> None:
    """Each attempt gets a little farther: its polls are enough for the longest stage."""
    expected = told(run(evaluation(MODELS), tmp_path / "whole"), tmp_path)
    attempts: list[Path] = []
    while True:
        attempts.insert(0, tmp_path / f"{len(attempts)}")
        try:
            done = run(evaluation(MODELS), attempts[0], earlier=attempts[1:], should_stop=Polls(18))
        except Stopped:
            assert len(attempts) < 20
            continue
        break
    assert len(attempts) > 2
    assert told(done, tmp_path) == expected


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("until", [4, 8, 14, 20, 26, 32])
def test_it_goes_on_with_blocks_of_another_size(
    until: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another device: no image is passed over, and none attacked twice."""
    expected = discrete(run(evaluation(MODELS), tmp_path / "whole"))
    with pytest.raises(Stopped):
        run(evaluation(MODELS), tmp_path / "a", should_stop=Polls(until))
    monkeypatch.setattr(module, "block_size", lambda entry, device: size)
    done = run(evaluation(MODELS), tmp_path / "b", earlier=[tmp_path / "a"])
    assert discrete(done) == expected


@pytest.mark.parametrize("kept", [True, False], ids=["checkpoints", "no checkpoint"])
@pytest.mark.parametrize("at", [4, 9, 15, 21, 33])
def test_a_crash_costs_what_was_done_since_the_last_checkpoint(
    kept: bool, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = told(run(evaluation(MODELS), tmp_path / "whole"), tmp_path)
    if kept:  # at every tick, and at every pulse: also in the middle of a stage
        monkeypatch.setattr(work, "Cadence", lambda: Cadence(share=float("inf"), minimum=0))
        monkeypatch.setattr(work, "PULSE_SECONDS", 0)
    with pytest.raises(RuntimeError, match="crash"):
        run(evaluation(MODELS), tmp_path / "a", should_stop=Polls(at, RuntimeError("crash")))
    assert (tmp_path / "a").exists() is kept
    done = run(evaluation(MODELS), tmp_path / "b", earlier=[tmp_path / "a"])
    assert told(done, tmp_path) == expected
    assert bool(done.notes) is kept


def test_a_checkpoint_of_another_run_is_passed_over(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(evaluation(MODELS), tmp_path / "a", should_stop=Polls(12), identity="another")
    done = run(evaluation(MODELS), tmp_path / "b", earlier=[tmp_path / "a"])
    (note,) = done.notes
    assert note.startswith("passed over a checkpoint")
    assert "another run: spec differed" in note
    assert told(done, tmp_path) == told(run(evaluation(MODELS), tmp_path / "c"), tmp_path)


def test_a_resumed_run_says_what_was_different_before(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(evaluation(MODELS), tmp_path / "a", should_stop=Polls(12))
    other = evaluation(MODELS, plan=replace(PLAN, chunk_bytes=1))
    notes = run(other, tmp_path / "b", earlier=[tmp_path / "a"]).notes
    assert notes[0].startswith("resumed after")
    assert notes[1].startswith("plan was")


def test_progress_goes_up_phase_by_phase(tmp_path: Path) -> None:
    seen: list[Progress] = []
    done = run(evaluation({**SET, "probes": True}), tmp_path, report=seen.append)
    for each in done.evidence.values():  # of one student: they are alike
        assert [one["subject"] for one in each] == ["student 0"]
        assert [one["attack"] for one in each[0]["converged"]] == ["pgd"]
    assert list(dict.fromkeys(p.phase for p in seen)) == [
        "training students",
        "attacking",
        "probing",
    ]
    # Two students of two epochs. Two protocols on three images, clean and pgd, one with the clamp.
    totals = {"training students": 4, "attacking": 2 * 3 * (3 + 2), "probing": 2}
    for phase, total in totals.items():
        own = [p for p in seen if p.phase == phase]
        assert {p.total for p in own} == {total}
        assert [p.step for p in own] == sorted(p.step for p in own)
        assert own[-1].step == total
        assert all(p.eta_seconds is None or p.eta_seconds >= 0 for p in own)
        assert own[-1].eta_seconds in (0, None)
    epochs = [p.scalars for p in seen if p.phase == "training students"]
    assert [scalars["student"] for scalars in epochs] == [0, 0, 1, 1]


def test_a_long_attack_gives_signs_of_life_and_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "PULSE_SECONDS", 0)
    seen: list[Progress] = []
    run(evaluation(MODELS), tmp_path, report=seen.append)
    steps = [p.step for p in seen if p.phase == "attacking"]
    assert max(steps.count(step) for step in steps) > 5  # more than the ticks at a block's end
    assert steps == sorted(steps)


def test_everything_asked_is_measured_on_every_subject(tmp_path: Path) -> None:
    body = {**MODELS, "models": [{"file": "a"}, {"file": "b"}], "protocols": ["quick@1", "pixel@1"]}
    models = [subject("a", 1, 4), subject("b", 2, 4)]
    done = run(evaluation(body, models), tmp_path)
    assert done.subjects == tuple(models)
    assert done.train_accuracy == ()
    assert done.test_images_of == len(digits(4).test_images)
    names = ["clean", "pgd/untargeted", "autoattack/untargeted"]
    assert list(done.measurements) == [(p, n) for p in ("quick@1", "pixel@1") for n in names]
    for part in done.parts:
        assert len(part.test) == 3
        for what in part.measures:
            own = done.measurements[part.protocol.id, what.name]
            assert [one.measure for one in own] == [what, what]
            for model, one in zip(models, own, strict=True):
                alone = face(
                    bound(model.network),
                    part.test,
                    part.protocol,
                    part.protocol.entry(what.attack),
                    what.mode,
                    seed=9,
                ).faced
                assert torch.equal(one.faced.prediction, alone.prediction)
                assert torch.equal(one.faced.queries, alone.queries)
    assert set(done.evidence) == {"quick@1", "pixel@1"}
    for each in done.evidence.values():
        assert [one["subject"] for one in each] == ["a", "b"]
        assert each[0]["curve"] != each[1]["curve"]
        assert all(one["converged"] == [] for one in each)  # AutoAttack ran in that ball


def test_without_probes_there_is_no_evidence(tmp_path: Path) -> None:
    assert run(evaluation({**MODELS, "probes": False}), tmp_path).evidence == {}


def test_samples_are_the_first_images_as_they_were_attacked(tmp_path: Path) -> None:
    body = {**MODELS, "protocols": ["quick@1", "rome-2025@1"]}
    done = run(evaluation(body), tmp_path)
    mean, std = digits().mean.float(), digits().std.float()
    for part in done.parts:
        sample = done.samples[part.protocol.id]
        first = part.test.part(slice(0, 2))  # of the first block
        assert sample.measure.name == "pgd/untargeted"
        assert torch.equal(sample.clean, first.pixels)
        assert torch.equal(sample.labels, first.labels)
        block = face(
            bound(trained(classes=4)),
            first,
            part.protocol,
            part.protocol.entry("pgd"),
            "untargeted",
            seed=9,
        )
        images = block.images
        if part.protocol.name == "rome-2025":
            images = (images * std + mean).clamp(0, 1)
        torch.testing.assert_close(sample.adversarial, images)
        assert torch.equal(sample.prediction, block.faced.prediction)
        seen = trained(classes=4)((first.pixels - mean) / std).argmax(dim=1)
        assert torch.equal(sample.clean_prediction, seen)


def discrete(done: Evaluated) -> dict[str, Any]:
    return {
        f"{protocol}/{name}/{number}/{column}": value.tolist()
        for (protocol, name), own in done.measurements.items()
        for number, one in enumerate(own)
        for column, value in one.faced.state_dict().items()
        if not value.is_floating_point()
    }


def test_numbers_depend_on_neither_blocks_nor_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {**MODELS, "attacks": ["pgd", "autoattack", "square"], "limit": 11}
    blocks = run(evaluation(body), tmp_path / "blocks")
    chunks = run(evaluation(body, plan=replace(PLAN, chunk_bytes=4096)), tmp_path / "chunks")
    monkeypatch.setattr(module, "block_size", lambda entry, device: 250)
    whole = run(evaluation(body), tmp_path / "whole")
    assert discrete(blocks) == discrete(chunks) == discrete(whole)
    reports = [
        [
            report.model_dump(
                include={"clean", "measures", "worst_case", "metrics", "query_curves"}
            )
            for report in protocol_reports(done, seed=1, students=False)
        ]
        for done in (blocks, chunks, whole)
    ]
    for report in reports:  # medians of distances are rounded differently
        for measure in report[0]["measures"].values():
            del measure["perturbation"]
    assert reports[0] == reports[1] == reports[2]


def test_test_images_are_all_or_some_in_the_order_of_the_file() -> None:
    data = digits()
    for limit in (None, len(data.test_images), 10**6):
        whole = module.test_set(data, limit, 3, data.space, "cpu")
        assert torch.equal(whole.numbers, torch.arange(len(data.test_images)))
        assert torch.equal(whole.pixels, data.test_images)
    some, again, other = (module.test_set(data, 20, seed, data.space, "cpu") for seed in (3, 3, 4))
    assert torch.equal(some.numbers, again.numbers)
    assert not torch.equal(some.numbers, other.numbers)
    assert some.numbers.tolist() == sorted(set(some.numbers.tolist()))
    assert torch.equal(some.pixels, data.test_images[some.numbers])
    assert torch.equal(some.labels, data.test_labels[some.numbers])
    assert (some.space, some.classes) == (data.space, 10)


def test_a_limit_overrules_the_protocols_own(tmp_path: Path) -> None:
    quick = PROTOCOLS["quick@1"]
    assert quick.images is not None
    (part,) = evaluation({**MODELS, "limit": None}).parts
    assert len(part.test) == min(quick.images, len(digits().test_images))
    (part,) = evaluation({**MODELS, "limit": 7}).parts
    assert len(part.test) == 7


def test_targets_that_are_no_class_are_refused_before_any_work() -> None:
    body = {**MODELS, "protocols": ["rome-2025@1"], "modes": ["targeted", "untargeted"]}
    with pytest.raises(CoreError) as caught:
        evaluation(body, data=digits(3))
    assert (caught.value.code, caught.value.field) == ("target_out_of_range", "modes")
    assert "rome-2025@1" in caught.value.detail
    evaluation({**body, "modes": ["untargeted"]}, data=digits(3))
    evaluation({**body, "protocols": ["quick@1"]}, data=digits(3))


def test_work_is_what_every_attack_makes_on_every_subject() -> None:
    both = {**SET, "modes": ["targeted", "untargeted"]}
    spec = EvaluateSpec(**{**both, "limit": 7})
    quick, published = (resolved(name, spec) for name in ("quick@1", "rome-2025@1"))
    passes = [costs.expected(p.entry("pgd").settings, 10) for p in (quick, published)]
    # clean in both, the clamp in one, and pgd twice in each
    assert work_of(spec, 2, 10, 1000) == 7 * 2 * (3 + 2 * sum(passes))
    without = EvaluateSpec(**{**both, "limit": None, "protocols": ["quick@1"]})
    assert work_of(without, 1, 10, 100) == 100 * (1 + 2 * passes[0])
    assert work_of(without, 1, 10, 10**6) == 500 * (1 + 2 * passes[0])
