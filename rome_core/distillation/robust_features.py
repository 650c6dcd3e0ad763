"""The method `robust_features`: images that carry a teacher's features, and its labels.

Owns their update. What the teacher is and how it was trained is said by `experts`; an adversarially
trained one has features that small changes of pixels hardly move, and images made of these alone
may teach a student to look at nothing else (Ilyas et al. 2019, section 3.1).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core.data import Dataset
from rome_core.distillation.draws import Draws
from rome_core.distillation.experts import Experts
from rome_core.distillation.material import Material
from rome_core.distillation.sides import Sides
from rome_core.passes import Passes, Plan
from rome_core.recipes.cost import SYNTHETIC_GROUP as GROUP
from rome_core.recipes.robust_features import RobustFeaturesHyperparameters
from rome_core.synthetic import SyntheticSet


class RobustFeatures:
    """One run; the engine calls `step` `iterations` times.

    Images are kept as pixels in [0,1], and every update of one has the same L2 length there. Raises
    CoreError where a class is too small.
    """

    def __init__(
        self,
        dataset: Dataset,
        hyperparameters: RobustFeaturesHyperparameters,
        *,
        ipc: int,
        seed: int,
        device: torch.device | str = "cpu",
        plan: Plan,
        experts: Experts,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.hyperparameters = hp = hyperparameters
        self.iterations = hp.iterations
        self.iteration = 0
        self.draws = Draws(seed)
        self.material = Material(dataset, self.draws, ipc=ipc, device=device, dtype=dtype)
        self._sides = Sides(self.material, None, strategy=hp.augmentation, batch_real=hp.batch_real)
        self._space = dataset.space
        self.teacher = self.material.network(experts.network, self.draws.network(0))
        state = experts.state(0, experts.epochs[-1])
        self.teacher.load_state_dict({name: value.to(dtype) for name, value in state.items()})
        self.teacher.requires_grad_(False).eval()
        self._weights = {name: value.detach() for name, value in self.teacher.state_dict().items()}
        self._passes = Passes(self.teacher, plan)
        self._sources = self._drawn()  # whose features are taken
        self._wanted = (
            self._features(self.material.images(self._sources))
            if hp.objective == "invert"
            else None
        )
        self.pixels = self._start()  # (classes * ipc, c, h, w) in [0, 1], class-major

    @property
    def circumstances(self) -> dict[str, Any]:
        """What the last digits of a run depend on besides its spec."""
        return {"plan": self._passes.plan.as_dict(), "device": str(self.material.device)}

    def step(self) -> dict[str, float]:
        """One update of every image. The loss is a mean over images, or over classes."""
        hp = self.hyperparameters
        self.iteration += 1
        if hp.objective == "none":
            return {"loss": 0.0, "images": 0.0}
        seen = len(self.pixels)
        if hp.objective == "invert":
            gradient, loss = self._inverted()
        else:
            gradient, loss, real = self._matched()
            seen += real
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        self.pixels = (self.pixels - hp.step * gradient / length).clamp(0, 1)
        return {"loss": loss, "images": float(seen)}

    def state_dict(self) -> dict[str, Any]:
        return {"robust features": {"iteration": self.iteration}, "pixels": self.pixels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration = state["robust features"]["iteration"]
        self.pixels = state["pixels"].to(self.pixels)

    def synthetic_set(self) -> SyntheticSet:
        """The images with the teacher's probabilities, if these are asked for."""
        hp = self.hyperparameters
        x = self._space.from_pixels(self.pixels)
        soft = None
        if hp.labels != "hard":
            logits = self._passes.logits(self._weights, x)
            soft = (logits / hp.temperature).softmax(dim=1)
        if soft is not None and hp.labels == "smoothed":
            own = F.one_hot(self.material.labels, self.material.classes).to(soft)
            sure = (soft * own).sum() / len(soft)
            soft = sure * own + (1 - sure) / (self.material.classes - 1) * (1 - own)
        return self.material.set_of(
            x, augmentation=hp.augmentation, method="robust_features", soft_labels=soft
        )

    def _inverted(self) -> tuple[Tensor, float]:
        """Gradient of each image's distance to its own target, in units of that one's length."""
        assert self._wanted is not None
        gradients, total = [], 0.0
        for rows in torch.split(torch.arange(len(self.pixels)), GROUP):
            leaf = self.pixels[rows].requires_grad_()
            wanted = self._wanted[rows]
            off = (self._seen(self._space.from_pixels(leaf)) - wanted).norm(dim=1)
            loss = off / wanted.norm(dim=1).clamp(min=1e-12)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
            gradients.append(gradient)
            total += float(loss.detach().sum())
        return torch.cat(gradients), total / len(self.pixels)

    def _matched(self) -> tuple[Tensor, float, int]:
        """Gradient of the classes' squared distances of means, and how many real images it took."""
        m = self.material
        gradients, total, seen = [], 0.0, 0
        turn = self._sides.draw(self.iteration - 1, 0)
        for some in m.groups([m.ipc] * m.classes, GROUP):
            real = []
            for label in some:
                x = self._sides.real(turn, range(label, label + 1)).x
                real.append(self._features(x).mean(dim=0))
                seen += len(x)
            leaf = self.pixels[some.start * m.ipc : some.stop * m.ipc].requires_grad_()
            x = self._sides.synthetic(turn, some, self._space.from_pixels(leaf)).x
            means = self._seen(x).view(len(some), m.ipc, -1).mean(dim=1)
            loss = (means - torch.stack(real)).square().sum(dim=1)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
            gradients.append(gradient)
            total += float(loss.detach().sum())
        return torch.cat(gradients), total / m.classes, seen

    def _seen(self, x: Tensor) -> Tensor:
        """What the teacher makes of images in its units, with a graph: (n, d)."""
        embedding, logits = self.teacher.embed_and_logits(x)
        return embedding if self.hyperparameters.layer == "features" else logits

    def _features(self, x: Tensor) -> Tensor:
        """The same without a graph."""
        embedding, logits = self._passes.embed_and_logits(self._weights, x)
        return embedding if self.hyperparameters.layer == "features" else logits

    def _drawn(self, *, skip: int = 0) -> Tensor:
        """Positions of ipc real images of each class, class-major, from place `skip` of its order.

        Where a class has too few for that, its order is begun again.
        """
        m = self.material
        found = []
        for label, members in enumerate(m.members):
            made = self.draws.feature_sources(label)
            order = members[torch.randperm(len(members), generator=made)]
            places = (torch.arange(m.ipc) + skip) % len(order)
            found.append(order[places])
        return torch.cat(found)

    def _start(self) -> Tensor:
        m, init = self.material, self.hyperparameters.init
        if init == "class":
            # The same order as the targets', from where they end: an image is not its own target.
            first = self._drawn(skip=m.ipc)
        else:
            made = self.draws.feature_start()
            if init == "noise":
                noise = torch.rand((m.classes * m.ipc, *m.shape), generator=made)
                return noise.to(m.device, m.dtype)
            order = torch.randperm(len(m.training), generator=made)
            first = m.training[order[: m.classes * m.ipc]]
        return self._space.to_pixels(m.images(first)).clamp(0, 1)
