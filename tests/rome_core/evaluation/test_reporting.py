"""Every number of a report against loops over single images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median, stdev
from typing import Any

import pytest
import torch

from rome_core import metrics
from rome_core.evaluation import drawings
from rome_core.evaluation.evaluation import Evaluated, Measurement, Part
from rome_core.evaluation.outcomes import Outcomes
from rome_core.evaluation.reporting import (
    QUERY_POINTS,
    outcome_tables,
    protocol_reports,
    timing_report,
)
from rome_core.evaluation.robustness import Faced, Measure, TestSet, measures
from rome_core.evaluation.statistics import Resamples
from rome_core.findings import NOISE
from rome_core.randomness import generator
from rome_core.recipes.attacks import MODES, Mode
from rome_core.recipes.protocols import PROTOCOLS, Protocol, overridden
from rome_core.recipes.report import ProtocolReport, Share
from rome_core.space import Normalised
from tests.rome_core.evaluation.conftest import subject

N, CLASSES = 40, 10
QUICK, PIXEL, PUBLISHED = (PROTOCOLS[name] for name in ("quick@1", "pixel@1", "rome-2025@1"))
ATTACKS = ("clean", "fgsm", "pgd", "square", "autoattack", "pgd-l2", "deepfool")
PROBES: dict[str, Any] = {
    "images": 4,
    "outputs_are_constant": False,
    "outputs_are_probabilities": False,
    "forward_difference": 0.0,
    "zero_gradients": 0.0,
    "clean": 0.9,
    "curve": [["0", 0.9], ["8/255", 0.5]],
    "unbounded": 0.0,
    "converged": [],
    "images_all": N,
    "clean_all": 0.9,
    "clamped_all": 0.9,
}


def labels() -> torch.Tensor:
    return torch.arange(N) % (CLASSES - 1)  # the last class has no image


def invented(what: Measure, number: int, clean: torch.Tensor) -> Faced:
    """Columns as an attack might leave them: no rule of the table is broken, all cases occur."""
    draws = generator(1, what.name, number)
    y = labels()

    def chance(share: float) -> torch.Tensor:
        return torch.rand(N, generator=draws) < share

    target = (y + 1) % CLASSES if what.mode == "targeted" else torch.full_like(y, -1)
    away = torch.where(chance(0.5), (y + 1) % CLASSES, (y + 2) % CLASSES)
    if what.mode is None:
        prediction = torch.where(clean, y, away)
    else:
        prediction = torch.where(chance(0.6), y, away)
    hit = prediction == target
    reached = hit if what.mode == "targeted" else prediction != y
    forwards = torch.randint(2, 60, (N,), generator=draws)
    margin = torch.randn(N, generator=draws).abs() * torch.where(prediction == y, 1.0, -1.0)
    return Faced(
        prediction=prediction,
        target=target,
        clean_correct=clean,
        correct=prediction == y,
        hit=hit,
        linf=torch.rand(N, generator=draws),
        l2=4 * torch.rand(N, generator=draws),
        margin=margin,
        spread=torch.ones(N),
        forwards=forwards,
        backwards=torch.randint(0, 60, (N,), generator=draws),
        queries=torch.where(reached, torch.minimum(forwards - 1, torch.tensor(37)), -1),
        stage=torch.full((N,), -1),
    )


def made(
    protocol: Protocol = QUICK,
    attacks: Sequence[str] = ATTACKS,
    modes: Sequence[Mode] = MODES,
    *,
    subjects: int = 2,
    probes: Mapping[str, Any] | None = PROBES,
    changed: Mapping[str, Faced] = {},
) -> Evaluated:
    entries = tuple(protocol.entry(name) for name in attacks)
    asked = tuple(measures(protocol, entries, modes))
    space = Normalised.of((0.5,), (0.2,))
    test = TestSet(torch.zeros(N, 1, 8, 8), labels(), 2 * torch.arange(N), CLASSES, space)
    clean = [torch.rand(N, generator=generator(2, s)) < 0.8 for s in range(subjects)]
    part = Part(protocol, entries, asked, test, tuple(modes))
    return Evaluated(
        subjects=tuple(subject(f"model {s}") for s in range(subjects)),
        train_accuracy=(),
        parts=(part,),
        measurements={
            (protocol.id, what.name): tuple(
                Measurement(
                    what,
                    changed[what.name] if what.name in changed else invented(what, s, clean[s]),
                    1.5 + s + len(what.name),
                )
                for s in range(subjects)
            )
            for what in asked
        },
        evidence={} if probes is None else {protocol.id: [{"subject": "model 0", **probes}]},
        samples={},
        test_images_of=N,
        notes=(),
    )


def report(done: Evaluated) -> ProtocolReport:
    (only,) = protocol_reports(done, seed=7, students=True)
    return only


Row = dict[str, Any]


def rows(done: Evaluated, name: str) -> list[list[Row]]:
    """The columns of a measure as plain rows: a list of images for each subject."""
    own = done.measurements[done.parts[0].protocol.id, name]
    columns = [{k: v.tolist() for k, v in one.faced.state_dict().items()} for one in own]
    return [
        [{k: v[i] for k, v in c.items()} | {"label": labels()[i].item()} for i in range(N)]
        for c in columns
    ]


def check(share: Share | None, values: Sequence[Sequence[bool]], *, interval: bool = True) -> None:
    assert share is not None
    shares = [sum(of) / len(of) for of in values]
    assert share.values == pytest.approx(shares)
    assert share.mean == pytest.approx(fmean(shares))
    assert share.std == (pytest.approx(stdev(shares)) if len(shares) > 1 else None)
    assert share.n == len(shares)
    if interval:
        bounds = Resamples(N, seed=7).interval(torch.tensor(values))
        assert share.interval == (bounds.low, bounds.high)
    else:
        assert share.interval is None
    assert share.intervals is None


def test_models_have_an_interval_each_and_none_together() -> None:
    """They are no sample of models: only the images could have been others."""
    done = made(subjects=3)
    (told,) = protocol_reports(done, seed=7, students=False)
    shares = [(told.clean, rows(done, "clean"), "correct")]
    for name, one in told.measures.items():
        if one.not_applicable is None:
            shares.append((one.accuracy, rows(done, name), "correct"))
            if one.target_hit is not None:
                shares.append((one.target_hit, rows(done, name), "hit"))
    resamples = Resamples(N, seed=7)
    for share, seen, column in shares:
        assert share is not None
        assert share.interval is None
        own = [resamples.interval(torch.tensor([[row[column] for row in of]])) for of in seen]
        assert share.intervals == [(bounds.low, bounds.high) for bounds in own]
        assert share.values == [fmean(row[column] for row in of) for of in seen]
    for share in (*told.worst_case.values(), *told.worst_by_mode.values()):
        assert share.interval is None
        assert share.intervals is not None
        assert len(share.intervals) == 3
    (alone,) = protocol_reports(made(subjects=1), seed=7, students=False)
    assert alone.clean is not None
    assert alone.clean.intervals == [alone.clean.interval]


@pytest.mark.parametrize("subjects", [1, 2, 3])
def test_clean_accuracy(subjects: int) -> None:
    done = made(subjects=subjects)
    told, seen = report(done), rows(done, "clean")
    check(told.clean, [[row["correct"] for row in of] for of in seen])
    assert told.clean_per_class == pytest.approx(per_class(seen))
    assert told.test_images == N


def per_class(seen: list[list[Row]]) -> list[float | None]:
    found: list[float | None] = []
    for label in range(CLASSES):
        own = [row["correct"] for of in seen for row in of if row["label"] == label]
        found.append(sum(own) / len(own) if own else None)
    assert found[-1] is None
    return found


@pytest.mark.parametrize("subjects", [1, 2])
def test_every_measure(subjects: int) -> None:
    done = made(subjects=subjects)
    told = report(done)
    names = [what.name for what in done.parts[0].measures if what.name != "clean"]
    applicable = [name for name, one in told.measures.items() if one.not_applicable is None]
    assert applicable == names
    for name in names:
        one, seen = told.measures[name], rows(done, name)
        entry = QUICK.entry(one.attack)
        assert name == f"{one.attack}/{one.mode}"
        assert (one.threat, one.access) == (entry.threat, entry.access)
        assert one.flaws == [flaw.as_dict() for flaw in entry.flaws]
        check(one.accuracy, [[row["correct"] for row in of] for of in seen])
        lost = [
            [not row["correct"] for row in of if row["clean_correct"]] for of in seen
        ]  # the same of the images that were right
        check(one.success, lost, interval=False)
        if one.mode == "targeted":
            check(one.target_hit, [[row["hit"] for row in of] for of in seen])
        else:
            assert one.target_hit is None
        assert one.per_class == pytest.approx(per_class(seen))
        flat = [row for of in seen for row in of]
        assert one.costs is not None
        assert one.costs.forwards_per_image == pytest.approx(fmean(r["forwards"] for r in flat))
        assert one.costs.backwards_per_image == pytest.approx(fmean(r["backwards"] for r in flat))
        broken = [row for row in flat if row["clean_correct"] and not row["correct"]]
        counts = [row["queries"] for row in broken if row["queries"] > 0]
        assert one.costs.queries_to_break == median(counts)
        assert one.perturbation is not None
        assert one.perturbation.linf == pytest.approx(median(r["linf"] for r in broken))
        assert one.perturbation.l2 == pytest.approx(median(r["l2"] for r in broken))


def test_without_a_right_image_there_is_no_success() -> None:
    """Nothing was there to be broken: 0 would say that the attack failed."""
    wrong = left(among(), Measure(QUICK.id, "clean", None))
    none = replace(left(among(), Measure(QUICK.id, "pgd", "untargeted")), clean_correct=among())
    changed = {"clean": wrong, "pgd/untargeted": none}
    alone = made(attacks=["clean", "pgd"], modes=["untargeted"], subjects=1, changed=changed)
    assert report(alone).measures["pgd/untargeted"].success is None
    honest = attacked(QUICK, {"pgd": among(0)})
    both = report(together(honest, alone)).measures["pgd/untargeted"]
    assert both.success is None
    assert both.accuracy is not None


def test_an_attack_that_breaks_nothing_has_no_medians() -> None:
    done = made(attacks=["clean", "pgd"], modes=["untargeted"])
    unharmed = done.measurements["quick@1", "clean"][0].faced
    told = report(
        made(
            attacks=["clean", "pgd"],
            modes=["untargeted"],
            subjects=1,
            changed={"pgd/untargeted": unharmed},
        )
    )
    one = told.measures["pgd/untargeted"]
    assert one.success is not None
    assert one.success.values == [0.0]
    assert one.costs is not None
    assert one.costs.queries_to_break is None
    assert one.perturbation is not None
    assert (one.perturbation.linf, one.perturbation.l2) == (None, None)


@pytest.mark.parametrize("modes", [("targeted", "untargeted"), ("targeted",)])
def test_what_means_nothing_says_so_and_has_no_number(modes: tuple[Mode, ...]) -> None:
    for attacks in (("clean", "pgd", "autoattack"), ("clean", "autoattack")):
        told = report(made(attacks=attacks, modes=modes))
        one = told.measures["autoattack/targeted"]
        assert one.not_applicable == "it has no targeted form"
        assert one.threat == "linf 8/255"
        numbers = ("accuracy", "success", "target_hit", "per_class", "costs", "perturbation")
        assert all(getattr(one, name) is None for name in numbers)
        assert all("autoattack/targeted" not in over for over in (told.worst_over,))
    told = report(made(attacks=("clean", "autoattack"), modes=["untargeted"]))
    assert list(told.measures) == ["autoattack/untargeted"]


def test_the_clamp_has_one_number_and_is_no_attack() -> None:
    done = made(PUBLISHED, ["clean", "clamp", "fgsm", "cw"])
    told = report(done)
    assert list(told.measures) == [
        *("clamp", "fgsm/targeted", "fgsm/untargeted", "cw/targeted", "cw/untargeted")
    ]
    assert told.measures["clamp"].mode is None
    assert told.measures["clamp"].access == "none"
    assert "clamp" not in told.worst_over
    assert set(told.worst_case) == {"linf 8/255", "unbounded", "all"}


def test_the_worst_case_is_per_image_and_per_ball() -> None:
    done = made()
    told = report(done)
    balls = {
        "linf 8/255": ("fgsm", "pgd", "square", "autoattack"),
        "l2 1/2": ("pgd-l2", "deepfool"),
    }
    balls["all"] = balls["linf 8/255"] + balls["l2 1/2"]
    assert set(told.worst_case) == set(balls)
    names = [what.name for what in done.parts[0].measures if what.mode]
    assert told.worst_over == names
    for ball, attacks in balls.items():
        own = [name for name in names if name.split("/")[0] in attacks]
        left = []
        for number in range(2):
            alive = []
            for image in range(N):
                seen = [rows(done, name)[number][image] for name in ("clean", *own)]
                alive.append(all(row["correct"] for row in seen))
            left.append(alive)
        check(told.worst_case[ball], left)
    worst = told.worst_case["all"]
    for one in told.measures.values():
        assert one.accuracy is None or worst.mean <= one.accuracy.mean


@pytest.mark.parametrize("attacks", [ATTACKS, ["clean", "square", "pgd"], ["pgd"]])
def test_the_worst_case_of_a_mode_is_over_its_attacks_and_the_clean_image(
    attacks: Sequence[str],
) -> None:
    done = made(attacks=attacks)
    told = report(done)
    assert list(told.worst_by_mode) == list(MODES)
    for mode in MODES:
        names = [what.name for what in done.parts[0].measures if what.mode in (mode, None)]
        columns = [rows(done, name) for name in names]
        left = [[all(c[s][i]["correct"] for c in columns) for i in range(N)] for s in range(2)]
        check(told.worst_by_mode[mode], left)
    assert list(report(made(attacks=attacks, modes=["targeted"])).worst_by_mode) == ["targeted"]


def test_the_figure_shows_the_worst_case_of_the_report() -> None:
    told = report(made())
    bars = drawings._bars(told, "two students")
    assert bars is not None
    shown = {mode: score.accuracy for mode, score in bars.worst.items()}
    assert shown == {mode: share.mean for mode, share in told.worst_by_mode.items()}


def test_a_radius_in_other_words_is_the_same_ball() -> None:
    changed = overridden(QUICK, {"deepfool": {"epsilon": "0.5"}, "square": {"epsilon": "16/510"}})
    told, same = report(made(changed)), report(made())
    assert told.worst_case == same.worst_case
    assert told.measures["deepfool/untargeted"].threat == "l2 0.5"
    masked = attacked(changed, {"pgd": among(*range(30)), "square": among()})
    assert codes(masked)["black_box_beats_white_box"]["ball"] == "linf 8/255"


def test_without_attacks_there_is_no_worst_case() -> None:
    told = report(made(attacks=["clean"]))
    assert (told.worst_case, told.worst_over, told.metrics, told.measures) == ({}, [], {}, {})
    assert told.worst_by_mode == {}


def test_metrics_are_of_counted_passes() -> None:
    done = made()
    told = report(done)
    assert list(told.metrics) == ["targeted", "untargeted"]
    for mode, one in told.metrics.items():
        assert mode in MODES
        cells = []
        for name in ATTACKS[1:]:
            if (name, mode) == ("autoattack", "targeted"):
                continue
            flat = [row for of in rows(done, f"{name}/{mode}") for row in of]
            accuracy = 100 * fmean(row["correct"] for row in flat)
            cost = fmean(row["forwards"] + row["backwards"] for row in flat)
            cells.append(metrics.AttackCell(name, accuracy, cost))
        clean = 100 * fmean(row["correct"] for of in rows(done, "clean") for row in of)
        group = metrics.Group(clean, 1.0, cells, cost_unit="passes")
        scores = metrics.measure(group, degenerate="sound")
        expected = {
            "RR": scores.robustness["beard"],
            "I-RR": scores.robustness["rome"],
            "AE": scores.efficiency,
            "CREI": scores.combined["beard"],
            "I-CREI": scores.combined["rome"],
        }
        for name, score in expected.items():
            assert one.values[name] == pytest.approx(score.value, abs=1e-9), name
        assert one.attacks == [cell.name for cell in cells]
        assert one.cost_unit == "passes"


def test_undefined_metrics_are_null_with_a_reason() -> None:
    done = made(attacks=["clean", "pgd"], modes=["untargeted"], subjects=1)
    clean = done.measurements["quick@1", "clean"][0].faced
    told = report(
        made(
            attacks=["clean", "pgd"],
            modes=["untargeted"],
            subjects=1,
            changed={"pgd/untargeted": clean},
        )
    )
    only = told.metrics["untargeted"]
    assert only.values["RR"] is None
    assert only.reasons["RR"]
    assert only.values["I-RR"] == 100


@pytest.mark.parametrize("mode", MODES)
def test_query_curves_fall_from_clean_to_what_is_left(mode: Mode) -> None:
    done = made()
    told = report(done)
    assert set(told.query_curves) == {"square/targeted", "square/untargeted"}
    flat = [row for of in rows(done, f"square/{mode}") for row in of]
    curve = told.query_curves[f"square/{mode}"]
    most = max(row["forwards"] for row in flat) - 1  # but for the look that told who is at stake
    assert [q for q, _ in curve] == [0, *(q for q in QUERY_POINTS if q < most), most]
    for q, accuracy in curve:
        right = 0
        for row in flat:
            # An image that never reached the goal, and is wrong all the same, was lost at the end.
            lost = row["queries"] if row["queries"] > 0 else row["forwards"] - 1
            right += row["clean_correct"] and (row["correct"] or lost > q)
        assert accuracy == pytest.approx(right / len(flat)), q
    accuracies = [accuracy for _, accuracy in curve]
    assert accuracies == sorted(accuracies, reverse=True)
    assert told.clean is not None
    assert accuracies[0] == pytest.approx(told.clean.mean)
    both = [row["clean_correct"] and row["correct"] for row in flat]
    assert accuracies[-1] == pytest.approx(fmean(both))


def test_the_curve_is_the_probes() -> None:
    assert report(made()).curve == [("0", 0.9), ("8/255", 0.5)]
    assert report(made(probes=None)).curve is None


def test_a_report_says_what_protocol_it_is_of() -> None:
    changed = overridden(QUICK, {"pgd": {"steps": 3}})
    told = report(made(changed))
    assert (told.id, told.digest, told.domain) == ("quick@1", changed.digest, "pixel")
    assert told.overridden == ["pgd.steps"]
    assert told.settings["pgd"]["steps"] == 3
    assert list(told.settings) == [e.name for e in QUICK.entries if e.name in ATTACKS]
    assert told.flaws == [flaw.as_dict() for flaw in QUICK.flaws]
    assert told.target_rule == "modC"
    codes = [finding["code"] for finding in told.findings]
    assert "overridden" in codes
    assert ProtocolReport.model_validate_json(told.model_dump_json()) == told


def codes(done: Evaluated) -> dict[str, Any]:
    return {finding["code"]: finding["evidence"] for finding in report(done).findings}


def left(right: torch.Tensor, what: Measure, **columns: torch.Tensor) -> Faced:
    """Every image was right; these still are."""
    one = invented(what, 0, torch.ones(N, dtype=torch.bool))
    y = labels()
    prediction = torch.where(right, y, (y + 1) % CLASSES)
    return replace(
        one,
        prediction=prediction,
        correct=right,
        hit=prediction == one.target,
        margin=torch.where(right, 1.0, -1.0),
        **columns,
    )


def among(*numbers: int) -> torch.Tensor:
    right = torch.zeros(N, dtype=torch.bool)
    right[list(numbers)] = True
    return right


def attacked(
    protocol: Protocol, attacks: Mapping[str, torch.Tensor], mode: Mode = "untargeted", **more: Any
) -> Evaluated:
    """One subject, right on every image; what each attack leaves."""
    changed = {"clean": left(among(*range(N)), Measure(protocol.id, "clean", None))}
    for name, right in attacks.items():
        changed[f"{name}/{mode}"] = left(right, Measure(protocol.id, name, mode))
    names = [name for name in protocol.names() if name in ("clean", *attacks)]
    return made(protocol, names, [mode], subjects=1, changed=changed, **more)


def test_what_only_queries_break_is_counted_within_the_ball() -> None:
    """Gradients leave 0 to 5 in the ball, queries 3 to 9: three images more. L2 says nothing."""
    done = attacked(
        QUICK,
        {
            "pgd": among(*range(8)),
            "apgd-ce": among(*range(6), 20),
            "square": among(*range(3, 10)),
            "pgd-l2": among(),
        },
    )
    found = codes(done)["black_box_beats_white_box"]
    assert found == {"ball": "linf 8/255", "subject": "model 0", "share_only_it_breaks": 3 / N}
    fewer = attacked(QUICK, {"pgd": among(*range(6)), "square": among(*range(30))})
    assert "black_box_beats_white_box" not in codes(fewer)
    other_ball = attacked(QUICK, {"pgd-l2": among(*range(30)), "square": among()})
    assert "black_box_beats_white_box" not in codes(other_ball)


def test_targets_say_nothing_about_masked_gradients() -> None:
    """A targeted query attack may break what a targeted gradient attack led elsewhere."""
    done = attacked(QUICK, {"pgd": among(*range(30)), "square": among()}, "targeted")
    assert "black_box_beats_white_box" not in codes(done)


MASKED = "black_box_beats_white_box"


def in_stages(right: torch.Tensor, stage: torch.Tensor, attack: str = "autoattack") -> Faced:
    """What AutoAttack leaves, and which of its stages broke the rest."""
    return replace(left(right, Measure(PIXEL.id, attack, "untargeted")), stage=stage)


def beside_autoattack(
    attacks: Mapping[str, torch.Tensor], cascade: Faced, attack: str = "autoattack"
) -> Evaluated:
    done = attacked(PIXEL, {**attacks, attack: cascade.correct})
    key = (PIXEL.id, f"{attack}/untargeted")
    (one,) = done.measurements[key]
    return replace(done, measurements={**done.measurements, key: (replace(one, faced=cascade),)})


def test_autoattack_leaves_nothing_on_behalf_of_other_gradients() -> None:
    """Another loss than theirs breaks all that they leave: theirs are masked all the same."""
    broken = in_stages(among(), torch.full((N,), 2))  # by the targeted DLR loss
    done = beside_autoattack({"pgd": among(*range(30)), "square": among(*range(20))}, broken)
    assert codes(done)[MASKED]["share_only_it_breaks"] == 10 / N
    assert report(done).trust == "low"


@pytest.mark.parametrize(
    ("attack", "square"), [("autoattack", 4), ("autoattack-plus", 4), ("autoattack-rand", None)]
)
def test_autoattacks_own_square_is_a_query_attack(attack: str, square: int | None) -> None:
    """Of images 0 to 29, which PGD leaves, Square breaks 5 to 9, and stages before it the rest."""
    for stage in (1, 2, 3, 4):
        broke = torch.full((N,), -1)
        broke[5:10], broke[10:] = stage, 1
        done = beside_autoattack(
            {"pgd": among(*range(30))}, in_stages(among(*range(5)), broke, attack), attack
        )
        if stage == square:
            assert codes(done)[MASKED]["share_only_it_breaks"] == 5 / N
        else:
            assert MASKED not in codes(done)


def test_alone_autoattacks_stages_are_held_against_each_other() -> None:
    broke = torch.full((N,), 1)
    broke[:5], broke[5:9] = -1, 4
    cascade = in_stages(among(*range(5)), broke)
    for beside in ({}, {"fgsm": among(*range(30))}):
        done = beside_autoattack(beside, cascade)
        assert codes(done)[MASKED]["share_only_it_breaks"] == 4 / N
    # A Square of more queries breaks what its gradients left, and no more of what they broke.
    more = beside_autoattack({"square": among(0)}, cascade)
    assert codes(more)[MASKED]["share_only_it_breaks"] == 8 / N
    honest = in_stages(among(*range(5)), torch.where(broke == 4, 3, broke))
    assert MASKED not in codes(beside_autoattack({}, honest))


def test_one_step_is_no_measure_of_gradients() -> None:
    done = attacked(PIXEL, {"fgsm": among(*range(30)), "square": among()})
    assert MASKED not in codes(done)
    assert "weak_attacks" in codes(done)


def test_what_was_wrong_already_is_broken_by_nobody() -> None:
    """Of rome-2025: wrong as it was, right after the clamp, and then kept as it was by Square."""
    clean = left(among(*range(20)), Measure(PUBLISHED.id, "clean", None))
    pgd, square = (
        replace(left(right, Measure(PUBLISHED.id, name, "untargeted")), clean_correct=clean.correct)
        for name, right in (("pgd", among(*range(40))), ("square", among(*range(19))))
    )
    changed = {"clean": clean, "pgd/untargeted": pgd, "square/untargeted": square}
    attacks = ["clean", "pgd", "square"]
    done = made(PUBLISHED, attacks, ["untargeted"], subjects=1, changed=changed)
    assert MASKED not in codes(done)
    broken = replace(square, correct=among(*range(17)))
    done = made(
        PUBLISHED,
        attacks,
        ["untargeted"],
        subjects=1,
        changed={**changed, "square/untargeted": broken},
    )
    assert codes(done)[MASKED]["share_only_it_breaks"] == 3 / N


def together(*single: Evaluated) -> Evaluated:
    """Evaluations of one subject each as one of all."""
    return replace(
        single[0],
        subjects=tuple(
            replace(one.subjects[0], name=f"model {number}") for number, one in enumerate(single)
        ),
        measurements={
            key: tuple(one.measurements[key][0] for one in single) for key in single[0].measurements
        },
    )


def test_one_masked_subject_of_many_is_enough() -> None:
    honest = attacked(PIXEL, {"pgd": among(), "square": among()})
    masked = attacked(PIXEL, {"pgd": among(0, 1, 2), "square": among()})
    found = codes(together(*[honest] * 9, masked, honest))[MASKED]
    assert (found["subject"], found["share_only_it_breaks"]) == ("model 9", 3 / N)


def test_every_subjects_probes_speak() -> None:
    done = together(*[attacked(PIXEL, {"pgd": among()})] * 2)
    probes = [{"subject": "a", **PROBES}, {"subject": "b", **PROBES, "zero_gradients": 1.0}]
    told = codes(replace(done, evidence={PIXEL.id: probes}))
    assert told["zero_gradients"]["subject"] == "b"


def test_balls_without_untargeted_gradients_are_named() -> None:
    def named(done: Evaluated) -> list[str]:
        return list(codes(done).get("no_gradient_attack", {"balls": []})["balls"])

    assert named(attacked(QUICK, {"pgd": among(), "deepfool": among()}, "targeted")) == [
        *("linf 8/255", "l2 1/2")
    ]
    assert named(attacked(QUICK, {"square": among(), "pgd-l2": among()})) == ["linf 8/255"]
    assert named(attacked(PIXEL, {"autoattack": among(), "square": among()})) == []
    assert named(attacked(PUBLISHED, {"deepfool": among(), "cw": among()})) == []
    assert named(attacked(PUBLISHED, {"cw": among()}, "targeted")) == ["unbounded"]
    assert named(made(attacks=["clean"])) == []


@pytest.mark.parametrize(
    ("attacks", "changes", "weak"),
    [
        (["fgsm"], {}, {"linf 8/255": ["fgsm"]}),
        (["fgsm", "pgd-l2"], {}, {"linf 8/255": ["fgsm"]}),
        (["fgsm", "square"], {}, {"linf 8/255": ["fgsm"]}),
        (["fgsm", "pgd"], {}, {}),
        (["fgsm", "autoattack"], {}, {}),
        (["fgsm", "mi-fgsm"], {}, {}),
        (["pgd"], {"pgd": {"steps": 1, "step": "1"}}, {"linf 8/255": ["pgd"]}),
        (["pgd"], {"pgd": {"steps": 4, "step": "2/255"}}, {}),
        (["pgd"], {"pgd": {"steps": 3, "step": "2/255"}}, {"linf 8/255": ["pgd"]}),
        (["pgd"], {"pgd": {"steps": 1, "step": "1/255", "epsilon": "24/255"}},
         {"linf 24/255": ["pgd"]}),
        (["mi-fgsm", "vmi-fgsm"], {"mi-fgsm": {"steps": 1}, "vmi-fgsm": {"steps": 2}},
         {"linf 8/255": ["mi-fgsm", "vmi-fgsm"]}),
    ],
)  # fmt: skip
def test_balls_that_attacks_cannot_cross_are_named(
    attacks: list[str], changes: dict[str, dict[str, Any]], weak: dict[str, list[str]]
) -> None:
    done = attacked(overridden(PIXEL, changes), {name: among() for name in attacks})
    assert codes(done).get("weak_attacks", {"balls": {}})["balls"] == weak


@pytest.mark.parametrize(
    ("protocol", "attacks", "changes", "small"),
    [
        (QUICK, ["pgd", "pgd-l2"], {}, {"linf 8/255": ["pgd"], "l2 1/2": ["pgd-l2"]}),
        (QUICK, ["autoattack"], {}, {"linf 8/255": ["autoattack"]}),
        (QUICK, ["pgd", "autoattack"], {"autoattack": {"steps": 100, "queries": 5000}}, {}),
        (PUBLISHED, ["pgd"], {}, {}),
        (PUBLISHED, ["pgd", "autoattack", "cw"], {}, {"linf 8/255": ["autoattack"]}),
        (PUBLISHED, ["autoattack"], {"autoattack": {"steps": 100}}, {}),
        (PIXEL, ["pgd", "autoattack", "autoattack-l2"], {}, {}),
        (PIXEL, ["autoattack"], {"autoattack": {"steps": 1}}, {"linf 8/255": ["autoattack"]}),
        (PIXEL, ["pgd", "apgd-ce"], {"apgd-ce": {"steps": 2}}, {"linf 8/255": ["apgd-ce"]}),
        (PIXEL, ["pgd", "square"], {"square": {"queries": 9}}, {"linf 8/255": ["square"]}),
        (PIXEL, ["pgd", "autoattack"], {"pgd": {"steps": 2}}, {}),
        (PIXEL, ["pgd", "autoattack-plus"], {"pgd": {"steps": 2}}, {}),
        (PIXEL, ["pgd", "autoattack-rand"], {"pgd": {"steps": 2}}, {"linf 8/255": ["pgd"]}),
        (PIXEL, ["pgd"], {"pgd": {"steps": 50, "restarts": 3}}, {}),
    ],
)
def test_balls_whose_attacks_had_little_are_named(
    protocol: Protocol,
    attacks: list[str],
    changes: dict[str, dict[str, Any]],
    small: dict[str, list[str]],
) -> None:
    done = attacked(overridden(protocol, changes), {name: among() for name in attacks})
    assert codes(done).get("small_budget", {"balls": {}})["balls"] == small


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_survivors_on_the_boundary_are_counted_whatever_the_scale(size: float) -> None:
    margin = torch.full((N,), 1.0)
    margin[:4] = NOISE / 2
    margin[4:8] = -NOISE / 2  # wrong by as little
    right = margin > 0
    what = Measure(QUICK.id, "pgd", "untargeted")
    noisy = replace(left(right, what), margin=size * margin, spread=torch.full((N,), size))
    clean = left(among(*range(N)), Measure(QUICK.id, "clean", None))
    done = made(
        attacks=["clean", "pgd"],
        modes=["untargeted"],
        subjects=1,
        changed={"pgd/untargeted": noisy, "clean": clean},
    )
    evidence = codes(done)["boundary_noise"]
    assert (evidence["attack"], evidence["share_of_images"]) == ("pgd/untargeted", 4 / N)
    assert evidence["subject"] == "model 0"
    mean = together(*[attacked(QUICK, {"pgd": among()})] * 9, done)
    assert codes(mean)["boundary_noise"]["subject"] == "model 9"
    assert "boundary_noise" not in codes(attacked(QUICK, {"pgd": among(*range(9))}))


def test_the_clamp_is_doubted_by_its_own_measure() -> None:
    done = attacked(PUBLISHED, {"pgd": among(*range(20))}, probes=None)
    assert list(codes(done)) == ["not_probed"]
    clamped = left(among(*range(30)), Measure(PUBLISHED.id, "clamp", None))
    clean = left(among(*range(N)), Measure(PUBLISHED.id, "clean", None))
    done = made(
        PUBLISHED,
        ["clean", "clamp"],
        subjects=1,
        probes=None,
        changed={"clean": clean, "clamp": clamped},
    )
    assert codes(done)["clamp_sensitive"]["lost_without_attack"] == pytest.approx(10 / N)
    unmoved = made(
        PUBLISHED,
        ["clean", "clamp"],
        subjects=1,
        probes=None,
        changed={"clean": clean, "clamp": clean},
    )
    several = together(*[unmoved] * 9, done)
    assert codes(several)["clamp_sensitive"]["subject"] == "model 9"


def test_trust_follows_from_findings() -> None:
    clean = attacked(PIXEL, {"pgd": among(1), "square": among(1)})
    assert (codes(clean), report(clean).trust) == ({}, "high")
    masked = attacked(QUICK, {"pgd": among(*range(9)), "square": among()})
    assert report(masked).trust == "low"
    assert report(attacked(PIXEL, {"square": among(1)})).trust == "limited"
    assert list(codes(attacked(PIXEL, {"pgd": among(1)}, probes=None))) == ["not_probed"]


def test_the_table_has_a_row_for_every_image_of_every_measure() -> None:
    done = made()
    tables = list(outcome_tables(done))
    keys = [(t.subject, t.protocol, t.attack, t.mode) for t in tables]
    assert keys == [
        (subject, "quick@1", what.attack, what.mode or "")
        for what in done.parts[0].measures
        for subject in range(2)
    ]
    for table in tables:
        assert isinstance(table, Outcomes)  # which checks its columns against each other
        assert torch.equal(table.image, 2 * torch.arange(N))
        assert torch.equal(table.label, labels())
        name = f"{table.attack}/{table.mode}" if table.mode else table.attack
        one = done.measurements["quick@1", name][table.subject].faced
        assert torch.equal(table.prediction, one.prediction)
        assert torch.equal(table.queries, one.queries)


def test_times_are_kept_apart_with_the_metrics_made_of_them() -> None:
    done = made(attacks=["clean", "fgsm", "pgd"], modes=["untargeted"])
    told = timing_report(done, {"device": "cpu"})
    assert told.hardware == {"device": "cpu"}
    assert {name: one.seconds for name, one in told.seconds["quick@1"].items()} == {
        name: [1.5 + len(name), 2.5 + len(name)]
        for name in ("clean", "fgsm/untargeted", "pgd/untargeted")
    }
    cells = [
        metrics.AttackCell(
            name,
            100 * fmean(r["correct"] for of in rows(done, f"{name}/untargeted") for r in of),
            2 + len(f"{name}/untargeted"),
        )
        for name in ("fgsm", "pgd")
    ]
    clean = 100 * fmean(row["correct"] for of in rows(done, "clean") for row in of)
    scores = metrics.measure(metrics.Group(clean, 2 + len("clean"), cells), degenerate="sound")
    only = told.metrics["quick@1"]["untargeted"]
    assert only["AE"] == pytest.approx(scores.efficiency.value)
    assert only["RR"] == pytest.approx(scores.robustness["beard"].value)
    assert list(told.metrics["quick@1"]) == ["untargeted"]


def test_protocols_are_reported_in_the_order_asked() -> None:
    one, other = made(QUICK, ["clean", "pgd"]), made(PUBLISHED, ["clean", "pgd"])
    both = replace(
        one,
        parts=(*other.parts, *one.parts),
        measurements={**one.measurements, **other.measurements},
    )
    told = protocol_reports(both, seed=7, students=True)
    assert [report.id for report in told] == ["rome-2025@1", "quick@1"]
    assert told[1] == report(one)
