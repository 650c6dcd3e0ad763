"""The formulas: how much accuracy attacks take, and what they cost, in one number.

Owns RR, I-RR, I-RR+, AE, CREI and its I- forms, for one group of attacks or for several pooled.
Must not know a file or a protocol: plain numbers in, scores out.

A group is one model under the attacks of one mode. With, over all groups, A the mean clean
accuracy, a the accuracies under attack, t the mean clean cost and s the costs of the attacks:

    RR      1 - mean drop / worst drop                 drop = A - a, worst = A - min a
    I-RR    1 - (mean drop / A) (worst drop / A)
    I-RR+   I-RR - mean of (a - A where a > A, else 0)
    AE      (mean s - t) / (max s - t)
    CREI    alpha RR + (1 - alpha) AE; I-CREI and I-CREI+ put I-RR and I-RR+ in the place of RR

Pooling takes every accuracy and cost together and applies the formula once (RRM, AEM, CREIM); it is
not the mean of the groups' scores. Accuracies are percent in [0, 100] and so are scores, which are
not clipped: attacks that raise the accuracy take RR and I-RR above 100 or RR far below 0. A cost is
anything that is added up the same way for the clean pass and the attacks: seconds, as published, or
counted passes or queries per image, which no machine changes.

Sources: BEARD (arXiv 2411.09265) and its published toolkit for RR, AE, CREI and their pooled forms;
ROME for I-RR and I-CREI; I-RR+ is in the toolkit only. RR says how *even* the attacks are and none
of the three rewards clean accuracy, so that belongs beside them, as does the worst case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean  # exact for floats: the mean of equal numbers is that number
from typing import Literal, TypeAlias, TypeVar, get_args

from rome_core.errors import CoreError

Kind: TypeAlias = Literal["beard", "rome", "rome+"]
"""What the toolkit calls a metrics type: RR, I-RR or I-RR+."""

Degenerate: TypeAlias = Literal["published", "sound"]
"""What to say where a formula has nothing to measure.

