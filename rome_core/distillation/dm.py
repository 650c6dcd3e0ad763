"""DM: match class means of embeddings in networks that have learned nothing.

Owns the update of the images. Must not own the loop (the engine's) nor how a pass is run
(`passes`).

Source: Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, and the
authors' code. An iteration makes a random network, draws real images and one augmentation a class,
and pulls the augmented synthetic images towards the augmented real ones in its embedding:
sum_c |mean e(real_c) - mean e(synthetic_c)|^2, one step of SGD with momentum on all images at once.
Networks are never trained, so nothing lasts from one iteration to the next but the images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rome_core.data import Dataset
from rome_core.distillation.class_losses import Losses, means, told
from rome_core.distillation.curvature import curvature_by_classes
from rome_core.distillation.divergence import check_finite
from rome_core.distillation.draws import Draws
from rome_core.distillation.material import Material
from rome_core.distillation.perturbation import Perturbation
from rome_core.distillation.sides import Sides, Turn
from rome_core.networks import Network
from rome_core.passes import Passes, Plan
from rome_core.recipes.cost import SYNTHETIC_GROUP
from rome_core.recipes.dm import DmHyperparameters
from rome_core.synthetic import SyntheticSet


class Dm:
    """One DM run on one dataset; the engine calls `step` `iterations` times.

    Args:
        dataset: training images as pixels in [0, 1], with the space networks take them in.
        ipc: stored images per class; with factor 2 each holds four decoded ones.
        seed: of every draw of the run.
        device: where tensors live. Draws are made on the CPU, so they do not depend on it.
        plan: how passes are run.
        dtype: float64 serves proofs, not runs.

    Raises CoreError where the dataset cannot serve the hyperparameters.
    """

    def __init__(
        self,
        dataset: Dataset,
        hyperparameters: DmHyperparameters,
        *,
        ipc: int,
        seed: int,
        device: torch.device | str = "cpu",
        plan: Plan,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.hyperparameters = hp = hyperparameters
        self.ipc, self.classes = ipc, dataset.classes
        self.iterations = hp.iterations
        self.iteration = 0  # updates made
        self.draws = Draws(seed)
        self.material = Material(
            dataset,
            self.draws,
            ipc=ipc,
            factor=hp.factor,
            holdout=hp.kept_out,
            device=device,
            dtype=dtype,
        )
        self._sides = Sides(
            self.material,
            None if hp.perturbed == "none" else Perturbation(hp, self.material),
            strategy=hp.augmentation,
            batch_real=hp.batch_real,
        )
        self._passes = Passes(self.material.network(hp.network, self.draws.network(0)), plan)
        self.images = self.material.start(hp.init)  # (classes * ipc, c, h, w), class-major
        self._velocity = torch.zeros_like(self.images)

    @property
    def held_out(self) -> Tensor:
        """Positions of the training images that only judge iterates."""
        return self.material.held_out

    @property
    def circumstances(self) -> dict[str, Any]:
        """What the last digits of a run depend on besides its spec."""
        return {"plan": self._passes.plan.as_dict(), "device": str(self.material.device)}

    def step(self) -> dict[str, float]:
        """One iteration. Losses are means over networks and classes, before the update.

        `images` counts an image each time it passes forward and backward or forward alone; the
        curvature of an image is two such passes.
        """
        hp = self.hyperparameters
        self._count = 0
        gradient = torch.zeros_like(self.images)
        scalars: dict[str, float] = {}
        for turn in range(hp.networks_per_iteration):
            part, losses = self._match(turn)
            gradient += part / hp.networks_per_iteration
            for name, value in losses.items():
                scalars[name] = scalars.get(name, 0.0) + value / hp.networks_per_iteration
        self._velocity.mul_(hp.momentum).add_(gradient)
        self.images.sub_(self._velocity, alpha=hp.lr_img)
        check_finite(self.images, after=f"iteration {self.iteration}", remedy="Lower lr_img.")
        self.iteration += 1
        return {**scalars, "images": float(self._count)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "dm": {"iteration": self.iteration},
            "images": self.images,
            "velocity": self._velocity,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration = state["dm"]["iteration"]
        self.images.copy_(state["images"])
        self._velocity.copy_(state["velocity"])

    def synthetic_set(self) -> SyntheticSet:
        return self.material.set_of(
            self.images, augmentation=self.hyperparameters.augmentation, method="dm"
        )

    def _match(self, number: int) -> tuple[Tensor, dict[str, float]]:
        """Gradient of one random network's summed losses by all images, and their means."""
        hp = self.hyperparameters
        serial = self.iteration * hp.networks_per_iteration + number
        network = self.material.network(hp.network, self.draws.network(serial))
        network.requires_grad_(False).eval()
        turn = self._sides.draw(self.iteration, number)
        targets = self._real_means(turn, network)  # (classes, d)
        gradients, losses = [], []
        for some in self.material.groups([self.material.decoded] * self.classes, SYNTHETIC_GROUP):
            gradient, parts = self._gradient(turn, network, some, targets)
            gradients.append(gradient)
            losses.append(parts)
        return torch.cat(gradients), means(losses)

    def _real_means(self, turn: Turn, network: Network) -> Tensor:
        """Mean embedding of each class's real images, augmented, perhaps attacked: (classes, d)."""
        made = []
        for embeddings in self._sides.embedded(self._passes, network.state_dict(), turn):
            self._count += len(embeddings) * self._sides.passes("real")
            made.append(embeddings.mean(dim=0))
        return torch.stack(made)

    def _gradient(
        self, turn: Turn, network: Network, some: range, targets: Tensor
    ) -> tuple[Tensor, Losses]:
        """Gradient of the summed losses of some classes by their images, and the losses, (k,)."""
        hp, k = self.hyperparameters, len(some)
        leaf = self.images[some.start * self.ipc : some.stop * self.ipc].detach().requires_grad_()
        shown = self._sides.synthetic(turn, some, leaf)
        x = self._sides.moved(self._passes.bind(network.state_dict()), turn, shown)
        self._count += len(x) * self._sides.passes("synthetic")
        embeddings = network.embed(x).view(k, len(x) // k, -1).mean(dim=1)
        loss = (embeddings - targets[some.start : some.stop]).square().sum(dim=1)
        pulled = loss.sum()
        parts: dict[str, Tensor] = {}
        if hp.curvature_of_images:
            bend, pull = curvature_by_classes(network, x, shown.labels, k, hp)
            parts = {"matching_loss": loss, "curvature": bend}
            pulled = pulled + pull
            loss = loss + hp.curvature_of_images * bend
            self._count += 2 * len(x)
        (gradient,) = torch.autograd.grad(pulled, leaf)
        return gradient, told(loss, parts)
