"""Attacks in pixel space on a network of whitened images, against a module that whitens inside.

The module does nothing but plain operations that autograd goes back through.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rome_core.attacks import Goal, Oracle, adapt, check_domain, gradient
from rome_core.attacks.catalogue import ATTACKS, attack
from rome_core.attacks.gradient import Forward, Model
from rome_core.errors import CoreError
from rome_core.networks import build
from rome_core.passes import Passes, Plan
from rome_core.randomness import ImageDraws, generator
from rome_core.recipes.attacks import (
    ApgdSettings,
    AutoAttackSettings,
    ClampSettings,
    CleanSettings,
    CwSettings,
    DeepFoolSettings,
    FabSettings,
    FgsmSettings,
    MiFgsmSettings,
    PgdSettings,
    Settings,
    SpsaSettings,
    SquareSettings,
    VmiFgsmSettings,
)
from rome_core.space import Normalised, Zca

N, CLASSES = 6, 5
PLAN = Plan(False, 8_192, False, 1, "in chunks of a few images")


def pixels(n: int = N, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=generator(seed, "pixels"), dtype=torch.float64)


def whitening() -> Zca:
    coarse = pixels(60, seed=2).float()[:, :, ::2, ::2]
    return Zca.fit(coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))


def network() -> nn.Module:
    made = build("convnet-d1-w8", channels=3, size=8, classes=CLASSES, generator=generator(3))
    return made.double().eval()


class Whitening(nn.Module):
    """Pixels to logits; the whitening's matrix is written out."""

    def __init__(self, inner: nn.Module, space: Zca) -> None:
        super().__init__()
        self.inner = inner
        vectors, values = space.eigenvectors.double(), space.eigenvalues.double()
        self.mean = space.mean.double()
        self.matrix = sum(
            (value + space.epsilon) ** -0.5 * torch.outer(vector, vector)
            for value, vector in zip(values, vectors.T, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        rows = [(image.flatten() - self.mean) @ self.matrix for image in x]
        return self.inner(torch.stack(rows).view(x.shape))


def models(how: str) -> tuple[Model, nn.Module]:
    """Ours and the plain one."""
    net, space = network(), whitening()
    inner: Model = net if how == "module" else Passes(network(), PLAN).bind(net.state_dict())
    return adapt(inner, "pixel", space).model, Whitening(net, space)


both = pytest.mark.parametrize("how", ["module", "passes"])


@both
def test_every_gradient_is_autograds(how: str) -> None:
    ours, plain = models(how)
    x, y = pixels(), torch.arange(N) % CLASSES
    leaf = x.clone().requires_grad_()
    logits = plain(leaf)
    torch.testing.assert_close(ours(x), logits.detach())
    (expected,) = torch.autograd.grad(
        F.cross_entropy(logits, y, reduction="sum"), leaf, retain_graph=True
    )
    torch.testing.assert_close(gradient.input_gradient(ours, x, y), expected)

    squared = logits.square().sum(dim=1)
    (expected,) = torch.autograd.grad(squared.sum(), leaf, retain_graph=True)
    got = gradient.loss_gradient(ours, x, lambda z, part: z.square().sum(dim=1))
    for one, other in zip(got, (logits, squared, expected), strict=True):
        torch.testing.assert_close(one, other.detach())

    rows = torch.stack([y, (y + 2) % CLASSES], dim=1)
    columns = [
        torch.autograd.grad(logits.gather(1, rows)[:, k].sum(), leaf, retain_graph=True)[0]
        for k in range(2)
    ]
    got_logits, jacobian = gradient.jacobian(ours, x, rows)
    torch.testing.assert_close(got_logits, logits.detach())
    torch.testing.assert_close(jacobian, torch.stack(columns, dim=1))

    def descended(forward: Forward, images: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            start = images.clone().requires_grad_()
            loss = forward(start).amax(dim=1).sum()
            (slope,) = torch.autograd.grad(loss, start)
        return slope, y[part]

    (expected,) = torch.autograd.grad(logits.amax(dim=1).sum(), leaf)
    slope, seen = gradient.explore(ours, x, descended)
    torch.testing.assert_close(slope, expected)
    assert torch.equal(seen, y)


EVERY: list[Settings] = [
    CleanSettings(),
    ClampSettings(),
    FgsmSettings(epsilon="8/255"),
    PgdSettings(steps=4, restarts=2, early_stop=False),
    PgdSettings(norm="l2", epsilon="1/2", step="1/8", steps=4),
    DeepFoolSettings(steps=5),
    CwSettings(steps=12, binary_search_steps=2, epsilon=None),
    ApgdSettings(steps=8),
    ApgdSettings(steps=8, norm="l2", epsilon="1/2", loss="dlr-targeted", target_classes=2),
    FabSettings(steps=4, target_classes=2),
    SquareSettings(queries=20),
    AutoAttackSettings(steps=5, queries=10, epsilon="2/255"),
    SpsaSettings(steps=3, samples=16),
    MiFgsmSettings(steps=3),
    VmiFgsmSettings(steps=3, samples=2),
]


def test_no_attack_is_forgotten() -> None:
    assert {type(settings) for settings in EVERY} == set(ATTACKS)


@both
@pytest.mark.parametrize("settings", EVERY, ids=lambda s: type(s).__name__)
def test_every_attack_is_the_one_on_the_module(settings: Settings, how: str) -> None:
    ours, plain = models(how)
    x = pixels()
    y = plain(x).argmax(dim=1)
    made = []
    for model in (ours, plain):
        draws = ImageDraws(5, "whitened", images=torch.arange(N))
        oracle = Oracle(model, N)
        done = attack(oracle, x, Goal(y), settings, draws)
        made.append((done.images, done.reached, oracle.forwards, oracle.backwards))
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-6)
    moves = not isinstance(settings, CleanSettings | ClampSettings)
    assert moves == (not torch.equal(made[0][0], x))


def test_the_published_domain_knows_no_whitening() -> None:
    space = whitening()
    with pytest.raises(ValueError, match="zca"):
        adapt(network(), "reference", space)
    with pytest.raises(CoreError) as caught:
        check_domain("reference", space, "protocols")
    assert (caught.value.code, caught.value.field) == ("attack_unsuitable", "protocols")
    assert "pixel" in caught.value.remedy
    check_domain("pixel", space, "protocols")
    check_domain("reference", Normalised.of((0.5,) * 3, (0.2,) * 3), "protocols")
