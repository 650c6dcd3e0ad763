"""A pool of semi-trained networks: who is in it, how they learn, how well they do.

Owns the networks' weights, their optimisers and their accuracy meters. Must not know what the
pool is for: methods that match features against a pool differ in their loss, not in this.

Origin: the model queue of IDM (Zhao et al., CVPR 2023); ROME trains it on attacked images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

State = dict[str, Tensor]


class Meter(Protocol):
    """Running top-1 training accuracy of one network, a fraction in [0, 1]."""

    @property
    def accuracy(self) -> float: ...

    def record(self, correct: int, count: int) -> None: ...

    def reset(self) -> None: ...

    def state(self) -> list[float]: ...

    def load(self, state: Sequence[float]) -> None: ...


@dataclass
class MovingAverage:
    """An average that forgets by `decay` a training step, free of the bias of its start.

    Evaluations mean nothing to it: `reset` leaves it alone.
    """

    decay: float
    _sum: float = 0.0
    _weight: float = 0.0

    @property
    def accuracy(self) -> float:
        return self._sum / self._weight if self._weight else 0.0

    def record(self, correct: int, count: int) -> None:
        self._sum = self.decay * self._sum + correct / count
        self._weight = self.decay * self._weight + 1

    def reset(self) -> None:
        return

    def state(self) -> list[float]:
        return [self._sum, self._weight]

    def load(self, state: Sequence[float]) -> None:
        self._sum, self._weight = state


@dataclass
class SinceEvaluation:
    """The mean since the last evaluation, 0 until next trained: the released code."""

    _correct: int = 0
    _count: int = 0

    @property
    def accuracy(self) -> float:
        return self._correct / self._count if self._count else 0.0

    def record(self, correct: int, count: int) -> None:
        self._correct += correct
        self._count += count

    def reset(self) -> None:
        self._correct = self._count = 0

    def state(self) -> list[float]:
        return [self._correct, self._count]

    def load(self, state: Sequence[float]) -> None:
        self._correct, self._count = int(state[0]), int(state[1])


def meter(kind: Literal["ema", "since_evaluation"], decay: float) -> Meter:
    return MovingAverage(decay) if kind == "ema" else SinceEvaluation()


@dataclass
class Member:
    """One network: its weights, its optimiser's momentum, its meter."""

    serial: int  # the how-manieth network of the run it is
    weights: State
    meter: Meter
    velocity: State = field(default_factory=dict)  # of trained parameters only

    def descend(self, gradients: State, *, lr: float, momentum: float, decay: float) -> None:
        """One step of SGD as PyTorch defines it: decay joins the gradient, momentum undamped."""
        for name, gradient in gradients.items():
            weight = self.weights[name]
            pull = gradient.add(weight, alpha=decay)
            if name in self.velocity:
                pull = self.velocity[name].mul_(momentum).add_(pull)
            else:
                self.velocity[name] = pull
            weight.sub_(pull, alpha=lr)


class Pool:
    """Networks in order of age, at most `limit`; the oldest leaves when a fresh one comes.

    Args:
        fresh: gives the member with the named serial, untrained.
        begin: members before the first iteration.
        interval: iterations between two fresh members, the first at iteration 0.
    """

    def __init__(
        self, fresh: Callable[[int], Member], *, begin: int, limit: int, interval: int
    ) -> None:
        self._fresh = fresh
        self._limit, self._interval = limit, interval
        self.members = [fresh(serial) for serial in range(begin)]
        self._next = begin

    def __len__(self) -> int:
        return len(self.members)

    def renew(self, iteration: int) -> None:
        """Let a fresh network in if this iteration is due one."""
        if iteration % self._interval:
            return
        if len(self.members) == self._limit:
            del self.members[0]
        self.members.append(self._fresh(self._next))
        self._next += 1

    def reset_meters(self) -> None:
        for member in self.members:
            member.meter.reset()

    def state_dict(self) -> dict[str, Any]:
        """A value per network besides the roster, so that untouched networks are not rewritten."""
        state: dict[str, Any] = {
            "pool": {"next": self._next, "serials": [m.serial for m in self.members]}
        }
        for member in self.members:
            state[f"pool/{member.serial}"] = {
                "weights": member.weights,
                "velocity": member.velocity,
                "meter": member.meter.state(),
            }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state, whose tensors may lie anywhere and are copied."""
        self._next = state["pool"]["next"]
        self.members = []
        for serial in state["pool"]["serials"]:
            member, stored = self._fresh(serial), state[f"pool/{serial}"]
            for name, value in stored["weights"].items():
                member.weights[name].copy_(value)
            member.velocity = {
                name: torch.empty_like(member.weights[name]).copy_(value)
                for name, value in stored["velocity"].items()
            }
            member.meter.load(stored["meter"])
            self.members.append(member)
