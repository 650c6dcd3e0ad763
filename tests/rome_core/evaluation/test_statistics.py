"""Intervals that cover, tests that are exact, and comparisons that refuse what is not alike."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import comb, sqrt
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from rome_core.errors import CoreError
from rome_core.evaluation import statistics
from rome_core.evaluation.statistics import (
    Measured,
    Resamples,
    compare,
    mcnemar,
    percentiles,
    wilson,
)
from rome_core.randomness import generator


def answers(
    k: int, n: int, *, students: float = 0.2, images: float = 1.2, level: float = 0.3, seed: int = 0
) -> Tensor:
    """Right or wrong (k, n): students of unequal skill on images of unequal difficulty."""
    draws = torch.Generator().manual_seed(seed)
    skill = students * torch.randn(k, 1, generator=draws)
    ease = images * torch.randn(1, n, generator=draws)
    return level + skill + ease + torch.randn(k, n, generator=draws) > 0


def measured(correct: Tensor) -> Measured:
    return Measured(
        "pixel", "pgd", "8/255", "untargeted", "d", torch.arange(len(correct.T)), correct
    )


# The bootstrap


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_bootstrap_is_what_a_loop_says(k: int) -> None:
    correct = answers(k, 30)
    images, students = (generator(7, "bootstrap", *path) for path in (["images"], ["students", ""]))
    seen = [torch.randint(30, (30,), generator=images) for _ in range(50)]
    who = torch.randint(k, (50, max(1, k - 1)), generator=students)
    naive = [
        sum(bool(correct[s, i]) for s in who[b] for i in seen[b]) / (30 * len(who[b]))
        for b in range(50)
    ]
    found = Resamples(30, seed=7, resamples=50).means(correct)
    torch.testing.assert_close(found, torch.tensor(naive, dtype=torch.float64), rtol=0, atol=1e-15)


def test_how_the_counts_are_cut_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    correct, resamples = answers(4, 60), Resamples(60, seed=1, resamples=100)
    whole = resamples.means(correct)
    for cells in (1, 60 * 7):
        monkeypatch.setattr(statistics, "_CELLS", cells)
        assert torch.equal(resamples.means(correct), whole)


def test_images_are_drawn_alike_for_every_set_and_measure() -> None:
    """One student has no student to draw: all that varies is the images."""
    first, second = (Resamples(60, seed=1, resamples=n).means(answers(1, 60)) for n in (100, 40))
    assert torch.equal(first[:40], second)
    sets = Resamples(60, seed=1, resamples=100)
    assert torch.equal(sets.means(answers(1, 60), group="other"), first)
    assert not torch.equal(
        sets.means(answers(3, 60), group="other"), sets.means(answers(3, 60), group="this")
    )
    assert not torch.equal(Resamples(60, seed=2, resamples=100).means(answers(1, 60)), first)


def test_students_vary_as_their_mean_does() -> None:
    """Images that are all alike leave the students' part: s^2 / k, not (k - 1) / k of it."""
    correct = (torch.arange(5) % 2 == 0)[:, None].expand(5, 1000).contiguous()
    means = Resamples(1000, seed=3, resamples=4000).means(correct)
    expected = correct[:, 0].double().var() / 5
    assert float(means.var()) == pytest.approx(float(expected), rel=0.05)


@pytest.mark.parametrize(("k", "students"), [(1, 0.0), (3, 0.05), (5, 0.2), (20, 0.2)])
def test_intervals_cover_the_truth(k: int, students: float) -> None:
    """Of 200 test sets and trainings, 95 % of the intervals hold the accuracy behind them."""
    true = NormalDist().cdf(0.3 / sqrt(2.44 + students**2))
    resamples = Resamples(300, seed=11, resamples=500)
    covered = 0
    for trial in range(200):
        found = resamples.interval(answers(k, 300, students=students, seed=trial))
        covered += found.low <= true <= found.high
    assert covered / 200 >= 0.92  # it errs towards wide


def test_the_level_is_the_level() -> None:
    resamples, correct = Resamples(300, seed=1), answers(3, 300)
    wide, narrow = resamples.interval(correct, level=0.99), resamples.interval(correct, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    values = torch.arange(101)
    found = percentiles(values, 0.9)
    assert (found.low, found.high) == pytest.approx((5, 95))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_answers_that_are_all_alike_are_no_certainty(k: int, level: float) -> None:
    """Every resample of them is alike as well; other images might have come out otherwise."""
    resamples = Resamples(40, seed=1)
    none = resamples.interval(torch.zeros(k, 40, dtype=torch.bool), level=level)
    assert none == wilson(0, 40, level=level)
    assert none.low == 0 < none.high
    every = resamples.interval(torch.ones(k, 40, dtype=torch.bool), level=level)
    assert every == wilson(40, 40, level=level)
    assert every.low < 1 == every.high


def test_ill_shaped_answers_are_refused() -> None:
    resamples = Resamples(10, seed=1, resamples=5)
    for wrong in (torch.ones(10, dtype=torch.bool), torch.ones(2, 10), torch.ones(0, 10).bool()):
        with pytest.raises(ValueError, match="must be bool"):
            resamples.means(wrong)
    with pytest.raises(ValueError, match="resamples are of 10"):
        resamples.means(answers(2, 11))
    with pytest.raises(ValueError, match="none"):
        Resamples(0, seed=1)


# Proportions


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (1, 1), (2816, 10_000)])
def test_wilson_inverts_the_score_test(successes: int, n: int) -> None:
    """A bound is a true share from which the one seen is exactly z standard errors away."""
    found, share, z = wilson(successes, n), successes / n, NormalDist().inv_cdf(0.975)
    assert 0 <= found.low <= share <= found.high <= 1
    for bound in (found.low, found.high):
        if bound != share:
            assert abs(share - bound) == pytest.approx(z * sqrt(bound * (1 - bound) / n))
    assert found.low < found.high


