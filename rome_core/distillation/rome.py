"""ROME: match synthetic images with attacked real ones in the features of a robust pool.

Owns the update of the images, the training of the pool's networks and their order within an
iteration. Must not own the loop (the engine's) nor how a pass is run (`passes`).

Source: Zhou et al., "ROME is Forged in Adversity", ICML 2025, and the authors' code. An iteration:

1. the pool lets a fresh network in, if one is due;
2. for each matched network, every class's real images are augmented and attacked, and its
   synthetic images, augmented alike, are pulled towards their mean embedding;
3. some networks of the pool learn from attacked real images.

The real side of step 2 does not depend on the synthetic images, so all classes share its passes
whichever way the images are stepped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core import attacks, augment, networks
from rome_core.attacks.pgd import start_noise
from rome_core.data import Dataset
from rome_core.distillation.draws import Draws
from rome_core.distillation.pool import Member, Pool, meter
from rome_core.errors import CoreError
from rome_core.passes import Passes, Plan
from rome_core.recipes.rome import RomeHyperparameters
from rome_core.synthetic import SyntheticSet

# Images of one group of classes: bounds memory, and changes no value beyond rounding.
REAL_GROUP = 4096
SYNTHETIC_GROUP = 512

MatchingLoss = Callable[[Tensor, Tensor], Tensor]
"""Mean embeddings of k classes, synthetic and real, both (k, d), to one loss a class, (k,)."""


def tv2(synthetic: Tensor, real: Tensor) -> Tensor:
    """Squared total variation: (half the L1 distance) squared. (k, d), (k, d) -> (k,)."""
    return (synthetic - real).abs().sum(dim=1).div(2).square()


def l2(synthetic: Tensor, real: Tensor) -> Tensor:
    """Squared Euclidean distance, the formula of the paper. (k, d), (k, d) -> (k,)."""
    return (synthetic - real).square().sum(dim=1)


MATCHING: Mapping[str, MatchingLoss] = {"tv2": tv2, "l2": l2}


class Rome:
    """One ROME run on one dataset; the engine calls `step` `iterations` times.

    Args:
        dataset: training images in [0, 1] with their statistics.
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
        hyperparameters: RomeHyperparameters,
        *,
        ipc: int,
        seed: int,
        device: torch.device | str = "cpu",
        plan: Plan,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.hyperparameters = hp = hyperparameters
        self.iterations = hp.iterations
        self.iteration = 0  # updates made
        self.ipc = ipc
        self.classes = dataset.classes
        self.draws = Draws(seed)
        self.budget = attacks.Budget.of(hp.pgd_epsilon, hp.pgd_step, hp.pgd_steps)
        self.dataset = dataset
        self._device, self._dtype = torch.device(device), dtype
        self._pixels = dataset.train_images.to(self._device)  # (n, c, h, w) in [0, 1]
        self._labels = dataset.train_labels.to(self._device)
        self._mean = dataset.mean.to(self._device, dtype).view(-1, 1, 1)
        self._std = dataset.std.to(self._device, dtype).view(-1, 1, 1)
        self._members, self.held_out = self._split()
        self._training = torch.cat(self._members).sort().values
        self._size = self._pixels.shape[-1]
        attacks.targets(hp.target_rule, self._labels[:1], self.classes)

        self._network = self._build(serial=0).requires_grad_(False).eval()
        self._passes = Passes(self._build(serial=0), plan)
        self.pool = Pool(
            self._fresh, begin=hp.net_begin, limit=hp.net_num, interval=hp.net_generate_interval
        )
        self.images = self._start()  # (classes * ipc, c, h, w), normalised, class-major
        self._velocity = torch.zeros_like(self.images)

    @property
    def circumstances(self) -> dict[str, Any]:
        """What the last digits of a run depend on besides its spec."""
        return {"plan": self._passes.plan.as_dict(), "device": str(self._device)}

    def step(self) -> dict[str, float]:
        """One iteration. Losses are means over classes, accuracies fractions in [0, 1]."""
        hp = self.hyperparameters
        evaluated = self.iteration > 0 and self.iteration % hp.eval_interval == 0
        if evaluated:
            self.pool.reset_meters()
        self.pool.renew(self.iteration)
        scalars = {"loss": 0.0, "robustness_loss": 0.0, "performance_loss": 0.0}
        chosen = self.draws.matched(self.iteration, len(self.pool), hp.train_net_num)
        self._count = 0
        for turn, position in enumerate(chosen):
            for name, value in self._match(turn, self.pool.members[position]).items():
                scalars[name] += value / len(chosen)
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
            "rome": {"iteration": self.iteration},
            "images": self.images,
            "velocity": self._velocity,
            **self.pool.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration = state["rome"]["iteration"]
        self.images.copy_(state["images"])
        self._velocity.copy_(state["velocity"])
        self.pool.load_state_dict(state)

    def synthetic_set(self) -> SyntheticSet:
        hp = self.hyperparameters
        return SyntheticSet.of(
            self.images,
            torch.arange(self.classes).repeat_interleave(self.ipc),
            self.dataset,
            factor=hp.factor,
            ipc=self.ipc,
            augmentation=hp.augmentation,
            method="rome",
        )

    # The images' side.

    def _match(self, turn: int, member: Member) -> dict[str, float]:
        """Pull the images towards the attacked real ones in the features of one network."""
        hp = self.hyperparameters
        labels = range(self.classes)
        rows = [
            augment.draw(
                hp.augmentation,
                1,
                size=self._size,
                generator=self.draws.augmentation(self.iteration, turn, label),
                siamese=True,
            )
            for label in labels
        ]
        targets = self._real_means(turn, member, rows)  # (classes, d)
        self._network.load_state_dict(member.weights)
        decoded = self.ipc * hp.factor**2
        group = 1 if hp.image_step == "per_class" else max(1, SYNTHETIC_GROUP // decoded)
        losses = []
        for first in range(0, self.classes, group):
            some = range(first, min(first + group, self.classes))
            block = slice(some.start * self.ipc, some.stop * self.ipc)
            gradient, parts = self._gradient(turn, member, some, block, rows, targets)
            self._descend(block, gradient)
            losses.append(parts)
        total, robustness, performance = torch.cat(losses, dim=1).mean(dim=1).tolist()
        return {"loss": total, "robustness_loss": robustness, "performance_loss": performance}

    def _real_means(self, turn: int, member: Member, rows: list[augment.Augmentation]) -> Tensor:
        """Mean embedding of each class's augmented, attacked real images: (classes, d)."""
        hp = self.hyperparameters
        means = []
        for some in self._real_groups():
            indices = [
                self.draws.real(self.iteration, turn, c, self._members[c], hp.batch_real)
                for c in some
            ]
            counts = [len(chosen) for chosen in indices]
            x = self._normalised(torch.cat(indices))  # (n, c, h, w)
            x = augment.apply(
                x,
                augment.concatenate(
                    [rows[c].repeat_interleave(n) for c, n in zip(some, counts, strict=True)]
                ),
            )
            labels = torch.arange(some.start, some.stop).repeat_interleave(torch.tensor(counts))
            if hp.perturbed != "synthetic":
                noise = self._noise(turn, some, x.shape[1:], counts, "real")
                x = self._attack(member, x, labels, noise)
            embeddings = self._passes.embed(member.weights, x)
            self._count += len(x)
            means += [part.mean(dim=0) for part in torch.split(embeddings, counts)]
        return torch.stack(means)

    def _gradient(
        self,
        turn: int,
        member: Member,
        some: range,
        block: slice,
        rows: list[augment.Augmentation],
        targets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Gradient of the summed losses of some classes by their images, and the losses (3, k)."""
        hp, k = self.hyperparameters, len(some)
        leaf = self.images[block].detach().requires_grad_()
        x = self._decode(leaf, k)  # (k * m, c, h, w), class-major
        m = len(x) // k
        labels = torch.arange(some.start, some.stop).repeat_interleave(m)
        x = augment.apply(x, augment.concatenate([rows[c] for c in some]).repeat_interleave(m))
        if hp.perturbed != "real":
            noise = self._noise(turn, some, x.shape[1:], [m] * k, "synthetic")
            # The perturbation is a constant: gradients reach the images through the sum alone.
            x = x + (self._attack(member, x.detach(), labels, noise) - x).detach()
        embeddings, logits = self._network.embed_and_logits(x)
        self._count += len(x)
        robustness = MATCHING[hp.rob_loss](
            embeddings.view(k, m, -1).mean(dim=1), targets[some.start : some.stop]
        )
        each = F.cross_entropy(logits, labels.to(self._device), reduction="none")
        performance = each.view(k, m).mean(dim=1)
        loss = hp.alpha * robustness + self._performance_weight(member) * performance  # (k,)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return gradient, torch.stack([loss, robustness, performance]).detach()

    def _performance_weight(self, member: Member) -> float:
        hp = self.hyperparameters
        scale = {"acc_percent": 100.0, "acc_fraction": 1.0}.get(hp.perf_weight)
        weight = 1.0 if scale is None else scale * member.meter.accuracy
        return hp.ce_weight * (1 - hp.alpha) * weight

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

    def _decode(self, images: Tensor, k: int) -> Tensor:
        """Stored images of k classes to what networks see, still class-major."""
        factor = self.hyperparameters.factor
        if factor == 1:
            return images
        tiles, _ = augment.expand(images, factor=factor)
        shape = tiles.shape[1:]
        return tiles.view(factor**2, k, self.ipc, *shape).transpose(0, 1).reshape(-1, *shape)

    # The pool's side.

    def _train_pool(self) -> float:
        """Train the fetched networks; returns their mean training accuracy in this iteration."""
        hp = self.hyperparameters
        correct = seen = 0
        fetched = self.draws.fetched(self.iteration, len(self.pool), hp.fetch_net_num)
        for slot, position in enumerate(fetched):
            member = self.pool.members[position]
            for step in range(hp.model_train_steps):
                chosen = self.draws.batch(
                    self.iteration, slot, step, self._training, hp.batch_train
                )
                x, labels = self._normalised(chosen), self._labels[chosen.to(self._device)]
                if hp.pool_training != "clean":
                    made = self.draws.training_noise(self.iteration, slot, step)
                    noise = start_noise(x, self.budget, made)
                    attacked = self._attack(member, x, labels, noise)
                    both = hp.pool_training == "both"
                    x = torch.cat([attacked, x]) if both else attacked
                    labels = labels.repeat(2) if both else labels
                gradients, logits = self._passes.train_gradient(member.weights, x, labels)
                member.descend(
                    gradients, lr=hp.lr_net, momentum=hp.net_momentum, decay=hp.net_decay
                )
                right = int((logits.argmax(dim=1) == labels).sum())
                member.meter.record(right, len(x))
                correct, seen = correct + right, seen + len(x)
        self._count += seen
        return correct / seen

    # Shared by both.

    def _attack(self, member: Member, x: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Normalised images to attacked normalised images, by PGD in the attack's own space."""
        hp = self.hyperparameters
        adapted = attacks.adapt(
            self._passes.bind(member.weights), hp.attack_domain, self._mean, self._std
        )
        labels = labels.to(self._device)
        attacked = attacks.perturb(
            adapted.model,
            adapted.from_normalised(x),
            labels,
            self.budget,
            targets=attacks.targets(hp.target_rule, labels, self.classes),
            noise=noise.to(x),
        )
        self._count += len(x) * self.budget.steps
        return adapted.to_normalised(attacked)

    def _noise(
        self, turn: int, some: range, shape: torch.Size, counts: list[int], side: str
    ) -> Tensor:
        """The random starts of some classes' images, each class from its own draw."""
        return torch.cat(
            [
                start_noise(
                    torch.empty(count, *shape, dtype=self._dtype),
                    self.budget,
                    self.draws.noise(self.iteration, turn, label, side),
                )
                for label, count in zip(some, counts, strict=True)
            ]
        )

    def _normalised(self, chosen: Tensor) -> Tensor:
        pixels = self._pixels[chosen.to(self._device)].to(self._dtype)
        return (pixels - self._mean) / self._std

    def _real_groups(self) -> Iterator[range]:
        """Consecutive classes whose real batches together hold at most REAL_GROUP images."""
        first = held = 0
        for label, members in enumerate(self._members):
            count = min(len(members), self.hyperparameters.batch_real)
            if label > first and held + count > REAL_GROUP:
                yield range(first, label)
                first, held = label, 0
            held += count
        yield range(first, self.classes)

    # The start.

    def _split(self) -> tuple[list[Tensor], Tensor]:
        """Positions of each class's training images to distil from, and those held out."""
        hp = self.hyperparameters
        labels = self.dataset.train_labels
        used, kept = [], [torch.empty(0, dtype=torch.int64)]
        for label in range(self.classes):
            members = torch.nonzero(labels == label).flatten()
            if hp.selection == "holdout":
                order = torch.randperm(len(members), generator=self.draws.holdout(label))
                out = max(1, round(hp.holdout * len(members)))
                kept.append(members[order[:out]])
                members = members[order[out:]].sort().values
            if len(members) < self.ipc:
                raise CoreError(
                    "class_too_small",
                    f"Class {label} has {len(members)} images to distil from, ipc is {self.ipc}.",
                    "Lower ipc.",
                    field="ipc",
                )
            used.append(members)
        return used, torch.cat(kept)

    def _start(self) -> Tensor:
        """The first images: (classes * ipc, c, h, w), normalised."""
        hp = self.hyperparameters
        tiles = hp.factor**2
        if self._size % hp.factor:
            raise CoreError(
                "size_not_divisible",
                f"Images of {self._size} pixels a side cannot hold {tiles} smaller ones.",
                "Set factor=1.",
                field="hyperparameters.factor",
            )
        return torch.cat([self._start_class(label, tiles) for label in range(self.classes)])

    def _start_class(self, label: int, tiles: int) -> Tensor:
        shape = (self.ipc, *self._pixels.shape[1:])
        if self.hyperparameters.init == "noise":
            noise = torch.randn(shape, generator=self.draws.init(label, 0))
            return noise.to(self._device, self._dtype)
        quadrants = []
        for quadrant in range(tiles):
            members = self._members[label]
            order = torch.randperm(len(members), generator=self.draws.init(label, quadrant))
            quadrants.append(self._normalised(members[order[: self.ipc]]))
        if tiles == 1:
            return quadrants[0]
        factor = self.hyperparameters.factor
        return augment.mosaic(torch.stack([augment.shrink(q, factor) for q in quadrants], dim=1))

    def _build(self, serial: int) -> networks.ConvNet:
        return networks.build(
            self.hyperparameters.network,
            channels=self._pixels.shape[1],
            size=self._size,
            classes=self.classes,
            generator=self.draws.network(serial),
        ).to(self._device, self._dtype)

    def _fresh(self, serial: int) -> Member:
        hp = self.hyperparameters
        weights = {name: value.detach() for name, value in self._build(serial).state_dict().items()}
        return Member(serial, weights, meter(hp.meter, hp.meter_decay))