`published`, as the toolkit: 0 for all three ratios where the worst attack takes nothing, 0 for AE
where the dearest attack costs what the clean pass does, and an error where nothing was measured or
I-RR divides by a clean accuracy of 0.
`sound`: an attack that takes nothing leaves I-RR at 100, also where all attacks raise the accuracy;
RR without a drop, AE without an attack dearer than the clean pass, and whatever is an error under
`published`, are None with the reason.
"""

CostUnit: TypeAlias = Literal["seconds", "passes", "queries"]

KINDS: tuple[Kind, ...] = get_args(Kind)
DEGENERATE: tuple[Degenerate, ...] = get_args(Degenerate)
ALPHA = 0.5  # as published

Item = TypeVar("Item")


class MetricsError(CoreError, ValueError):
    """Numbers that no metric can be made of."""


@dataclass(frozen=True)
class AttackCell:
    """One attack: accuracy under it in percent, its cost; None where it does not apply.

    Raises MetricsError for an accuracy outside [0, 100] or a cost below 0 or not finite.
    """

    name: str
    accuracy: float | None
    cost: float | None = None

    def __post_init__(self) -> None:
        _check_number(self.accuracy, "accuracy", most=100)
        _check_number(self.cost, "cost")


@dataclass(frozen=True)
class Group:
    """One model under the attacks of one mode; `clean_cost` None where it was not taken.

    Raises MetricsError as AttackCell does, and where `attacks` is no sequence of them.
    """

    clean_accuracy: float
    clean_cost: float | None
    attacks: Sequence[AttackCell]
    cost_unit: CostUnit = "seconds"

    def __post_init__(self) -> None:
        if self.clean_accuracy is None:
            raise _bad("number_missing", "the clean accuracy is missing.", "clean_accuracy")
        _check_number(self.clean_accuracy, "clean_accuracy", most=100)
        _check_number(self.clean_cost, "clean_cost")
        cells = _sequence(self.attacks, AttackCell, "attacks")
        object.__setattr__(self, "attacks", cells)  # a list given stays the caller's to change


@dataclass(frozen=True)
class Score:
    """A metric in percent, or None with the reason why there is no value."""

    value: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Metrics:
    """All metrics of one pool, in percent, and what has to be read beside them.

    `clean_cost` and `fastest_attack` are in the groups' unit; None where not known.
    """

    robustness: Mapping[Kind, Score]  # RR, I-RR, I-RR+
    efficiency: Score  # AE
    combined: Mapping[Kind, Score]  # CREI, I-CREI, I-CREI+
    clean_accuracy: float
    worst_accuracy: float | None
    clean_cost: float | None
    fastest_attack: float | None

    @property
    def clean_is_slow(self) -> bool:
        """Whether an attack cost less than the clean pass, which it contains: a bad measurement."""
        if self.clean_cost is None or self.fastest_attack is None:
            return False
        return self.clean_cost > self.fastest_attack


def robustness_ratio(
    groups: Group | Sequence[Group],
    kind: Kind = "beard",
    *,
    degenerate: Degenerate = "published",
) -> Score:
    """RR, I-RR or I-RR+ of a group, or RRM of several, in percent, unclipped.

    Raises MetricsError where no accuracy was measured or I-RR divides by a clean accuracy of 0,
    unless `degenerate` is "sound", and for an unknown kind or rule.
    """
    _check_choice(kind, KINDS, "kind")
    _check_choice(degenerate, DEGENERATE, "degenerate")
    pool = _Pool.of(groups)
    if not pool.accuracies:
        return _undefined(
            degenerate, "no_accuracies", "no attack here has an accuracy.", "attacks.accuracy"
        )
    clean = pool.clean_accuracy
    mean_drop = clean - mean(pool.accuracies)
    worst_drop = clean - min(pool.accuracies)
    if degenerate == "published" and worst_drop == 0:
        return Score(0.0)
    if kind == "beard":
        if degenerate == "sound" and worst_drop <= 0:
            return Score(None, "no attack lowers the accuracy, so there is no worst drop.")
        return _percent(1 - mean_drop / worst_drop)
    if clean == 0:
        return _undefined(
            degenerate,
            "clean_accuracy_zero",
            "the clean accuracy is 0, so there is none to lose.",
            "clean_accuracy",
        )
    # Two negative drops would multiply to a loss; the square of a tiny accuracy would be 0.
    harmless = degenerate == "sound" and worst_drop <= 0
    loss = 0.0 if harmless else (mean_drop / clean) * (worst_drop / clean)
    gain = mean(max(accuracy - clean, 0.0) for accuracy in pool.accuracies)
    return _percent(1 - loss - (gain / 100 if kind == "rome+" else 0.0))


def attack_efficiency(
    groups: Group | Sequence[Group], *, degenerate: Degenerate = "published"
) -> Score:
    """AE of a group, or AEM of several, in percent, unclipped; larger is dearer to attack.

    It has no unit: costs in seconds or in counted passes give the same kind of number, and one
    factor on all of them changes nothing. Raises MetricsError where a cost that is needed is
    missing, unless `degenerate` is "sound", and where groups count costs in different units.
    """
    _check_choice(degenerate, DEGENERATE, "degenerate")
    pool = _Pool.of(groups)
    if pool.clean_cost is None:
        return _undefined(
            degenerate, "no_clean_cost", "the cost of the clean pass is missing.", "clean_cost"
        )
    if not pool.costs:
        return _undefined(degenerate, "no_costs", "no attack here has a cost.", "attacks.cost")
    span = max(pool.costs) - pool.clean_cost
    if degenerate == "sound" and span <= 0:
        return Score(None, "no attack costs more than the clean pass.")
    return Score(0.0) if span == 0 else _percent((mean(pool.costs) - pool.clean_cost) / span)


def combine(robustness: Score, efficiency: Score, alpha: float = ALPHA) -> Score:
    """CREI, or I-CREI for an I-RR: alpha x robustness + (1 - alpha) x efficiency, in percent.

    A part of weight 0 is left out, so that it need not have a value. Raises MetricsError for an
    alpha outside [0, 1].
    """
    _check_alpha(alpha)
    total = 0.0
    for weight, part in ((alpha, robustness), (1 - alpha, efficiency)):
        if weight == 0:
            continue
        if part.value is None:
            return part
        total += weight * part.value
    return Score(total)


def measure(
    groups: Group | Sequence[Group],
    *,
    alpha: float = ALPHA,
    degenerate: Degenerate = "published",
) -> Metrics:
    """Every metric of one group, or of several pooled; raises what the single metrics raise."""
    pool = _Pool.of(groups)
    robustness = {kind: robustness_ratio(groups, kind, degenerate=degenerate) for kind in KINDS}
    efficiency = attack_efficiency(groups, degenerate=degenerate)
    return Metrics(
        robustness=robustness,
        efficiency=efficiency,
        combined={kind: combine(robustness[kind], efficiency, alpha) for kind in KINDS},
        clean_accuracy=pool.clean_accuracy,
        worst_accuracy=min(pool.accuracies, default=None),
        clean_cost=pool.clean_cost,
        fastest_attack=min(pool.costs, default=None),
    )


@dataclass(frozen=True)
class _Pool:
    """The raw numbers of all groups together, what does not apply left out."""

    clean_accuracy: float
    accuracies: list[float]
    clean_cost: float | None  # None where any group's is unknown: a mean of the rest would mislead
    costs: list[float]

    @classmethod
    def of(cls, given: Group | Sequence[Group]) -> _Pool:
        groups = _sequence([given] if isinstance(given, Group) else given, Group, "groups")
        if not groups:
            raise _bad("no_groups", "there are no groups to measure.", "groups")
        if len({group.cost_unit for group in groups}) > 1:
            raise MetricsError(
                "cost_units_mixed",
                "the groups count costs in different units.",
                "Pool groups of one unit.",
                "cost_unit",
            )
        cells = [cell for group in groups for cell in group.attacks]
        clean_costs = [group.clean_cost for group in groups if group.clean_cost is not None]
        return cls(
            clean_accuracy=mean(float(group.clean_accuracy) for group in groups),
            accuracies=[float(cell.accuracy) for cell in cells if cell.accuracy is not None],
            clean_cost=mean(map(float, clean_costs)) if len(clean_costs) == len(groups) else None,
            costs=[float(cell.cost) for cell in cells if cell.cost is not None],
        )


def _percent(fraction: float) -> Score:
    value = 100 * fraction
    if not math.isfinite(value):
        raise MetricsError(
            "score_too_large",
            "the score is too large for a float.",
            "Look for numbers far too small or too large among the accuracies and costs.",
            "attacks",
        )
    return Score(value)


def _undefined(degenerate: Degenerate, code: str, detail: str, field: str) -> Score:
    if degenerate == "sound":
        return Score(None, detail)
    remedy = "Measure it, or choose `sound` for degenerate cases, which says null and why."
    raise MetricsError(code, detail, remedy, field)


def _check_alpha(alpha: float) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
        raise MetricsError(
            "alpha_out_of_range",
            f"alpha, the weight of robustness, must lie in [0, 1]; got {alpha!r}.",
            f"Give one of 0 to 1; {ALPHA} is the published one.",
            "alpha",
        )


def _check_choice(given: object, known: Sequence[str], field: str) -> None:
    if given not in known:
        raise MetricsError(
            f"{field}_unknown", f"there is no {given!r}.", f"One of: {', '.join(known)}.", field
        )


def _check_number(given: object, field: str, most: float = math.inf) -> None:
    if given is None:
        return
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise _bad("not_a_number", f"{given!r} is not a number.", field)
    try:
        finite = math.isfinite(given)
    except OverflowError:  # an int beyond any float
        finite = False
    if not finite:
        raise _bad("not_finite", "it is not a finite number.", field)
    if not 0 <= given <= most:
        within = "[0, 100], in percent" if most == 100 else "[0, ∞)"
        raise _bad("out_of_range", f"{given!r} is outside {within}.", field)


def _sequence(given: object, kind: type[Item], field: str) -> tuple[Item, ...]:
    if not isinstance(given, Sequence) or not all(isinstance(item, kind) for item in given):
        raise _bad("bad_shape", f"it has to be a sequence of {kind.__name__}.", field)
    return tuple(given)


def _bad(code: str, detail: str, field: str) -> MetricsError:
    return MetricsError(code, detail, f"Correct {field}.", field)
