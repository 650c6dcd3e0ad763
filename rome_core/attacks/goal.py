"""What an attack is after, and the losses it climbs to get there.

A loss maps logits (m, classes) to one number an image, (m,), and every attack increases it, whether
it flees a label or seeks a target.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core.errors import CoreError

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (m, classes), rows (m,)) to losses (m,): `rows` says which images of the batch."""


@dataclass(frozen=True, eq=False)
class Goal:
    """Away from `labels` (n,) or, where there are `targets` (n,), towards those."""

    labels: Tensor
    targets: Tensor | None = None

    def take(self, rows: Tensor) -> "Goal":
        """The goal of some of the images, numbered anew."""
        return Goal(self.labels[rows], None if self.targets is None else self.targets[rows])

    def reached(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Which images an attack is done with: (m,) bool."""
        guesses = logits.argmax(dim=1)
        if self.targets is None:
            return guesses != self.labels[rows]
        return guesses == self.targets[rows]

    def loss(self, name: str) -> Loss:
        """One of LOSSES, increasing towards the goal.

        Towards a target `dlr` is `dlr_targeted`: that of the target alone, made negative, would be
        constant, and without a gradient, wherever the target is third.
        """
        score = LOSSES[name]

        def climbed(logits: Tensor, rows: Tensor) -> Tensor:
            if self.targets is None:
                return score(logits, self.labels[rows])
            if score is dlr:
                return dlr_targeted(logits, self.labels[rows], self.targets[rows])
            return -score(logits, self.targets[rows])

        return climbed


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(m, classes), (m,) to (m,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The best other class's logit less the label's: positive where the label loses."""
    return _best_other(logits, labels) - _own(logits, labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, invariant to shift and scale (Croce and Hein 2020, eq. 6).

    -(z_y - max_{i != y} z_i) / (z_1st - z_3rd), the denominator the first and third largest logit.
    Raises CoreError with two classes: with the second in place of the third it is constant.
    """
    _need_classes(3, logits)
    ordered = logits.sort(dim=1, descending=True).values
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def dlr_targeted(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2) (Croce and Hein 2020, eq. 7).

    Raises CoreError with fewer than four classes, where it is not defined.
    """
    _need_classes(4, logits)
    ordered = logits.sort(dim=1, descending=True).values
    scale = ordered[:, 0] - 0.5 * (ordered[:, 2] + ordered[:, 3]) + 1e-12
    return (_own(logits, targets) - _own(logits, labels)) / scale


def rivals(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The `count` likeliest wrong classes, at most all of them, the likeliest first: (m, count)."""
    ordered = _others(logits, labels).argsort(dim=1, descending=True, stable=True)
    return ordered[:, : min(count, logits.shape[1] - 1)]


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "dlr": dlr,
    "margin": margin,
}


def _need_classes(needed: int, logits: Tensor) -> None:
    if logits.shape[1] < needed:
        raise CoreError(
            "attack_unsuitable",
            f"The DLR loss means nothing with fewer than {needed} classes here, and there are "
            f"{logits.shape[1]}.",
            "Set it to margin.",
            field="loss",
        )


def _own(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]


def _best_other(logits: Tensor, labels: Tensor) -> Tensor:
    return _others(logits, labels).amax(dim=1)


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits with the label's out of the way."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf)
