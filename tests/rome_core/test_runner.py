"""Running specs end to end: files, resume, cancellation, errors, equal bytes."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rome_core import beard_log, recipes, runner, synthetic, weights
from rome_core.distillation.engine import Evaluation
from rome_core.errors import CoreError
from rome_core.evaluation.outcomes import read_parquet
from rome_core.evaluation.statistics import wilson
from rome_core.metrics.logs import Entry
from rome_core.networks import build
from rome_core.progress import Progress, Stopped
from rome_core.randomness import generator
from rome_core.recipes.attacks import MODES
from rome_core.recipes.protocols import PROTOCOLS, overridden
from rome_core.recipes.report import EvaluationReport, TransferReport
from rome_core.runner import Context, Outcome
from tests.rome_core.evaluation.conftest import trained

SEED = 11
RANDOM = {"method": "random", "dataset": "npz:tiny", "ipc": 2}
ROME: dict[str, Any] = {
    "method": "rome",
    "dataset": "npz:tiny",
    "ipc": 1,
    "hyperparameters": {
        "iterations": 6,
        "network": "convnet-d1-w4",
        "batch_real": 4,
        "batch_train": 4,
        "net_begin": 1,
        "net_num": 3,
        "net_generate_interval": 2,
        "model_train_steps": 1,
        "pgd_steps": 2,
        "compile": "off",
    },
}
EVALUATE: dict[str, Any] = {
    "kind": "evaluate",
    "artifact": "art_1",
    "students": {"count": 2, "network": "convnet-d1-w4", "epochs": 4},
    "protocols": ["rome-2025", "quick"],
    "attacks": ["fgsm", "pgd", "square"],
    "modes": ["untargeted"],
    "overrides": {"pgd": {"steps": 2}, "square": {"queries": 5}},
    "limit": 5,
    "probes": False,
}
MODELS: dict[str, Any] = {
    "kind": "evaluate",
    "models": [{"file": "one"}, {"artifact": "art_2", "name": "two"}],
    "dataset": "npz:tiny",
    "protocols": ["quick"],
    "attacks": ["pgd", "autoattack"],
    "overrides": {"pgd": {"steps": 2}, "autoattack": {"steps": 1, "queries": 3}},
    "limit": 5,
    "probes": False,
}
TRANSFER: dict[str, Any] = {
    "kind": "transfer",
    "sources": [{"file": "one"}, {"artifact": "art_2", "name": "two"}],
    "dataset": "npz:tiny",
    "protocol": "quick",
    "attacks": ["fgsm", "pgd"],
    "overrides": {"pgd": {"steps": 2}},
    "limit": 5,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with tiny.npz: 3 classes of 8x8 colour images."""
    folder = tmp_path / "data"
    folder.mkdir()
    draws = np.random.default_rng(0)
    np.savez(
        folder / "tiny.npz",
        images=draws.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8),
        labels=np.arange(60) % 3,
    )
    return folder


@pytest.fixture
def context(tmp_path: Path, root: Path) -> Context:
    return Context(workdir=tmp_path / "attempt-1", data_root=root)


def run(body: dict[str, Any], context: Context) -> Outcome:
    return runner.run(recipes.canonical(body, seed=SEED), context)


def failure(call: Callable[[], object]) -> CoreError:
    with pytest.raises(CoreError) as caught:
        call()
    return caught.value


def digests(outcome: Outcome) -> dict[str, str]:
    """Of all files but those that tell of the circumstances, or of seconds."""
    return {
        output.name: hashlib.sha256(output.path.read_bytes()).hexdigest()
        for output in outcome.outputs
        if output.kind not in ("provenance", "timings", "log")
    }


class StopAfter:
    """Asks to stop at the n-th poll."""

    def __init__(self, polls: int) -> None:
        self.left = polls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("body", [RANDOM, ROME])
def test_distilling_leaves_its_five_files(body: dict[str, Any], context: Context) -> None:
    outcome = run(body, context)
    assert [(output.name, output.kind) for output in outcome.outputs] == [
        ("synthetic.pt", "synthetic-set"),
        ("synthetic.safetensors", "synthetic-set"),
        ("preview.png", "preview"),
        ("card.md", "card"),
        ("provenance.json", "provenance"),
    ]
    for output in outcome.outputs:
        assert output.path == context.workdir / "results" / output.name
        assert output.path.stat().st_size > 0
    made = synthetic.load(outcome.outputs[0].path)
    assert (made.method, made.classes, made.ipc) == (body["method"], 3, body["ipc"])
    assert len(made.images) == 3 * body["ipc"]
    assert made.images.isfinite().all()
    json.dumps([dict(outcome.metrics), dict(outcome.provenance)], allow_nan=False)
    json.dumps([dict(output.metadata) for output in outcome.outputs], allow_nan=False)


