"""Which figures a report has, and that what is drawn is what the report says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from rome_core.distillation.checkpoints import Checkpoints
from rome_core.evaluation import drawings, figures
from rome_core.evaluation.drawings import draw, draw_transfer
from rome_core.evaluation.evaluation import Evaluated, Evaluation
from rome_core.evaluation.figures import (
    AttackBars,
    EpsilonCurves,
    QueryCurves,
    SampleGrid,
    Score,
    TransferMatrix,
)
from rome_core.evaluation.reporting import protocol_reports
from rome_core.recipes.attacks import MODES
from rome_core.recipes.evaluate import EvaluateSpec, Students
from rome_core.recipes.report import (
    EvaluationReport,
    ProtocolReport,
    SetReport,
    Share,
    SubjectReport,
    TransferReport,
)
from tests.rome_core.evaluation.conftest import NETWORK, PLAN, digits, subject

ATTACKS = ["fgsm", "pgd", "square", "autoattack"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    spec = EvaluateSpec(
        models=[{"file": "a"}, {"file": "b"}],
        dataset="digits",
        protocols=["quick@1", "rome-2025@1"],
        attacks=ATTACKS,
        overrides={
            "pgd": {"steps": 2, "epsilon": "24/255"},
            "square": {"queries": 30, "epsilon": "24/255"},
            "autoattack": {"steps": 1, "queries": 2},
        },
        limit=20,
    )
    models = [subject("a", 1), subject("b", 2)]
    made = Evaluation(models, digits(), spec, space=digits().space, plan=PLAN)
    return made.run(
        checkpoints=Checkpoints(tmp_path_factory.mktemp("work")),
        report=lambda progress: None,
        should_stop=lambda: False,
    )


def report(done: Evaluated, **changes: Any) -> EvaluationReport:
    names = [subject.name for subject in done.subjects]
    told: dict[str, Any] = {
        "dataset": "digits",
        "data": {},
        "test_images_of": done.test_images_of,
        "subjects": [
            SubjectReport(name=name, network=NETWORK, digest=None, assumed=[]) for name in names
        ],
        "set": None,
        "protocols": protocol_reports(done, seed=1, students=True),
        "seed": 1,
    }
    return EvaluationReport(**{**told, **changes})


def drawn(done: Evaluated, **changes: Any) -> dict[str, Any]:
    """What is handed to each figure, by its name."""
    data = {}
    for name, make in drawings.drawings(report(done, **changes), done):
        (data[name],) = make.args  # type: ignore[attr-defined]  # a partial of one argument
    return data


def test_every_protocol_has_its_figures(done: Evaluated) -> None:
    assert list(drawn(done)) == [
        stem
        for protocol in ("quick", "rome-2025")
        for stem in (
            f"attacks-{protocol}",
            f"epsilon-{protocol}",
            f"queries-{protocol}-square-targeted",
            f"queries-{protocol}-square-untargeted",
            f"samples-{protocol}",
        )
    ]


def told(done: Evaluated, name: str) -> ProtocolReport:
    return next(one for one in report(done).protocols if one.id.startswith(name))


def check(score: Score | None, share: Share | None) -> None:
    assert score is not None
    assert share is not None
    assert share.interval is not None
    assert score.accuracy == share.mean
    assert score.low == min(share.interval[0], share.mean)
    assert score.high == max(share.interval[1], share.mean)


@pytest.mark.parametrize("name", ["quick", "rome-2025"])
def test_bars_are_the_reports_accuracies(done: Evaluated, name: str) -> None:
    bars: AttackBars = drawn(done)[f"attacks-{name}"]
    one = told(done, name)
    assert bars.protocol == f"{one.id} (changed)"
    assert bars.subject == "a, b on Optical recognition of handwritten digits"
    check(bars.clean, one.clean)
    first = ["clamp"] if name == "rome-2025" else []
    assert {mode: list(scores) for mode, scores in bars.attacks.items()} == {
        "targeted": [*first, "fgsm", "pgd", "square"],
        "untargeted": [*first, *sorted(ATTACKS, key=list(one.settings).index)],
    }
    for mode, scores in bars.attacks.items():
        for attack, score in scores.items():
            measure = attack if attack == "clamp" else f"{attack}/{mode}"
            check(score, one.measures[measure].accuracy)
        check(bars.worst[mode], one.worst_by_mode[mode])
    assert list(bars.worst) == list(MODES)


def test_curves_are_the_reports(done: Evaluated) -> None:
    for name in ("quick", "rome-2025"):
        one, data = told(done, name), drawn(done)
        epsilons: EpsilonCurves = data[f"epsilon-{name}"]
        (curve,) = epsilons.curves
        assert one.curve is not None
        assert curve.name == "a"  # the first subject, which was probed
        assert list(curve.x) == [Fraction(text) for text, _ in one.curve]
        assert [score.accuracy for score in curve.scores] == [accuracy for _, accuracy in one.curve]
        queries: QueryCurves = data[f"queries-{name}-square-untargeted"]
        (curve,) = queries.curves
        points = one.query_curves["square/untargeted"][1:]
        assert list(curve.x) == [query for query, _ in points]
        assert [score.accuracy for score in curve.scores] == [left for _, left in points]


def test_samples_are_named_by_class(done: Evaluated) -> None:
    for name in ("quick", "rome-2025"):
        grid: SampleGrid = drawn(done)[f"samples-{name}"]
        sample = done.samples[f"{name}@1"]
        assert (grid.subject, grid.attack) == ("a", "pgd/untargeted")
        assert len(grid.samples) == len(sample.labels) == 8
        for place, one in enumerate(grid.samples):
            assert torch.equal(one.clean, sample.clean[place])
            assert torch.equal(one.adversarial, sample.adversarial[place])
            assert one.label == str(int(sample.labels[place]))
            assert one.clean_prediction == str(int(sample.clean_prediction[place]))
            assert one.adversarial_prediction == str(int(sample.prediction[place]))


def test_the_subject_is_told_in_few_words(done: Evaluated) -> None:
    many = [
        SubjectReport(name=f"m{number}", network=NETWORK, digest=None, assumed=[])
        for number in range(5)
    ]
    bars: AttackBars = drawn(done, subjects=many)["attacks-quick"]
    assert bars.subject == "5 models on Optical recognition of handwritten digits"
    made = SetReport(
        artifact="art_1",
        digest="",
        method="rome",
        ipc=10,
        factor=2,
        training_images=400,
        augmentation="none",
        students=Students(),
        train_accuracy=Share.of([1.0]),
    )
    bars = drawn(done, set=made, dataset="npz:mine")["attacks-quick"]
    assert bars.subject == "rome, npz:mine, 10 images per class, 2 students"


def test_what_was_not_measured_is_not_drawn(done: Evaluated) -> None:
    whole = report(done)
    few = [
        one.model_copy(update={"curve": None, "query_curves": {}, "measures": {}})
        for one in whole.protocols
    ]
    without = replace(done, samples={})
    assert list(drawn(without, protocols=few)) == []


def test_figures_are_written_twice_and_alike(
    done: Evaluated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every figure can be made; the bytes are `figures`'s, here those of one."""
    made: list[Callable[[], Figure]] = [make for _, make in drawings.drawings(report(done), done)]
    assert all(isinstance(make(), Figure) for make in made)
    first = drawings.drawings(report(done), done)[:1]
    monkeypatch.setattr(drawings, "drawings", lambda *given: first)
    paths = list(draw(report(done), done, tmp_path / "1"))
    assert [path.name for path in paths] == ["attacks-quick.svg", "attacks-quick.png"]
    again = list(draw(report(done), done, tmp_path / "2"))
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def transferred() -> TransferReport:
    """What is drawn of a report, and nothing else."""
    return TransferReport.model_construct(
        dataset="digits",
        protocol="quick@1",
        overridden=["pgd.steps"],
        sources=["a", "b"],
        targets=["b", "c", "d"],
        accuracy={"pgd/targeted": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]},
        i_rr={"targeted": [[103.5, 50.0, None], [-20.0, 0.0, 100.0]]},
    )


