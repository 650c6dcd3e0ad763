"""Training students on a synthetic set, exactly as published.

Owns the recipe (Zhao et al. 2021; the ROME and BEARD code alike): E+1 epochs of shuffled batches,
cross-entropy, SGD, and after epoch index E//2+1 a tenth of the rate *and a fresh optimiser*, whose
momentum starts from nothing. DSA acts on every batch, one operator a batch, parameters per image.
Soft labels p are learned by -sum p log softmax, which is the cross-entropy of one-hot ones.

Under adversarial training (Madry et al. 2018; BEARD's `train_attack`) every batch, once augmented,
is attacked against the student in evaluation mode, and the attacked images take its place. In the
pixel domain a student so sees pixels clamped to [0,1], which augmented images need not be, even
where epsilon is 0. Of normalised images little is lost by that. Whitened ones whose color was
augmented would be blank, and are refused.

Students are trained one after another, because each then equals, bit for bit, that student trained
alone, and because on a CPU that is faster. `benchmarks/students.py` trains five of them on 100
images, stacked by `vmap` and one by one, in alternating rounds on one thread. On two cores of an
EPYC under other load, with torch 2.13, stacking took 1.8 times as long at 8 pixels (widths 32 and
128) and 3.8 times at 32 pixels (width 32, rounds from 3.3 to 5.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rome_core import attacks, augment
from rome_core.attacks import Budget
from rome_core.attacks.gradient import Model
from rome_core.attacks.pgd import start_noise
from rome_core.errors import CoreError
from rome_core.networks import Network, build
from rome_core.randomness import generator
from rome_core.recipes.augmentation import spoils_whitened
from rome_core.recipes.evaluate import AdversarialTraining, Students
from rome_core.recipes.networks import reference
from rome_core.space import Normalised, Space
from rome_core.synthetic import SyntheticSet


@dataclass(frozen=True)
class Epoch:
    """What one pass over the set gave: means over its images, the accuracy a fraction.

    The images are those that were learned from: attacked ones under adversarial training.
    """

    index: int
    learning_rate: float
    loss: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What students see: decoded images (n, c, h, w) of a space, and labels (n,).

    Only adversarial training needs to know the space. `learning_rate` and `network` are the set's
    own, the latter the field's for images of the size where no network made the set, and
    `soft_labels` (n, classes), probabilities, are learned in the place of the labels; accuracy is
    against those all the same.
    """

    images: Tensor
    labels: Tensor
    classes: int
    augmentation: str
    space: Space | None = None
    learning_rate: float = 0.01
    soft_labels: Tensor | None = None
    network: str = "convnet"

    @classmethod
    def of(
        cls,
        synthetic: SyntheticSet,
        *,
        augmentation: str | None = None,
        labels: Literal["set", "hard"] = "set",
        device: str = "cpu",
    ) -> TrainingSet:
        """Decode a packed set: four images of every one at factor 2.

        `augmentation` takes the place of the set's own strategy, `labels` hard leaves out soft
        ones.
        """
        images, classes = synthetic.images, synthetic.labels
        if synthetic.factor > 1:
            images, repeated = augment.expand(images, classes, synthetic.factor)
            assert repeated is not None
            classes = repeated
        soft = synthetic.soft_labels if labels == "set" else None
        strategy = synthetic.augmentation if augmentation is None else augmentation
        return cls(
            images.to(device),
            classes.to(device),
            synthetic.classes,
            strategy,
            synthetic.space,
            synthetic.learning_rate,
            None if soft is None else soft.to(device),
            synthetic.network or reference(images.shape[-1]),
        )

    @property
    def kind_of_labels(self) -> Literal["hard", "soft"]:
        return "hard" if self.soft_labels is None else "soft"

    def rate(self, recipe: Students) -> float:
        """The learning rate that students of a recipe start from."""
        own = recipe.learning_rate == "set"
        return self.learning_rate if own else float(recipe.learning_rate)

    def architecture(self, recipe: Students) -> str:
        """The name of the network that students of a recipe are."""
        return self.network if recipe.network == "set" else recipe.network