def test_provenance_tells_how_to_repeat_it(context: Context) -> None:
    outcome = run(RANDOM, context)
    told = json.loads((context.results / "provenance.json").read_text())
    assert told == json.loads(json.dumps(dict(outcome.provenance)))
    assert told["spec_hash"] == recipes.spec_hash(told["spec"])
    assert told["seed"] == SEED
    assert len(told["dataset"]["files"]["tiny.npz"]) == 64
    assert told["versions"]["torch"] == torch.__version__
    assert len(told["code"]["source_sha256"]) == 64


def test_progress_goes_through_its_phases(context: Context) -> None:
    seen: list[Progress] = []
    run(ROME, replace(context, report=seen.append))
    phases = list(dict.fromkeys(progress.phase for progress in seen))
    assert phases == ["loading", "distilling", "saving"]
    for phase in phases:
        steps = [progress.step for progress in seen if progress.phase == phase]
        assert steps == sorted(steps)
        assert steps[-1] == next(p.total for p in seen if p.phase == phase)


@pytest.mark.parametrize("body", [RANDOM, ROME])
def test_equal_specs_give_equal_files(body: dict[str, Any], context: Context) -> None:
    one = digests(run(body, context))
    other = digests(run(body, replace(context, workdir=context.workdir.with_name("attempt-2"))))
    assert one == other


@pytest.mark.parametrize("polls", [0, 1, 4])
def test_a_stopped_run_goes_on_elsewhere_and_ends_alike(polls: int, context: Context) -> None:
    whole = run(ROME, replace(context, workdir=context.workdir.with_name("whole")))
    with pytest.raises(Stopped):
        run(ROME, replace(context, should_stop=StopAfter(polls)))
    assert not context.results.exists()
    second = Context(
        workdir=context.workdir.with_name("attempt-2"),
        data_root=context.data_root,
        earlier=(context.workdir,),
    )
    resumed = run(ROME, second)
    assert digests(resumed) == digests(whole)
    assert any("resumed" in note for note in resumed.provenance["notes"])


def other_images(root: Path) -> None:
    """Put other images of the same shape into tiny.npz."""
    with np.load(root / "tiny.npz") as arrays:
        np.savez(root / "tiny.npz", images=255 - arrays["images"], labels=arrays["labels"])


@pytest.mark.parametrize("change", ["data", "spec"])
def test_a_checkpoint_of_other_data_or_another_spec_is_passed_over(
    change: str, context: Context
) -> None:
    with pytest.raises(Stopped):
        run(ROME, replace(context, should_stop=StopAfter(3)))
    body = {**ROME, "seed": 1} if change == "spec" else ROME
    if change == "data":
        other_images(context.data_root)
    anew = run(body, replace(context, workdir=context.workdir.with_name("anew")))
    seen: list[Progress] = []
    second = Context(
        workdir=context.workdir.with_name("attempt-2"),
        data_root=context.data_root,
        earlier=(context.workdir,),
        report=seen.append,
    )
    outcome = run(body, second)
    assert digests(outcome) == digests(anew)
    assert not any("resumed_at" in progress.scalars for progress in seen)
    (note,) = outcome.provenance["notes"]
    assert note.startswith("passed over a checkpoint")
    assert f"another run: {change} differed" in note


@pytest.fixture
def artifact(context: Context) -> Path:
    outcome = run(RANDOM, replace(context, workdir=context.workdir.with_name("made")))
    return outcome.outputs[0].path