def test_heat_maps_are_the_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows craft, columns are looked at; relative ones may lie outside of 0 to 100, or nowhere."""
    seen: list[TransferMatrix] = []
    make = figures.transfer_heat_map

    def spy(matrix: TransferMatrix) -> Figure:
        seen.append(matrix)
        return make(matrix)

    monkeypatch.setattr(figures, "transfer_heat_map", spy)
    paths = list(draw_transfer(transferred(), tmp_path))
    assert [path.name for path in paths] == [
        f"heatmap-{stem}.{suffix}"
        for stem in ("i-rr-targeted", "pgd-targeted")
        for suffix in ("svg", "png")
    ]
    i_rr, accuracy = seen
    for matrix in seen:
        assert (matrix.sources, matrix.targets) == (["a", "b"], ["b", "c", "d"])
        assert matrix.protocol == "quick@1 (changed)"
        assert matrix.subject == "Optical recognition of handwritten digits"
    assert (i_rr.quantity, accuracy.quantity) == ("I-RR, targeted", "accuracy under pgd/targeted")
    torch.testing.assert_close(
        i_rr.values, torch.tensor([[1.035, 0.5, torch.nan], [-0.2, 0, 1]]), equal_nan=True
    )
    torch.testing.assert_close(accuracy.values, torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]))
