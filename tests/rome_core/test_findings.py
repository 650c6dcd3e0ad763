"""Doubts are raised where the evidence deserves them, and not where it does not."""

from typing import Any

import pytest

from rome_core.findings import Evidence, Finding, findings, trust

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
    seen = evidence(probes=None, domain="reference", clean=0.6995, clamped=0.5081)
    (found,) = [f for f in findings(seen) if f.code == "clamp_sensitive"]
    assert found.severity == "critical"
    assert found.evidence["lost_without_attack"] == pytest.approx(0.1914)
    unprobed = Evidence("reference", 0.6995, 0.27, None, clamped=0.5081, gradient_attacks=["pgd"])
    assert codes(findings(unprobed)) == ["clamp_sensitive", "not_probed"]
    assert codes(findings(Evidence("reference", 0.7, 0.3, None, gradient_attacks=["pgd"]))) == [
        "not_probed"
    ]


def test_the_gravest_come_first() -> None:
    seen = evidence({"steps": [[10, 0.4], [40, 0.3]], "unbounded": 0.5}, overridden=["pgd.steps"])
    severities = [finding.severity for finding in findings(seen)]
    assert severities == ["critical", "warning", "info"]
