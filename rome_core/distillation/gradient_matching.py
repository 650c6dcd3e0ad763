"""DC and DSA: match the gradients that synthetic and real images give a network while it learns.

Owns the loop, the step of the images and the training of the network on them. Must not own the
engine's loop, nor how a gradient is computed (`class_gradients`, `passes`).

Source: Zhao et al. 2021, "Dataset Condensation with Gradient Matching" (ICLR), Zhao and Bilen
2021, "Dataset Condensation with Differentiable Siamese Augmentation" (ICML), and the authors' code.
An iteration takes a fresh network through `outer_loop` outer steps, in each of which

1. every class's real images give a gradient by the network's weights, and so do its synthetic
   ones; in DSA both were augmented alike, by a draw of the class's own;
2. the distances of all classes' pairs of gradients are summed, and all images make one step of SGD
   with momentum against the gradient of that sum;
3. the network learns from the synthetic images for `inner_loop` epochs, except after the last step.

One outer step is one step of the engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from rome_core import augment
from rome_core.data import Dataset
from rome_core.distillation.class_gradients import ClassGradients, State
from rome_core.distillation.class_losses import Losses, means, told
from rome_core.distillation.curvature import curvature, curvature_gradient
from rome_core.distillation.divergence import check_finite
from rome_core.distillation.draws import Draws
from rome_core.distillation.gradient_distance import DISTANCES, Gradients
from rome_core.distillation.material import Material
from rome_core.distillation.perturbation import Perturbation
from rome_core.distillation.sides import Shown, Sides, Turn
from rome_core.errors import CoreError
from rome_core.passes import Passes, Plan
from rome_core.recipes.gradient_matching import (
    DcHyperparameters,
    DsaHyperparameters,
    GradientMatchingHyperparameters,
    loops,
)
from rome_core.synthetic import SyntheticSet

GROUP = 2048  # images whose gradients are held at once: bounds memory, changes no value

H = TypeVar("H", bound=GradientMatchingHyperparameters)


class GradientMatching(ABC, Generic[H]):
    """One run on one dataset; the engine calls `step` `iterations` times, once an outer step.

    Args:
        dataset: training images as pixels in [0, 1], with the space networks take them in.
        ipc: images per class.
        seed: of every draw of the run.
        device: where tensors live. Draws are made on the CPU, so they do not depend on it.
        plan: how first-order passes are run.
        dtype: float64 serves proofs, not runs.

    Raises CoreError where the dataset cannot serve the hyperparameters.
    """

    name: ClassVar[str]  # of the method

    def __init__(
        self,
        dataset: Dataset,
        hyperparameters: H,
        *,
        ipc: int,
        seed: int,
        device: torch.device | str = "cpu",
        plan: Plan,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.hyperparameters = hp = hyperparameters
        self.ipc, self.classes = ipc, dataset.classes
        self.outer_loop, self.inner_loop = loops(ipc, hp.outer_loop, hp.inner_loop)
        self.iterations = hp.iterations * self.outer_loop
        if hp.selects_nothing(self.outer_loop):
            raise CoreError(
                "spec_invalid",
                f"A run of {self.iterations} outer steps ends before the first evaluation.",
                "Lower eval_interval, which counts outer steps, or set selection=none.",
                field="hyperparameters.eval_interval",
            )
        self.steps = 0  # outer steps made
        self.draws = Draws(seed)
        self.material = Material(
            dataset,
            self.draws,
            ipc=ipc,
            holdout=hp.kept_out,
            device=device,
            dtype=dtype,
        )
        self._sides = Sides(
            self.material,
            None if hp.perturbed == "none" else Perturbation(hp, self.material),
            strategy=self.strategy,
            batch_real=hp.batch_real,
        )
        skeletons = [self.material.network(hp.network, self.draws.network(0)) for _ in range(2)]
        self._network = skeletons[0].requires_grad_(False).eval()
        self._passes = Passes(skeletons[1], plan)
        self._gradients = ClassGradients(self._network, self._passes)
        self.weights = self._fresh(0)  # of the iteration's network
        self.images = self.material.start(hp.init)  # (classes * ipc, c, h, w), class-major
        self._velocity = torch.zeros_like(self.images)

    @property
    @abstractmethod
    def strategy(self) -> str:
        """The augmentation of matching, and of training networks."""

    # What the engine sees.

    @property
    def held_out(self) -> Tensor:
        """Positions of the training images that only judge iterates."""
        return self.material.held_out

    @property
    def circumstances(self) -> dict[str, Any]:
        """What the last digits of a run depend on besides its spec."""
        return {"plan": self._passes.plan.as_dict(), "device": str(self.material.device)}

    def step(self) -> dict[str, float]:
        """One outer step. `loss` and its parts are means over classes.

        `training_loss` is the network's mean cross-entropy in the last epoch of its training, where
        there was any. `images` counts an image each time it passes forward and backward; the
        curvature of an image is two such passes.
        """
        hp = self.hyperparameters
        iteration, turn = divmod(self.steps, self.outer_loop)
        self._count = 0
        if turn == 0:
            self.weights = self._fresh(iteration)
        gradient, scalars = self._match(self._sides.draw(iteration, turn))
        self._velocity.mul_(hp.momentum).add_(gradient)
        self.images.sub_(self._velocity, alpha=hp.lr_img)
        check_finite(
            self.images,
            after=f"outer step {self.steps}",
            remedy="Lower lr_img, or lr_net if the losses grew before.",
        )
        if turn < self.outer_loop - 1:
            for epoch in range(self.inner_loop):
                scalars["training_loss"] = self._learn(iteration, turn, epoch)
        self.steps += 1
        scalars["images"] = float(self._count)
        return scalars

    def state_dict(self) -> dict[str, Any]:
        return {
            self.name: {"steps": self.steps},
            "images": self.images,
            "velocity": self._velocity,
            "network": self.weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state[self.name]["steps"]
        self.images.copy_(state["images"])
        self._velocity.copy_(state["velocity"])
        for name, weight in self.weights.items():
            weight.copy_(state["network"][name])

    def synthetic_set(self) -> SyntheticSet:
        return self.material.set_of(
            self.images, augmentation=self.hyperparameters.augmentation, method=self.name
        )

    # Matching.

    def _match(self, turn: Turn) -> tuple[Tensor, dict[str, float]]:
        """Gradient of the summed losses of all classes by the images, and the mean losses."""
        gradients, losses = [], []
        counts = [len(chosen) + self.ipc for chosen in turn.real]
        for some in self.material.groups(counts, GROUP):
            targets = self._real_side(turn, some)
            for part in self._gradients.parts([self.ipc] * len(some), self.images.device):
                own = {name: target[part.start : part.stop] for name, target in targets.items()}
                labels = range(some.start + part.start, some.start + part.stop)
                gradient, parts = self._synthetic_side(turn, labels, own)
                gradients.append(gradient)
                losses.append(parts)
        return torch.cat(gradients), means(losses)

    def _real_side(self, turn: Turn, some: range) -> Gradients:
        """Gradients by the weights that some classes' real images give: (k, ...) each."""
        shown = self._sides.real(turn, some)
        x = self._seen(turn, shown)
        return self._gradients.values(self.weights, x, shown.labels, shown.counts)

    def _synthetic_side(self, turn: Turn, some: range, targets: Gradients) -> tuple[Tensor, Losses]:
        """Gradient of the summed losses of some classes by their images, and the losses, (k,)."""
        hp, k = self.hyperparameters, len(some)
        leaf = self.images[some.start * self.ipc : some.stop * self.ipc].detach().requires_grad_()
        shown = self._sides.synthetic(turn, some, leaf)
        x = self._seen(turn, shown)
        matching = DISTANCES[hp.distance](
            self._gradients.graph(self.weights, x, shown.labels, k), targets
        )
        loss, parts = matching, {"matching_loss": matching}
        if hp.curvature_of_images:
            bend = curvature(self._forward, x, shown.labels, hp.curvature_step, create_graph=True)
            parts["curvature"] = bend.view(k, self.ipc).mean(dim=1)
            loss = loss + hp.curvature_of_images * parts["curvature"]
            self._count += 2 * len(x)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return gradient, told(loss, parts)

    def _seen(self, turn: Turn, shown: Shown) -> Tensor:
        """Images as they are matched, perhaps attacked."""
        self._count += len(shown.x) * self._sides.passes(shown.side)
        return self._sides.moved(self._passes.bind(self.weights), turn, shown)

    def _forward(self, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self._network, self.weights, (x,))
        return logits

    # The network.

    def _fresh(self, iteration: int) -> State:
        made = self.material.network(self.hyperparameters.network, self.draws.network(iteration))
        return {name: value.detach() for name, value in made.state_dict().items()}

    def _learn(self, iteration: int, turn: int, epoch: int) -> float:
        """One epoch of the network on the synthetic images; returns its mean cross-entropy."""
        hp = self.hyperparameters
        draws = self.draws.epoch(iteration, turn, epoch)
        labels = self.material.labels
        total = torch.zeros((), dtype=self.images.dtype, device=self.images.device)
        order = torch.randperm(len(self.images), generator=draws).to(self.images.device)
        for chosen in torch.split(order, hp.batch_train):
            rows = augment.draw(
                self.strategy,
                len(chosen),
                size=self.material.size,
                generator=draws,
                siamese=False,
            )
            x = augment.apply(self.images[chosen], rows)
            own = labels[chosen]
            gradients, logits = self._passes.train_gradient(self.weights, x, own)
            total += F.cross_entropy(logits, own, reduction="sum")
            self._count += len(x)
            if hp.curvature_of_networks:
                bend = curvature_gradient(self._network, self.weights, x, own, hp.curvature_step)
                for name, gradient in bend.items():
                    gradients[name].add_(gradient, alpha=hp.curvature_of_networks)
                self._count += 2 * len(x)
            for name, gradient in gradients.items():
                self.weights[name].sub_(gradient, alpha=hp.lr_net)
        return total.item() / len(self.images)


class Dc(GradientMatching[DcHyperparameters]):
    """Images are matched, and networks trained, without augmentation."""

    name = "dc"

    @property
    def strategy(self) -> str:
        return "none"


class Dsa(GradientMatching[DsaHyperparameters]):
    """Real and synthetic images of a class are augmented alike; so are training images, singly."""

    name = "dsa"

    @property
    def strategy(self) -> str:
        return self.material.strategy(self.hyperparameters.augmentation)
