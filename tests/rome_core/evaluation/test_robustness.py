"""Measurements: right numbers, under the name of their domain, never mixed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rome_core.evaluation.robustness import (
    Measure,
    Measurement,
    TestSet,
    measure,
    measures,
    worst_case,
)
from rome_core.networks import ConvNet, build
from rome_core.randomness import generator
from rome_core.recipes.evaluate import Budgets, EvaluateSpec

MEAN, STD = (0.45,), (0.2,)


def drawn(n: int = 40) -> TestSet:
    draws = torch.Generator().manual_seed(2)
    return TestSet(torch.rand(n, 1, 8, 8, generator=draws), torch.arange(n) % 12, 12, MEAN, STD)


def network() -> ConvNet:
    return build(
        "convnet-d1-w8", channels=1, size=8, classes=12, generator=generator(1, "network")
    ).eval()


def labelled_by(net: ConvNet, data: TestSet) -> TestSet:
    """The same images with the network's own answers, so that clean accuracy is one."""
    with torch.no_grad():
        answers = net((data.pixels - MEAN[0]) / STD[0]).argmax(dim=1)
    return TestSet(data.pixels, answers, data.classes, data.mean, data.std)


def accuracy(what: Measure, data: TestSet, net: ConvNet, **budget: object) -> float:
    budgets = Budgets()
    own = budgets.reference if what.domain == "reference" else budgets.pixel
    return measure(net, data, what, own.model_copy(update=budget), seed=3).accuracy


def test_clean_and_clamp_are_what_they_say() -> None:
    net = network()
    data = labelled_by(net, drawn())
    assert accuracy(Measure("clean"), data, net) == 1
    assert accuracy(Measure("clamp", "pixel"), data, net) == 1  # pixels lie in [0,1] already
    with torch.no_grad():
        clamped = net(((data.pixels - MEAN[0]) / STD[0]).clamp(0, 1)).argmax(dim=1)
    expected = float((clamped == data.labels).double().mean())
    assert accuracy(Measure("clamp", "reference"), data, net) == expected
    assert expected < 1


@pytest.mark.parametrize("domain", ["reference", "pixel"])
@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize("mode", ["targeted", "untargeted"])
def test_an_attack_of_no_strength_is_the_clamp(domain: str, attack: str, mode: str) -> None:
    net = network()
    data = labelled_by(net, drawn())
    clamp = accuracy(Measure("clamp", domain), data, net)
    tiny = accuracy(Measure(attack, domain, mode), data, net, epsilon="1/1000000", step="1/1000000")
    assert tiny == clamp


@pytest.mark.parametrize("domain", ["reference", "pixel"])
def test_stronger_attacks_do_more_harm(domain: str) -> None:
    net = network()
    data = labelled_by(net, drawn())
    clamp = accuracy(Measure("clamp", domain), data, net)
    fgsm = accuracy(Measure("fgsm", domain, "untargeted"), data, net)
    pgd = accuracy(Measure("pgd", domain, "untargeted"), data, net)
    targeted = accuracy(Measure("pgd", domain, "targeted"), data, net)
    assert pgd <= fgsm <= clamp
    assert pgd <= targeted <= clamp
    assert pgd < clamp


def test_the_same_epsilon_harms_more_in_pixels() -> None:
    """A step of 8/255 in normalised units is a fifth of that in pixels (std 0.2)."""
    net = network()
    data = drawn(400)
    # Normalised into the inside of [0, 1], so that the reference clamp alone does no harm.
    data = replace(data, pixels=MEAN[0] + STD[0] * (0.1 + 0.8 * data.pixels))
    data = labelled_by(net, data)
    assert accuracy(Measure("clamp", "reference"), data, net) == 1
    seen = {
        domain: accuracy(Measure("fgsm", domain, "untargeted"), data, net, epsilon="4/255")
        for domain in ("reference", "pixel")
    }
    assert seen["pixel"] < seen["reference"] < 1


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = network(), drawn()
    what = Measure("pgd", "pixel", "untargeted")
    whole = measure(net, data, what, Budgets().pixel, seed=3).correct
    ticks: list[int] = []
    monkeypatch.setattr("rome_core.evaluation.robustness.CHUNK", 7)
    chunked = measure(net, data, what, Budgets().pixel, seed=3, tick=ticks.append).correct
    assert torch.equal(whole, chunked)
    assert ticks == [7, 7, 7, 7, 7, 5]


def test_names_begin_with_the_domain() -> None:
    spec = EvaluateSpec(artifact="a")
    names = [what.name for what in measures(spec)]
    assert names == [
        "clean",
        *(
            f"{domain}/{rest}"
            for domain in ("reference", "pixel")
            for rest in (
                "clamp",
                "fgsm/targeted",
                "fgsm/untargeted",
                "pgd/targeted",
                "pgd/untargeted",
            )
        ),
    ]
    few = EvaluateSpec(artifact="a", attacks=["pgd"], domains=["pixel"], modes=["untargeted"])
    assert [what.name for what in measures(few)] == ["pixel/pgd/untargeted"]


def test_gradients_are_counted() -> None:
    budget = Budgets().pixel
    counts = {what.name: what.gradients(budget) for what in measures(EvaluateSpec(artifact="a"))}
    assert counts["clean"] == counts["pixel/clamp"] == 0
    assert counts["pixel/fgsm/targeted"] == 1
    assert counts["pixel/pgd/untargeted"] == 10


def result(what: Measure, *correct: int) -> Measurement:
    return Measurement(what, torch.tensor(correct, dtype=torch.bool))


def test_the_worst_case_is_per_image() -> None:
    worst = worst_case(
        [
            result(Measure("clean"), 1, 1, 1, 0),
            result(Measure("fgsm", "pixel", "targeted"), 1, 0, 1, 1),
            result(Measure("pgd", "pixel", "targeted"), 0, 1, 1, 1),
        ]
    )
    assert worst.correct.tolist() == [False, False, True, False]
    assert worst.measure == Measure("worst", "pixel")


def test_domains_are_never_mixed() -> None:
    mixed = [
        result(Measure("fgsm", "pixel", "targeted"), 1),
        result(Measure("fgsm", "reference", "targeted"), 1),
    ]
    with pytest.raises(ValueError, match="exactly one attack domain"):
        worst_case(mixed)
    with pytest.raises(ValueError, match="exactly one attack domain"):
        worst_case([result(Measure("clean"), 1)])
