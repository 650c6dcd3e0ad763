"""Logs in BEARD's format: read back they are the report's numbers, and make the same metrics."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest

from rome_core import beard_log, metrics, recipes, runner, synthetic, weights
from rome_core.beard_log import Line
from rome_core.evaluation import drawings
from rome_core.recipes.attacks import MODES
from rome_core.recipes.report import EvaluationReport, ProtocolReport, TransferReport
from rome_core.runner import Context, Outcome
from tests.rome_core.evaluation.conftest import trained

OVERRIDES = {
    "pgd": {"steps": 2},
    "deepfool": {"steps": 2},
    "autoattack": {"steps": 1, "queries": 3},
    "cw": {"steps": 2},
    "spsa": {"samples": 2},
    "square": {"queries": 3},
}
NAMES = ("m-1", "m.1", "n")  # two that are one where only letters, digits and _ are left
MODELS: dict[str, Any] = {
    "kind": "evaluate",
    "models": [{"artifact": name, "name": name} for name in NAMES],
    "dataset": "digits",
    "protocols": ["rome-2025", "quick"],
    "attacks": ["fgsm", "pgd", "deepfool", "cw", "autoattack", "spsa", "mi-fgsm"],
    "overrides": OVERRIDES,
    "limit": 40,
    "probes": False,
}
TRANSFER: dict[str, Any] = {
    "kind": "transfer",
    "sources": [{"artifact": name, "name": name} for name in NAMES[:2]],
    "targets": [{"artifact": name, "name": name} for name in NAMES],
    "dataset": "digits",
    "protocol": "rome-2025",
    "attacks": ["fgsm", "pgd", "deepfool"],
    "overrides": OVERRIDES,
    "limit": 40,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("beard")
    for seed, name in enumerate(NAMES, start=1):
        weights.save(trained(seed), made / name)
    return made


@pytest.fixture(scope="module")
def no_figures() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawings, "draw", lambda *given: iter(()))
        patch.setattr(drawings, "draw_transfer", lambda *given: iter(()))
        yield


def run(body: dict[str, Any], folder: Path, inputs: dict[str, Path]) -> Outcome:
    context = Context(workdir=folder / "work", data_root=folder, inputs=inputs)
    return runner.run(recipes.canonical(body, seed=4), context)


@pytest.fixture(scope="module")
def evaluated(folder: Path, no_figures: None) -> Outcome:
    return run(MODELS, folder / "models", {name: folder / name for name in NAMES})


def text(outcome: Outcome, name: str) -> str:
    return next(output.path for output in outcome.outputs if output.name == name).read_text()


def logs(outcome: Outcome) -> dict[str, list[Line]]:
    return {
        output.name: beard_log.parse(output.path.read_text())
        for output in outcome.outputs
        if output.kind == "log"
    }


def report(outcome: Outcome) -> EvaluationReport:
    return EvaluationReport.model_validate_json(text(outcome, "evaluation.json"))


# Our attacks by what the published logs call them, and whether those know a targeted form.
PUBLISHED = {
    "FGSM": ("fgsm", True),
    "PGD": ("pgd", True),
    "CW": ("cw", True),
    "Deepfool": ("deepfool", False),
    "AA": ("autoattack", False),
}


def accuracy(protocol: ProtocolReport, measure: str, subject: int) -> float:
    share = protocol.measures[measure].accuracy
    assert share is not None
    return 100 * share.values[subject]


def test_every_model_has_a_log_of_each_protocol(evaluated: Outcome) -> None:
    """Also those whose names are one where only letters, digits and _ are left."""
    assert set(logs(evaluated)) == {
        f"beard-{protocol}-{name}.log"
        for protocol in ("rome-2025", "quick")
        for name in ("m_1", "m_1_2", "n")
    }


def test_a_log_reads_back_as_the_reports_numbers(evaluated: Outcome) -> None:
    protocol = report(evaluated).protocols[0]
    for subject, name in enumerate(("m_1", "m_1_2", "n")):
        lines = logs(evaluated)[f"beard-rome-2025-{name}.log"]
        assert [line.attack for line in lines] == ["Clean", "FGSM", "PGD", "Deepfool", "CW", "AA"]
        clean, *attacked = lines
        assert protocol.clean is not None
        assert clean.targeted == clean.untargeted
        assert clean.untargeted is not None
        assert clean.untargeted.accuracy == pytest.approx(100 * protocol.clean.values[subject])
        for line in attacked:
            attack, aimed = PUBLISHED[line.attack]
            cells = {"targeted": line.targeted, "untargeted": line.untargeted}
            assert (cells["targeted"] is not None) is aimed
            for mode in MODES:
                cell = cells[mode]
                if cell is not None:
                    expected = accuracy(protocol, f"{attack}/{mode}", subject)
                    assert cell.accuracy == pytest.approx(expected, abs=1e-6)
                    assert cell.spread == 0
                    assert cell.seconds > 0
        for line in lines:
            assert (line.method, line.dataset, line.ipc) == (name, "DIGITS", 0)
            assert line.protocol == "rome-2025@1"


def test_what_has_one_mode_only_is_left_out_unless_the_grammar_knows_it(evaluated: Outcome) -> None:
    """SPSA has no targeted form in rome-2025, and the toolkit would take a zero for a number."""
    assert "spsa/untargeted" in report(evaluated).protocols[0].measures
    assert "Spsa" not in text(evaluated, "beard-rome-2025-n.log")
    names = [line.attack for line in logs(evaluated)["beard-quick-n.log"]]
    # Whose name alone the toolkit would take to mean that it has no targeted form.
    assert names == ["Clean", "fgsm", "pgd", "mi_fgsm", "AA", "deepfool_targetable"]


def test_the_log_makes_the_metrics_of_the_seconds(evaluated: Outcome) -> None:
    """In their own way: rome_core.metrics reads the log's entry."""
    timings = json.loads(text(evaluated, "timings.json"))
    entry = beard_log.entry(logs(evaluated)["beard-rome-2025-n.log"])
    told = metrics.report(metrics.parse(entry), degenerate="sound")
    # A log has six decimals.
    seconds = {
        name: round(of["seconds"][2], 6) for name, of in timings["seconds"]["rome-2025@1"].items()
    }
    protocol = report(evaluated).protocols[0]
    assert protocol.clean is not None
    for mode in MODES:
        cells = [
            metrics.AttackCell(
                attack, accuracy(protocol, f"{attack}/{mode}", 2), seconds[f"{attack}/{mode}"]
            )
            for attack, aimed in PUBLISHED.values()
            if aimed or mode == "untargeted"
        ]
        group = metrics.Group(100 * protocol.clean.values[2], seconds["clean"], cells)
        expected = metrics.named(metrics.measure(group, degenerate="sound"))
        found = told["metrics"]["same_mode"][mode]
        for name in ("RR", "I-RR", "AE", "CREI", "I-CREI"):
            assert found[name] == pytest.approx(expected[name].value, abs=1e-3), (mode, name)