def evaluating(context: Context, artifact: Path) -> Context:
    return replace(context, inputs={"art_1": artifact})


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all the rest of a tiny evaluation."""
    monkeypatch.setattr("rome_core.evaluation.drawings.draw", lambda *given: iter(()))
    monkeypatch.setattr("rome_core.evaluation.drawings.draw_transfer", lambda *given: iter(()))


def report_of(outcome: Outcome) -> EvaluationReport:
    path = next(output.path for output in outcome.outputs if output.name == "evaluation.json")
    return EvaluationReport.model_validate_json(path.read_text())


def test_evaluating_leaves_report_students_table_logs_and_figures(
    context: Context, artifact: Path
) -> None:
    outcome = run({**EVALUATE, "probes": True}, evaluating(context, artifact))
    assert [(output.name, output.kind) for output in outcome.outputs] == [
        ("student-0.safetensors", "student-weights"),
        ("student-1.safetensors", "student-weights"),
        ("evaluation.json", "evaluation"),
        ("timings.json", "timings"),
        ("provenance.json", "provenance"),
        ("outcomes.parquet", "outcomes"),
        ("beard-rome-2025.log", "log"),
        ("beard-quick.log", "log"),
        *(
            (f"{stem}.{suffix}", "figure")
            for protocol in ("rome-2025", "quick")
            for stem in (
                f"attacks-{protocol}",
                f"epsilon-{protocol}",
                f"queries-{protocol}-square-untargeted",
                f"samples-{protocol}",
            )
            for suffix in ("svg", "png")
        ),
    ]
    for output in outcome.outputs:
        assert output.path == context.results / output.name
        assert output.path.stat().st_size > 0
    report = report_of(outcome)
    assert (report.dataset, report.test_images_of, report.seed) == ("npz:tiny", 12, SEED)
    assert [subject.name for subject in report.subjects] == ["student 0", "student 1"]
    assert report.set is not None
    assert (report.set.ipc, report.set.training_images) == (2, 6)
    assert report.set.train_accuracy.n == 2
    assert [protocol.id for protocol in report.protocols] == ["rome-2025@1", "quick@1"]
    for protocol in report.protocols:
        assert protocol.test_images == 5
        assert protocol.clean is not None
        assert protocol.clean.n == 2
        assert "pgd/untargeted" in protocol.measures
        assert protocol.overridden == ["pgd.steps", "square.queries"]
        assert protocol.curve is not None
    told = json.loads((context.results / "provenance.json").read_text())
    digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
    assert told["parents"] == {"art_1": f"sha256:{digest}"} == outcome.provenance["parents"]
    assert len(read_parquet(context.results / "outcomes.parquet")) == 2 * (5 + 4)
    timings = json.loads((context.results / "timings.json").read_text())
    assert set(timings["seconds"]) == {"rome-2025@1", "quick@1"}
    json.dumps([dict(outcome.metrics), dict(outcome.provenance)], allow_nan=False)


def test_the_numbers_worth_showing_bear_their_protocols_name(
    context: Context, artifact: Path, no_figures: None
) -> None:
    outcome = run({**EVALUATE, "overrides": {}, "attacks": ["fgsm"]}, evaluating(context, artifact))
    assert list(outcome.metrics) == [
        "rome-2025/clean",
        "rome-2025/clamp",
        "rome-2025/fgsm/untargeted",
        "rome-2025/worst/linf 8/255",
        "rome-2025/worst/all",
        "rome-2025/metrics/untargeted",
        "rome-2025/trust",
        "rome-2025/findings",
        *(f"quick/{name}" for name in ("clean", "fgsm/untargeted", "worst/linf 8/255")),
        *(f"quick/{name}" for name in ("worst/all", "metrics/untargeted", "trust", "findings")),
    ]
    _, quick = report_of(outcome).protocols
    assert quick.clean is not None
    assert outcome.metrics["quick/clean"]["mean"] == quick.clean.mean
    assert outcome.metrics["quick/clean"]["interval"] == quick.clean.interval
    overrides = {"fgsm": {"epsilon": "4/255"}}
    other = replace(evaluating(context, artifact), workdir=context.workdir / "changed")
    changed = run({**EVALUATE, "attacks": ["fgsm"], "overrides": overrides}, other)
    assert "quick (changed)/fgsm/untargeted" in changed.metrics
    assert not any(name.startswith("quick/") for name in changed.metrics)


@pytest.mark.parametrize("polls", [0, 3, 9, 12, 25])
def test_a_stopped_evaluation_goes_on_and_ends_alike(
    polls: int, context: Context, artifact: Path, no_figures: None
) -> None:
    """Ten epochs, then attacks: the stops fall into both."""
    context = evaluating(context, artifact)
    whole = run(EVALUATE, replace(context, workdir=context.workdir.with_name("whole")))
    with pytest.raises(Stopped):
        run(EVALUATE, replace(context, should_stop=StopAfter(polls)))
    second = replace(
        context, workdir=context.workdir.with_name("attempt-2"), earlier=(context.workdir,)
    )
    seen: list[Progress] = []
    resumed = run(EVALUATE, replace(second, report=seen.append))
    assert digests(resumed) == digests(whole)
    training = [progress.step for progress in seen if progress.phase == "training students"]
    assert training == list(range(min(polls, 9) + 2, 11))


def test_an_evaluation_goes_on_only_with_the_same_set_and_data(
    context: Context, artifact: Path, no_figures: None
) -> None:
    context = evaluating(context, artifact)
    with pytest.raises(Stopped):
        run(EVALUATE, replace(context, should_stop=StopAfter(3)))
    other_images(context.data_root)
    made = synthetic.load(artifact)
    synthetic.save_pt(replace(made, images=-made.images), artifact)
    second = replace(
        context, workdir=context.workdir.with_name("attempt-2"), earlier=(context.workdir,)
    )
    (note,) = run(EVALUATE, second).provenance["notes"]
    assert "another run: data, inputs differed" in note


def test_an_evaluation_resumed_elsewhere_says_so(
    context: Context, artifact: Path, no_figures: None
) -> None:
    context = evaluating(context, artifact)
    with pytest.raises(Stopped):
        run(EVALUATE, replace(context, should_stop=StopAfter(3), threads=1))
    second = replace(
        context,
        workdir=context.workdir.with_name("attempt-2"),
        earlier=(context.workdir,),
        threads=2,
    )
    notes = run(EVALUATE, second).provenance["notes"]
    assert notes[0] == "resumed after 4 units of work"
    assert any(note.startswith("threads was 1 before and is 2 now") for note in notes)
    assert any(note.startswith("plan was") for note in notes)


def test_the_same_seed_with_more_students_keeps_the_first_ones(
    context: Context, artifact: Path, no_figures: None
) -> None:
    context = evaluating(context, artifact)
    two = digests(run(EVALUATE, context))
    students = {**EVALUATE["students"], "count": 3}
    three = digests(
        run({**EVALUATE, "students": students}, replace(context, workdir=context.workdir / "b"))
    )
    assert three["student-0.safetensors"] == two["student-0.safetensors"]
    assert three["student-1.safetensors"] == two["student-1.safetensors"]


def test_only_what_was_asked_is_measured_and_clean_beside_it(
    context: Context, artifact: Path, no_figures: None
) -> None:
    body = {**EVALUATE, "attacks": ["pgd"], "protocols": ["quick"]}
    (only,) = report_of(run(body, evaluating(context, artifact))).protocols
    assert list(only.measures) == ["pgd/untargeted"]
    assert list(only.settings) == ["clean", "pgd"]
    assert only.clean is not None


@pytest.fixture
def models(context: Context) -> Context:
    """A context with two models of tiny's images: a file under the data root, and an artifact."""
    (context.data_root / "models").mkdir()
    paths = [context.data_root / "models" / "one.pth", context.data_root / "two"]
    for number, path in enumerate(paths):
        made = build(
            "convnet-d1-w4", channels=3, size=8, classes=3, generator=generator(number, "model")
        )
        if number == 0:
            torch.save(made.state_dict(), path)
        else:
            weights.save(made, path)
    return replace(context, inputs={"art_2": paths[1]})


