"""Matching against a pool written for clarity, as the definition the fast form is measured against.

One class after another, one image step a class, plain autograd, torch.optim for every optimiser, an
nn.Module for every network. It shares with the product only the draws, the initial weights and the
augmentation operators (which have a naive form of their own); every formula is written out again.
What a method adds is its distance and the weights of its two terms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core import augment, networks
from rome_core.data import Dataset
from rome_core.distillation.draws import Draws
from rome_core.recipes.pool import PoolHyperparameters


class NaiveNetwork:
    """A network of the pool, with its own optimiser and the record of its training accuracy."""

    def __init__(self, module: networks.Network, hp: PoolHyperparameters) -> None:
        self.module = module
        self.optimiser = torch.optim.SGD(
            module.parameters(), lr=hp.lr_net, momentum=hp.net_momentum, weight_decay=hp.net_decay
        )
        self.accuracies: list[float] = []  # one a training step


class NaivePool(ABC):
    """The released codes' loop with every switch."""

    def __init__(
        self,
        dataset: Dataset,
        hp: PoolHyperparameters,
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
        self.made = 0
        self.pool = [self.fresh() for _ in range(hp.net_begin)]
        self.iteration = 0

    def start(self) -> Tensor:
        """Noise, real images, or four real images at half size in one, drawn corner by corner."""
        images = torch.empty(self.classes * self.ipc, *self.shape, dtype=self.dtype)
        half = self.shape[1] // 2
        corners = [(0, 0), (half, 0), (0, half), (half, half)]  # of the quadrants in their order
        for label in range(self.classes):
            own = images[label * self.ipc : (label + 1) * self.ipc]
            if self.hp.init == "noise":
                own.copy_(torch.randn(own.shape, generator=self.draws.init(label, 0)))
            elif self.hp.factor == 1:
                own.copy_(self.real[self.drawn(label, 0)])
            else:
                for quadrant, (row, column) in enumerate(corners):
                    small = F.interpolate(
                        self.real[self.drawn(label, quadrant)], scale_factor=0.5, mode="bilinear"
                    )
                    own[:, :, row : row + half, column : column + half] = small
        return images

    def drawn(self, label: int, quadrant: int) -> Tensor:
        """Positions of the `ipc` real images of a class that one quadrant starts from."""
        members = torch.nonzero(self.labels == label).flatten()
        order = torch.randperm(len(members), generator=self.draws.init(label, quadrant))
        return members[order[: self.ipc]]

    def fresh(self) -> NaiveNetwork:
        module = networks.build(
            self.hp.network,
            channels=self.shape[0],
            size=self.shape[1],
            classes=self.classes,
            generator=self.draws.network(self.made),
        )
        self.made += 1
        return NaiveNetwork(module.to(self.dtype), self.hp)

    def step(self) -> None:
        self.renew_pool()
        chosen = self.draws.matched(self.iteration, len(self.pool), self.hp.train_net_num)
        for turn, position in enumerate(chosen):
            for label in range(self.classes):
                self.update_class(turn, self.pool[position], label)
        chosen = self.draws.fetched(self.iteration, len(self.pool), self.hp.fetch_net_num)
        for slot, position in enumerate(chosen):
            for step in range(self.hp.model_train_steps):
                self.train(self.pool[position], slot, step)
        self.iteration += 1

    def renew_pool(self) -> None:
        hp = self.hp
        evaluated = self.iteration > 0 and self.iteration % hp.eval_interval == 0
        if evaluated and hp.meter == "since_evaluation":
            for network in self.pool:
                network.accuracies = []
        if self.iteration % hp.net_generate_interval == 0:
            if len(self.pool) >= hp.net_num:
                self.pool.pop(0)
            self.pool.append(self.fresh())

    def update_class(self, turn: int, network: NaiveNetwork, label: int) -> None:
        hp, it = self.hp, self.iteration
        members = torch.nonzero(self.labels == label).flatten()
        real = self.real[self.draws.real(it, turn, label, members, hp.batch_real)]
        synthetic = self.images[label * self.ipc : (label + 1) * self.ipc]
        if hp.factor == 2:
            synthetic = decode(synthetic)
        real, synthetic = self.augment(real, turn, label), self.augment(synthetic, turn, label)
        if hp.perturbed in ("real", "both"):
            made = self.draws.noise(it, turn, label, "real")
            real = self.attack(network, real, torch.full((len(real),), label), made)
        if hp.perturbed in ("synthetic", "both"):
            made = self.draws.noise(it, turn, label, "synthetic")
            still = synthetic.detach()
            labels = torch.full((len(still),), label)
            synthetic = synthetic + (self.attack(network, still, labels, made) - still)

        embeddings = network.module.embed(real).detach()
        matching = self.matching(network.module.embed(synthetic).mean(dim=0), embeddings)
        labels = torch.full((len(synthetic),), label)
        performance = F.cross_entropy(network.module(synthetic), labels)
        ours, others = self.weights()
        loss = ours * matching + others * self.accuracy(network) * performance
        if hp.curvature_of_images:
            bend = curvature(network.module, synthetic, labels, hp.curvature_step)
            loss = loss + hp.curvature_of_images * bend
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    @abstractmethod
    def matching(self, synthetic: Tensor, real: Tensor) -> Tensor:
        """The distance of a mean synthetic embedding (d,) from real embeddings (n, d)."""

    @abstractmethod
    def weights(self) -> tuple[float, float]:
        """Of that distance and of the cross-entropy."""

    def accuracy(self, network: NaiveNetwork) -> float:
        hp, history = self.hp, network.accuracies
        if hp.perf_weight == "none":
            return 1.0
        if not history:
            return 0.0
        if hp.meter == "since_evaluation":
            accuracy = sum(history) / len(history)
        else:
            weights = [hp.meter_decay**age for age in range(len(history))]
            newest_first = zip(weights, reversed(history), strict=True)
            accuracy = sum(w * a for w, a in newest_first) / sum(weights)
        return accuracy * (100 if hp.perf_weight == "acc_percent" else 1)

    def train(self, network: NaiveNetwork, slot: int, step: int) -> None:
        hp, it = self.hp, self.iteration
        everything = torch.arange(len(self.real))
        chosen = self.draws.batch(it, slot, step, everything, hp.batch_train)
        x, labels = self.real[chosen], self.labels[chosen]
        if hp.pool_training != "clean":
            made = self.draws.training_noise(it, slot, step)
            attacked = self.attack(network, x, labels, made)
            x = torch.cat([attacked, x]) if hp.pool_training == "both" else attacked
            labels = torch.cat([labels, labels]) if hp.pool_training == "both" else labels
        logits = network.module(x)
        network.optimiser.zero_grad()
        loss = F.cross_entropy(logits, labels)
        if hp.curvature_of_networks:
            bend = curvature(network.module, x, labels, hp.curvature_step)
            loss = loss + hp.curvature_of_networks * bend
        loss.backward()
        network.optimiser.step()
        network.accuracies.append((logits.argmax(dim=1) == labels).double().mean().item())

    def augment(self, x: Tensor, turn: int, label: int) -> Tensor:
        """Every image meets what the class drew for this iteration."""
        drawn = augment.draw(
            self.strategy,
            len(x),
            size=self.shape[1],
            generator=self.draws.augmentation(self.iteration, turn, label),
            siamese=True,
        )
        return augment.apply(x, drawn)

    def attack(
        self, network: NaiveNetwork, x: Tensor, labels: Tensor, made: torch.Generator
    ) -> Tensor:
        """PGD as the released code's library does it, in the space of the attack's domain."""
        hp = self.hp
        epsilon, step = as_number(hp.pgd_epsilon), as_number(hp.pgd_step)
        pixel = hp.attack_domain == "pixel"
        start = (x * self.std + self.mean if pixel else x).detach()
        noise = (torch.rand(x.shape, generator=made).to(self.dtype) * 2 - 1) * epsilon
        moved = (start + noise).clamp(0, 1)
        for _ in range(hp.pgd_steps):
            moved = moved.detach().requires_grad_()
            logits = network.module((moved - self.mean) / self.std if pixel else moved)
            if hp.target_rule == "untargeted":
                cost = F.cross_entropy(logits, labels)
            else:
                rule = 10 if hp.target_rule == "mod10" else self.classes
                cost = -F.cross_entropy(logits, (labels + 1) % rule)
            (gradient,) = torch.autograd.grad(cost, moved)
            further = moved.detach() + step * gradient.sign()
            moved = (start + (further - start).clamp(-epsilon, epsilon)).clamp(0, 1)
        return ((moved - self.mean) / self.std if pixel else moved).detach()


def curvature(module: networks.Network, x: Tensor, labels: Tensor, step: float) -> Tensor:
    """The mean of |gradient at x + z - gradient at x|, image by image, z along the gradient."""
    bends = []
    for image, label in zip(x.split(1), labels.split(1), strict=True):
        here = image if image.requires_grad else image.clone().requires_grad_()
        loss = F.cross_entropy(module(here), label)
        (gradient,) = torch.autograd.grad(loss, here, create_graph=True)
        there = here + step * (gradient / gradient.norm()).detach()
        loss = F.cross_entropy(module(there), label)
        (further,) = torch.autograd.grad(loss, there, create_graph=True)
        bends.append((further - gradient).norm())
    return torch.stack(bends).mean()


def decode(images: Tensor) -> Tensor:
    """Quadrants top-left, bottom-left, top-right, bottom-right, each enlarged, in blocks."""
    half = images.shape[-1] // 2
    top, bottom = images[:, :, :half], images[:, :, half:]
    quadrants = [top[..., :half], bottom[..., :half], top[..., half:], bottom[..., half:]]
    enlarged = [
        F.interpolate(q, scale_factor=2, mode="bilinear", align_corners=False) for q in quadrants
    ]
    return torch.cat(enlarged)


def as_number(fraction: str) -> float:
    numerator, _, denominator = fraction.partition("/")
    return float(numerator) / float(denominator or 1)
