"""MTT written for clarity, as the definition the fast form is measured against.

The student is a dictionary of weights, its steps one expression each, and one backward call goes
through all of them, as in the released code; torch.optim steps images and step size. TESLA is its
own formula, with its sum of gradients. It shares with the product only the draws, the experts'
weights and the augmentation operators; every formula is written out again.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from rome_core import augment, networks
from rome_core.data import Dataset
from rome_core.distillation.draws import Draws
from rome_core.distillation.experts import Experts
from rome_core.randomness import generator
from rome_core.recipes.mtt import MttHyperparameters

Weights = dict[str, Tensor]


def distance(one: Weights, other: Weights) -> Tensor:
    """Squared, over all weights."""
    return torch.stack([((one[name] - other[name]) ** 2).sum() for name in one]).sum()


def inner(one: Weights, other: Weights) -> Tensor:
    return torch.stack([(one[name] * other[name]).sum() for name in one]).sum()


class NaiveMtt:
    """The released code's loop with every switch."""

    def __init__(
        self,
        dataset: Dataset,
        hp: MttHyperparameters,
        experts: Experts,
        *,
        ipc: int,
        seed: int,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.hp, self.experts, self.draws, self.dtype = hp, experts, Draws(seed), dtype
        self.size, self.classes = dataset.shape[1], dataset.classes
        self.strategy = hp.augmentation or dataset.augmentation
        self.labels = torch.arange(dataset.classes).repeat_interleave(ipc)
        self.network: nn.Module = networks.build(
            hp.network,
            channels=dataset.shape[0],
            size=self.size,
            classes=dataset.classes,
            generator=generator(0, "any"),
        ).to(dtype)
        mean, std = (value.to(dtype).view(-1, 1, 1) for value in (dataset.mean, dataset.std))
        real = (dataset.train_images.to(dtype) - mean) / std
        start = []
        for label in range(dataset.classes):
            members = torch.nonzero(dataset.train_labels == label).flatten()
            if hp.init == "real":
                order = torch.randperm(len(members), generator=self.draws.init(label, 0))
                start.append(real[members[order[:ipc]]])
            else:
                noise = torch.randn(ipc, *dataset.shape, generator=self.draws.init(label, 0))
                start.append(noise.to(dtype))
        self.images = torch.cat(start).requires_grad_()
        self.rate = torch.tensor(hp.lr_teacher, dtype=dtype).requires_grad_()
        self.pixels = torch.optim.SGD([self.images], lr=hp.lr_img, momentum=hp.momentum)
        self.step_size = torch.optim.SGD([self.rate], lr=hp.lr_lr, momentum=hp.momentum)
        self.iterates: list[Tensor] = []
        self.iteration = 0

    def step(self) -> float:
        hp = self.hp
        followed = min(hp.buffer_experts, self.experts.count)
        expert = self.draws.expert(self.iteration, followed)
        epoch = self.draws.start_epoch(self.iteration, hp.min_start_epoch, hp.max_start_epoch)
        start = self.weights(expert, epoch)
        target = self.weights(expert, epoch + hp.expert_epochs)
        labels = self.labels
        if hp.soft_labels == "teacher":
            with torch.no_grad():
                labels = functional_call(self.network, target, (self.images,)).softmax(dim=1)
        batches = self.batches()
        loss = self.unrolled(start, target, batches, labels)
        if hp.gradient == "tesla":
            by_images, by_rate = self.tesla(start, target, batches, labels)
        else:
            by_images, by_rate = torch.autograd.grad(loss, [self.images, self.rate])
        if hp.curvature_of_images:
            bent = hp.curvature_of_images * self.curvature(target)
            by_images = by_images + torch.autograd.grad(bent, self.images)[0]
        if hp.max_move is not None:
            moved = (hp.lr_img * by_images).square().mean().sqrt().item()
            by_images = by_images * min(1, hp.max_move / moved)
            by_rate = by_rate * min(1, hp.max_move / moved)
        self.images.grad, self.rate.grad = by_images, by_rate
        if hp.skip_above is None or loss.item() <= hp.skip_above:
            self.pixels.step()
            before = self.rate.item()
            self.step_size.step()
            change = self.rate.item() - before
            if hp.step_size_parameter == "positive" and change < 0:
                self.rate.data.fill_(before * math.exp(change / before))
        self.iterates.append(self.images.detach().clone())
        self.iteration += 1
        return loss.item()

    def weights(self, expert: int, epoch: int) -> Weights:
        state = self.experts.state(expert, epoch)
        return {name: value.to(self.dtype) for name, value in state.items()}

    def batches(self) -> list[tuple[Tensor, augment.Augmentation]]:
        """Positions and augmentation of every step: pieces are popped from the end."""
        hp, made = self.hp, []
        left: list[Tensor] = []
        for step in range(hp.syn_steps):
            if not left:
                order = self.draws.student_order(self.iteration, step, len(self.images))
                left = list(torch.split(order, hp.batch_syn or len(order)))
            chosen = left.pop()
            rows = augment.draw(
                self.strategy,
                len(chosen),
                size=self.size,
                generator=self.draws.student_augmentation(self.iteration, step),
                siamese=False,
            )
            made.append((chosen, rows))
        return made

    def cross_entropy(
        self,
        weights: Weights,
        batch: tuple[Tensor, augment.Augmentation],
        images: Tensor,
        labels: Tensor,
    ) -> Tensor:
        chosen, rows = batch
        x = augment.apply(images[chosen], rows)
        return F.cross_entropy(functional_call(self.network, weights, (x,)), labels[chosen])

    def unrolled(
        self,
        start: Weights,
        target: Weights,
        batches: list[tuple[Tensor, augment.Augmentation]],
        labels: Tensor,
    ) -> Tensor:
        student = {name: value.clone().requires_grad_() for name, value in start.items()}
        for batch in batches:
            loss = self.cross_entropy(student, batch, self.images, labels)
            gradients = torch.autograd.grad(loss, list(student.values()), create_graph=True)
            student = {
                name: value - self.rate * gradient
                for (name, value), gradient in zip(student.items(), gradients, strict=True)
            }
        return distance(student, target) / distance(start, target)

    def tesla(
        self,
        start: Weights,
        target: Weights,
        batches: list[tuple[Tensor, augment.Augmentation]],
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """d/dx_i of <2 rate (target - start) + 2 rate^2 G, g_i> / |target - start|^2, G = sum g_i.

        The step size has the derivative of |start - rate G - target|^2 / |target - start|^2.
        """
        rate, images = self.rate.detach(), self.images.detach().requires_grad_()
        student = {name: value.clone() for name, value in start.items()}
        total = {name: torch.zeros_like(value) for name, value in start.items()}
        each: list[Weights] = []
        for batch in batches:
            leaves = {name: value.detach().requires_grad_() for name, value in student.items()}
            loss = self.cross_entropy(leaves, batch, images, labels)
            gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
            named = dict(zip(leaves, gradients, strict=True))
            each.append(named)
            for name, gradient in named.items():
                total[name] = total[name] + gradient.detach()
                student[name] = student[name] - rate * gradient.detach()
        whole = distance(start, target)
        factor = {
            name: 2 * rate * (target[name] - start[name]) + 2 * rate**2 * total[name]
            for name in start
        }
        by_images = torch.zeros_like(images)
        for named in each:
            along = inner(factor, named) / whole
            by_images += torch.autograd.grad(along, images, retain_graph=True)[0]
        apart = {name: start[name] - rate * total[name] - target[name] for name in start}
        return by_images.detach(), -2 * inner(apart, total) / whole

    def curvature(self, weights: Weights) -> Tensor:
        """Mean over images of |g(x + z) - g(x)|, z along g and constant."""
        bent = []
        for image, label in zip(self.images, self.labels, strict=True):

            def gradient(x: Tensor, label: Tensor = label) -> Tensor:
                logits = functional_call(self.network, weights, (x[None],))
                loss = F.cross_entropy(logits, label[None])
                return torch.autograd.grad(loss, x, create_graph=True)[0]

            here = gradient(image)
            z = self.hp.curvature_step * (here / here.norm()).detach()
            bent.append((gradient(image + z) - here).norm())
        return torch.stack(bent).mean()

    def average(self) -> Tensor:
        """Of the iterates, the newest weighing 1, the one before it ema, and so on."""
        ages = range(len(self.iterates) - 1, -1, -1)
        weights = [self.hp.ema**age for age in ages]
        weighed = [w * x for w, x in zip(weights, self.iterates, strict=True)]
        return torch.stack(weighed).sum(dim=0) / sum(weights)
