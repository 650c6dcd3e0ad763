"""Probes: each number against a count of its own, on honest models and on ones that deceive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from rome_core.evaluation.probes import CURVE, probe
from rome_core.evaluation.robustness import TestSet, face
from rome_core.recipes.protocols import PROTOCOLS, Protocol, overridden
from rome_core.space import Normalised
from tests.rome_core.evaluation.conftest import bound, some, trained

QUICK, PUBLISHED = PROTOCOLS["quick@1"], PROTOCOLS["rome-2025@1"]

Network = Callable[[Tensor], Tensor]


def probed(
    model: Network, test: TestSet | None = None, protocol: Protocol = QUICK, **more: Any
) -> dict[str, Any]:
    test = some(16) if test is None else test
    attacks = [protocol.entry(name) for name in more.pop("attacks", ["pgd"])]
    return probe(model, test, protocol, attacks, **{"whole": test, "seed": 3, **more})


def robust(model: Network, test: TestSet, protocol: Protocol, epsilon: str, steps: int) -> float:
    """The same share by the way that measures go: right before, all the way, and after PGD."""
    settings = {"epsilon": epsilon, "step": str(Fraction(epsilon) / 4), "steps": steps}
    ways = {"random_start": False, "early_stop": True}
    changed = overridden(protocol, {"pgd": {**settings, **ways}})
    seen = face(model, test, changed, changed.entry("pgd"), "untargeted", seed=3).faced
    return float((seen.clean_correct & seen.correct & (seen.queries < 0)).double().mean())


@pytest.mark.parametrize("name", ["quick@1", "rome-2025@1"])
def test_an_honest_model(name: str) -> None:
    test, protocol, model = some(40), PROTOCOLS[name], bound(trained())
    found = probed(model, test, protocol)
    assert found["images"] == 40
    assert found["outputs_are_probabilities"] is False
    assert found["forward_difference"] == 0
    assert found["zero_gradients"] == 0
    assert found["unbounded"] == 0
    assert found["outputs_are_constant"] is False
    assert found["images_all"] == 40
    x = test.space.from_pixels(test.pixels)
    clean = float((trained()(x).argmax(dim=1) == test.labels).double().mean())
    assert found["clean"] == clean
    assert [text for text, _ in found["curve"]] == list(CURVE)
    for text, accuracy in found["curve"]:
        assert accuracy == robust(model, test, protocol, text, 10)
    accuracies = [accuracy for _, accuracy in found["curve"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[-1]


def test_the_clamp_is_tried_on_all_images_whatever_the_protocol() -> None:
    test, whole, net = some(8), some(300), trained()
    x = whole.space.from_pixels(whole.pixels)
    clean, clamped = (
        float((net(images).argmax(dim=1) == whole.labels).double().mean())
        for images in (x, x.clamp(0, 1))
    )
    assert clean > clamped
    for protocol in (QUICK, PUBLISHED):
        found = probed(bound(net), test, protocol, whole=whole)
        assert (found["clean_all"], found["clamped_all"]) == (clean, clamped)


@pytest.mark.parametrize("protocol", [QUICK, PUBLISHED], ids=lambda protocol: protocol.id)
@pytest.mark.parametrize("attack", ["pgd", "pgd-l2"])
def test_the_attack_that_ran_is_run_with_more_steps(protocol: Protocol, attack: str) -> None:
    """Its own settings, overrides included, as a measure of all the images would run it."""
    sizes = {"pgd": {"epsilon": "24/255", "step": "1/255"}, "pgd-l2": {"epsilon": "1", "step": "1"}}
    test, model = some(16), bound(trained())
    short, long = (
        overridden(protocol, {attack: {**sizes[attack], "steps": n, "random_start": False}})
        for n in (2, 8)
    )
    left = []
    for made in (short, long):
        seen = face(model, test, made, made.entry(attack), "untargeted", seed=3).faced
        left.append(float((seen.clean_correct & seen.correct).double().mean()))
    assert left[1] < left[0] or protocol is PUBLISHED  # where the clamp alone does as much
    ball = {"pgd": "linf 24/255", "pgd-l2": "l2 1"}[attack]
    assert probed(model, test, short, attacks=[attack])["converged"] == [
        {"attack": attack, "ball": ball, "steps": [2, 8], "accuracy": left}
    ]


@pytest.mark.parametrize(
    ("attacks", "looked_at"),
    [
        (["fgsm", "pgd"], ["pgd"]),
        (["pgd", "pgd-l2"], ["pgd", "pgd-l2"]),
        (["fgsm", "square"], []),
        (["pgd", "autoattack", "pgd-l2"], ["pgd-l2"]),  # of another ball
        (["pgd", "apgd-ce"], []),
        (["autoattack"], []),
        ([], []),
    ],
)
def test_attacks_that_choose_their_steps_vouch_for_their_ball(
    attacks: list[str], looked_at: list[str]
) -> None:
    found = probed(bound(trained()), some(2), attacks=attacks)
    assert [one["attack"] for one in found["converged"]] == looked_at


def test_a_ball_in_other_words_is_the_same_ball() -> None:
    changed = overridden(QUICK, {"apgd-ce": {"epsilon": "16/510"}})
    found = probed(bound(trained()), some(2), changed, attacks=["pgd", "apgd-ce"])
    assert found["converged"] == []


def test_every_pass_of_an_attack_is_polled() -> None:
    count = 0

    def poll() -> None:
        nonlocal count
        count += 1

    probed(bound(trained()), poll=poll)
    assert count > 100


def one_pixel(x: Tensor) -> Tensor:
    """Class 0 where the first value is above a half, else class 1."""
    first = x[:, 0, 0, 0]
    return torch.stack([first - 0.5, 0.5 - first], dim=1)


def test_nothing_is_out_of_reach_of_the_unbounded_attack() -> None:
    """Normalised values lie farther than 1 from the [0, 1] that attacks of this protocol end in."""
    pixels = torch.full((4, 1, 8, 8), 0.99)
    space = Normalised.of((0.5,), (0.1,))
    test = TestSet(pixels, torch.zeros(4, dtype=torch.int64), torch.arange(4), 2, space)
    found = probed(one_pixel, test, PUBLISHED)
    assert found["clean"] == 1
    assert found["unbounded"] == 0


def scaled(x: Tensor) -> Tensor:
    """Cross-entropy of these is flat: its gradient underflows wherever the model is right."""
    return 1e4 * trained()(x)


def rounded(x: Tensor) -> Tensor:
    return trained()((16 * x).round() / 16)  # torch's rounding has a gradient of zero


def probabilities(x: Tensor) -> Tensor:
    return trained()(x).softmax(dim=1)


class Random:
    """Every answer has other noise."""

    def __init__(self) -> None:
        self.draws = torch.Generator().manual_seed(1)

    def __call__(self, x: Tensor) -> Tensor:
        logits = trained()(x)
        return logits + torch.randn(logits.shape, generator=self.draws)


def test_flat_losses_have_zero_gradients() -> None:
    right = probed(scaled)["clean"]
    assert right > 0.5
    assert probed(scaled)["zero_gradients"] == pytest.approx(right, abs=0.1)
    assert probed(rounded)["zero_gradients"] == 1
    assert probed(rounded)["unbounded"] == probed(rounded)["clean"]
    assert probed(scaled)["unbounded"] > 0


def test_probabilities_are_no_logits() -> None:
    assert probed(probabilities)["outputs_are_probabilities"] is True
    assert probed(lambda x: probabilities(x).log())["outputs_are_probabilities"] is False
    assert probed(lambda x: 2 * probabilities(x))["outputs_are_probabilities"] is False


def test_answers_that_differ_are_seen_at_any_scale() -> None:
    for size in (1e-6, 1.0, 1e6):
        assert probed(sized(Random(), size))["forward_difference"] > 0.01
        assert probed(sized(trained(), size))["forward_difference"] == 0


def one_hot(x: Tensor) -> Tensor:
    return torch.eye(10)[3].expand(len(x), 10) + 0 * x.flatten(1).sum(dim=1, keepdim=True)


def sized(model: Network, size: float) -> Network:
    return lambda x: size * model(x)


def test_answers_that_never_differ_are_seen() -> None:
    assert probed(one_hot)["outputs_are_constant"] is True
    assert probed(lambda x: 0 * one_hot(x))["outputs_are_constant"] is True
    assert probed(lambda x: 1e-6 * trained()(x))["outputs_are_constant"] is False
    same = some(4)
    same = replace(same, pixels=same.pixels[:1].expand(4, 1, 8, 8))
    assert probed(bound(trained()), same)["outputs_are_constant"] is False


def test_labels_that_are_wrong_already_are_not_robust() -> None:
    test = some(16)
    wrong = replace(
        test, labels=(trained()(test.space.from_pixels(test.pixels)).argmax(dim=1) + 1) % 10
    )
    found = probed(bound(trained()), wrong)
    assert found["clean"] == found["clean_all"] == found["unbounded"] == 0
    assert all(accuracy == 0 for _, accuracy in found["curve"])
