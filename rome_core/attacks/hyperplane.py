"""The smallest step from a point of the box [0, 1]^d onto a hyperplane, without leaving the box.

The step is found exactly, for all points at once and, unlike in the FAB paper (Croce and Hein
2020), without sorting. Under Linf and L2 the best step moves every value at a pace of its own, in
the direction that helps, until it is at the wall of the box. How long they move is the root of an
increasing, concave function made of straight pieces: Newton's method comes to it from below, and is
there once a round finds no more values at a wall.
"""

import torch
from torch import Tensor


def step_onto(norm: str, points: Tensor, normals: Tensor, gaps: Tensor) -> Tensor:
    """The smallest d with normal . d = gap and point + d in the box: (m, c, h, w).

    `points` and `normals` are (m, c, h, w), `gaps` (m,). Where the box does not reach the plane the
    step goes as far towards it as it can; where a normal is zero it is zero.
    """
    t, w = points.flatten(1), normals.flatten(1)
    size = w.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    wanted = gaps.abs() / size[:, 0]
    towards = w / size * gaps.sign()[:, None]  # at most 1, so that squares do not underflow
    weight = towards.abs()
    pace = weight.sign() if norm == "linf" else weight
    room = torch.where(towards > 0, 1 - t, t)
    most, speed = weight * room, weight * pace
    stopped = torch.zeros_like(w, dtype=torch.bool)
    while True:
        # Stopped values have gained the most they can, the others gain in proportion to the time.
        lacking = wanted - torch.where(stopped, most, 0).sum(dim=1)
        gain = torch.where(stopped, 0, speed).sum(dim=1)
        time = torch.where(gain > 0, lacking / gain, torch.finfo(w.dtype).max).clamp_min(0)
        moved = pace * time[:, None]
        more = ~stopped & (moved > room)
        if not more.any():
            break
        stopped |= more
    step = towards.sign() * torch.where(stopped, room, moved)
    return step.view_as(points)
