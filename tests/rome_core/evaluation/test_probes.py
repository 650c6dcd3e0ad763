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
from tests.rome_core.evaluation.conftest import bound, some, trained

QUICK, PUBLISHED = PROTOCOLS["quick@1"], PROTOCOLS["rome-2025@1"]

Network = Callable[[Tensor], Tensor]


def probed(
    model: Network, test: TestSet | None = None, protocol: Protocol = QUICK, **more: Any
) -> dict[str, Any]:
    test = some(16) if test is None else test
    return probe(model, test, protocol, **{"whole": test, "seed": 3, **more})


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
    assert found["epsilon"] == "8/255"
    x = (test.pixels - test.mean[0]) / test.std[0]
    clean = float((trained()(x).argmax(dim=1) == test.labels).double().mean())
    assert found["clean"] == clean
    assert [text for text, _ in found["curve"]] == list(CURVE)
    for text, accuracy in found["curve"]:
        assert accuracy == robust(model, test, protocol, text, 10)
    accuracies = [accuracy for _, accuracy in found["curve"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[-1]
    assert found["steps"] == [
        [10, robust(model, test, protocol, "8/255", 10)],
        [40, robust(model, test, protocol, "8/255", 40)],
    ]


def test_the_clamp_is_tried_on_all_images_whatever_the_protocol() -> None:
    test, whole, net = some(8), some(300), trained()
    x = (whole.pixels - whole.mean[0]) / whole.std[0]
    clean, clamped = (
        float((net(images).argmax(dim=1) == whole.labels).double().mean())
        for images in (x, x.clamp(0, 1))
    )
    assert clean > clamped
    for protocol in (QUICK, PUBLISHED):
        found = probed(bound(net), test, protocol, whole=whole)
        assert (found["clean_all"], found["clamped_all"]) == (clean, clamped)


def test_the_radius_is_the_protocols_own_with_its_overrides() -> None:
    changed = overridden(QUICK, {"pgd": {"epsilon": "24/255"}})
    found = probed(bound(trained()), protocol=changed)
    assert found["epsilon"] == "24/255"
    assert found["steps"][0][1] == robust(bound(trained()), some(16), QUICK, "24/255", 10)


def test_a_radius_in_many_digits_is_probed_too() -> None:
    """A quarter of it, the step, is a longer text than settings take."""
    changed = overridden(QUICK, {"pgd": {"epsilon": "0.03137254901960784"}})
    found = probed(bound(trained()), protocol=changed)
    assert found["steps"] == probed(bound(trained()))["steps"]


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
    test = TestSet(pixels, torch.zeros(4, dtype=torch.int64), torch.arange(4), 2, (0.5,), (0.1,))
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


def test_answers_that_differ_are_seen() -> None:
    assert probed(Random())["forward_difference"] > 1


def test_labels_that_are_wrong_already_are_not_robust() -> None:
    test = some(16)
    wrong = replace(
        test, labels=(trained()((test.pixels - test.mean[0]) / test.std[0]).argmax(dim=1) + 1) % 10
    )
    found = probed(bound(trained()), wrong)
    assert found["clean"] == found["clean_all"] == found["unbounded"] == 0
    assert all(accuracy == 0 for _, accuracy in found["curve"])
