"""Doubts are raised where the evidence deserves them, and not where it does not."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rome_core.evaluation.evaluation import Evaluated, Measurement, Part
from rome_core.evaluation.probes import probe
from rome_core.evaluation.reporting import protocol_reports
from rome_core.evaluation.robustness import TestSet, face, measures
from rome_core.findings import (
    CLAMP_COST,
    NOISE,
    TOLERANCE,
    Clamped,
    Count,
    Evidence,
    Finding,
    findings,
    trust,
)
from rome_core.recipes.protocols import PROTOCOLS, overridden
from rome_core.space import Normalised
from tests.rome_core.evaluation.conftest import bound, some, subject, trained

CLEAR: dict[str, Any] = {
    "subject": "model",
    "images": 64,
    "outputs_are_constant": False,
    "outputs_are_probabilities": False,
    "forward_difference": 0.0,
    "zero_gradients": 0.0,
    "clean": 0.9,
    "curve": [["0", 0.9], ["1/255", 0.8], ["8/255", 0.4]],
    "unbounded": 0.0,
    "converged": [
        {"attack": "pgd", "ball": "linf 8/255", "steps": [10, 40], "accuracy": [0.4, 0.39]}
    ],
    "images_all": 500,
    "clean_all": 0.9,
    "clamped_all": 0.9,
}


def evidence(probes: dict[str, Any] | None = None, **changes: Any) -> Evidence:
    known: dict[str, Any] = {"domain": "pixel", "probes": [{**CLEAR, **(probes or {})}]}
    return Evidence(**{**known, **changes})


def more_steps(short: float, long: float) -> dict[str, Any]:
    one = {"attack": "pgd", "ball": "linf 8/255", "steps": [10, 40], "accuracy": [short, long]}
    return {"converged": [one]}


def of(images: int, whole: int = 100) -> Count:
    return Count("model", images, whole)


def codes(found: list[Finding]) -> list[str]:
    return [finding.code for finding in found]


def test_nothing_speaks_against_clear_evidence() -> None:
    assert findings(evidence()) == []
    assert trust([]) == "high"


@pytest.mark.parametrize(
    ("probes", "changes", "code", "level"),
    [
        ({"outputs_are_probabilities": True}, {}, "softmax_outputs", "low"),
        ({"forward_difference": 0.1}, {}, "randomised_outputs", "low"),
        ({"zero_gradients": 0.5}, {}, "zero_gradients", "low"),
        ({"zero_gradients": 0.05}, {}, "zero_gradients", "limited"),
        ({"unbounded": 0.3}, {}, "unbounded_attack_fails", "low"),
        ({"curve": [["0", 0.9], ["1/255", 0.4], ["8/255", 0.6]]}, {}, "not_monotone", "low"),
        (more_steps(0.4, 0.3), {}, "too_few_steps", "limited"),
        ({}, {"query_only": {"linf 8/255": of(10)}}, "black_box_beats_white_box", "low"),
        ({}, {"noisy": {"deepfool/untargeted": of(20)}}, "boundary_noise", "limited"),
        ({}, {"without_gradients": ["linf 8/255"]}, "no_gradient_attack", "limited"),
        ({}, {"weak": {"linf 8/255": ["fgsm"]}}, "weak_attacks", "limited"),
        ({}, {"small": {"linf 8/255": ["pgd"]}}, "small_budget", "limited"),
        ({"outputs_are_constant": True}, {}, "constant_outputs", "low"),
        ({}, {"overridden": ["pgd.steps"]}, "overridden", "high"),
        ({"clamped_all": 0.6}, {"domain": "reference"}, "clamp_sensitive", "low"),
        ({"clamped_all": 0.6}, {}, "clamp_sensitive", "high"),
    ],
)
def test_each_doubt_alone(
    probes: dict[str, Any], changes: dict[str, Any], code: str, level: str
) -> None:
    found = findings(evidence(probes, **changes))
    assert codes(found) == [code]
    assert trust(found) == level
    told = found[0].as_dict()
    assert told["title"]
    assert told["remedy"]


def test_what_was_measured_beside_the_attacks_needs_no_probe() -> None:
    """BEARD's released BACON: 69.95 clean, 50.81 under the clamp alone."""
    bacon = [Clamped("BACON", 0.6995, 0.5081, 10_000)]
    measured = evidence(probes=None, domain="reference", clamped=bacon)
    (found,) = [f for f in findings(measured) if f.code == "clamp_sensitive"]
    assert found.severity == "critical"
    assert found.evidence["lost_without_attack"] == pytest.approx(0.1914)
    assert codes(findings(Evidence("reference", clamped=bacon))) == [
        *("clamp_sensitive", "not_probed")
    ]
    assert codes(findings(Evidence("reference"))) == ["not_probed"]


