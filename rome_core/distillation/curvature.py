"""The curvature of a loss at images: by how much its gradient turns over a step along itself.

Owns the one formula of CURE (Moosavi-Dezfooli et al., CVPR 2019) as GUARD uses it in distillation
(Xue et al., AAAI 2025), and its gradients by images and by a network's weights. Whose curvature is
taken, and what it weighs, is the method's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from rome_core.recipes.cost import CURVATURE_GROUP as GROUP
from rome_core.recipes.hyperparameters import CurvingImages


def curvature(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: Tensor,
    step: float,
    *,
    create_graph: bool,
) -> Tensor:
    """|g(x + z) - g(x)| of each image, with g the gradient of its cross-entropy: (n,), at least 0.

    z = step * g(x) / |g(x)| is a constant: nothing is differentiated through it. An image whose
    gradient is zero has no such direction, and curvature 0. All norms are Euclidean, over an image.

    Args:
        forward: images (n, c, h, w) to logits (n, classes), each image by itself. A network whose
            batch statistics run updates them twice.
        x: images as networks take them. Where it is part of a graph, so is the result.
        labels: class numbers, (n,).
        step: length of z, in the units of `x`.
        create_graph: whether the result is to be differentiated, by `x` or by the weights that
            `forward` uses. False saves the memory of it.

    It stands within `torch.func` transforms as well, such as a `vmap` over networks.
    """

    def loss(images: Tensor) -> Tensor:
        return F.cross_entropy(forward(images), labels, reduction="sum")

    with torch.set_grad_enabled(create_graph):
        gradient = torch.func.grad(loss)
        here = gradient(x)
        along = F.normalize(here.detach().flatten(1), dim=1, eps=torch.finfo(x.dtype).tiny)
        there = gradient(x + step * along.view(x.shape))
        found: Tensor = torch.linalg.vector_norm((there - here).flatten(1), dim=1)
        return found


def curvature_by_images(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: Tensor,
    step: float,
    *,
    group: int | None = None,
    share: int = 1,
) -> tuple[Tensor, Tensor]:
    """The curvature of each image, (n,), and its gradient by that image, (n, c, h, w).

    As `curvature` has it, group by group, so that few images' graphs are ever held. Neither is part
    of a graph. `share` is what gradients are divided by: n makes them those of the mean.
    """
    group = group or GROUP
    bends, slopes = [], []
    for some, own in zip(torch.split(x.detach(), group), torch.split(labels, group), strict=True):
        leaf = some.requires_grad_()
        bend = curvature(forward, leaf, own, step, create_graph=True)
        (slope,) = torch.autograd.grad(bend.sum() / share, leaf)
        bends.append(bend.detach())
        slopes.append(slope)
    return torch.cat(bends), torch.cat(slopes)


def curvature_by_classes(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: Tensor,
    k: int,
    settings: CurvingImages,
) -> tuple[Tensor, Tensor]:
    """The mean curvature of each of k classes' images, (k,), and what pulls the images to less, ().

    The latter is to be added to the classes' summed losses: its gradient, by whatever `x` was made
    from, is that of the weight in `settings` times the summed means, and what it comes to is
    nobody's loss. `x` (n, c, h, w) holds equally many images of each class, one after the other.
    """
    bend, slope = curvature_by_images(forward, x, labels, settings.curvature_step)
    pull = settings.curvature_of_images / (len(x) // k) * (x * slope).sum()
    return bend.view(k, -1).mean(dim=1), pull


def curvature_gradient(
    network: nn.Module, state: Mapping[str, Tensor], x: Tensor, labels: Tensor, step: float
) -> dict[str, Tensor]:
    """Gradient of the mean curvature of some images, (n, c, h, w), by the weights in `state`.

    `network` gives the shape alone: its own weights are neither used nor changed.
    """
    names = [name for name, _ in network.named_parameters()]
    leaves = {name: state[name].detach().requires_grad_() for name in names}

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = functional_call(network, {**state, **leaves}, (images,))
        return logits

    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for some, own in zip(torch.split(x, GROUP), torch.split(labels, GROUP), strict=True):
        bend = curvature(forward, some, own, step, create_graph=True).sum() / len(x)
        gradients = torch.autograd.grad(bend, list(leaves.values()), materialize_grads=True)
        for name, gradient in zip(names, gradients, strict=True):
            total[name] += gradient
    return total
