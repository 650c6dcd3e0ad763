"""Training experts: networks on the real data, several at a time, every kept epoch stored at once.

Owns the recipe. By default it is the published one of expert buffers (Cazenavette et al., CVPR
2022): shuffled batches, the last partial one included, DSA with parameters per image,
cross-entropy, plain SGD. Momentum, decay, a step in the rate, adversarial training and the
curvature of the loss (GUARD, Xue et al. 2025) are options.

An expert's draws are named by its number, epoch and batch, so it is the same whoever else is
trained, and however many at a time.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core import networks
from rome_core.data import Dataset
from rome_core.distillation.checkpoints import Checkpoints, Stored
from rome_core.distillation.divergence import check_finite
from rome_core.distillation.expert_gradients import Gradients
from rome_core.distillation.experts import About, Records, write
from rome_core.passes import Plan
from rome_core.recipes.experts import ExpertTraining
from rome_core.recipes.networks import parse

TRAINED = 1
"""Version of the recipe: another one makes what lies in caches worthless. To be raised with every
change of what the same `ExpertTraining` and seed give, beyond rounding."""

STEP_IMAGES = 4096
"""Passes of an image through one expert in a step, about: 10 s of the reference network on one core
of a CPU, so that a run that is told to stop does so soon."""

STACK_BYTES = 8 * 2**30
"""Of activations at once where experts are stacked."""

KEPT_ACTIVATIONS = 4
"""Of the size of the largest one: what a pass keeps to go back through, about."""


def group_size(training: ExpertTraining, dataset: Dataset, device: torch.device | str) -> int:
    """How many experts to train at a time: one on a CPU, on a GPU as many as fit STACK_BYTES.

    What stacking saves on a GPU has not been measured.
    """
    if torch.device(device).type == "cpu":
        return 1
    channels, size, _ = dataset.shape
    an_image = networks.footprint(parse(training.network), channels=channels, size=size).largest
    batch = min(training.batch, len(dataset.train_images))
    an_expert = 4 * KEPT_ACTIVATIONS * an_image * batch
    return max(1, min(training.count, STACK_BYTES // an_expert))


@dataclass
class _Group:
    """Experts under way, a row each."""

    first: int  # number of the first, the others' follow
    weights: Tensor  # (g, p)
    velocity: Tensor  # (g, p), of momentum
    flips: Tensor  # (g, n) int32: turns from right to wrong of each training image
    right: Tensor  # (g, n) bool: whether it was when last seen
    ever: Tensor  # (g, n) bool: whether it ever was
    loss: Tensor  # (g,) float64, sums over the images of the epoch under way
    correct: Tensor  # (g,) int64
    epoch: int = 0  # finished ones
    batch: int = 0  # finished ones of the epoch under way

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + len(self.weights))


class ExpertsTraining:
    """The experts of a recipe and a seed, as the engine's task.

    Args:
        dataset: training images, with the space networks take them in.
        checkpoints: the engine's own: finished weights are stored there at once.
        plan: how passes of one expert are run.
        group: experts trained at a time; a resumed run keeps the number it began with.
        stacked: the work of a group in one call instead of one expert after another.
        device: where the work is done. Draws are made on the CPU, so they do not depend on it.
        dtype: float64 serves proofs, not runs; what is stored is float32 all the same.

    Raises CoreError network_too_deep, and ValueError for an attack in a domain that the dataset's
    space does not have.
    """

    def __init__(
        self,
        dataset: Dataset,
        training: ExpertTraining,
        *,
        seed: int,
        checkpoints: Checkpoints,
        plan: Plan,
        group: int = 1,
        stacked: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        training = training.settled(dataset.augmentation)
        self.training, self.seed = training, seed
        self._dataset, self._checkpoints, self._group_size = dataset, checkpoints, group
        self._gradients = Gradients(
            dataset,
            training,
            seed=seed,
            plan=plan,
            stacked=stacked,
            device=device,
            dtype=dtype,
        )
        self._group: _Group | None = None
        self._stored: dict[str, Stored] = {}  # weights and forgetting, by chunk
        self._records: dict[int, dict[str, Any]] = {}  # expert -> accuracies and losses

    @property
    def circumstances(self) -> dict[str, Any]:
        """What the last digits of experts depend on besides their recipe."""
        return {
            "plan": self._gradients.plan.as_dict(),
            "device": str(self._gradients.device),
            "stacked": self._gradients.stacked,
        }

    @property
    def iterations(self) -> int:
        groups = -(-self.training.count // self._group_size)
        return groups * max(1, self.training.epochs * self._steps)

    def step(self) -> dict[str, float]:
        """Some batches of one epoch of one group; the loss and accuracy are those of its experts.

        `loss` and `train_accuracy` are means over the epoch so far, of images as they were trained
        on; `test_accuracy` comes when a group is finished.
        """
        group = self._group = self._group or self._begin()
        told: dict[str, float] = {}
        if self.training.epochs:
            batches = range(group.batch, min(group.batch + self._batches_a_step, self._batches))
            orders = torch.stack(
                [self._gradients.order(number, group.epoch) for number in group.numbers]
            )
            seen = sum(self._train(group, orders, batch) for batch in batches)
            group.batch = batches.stop
            done = min(group.batch * self.training.batch, self._images) * len(group.weights)
            told = {
                "loss": float(group.loss.sum()) / done,
                "train_accuracy": float(group.correct.sum()) / done,
                "images": float(seen),
            }
            if group.batch == self._batches:
                self._end_epoch(group)
        if group.epoch == self.training.epochs:
            told["test_accuracy"] = self._finish(group)
            self._group = None
        return told

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "experts": {
                "group": self._group_size,
                "records": self._records,
                "under_way": self._group is not None,
            },
            **self._stored,
        }
        if self._group is not None:
            state["group"] = {f.name: getattr(self._group, f.name) for f in fields(_Group)}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state, whose tensors may lie anywhere and are copied."""
        own = state["experts"]
        self._group_size = own["group"]
        self._records = deepcopy(own["records"])
        self._stored = {name: at for name, at in state.items() if isinstance(at, Stored)}
        self._group = None
        if own["under_way"]:
            copied: dict[str, Any] = {
                name: value.to(self._gradients.device, copy=True)
                if isinstance(value, Tensor)
                else value
                for name, value in state["group"].items()
            }
            self._group = _Group(**copied)

    def save(self, path: Path) -> None:
        """Write the file of all experts, once every step is done."""
        about = About(
            training=self.training,
            seed=self.seed,
            dataset=self._dataset.name,
            data=dict(self._dataset.digests),
            space=self._dataset.space.name,
            train_images=self._images,
            channels=self._dataset.shape[0],
            size=self._dataset.shape[1],
            classes=self._dataset.classes,
            layout=self._gradients.layout,
        )
        numbers = range(self.training.count)
        kept = [self._records[number] for number in numbers]
        records = Records(
            accuracy=[record["accuracy"] for record in kept],
            train_accuracy=[record["train_accuracy"] for record in kept],
            train_loss=[record["train_loss"] for record in kept],
            forgetting=(self._stored[f"forgetting/{number}"].read() for number in numbers),
        )
        snapshots = (
            self._stored[f"weights/{number}/{epoch}"].read()
            for number in numbers
            for epoch in about.epochs
        )
        write(path, about, snapshots, records)

    @property
    def _images(self) -> int:
        return len(self._gradients.labels)

    @property
    def _batches(self) -> int:
        """In an epoch, the last partial one included."""
        return -(-self._images // self.training.batch)

    @property
    def _batches_a_step(self) -> int:
        return max(1, STEP_IMAGES // (self.training.batch * self.training.passes_an_image))

    @property
    def _steps(self) -> int:
        """In an epoch."""
        return -(-self._batches // self._batches_a_step)

    def _begin(self) -> _Group:
        """The next group, freshly initialised."""
        first = len(self._records)
        numbers = range(first, min(first + self._group_size, self.training.count))
        weights = torch.stack([self._gradients.fresh(number) for number in numbers])
        for number in numbers:
            self._records[number] = {"accuracy": None, "train_accuracy": [], "train_loss": []}
        images = weights.new_zeros(len(numbers), self._images)
        group = _Group(
            first=first,
            weights=weights,
            velocity=torch.zeros_like(weights),
            flips=images.to(torch.int32),
            right=images.to(torch.bool),
            ever=images.to(torch.bool),
            loss=weights.new_zeros(len(numbers), dtype=torch.float64),
            correct=weights.new_zeros(len(numbers), dtype=torch.int64),
        )
        self._keep(group)
        return group

    def _train(self, group: _Group, orders: Tensor, batch: int) -> int:
        """One update of every expert of the group. Returns the passes of images it took."""
        chosen = orders[:, batch * self.training.batch : (batch + 1) * self.training.batch]
        gradient, logits = self._gradients.of(
            group.weights, chosen, group.numbers, epoch=group.epoch, batch=batch
        )
        self._record(group, chosen, logits)
        self._descend(group, gradient)
        return chosen.numel() * self.training.passes_an_image

    def _record(self, group: _Group, chosen: Tensor, logits: Tensor) -> None:
        """Accuracy, loss and forgetting, of images as they were trained on, before the update."""
        labels = self._gradients.labels[chosen]
        hit = logits.argmax(dim=2) == labels
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        group.loss += losses.double().view(hit.shape).sum(dim=1)
        group.correct += hit.sum(dim=1)
        before = group.right.gather(1, chosen)
        group.flips.scatter_add_(1, chosen, (before & ~hit).int())
        group.right.scatter_(1, chosen, hit)
        group.ever.scatter_(1, chosen, group.ever.gather(1, chosen) | hit)

    def _descend(self, group: _Group, gradient: Tensor) -> None:
        """One step of SGD as PyTorch defines it: decay joins the gradient, momentum undamped."""
        training, rate = self.training, self.training.learning_rate
        if training.schedule == "step" and 2 * group.epoch >= training.epochs:
            rate *= 0.1
        if training.weight_decay:
            gradient = gradient.add(group.weights, alpha=training.weight_decay)
        if training.momentum:
            gradient = group.velocity.mul_(training.momentum).add_(gradient)
        group.weights.sub_(gradient, alpha=rate)

    def _end_epoch(self, group: _Group) -> None:
        check_finite(
            group.loss,
            group.weights,
            what=f"Experts {group.first} to {group.numbers[-1]}",
            after=f"epoch {group.epoch + 1}",
            remedy="Lower their learning rate.",
            field="learning_rate",
        )
        for row, number in enumerate(group.numbers):
            record = self._records[number]
            record["train_loss"].append(float(group.loss[row]) / self._images)
            record["train_accuracy"].append(float(group.correct[row]) / self._images)
        group.loss.zero_()
        group.correct.zero_()
        group.epoch, group.batch = group.epoch + 1, 0
        self._keep(group)

    def _keep(self, group: _Group) -> None:
        """Store the weights of the epoch just finished, if they are to be kept."""
        if self.training.keep == "last" and group.epoch < self.training.epochs:
            return
        for number, weights in zip(group.numbers, group.weights, strict=True):
            # A copy of its own: a row alone would take the whole group's storage along.
            own = weights.to("cpu", torch.float32, copy=True)
            self._stored[f"weights/{number}/{group.epoch}"] = self._checkpoints.store(own)

    def _finish(self, group: _Group) -> float:
        """Test and store what is known of each expert. Returns their mean test accuracy."""
        never = self.training.epochs + 1
        accuracies = []
        for row, number in enumerate(group.numbers):
            accuracies.append(self._gradients.test(group.weights[row]))
            self._records[number]["accuracy"] = accuracies[-1]
            forgotten = torch.where(group.ever[row], group.flips[row], never).cpu()
            self._stored[f"forgetting/{number}"] = self._checkpoints.store(forgotten)
        return fmean(accuracies)