def test_every_subject_is_doubted_by_name() -> None:
    first, second = {**CLEAR, "subject": "a"}, {**CLEAR, "subject": "b", "unbounded": 0.5}
    flat, soft = {**CLEAR, "zero_gradients": 1.0}, {**CLEAR, "outputs_are_probabilities": True}
    found = findings(Evidence("pixel", [first, second]))
    assert [(one.code, one.evidence["subject"]) for one in found] == [
        ("unbounded_attack_fails", "b")
    ]
    both = findings(Evidence("pixel", [{**flat, "subject": "c"}, {**soft, "subject": "d"}]))
    assert [(one.code, one.evidence["subject"]) for one in both] == [
        ("zero_gradients", "c"),
        ("softmax_outputs", "d"),
    ]
    clamped = [Clamped("e", 0.9, 0.9, 100), Clamped("f", 0.9, 0.6, 100), Clamped("g", 0.9, 1, 100)]
    (lost,) = findings(Evidence("reference", [first], clamped=clamped))
    assert (lost.code, lost.evidence["subject"]) == ("clamp_sensitive", "f")


def test_constant_outputs_stand_in_for_what_follows_from_them() -> None:
    """A constant predictor of one class has no slope, and looks like a softmax."""
    constant = {
        "outputs_are_constant": True,
        "outputs_are_probabilities": True,
        "zero_gradients": 1.0,
        "unbounded": 0.9,
    }
    assert codes(findings(evidence(constant))) == ["constant_outputs"]


def test_the_gravest_come_first() -> None:
    mixed = evidence({**more_steps(0.4, 0.3), "unbounded": 0.5}, overridden=["pgd.steps"])
    severities = [finding.severity for finding in findings(mixed)]
    assert severities == ["critical", "warning", "info"]


