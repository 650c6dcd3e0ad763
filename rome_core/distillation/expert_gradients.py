"""Gradients of experts: what one batch asks of their weights.

Owns the loss that experts are trained by and how it is computed: one expert by itself through
`Passes`, or several stacked, their weights in one tensor and each layer's work in one call by
`torch.func.vmap`. Both give the same within rounding. On a CPU stacking doesn't pay (measured for
students: `evaluation.students`). What is done with a gradient belongs to `expert_training`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, vmap

from rome_core import augment, networks
from rome_core.attacks.gradient import Model
from rome_core.data import Dataset
from rome_core.distillation.curvature import curvature
from rome_core.distillation.draws import ExpertDraws
from rome_core.distillation.experts import Layout
from rome_core.evaluation.students import Attack
from rome_core.passes import Passes, Plan
from rome_core.recipes.experts import ExpertTraining
from rome_core.recipes.networks import parse

TEST_BLOCK = 500  # images; changes no accuracy


class Gradients:
    """Of the experts of one recipe and seed; see `ExpertsTraining` for the arguments."""

    def __init__(
        self,
        dataset: Dataset,
        training: ExpertTraining,
        *,
        seed: int,
        plan: Plan,
        stacked: bool,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        self.plan, self.stacked = plan, stacked
        self.device, self.dtype = torch.device(device), dtype
        self._dataset, self._training, self._draws = dataset, training, ExpertDraws(seed)
        self._pixels = dataset.train_images.to(self.device)
        self.labels = dataset.train_labels.to(self.device)  # (n,)
        channels, size, _ = dataset.shape
        self._skeleton = networks.blank(
            parse(training.network), channels=channels, size=size, classes=dataset.classes
        )
        self._passes = Passes(self._skeleton, plan)
        self.layout = Layout.of(self._skeleton)
        if training.adversarial is not None:  # a domain that does not fit is told at once
            Attack(training.adversarial, self._skeleton, dataset.space)

    def fresh(self, number: int) -> Tensor:
        """Weights of an expert before its first epoch: (p,)."""
        network = networks.build(
            self._skeleton.spec,
            channels=self._skeleton.channels,
            size=self._skeleton.size,
            classes=self._skeleton.classes,
            generator=self._draws.network(number),
        )
        weights = self.layout.flat(dict(network.named_parameters())).detach()
        return weights.to(self.device, self.dtype)

    def order(self, number: int, epoch: int) -> Tensor:
        """Positions of the training images in the order an expert sees them: (n,)."""
        made = self._draws.order(number, epoch)
        return torch.randperm(len(self.labels), generator=made).to(self.device)

    def of(
        self, weights: Tensor, chosen: Tensor, numbers: range, *, epoch: int, batch: int
    ) -> tuple[Tensor, Tensor]:
        """Gradients (g, p) at the weights (g, p) of some experts, and their logits (g, b, classes).

        Each sees training images of its own, at the positions `chosen` (g, b).
        """
        if not self.stacked and len(weights) > 1:
            each = [
                self.of(
                    weights[row : row + 1],
                    chosen[row : row + 1],
                    numbers[row : row + 1],
                    epoch=epoch,
                    batch=batch,
                )
                for row in range(len(weights))
            ]
            return torch.cat([one[0] for one in each]), torch.cat([one[1] for one in each])
        count, b = chosen.shape
        labels, training = self.labels[chosen.flatten()], self._training
        model = self._stack(weights) if self.stacked else self._alone(weights[0])
        x = self._images(chosen, numbers, epoch, batch, labels, model)
        if self.stacked or training.curvature_weight:
            leaf = weights.detach().requires_grad_()
            forward = self._stack(leaf) if self.stacked else self._differentiable(leaf)
            logits = forward(x)
            losses = F.cross_entropy(logits, labels, reduction="none")
            if training.curvature_weight:
                bent = curvature(forward, x, labels, training.curvature_step, create_graph=True)
                losses = losses + training.curvature_weight * bent
            (gradient,) = torch.autograd.grad(losses.sum() / b, leaf)
            logits = logits.detach()
        else:
            named, logits = self._passes.train_gradient(self.layout.state(weights[0]), x, labels)
            gradient = self.layout.flat(named)[None]
        return gradient, logits.view(count, b, -1)

    def test(self, weights: Tensor) -> float:
        """Accuracy on the test images of the expert with the weights (p,)."""
        model = self._alone(weights)
        correct = 0
        images, labels = self._dataset.test_images, self._dataset.test_labels
        for block, truth in zip(
            torch.split(images, TEST_BLOCK), torch.split(labels, TEST_BLOCK), strict=True
        ):
            x = self._dataset.space.from_pixels(block.to(self.device, self.dtype))
            correct += int((model(x).argmax(dim=1).cpu() == truth).sum())
        return correct / len(images)

    def _images(
        self,
        chosen: Tensor,
        numbers: range,
        epoch: int,
        batch: int,
        labels: Tensor,
        model: Model,
    ) -> Tensor:
        """What the experts are trained on, augmented and attacked: (g * b, c, h, w)."""
        space, b = self._dataset.space, chosen.shape[1]
        x = space.from_pixels(self._pixels[chosen.flatten()].to(self.dtype))
        drawn = [
            augment.draw(
                self._training.augmentation or self._dataset.augmentation,
                b,
                size=x.shape[-1],
                generator=self._draws.augmentation(number, epoch, batch),
                siamese=False,
            )
            for number in numbers
        ]
        x = augment.apply(x, augment.concatenate(drawn))
        if self._training.adversarial is None:
            return x
        attack = Attack(self._training.adversarial, model, space)
        one = x[:b].cpu()
        starts = [attack.noise(one, self._draws.noise(number, epoch, batch)) for number in numbers]
        return attack(x, labels, noise=torch.cat(starts).to(x))

    def _alone(self, weights: Tensor) -> Model:
        """One expert as a model, from its weights (p,)."""
        return self._passes.bind(self.layout.state(weights))

    def _differentiable(self, weights: Tensor) -> Model:
        """The same for gradients by the weights (1, p)."""
        state = self.layout.state(weights[0])
        return lambda x: functional_call(self._skeleton, state, (x,))

    def _stack(self, weights: Tensor) -> Model:
        """Several experts (g, p) as one model of their images, (g * b, c, h, w), in their order."""
        states = self.layout.state(weights)

        def one(state: dict[str, Tensor], x: Tensor) -> Tensor:
            logits: Tensor = functional_call(self._skeleton, state, (x,))
            return logits

        def forward(x: Tensor) -> Tensor:
            return vmap(one)(states, x.view(len(weights), -1, *x.shape[1:])).flatten(0, 1)

        return forward
