"""MTT: images on which a few steps of a student lead where epochs on real images led an expert.

Owns the choice of trajectories and the steps of images and step size. Must not own the loop (the
engine's), the gradients (`trajectory`) nor how experts are trained (`expert_training`).

Source: Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, and
the authors' code. An iteration:

1. takes the next expert, and an epoch t of it to start from;
2. trains a student from the expert's weights at t for N steps on the synthetic set;
3. moves images and step size by the gradient of the distance, in weights, between the student and
   the expert at epoch t + M, as a share of the way from t to t + M.

Real images are not looked at but for the start: all that is known of them is in the experts. What
has been added by others is off by default: soft labels and an approximate gradient (TESLA, Cui et
al. 2023), a moving average of the images (FTD, Du et al. 2023), a first epoch and skipped
iterations (DATM, Guo et al. 2024), curvature (GUARD, Xue et al. 2025).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from rome_core import augment
from rome_core.data import Dataset
from rome_core.distillation.curvature import curvature_by_images
from rome_core.distillation.divergence import check_finite
from rome_core.distillation.draws import Draws
from rome_core.distillation.experts import Experts
from rome_core.distillation.material import Material
from rome_core.distillation.trajectory import Step, cross_entropy, match
from rome_core.errors import CoreError
from rome_core.passes import Passes, Plan
from rome_core.recipes.mtt import GROUP, MttHyperparameters
from rome_core.synthetic import SyntheticSet

VANISHED = 1e-4
"""Of the first step size: a smaller one has run away, for at it students learn nothing."""


class Mtt:
    """One MTT run on one dataset; the engine calls `step` `iterations` times.

    Args:
        dataset: training images in [0, 1], with the space networks take them in.
        ipc: images per class.
        seed: of every draw of the run.
        experts: of that network, trained on that dataset in that space, every epoch kept; that they
            fit is looked after where they are found.
        device: where tensors live. Draws are made on the CPU, so they do not depend on it.
        plan: how many images pass a network at a time.
        dtype: float64 serves proofs, not runs.

    `rate` is the student's step size as learned so far. Raises CoreError where the dataset cannot
    serve the hyperparameters.
    """

    def __init__(
        self,
        dataset: Dataset,
        hyperparameters: MttHyperparameters,
        *,
        ipc: int,
        seed: int,
        experts: Experts,
        device: torch.device | str = "cpu",
        plan: Plan,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.hyperparameters = hp = hyperparameters
        self.iterations = hp.iterations
        self.iteration = 0  # updates made
        self.rate = hp.lr_teacher
        self.ipc, self.classes = ipc, dataset.classes
        self.draws = Draws(seed)
        self.experts = experts
        self.material = Material(
            dataset,
            self.draws,
            ipc=ipc,
            holdout=hp.kept_out,
            device=device,
            dtype=dtype,
        )
        self._plan = plan
        self._network = self.material.network(hp.network, self.draws.network(0))
        self._network.requires_grad_(False)
        self._loss = cross_entropy(self._network, experts.layout.state)
        chunk = Passes(self._network, plan).chunk
        on_cpu = self.material.device.type == "cpu"
        self._group = chunk if on_cpu and chunk is not None else GROUP
        self.images = self.material.start(hp.init)  # (classes * ipc, c, h, w), class-major
        self._velocity = torch.zeros_like(self.images)
        self._rate_velocity = 0.0
        self._average = self.images.clone()

    @property
    def held_out(self) -> Tensor:
        """Positions in the training set that nothing but the experts learns from."""
        return self.material.held_out

    @property
    def circumstances(self) -> dict[str, Any]:
        """What the last digits of a run depend on besides its spec."""
        return {"plan": self._plan.as_dict(), "device": str(self.material.device)}

    def step(self) -> dict[str, float]:
        """One iteration.

        `loss` is the student's distance from the expert as a share of the expert's way,
        `learning_rate` the step size it was made with, `gradient_norm` that by all images.
        """
        hp = self.hyperparameters
        start, target = self._trajectory()
        labels = self._labels(self.images, target)
        steps = self._steps()
        matched = match(
            self._loss,
            steps,
            self.images,
            labels,
            rate=self.rate,
            start=start,
            target=target,
            first_order=hp.gradient == "tesla",
            group=self._group,
        )
        gradient = matched.by_images
        scalars = {"loss": float(matched.loss), "learning_rate": self.rate}
        # Every image of a step passes once on the student's way and once on the gradient's.
        count = 2 * sum(len(step) for step in steps)
        if hp.curvature_of_images:
            gradient = gradient + hp.curvature_of_images * self._bend(target)
            count += 2 * len(self.images)
        scalars["gradient_norm"] = float(gradient.norm())
        # Said this way round, a loss that is not a number is above every bound.
        if hp.skip_above is not None and not scalars["loss"] <= hp.skip_above:
            scalars["skipped"] = 1.0
        else:
            share = self._bounded(scalars["gradient_norm"])
            self._descend(gradient * share, float(matched.by_rate) * share)
        self.iteration += 1
        self._keep_average()
        return scalars | {"images": float(count)}

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "mtt": {
                "iteration": self.iteration,
                "rate": self.rate,
                "rate_velocity": self._rate_velocity,
            },
            "images": self.images,
            "velocity": self._velocity,
        }
        if self.hyperparameters.ema:
            state["average"] = self._average
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = state["mtt"]
        self.iteration, self.rate = own["iteration"], own["rate"]
        self._rate_velocity = own["rate_velocity"]
        self.images.copy_(state["images"])
        self._velocity.copy_(state["velocity"])
        if self.hyperparameters.ema:
            self._average.copy_(state["average"])

    def synthetic_set(self) -> SyntheticSet:
        """The images, or their average, with the step size students are to learn at."""
        hp = self.hyperparameters
        images = self._average if hp.ema else self.images
        soft = None
        if hp.soft_labels == "teacher":
            # Of the last iteration's expert, or of the first one's before there is any.
            _, target = self._trajectory(max(0, self.iteration - 1))
            soft = self._labels(images, target)
        return self.material.set_of(
            images,
            augmentation=hp.augmentation,
            method="mtt",
            learning_rate=self.rate,
            soft_labels=soft,
        )

    # What is matched.

    def _trajectory(self, iteration: int | None = None) -> tuple[Tensor, Tensor]:
        """Weights of an iteration's expert to start from, and those to reach: (p,), (p,)."""
        hp = self.hyperparameters
        iteration = self.iteration if iteration is None else iteration
        # A file may hold more than the hyperparameters ask for; those of a file made for them are
        # its first.
        count = min(hp.buffer_experts, self.experts.count)
        expert = self.draws.expert(iteration, count)
        epoch = self.draws.start_epoch(iteration, hp.min_start_epoch, hp.max_start_epoch)
        start, target = (
            self.experts.flat(expert, at).to(self.images)
            for at in (epoch, epoch + hp.expert_epochs)
        )
        return start, target

    def _steps(self) -> list[Step]:
        """The student's mini-batches: a permutation cut in pieces, the last first, then another."""
        hp, total = self.hyperparameters, len(self.images)
        made: list[Step] = []
        pieces: list[Tensor] = []
        for number in range(hp.syn_steps):
            if not pieces:
                order = self.draws.student_order(self.iteration, number, total)
                pieces = list(torch.split(order, hp.batch_syn or total))
            chosen = pieces.pop()
            rows = augment.draw(
                self.material.strategy(hp.augmentation),
                len(chosen),
                size=self.material.size,
                generator=self.draws.student_augmentation(self.iteration, number),
                siamese=False,
            )
            made.append(Step(chosen.to(self.material.device), rows))
        return made

    def _labels(self, images: Tensor, target: Tensor) -> Tensor:
        """The classes, (n,), or what the expert at `target` says: (n, classes)."""
        if self.hyperparameters.soft_labels == "none":
            return self.material.labels
        state = self.experts.layout.state(target)
        with torch.no_grad():
            parts = [
                functional_call(self._network, state, (part,))
                for part in torch.split(images, self._group)
            ]
        return F.softmax(torch.cat(parts), dim=1)

    def _bend(self, target: Tensor) -> Tensor:
        """Gradient by the images of their mean curvature at an expert's weights."""
        state = self.experts.layout.state(target)
        _, gradient = curvature_by_images(
            lambda x: functional_call(self._network, state, (x,)),
            self.images,
            self.material.labels,
            self.hyperparameters.curvature_step,
            group=self._group,
            share=len(self.images),
        )
        return gradient

    # What moves.

    def _bounded(self, norm: float) -> float:
        """What is taken of a gradient of this norm, at most 1."""
        hp = self.hyperparameters
        if hp.max_move is None:
            return 1.0
        move = hp.lr_img * norm / math.sqrt(self.images.numel())
        return hp.max_move / move if move > hp.max_move else 1.0

    def _descend(self, gradient: Tensor, by_rate: float) -> None:
        """Step images and step size by SGD with momentum."""
        hp = self.hyperparameters
        self._velocity.mul_(hp.momentum).add_(gradient)
        self.images.sub_(self._velocity, alpha=hp.lr_img)
        self._rate_velocity = hp.momentum * self._rate_velocity + by_rate
        change = -hp.lr_lr * self._rate_velocity
        positive = hp.step_size_parameter == "positive"
        if positive and change < 0:
            # A subtraction to first order. Were the logarithm learned instead, moves would grow
            # with the square of the step size.
            self.rate *= math.exp(change / self.rate)
        else:
            self.rate += change
        if not positive and self.rate <= 0:
            raise CoreError(
                "diverged",
                f"The student's step size is {self.rate:.2g} after iteration {self.iteration}, and "
                "must be positive.",
                "Set step_size_parameter=positive, or lower lr_lr.",
                field="hyperparameters.step_size_parameter",
            )
        if positive and self.rate < VANISHED * hp.lr_teacher:
            raise CoreError(
                "diverged",
                f"The student's step size has fallen from {hp.lr_teacher:.2g} to {self.rate:.2g} "
                f"after iteration {self.iteration}: students that learn at it learn nothing.",
                "Lower lr_lr, or set max_move.",
                field="hyperparameters.lr_lr",
            )
        check_finite(
            self.images,
            self.rate,
            what=f"The images or the step size, {self.rate:.2g},",
            after=f"iteration {self.iteration}",
            remedy="Lower lr_img, or lr_lr and lr_teacher where the step size ran away, or set "
            "max_move.",
        )

    def _keep_average(self) -> None:
        """Weights 1, ema, ema^2, ... from the newest iterate back, none for the start."""
        ema = self.hyperparameters.ema
        if ema:
            self._average.lerp_(self.images, (1 - ema) / (1 - ema**self.iteration))
