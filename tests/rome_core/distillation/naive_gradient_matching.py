"""DC and DSA written for clarity, as the definition the fast form is measured against.

One class after another with a backward pass each, plain autograd, torch.optim for both optimisers,
an nn.Module for the network, rows of weights in Python loops. It shares with the product only the
draws, the initial weights and the augmentation operators; every formula is written out again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core import augment, networks
from rome_core.data import Dataset
from rome_core.distillation.draws import Draws
from rome_core.recipes.gradient_matching import DsaHyperparameters, GradientMatchingHyperparameters


class NaiveGradientMatching:
    """The released code's loop, with what was added to it; outer and inner loop must be given."""

    def __init__(
        self,
        dataset: Dataset,
        hp: GradientMatchingHyperparameters,
        *,
        ipc: int,
        seed: int,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        assert hp.outer_loop is not None
        assert hp.inner_loop is not None
        self.hp, self.ipc, self.draws, self.dtype = hp, ipc, Draws(seed), dtype
        self.outer_loop, self.inner_loop = hp.outer_loop, hp.inner_loop
        self.classes, self.shape = dataset.classes, dataset.shape
        self.strategy = hp.augmentation or dataset.augmentation
        self.mean = dataset.mean.to(dtype).view(-1, 1, 1)
        self.std = dataset.std.to(dtype).view(-1, 1, 1)
        self.real = (dataset.train_images.to(dtype) - self.mean) / self.std
        self.labels = dataset.train_labels
        self.siamese = isinstance(hp, DsaHyperparameters)
        self.images = self.start().requires_grad_()
        self.optimiser = torch.optim.SGD([self.images], lr=hp.lr_img, momentum=hp.momentum)
        self.iteration = 0
        self.outer = 0

    def start(self) -> Tensor:
        images = torch.empty(self.classes * self.ipc, *self.shape, dtype=self.dtype)
        for label in range(self.classes):
            own = images[label * self.ipc : (label + 1) * self.ipc]
            made = self.draws.init(label, 0)
            if self.hp.init == "noise":
                own.copy_(torch.randn(own.shape, generator=made))
            else:
                members = torch.nonzero(self.labels == label).flatten()
                order = torch.randperm(len(members), generator=made)
                own.copy_(self.real[members[order[: self.ipc]]])
        return images

    def step(self) -> float:
        """One outer step; returns the mean loss over classes."""
        if self.outer == 0:
            self.network = networks.build(
                self.hp.network,
                channels=self.shape[0],
                size=self.shape[1],
                classes=self.classes,
                generator=self.draws.network(self.iteration),
            ).to(self.dtype)
            self.network_optimiser = torch.optim.SGD(self.network.parameters(), lr=self.hp.lr_net)
        self.optimiser.zero_grad()
        losses = []
        for label in range(self.classes):
            loss = self.loss(label)
            loss.backward()
            losses.append(loss.item())
        self.optimiser.step()
        if self.outer < self.outer_loop - 1:
            for epoch in range(self.inner_loop):
                self.train(epoch)
            self.outer += 1
        else:
            self.outer = 0
            self.iteration += 1
        return sum(losses) / len(losses)

    def loss(self, label: int) -> Tensor:
        hp = self.hp
        members = torch.nonzero(self.labels == label).flatten()
        chosen = self.draws.real(self.iteration, self.outer, label, members, hp.batch_real)
        real = self.prepared(self.real[chosen], label, "real")
        own = self.images[label * self.ipc : (label + 1) * self.ipc]
        synthetic = self.prepared(own, label, "synthetic")
        goal = [gradient.detach() for gradient in self.gradient(real, label)]
        distance = self.distance(self.gradient(synthetic, label), goal)
        if hp.curvature_of_images:
            labels = torch.full((self.ipc,), label)
            distance = distance + hp.curvature_of_images * self.curvature(synthetic, labels)
        return distance

    def gradient(self, x: Tensor, label: int) -> list[Tensor]:
        loss = F.cross_entropy(self.network(x), torch.full((len(x),), label))
        return list(torch.autograd.grad(loss, list(self.network.parameters()), create_graph=True))

    def distance(self, synthetic: list[Tensor], real: list[Tensor]) -> Tensor:
        if self.hp.distance == "layerwise":
            pairs = [(s, r) for s, r in zip(synthetic, real, strict=True) if s.dim() > 1]
            return torch.stack([rows_apart(s, r) for s, r in pairs]).sum()
        one = torch.cat([gradient.reshape(-1) for gradient in synthetic])
        other = torch.cat([gradient.reshape(-1) for gradient in real])
        return cosine(one, other) if self.hp.distance == "cos" else ((one - other) ** 2).sum()

    def prepared(self, x: Tensor, label: int, side: str) -> Tensor:
        """Every image meets what the class drew for this outer step, then perhaps an attack."""
        if self.siamese:
            drawn = augment.draw(
                self.strategy,
                len(x),
                size=self.shape[1],
                generator=self.draws.augmentation(self.iteration, self.outer, label),
                siamese=True,
            )
            x = augment.apply(x, drawn)
        if self.hp.perturbed in (side, "both"):
            made = self.draws.noise(self.iteration, self.outer, label, side)
            still = x.detach()
            x = x + (self.attack(still, torch.full((len(x),), label), made) - still)
        return x

    def train(self, epoch: int) -> None:
        """One epoch on the images as they now are."""
        hp = self.hp
        draws = self.draws.epoch(self.iteration, self.outer, epoch)
        images = self.images.detach()
        order = torch.randperm(len(images), generator=draws)
        for first in range(0, len(images), hp.batch_train):
            chosen = order[first : first + hp.batch_train]
            x, labels = images[chosen], chosen // self.ipc
            if self.siamese:
                drawn = augment.draw(
                    self.strategy, len(x), size=self.shape[1], generator=draws, siamese=False
                )
                x = augment.apply(x, drawn)
            loss = F.cross_entropy(self.network(x), labels)
            if hp.curvature_of_networks:
                bend = self.curvature(x.requires_grad_(), labels)
                loss = loss + hp.curvature_of_networks * bend
            self.network_optimiser.zero_grad()
            loss.backward()
            self.network_optimiser.step()

    def curvature(self, x: Tensor, labels: Tensor) -> Tensor:
        """The mean of |g(x + z) - g(x)| with z along g(x), which is a constant."""
        (g,) = torch.autograd.grad(
            F.cross_entropy(self.network(x), labels, reduction="sum"), x, create_graph=True
        )
        lengths = g.detach().flatten(1).square().sum(dim=1).sqrt().view(-1, 1, 1, 1)
        moved = x + self.hp.curvature_step * g.detach() / lengths
        (h,) = torch.autograd.grad(
            F.cross_entropy(self.network(moved), labels, reduction="sum"), moved, create_graph=True
        )
        return (h - g).flatten(1).square().sum(dim=1).sqrt().mean()

    def attack(self, x: Tensor, labels: Tensor, made: torch.Generator) -> Tensor:
        """PGD away from the labels, on pixels."""
        hp = self.hp
        epsilon, step = as_number(hp.pgd_epsilon), as_number(hp.pgd_step)
        start = x * self.std + self.mean
        noise = (torch.rand(x.shape, generator=made).to(self.dtype) * 2 - 1) * epsilon
        moved = (start + noise).clamp(0, 1)
        for _ in range(hp.pgd_steps):
            moved = moved.detach().requires_grad_()
            cost = F.cross_entropy(self.network((moved - self.mean) / self.std), labels)
            (gradient,) = torch.autograd.grad(cost, moved)
            further = moved.detach() + step * gradient.sign()
            moved = (start + (further - start).clamp(-epsilon, epsilon)).clamp(0, 1)
        return ((moved - self.mean) / self.std).detach()


def rows_apart(synthetic: Tensor, real: Tensor) -> Tensor:
    """Row by row of one layer's weight: one minus the cosine of what the row holds."""
    total = torch.zeros((), dtype=synthetic.dtype)
    for one, other in zip(synthetic, real, strict=True):
        total = total + cosine(one.reshape(-1), other.reshape(-1))
    return total


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """One minus it; `norm` has the slope 0 at the zero vector, which a dead unit's row is."""
    return 1 - (one * other).sum() / (one.norm() * other.norm() + 0.000001)


def as_number(fraction: str) -> float:
    numerator, _, denominator = fraction.partition("/")
    return float(numerator) / float(denominator or 1)
