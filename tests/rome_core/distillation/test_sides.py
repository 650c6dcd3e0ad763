"""What networks are shown of a class, against the same image by image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rome_core import augment
from rome_core.data import Dataset
from rome_core.distillation import sides
from rome_core.distillation.draws import Draws
from rome_core.distillation.material import Material
from rome_core.distillation.perturbation import Perturbation
from rome_core.distillation.sides import Sides, Turn
from rome_core.networks import Network
from rome_core.passes import Passes, plan
from rome_core.randomness import generator
from rome_core.recipes.augmentation import OBJECTS
from rome_core.recipes.dm import DmHyperparameters

NETWORK = "convnet-d2-w8"
STEPS = 3


def uneven(dataset: Dataset) -> Dataset:
    """Without some images of the first class."""
    kept = torch.ones(len(dataset.train_labels), dtype=torch.bool)
    kept[torch.nonzero(dataset.train_labels == 0).flatten()[:8]] = False
    return replace(
        dataset,
        train_images=dataset.train_images[kept],
        train_labels=dataset.train_labels[kept],
    )


def made(dataset: Dataset, perturbed: Any = "none", **more: Any) -> tuple[Sides, Material]:
    material = Material(dataset, Draws(5), ipc=2, dtype=torch.float64, **more)
    hp = DmHyperparameters(perturbed=perturbed, pgd_steps=STEPS)
    perturbation = None if perturbed == "none" else Perturbation(hp, material)
    return Sides(material, perturbation, strategy=OBJECTS, batch_real=6), material


def model(material: Material) -> Network:
    network = material.network(NETWORK, Draws(5).network(0))
    return network.requires_grad_(False).eval()


def alike(material: Material, x: Tensor, turn: Turn, label: int) -> Tensor:
    """One class's images as its own draw of the iteration augments them."""
    drawn = augment.draw(
        OBJECTS,
        len(x),
        size=material.size,
        generator=material.draws.augmentation(turn.iteration, turn.number, label),
        siamese=True,
    )
    return augment.apply(x, drawn)


def test_both_sides_of_a_class_are_augmented_alike(tiny: Dataset) -> None:
    own, material = made(uneven(tiny), factor=2)
    turn = own.draw(7, 1)
    stored = material.start("real")
    real, synthetic = own.real(turn, range(3)), own.synthetic(turn, range(3), stored)
    assert real.counts == [4, 6, 6]
    assert synthetic.counts == [8, 8, 8]
    assert real.labels.tolist() == [0] * 4 + [1] * 6 + [2] * 6
    assert synthetic.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    parts = zip(
        torch.split(real.x, real.counts), torch.split(synthetic.x, synthetic.counts), strict=True
    )
    for label, (ours, theirs) in enumerate(parts):
        members = torch.nonzero(material.dataset.train_labels == label).flatten()
        chosen = material.draws.real(7, 1, label, members, 6)
        assert torch.equal(ours, alike(material, material.images(chosen), turn, label))
        decoded = material.decode(stored[2 * label : 2 * label + 2], 1)
        assert torch.equal(theirs, alike(material, decoded, turn, label))


def test_some_classes_are_shown_as_they_are_among_all(tiny: Dataset) -> None:
    own, material = made(uneven(tiny))
    turn = own.draw(0, 0)
    stored = material.start("real")
    assert torch.equal(own.real(turn, range(1, 3)).x, own.real(turn, range(3)).x[4:])
    some = own.synthetic(turn, range(1, 3), stored[2:])
    assert torch.equal(some.x, own.synthetic(turn, range(3), stored).x[2:])
    assert some.labels.tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("perturbed", ["none", "real", "synthetic", "both"])
def test_the_sides_asked_for_are_attacked_and_counted(tiny: Dataset, perturbed: str) -> None:
    own, material = made(tiny, perturbed)
    turn, network = own.draw(2, 0), model(material)
    shown = {
        "real": own.real(turn, range(3)),
        "synthetic": own.synthetic(turn, range(3), material.start("real")),
    }
    for side, one in shown.items():
        attacked = own.attacked(network, turn, one)
        asked = perturbed in (side, "both")
        assert torch.equal(attacked, one.x) is not asked
        assert own.passes(one.side) == (1 + STEPS if asked else 1)
        torch.testing.assert_close(own.moved(network, turn, one), attacked, rtol=0, atol=1e-12)


def test_each_class_is_attacked_from_its_own_start(tiny: Dataset) -> None:
    own, material = made(tiny, "both")
    turn, network = own.draw(2, 0), model(material)
    perturbation = Perturbation(DmHyperparameters(pgd_steps=STEPS), material)
    for shown in (
        own.real(turn, range(3)),
        own.synthetic(turn, range(3), material.start("real")),
    ):
        attacked = own.attacked(network, turn, shown)
        for label in range(3):
            mine = shown.labels == label
            start = material.draws.noise(2, 0, label, shown.side)
            noise = perturbation.noise([int(mine.sum())], [start])
            alone = perturbation(network, shown.x[mine], shown.labels[mine], noise)
            torch.testing.assert_close(attacked[mine], alone, rtol=0, atol=1e-12)


def test_a_perturbation_is_a_constant(tiny: Dataset) -> None:
    own, material = made(tiny, "both")
    turn, network = own.draw(2, 0), model(material)
    plain, moved = (material.start("real").requires_grad_() for _ in range(2))
    shown = own.synthetic(turn, range(3), plain)
    weights = torch.rand(shown.x.shape, dtype=torch.float64, generator=generator(0, "weights"))
    (expected,) = torch.autograd.grad((weights * shown.x).sum(), plain)
    again = own.synthetic(turn, range(3), moved)
    (got,) = torch.autograd.grad((weights * own.moved(network, turn, again)).sum(), moved)
    assert torch.equal(got, expected)


def test_real_images_are_embedded_class_by_class(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, material = made(uneven(tiny), "real")
    turn, network = own.draw(2, 0), model(material)
    passes = Passes(network, plan(mode="eager"))
    shown = own.real(turn, range(3))
    whole = network.embed(own.attacked(network, turn, shown))
    expected = torch.split(whole, shown.counts)
    for most in (4096, 7):
        monkeypatch.setattr(sides, "REAL_GROUP", most)
        found = list(own.embedded(passes, network.state_dict(), turn))
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
