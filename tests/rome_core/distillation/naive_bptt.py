"""BPTT written for clarity, as the definition the fast form is measured against.

The student is a dictionary of weights, one backward call goes through every step of the window,
labels are a softmax inside the graph, PGD is a loop over single images, and torch.optim.Adam steps
images, logits and the logarithm of the step size. It shares with the product only the draws and the
augmentation operators.
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
from rome_core.randomness import generator
from rome_core.recipes.bptt import BpttHyperparameters

Weights = dict[str, Tensor]


class NaiveBptt:
    """The loop of the module's docstring with every switch."""

    def __init__(self, dataset: Dataset, hp: BpttHyperparameters, *, ipc: int, seed: int) -> None:
        self.hp, self.draws, self.dataset = hp, Draws(seed), dataset
        self.mean, self.std = (s.double().view(-1, 1, 1) for s in (dataset.mean, dataset.std))
        self.real = (dataset.train_images.double() - self.mean) / self.std
        start, logits = [], []
        others = (1 - hp.confidence) / (dataset.classes - 1)
        for label in range(dataset.classes):
            members = torch.nonzero(dataset.train_labels == label).flatten()
            made = self.draws.init(label, 0)
            if hp.init == "real":
                start.append(self.real[members[torch.randperm(len(members), generator=made)[:ipc]]])
            else:
                start.append(torch.randn(ipc, *dataset.shape, generator=made).double())
            for _ in range(ipc):
                row = torch.full((dataset.classes,), math.log(others), dtype=torch.float64)
                row[label] = math.log(hp.confidence)
                logits.append(row - math.log(others))
        self.images = torch.cat(start).requires_grad_()
        self.logits = torch.stack(logits).requires_grad_()
        self.log_rate = torch.tensor(math.log(hp.lr_student), dtype=torch.float64).requires_grad_()
        self.classes = torch.arange(dataset.classes).repeat_interleave(ipc)
        self.network = self.fresh(0)
        groups = [(self.images, hp.lr_img), (self.logits, hp.lr_labels), (self.log_rate, hp.lr_lr)]
        self.optimisers = [torch.optim.Adam([one], lr=rate) for one, rate in groups]
        self.iteration = 0

    def step(self) -> float:
        hp = self.hp
        network = self.fresh(self.iteration)
        weights: Weights = {name: p.detach() for name, p in network.named_parameters()}
        count = self.draws.student_steps(self.iteration, hp.window, hp.unroll)
        for number in range(count):
            weights = self.trained(weights, number)
            if number < count - hp.window:  # nothing goes back through it
                weights = {name: w.detach() for name, w in weights.items()}
        x, y = self.judging(weights)
        loss = F.cross_entropy(functional_call(self.network, weights, (x,)), y)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        torch.autograd.backward(loss)
        for optimiser in self.optimisers:
            optimiser.step()
        self.iteration += 1
        return loss.item()

    def trained(self, weights: Weights, number: int) -> Weights:
        """One step of plain SGD, within the graph."""
        hp, total = self.hp, len(self.images)
        weights = {
            name: w if w.requires_grad else w.requires_grad_() for name, w in weights.items()
        }
        order = self.draws.student_order(self.iteration, number, total)
        chosen = order[: hp.batch_syn or total]
        strategy = hp.augmentation or self.dataset.augmentation
        rows = augment.draw(
            strategy,
            len(chosen),
            size=self.dataset.shape[1],
            generator=self.draws.student_augmentation(self.iteration, number),
            siamese=False,
        )
        x = augment.apply(self.images[chosen], rows)
        labels = self.logits.softmax(dim=1) if hp.labels == "learned" else self.classes
        loss = F.cross_entropy(functional_call(self.network, weights, (x,)), labels[chosen])
        found = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        rate = self.log_rate.exp()
        return {
            name: w - rate * gradient
            for (name, w), gradient in zip(weights.items(), found, strict=True)
        }

    def judging(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """Real images, perhaps attacked one by one, and their labels."""
        hp = self.hp
        everything = torch.arange(len(self.real))
        chosen = self.draws.batch(self.iteration, 0, 0, everything, hp.batch_real)
        labels = self.dataset.train_labels[chosen]
        if hp.perturbed == "none":
            return self.real[chosen], labels
        epsilon, step = (
            float(a) / float(b)
            for a, b in (text.split("/") for text in (hp.pgd_epsilon, hp.pgd_step))
        )
        made = self.draws.training_noise(self.iteration, 0, 0)
        shape = (len(chosen), *self.dataset.shape)
        noise = (2 * torch.rand(shape, generator=made).double() - 1) * epsilon
        fixed = {name: w.detach() for name, w in weights.items()}
        attacked = []
        for one, label, start in zip(chosen, labels, noise, strict=True):
            clean = self.dataset.train_images[one].double()
            x = (clean + start).clamp(0, 1)
            for _ in range(hp.pgd_steps):
                x = x.detach().requires_grad_()
                logits = functional_call(self.network, fixed, (((x - self.mean) / self.std)[None],))
                (slope,) = torch.autograd.grad(F.cross_entropy(logits, label[None]), x)
                x = x.detach() + step * slope.sign()
                x = torch.minimum(torch.maximum(x, clean - epsilon), clean + epsilon).clamp(0, 1)
            attacked.append((x.detach() - self.mean) / self.std)
        return torch.stack(attacked), labels

    def fresh(self, serial: int) -> nn.Module:
        """The student of an iteration before its first step."""
        channels, size, _ = self.dataset.shape
        made: nn.Module = networks.build(
            self.hp.network,
            channels=channels,
            size=size,
            classes=self.dataset.classes,
            generator=self.draws.network(serial) if serial >= 0 else generator(0, "any"),
        )
        return made.double()
