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

from rome_core import augment
from rome_core.data import Dataset
from rome_core.distillation.curvature import curvature_by_images, curvature_gradient
from rome_core.distillation.draws import Draws
from rome_core.distillation.material import Material
from rome_core.distillation.perturbation import Perturbation
from rome_core.distillation.pool import Member, Pool, meter
from rome_core.errors import CoreError
from rome_core.passes import Passes, Plan
from rome_core.recipes.pool import PoolHyperparameters
from rome_core.synthetic import SyntheticSet

# Images of one group: bounds memory, and changes no value beyond rounding.
REAL_GROUP = 4096
SYNTHETIC_GROUP = 512

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
        self._perturbation = Perturbation(hp, self.material) if hp.attacks_anything else None

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
        for turn, position in enumerate(chosen):
            for name, value in self._match(turn, self.pool.members[position]).items():
                scalars[name] = scalars.get(name, 0.0) + value / len(chosen)
        if hp.fetch_net_num:
            scalars["pool_accuracy"] = self._train_pool()
        if not torch.isfinite(self.images).all():
            raise CoreError(
                "diverged",
                f"The synthetic images are no longer finite after iteration {self.iteration}.",
                "Lower lr_img, or lr_net if the losses grew before.",
                field="hyperparameters.lr_img",
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

    def _match(self, turn: int, member: Member) -> dict[str, float]:
        """Pull the images towards the real ones in the features of one network."""
        hp = self.hyperparameters
        rows = self.material.augmentations(
            hp.augmentation, self.iteration, turn, range(self.classes)
        )
        targets = self._real_side(turn, member, rows)  # (s, classes, d)
        self._network.load_state_dict(member.weights)
        group = 1 if hp.image_step == "per_class" else SYNTHETIC_GROUP
        losses = []
        for some in self.material.groups([self.material.decoded] * self.classes, group):
            block = slice(some.start * self.ipc, some.stop * self.ipc)
            gradient, parts = self._gradient(turn, member, some, block, rows, targets)
            self._descend(block, gradient)
            losses.append(parts)
        return {
            name: torch.cat([parts[name] for parts in losses]).mean().item() for name in losses[0]
        }

    def _real_side(self, turn: int, member: Member, rows: list[augment.Augmentation]) -> Tensor:
        """Summaries of each class's augmented, perhaps attacked real images: (s, classes, d)."""
        hp, members = self.hyperparameters, self.material.members
        held = [min(len(positions), hp.batch_real) for positions in members]
        summaries = []
        for some in self.material.groups(held, REAL_GROUP):
            counts = [held[c] for c in some]
            x = self.material.images(
                torch.cat(
                    [
                        self.draws.real(self.iteration, turn, c, members[c], hp.batch_real)
                        for c in some
                    ]
                )
            )  # (n, c, h, w)
            drawn = [rows[c].repeat_interleave(n) for c, n in zip(some, counts, strict=True)]
            x = augment.apply(x, augment.concatenate(drawn))
            if hp.perturbed in ("real", "both"):
                labels = torch.arange(some.start, some.stop).repeat_interleave(torch.tensor(counts))
                x = self._attack(member, x, labels, self._noise(turn, some, counts, "real"))
            embeddings = self._passes.embed(member.weights, x)
            self._count += len(x)
            summaries += [self.summarise(part) for part in torch.split(embeddings, counts)]
        return torch.stack(summaries, dim=1)

    def _gradient(
        self,
        turn: int,
        member: Member,
        some: range,
        block: slice,
        rows: list[augment.Augmentation],
        targets: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradient of the summed losses of some classes by their images, and the losses, (k,)."""
        hp, k = self.hyperparameters, len(some)
        leaf = self.images[block].detach().requires_grad_()
        x = self.material.decode(leaf, k)  # (k * m, c, h, w), class-major
        m = len(x) // k
        labels = torch.arange(some.start, some.stop).repeat_interleave(m).to(x.device)
        drawn = augment.concatenate([rows[c] for c in some]).repeat_interleave(m)
        x = augment.apply(x, drawn)
        if hp.perturbed in ("synthetic", "both"):
            noise = self._noise(turn, some, [m] * k, "synthetic")
            # The perturbation is a constant: gradients reach the images through the sum alone.
            x = x + (self._attack(member, x.detach(), labels, noise) - x).detach()
        embeddings, logits = self._network.embed_and_logits(x)
        self._count += len(x)
        matching = self.matching(
            embeddings.view(k, m, -1).mean(dim=1), targets[:, some.start : some.stop]
        )
        each = F.cross_entropy(logits, labels, reduction="none")
        performance = each.view(k, m).mean(dim=1)
        ours, others = self.weights
        loss = ours * matching + others * self._accuracy(member) * performance  # (k,)
        parts = {self.matching_name: matching, "performance_loss": performance}
        pulled = loss.sum()
        if hp.curvature_of_images:
            bend, slope = curvature_by_images(self._network, x, labels, hp.curvature_step)
            parts["curvature"] = bend.view(k, m).mean(dim=1)
            # Whose gradient is that of the mean curvature; what it comes to is nobody's loss.
            pulled = pulled + hp.curvature_of_images / m * (x * slope).sum()
            loss = loss + hp.curvature_of_images * parts["curvature"]
            self._count += 2 * len(x)
        (gradient,) = torch.autograd.grad(pulled, leaf)
        return gradient, {"loss": loss.detach(), **{n: part.detach() for n, part in parts.items()}}

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
        attacked = self._attack(member, x, labels, self._perturbation.noise([len(x)], [made]))
        if hp.pool_training == "adversarial":
            return attacked, labels
        return torch.cat([attacked, x]), labels.repeat(2)

    # Shared by both.

    def _attack(self, member: Member, x: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Images as networks take them to attacked ones."""
        assert self._perturbation is not None, "made wherever anything is attacked"
        self._count += len(x) * self._perturbation.budget.steps
        return self._perturbation(self._passes.bind(member.weights), x, labels, noise)

    def _noise(self, turn: int, some: range, counts: list[int], side: str) -> Tensor:
        """The random starts of some classes' images, each class from its own draw."""
        assert self._perturbation is not None, "made wherever anything is attacked"
        made = [self.draws.noise(self.iteration, turn, label, side) for label in some]
        return self._perturbation.noise(counts, made)

    def _fresh(self, serial: int) -> Member:
        hp = self.hyperparameters
        network = self.material.network(hp.network, self.draws.network(serial))
        weights = {name: value.detach() for name, value in network.state_dict().items()}
        return Member(serial, weights, meter(hp.meter, hp.meter_decay))
