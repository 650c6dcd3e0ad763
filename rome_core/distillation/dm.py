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

from rome_core import augment
from rome_core.attacks.gradient import Model
from rome_core.data import Dataset
from rome_core.distillation.curvature import curvature_by_images
from rome_core.distillation.draws import Draws
from rome_core.distillation.material import Material
from rome_core.distillation.perturbation import Perturbation
from rome_core.errors import CoreError
from rome_core.networks import Network
from rome_core.passes import Passes, Plan
from rome_core.recipes.dm import SYNTHETIC_GROUP, DmHyperparameters
from rome_core.synthetic import SyntheticSet

REAL_GROUP = 4096  # images of one group: bounds memory, and changes no value beyond rounding


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
        self.dataset, self.ipc, self.classes = dataset, ipc, dataset.classes
        self.iterations = hp.iterations
        self.iteration = 0  # updates made
        self.draws = Draws(seed)
        self.material = Material(
            dataset,
            self.draws,
            ipc=ipc,
            factor=hp.factor,
            holdout=hp.holdout if hp.selection == "holdout" else None,
            device=device,
            dtype=dtype,
        )
        self._perturbation = None if hp.perturbed == "none" else Perturbation(hp, self.material)
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
        if not torch.isfinite(self.images).all():
            raise CoreError(
                "diverged",
                f"The synthetic images are no longer finite after iteration {self.iteration}.",
                "Lower lr_img.",
                field="hyperparameters.lr_img",
            )
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

    def _match(self, turn: int) -> tuple[Tensor, dict[str, float]]:
        """Gradient of one random network's summed losses by all images, and their means."""
        hp = self.hyperparameters
        serial = self.iteration * hp.networks_per_iteration + turn
        network = self.material.network(hp.network, self.draws.network(serial))
        network.requires_grad_(False).eval()
        rows = self.material.augmentations(
            hp.augmentation, self.iteration, turn, range(self.classes)
        )
        targets = self._real_means(turn, network, rows)  # (classes, d)
        gradients, losses = [], []
        for some in self.material.groups([self.material.decoded] * self.classes, SYNTHETIC_GROUP):
            gradient, parts = self._gradient(turn, network, some, rows, targets)
            gradients.append(gradient)
            losses.append(parts)
        means = {name: torch.cat([part[name] for part in losses]).mean() for name in losses[0]}
        return torch.cat(gradients), {name: mean.item() for name, mean in means.items()}

    def _real_means(self, turn: int, network: Network, rows: list[augment.Augmentation]) -> Tensor:
        """Mean embedding of each class's real images, augmented, perhaps attacked: (classes, d)."""
        hp, members, state = self.hyperparameters, self.material.members, network.state_dict()
        held = [min(len(positions), hp.batch_real) for positions in members]
        means = []
        for some in self.material.groups(held, REAL_GROUP):
            counts = [held[c] for c in some]
            chosen = [
                self.draws.real(self.iteration, turn, c, members[c], hp.batch_real) for c in some
            ]
            x = self.material.images(torch.cat(chosen))  # (n, c, h, w)
            drawn = [rows[c].repeat_interleave(n) for c, n in zip(some, counts, strict=True)]
            x = augment.apply(x, augment.concatenate(drawn))
            if hp.perturbed in ("real", "both"):
                labels = torch.arange(some.start, some.stop).repeat_interleave(torch.tensor(counts))
                x = self._attack(self._passes.bind(state), turn, some, x, labels, counts, "real")
            embeddings = self._passes.embed(state, x)
            self._count += len(x)
            means += [part.mean(dim=0) for part in torch.split(embeddings, counts)]
        return torch.stack(means)

    def _gradient(
        self,
        turn: int,
        network: Network,
        some: range,
        rows: list[augment.Augmentation],
        targets: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradient of the summed losses of some classes by their images, and the losses, (k,)."""
        hp, k = self.hyperparameters, len(some)
        leaf = self.images[some.start * self.ipc : some.stop * self.ipc].detach().requires_grad_()
        x = self.material.decode(leaf, k)  # (k * m, c, h, w), class-major
        m = len(x) // k
        drawn = augment.concatenate([rows[c] for c in some]).repeat_interleave(m)
        x = augment.apply(x, drawn)
        labels = torch.arange(some.start, some.stop).repeat_interleave(m).to(x.device)
        if hp.perturbed in ("synthetic", "both"):
            model = self._passes.bind(network.state_dict())
            attacked = self._attack(model, turn, some, x.detach(), labels, [m] * k, "synthetic")
            # The perturbation is a constant: gradients reach the images through the sum alone.
            x = x + (attacked - x).detach()
        self._count += len(x)
        means = network.embed(x).view(k, m, -1).mean(dim=1)
        loss = (means - targets[some.start : some.stop]).square().sum(dim=1)
        pulled = loss.sum()
        parts: dict[str, Tensor] = {}
        if hp.curvature_of_images:
            bend, slope = curvature_by_images(network, x, labels, hp.curvature_step)
            parts = {"matching_loss": loss, "curvature": bend.view(k, m).mean(dim=1)}
            # Whose gradient is that of the mean curvature; what it comes to is nobody's loss.
            pulled = pulled + hp.curvature_of_images / m * (x * slope).sum()
            loss = loss + hp.curvature_of_images * parts["curvature"]
            self._count += 2 * len(x)
        (gradient,) = torch.autograd.grad(pulled, leaf)
        return gradient, {"loss": loss.detach(), **{n: part.detach() for n, part in parts.items()}}

    def _attack(
        self,
        model: Model,
        turn: int,
        some: range,
        x: Tensor,
        labels: Tensor,
        counts: list[int],
        side: str,
    ) -> Tensor:
        """Some classes' images to attacked ones, each class's start from its own draw."""
        assert self._perturbation is not None, "made wherever anything is attacked"
        self._count += len(x) * self._perturbation.budget.steps
        made = [self.draws.noise(self.iteration, turn, label, side) for label in some]
        return self._perturbation(model, x, labels, self._perturbation.noise(counts, made))
