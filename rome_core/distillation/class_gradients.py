"""Gradients by a network's weights, one for each class of a batch.

Owns how they are computed: the classes of a group in one `vmap`, or one after another, whichever is
faster. On a GPU that is always the first. On one core of an EPYC with torch 2.13 and ten classes,
`vmap` took, of the loop's time, 0.45 for ten synthetic images a class at 8 pixels (width 32) and
0.5 for one at 32 pixels, but 1.1 for ten at 32 pixels, 2.0 for ten at width 128, and 3.4 for 64
real ones at 32 pixels.

Gradients are of the mean cross-entropy of a class's images; networks treat every image by itself,
which those with batch normalisation don't.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from rome_core.networks import Network, footprint
from rome_core.passes import Passes

TOGETHER = 1 << 17  # numbers in a class's largest activation up to which `vmap` is the faster

State = dict[str, Tensor]


class ClassGradients:
    """Of networks shaped like `network`, whose own weights are not used.

    Below, `x` holds the images of k classes, class after class, `counts` of each; `labels` are
    theirs. What is returned has a gradient of each class by each weight, (k, ...) in its shape.
    """

    def __init__(self, network: Network, passes: Passes) -> None:
        self._network, self._passes = network, passes
        channels, size = network.channels, network.size
        self._activation = footprint(network.spec, channels=channels, size=size).largest
        # What PyTorch 2.13's `vmap` gives for a layer norm's second derivative is wrong by some
        # percent (github.com/pytorch/functorch/issues/534).
        self._never = network.spec.norm == "layer"

    def parts(self, counts: Sequence[int], device: torch.device) -> Iterator[range]:
        """Positions of the classes to be taken together: all of them, or one after another."""
        small = device.type != "cpu" or counts[0] * self._activation <= TOGETHER
        if small and len(set(counts)) == 1 and not self._never:
            yield range(len(counts))
        else:
            yield from (range(place, place + 1) for place in range(len(counts)))

    def values(
        self, weights: State, x: Tensor, labels: Tensor, counts: Sequence[int]
    ) -> Mapping[str, Tensor]:
        """Without a graph, from any number of images a class."""
        made = []
        for part in self.parts(counts, x.device):
            block = slice(sum(counts[: part.start]), sum(counts[: part.stop]))
            if len(part) > 1:
                made.append(self._vmapped(weights, x[block].detach(), labels[block], len(part)))
            else:
                gradients, _ = self._passes.train_gradient(weights, x[block], labels[block])
                made.append({name: value[None] for name, value in gradients.items()})
        return {name: torch.cat([one[name] for one in made]) for name in made[0]}

    def graph(self, weights: State, x: Tensor, labels: Tensor, k: int) -> Mapping[str, Tensor]:
        """Differentiable by `x`, from equally many images of k classes."""
        return self._vmapped(weights, x, labels, k) if k > 1 else self._alone(weights, x, labels)

    def _vmapped(self, weights: State, x: Tensor, labels: Tensor, k: int) -> State:
        x, labels = x.view(k, -1, *x.shape[1:]), labels.view(k, -1)

        def loss(state: State, own: Tensor, classes: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(self._network, state, (own,)), classes)

        gradients: State = vmap(grad(loss), in_dims=(None, 0, 0))(weights, x, labels)
        return gradients

    def _alone(self, weights: State, x: Tensor, labels: Tensor) -> State:
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        loss = F.cross_entropy(functional_call(self._network, leaves, (x,)), labels)
        gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        return {name: value[None] for name, value in zip(leaves, gradients, strict=True)}
