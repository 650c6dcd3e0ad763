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

FEWEST = 3
"""Images: fewer are an accident, whatever share of a small test set they are."""

CLAMP_COST = 0.05
"""Of accuracy that the clamp alone may cost before a published number is one of the clamp."""

NOISE = 1e-4
"""Of the spread of an image's logits, its largest less its smallest: less than this is rounding,
whatever the scale of the logits."""


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
class Count:
    """So many of one subject's images."""

    subject: str
    images: int
    of: int

    @property
    def share(self) -> float:
        return self.images / self.of

    def counts(self) -> bool:
        """Whether it is more than chance."""
        return self.images >= FEWEST and self.share > TOLERANCE


@dataclass(frozen=True)
class Clamped:
    """One subject's accuracy on images as they are, and under the published clamp alone."""

    subject: str
    clean: float
    clamped: float
    of: int

    @property
    def lost(self) -> float:
        return self.clean - self.clamped

    def counts(self) -> bool:
        """Whether the clamp alone costs more than it may."""
        images = round(self.lost * self.of)  # of floats 0.95 - 0.9 is more than 0.05
        return images >= FEWEST and images / self.of > CLAMP_COST


@dataclass(frozen=True)
class Evidence:
    """What is known of one protocol's numbers. Accuracies are fractions in [0, 1].

    `probes` are what `rome_core.evaluation.probes` gives, each with its `subject`; None where they
    did not run. `query_only` maps balls in which attacks of both kinds ran to the images, of the
    subject with the most of them, that query attacks break and no gradient attack does. `noisy`
    does so for measures and images left right by a margin that is NOISE.
    `clamped` is what was measured beside the attacks. The rest is of untargeted attacks: balls that
    no gradient attack ran in, balls in which none was stronger than one step, and attacks by ball
    whose budget is below the standard, where no standard AutoAttack ran. `overridden` are paths of
    settings.
    """

    domain: str
    probes: Sequence[Mapping[str, Any]] | None = None
    query_only: Mapping[str, Count] = field(default_factory=dict)
    noisy: Mapping[str, Count] = field(default_factory=dict)
    clamped: Sequence[Clamped] = ()
    without_gradients: Sequence[str] = ()
    weak: Mapping[str, Sequence[str]] = field(default_factory=dict)
    small: Mapping[str, Sequence[str]] = field(default_factory=dict)
    overridden: Sequence[str] = ()


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
    for probes in evidence.probes or ():
        if probes["outputs_are_constant"]:
            yield _constant(probes)
        else:
            yield from _outputs(probes)
            yield from _gradients(probes)
            yield from _curve(probes)
            yield from _converged(probes)
    yield from _clamp(evidence)
    yield from _attacks(evidence)
    if evidence.overridden:
        yield Finding(
            "overridden",
            "info",
            "Settings of the protocol were changed: the numbers are not the protocol's own.",
            {"settings": list(evidence.overridden)},
            "Leave overrides out for numbers that others can compare.",
        )


def _black_box(evidence: Evidence) -> Iterator[Finding]:
    for ball, missed in evidence.query_only.items():
        if missed.counts():
            yield Finding(
                "black_box_beats_white_box",
                "critical",
                "An attack without gradients breaks images that gradient attacks leave: gradients "
                "are masked.",
                {"ball": ball, "subject": missed.subject, "share_only_it_breaks": missed.share},
                "Believe the worst case only, and add autoattack and square with more queries.",
            )


def _boundary(evidence: Evidence) -> Iterator[Finding]:
    for attack, near in evidence.noisy.items():
        if near.counts():
            yield Finding(
                "boundary_noise",
                "warning",
                "Images count as right by a margin that is rounding: the attack ends on the "
                "boundary itself, and its accuracy changes with the hardware.",
                {
                    "attack": attack,
                    "subject": near.subject,
                    "share_of_images": near.share,
                    "margin_below": NOISE,
                },
                "Do not compare this attack's accuracy; take an overshoot on the total "
                "perturbation.",
            )


def _attacks(evidence: Evidence) -> Iterator[Finding]:
    """What the choice of attacks leaves open, whatever the model."""
    if evidence.without_gradients:
        yield Finding(
            "no_gradient_attack",
            "warning",
            "No untargeted attack with gradients was run in a ball, so its worst case is an upper "
            "bound only.",
            {"balls": list(evidence.without_gradients)},
            "Add pgd or autoattack, and the untargeted mode.",
        )
    if evidence.weak:
        yield Finding(
            "weak_attacks",
            "warning",
            "The strongest untargeted attack with gradients in a ball is one step, or steps too "
            "short to cross it: its worst case is an upper bound only.",
            {"balls": _lists(evidence.weak)},
            "Add pgd or autoattack with the protocol's own settings.",
        )
    if evidence.small:
        yield Finding(
            "small_budget",
            "warning",
            "Attacks had fewer steps, queries or images than is standard: what they leave may not "
            "be robust.",
            {"balls": _lists(evidence.small)},
            "Evaluate under the pixel protocol with autoattack as it is.",
        )


