"""Matching the embeddings of class means in a pool of semi-trained networks: IDM and its heirs.

Owns the loop of an iteration, the real side, the gradient and the steps of the images, and the
training of the pool. What a method says, and all it says, is its loss (`idm`, `bacon`, `rome`):
how far apart two classes' embeddings are, and what that weighs beside the cross-entropy. Must not
own the engine's loop nor how a pass is run (`passes`).

Source: Zhao et al., "Improved Distribution Matching for Dataset Condensation", CVPR 2023, and the
authors' code, which BACON (2024) and ROME (2025) took over. An iteration:

1. the pool lets a fresh network in, if one is due;
2. for each matched network, every class's real images are augmented, attacked where that is asked
   for and embedded, and its synthetic images, augmented alike, are pulled towards them;
3. some networks of the pool learn from real images, clean or attacked.

The real side of step 2 does not depend on the synthetic images, so all classes share its passes
whichever way the images are stepped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core.data import Dataset
from rome_core.distillation.class_losses import Losses, means, told
from rome_core.distillation.curvature import curvature_by_classes, curvature_gradient
from rome_core.distillation.divergence import check_finite
from rome_core.distillation.draws import Draws
from rome_core.distillation.material import Material
from rome_core.distillation.perturbation import Perturbation
from rome_core.distillation.pool import Member, Pool, meter
from rome_core.distillation.sides import Sides, Turn
from rome_core.passes import Passes, Plan
from rome_core.recipes.cost import SYNTHETIC_GROUP
from rome_core.recipes.pool import PoolHyperparameters
from rome_core.synthetic import SyntheticSet

H = TypeVar("H", bound=PoolHyperparameters)


class PoolMatching(ABC, Generic[H]):
    """One run of one method on one dataset; the engine calls `step` `iterations` times.

    Args:
        dataset: training images as pixels in [0, 1], with the space networks take them in.
        ipc: stored images per class; with factor 2 each holds four decoded ones.
        seed: of every draw of the run.
        device: where tensors live. Draws are made on the CPU, so they do not depend on it.
        plan: how passes are run.
        dtype: float64 serves proofs, not runs.

    Raises CoreError where the dataset cannot serve the hyperparameters.
    """

    name: ClassVar[str]  # of the method
    matching_name: ClassVar[str] = "matching_loss"  # of the matching term among the scalars

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
        self._perturbation = Perturbation(hp, self.material) if hp.attacks_anything else None
        self._sides = Sides(
            self.material,
            self._perturbation,
            strategy=hp.augmentation,
            batch_real=hp.batch_real,
        )
        skeleton = [self.material.network(hp.network, self.draws.network(0)) for _ in range(2)]
        self._network = skeleton[0].requires_grad_(False).eval()
        self._passes = Passes(skeleton[1], plan)
        self.pool = Pool(
            self._fresh, begin=hp.net_begin, limit=hp.net_num, interval=hp.net_generate_interval
        )
        self.images = self.material.start(hp.init)  # (classes * ipc, c, h, w), class-major
        self._velocity = torch.zeros_like(self.images)

    # What a method says.

    def summarise(self, embeddings: Tensor) -> Tensor:
        """What is matched of one class's real embeddings: (n, d) -> (s, d), here their mean."""
        return embeddings.mean(dim=0, keepdim=True)

    @abstractmethod
    def matching(self, synthetic: Tensor, real: Tensor) -> Tensor:
        """One loss a class: means of synthetic embeddings (k, d), summaries (s, k, d) -> (k,)."""

    @property
    @abstractmethod
    def weights(self) -> tuple[float, float]:
        """Of the matching term and of the cross-entropy, before the network's accuracy."""

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
        """One iteration. Losses are means over classes, accuracies fractions in [0, 1].

        `images` counts an image each time it passes forward and backward or forward alone; the
        curvature of an image is two such passes.
        """
        hp = self.hyperparameters
        evaluated = self.iteration > 0 and self.iteration % hp.eval_interval == 0
        if evaluated:
            self.pool.reset_meters()
        self.pool.renew(self.iteration)
        scalars: dict[str, float] = {}
        chosen = self.draws.matched(self.iteration, len(self.pool), hp.train_net_num)
        self._count = 0
        for number, position in enumerate(chosen):
            for name, value in self._match(number, self.pool.members[position]).items():
                scalars[name] = scalars.get(name, 0.0) + value / len(chosen)
        if hp.fetch_net_num:
            scalars["pool_accuracy"] = self._train_pool()
        check_finite(
            self.images,
            after=f"iteration {self.iteration}",
            remedy="Lower lr_img, or lr_net if the losses grew before.",
        )
        self.iteration += 1
        scalars["images"] = float(self._count)
        return scalars

    def state_dict(self) -> dict[str, Any]:
        return {
            self.name: {"iteration": self.iteration},
            "images": self.images,
            "velocity": self._velocity,
            **self.pool.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration = state[self.name]["iteration"]
        self.images.copy_(state["images"])
        self._velocity.copy_(state["velocity"])
        self.pool.load_state_dict(state)

    def synthetic_set(self) -> SyntheticSet:
        return self.material.set_of(
            self.images, augmentation=self.hyperparameters.augmentation, method=self.name
        )

    # The images' side.

    def _match(self, number: int, member: Member) -> dict[str, float]:
        """Pull the images towards the real ones in the features of one network."""
        hp = self.hyperparameters
        turn = self._sides.draw(self.iteration, number)
        targets = self._real_side(turn, member)  # (s, classes, d)
        self._network.load_state_dict(member.weights)
        group = 1 if hp.image_step == "per_class" else SYNTHETIC_GROUP
        losses = []
        for some in self.material.groups([self.material.decoded] * self.classes, group):
            block = slice(some.start * self.ipc, some.stop * self.ipc)
            gradient, parts = self._gradient(turn, member, some, block, targets)
            self._descend(block, gradient)
            losses.append(parts)
        return means(losses)

    def _real_side(self, turn: Turn, member: Member) -> Tensor:
        """Summaries of each class's augmented, perhaps attacked real images: (s, classes, d)."""
        summaries = []
        for embeddings in self._sides.embedded(self._passes, member.weights, turn):
            self._count += len(embeddings) * self._sides.passes("real")
            summaries.append(self.summarise(embeddings))
        return torch.stack(summaries, dim=1)

    def _gradient(
        self, turn: Turn, member: Member, some: range, block: slice, targets: Tensor
    ) -> tuple[Tensor, Losses]:
        """Gradient of the summed losses of some classes by their images, and the losses, (k,)."""
        hp, k = self.hyperparameters, len(some)
        leaf = self.images[block].detach().requires_grad_()
        shown = self._sides.synthetic(turn, some, leaf)
        x = self._sides.moved(self._passes.bind(member.weights), turn, shown)
        self._count += len(x) * self._sides.passes("synthetic")
        embeddings, logits = self._network.embed_and_logits(x)
        matching = self.matching(
            embeddings.view(k, len(x) // k, -1).mean(dim=1), targets[:, some.start : some.stop]
        )
        each = F.cross_entropy(logits, shown.labels, reduction="none")
        performance = each.view(k, -1).mean(dim=1)
        ours, others = self.weights
        loss = ours * matching + others * self._accuracy(member) * performance  # (k,)
        parts = {self.matching_name: matching, "performance_loss": performance}
        pulled = loss.sum()
        if hp.curvature_of_images:
            bend, pull = curvature_by_classes(self._network, x, shown.labels, k, hp)
            parts["curvature"] = bend
            pulled = pulled + pull
            loss = loss + hp.curvature_of_images * bend
            self._count += 2 * len(x)
        (gradient,) = torch.autograd.grad(pulled, leaf)
        return gradient, told(loss, parts)

    def _accuracy(self, member: Member) -> float:
        """What the network's training accuracy makes the cross-entropy weigh."""
        scale = {"acc_percent": 100.0, "acc_fraction": 1.0}.get(self.hyperparameters.perf_weight)
        return 1.0 if scale is None else scale * member.meter.accuracy

    def _descend(self, block: slice, gradient: Tensor) -> None:
        """Step the images of a block by SGD.

        per_class: one step a class over the whole tensor, so that the momentum of the classes
        before keeps moving their images. Over an iteration that moves a class by
        lr * (1 + m + m^2 + ...) of its gradient, which batched does at once.
        """
        hp = self.hyperparameters
        if hp.image_step == "per_class":
            self._velocity.mul_(hp.momentum)
            self._velocity[block] += gradient
            self.images.sub_(self._velocity, alpha=hp.lr_img)
        else:
            self.images[block] -= hp.lr_img / (1 - hp.momentum) * gradient

    # The pool's side.

    def _train_pool(self) -> float:
        """Train the fetched networks; returns their mean training accuracy in this iteration."""
        hp = self.hyperparameters
        correct = seen = 0
        fetched = self.draws.fetched(self.iteration, len(self.pool), hp.fetch_net_num)
        for slot, position in enumerate(fetched):
            member = self.pool.members[position]
            for step in range(hp.model_train_steps):
                x, labels = self._lesson(member, slot, step)
                gradients, logits = self._passes.train_gradient(member.weights, x, labels)
                if hp.curvature_of_networks:
                    bend = curvature_gradient(
                        self._network, member.weights, x, labels, hp.curvature_step
                    )
                    self._count += 2 * len(x)
                    for name, gradient in bend.items():
                        gradients[name].add_(gradient, alpha=hp.curvature_of_networks)
                member.descend(
                    gradients, lr=hp.lr_net, momentum=hp.net_momentum, decay=hp.net_decay
                )
                right = int((logits.argmax(dim=1) == labels).sum())
                member.meter.record(right, len(x))
                correct, seen = correct + right, seen + len(x)
        self._count += seen
        return correct / seen

    def _lesson(self, member: Member, slot: int, step: int) -> tuple[Tensor, Tensor]:
        """The images of one training step, attacked where that is asked for, and their labels."""
        hp = self.hyperparameters
        chosen = self.draws.batch(
            self.iteration, slot, step, self.material.training, hp.batch_train
        )
        x, labels = self.material.images(chosen), self.material.labels_of(chosen)
        if self._perturbation is None or hp.pool_training == "clean":
            return x, labels
        made = self.draws.training_noise(self.iteration, slot, step)
        noise = self._perturbation.noise([len(x)], [made])
        attacked = self._perturbation(self._passes.bind(member.weights), x, labels, noise)
        self._count += len(x) * self._perturbation.budget.steps
        if hp.pool_training == "adversarial":
            return attacked, labels
        return torch.cat([attacked, x]), labels.repeat(2)

    def _fresh(self, serial: int) -> Member:
        hp = self.hyperparameters
        network = self.material.network(hp.network, self.draws.network(serial))
        weights = {name: value.detach() for name, value in network.state_dict().items()}
        return Member(serial, weights, meter(hp.meter, hp.meter_decay))