def test_wilson_refuses_what_is_no_proportion() -> None:
    for successes, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="no proportion"):
            wilson(successes, n)


# McNemar's test


def enumerated(first: int, second: int) -> Fraction:
    """Every split at least as uneven as the one seen, of 2**n equally likely outcomes."""
    n, gap = first + second, abs(first - second)
    return Fraction(sum(comb(n, k) for k in range(n + 1) if abs(n - 2 * k) >= gap), 2**n)


def test_mcnemar_is_exact() -> None:
    for first in range(16):
        for second in range(16):
            assert mcnemar(first, second) == pytest.approx(float(enumerated(first, second)))


@pytest.mark.parametrize(
    ("first", "second"), [(1000, 1100), (900, 1500), (0, 600), (1, 999), (1500, 1499)]
)
def test_mcnemar_is_exact_for_many(first: int, second: int) -> None:
    expected = float(enumerated(first, second))
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_at_its_ends() -> None:
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1
    assert mcnemar(0, 10_000) == 0  # 2**-9999: below the smallest float
    assert 0.04 < mcnemar(4_000_000, 4_005_700) < 0.05  # 2.015 standard deviations
    assert mcnemar(3, 9) == mcnemar(9, 3)
    with pytest.raises(ValueError, match="counts"):
        mcnemar(-1, 2)


# Comparisons


def test_two_models_are_compared_image_by_image() -> None:
    first, second = answers(1, 400, seed=1), answers(1, 400, seed=1)
    second[0, :40] = ~second[0, :40]
    found = compare(measured(first), measured(second), Resamples(400, seed=1))
    only = int((first & ~second).sum()), int((second & ~first).sum())
    assert (found.first_only, found.second_only) == only
    assert sum(only) == 40
    assert (found.test, found.p) == ("mcnemar", mcnemar(*only))
    assert (found.n, found.students) == (400, (1, 1))
    gap = 100 * float(first.double().mean() - second.double().mean())
    assert found.difference == pytest.approx(gap)
    assert found.interval.low < found.difference < found.interval.high


def test_several_students_are_compared_by_the_bootstrap() -> None:
    first, second = answers(3, 300, seed=1), answers(4, 300, level=1.1, seed=2)
    resamples = Resamples(300, seed=1)
    found = compare(measured(first), measured(second), resamples)
    pairs = [(a & ~b, b & ~a) for a in first for b in second]
    assert found.first_only == pytest.approx(sum(int(a.sum()) for a, _ in pairs) / 12)
    assert found.second_only == pytest.approx(sum(int(b.sum()) for _, b in pairs) / 12)
    gap = 100 * float(first.double().mean() - second.double().mean())
    assert found.difference == pytest.approx(gap)
    assert (found.test, found.students) == ("bootstrap", (3, 4))
    assert found.p < 0.05
    assert found.interval.high < 0
    means = resamples.means(first, group="first") - resamples.means(second, group="second")
    assert found.interval == percentiles(100 * means)


def test_the_interval_and_p_agree() -> None:
    resamples = Resamples(100, seed=1, resamples=400)
    for seed in range(20):
        a, b = answers(2, 100, seed=seed), answers(3, 100, level=0.6, seed=100 + seed)
        found = compare(measured(a), measured(b), resamples)
        if abs(found.p - 0.05) > 0.01:  # they count the resample at the edge differently
            outside = found.interval.low > 0 or found.interval.high < 0
            assert outside == (found.p < 0.05)
        assert 2 / 401 <= found.p <= 1


def test_the_same_images_make_a_difference_surer() -> None:
    """Two sets whose students fail on the same images: paired, images hardly matter."""
    both = answers(20, 500, students=0, images=4)
    a, b = both[:10].contiguous(), both[10:].contiguous()
    paired = compare(measured(a), measured(b), Resamples(500, seed=1)).interval
    apart = 100 * (
        Resamples(500, seed=1).means(a, group="first")
        - Resamples(500, seed=2).means(b, group="second")
    )
    wide = percentiles(apart)
    assert paired.high - paired.low < (wide.high - wide.low) / 2


ALIKE = measured(answers(2, 10))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (replace(ALIKE, protocol="reference"), "protocol (pixel and reference)"),
        (replace(ALIKE, attack="apgd"), "attack (pgd and apgd)"),
        (replace(ALIKE, settings="4/255"), "attack settings (8/255 and 4/255)"),
        (replace(ALIKE, mode="targeted"), "mode (untargeted and targeted)"),
        (replace(ALIKE, mode=""), "mode (untargeted and none)"),
        (replace(ALIKE, test_set="e"), "test set (d and e)"),
        (replace(ALIKE, images=torch.arange(10) + 1), "test images (10 and 10, 9 in both)"),
        (replace(ALIKE, images=torch.arange(9, -1, -1)), "10 in both, in another order)"),
        (measured(answers(2, 12)), "test images (10 and 12, 10 in both)"),
        (replace(ALIKE, mode="targeted", attack="fgsm"), "attack (pgd and fgsm), mode"),
    ],
)
def test_what_was_not_measured_alike_is_not_compared(other: Measured, says: str) -> None:
    with pytest.raises(CoreError) as caught:
        compare(ALIKE, other, Resamples(10, seed=1, resamples=5))
    assert caught.value.code == "protocols_differ"
    assert says in caught.value.detail
    assert "epsilon" in caught.value.detail


def test_answers_and_images_belong_together() -> None:
    with pytest.raises(ValueError, match="9 images, 10 answers"):
        replace(ALIKE, images=torch.arange(9))