def test_models_are_evaluated_under_their_names(models: Context, no_figures: None) -> None:
    outcome = run(MODELS, models)
    assert [(output.name, output.kind) for output in outcome.outputs] == [
        ("evaluation.json", "evaluation"),
        ("timings.json", "timings"),
        ("provenance.json", "provenance"),
        ("outcomes.parquet", "outcomes"),
        ("beard-quick-one.log", "log"),
        ("beard-quick-two.log", "log"),
    ]
    report = report_of(outcome)
    assert report.set is None
    one, two = report.subjects
    assert (one.name, one.network) == ("one", "convnet-d1-w4")
    assert one.assumed  # a bare state dict says less than a file of ours
    assert (two.name, two.assumed) == ("two", [])
    told = outcome.provenance["parents"]
    assert told == {"one": one.digest, "art_2": two.digest}
    assert one.digest != two.digest
    (only,) = report.protocols
    assert only.measures["autoattack/targeted"].not_applicable
    assert only.measures["pgd/targeted"].accuracy is not None
    assert only.measures["pgd/targeted"].accuracy.n == 2


def test_each_model_has_its_own_numbers_in_the_result(models: Context, no_figures: None) -> None:
    """The mean of models that have nothing to do with each other is nobody's accuracy."""
    outcome = run(MODELS, models)
    (only,) = report_of(outcome).protocols
    assert only.clean is not None
    share, told = only.clean, outcome.metrics["quick (changed)/clean"]
    assert (told["mean"], told["n"], told["interval"]) == (share.mean, 2, None)
    assert share.intervals is not None
    assert told["each"] == {
        name: [value, *interval]
        for name, value, interval in zip(("one", "two"), share.values, share.intervals, strict=True)
    }
    assert set(outcome.metrics["quick (changed)/worst/all"]["each"]) == {"one", "two"}
    alone = run(
        {**MODELS, "models": [{"file": "one"}]},
        replace(models, workdir=models.workdir.with_name("alone")),
    )
    assert "each" not in alone.metrics["quick (changed)/clean"]
    assert alone.metrics["quick (changed)/clean"]["interval"] == share.intervals[0]