@pytest.mark.parametrize(
    ("probes", "changes"),
    [
        ({"forward_difference": NOISE}, {}),
        ({"unbounded": TOLERANCE}, {}),
        ({"curve": [["0", 0.5], ["1/255", 0.5 + TOLERANCE / 2], ["8/255", 0.5]]}, {}),
        (more_steps(0.4, 0.4 - TOLERANCE / 2), {}),
        (more_steps(0.4, 0.6), {}),  # for the curve to tell
        ({}, {"query_only": {"linf 8/255": of(4, 200)}}),
        ({}, {"noisy": {"deepfool/untargeted": of(4, 200)}}),
        ({"clamped_all": 0.9 - CLAMP_COST / 2}, {"domain": "reference"}),
        ({"clamped_all": 1.0}, {"domain": "reference"}),
        # Two images are an accident, however few there are.
        ({"images": 20, "unbounded": 0.1}, {}),
        ({"images": 20, "curve": [["0", 0.9], ["1/255", 0.4], ["8/255", 0.5]]}, {}),
        ({"images": 20, **more_steps(0.4, 0.3)}, {}),
        ({}, {"query_only": {"linf 8/255": of(2, 20)}}),
        ({}, {"noisy": {"deepfool/untargeted": of(2, 20)}}),
        ({"images_all": 20, "clamped_all": 0.8}, {"domain": "reference"}),
        ({}, {"domain": "reference", "clamped": [Clamped("model", 0.9, 0.8, 20)]}),
        # Three of sixty are 5 points, whatever floats make of it.
        ({}, {"domain": "reference", "clamped": [Clamped("model", 58 / 60, 55 / 60, 60)]}),
    ],
)
def test_what_chance_or_rounding_explains_is_no_doubt(
    probes: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert findings(evidence(probes, **changes)) == []


def test_findings_are_json() -> None:
    worst = evidence(
        {
            "unbounded": 1.0,
            "outputs_are_probabilities": True,
            "forward_difference": 1.0,
            "zero_gradients": 1.0,
            **more_steps(0.9, 0.1),
            "clamped_all": 0.0,
            "curve": [["0", 0.0], ["1/255", 1.0]],
        },
        query_only={"linf 8/255": of(100)},
        noisy={"cw/targeted": of(100)},
        overridden=["pgd.steps"],
        without_gradients=["l2 1/2"],
        weak={"linf 8/255": ("fgsm",)},
        small={"linf 8/255": ("fgsm",)},
    )
    told = [finding.as_dict() for finding in findings(worst)]
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert len({one["code"] for one in told}) == len(told) == 13


def seen(model: Callable[[Tensor], Tensor], protocol: str = "quick@1", **changes: Any) -> list[str]:
    """The codes of what is found in a real model."""
    test = changes.pop("test", None) or some(40)
    own = PROTOCOLS[protocol]
    probes = probe(model, test, own, [own.entry("pgd")], whole=test, seed=1)
    return codes(findings(evidence(probes, domain=str(own.domain), **changes)))


def scaled(x: Tensor) -> Tensor:
    return 1e4 * trained()(x)


def rounded(x: Tensor) -> Tensor:
    return trained()((4 * x).round() / 4)


def softmax(x: Tensor) -> Tensor:
    return (8 * trained()(x)).softmax(dim=1)


class Drawing:
    """A network that adds noise of its own to what it sees."""

    def __init__(self) -> None:
        self.draws = torch.Generator().manual_seed(1)

    def __call__(self, x: Tensor) -> Tensor:
        return trained()(x + 0.3 * torch.randn(x.shape, generator=self.draws))


def test_an_honest_network_is_not_doubted() -> None:
    assert seen(bound(trained())) == []


def test_saturated_losses_are_doubted() -> None:
    """Logits of ten thousands: the gradient of the cross-entropy underflows."""
    assert seen(scaled) == ["zero_gradients", "unbounded_attack_fails"]


def test_rounded_inputs_are_doubted() -> None:
    """A defence that breaks gradients and nothing else: all its accuracy survives any attack."""
    assert seen(rounded) == ["zero_gradients", "unbounded_attack_fails"]


def test_probabilities_are_doubted() -> None:
    assert "softmax_outputs" in seen(softmax)


def constant(x: Tensor) -> Tensor:
    return torch.eye(10)[3].expand(len(x), 10) + 0 * x.flatten(1).sum(dim=1, keepdim=True)


def test_one_answer_for_all_is_doubted_as_such() -> None:
    assert seen(constant) == ["constant_outputs"]


def test_the_scale_of_logits_is_nobodys_business() -> None:
    assert seen(lambda x: 1e-6 * trained()(x)) == []


def test_noise_is_doubted() -> None:
    assert seen(Drawing())[0] == "randomised_outputs"


def one_value(answer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Two classes: the second's lead is `answer` of how far values are above a half, in 255ths."""

    def model(x: Tensor) -> Tensor:
        pixels = 0.2 * x + 0.5  # as `grey` is normalised
        lead = answer(255 * (pixels.flatten(1) - 0.5))
        return torch.stack([-lead / 2, lead / 2], dim=1)

    return model


def grey(n: int = 4) -> TestSet:
    """Images that are a half everywhere, all of the first class."""
    pixels, labels = torch.full((n, 1, 8, 8), 0.5), torch.zeros(n, dtype=torch.int64)
    return TestSet(pixels, labels, torch.arange(n), 2, Normalised.of((0.5,), (0.2,)))


def test_a_region_that_large_steps_leap_over_is_doubted() -> None:
    """Wrong between 2.2 and 5.8 of 255, and its slope leads back there from both sides."""
    shell = one_value(lambda above: 1.8 - (above[:, 0] - 4).abs())
    assert seen(shell, test=grey()) == ["unbounded_attack_fails", "not_monotone"]


def test_a_path_that_opens_step_by_step_needs_more_steps() -> None:
    """Each value matters once the one before it has grown by 4 of 255, and the last one decides."""

    def path(above: Tensor) -> Tensor:
        grown = (above[:, :9] / 4).clamp_max(1)
        gates = torch.cat([torch.ones_like(grown[:, :1]), (grown[:, :-1] >= 0.99).float()], dim=1)
        return (grown * gates.cumprod(dim=1)).sum(dim=1) - 8.5

    assert seen(one_value(path), test=grey()) == ["too_few_steps"]


def test_clamped_brightness_is_doubted_where_it_is_clamped() -> None:
    """Classes by brightness, all above one standard deviation: the clamp makes them one."""
    light = 0.75 + 0.2 * torch.arange(40).view(-1, 1, 1, 1).remainder(2) * torch.ones(1, 1, 8, 8)
    test = TestSet(light, torch.arange(40) % 2, torch.arange(40), 2, Normalised.of((0.5,), (0.2,)))

    def bright(x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([1.75 - mean, mean - 1.75], dim=1)

    assert "clamp_sensitive" in seen(bright, "rome-2025@1", test=test)
    assert "clamp_sensitive" in seen(bright, "quick@1", test=test)
    assert "clamp_sensitive" not in seen(bound(trained()), "rome-2025@1")


SIZES: dict[str, dict[str, Any]] = {
    "fgsm": {"epsilon": "48/255"},
    "pgd": {"epsilon": "48/255", "step": "12/255"},
    "square": {"epsilon": "48/255", "queries": 40},
    "autoattack": {"epsilon": "48/255", "steps": 5, "queries": 40},
}


def found_in(model: Callable[[Tensor], Tensor], attacks: list[str]) -> list[str]:
    """The codes of what a whole evaluation says of a model."""
    protocol, test = overridden(PROTOCOLS["pixel@1"], SIZES), some(30)
    entries = tuple(protocol.entry(name) for name in ["clean", *attacks])
    asked = tuple(measures(protocol, entries, ["untargeted"]))
    measured = {}
    for what in asked:
        entry = protocol.entry(what.attack)
        faced = face(model, test, protocol, entry, what.mode, seed=1).faced
        measured[protocol.id, what.name] = (Measurement(what, faced, 1.0),)
    part = Part(protocol, entries, asked, test, ("untargeted",))
    done = Evaluated((subject(),), (), (part,), measured, {}, {}, len(test), ())
    (report,) = protocol_reports(done, seed=1, students=False)
    return [one["code"] for one in report.findings]


@pytest.mark.parametrize(
    ("model", "attacks"),
    [
        (rounded, ["pgd", "square"]),
        (scaled, ["pgd", "square"]),
        # AutoAttack's DLR loss knows no scale, and breaks what the others' cross-entropy leaves.
        (scaled, ["pgd", "square", "autoattack"]),
        # Its Square is the only attack without gradients here.
        (rounded, ["fgsm", "pgd", "autoattack"]),
        (rounded, ["autoattack"]),
    ],
)
def test_what_gradients_leave_and_queries_break_is_doubted(
    model: Callable[[Tensor], Tensor], attacks: list[str]
) -> None:
    """The masked networks again, as a whole evaluation sees them: Square needs no gradient."""
    assert found_in(model, attacks)[0] == "black_box_beats_white_box"


@pytest.mark.parametrize("attacks", [["pgd", "square", "autoattack"], ["fgsm", "square"]])
def test_an_honest_network_has_no_masked_gradients(attacks: list[str]) -> None:
    """One step of FGSM is weaker than Square, and masks nothing."""
    assert "black_box_beats_white_box" not in found_in(bound(trained()), attacks)
