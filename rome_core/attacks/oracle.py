"""A model under attack: answers, counts every image's passes, and lets the attack be interrupted.

Owns the bookkeeping that makes costs comparable across machines. Passes are counted an image: an
attack that drops finished images pays for the others alone.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rome_core.attacks.goal import Loss
from rome_core.attacks.gradient import Model, Work, explore, jacobian, loss_gradient

Poll = Callable[[], None]
"""Called before every pass; may raise to end the attack."""


def go_on() -> None:
    """Nobody watches."""


class Oracle:
    """The model as one attack on a batch of n images sees it; `rows` names the images asked about.

    `forwards` and `backwards` (n,) are how many passes each image has been part of.
    """

    def __init__(
        self,
        model: Model,
        n: int,
        *,
        device: torch.device | str = "cpu",
        poll: Poll = go_on,
    ) -> None:
        self.model = model
        self.forwards = torch.zeros(n, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(n, dtype=torch.int64, device=device)
        self._poll = poll
        self._whole: tuple[Oracle, Tensor] | None = None  # of a view: what it is a view of

    def view(self, rows: Tensor) -> "Oracle":
        """The same for some of the images: numbered anew, and counted here as well."""
        part = Oracle(self.model, len(rows), device=self.forwards.device, poll=self._poll)
        part.forwards.copy_(self.forwards[rows])
        part.backwards.copy_(self.backwards[rows])
        part._whole = (self, rows)
        return part

    def recall(self, forwards: Tensor, backwards: Tensor) -> None:
        """Take over the passes (n,) that an interrupted attack had counted."""
        rows = torch.arange(len(self.forwards), device=self.forwards.device)
        self._add(rows, forwards - self.forwards, backwards - self.backwards)

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

    def explore(self, x: Tensor, rows: Tensor, work: Work) -> tuple[Tensor, ...]:
        """What `work` makes of one forward pass, but for the last of its results, which says how
        many backward passes each image was part of: (m,) int64.
        """
        self._poll()
        *results, backwards = explore(self.model, x, work)
        self._add(rows, torch.ones_like(rows), backwards)
        return tuple(results)

    def _count(self, rows: Tensor, *, forwards: int, backwards: int = 0) -> None:
        self._add(rows, torch.full_like(rows, forwards), torch.full_like(rows, backwards))

    def _add(self, rows: Tensor, forwards: Tensor, backwards: Tensor) -> None:
        # A row may stand several times, as where one image asks about several samples at once.
        self.forwards.index_add_(0, rows, forwards)
        self.backwards.index_add_(0, rows, backwards)
        if self._whole is not None:
            whole, own = self._whole
            whole._add(own[rows], forwards, backwards)
