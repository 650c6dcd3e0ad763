"""MI-FGSM against an image-by-image loop of its own in float64, and what is known of it."""

from collections.abc import Callable
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rome_core.attacks import Goal, Oracle
from rome_core.attacks.catalogue import attack
from rome_core.attacks.outcome import Attacked
from rome_core.randomness import ImageDraws, generator
from rome_core.recipes.attacks import MiFgsmSettings, PgdSettings, Settings, parse_fraction

FIRST = torch.randn(48, 16, generator=generator(0), dtype=torch.float64) / 4
SECOND = torch.randn(16, 5, generator=generator(1), dtype=torch.float64) / 2


def model(x: Tensor) -> Tensor:
    return ((x.flatten(1) - 0.5) @ FIRST.to(x)).tanh() @ SECOND.to(x)


def pixels(n: int) -> Tensor:
    return torch.rand(n, 3, 4, 4, generator=generator(2, n), dtype=torch.float64)


def two_best(x: Tensor) -> tuple[Tensor, Tensor]:
    """The classes of the highest and the second logit: (n,) each."""
    first, second = model(x).topk(2, dim=1).indices.unbind(1)
    return first, second


def run(x: Tensor, goal: Goal, settings: Settings, net=model) -> tuple[Attacked, Oracle]:
    oracle = Oracle(net, len(x))
    draws = ImageDraws(7, "mi-fgsm", images=torch.arange(len(x)))
    return attack(oracle, x, goal, settings, draws), oracle


def naive_mi_fgsm(x: Tensor, label: int, target: int | None, s: MiFgsmSettings) -> Tensor:
    """One image (c, h, w), one step after another."""
    epsilon, step = float(parse_fraction(s.epsilon)), float(parse_fraction(s.step))
    moved, momentum = x, torch.zeros_like(x)
    for _ in range(s.steps):
        leaf = moved.clone().requires_grad_()
        aim = torch.tensor([label if target is None else target])
        loss = F.cross_entropy(model(leaf[None]), aim)
        (gradient,) = torch.autograd.grad(loss if target is None else -loss, leaf)
        momentum = s.decay * momentum + gradient / gradient.abs().sum()
        moved = moved + step * momentum.sign()
        moved = torch.minimum(torch.maximum(moved, x - epsilon), x + epsilon).clamp(0, 1)
    return moved


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_mi_fgsm_is_its_definition(decay: float, targeted: bool, outside: bool):
    """`outside`: on images beyond [0, 1], as normalised ones are."""
    x = pixels(8) * 3 - 1 if outside else pixels(8)
    y, aim = two_best(x)
    settings = MiFgsmSettings(epsilon="16/255", step="5/255", steps=12, decay=decay)
    made, _ = run(x, Goal(y, aim if targeted else None), settings)
    slow = [
        naive_mi_fgsm(x[i], int(y[i]), int(aim[i]) if targeted else None, settings)
        for i in range(len(x))
    ]
    torch.testing.assert_close(made.images, torch.stack(slow), rtol=0, atol=1e-12)
    guesses = model(made.images).argmax(dim=1)
    assert torch.equal(made.reached, guesses == aim if targeted else guesses != y)
    assert 0 < made.reached.sum() < len(x)


@given(
    epsilon=st.integers(0, 255),
    step=st.integers(0, 255),
    steps=st.integers(1, 4),
    single=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_budget_is_never_exceeded(epsilon: int, step: int, steps: int, single: bool, seed: int):
    dtype = torch.float32 if single else torch.float64
    x = torch.rand(3, 3, 4, 4, generator=generator(seed), dtype=dtype).mul(2).sub(0.5).clamp(0, 1)
    settings = MiFgsmSettings(epsilon=f"{epsilon}/255", step=f"{step}/255", steps=steps)
    made, _ = run(x, Goal(torch.tensor([0, 1, 2])), settings)
    assert made.images.dtype == dtype
    assert (made.images - x).abs().max() <= epsilon / 255 + torch.finfo(dtype).eps
    assert made.images.min() >= 0
    assert made.images.max() <= 1


def test_without_memory_it_is_pgd():
    x = pixels(8)
    goal = Goal(two_best(x)[0])
    made, _ = run(x, goal, MiFgsmSettings(decay=0))
    pgd, _ = run(x, goal, PgdSettings(random_start=False, early_stop=False))
    assert torch.equal(made.images, pgd.images)
    momentum, _ = run(x, goal, MiFgsmSettings(decay=1))
    assert not torch.equal(momentum.images, pgd.images)


@pytest.mark.parametrize("targeted", [False, True])
def test_a_linear_model_is_attacked_optimally(targeted: bool):
    weight = torch.randn(12, generator=generator(3), dtype=torch.float64)
    x = torch.rand(3, 1, 3, 4, generator=generator(4), dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.int64)

    def linear(t: Tensor) -> Tensor:
        score = t.flatten(1) @ weight
        return torch.stack([torch.zeros_like(score), score], dim=1)

    made, _ = run(x, Goal(y, 1 - y if targeted else None), MiFgsmSettings(), linear)
    optimum = (x + 8 / 255 * weight.sign().view(1, 1, 3, 4)).clamp(0, 1)
    torch.testing.assert_close(made.images, optimum, rtol=0, atol=1e-12)


def test_every_step_is_made_for_every_image():
    """Also for those that were wrong to begin with: they are crafted to fool other models."""
    x = pixels(6)
    y = (two_best(x)[0] + 1) % 5
    made, oracle = run(x, Goal(y), MiFgsmSettings(steps=7))
    assert made.reached.all()
    assert (made.images - x).abs().amax(dim=(1, 2, 3)).min() > 7 / 255
    assert oracle.forwards.tolist() == made.queries.tolist() == [8] * 6
    assert oracle.backwards.tolist() == [7] * 6


def test_an_image_is_attacked_alike_in_any_batch():
    x = pixels(8)
    y, _ = two_best(x)
    settings = MiFgsmSettings(epsilon="16/255")
    whole, _ = run(x, Goal(y), settings)
    for part in (torch.randperm(8, generator=generator(5)), torch.arange(4), torch.tensor([5])):
        made, _ = run(x[part], Goal(y[part]), settings)
        torch.testing.assert_close(made.images, whole.images[part], rtol=0, atol=1e-12)
        assert torch.equal(made.reached, whole.reached[part])


def test_gradients_of_any_size_weigh_the_same_and_none_at_all_nothing():
    """A confident model's are tiny or zero: neither may weigh less, nor become no number."""
    x = pixels(4)
    goal = Goal(two_best(x)[0])

    def first_scaled(size: float) -> Callable[[Tensor], Tensor]:
        asked = count()
        return lambda t: model(t) * (size if next(asked) == 0 else 1)

    # Logits this small leave the cross-entropy no curvature: gradients differ by their size alone.
    large, _ = run(x, goal, MiFgsmSettings(), first_scaled(1e-6))
    small, _ = run(x, goal, MiFgsmSettings(), first_scaled(1e-20))
    torch.testing.assert_close(small.images, large.images, rtol=0, atol=1e-12)
    none, _ = run(x, goal, MiFgsmSettings(steps=10), first_scaled(0))
    shorter, _ = run(x, goal, MiFgsmSettings(steps=9))
    assert torch.equal(none.images, shorter.images)
