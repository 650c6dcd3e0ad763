"""From measurements to the evidence that findings are made of.

Owns which measures are held against each other. What the evidence means is `rome_core.findings`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rome_core.evaluation.evaluation import UNBOUNDED, Evaluated, Measurement, Part
from rome_core.findings import NOISE, Clamped, Count, Evidence
from rome_core.recipes.attacks import (
    AutoAttackSettings,
    FgsmSettings,
    MiFgsmSettings,
    PgdSettings,
    Settings,
    VmiFgsmSettings,
    parse_fraction,
)
from rome_core.recipes.autoattack import stages
from rome_core.recipes.protocols import PROTOCOLS, Entry

BUDGET = ("steps", "queries", "restarts", "samples", "binary_search_steps", "target_classes", "eot")
"""Settings of which an attack with less is a weaker one."""

STANDARD = AutoAttackSettings()


def evidence_of(done: Evaluated, part: Part) -> Evidence:
    """What is known of one protocol's numbers."""
    return _Gatherer(done, part).evidence()


class _Gatherer:
    """One protocol's evidence in the making."""

    def __init__(self, done: Evaluated, part: Part) -> None:
        self._done, self._part, self._protocol = done, part, part.protocol
        self._of = {
            what.name: done.measurements[part.protocol.id, what.name] for what in part.measures
        }

    def evidence(self) -> Evidence:
        """Everything together."""
        attacked = [what for what in self._part.measures if what.mode is not None]
        balls: dict[str, list[Entry]] = {}  # those of untargeted attacks, in each ball there is
        for what in attacked:
            entry = self._protocol.entry(what.attack)
            own = balls.setdefault(self._part.ball(entry), [])
            if what.mode == "untargeted":
                own.append(entry)
        gradient = {
            ball: [entry for entry in entries if entry.access in ("white-box", "both")]
            for ball, entries in balls.items()
        }
        return Evidence(
            domain=str(self._protocol.domain),
            probes=self._done.evidence.get(self._protocol.id),
            query_only=dict(self._query_only(balls)),
            noisy={what.name: self._most(_near(self._of[what.name])) for what in attacked},
            clamped=list(self._clamped()),
            without_gradients=[ball for ball, entries in gradient.items() if not entries],
            weak={
                ball: [entry.name for entry in entries]
                for ball, entries in gradient.items()
                if entries and all(_is_weak(entry.settings) for entry in entries)
            },
            small=dict(self._small(balls)),
            overridden=self._protocol.overridden,
        )

    def _query_only(self, balls: Mapping[str, Sequence[Entry]]) -> Iterator[tuple[str, Count]]:
        """Images of each ball that were right, that gradients leave and that queries break.

        AutoAttack ends with a query attack, Square, for what its gradients leave. What else it
        breaks with says nothing of the other attacks' gradients, so it leaves nothing on their
        behalf; only where no other attack of several steps ran are its own gradients looked at.
        """
        for ball, entries in balls.items():
            kinds = {
                kind: [entry for entry in entries if entry.access == kind]
                for kind in ("white-box", "query", "both")
            }
            strong = [entry for entry in kinds["white-box"] if not _is_weak(entry.settings)]
            if ball == UNBOUNDED or not (strong or kinds["both"]):
                continue
            if not (kinds["query"] or kinds["both"]):
                continue
            left = torch.stack([m.faced.clean_correct for m in self._untargeted(entries[0])])
            queried = torch.zeros_like(left)
            for entry in kinds["white-box"]:
                left = left & _correct(self._untargeted(entry))
            for entry in kinds["query"]:
                queried = queried | ~_correct(self._untargeted(entry))
            for entry in kinds["both"]:
                right, by_square = _correct(self._untargeted(entry)), self._by_square(entry)
                queried = queried | (~right & by_square)
                if not strong:
                    left = left & (right | by_square)
            yield ball, self._most(left & queried)

    def _by_square(self, entry: Entry) -> Tensor:
        """Which images AutoAttack's Square broke, none of its stages before having: bool."""
        settings = entry.settings
        assert isinstance(settings, AutoAttackSettings)
        names = [name for name, _ in stages(settings, self._part.test.classes)]
        stage = torch.stack([m.faced.stage for m in self._untargeted(entry)])
        number = names.index("square") + 1 if "square" in names else None
        return stage == number if number else torch.zeros_like(stage, dtype=torch.bool)

    def _small(self, balls: Mapping[str, Sequence[Entry]]) -> Iterator[tuple[str, list[str]]]:
        """Attacks below their standard, in balls where no standard AutoAttack ran."""
        whole = any(flaw.code == "small_budget" for flaw in self._protocol.flaws)
        for ball, entries in balls.items():
            if any(_is_standard(entry.settings) for entry in entries):
                continue
            small = [e.name for e in entries if whole or self._is_small(e)]
            if small:
                yield ball, small

    def _is_small(self, entry: Entry) -> bool:
        """Whether the protocol calls it so, or an override took some of its budget."""
        if any(flaw.code in ("small_budget", "not_standard") for flaw in entry.flaws):
            return True
        own = PROTOCOLS[self._protocol.id].entry(entry.name).settings
        return any(
            getattr(entry.settings, name) < getattr(own, name)
            for name in BUDGET
            if name in type(own).model_fields
        )

    def _clamped(self) -> Iterator[Clamped]:
        if "clean" in self._of and "clamp" in self._of:
            pairs = zip(self._of["clean"], self._of["clamp"], strict=True)
            for subject, (clean, clamp) in zip(self._done.subjects, pairs, strict=True):
                yield Clamped(
                    subject.name, clean.faced.accuracy, clamp.faced.accuracy, len(clean.faced)
                )

    def _most(self, rows: Tensor) -> Count:
        """Of (subjects, images) bool, the subject that it holds for most often."""
        counts = rows.sum(dim=1).tolist()
        number = max(range(len(counts)), key=counts.__getitem__)
        return Count(self._done.subjects[number].name, int(counts[number]), rows.shape[1])

    def _untargeted(self, entry: Entry) -> Sequence[Measurement]:
        return self._of[f"{entry.name}/untargeted"]


def _correct(got: Sequence[Measurement]) -> Tensor:
    """(subjects, images) bool."""
    return torch.stack([one.faced.correct for one in got])


def _near(got: Sequence[Measurement]) -> Tensor:
    """Right by a margin that is rounding: (subjects, images) bool."""
    margins = torch.stack([one.faced.margin for one in got])
    spreads = torch.stack([one.faced.spread for one in got])
    return _correct(got) & (margins < NOISE * spreads)


def _is_weak(settings: Settings) -> bool:
    """One step, or steps too short to get from an image to the edge of its ball."""
    if isinstance(settings, FgsmSettings):
        return True
    if not isinstance(settings, PgdSettings | MiFgsmSettings | VmiFgsmSettings):
        return False
    reach = settings.steps * parse_fraction(settings.step)
    return settings.steps == 1 or reach < parse_fraction(settings.epsilon)


def _is_standard(settings: Settings) -> bool:
    """AutoAttack as its authors mean it, or more of it."""
    return (
        isinstance(settings, AutoAttackSettings)
        and settings.version != "rand"
        and settings.steps >= STANDARD.steps
        and settings.queries >= STANDARD.queries
    )
