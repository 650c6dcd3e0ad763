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
from rome_core.findings import CLAMP_COST, NOISE, TOLERANCE, Evidence, Finding, findings, trust
from rome_core.recipes.protocols import PROTOCOLS, overridden
from rome_core.recipes.report import ProtocolReport
from tests.rome_core.evaluation.conftest import bound, some, trained

CLEAR: dict[str, Any] = {
    "images": 64,
    "outputs_are_probabilities": False,
    "forward_difference": 0.0,
    "zero_gradients": 0.0,
    "clean": 0.9,
    "curve": [["0", 0.9], ["1/255", 0.8], ["8/255", 0.4]],
    "unbounded": 0.0,
    "epsilon": "8/255",
    "steps": [[10, 0.4], [40, 0.39]],
    "clean_all": 0.9,
    "clamped_all": 0.9,
}


def evidence(probes: dict[str, Any] | None = None, **changes: Any) -> Evidence:
    known: dict[str, Any] = {
        "domain": "pixel",
        "clean": 0.9,
        "worst": 0.4,
        "probes": {**CLEAR, **(probes or {})},
        "gradient_attacks": ["pgd"],
    }
    return Evidence(**{**known, **changes})


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
        ({"steps": [[10, 0.4], [40, 0.3]]}, {}, "too_few_steps", "limited"),
        ({}, {"query_only": {"linf 8/255": 0.1}}, "black_box_beats_white_box", "low"),
        ({}, {"noisy": {"deepfool/untargeted": 0.2}}, "boundary_noise", "limited"),
        ({}, {"gradient_attacks": []}, "no_gradient_attack", "limited"),
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
    measured = evidence(probes=None, domain="reference", clean=0.6995, clamped=0.5081)
    (found,) = [f for f in findings(measured) if f.code == "clamp_sensitive"]
    assert found.severity == "critical"
    assert found.evidence["lost_without_attack"] == pytest.approx(0.1914)
    unprobed = Evidence("reference", 0.6995, 0.27, None, clamped=0.5081, gradient_attacks=["pgd"])
    assert codes(findings(unprobed)) == ["clamp_sensitive", "not_probed"]
    assert codes(findings(Evidence("reference", 0.7, 0.3, None, gradient_attacks=["pgd"]))) == [
        "not_probed"
    ]


def test_the_gravest_come_first() -> None:
    mixed = evidence({"steps": [[10, 0.4], [40, 0.3]], "unbounded": 0.5}, overridden=["pgd.steps"])
    severities = [finding.severity for finding in findings(mixed)]
    assert severities == ["critical", "warning", "info"]


@pytest.mark.parametrize(
    ("probes", "changes"),
    [
        ({"forward_difference": NOISE}, {}),
        ({"unbounded": TOLERANCE}, {}),
        ({"curve": [["0", 0.5], ["1/255", 0.5 + TOLERANCE / 2], ["8/255", 0.5]]}, {}),
        ({"steps": [[10, 0.4], [40, 0.4 - TOLERANCE / 2]]}, {}),
        ({"steps": [[10, 0.4], [40, 0.6]]}, {}),  # for the curve to tell
        ({}, {"query_only": {"linf 8/255": TOLERANCE}}),
        ({}, {"noisy": {"deepfool/untargeted": TOLERANCE}}),
        ({"clamped_all": 0.9 - CLAMP_COST / 2}, {"domain": "reference"}),
        ({"clamped_all": 1.0}, {"domain": "reference"}),
        ({}, {"gradient_attacks": [], "worst": None}),  # nothing was attacked at all
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
            "steps": [[10, 0.9], [40, 0.1]],
            "clamped_all": 0.0,
            "curve": [["0", 0.0], ["1/255", 1.0]],
        },
        query_only={"linf 8/255": 1.0},
        noisy={"cw/targeted": 1.0},
        overridden=["pgd.steps"],
        gradient_attacks=[],
    )
    told = [finding.as_dict() for finding in findings(worst)]
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert len({one["code"] for one in told}) == len(told) == 11


def seen(model: Callable[[Tensor], Tensor], protocol: str = "quick@1", **changes: Any) -> list[str]:
    """The codes of what is found in a real model."""
    test = changes.pop("test", None) or some(40)
    probes = probe(model, test, PROTOCOLS[protocol], whole=test, seed=1)
    domain = str(PROTOCOLS[protocol].domain)
    return codes(findings(evidence(probes, domain=domain, clean=None, **changes)))


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
    return TestSet(pixels, labels, torch.arange(n), 2, (0.5,), (0.2,))


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
    test = TestSet(light, torch.arange(40) % 2, torch.arange(40), 2, (0.5,), (0.2,))

    def bright(x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([1.75 - mean, mean - 1.75], dim=1)

    assert "clamp_sensitive" in seen(bright, "rome-2025@1", test=test)
    assert "clamp_sensitive" in seen(bright, "quick@1", test=test)
    assert "clamp_sensitive" not in seen(bound(trained()), "rome-2025@1")


def test_what_gradients_leave_and_queries_break_is_doubted() -> None:
    """The rounded network again, as a whole evaluation sees it: Square needs no gradient."""
    protocol = overridden(
        PROTOCOLS["quick@1"],
        {
            "pgd": {"epsilon": "48/255", "step": "12/255"},
            "square": {"epsilon": "48/255", "queries": 40},
        },
    )
    test = some(30)
    entries = tuple(protocol.entry(name) for name in ("clean", "pgd", "square"))
    asked = tuple(measures(protocol, entries, ["untargeted"]))

    def report(model: Callable[[Tensor], Tensor]) -> ProtocolReport:
        found = {
            (protocol.id, what.name): (
                Measurement(
                    what,
                    face(
                        model, test, protocol, protocol.entry(what.attack), what.mode, seed=1
                    ).faced,
                    1.0,
                ),
            )
            for what in asked
        }
        part = Part(protocol, entries, asked, test, ("untargeted",))
        done = Evaluated((), (), (part,), found, {}, {}, len(test), ())
        return protocol_reports(done, seed=1)[0]

    masked, honest = report(rounded), report(bound(trained()))
    assert "black_box_beats_white_box" in [one["code"] for one in masked.findings]
    assert masked.trust == "low"
    assert "black_box_beats_white_box" not in [one["code"] for one in honest.findings]
    assert honest.trust == "high"
