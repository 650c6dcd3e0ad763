"""A model under attack: answers, counts every image's passes, and lets the attack be interrupted.

Owns the bookkeeping that makes costs comparable across machines. Passes are counted an image: an
attack that drops finished images pays for the others alone.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rome_core.attacks.goal import Loss
from rome_core.attacks.gradient import Model, jacobian, loss_gradient


def _go_on() -> None:
    """Nobody watches."""


class Oracle:
    """The model as one attack on a batch of n images sees it; `rows` names the images asked about.

    `poll` is called before every pass, and may raise to end the attack.
    """

    def __init__(
        self,
        model: Model,
        n: int,
        *,
        device: torch.device | str = "cpu",
        poll: Callable[[], None] = _go_on,
    ) -> None:
        self.model = model
        self.forwards = torch.zeros(n, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(n, dtype=torch.int64, device=device)
        self._poll = poll

    @torch.no_grad()
    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        """(m, c, h, w) and its rows (m,) to (m, classes)."""
        self._poll()
        self._count(rows, forwards=1)
        return self.model(x)

    def gradient(self, x: Tensor, rows: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (m, classes), losses (m,) and their gradients by x, (m, c, h, w)."""
        self._poll()
        self._count(rows, forwards=1, backwards=1)
        return loss_gradient(self.model, x, lambda logits, part: loss(logits, rows[part]))

    def jacobian(self, x: Tensor, rows: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (m, all classes), and gradients by x of the logits in `classes` (m, k)."""
        self._poll()
        self._count(rows, forwards=1, backwards=classes.shape[1])
        return jacobian(self.model, x, classes)

    def _count(self, rows: Tensor, *, forwards: int, backwards: int = 0) -> None:
        # A row may stand several times, as where one image asks about several samples at once.
        self.forwards.index_add_(0, rows, torch.full_like(rows, forwards))
        if backwards:
            self.backwards.index_add_(0, rows, torch.full_like(rows, backwards))