def _lists(names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {ball: list(of) for ball, of in names.items()}


def _constant(probes: Mapping[str, Any]) -> Finding:
    return Finding(
        "constant_outputs",
        "critical",
        "The model gives the same outputs whatever the image: there is nothing to attack, and its "
        "accuracy is the share of one class.",
        _of(probes),
        "Look at how the model was trained, or whether its weights were read as they should be.",
    )


def _outputs(probes: Mapping[str, Any]) -> Iterator[Finding]:
    if probes["outputs_are_probabilities"]:
        yield Finding(
            "softmax_outputs",
            "critical",
            "The outputs are probabilities, not logits: their gradients vanish where the model is "
            "sure.",
            _of(probes),
            "Evaluate the network without its softmax.",
        )
    if probes["forward_difference"] > NOISE:
        yield Finding(
            "randomised_outputs",
            "critical",
            "The same image gives different outputs: attacks chase noise.",
            _of(probes, largest_difference=probes["forward_difference"]),
            "Use autoattack-rand, which averages gradients.",
        )


def _gradients(probes: Mapping[str, Any]) -> Iterator[Finding]:
    flat = probes["zero_gradients"]
    if flat > 0:
        many = flat > 0.1 and _images(probes, flat) >= FEWEST
        yield Finding(
            "zero_gradients",
            "critical" if many else "warning",
            "At some images the loss has no slope: gradient attacks cannot start there.",
            _of(probes, share=flat),
            "Attack with the DLR loss (apgd-dlr) and with square.",
        )
    if _more(probes, probes["unbounded"]):
        yield Finding(
            "unbounded_attack_fails",
            "critical",
            "An attack that may change images at will leaves some right: it fails for a reason "
            "other than robustness.",
            _of(probes, accuracy=probes["unbounded"]),
            "Look for masked gradients; believe black-box attacks first.",
        )


def _curve(probes: Mapping[str, Any]) -> Iterator[Finding]:
    curve = [(text, accuracy) for text, accuracy in probes["curve"]]
    rises = [
        {"from": before[0], "to": after[0], "rise": after[1] - before[1]}
        for before, after in pairwise(curve)
        if _more(probes, after[1] - before[1])
    ]
    if rises:
        yield Finding(
            "not_monotone",
            "critical",
            "Accuracy rises where the attacker may do more: the attack fails, not the attacker.",
            _of(probes, rises=rises),
            "Use an attack that adapts its steps (apgd-ce, autoattack).",
        )


def _converged(probes: Mapping[str, Any]) -> Iterator[Finding]:
    for seen in probes["converged"]:
        (short, long), (before, after) = seen["steps"], seen["accuracy"]
        if _more(probes, before - after):
            yield Finding(
                "too_few_steps",
                "warning",
                "Accuracy still falls with more steps: the attack had not converged.",
                _of(
                    probes,
                    attack=seen["attack"],
                    ball=seen["ball"],
                    steps=[short, long],
                    accuracy=[before, after],
                ),
                "Raise steps, or use apgd-ce or autoattack.",
            )


def _clamp(evidence: Evidence) -> Iterator[Finding]:
    seen = list(evidence.clamped) or [
        Clamped(probes["subject"], probes["clean_all"], probes["clamped_all"], probes["images_all"])
        for probes in evidence.probes or ()
        if "clamped_all" in probes
    ]
    if not seen:
        return
    worst = max(seen, key=lambda one: one.lost)
    if not worst.counts():
        return
    facts = {
        "subject": worst.subject,
        "clean": worst.clean,
        "clamped": worst.clamped,
        "lost_without_attack": worst.lost,
    }
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


def _of(probes: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """Facts about a subject, and who it is."""
    return {"subject": probes["subject"], "images": probes["images"], **facts}


def _images(probes: Mapping[str, Any], share: float) -> int:
    return round(share * int(probes["images"]))


def _more(probes: Mapping[str, Any], share: float) -> bool:
    """Whether a share of the images that were looked at is more than chance."""
    images = _images(probes, share)
    return images >= FEWEST and images / probes["images"] > TOLERANCE
