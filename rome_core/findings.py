"""Doubt as data: what speaks against believing a robustness number. Torch-free.

After the flags of AutoAttack (Croce and Hein 2020) and the checklist of Carlini et al. 2019, "On
Evaluating Adversarial Robustness". A finding has a code, a severity, the evidence it rests on and a
remedy. The trust in a protocol's numbers follows from its findings alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

Severity = Literal["info", "warning", "critical"]
Trust = Literal["high", "limited", "low"]

TOLERANCE = 0.02
"""Of accuracy, between two attacks on the same images: below it nothing is concluded."""

CLAMP_COST = 0.05
"""Of accuracy that the clamp alone may cost before a published number is one of the clamp."""

NOISE = 1e-4
"""Of a logit margin: an answer closer than this to the boundary is rounding."""


@dataclass(frozen=True)
class Finding:
    """One reason for doubt."""

    code: str
    severity: Severity
    title: str
    evidence: Mapping[str, Any]
    remedy: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "severity": self.severity,
            "title": self.title,
            "evidence": dict(self.evidence),
            "remedy": self.remedy,
        }


@dataclass(frozen=True)
class Evidence:
    """What is known of one protocol's numbers. Accuracies are fractions in [0, 1].

    `worst` is under all attacks together, None where there were none. `probes` is what
    `rome_core.evaluation.probes` gives, None where they did not run. `query_only` maps balls in
    which attacks of both kinds ran to the share of images that query attacks break and no gradient
    attack does. `noisy` maps measures to the share of images left right by a margin below NOISE.
    `clamped` is accuracy under the published clamp alone, where it was measured beside the attacks.
    `overridden` are paths of settings, `gradient_attacks` names.
    """

    domain: str
    clean: float | None
    worst: float | None
    probes: Mapping[str, Any] | None = None
    query_only: Mapping[str, float] = field(default_factory=dict)
    noisy: Mapping[str, float] = field(default_factory=dict)
    clamped: float | None = None
    overridden: Sequence[str] = ()
    gradient_attacks: Sequence[str] = ()


def findings(evidence: Evidence) -> list[Finding]:
    """Everything that speaks against the numbers, the gravest first."""
    order = {"critical": 0, "warning": 1, "info": 2}
    return sorted(_all(evidence), key=lambda finding: order[finding.severity])


def trust(found: Sequence[Finding]) -> Trust:
    """`high` unless something is doubtful, `low` if something is critical."""
    severities = {finding.severity for finding in found}
    if "critical" in severities:
        return "low"
    return "limited" if "warning" in severities else "high"


def _all(evidence: Evidence) -> Iterator[Finding]:
    yield from _black_box(evidence)
    yield from _boundary(evidence)
    if evidence.probes is None:
        yield Finding(
            "not_probed",
            "info",
            "The model was not looked at for masked gradients.",
            {},
            "Evaluate with probes: true.",
        )
    else:
        yield from _outputs(evidence.probes)
        yield from _gradients(evidence.probes)
        yield from _curve(evidence.probes)
    yield from _clamp(evidence)
    if not evidence.gradient_attacks and evidence.worst is not None:
        yield Finding(
            "no_gradient_attack",
            "warning",
            "No attack with gradients was run, so the worst case is an upper bound only.",
            {},
            "Add pgd or autoattack.",
        )
    if evidence.overridden:
        yield Finding(
            "overridden",
            "info",
            "Settings of the protocol were changed: the numbers are not the protocol's own.",
            {"settings": list(evidence.overridden)},
            "Leave overrides out for numbers that others can compare.",
        )


def _black_box(evidence: Evidence) -> Iterator[Finding]:
    for ball, share in evidence.query_only.items():
        if share > TOLERANCE:
            yield Finding(
                "black_box_beats_white_box",
                "critical",
                "An attack without gradients breaks images that gradient attacks leave: gradients "
                "are masked.",
                {"ball": ball, "share_only_it_breaks": share},
                "Believe the worst case only, and add autoattack and square with more queries.",
            )


def _boundary(evidence: Evidence) -> Iterator[Finding]:
    for attack, share in evidence.noisy.items():
        if share > TOLERANCE:
            yield Finding(
                "boundary_noise",
                "warning",
                "Images count as right by a margin that is rounding: the attack ends on the "
                "boundary itself, and its accuracy changes with the hardware.",
                {"attack": attack, "share_of_images": share, "margin_below": NOISE},
                "Do not compare this attack's accuracy; take an overshoot on the total "
                "perturbation.",
            )


def _outputs(probes: Mapping[str, Any]) -> Iterator[Finding]:
    if probes["outputs_are_probabilities"]:
        yield Finding(
            "softmax_outputs",
            "critical",
            "The outputs are probabilities, not logits: their gradients vanish where the model is "
            "sure.",
            {"images": probes["images"]},
            "Evaluate the network without its softmax.",
        )
    if probes["forward_difference"] > NOISE:
        yield Finding(
            "randomised_outputs",
            "critical",
            "The same image gives different outputs: attacks chase noise.",
            {"largest_difference": probes["forward_difference"]},
            "Use autoattack-rand, which averages gradients.",
        )


def _gradients(probes: Mapping[str, Any]) -> Iterator[Finding]:
    if probes["zero_gradients"] > 0:
        yield Finding(
            "zero_gradients",
            "critical" if probes["zero_gradients"] > 0.1 else "warning",
            "At some images the loss has no slope: gradient attacks cannot start there.",
            {"share": probes["zero_gradients"], "images": probes["images"]},
            "Attack with the DLR loss (apgd-dlr) and with square.",
        )
    if probes["unbounded"] > TOLERANCE:
        yield Finding(
            "unbounded_attack_fails",
            "critical",
            "An attack that may change images at will leaves some right: it fails for a reason "
            "other than robustness.",
            {"accuracy": probes["unbounded"], "images": probes["images"]},
            "Look for masked gradients; believe black-box attacks first.",
        )


def _curve(probes: Mapping[str, Any]) -> Iterator[Finding]:
    curve = [(text, accuracy) for text, accuracy in probes["curve"]]
    rises = [
        {"from": before[0], "to": after[0], "rise": after[1] - before[1]}
        for before, after in pairwise(curve)
        if after[1] > before[1] + TOLERANCE
    ]
    if rises:
        yield Finding(
            "not_monotone",
            "critical",
            "Accuracy rises where the attacker may do more: the attack fails, not the attacker.",
            {"rises": rises, "images": probes["images"]},
            "Use an attack that adapts its steps (apgd-ce, autoattack).",
        )
    (short, before), (long, after) = probes["steps"]
    if before - after > TOLERANCE:
        yield Finding(
            "too_few_steps",
            "warning",
            "Accuracy still falls with more steps: the attack had not converged.",
            {
                "steps": [short, long],
                "accuracy": [before, after],
                "epsilon": probes["epsilon"],
                "images": probes["images"],
            },
            "Raise steps, or use apgd-ce or autoattack.",
        )


def _clamp(evidence: Evidence) -> Iterator[Finding]:
    before, after = evidence.clean, evidence.clamped
    if (before is None or after is None) and evidence.probes is not None:
        before, after = evidence.probes["clean_all"], evidence.probes["clamped_all"]
    if before is None or after is None or before - after <= CLAMP_COST:
        return
    facts = {"clean": before, "clamped": after, "lost_without_attack": before - after}
    if evidence.domain == "reference":
        yield Finding(
            "clamp_sensitive",
            "critical",
            "The clamp of normalised images, no attack at all, costs this model much of what its "
            "attacked accuracy lost: the numbers measure the clamp.",
            facts,
            "Use them to compare with the published tables only; ask the pixel protocol whether "
            "the model is robust.",
        )
    else:
        yield Finding(
            "clamp_sensitive",
            "info",
            "Under the published protocol this model would lose accuracy to the clamp alone.",
            facts,
            "Nothing to do here: this protocol does not clamp normalised images.",
        )