def test_a_log_leaves_out_no_number_that_was_measured(models: Context, no_figures: None) -> None:
    """The toolkit ignores targeted numbers of DeepFool, by its name and whatever its case."""
    body = {**MODELS, "attacks": ["pgd", "deepfool", "autoattack"]}
    outcome = run(body, models)
    log = next(output.path for output in outcome.outputs if output.name == "beard-quick-one.log")
    entry = Entry.model_validate(beard_log.entry(beard_log.parse(log.read_text())))
    counted = {
        mode: {row.name for row in entry.attacks if row.cell(mode).accuracy is not None}
        for mode in MODES
    }
    aimed = {"pgd", "deepfool_targetable"}
    assert counted == {"targeted": aimed, "untargeted": {*aimed, "AutoAttack"}}
    published = {**body, "protocols": ["rome-2025"], "modes": ["untargeted"], "overrides": {}}
    again = run(published, replace(models, workdir=models.workdir.with_name("published")))
    log = next(o.path for o in again.outputs if o.name == "beard-rome-2025-one.log")
    names = [line.attack for line in beard_log.parse(log.read_text())]
    assert "Deepfool" in names


def test_a_model_that_changed_meanwhile_is_evaluated_anew(
    models: Context, no_figures: None
) -> None:
    with pytest.raises(Stopped):
        run(MODELS, replace(models, should_stop=StopAfter(3)))
    other = build("convnet-d1-w4", channels=3, size=8, classes=3, generator=generator(9))
    weights.save(other, models.inputs["art_2"])
    second = replace(
        models, workdir=models.workdir.with_name("attempt-2"), earlier=(models.workdir,)
    )
    (note,) = run(MODELS, second).provenance["notes"]
    assert "another run: inputs differed" in note


def transferred(outcome: Outcome) -> TransferReport:
    path = next(output.path for output in outcome.outputs if output.name == "transfer.json")
    return TransferReport.model_validate_json(path.read_text())


def test_transferring_leaves_matrices_logs_and_figures(models: Context) -> None:
    outcome = run(TRANSFER, models)
    names = [(output.name, output.kind) for output in outcome.outputs]
    assert names[:5] == [
        ("transfer.json", "transfer"),
        ("timings.json", "timings"),
        ("provenance.json", "provenance"),
        ("beard-transfer-one.log", "log"),
        ("beard-transfer-two.log", "log"),
    ]
    measured = [f"{attack}/{mode}" for attack in ("fgsm", "pgd") for mode in MODES]
    stems = [f"heatmap-i-rr-{mode}" for mode in MODES]
    stems += [f"heatmap-{name.replace('/', '-')}" for name in measured]
    assert names[5:] == [(f"{s}.{kind}", "figure") for s in stems for kind in ("svg", "png")]
    report = transferred(outcome)
    assert (report.sources, report.targets) == (["one", "two"], ["one", "two"])
    assert report.on_self == [[True, False], [False, True]]
    assert list(report.accuracy) == measured
    assert list(report.target_hit) == ["fgsm/targeted", "pgd/targeted"]
    assert list(report.i_rr) == list(MODES)
    assert (report.protocol, report.overridden) == ("quick@1", ["pgd.steps"])
    assert report.settings["pgd"]["early_stop"] is False
    assert report.crafting == "every image is attacked, with all steps"
    own = overridden(PROTOCOLS["quick@1"], {"pgd": {"steps": 2}})
    assert report.digest == own.digest
    assert [model.name for model in report.models] == ["one", "two"]
    assert (report.test_images, report.test_images_of) == (5, 12)
    assert outcome.metrics["i_rr"] == report.i_rr
    assert report.trust == outcome.metrics["trust"] == "high"
    assert [one["code"] for one in report.findings] == ["overridden"]
    assert outcome.metrics["findings"] == ["overridden"]
    assert outcome.metrics["worst_case_intervals"] == report.worst_case_intervals
    assert outcome.provenance["notes"] == ["8 blocks of images crafted, 0 reused"]


