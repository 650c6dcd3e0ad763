"""Training an expert written out: one network, one loop, image by image where that is possible.

Only the drawing of augmentations and their application are shared with the code under test.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core import augment
from rome_core.data import Dataset
from rome_core.networks import build
from rome_core.randomness import generator
from rome_core.recipes.attacks import parse_fraction
from rome_core.recipes.experts import ExpertTraining


@dataclass
class NaiveExpert:
    """All that is to be known of one expert."""

    snapshots: list[Tensor] = field(default_factory=list)  # (p,) before the first epoch, and after
    train_accuracy: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    history: dict[int, list[bool]] = field(default_factory=dict)  # image -> right or wrong, visits
    accuracy: float = 0.0

    def forgetting(self) -> list[int]:
        counts = []
        for image in sorted(self.history):
            seen = self.history[image]
            if not any(seen):
                counts.append(len(seen) + 1)
                continue
            turns = 0
            for before, after in itertools.pairwise(seen):
                if before and not after:
                    turns += 1
            counts.append(turns)
        return counts


def naive_expert(
    dataset: Dataset, training: ExpertTraining, *, seed: int, number: int, dtype: torch.dtype
) -> NaiveExpert:
    channels, size, _ = dataset.shape
    network = build(
        training.network,
        channels=channels,
        size=size,
        classes=dataset.classes,
        generator=generator(seed, "experts", number, "network"),
    ).to(dtype)
    told = NaiveExpert(history={image: [] for image in range(len(dataset.train_images))})
    told.snapshots.append(_flat(network))
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
    for epoch in range(training.epochs):
        halfway = training.epochs / 2
        if training.schedule == "step" and epoch >= halfway:
            for group in optimiser.param_groups:
                group["lr"] = training.learning_rate * 0.1
        path = (seed, "experts", number, "epoch", epoch)
        order = torch.randperm(
            len(dataset.train_images), generator=generator(*path, "order")
        ).tolist()
        right, total = 0, 0.0
        for batch, first in enumerate(range(0, len(order), training.batch)):
            chosen = order[first : first + training.batch]
            x = dataset.space.from_pixels(dataset.train_images[chosen].to(dtype))
            y = dataset.train_labels[chosen]
            rows = augment.draw(
                training.augmentation or dataset.augmentation,
                len(chosen),
                size=size,
                generator=generator(*path, "augmentation", batch),
                siamese=False,
            )
            x = augment.apply(x, rows)
            if training.adversarial is not None:
                unit = torch.rand(x.shape, generator=generator(*path, "attack", batch))
                x = torch.stack(
                    [
                        _attacked(network, dataset, training, image, label, noise.to(dtype))
                        for image, label, noise in zip(x, y, unit, strict=True)
                    ]
                )
            logits = network(x)
            loss = F.cross_entropy(logits, y)
            for image, label, row in zip(chosen, y, logits.detach(), strict=True):
                told.history[image].append(bool(row.argmax() == label))
                right += int(row.argmax() == label)
                total += float(F.cross_entropy(row[None], label[None]))
            if training.curvature_weight:
                bent = [
                    _curvature(network, image, label, training.curvature_step)
                    for image, label in zip(x, y, strict=True)
                ]
                loss = loss + training.curvature_weight * torch.stack(bent).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        told.train_accuracy.append(right / len(order))
        told.train_loss.append(total / len(order))
        told.snapshots.append(_flat(network))
    with torch.no_grad():
        seen = network(dataset.space.from_pixels(dataset.test_images.to(dtype)))
    told.accuracy = float((seen.argmax(dim=1) == dataset.test_labels).double().mean())
    return told


def _flat(network: torch.nn.Module) -> Tensor:
    return torch.cat([value.detach().clone().flatten() for value in network.parameters()])


def _attacked(
    network: torch.nn.Module,
    dataset: Dataset,
    training: ExpertTraining,
    image: Tensor,
    label: Tensor,
    unit: Tensor,
) -> Tensor:
    """Madry et al. 2018, one image."""
    recipe = training.adversarial
    assert recipe is not None
    epsilon, step = float(parse_fraction(recipe.epsilon)), float(parse_fraction(recipe.step))
    pixel = recipe.domain == "pixel"
    space = dataset.space
    original = space.to_pixels(image[None]) if pixel else image[None]
    moving = original
    if recipe.random_start:
        moving = (original + (unit[None] * 2 - 1) * epsilon).clamp(0, 1)
    for _ in range(recipe.steps):
        moving = moving.detach().requires_grad_()
        seen = space.from_pixels(moving) if pixel else moving
        (slope,) = torch.autograd.grad(F.cross_entropy(network(seen), label[None]), moving)
        moving = moving.detach() + step * slope.sign()
        moving = moving.clamp(original - epsilon, original + epsilon).clamp(0, 1)
    found = space.from_pixels(moving) if pixel else moving
    return found[0].detach()


def _curvature(network: torch.nn.Module, image: Tensor, label: Tensor, step: float) -> Tensor:
    """|g(x + z) - g(x)|, z = step g / |g| a constant."""

    def slope(x: Tensor) -> Tensor:
        loss = F.cross_entropy(network(x[None]), label[None])
        return torch.autograd.grad(loss, x, create_graph=True)[0]

    x = image.detach().requires_grad_()
    here = slope(x)
    z = step * here.detach() / here.detach().norm()
    there = slope((image.detach() + z).requires_grad_())
    return (there - here).norm()
