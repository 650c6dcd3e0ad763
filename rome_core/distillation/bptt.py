"""BPTT: a set whose students do well, by the gradient of how well through their training.

Owns what is asked of a student and the steps of images, labels and step size. Must not own the loop
(the engine's) nor the way back through a training (`trajectory`).

Source: Feng, Vedantam and Kempe, "Embarrassingly Simple Dataset Distillation", ICLR 2024
(RaT-BPTT). An iteration:

1. makes a fresh student and draws how many steps it trains, from W to T;
2. trains it on the synthetic set by plain SGD, augmented as students are;
3. takes its loss on real images, as they are or attacked against it;
4. moves images, labels and step size by the gradient of that loss through the last W steps.

The truncation is theirs; exact through the window, in the memory of one step. Theirs trains
students by Adam, with hard labels at a fixed step size, on whitened images; ours by SGD, whose
labels and step size may be learned. Real images attacked against the student are ours: what Wu et
al. 2022 ("Towards Robust Dataset Learning") ask of a set, at the size of a distilled one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core import augment
from rome_core.data import Dataset
from rome_core.distillation.divergence import check_finite
from rome_core.distillation.draws import Draws
from rome_core.distillation.experts import Layout
from rome_core.distillation.material import Material
from rome_core.distillation.perturbation import Perturbation
from rome_core.distillation.trajectory import Step, cross_entropy, stepped, train, way_back
from rome_core.passes import Passes, Plan
from rome_core.recipes.bptt import BpttHyperparameters
from rome_core.recipes.mtt import GROUP
from rome_core.synthetic import SyntheticSet

BETAS = (0.9, 0.999)  # Adam's, as everywhere


class Bptt:
    """One BPTT run on one dataset; the engine calls `step` `iterations` times.

    Args:
        dataset: training images in [0, 1], with the space networks take them in.
        ipc: images per class.
        seed: of every draw of the run.
        device: where tensors live. Draws are made on the CPU, so they do not depend on it.
        plan: how many images pass a network at a time.
        dtype: float64 serves proofs, not runs.

    `images` are (classes * ipc, c, h, w), class-major, `logits` (classes * ipc, classes) those of
    the labels, `log_rate` the logarithm of the student's step size. Raises CoreError where the
    dataset cannot serve the hyperparameters.
    """

    def __init__(
        self,
        dataset: Dataset,
        hyperparameters: BpttHyperparameters,
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
        self.ipc, self.classes = ipc, dataset.classes
        self.draws = Draws(seed)
        self.material = Material(
            dataset,
            self.draws,
            ipc=ipc,
            holdout=hp.kept_out,
            device=device,
            dtype=dtype,
        )
        self._perturbation = None if hp.perturbed == "none" else Perturbation(hp, self.material)
        network = self.material.network(hp.network, self.draws.network(0))
        network.requires_grad_(False)
        self._layout = Layout.of(network)
        self._loss = cross_entropy(network, self._layout.state)
        self._passes = Passes(network, plan)
        on_cpu, chunk = self.material.device.type == "cpu", self._passes.chunk
        self._group = chunk if on_cpu and chunk is not None else GROUP
        self.images = self.material.start(hp.init)
        # Of a label whose class has `confidence`: the others' logits are zero.
        height = math.log(hp.confidence * (self.classes - 1) / (1 - hp.confidence))
        self.logits = height * F.one_hot(self.material.labels, self.classes).to(self.images)
        self.log_rate = torch.tensor(math.log(hp.lr_student), dtype=torch.float64)
        self._moved = {
            "images": _Adam(self.images),
            "logits": _Adam(self.logits),
            "log_rate": _Adam(self.log_rate),
        }

    @property
    def rate(self) -> float:
        """The student's step size as learned so far."""
        return math.exp(float(self.log_rate))

    @property
    def held_out(self) -> Tensor:
        """Positions of the training images that only judge iterates."""
        return self.material.held_out

    @property
    def circumstances(self) -> dict[str, Any]:
        """What the last digits of a run depend on besides its spec."""
        return {"plan": self._passes.plan.as_dict(), "device": str(self.material.device)}

    def step(self) -> dict[str, float]:
        """One iteration.

        `loss` and `accuracy` are the student's on the real images it is judged on, after `steps`
        steps at `learning_rate`.
        """
        hp, rate, labels = self.hyperparameters, self.rate, self._labels()
        steps = self._steps()
        first, window = steps[: -hp.window], steps[-hp.window :]
        weights = self._fresh()
        for one in first:
            weights = stepped(
                self._loss, one, self.images, labels, weights, rate=rate, group=self._group
            )
        way = train(
            self._loss, window, self.images, labels, rate=rate, start=weights, group=self._group
        )
        scalars, by_end = self._judged(way[-1])
        found = way_back(
            self._loss,
            window,
            way,
            self.images,
            labels,
            rate=rate,
            by_end=by_end,
            group=self._group,
        )
        self._move("images", found.by_images, hp.lr_img)
        if found.by_labels is not None:
            # Through the softmax: p * (g - <p, g>).
            along = (labels * found.by_labels).sum(dim=1, keepdim=True)
            self._move("logits", labels * (found.by_labels - along), hp.lr_labels)
        self._move("log_rate", found.by_rate.cpu() * rate, hp.lr_lr)
        check_finite(
            self.images,
            self.logits,
            self.log_rate,
            after=f"iteration {self.iteration}",
            remedy="Lower lr_student.",
            what="Images, labels or the step size",
            field="hyperparameters.lr_student",
        )
        self.iteration += 1
        passed = sum(map(len, first)) + 2 * sum(map(len, window))
        return {
            **scalars,
            "learning_rate": rate,
            "steps": float(len(steps)),
            "images": passed + scalars["images"],
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "bptt": {"iteration": self.iteration},
            "images": self.images,
            "logits": self.logits,
            "log_rate": self.log_rate,
            **{f"adam {name}": moved.state() for name, moved in self._moved.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration = state["bptt"]["iteration"]
        for name in ("images", "logits", "log_rate"):
            getattr(self, name).copy_(state[name])
            self._moved[name].load(state[f"adam {name}"])

    def synthetic_set(self) -> SyntheticSet:
        """The images with their labels and the step size that students are to start from."""
        hp = self.hyperparameters
        return self.material.set_of(
            self.images,
            augmentation=hp.augmentation,
            method="bptt",
            learning_rate=self.rate,
            soft_labels=self._labels() if hp.labels == "learned" else None,
        )

    # The student.

    def _labels(self) -> Tensor:
        """What the student learns: class numbers, (n,), or probabilities, (n, classes)."""
        if self.hyperparameters.labels == "classes":
            return self.material.labels
        return self.logits.softmax(dim=1)

    def _fresh(self) -> Tensor:
        """Weights of this iteration's student before its first step, (p,)."""
        network = self.material.network(
            self.hyperparameters.network, self.draws.network(self.iteration)
        )
        return self._layout.flat({name: p.detach() for name, p in network.named_parameters()})

    def _steps(self) -> list[Step]:
        """All steps of this iteration's student, at least as many as the window has."""
        hp, total = self.hyperparameters, len(self.images)
        made = []
        for number in range(self.draws.student_steps(self.iteration, hp.window, hp.unroll)):
            order = self.draws.student_order(self.iteration, number, total)
            chosen = order[: hp.batch_syn or total]
            rows = augment.draw(
                self.material.strategy(hp.augmentation),
                len(chosen),
                size=self.material.size,
                generator=self.draws.student_augmentation(self.iteration, number),
                siamese=False,
            )
            made.append(Step(chosen.to(self.material.device), rows))
        return made

    # What is asked of it.

    def _judged(self, weights: Tensor) -> tuple[dict[str, float], Tensor]:
        """How a student does on real images, and the gradient of its mean loss by its weights."""
        hp, m = self.hyperparameters, self.material
        chosen = self.draws.batch(self.iteration, 0, 0, m.training, hp.batch_real)
        x, labels = m.images(chosen), m.labels_of(chosen)
        state, passed = self._layout.state(weights), len(x)
        if self._perturbation is not None:
            made = self.draws.training_noise(self.iteration, 0, 0)
            noise = self._perturbation.noise([len(x)], [made])
            x = self._perturbation(self._passes.bind(state), x, labels, noise)
            passed += len(x) * self._perturbation.budget.steps
        here = weights.detach().requires_grad_()
        loss, by_weights = torch.zeros_like(weights.sum()), torch.zeros_like(weights)
        for some, own in zip(
            torch.split(x, self._group), torch.split(labels, self._group), strict=True
        ):
            part = self._loss(here, some, own) / len(x)
            by_weights += torch.autograd.grad(part, here)[0]
            loss += part.detach()
        right = self._passes.logits(state, x).argmax(dim=1) == labels
        return {
            "loss": float(loss),
            "accuracy": float(right.double().mean()),
            "images": float(passed + len(x)),
        }, by_weights

    # What moves.

    def _move(self, name: str, gradient: Tensor, rate: float) -> None:
        if rate:
            self._moved[name].move(getattr(self, name), gradient, rate)


class _Adam:
    """Adam of one tensor (Kingma and Ba 2015), whose state lies in plain tensors."""

    def __init__(self, like: Tensor) -> None:
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)
        self.steps = 0

    def move(self, value: Tensor, gradient: Tensor, rate: float) -> None:
        """One step, in place."""
        self.steps += 1
        first, second = BETAS
        self.mean.lerp_(gradient.to(self.mean), 1 - first)
        self.square.lerp_(gradient.to(self.square).square(), 1 - second)
        mean = self.mean / (1 - first**self.steps)
        square = self.square / (1 - second**self.steps)
        value.sub_(rate * mean / (square.sqrt() + 1e-8))

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "mean": self.mean, "square": self.square}

    def load(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