def test_the_matrices_follow_from_each_other(models: Context, no_figures: None) -> None:
    body = {**TRANSFER, "targets": [{"file": "one"}], "limit": None}
    report = transferred(run(body, models))
    assert (report.sources, report.targets) == (["one", "two"], ["one"])
    assert report.on_self == [[True], [False]]
    clean = report.clean["one"]
    assert clean > 0
    for row in range(2):
        for mode in MODES:
            seen = [report.accuracy[f"{attack}/{mode}"][row][0] for attack in ("fgsm", "pgd")]
            drop, worst = clean - sum(seen) / 2, clean - min(seen)
            expected = 100 * (1 - drop / clean * worst / clean)
            assert report.i_rr[mode][row][0] == pytest.approx(expected)
        every = [matrix[row][0] for matrix in report.accuracy.values()]
        assert report.worst_case[row][0] <= min([clean, *every])
        n = report.test_images
        for share, interval in (
            (report.worst_case[row][0], report.worst_case_intervals[row][0]),
            (report.clean["one"], report.clean_intervals["one"]),
            *(
                (report.accuracy[name][row][0], report.accuracy_intervals[name][row][0])
                for name in report.accuracy
            ),
        ):
            bounds = wilson(round(share * n), n)
            assert interval == (bounds.low, bounds.high)


