"""DM written for clarity, as the definition the fast form is measured against.

One class after another, plain autograd through real and synthetic images alike, torch.optim for the
images, every network a module of its own. It shares with the product only the draws, the initial
weights and the augmentation operators (which have a naive form of their own).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rome_core import augment, networks
from rome_core.data import Dataset
from rome_core.distillation.draws import Draws
from rome_core.recipes.dm import DmHyperparameters


class NaiveDm:
    """The released code's loop with every switch."""

    def __init__(
        self,
        dataset: Dataset,
        hp: DmHyperparameters,
        *,
        ipc: int,
        seed: int,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.hp, self.ipc, self.draws, self.dtype = hp, ipc, Draws(seed), dtype
        self.classes, self.shape = dataset.classes, dataset.shape
        self.strategy = hp.augmentation or dataset.augmentation
        self.mean = dataset.mean.to(dtype).view(-1, 1, 1)
        self.std = dataset.std.to(dtype).view(-1, 1, 1)
        self.real = (dataset.train_images.to(dtype) - self.mean) / self.std
        self.labels = dataset.train_labels
        self.images = self.start().requires_grad_()
        self.optimiser = torch.optim.SGD([self.images], lr=hp.lr_img, momentum=hp.momentum)
        self.iteration = self.made = 0

    def start(self) -> Tensor:
        images = torch.empty(self.classes * self.ipc, *self.shape, dtype=self.dtype)
        half = self.shape[1] // 2
        corners = [(0, 0), (half, 0), (0, half), (half, half)]  # of the quadrants in their order
        for label in range(self.classes):
            own = images[label * self.ipc : (label + 1) * self.ipc]
            members = torch.nonzero(self.labels == label).flatten()
            if self.hp.init == "noise":
                own.copy_(torch.randn(own.shape, generator=self.draws.init(label, 0)))
                continue
            for quadrant, (row, column) in enumerate(corners[: self.hp.factor**2]):
                order = torch.randperm(len(members), generator=self.draws.init(label, quadrant))
                chosen = self.real[members[order[: self.ipc]]]
                if self.hp.factor == 1:
                    own.copy_(chosen)
                else:
                    small = F.interpolate(chosen, scale_factor=0.5, mode="bilinear")
                    own[:, :, row : row + half, column : column + half] = small
        return images

    def step(self) -> None:
        loss = torch.zeros((), dtype=self.dtype)
        for turn in range(self.hp.networks_per_iteration):
            network = networks.build(
                self.hp.network,
                channels=self.shape[0],
                size=self.shape[1],
                classes=self.classes,
                generator=self.draws.network(self.made),
            ).to(self.dtype)
            self.made += 1
            for label in range(self.classes):
                loss = loss + self.loss(network, turn, label)
        self.optimiser.zero_grad()
        (loss / self.hp.networks_per_iteration).backward()
        self.optimiser.step()
        self.iteration += 1

    def loss(self, network: networks.Network, turn: int, label: int) -> Tensor:
        hp, it = self.hp, self.iteration
        members = torch.nonzero(self.labels == label).flatten()
        real = self.real[self.draws.real(it, turn, label, members, hp.batch_real)]
        synthetic = self.images[label * self.ipc : (label + 1) * self.ipc]
        if hp.factor == 2:
            half = self.shape[1] // 2
            quadrants = [
                synthetic[:, :, row : row + half, column : column + half]
                for column in (0, half)
                for row in (0, half)
            ]
            synthetic = torch.cat(
                [F.interpolate(q, scale_factor=2, mode="bilinear") for q in quadrants]
            )
        real, synthetic = self.augment(real, turn, label), self.augment(synthetic, turn, label)
        if hp.perturbed in ("real", "both"):
            real = self.attack(network, real, turn, label, "real")
        if hp.perturbed in ("synthetic", "both"):
            still = synthetic.detach()
            moved = self.attack(network, still, turn, label, "synthetic")
            synthetic = synthetic + (moved - still)
        goal = network.embed(real).mean(dim=0).detach()
        mine = network.embed(synthetic).mean(dim=0)
        loss = ((mine - goal) ** 2).sum()
        if hp.curvature_of_images:
            bends = [self.bend(network, one[None], label) for one in synthetic]
            loss = loss + hp.curvature_of_images * sum(bends) / len(bends)
        return loss

    def bend(self, network: nn.Module, one: Tensor, label: int) -> Tensor:
        """How far the gradient of one image's cross-entropy turns over a step along itself."""

        def gradient(x: Tensor) -> Tensor:
            loss = F.cross_entropy(network(x), torch.tensor([label]))
            return torch.autograd.grad(loss, x, create_graph=True)[0]

        here = gradient(one)
        z = (self.hp.curvature_step * here / here.norm()).detach()
        return (gradient(one + z) - here).norm()

    def augment(self, x: Tensor, turn: int, label: int) -> Tensor:
        drawn = augment.draw(
            self.strategy,
            len(x),
            size=self.shape[1],
            generator=self.draws.augmentation(self.iteration, turn, label),
            siamese=True,
        )
        return augment.apply(x, drawn)

    def attack(self, network: nn.Module, x: Tensor, turn: int, label: int, side: str) -> Tensor:
        """PGD with normalisation inside the model, or on normalised images clamped to [0, 1]."""
        hp = self.hp
        made = self.draws.noise(self.iteration, turn, label, side)
        epsilon, step = as_number(hp.pgd_epsilon), as_number(hp.pgd_step)
        pixel = hp.attack_domain == "pixel"
        labels = torch.full((len(x),), label)
        start = (x * self.std + self.mean if pixel else x).detach()
        noise = (torch.rand(x.shape, generator=made).to(self.dtype) * 2 - 1) * epsilon
        moved = (start + noise).clamp(0, 1)
        for _ in range(hp.pgd_steps):
            moved = moved.detach().requires_grad_()
            logits = network((moved - self.mean) / self.std if pixel else moved)
            if hp.target_rule == "untargeted":
                cost = F.cross_entropy(logits, labels)
            else:
                cost = -F.cross_entropy(logits, (labels + 1) % self.classes)
            (gradient,) = torch.autograd.grad(cost, moved)
            further = moved.detach() + step * gradient.sign()
            moved = (start + (further - start).clamp(-epsilon, epsilon)).clamp(0, 1)
        return ((moved - self.mean) / self.std if pixel else moved).detach()


def as_number(fraction: str) -> float:
    numerator, _, denominator = fraction.partition("/")
    return float(numerator) / float(denominator or 1)
