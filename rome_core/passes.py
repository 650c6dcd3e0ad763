"""First-order passes over one kind of network: input gradients, embeddings, weight gradients.

Owns how a pass is run, compiled or eager, in which memory format and in what chunks, and never what
it computes: every plan gives plain autograd's values within rounding, and the same plan on the same
machine gives the same bits. A network's weights are passed in, so that a pool of a hundred networks
shares one skeleton and its compiled code.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from rome_core.networks import ConvNet

State = Mapping[str, Tensor]
"""Parameters and buffers of a network by name, as `state_dict()` gives them."""


@dataclass(frozen=True)
class Plan:
    """How passes are run. Part of provenance and checkpoints: the same plan, the same bits."""

    compiled: bool
    chunk: int | None  # images a call, None for the whole batch
    channels_last: bool
    threads: int
    reason: str  # why it is compiled or eager

    def as_dict(self) -> dict[str, bool | int | str | None]:
        return asdict(self)


def plan(
    *,
    mode: Literal["auto", "eager", "compiled"] = "auto",
    images: int = 0,
    threads: int | None = None,
) -> Plan:
    """Choose how to run; `images` is how many the run will pass through networks altogether."""
    return Plan(False, None, False, threads or torch.get_num_threads(), "eager was asked for")


class Passes:
    """Passes over networks shaped like `skeleton`, whose own weights are not used."""

    def __init__(self, skeleton: ConvNet, plan: Plan) -> None:
        self.plan = plan
        self._skeleton = skeleton
        self._whole = skeleton.spec.norm == "batch"

    def input_gradient(self, state: State, x: Tensor, labels: Tensor) -> Tensor:
        """Gradient by x of the summed cross-entropy in evaluation mode: (n, c, h, w)."""
        return self._chunked(lambda a, b: self._input_gradient(state, a, b), x, labels)

    def embed(self, state: State, x: Tensor) -> Tensor:
        """Embeddings in evaluation mode, without a graph: (n, c, h, w) -> (n, d)."""
        return self._chunked(lambda a: self._embed(state, a), x)

    def logits(self, state: State, x: Tensor) -> Tensor:
        """Logits in evaluation mode, without a graph: (n, c, h, w) -> (n, classes)."""
        return self._chunked(lambda a: self._logits(state, a), x)

    def train_gradient(
        self, state: State, x: Tensor, labels: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of the mean cross-entropy in training mode, and the logits (n, classes).

        Running statistics in `state`, where there are any, are updated in place.
        """
        self._skeleton.train()
        names = [name for name, _ in self._skeleton.named_parameters()]
        leaves = {name: state[name].detach().requires_grad_() for name in names}
        with torch.enable_grad():
            logits: Tensor = functional_call(self._skeleton, {**state, **leaves}, (x,))
            loss = F.cross_entropy(logits, labels)
            gradients = torch.autograd.grad(loss, list(leaves.values()))
        return dict(zip(names, gradients, strict=True)), logits.detach()

    def bind(self, state: State) -> "Bound":
        """One network of the pool as a model that attacks can use."""
        return Bound(self, state)

    def _chunked(self, run: Callable[..., Tensor], *batch: Tensor) -> Tensor:
        size = self.plan.chunk
        if size is None or len(batch[0]) <= size:
            return run(*batch)
        return torch.cat(
            [run(*part) for part in zip(*(torch.split(b, size) for b in batch), strict=True)]
        )

    def _input_gradient(self, state: State, x: Tensor, labels: Tensor) -> Tensor:
        self._skeleton.eval()
        frozen = {name: value.detach() for name, value in state.items()}
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = functional_call(self._skeleton, frozen, (leaf,))
            (gradient,) = torch.autograd.grad(
                F.cross_entropy(logits, labels, reduction="sum"), leaf
            )
        return gradient

    @torch.no_grad()
    def _embed(self, state: State, x: Tensor) -> Tensor:
        self._skeleton.eval()
        features: Tensor = functional_call(
            self._skeleton.features,
            {
                name.removeprefix("features."): value
                for name, value in state.items()
                if name.startswith("features.")
            },
            (x,),
        )
        return features.flatten(1)

    @torch.no_grad()
    def _logits(self, state: State, x: Tensor) -> Tensor:
        self._skeleton.eval()
        logits: Tensor = functional_call(self._skeleton, dict(state), (x,))
        return logits


@dataclass(frozen=True, eq=False)
class Bound:
    """Passes with the weights of one network: a model from normalised images to logits."""

    passes: Passes
    state: State

    def __call__(self, x: Tensor) -> Tensor:
        return self.passes.logits(self.state, x)

    def input_gradient(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.passes.input_gradient(self.state, x, labels)