def test_a_transfer_that_measures_the_clamp_says_so(
    context: Context, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clamp costs the third model 3.4 points of accuracy, the fourth 1.4."""
    monkeypatch.setattr("rome_core.findings.CLAMP_COST", 0.025)
    folder = context.data_root / "models"
    folder.mkdir()
    for number in (1, 3, 4):
        torch.save(trained(number).state_dict(), folder / f"m{number}.pth")
    body = {**TRANSFER, "sources": [{"file": "m1"}], "targets": [{"file": "m3"}, {"file": "m4"}]}
    body |= {"dataset": "digits", "protocol": "rome-2025", "limit": None, "modes": ["untargeted"]}
    outcome = run(body, context)
    report = transferred(outcome)
    clamped = [one for one in report.findings if one["code"] == "clamp_sensitive"]
    (told,) = (one["evidence"] for one in clamped)
    assert told["subject"] == "m3"
    assert told["clean"] == report.clean["m3"]
    assert told["clean"] - told["clamped"] == pytest.approx(0.034, abs=0.001)
    assert report.trust == outcome.metrics["trust"] == "low"
    assert outcome.metrics["findings"] == ["clamp_sensitive", "overridden"]
    codes = {flaw["code"]: flaw.get("attack") for flaw in report.flaws}
    assert codes["step_misprint"] == "pgd"
    assert None in codes.values()


def test_crafted_images_are_reused_by_the_next_job(models: Context, no_figures: None) -> None:
    cached = replace(models, cache=models.data_root / "cache")
    first = run({**TRANSFER, "sources": [{"file": "one"}]}, cached)
    assert first.provenance["notes"] == ["4 blocks of images crafted, 0 reused"]
    second = run(TRANSFER, replace(cached, workdir=models.workdir.with_name("attempt-2")))
    assert second.provenance["notes"] == ["4 blocks of images crafted, 4 reused"]
    alone = run(TRANSFER, replace(models, workdir=models.workdir.with_name("alone")))
    assert digests(second) == digests(alone)


def test_a_stopped_transfer_goes_on_and_ends_alike(models: Context, no_figures: None) -> None:
    whole = run(TRANSFER, replace(models, workdir=models.workdir.with_name("whole")))
    with pytest.raises(Stopped):
        run(TRANSFER, replace(models, should_stop=StopAfter(12)))
    second = replace(
        models, workdir=models.workdir.with_name("attempt-2"), earlier=(models.workdir,)
    )
    resumed = run(TRANSFER, second)
    assert digests(resumed) == digests(whole)
    assert resumed.provenance["notes"][0].startswith("resumed after")


def test_errors_of_models_name_their_field(models: Context) -> None:
    def problem(body: dict[str, Any], context: Context = models) -> tuple[str, str | None]:
        error = failure(lambda: run(body, context))
        return error.code, error.field

    gone = {**MODELS, "models": [{"file": "one"}, {"file": "gone"}]}
    assert problem(gone) == ("weights_missing", "models.1.file")
    assert problem(MODELS, replace(models, inputs={})) == ("input_missing", "models.1.artifact")
    assert problem(TRANSFER, replace(models, inputs={})) == ("input_missing", "sources.1.artifact")
    other = {**TRANSFER, "targets": [{"artifact": "art_2", "network": "convnet-d2-w4"}]}
    _, field = problem(other)
    assert field is not None
    assert field.startswith("targets.0.")
    aimed = {**MODELS, "protocols": ["rome-2025"], "attacks": ["pgd"]}
    assert problem(aimed) == ("target_out_of_range", "modes")
    (models.data_root / "models" / "one.pth").write_bytes(b"no weights")
    _, field = problem(MODELS)
    assert field == "models.0.file"


def test_a_transfer_of_nothing_is_refused(models: Context) -> None:
    body = {**TRANSFER, "attacks": ["autoattack"], "modes": ["targeted"], "overrides": {}}
    error = failure(lambda: run(body, models))
    assert (error.code, error.field) == ("nothing_to_transfer", "attacks")


def test_iterates_can_be_judged_under_an_attack_of_no_strength(context: Context) -> None:
    hyperparameters = {
        **ROME["hyperparameters"],
        "pgd_epsilon": "0",
        "pgd_step": "0",
        "selection": "holdout",
        "eval_interval": 6,
        "num_eval": 1,
        "eval_epochs": 1,
    }
    outcome = run({**ROME, "hyperparameters": hyperparameters}, context)
    assert list(outcome.metrics["scores"]) == ["6"]


def test_selection_on_held_out_images_scores_iterates(context: Context) -> None:
    hyperparameters = {
        **ROME["hyperparameters"],
        "selection": "holdout",
        "eval_interval": 2,
        "num_eval": 1,
        "eval_epochs": 1,
    }
    outcome = run({**ROME, "hyperparameters": hyperparameters}, context)
    scores = outcome.metrics["scores"]
    assert list(scores) == ["2", "4", "6"]
    best = max(scores, key=lambda step: scores[step])
    assert outcome.metrics["selected_iteration"] == int(best)


@pytest.mark.parametrize("chosen", [2, 6])
def test_the_last_iterate_is_kept_beside_a_chosen_one(
    chosen: int, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(ROME, replace(context, workdir=context.workdir.with_name("unjudged")))
    judge = Evaluation(lambda _, step: -abs(step - chosen), interval=2)
    module = import_module("rome_core.runner.distill")  # the package's `distill` is the function
    monkeypatch.setattr(module, "selection", lambda *arguments: judge)
    outcome = run(ROME, context)
    assert outcome.metrics["selected_iteration"] == chosen
    kept = [output for output in outcome.outputs if output.name == "synthetic-last.pt"]
    if chosen == 6:
        assert kept == []
        return
    last, whole = synthetic.load(kept[0].path), synthetic.load(expected.outputs[0].path)
    assert torch.equal(last.images, whole.images)
    assert last.metadata() == whole.metadata() == kept[0].metadata
    assert not torch.equal(last.images, synthetic.load(outcome.outputs[0].path).images)


def test_a_bare_reference_file_can_be_evaluated(
    context: Context, tmp_path: Path, no_figures: None
) -> None:
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(10, 1, 8, 8, generator=draws)
    torch.save({"data": [[images, torch.arange(10)]]}, tmp_path / "bare.pt")
    given = evaluating(context, tmp_path / "bare.pt")
    students = {"count": 1, "network": "convnet-d1-w4", "epochs": 0}
    body = {**EVALUATE, "students": students, "attacks": ["clean"], "overrides": {}}
    assert failure(lambda: run(body, given)).field == "dataset"
    outcome = run({**body, "dataset": "digits", "factor": 1}, given)
    assert "quick/clean" in outcome.metrics
    assert all(one.worst_case == {} for one in report_of(outcome).protocols)


def test_errors_name_field_and_remedy(context: Context, artifact: Path, tmp_path: Path) -> None:
    missing = failure(lambda: run({**RANDOM, "dataset": "npz:gone"}, context))
    assert (missing.code, missing.field) == ("dataset_missing", "dataset")
    many = failure(lambda: run({**RANDOM, "ipc": 17}, context))
    assert (many.code, many.field) == ("class_too_small", "ipc")
    absent = failure(lambda: run(EVALUATE, context))
    assert (absent.code, absent.field) == ("input_missing", "artifact")
    given = evaluating(context, artifact)
    rule = failure(lambda: run({**EVALUATE, "modes": ["targeted"]}, given))
    assert (rule.code, rule.field) == ("target_out_of_range", "modes")
    assert "untargeted" in rule.remedy
    deep = {**EVALUATE["students"], "network": "convnet-d4"}
    halved = failure(lambda: run({**EVALUATE, "students": deep}, given))
    assert (halved.code, halved.field) == ("network_too_deep", "students.network")
    artifact.write_bytes(artifact.read_bytes()[:-50])
    damaged = failure(lambda: run(EVALUATE, given))
    assert (damaged.code, damaged.field) == ("artifact_damaged", "artifact")


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("target_rule", "mod10", "target_out_of_range"),
        ("network", "convnet-d4", "network_too_deep"),
        ("compile", "on", "no_compiler"),
        ("factor", 2, "size_not_divisible"),
    ],
)
def test_hyperparameters_that_do_not_fit_are_named_in_full(
    name: str,
    value: object,
    code: str,
    context: Context,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rome_core.passes._compiler_failure", lambda *device: "no g++")
    side = 9 if name == "factor" else 8
    x = np.zeros((30, side, side, 3), dtype=np.uint8)
    np.savez(root / "tiny.npz", images=x, labels=np.arange(30) % 3)
    body = {**ROME, "hyperparameters": {**ROME["hyperparameters"], name: value}}
    error = failure(lambda: run(body, context))
    assert (error.code, error.field) == (code, f"hyperparameters.{name}")


def test_a_set_of_other_classes_does_not_fit(context: Context, artifact: Path, root: Path) -> None:
    x = np.zeros((40, 8, 8, 3), dtype=np.uint8)
    np.savez(root / "tiny.npz", images=x, labels=np.arange(40) % 4)
    error = failure(lambda: run(EVALUATE, evaluating(context, artifact)))
    assert (error.code, error.field) == ("artifact_mismatch", "dataset")


def test_a_spec_that_is_not_canonical_is_refused(context: Context) -> None:
    for spec in ({}, {**RANDOM, "seed": 1}, {"kind": "evaluate"}):
        with pytest.raises(CoreError) as caught:
            runner.run(spec, context)
        assert caught.value.code == "spec_invalid"
    assert not context.workdir.exists()


@pytest.mark.parametrize(
    ("device", "code"),
    [("tpu", "device_unknown"), ("meta", "device_unknown"), ("cuda:99", "device_missing")],
)
def test_devices_that_are_not_here(device: str, code: str, context: Context) -> None:
    error = failure(lambda: run(RANDOM, replace(context, device=device)))
    assert (error.code, error.field) == (code, "device")


def test_a_full_disk_is_told_as_one(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rome_core.sprite.write_atomically", full)
    error = failure(lambda: run(RANDOM, context))
    assert error.code == "storage_full"
    assert str(context.workdir) in error.detail


def test_a_run_rounds_nothing_to_tf32_and_leaves_the_process_as_it_was(context: Context) -> None:
    assert torch.backends.cudnn.allow_tf32  # PyTorch's default
    outcome = run(RANDOM, context)
    assert outcome.provenance["hardware"]["tf32"] is False
    assert torch.backends.cudnn.allow_tf32


def test_threads_are_set_for_the_run_alone(context: Context) -> None:
    before = torch.get_num_threads()
    outcome = run(RANDOM, replace(context, threads=before + 1))
    assert torch.get_num_threads() == before
    assert outcome.provenance["hardware"]["threads"] == before + 1