class Student:
    """One student: `number` of the evaluation seeded `seed`, whoever else is trained.

    `train()` yields after every epoch; between two epochs `state_dict()` holds all that a resumed
    student needs. Raises ValueError for adversarial training on a set of no known space, CoreError
    attack_unsuitable for one on a whitened set, in the reference domain or after color.
    """

    def __init__(
        self, training: TrainingSet, recipe: Students, *, seed: int, number: int | str
    ) -> None:
        self._training, self._recipe = training, recipe
        self._seed, self._number = seed, number
        _, channels, size, _ = training.images.shape
        self.network: Network = build(
            training.architecture(recipe),
            channels=channels,
            size=size,
            classes=training.classes,
            generator=generator(seed, "student", number, "network"),
        ).to(training.images.device)
        self.epochs_done = 0
        self._rate = training.rate(recipe)
        self._optimiser = self._fresh_optimiser()
        self._attack = None
        if recipe.adversarial is not None:
            if training.space is None:
                raise ValueError("adversarial training needs the set's space")
            domain = recipe.adversarial.domain
            attacks.check_domain(domain, training.space, "students.adversarial.domain")
            _check_augmentation(training.augmentation, training.space)
            self._attack = Attack(recipe.adversarial, self.network, training.space)

    @property
    def epochs(self) -> int:
        """E+1: the published loop includes both ends."""
        return self._recipe.epochs + 1

    def train(self) -> Iterator[Epoch]:
        """Run the epochs that are left."""
        while self.epochs_done < self.epochs:
            index = self.epochs_done
            rate = self._rate
            loss, accuracy = self._epoch(index)
            self.epochs_done += 1
            if index == self._recipe.epochs // 2 + 1:
                self._rate *= 0.1
                self._optimiser = self._fresh_optimiser()
            yield Epoch(index, rate, loss, accuracy)
        self.network.eval()

    def state_dict(self) -> dict[str, Any]:
        return {
            "epochs_done": self.epochs_done,
            "rate": self._rate,
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs_done, self._rate = state["epochs_done"], state["rate"]
        self.network.load_state_dict(state["network"])
        self._optimiser = self._fresh_optimiser()
        self._optimiser.load_state_dict(state["optimiser"])

    def _fresh_optimiser(self) -> torch.optim.SGD:
        return torch.optim.SGD(
            self.network.parameters(),
            lr=self._rate,
            momentum=self._recipe.momentum,
            weight_decay=self._recipe.weight_decay,
        )

    def _epoch(self, index: int) -> tuple[float, float]:
        """One pass over the set, the last partial batch included: mean loss and accuracy."""
        draws = generator(self._seed, "student", self._number, "epoch", index)
        starts = generator(self._seed, "student", self._number, "epoch", index, "attack")
        images, labels = self._training.images, self._training.labels
        soft = self._training.soft_labels
        self.network.train()
        loss_sum = torch.zeros((), device=images.device)
        correct = torch.zeros((), dtype=torch.int64, device=images.device)
        order = torch.randperm(len(images), generator=draws)
        for chosen in torch.split(order.to(images.device), self._recipe.batch):
            x, y = images[chosen], labels[chosen]
            rows = augment.draw(
                self._training.augmentation,
                len(x),
                size=x.shape[-1],
                generator=draws,
                siamese=False,
            )
            x = augment.apply(x, rows)
            if self._attack is not None:
                x = self._attack(x, y, starts)
            logits = self.network(x)
            loss = F.cross_entropy(logits, y if soft is None else soft[chosen])
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self._optimiser.step()
            loss_sum += loss.detach() * len(x)
            correct += (logits.detach().argmax(dim=1) == y).sum()
        return float(loss_sum) / len(images), float(correct) / len(images)


def _check_augmentation(strategy: str, space: Space) -> None:
    spoilt = None if isinstance(space, Normalised) else spoils_whitened(strategy)
    if spoilt is not None:
        reason, remedy = spoilt
        raise CoreError(
            "attack_unsuitable",
            f"Students of whitened images cannot be trained adversarially after {strategy}: "
            f"{reason}.",
            f"In students.augmentation, {remedy}.",
            "students.augmentation",
        )


class Attack:
    """Batches to attacked ones, both as networks take them, against one model as it then is.

    Raises ValueError for a domain that the space does not have.
    """

    def __init__(self, recipe: AdversarialTraining, model: Model, space: Space) -> None:
        self._model = model
        self._adapted = attacks.adapt(model, recipe.domain, space)
        self._budget = Budget.of(recipe.epsilon, recipe.step, recipe.steps, recipe.random_start)

    def __call__(
        self,
        x: Tensor,
        labels: Tensor,
        starts: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The random start is `noise` where given, else drawn from the generator."""
        network = self._model if isinstance(self._model, nn.Module) else None
        if network is not None:
            network.eval()
        attacked = attacks.perturb(
            self._adapted.model,
            self._adapted.from_normalised(x),
            labels,
            self._budget,
            starts,
            noise=noise,
        )
        if network is not None:
            network.train()
        return self._adapted.to_normalised(attacked)

    def noise(self, x: Tensor, starts: torch.Generator) -> Tensor:
        """The random start of images like x, where the attack has one."""
        return start_noise(x, self._budget, starts)