def test_students_of_a_set_are_one_method_with_their_spread(
    tmp_path: Path, no_figures: None
) -> None:
    (tmp_path / "data").mkdir()
    draws = np.random.default_rng(0)
    x = draws.integers(0, 256, (120, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "data" / "tiny.npz", images=x, labels=np.arange(120) % 3)
    context = Context(workdir=tmp_path / "1", data_root=tmp_path / "data")
    body = {"method": "random", "dataset": "npz:tiny", "ipc": 2}
    made = runner.run(recipes.canonical(body, seed=1), context).outputs[0].path
    assert synthetic.load(made).ipc == 2
    asked = {
        "kind": "evaluate",
        "artifact": "set",
        "students": {"count": 3, "network": "convnet-d1-w4", "epochs": 2},
        "protocols": ["quick"],
        "attacks": ["fgsm"],
        "probes": False,
    }
    context = Context(tmp_path / "2", tmp_path / "data", inputs={"set": made})
    outcome = runner.run(recipes.canonical(asked, seed=1), context)
    ((name, lines),) = logs(outcome).items()
    assert name == "beard-quick.log"
    (protocol,) = report(outcome).protocols
    for line, measure in zip(lines, ("clean", "fgsm/untargeted"), strict=True):
        share = protocol.clean if measure == "clean" else protocol.measures[measure].accuracy
        assert share is not None
        assert line.untargeted is not None
        assert line.untargeted.accuracy == pytest.approx(100 * share.mean, abs=1e-6)
        spread = stdev(100 * value for value in share.values)
        assert line.untargeted.spread == pytest.approx(spread, abs=1e-6)
        assert (line.method, line.dataset, line.ipc) == ("random", "NPZ_TINY", 2)


def test_a_transfer_log_tells_what_every_target_got_right(folder: Path, no_figures: None) -> None:
    outcome = run(TRANSFER, folder / "transfer", {name: folder / name for name in NAMES})
    told = TransferReport.model_validate_json(text(outcome, "transfer.json"))
    written = logs(outcome)
    assert set(written) == {"beard-transfer-m_1.log", "beard-transfer-m_1_2.log"}
    for row, lines in enumerate(written.values()):
        assert [line.attack for line in lines] == ["Clean", "FGSM", "PGD", "Deepfool"]
        assert {line.protocol for line in lines} == {"rome-2025@1"}
        assert {line.method for line in lines} == {("m_1", "m_1_2")[row]}
        for line in lines:
            for mode, cell in (("targeted", line.targeted), ("untargeted", line.untargeted)):
                if cell is None:
                    assert (line.attack, mode) == ("Deepfool", "targeted")
                    continue
                if line.is_clean:
                    shares = list(told.clean.values())
                else:
                    attack, _ = PUBLISHED[line.attack]
                    shares = told.accuracy[f"{attack}/{mode}"][row]
                assert dict(cell.models) == pytest.approx(
                    dict(zip(("m_1", "m_1_2", "n"), shares, strict=True))
                )
                assert cell.accuracy == pytest.approx(100 * shares[row])
        for column, name in enumerate(("m_1", "m_1_2", "n")):
            entry = beard_log.entry(lines, model=name)
            metric = metrics.report(metrics.parse(entry), degenerate="sound")["metrics"]
            for mode in MODES:
                if told.i_rr[mode][row][column] is not None:
                    found = metric["same_mode"][mode]["I-RR"]
                    assert found == pytest.approx(told.i_rr[mode][row][column], abs=1e-3)


def test_a_crafting_model_that_is_no_target_has_no_log(folder: Path, no_figures: None) -> None:
    """Its lines would lack their own accuracy."""
    body = {**TRANSFER, "targets": [{"artifact": "n", "name": "n"}], "limit": 5}
    outcome = run(body, folder / "other", {name: folder / name for name in NAMES})
    assert logs(outcome) == {}
