"""VMI-FGSM against an image-by-image loop of its own in float64, and what is known of it."""

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
from rome_core.recipes.attacks import MiFgsmSettings, Settings, VmiFgsmSettings, parse_fraction

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


def draws_of(images: Tensor) -> ImageDraws:
    return ImageDraws(7, "vmi-fgsm", images=images)


def run(
    x: Tensor, goal: Goal, settings: Settings, net=model, images: Tensor | None = None
) -> tuple[Attacked, Oracle]:
    oracle = Oracle(net, len(x))
    draws = draws_of(torch.arange(len(x)) if images is None else images)
    return attack(oracle, x, goal, settings, draws), oracle


def naive_vmi_fgsm(
    x: Tensor, label: int, target: int | None, s: VmiFgsmSettings, number: int
) -> Tensor:
    """One image (c, h, w), one neighbour after another."""
    epsilon, size = float(parse_fraction(s.epsilon)), float(parse_fraction(s.step))
    draws, row = draws_of(torch.tensor([number])), torch.tensor([0])

    def slope(image: Tensor) -> Tensor:
        leaf = image.clone().requires_grad_()
        aim = torch.tensor([label if target is None else target])
        loss = F.cross_entropy(model(leaf[None]), aim)
        return torch.autograd.grad(loss if target is None else -loss, leaf)[0]

    moved, momentum, variance = x, torch.zeros_like(x), torch.zeros_like(x)
    for step in range(s.steps):
        own = slope(moved)
        momentum = s.decay * momentum + (own + variance) / (own + variance).abs().sum()
        around = []
        for sample in range(s.samples):
            unit = draws.uniform(row, x.shape, "neighbour", step, sample)[0].double()
            around.append(slope(moved + s.beta * epsilon * (2 * unit - 1)))
        variance = torch.stack(around).mean(dim=0) - own
        moved = moved + size * momentum.sign()
        moved = torch.minimum(torch.maximum(moved, x - epsilon), x + epsilon).clamp(0, 1)
    return moved


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_vmi_fgsm_is_its_definition(decay: float, targeted: bool, outside: bool):
    """`outside`: on images beyond [0, 1], as normalised ones are."""
    x = pixels(8) * 3 - 1 if outside else pixels(8)
    y, aim = two_best(x)
    settings = VmiFgsmSettings(
        epsilon="16/255", step="5/255", steps=6, decay=decay, samples=3, beta=4
    )
    made, _ = run(x, Goal(y, aim if targeted else None), settings)
    slow = [
        naive_vmi_fgsm(x[i], int(y[i]), int(aim[i]) if targeted else None, settings, i)
        for i in range(len(x))
    ]
    torch.testing.assert_close(made.images, torch.stack(slow), rtol=0, atol=1e-12)
    guesses = model(made.images).argmax(dim=1)
    assert torch.equal(made.reached, guesses == aim if targeted else guesses != y)
    assert 0 < made.reached.sum() < len(x)


@given(
    epsilon=st.integers(0, 255),
    step=st.integers(0, 255),
    steps=st.integers(1, 3),
    beta=st.sampled_from([0.0, 1.5, 100.0]),
    single=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_budget_is_never_exceeded(
    epsilon: int, step: int, steps: int, beta: float, single: bool, seed: int
):
    dtype = torch.float32 if single else torch.float64
    x = torch.rand(3, 3, 4, 4, generator=generator(seed), dtype=dtype).mul(2).sub(0.5).clamp(0, 1)
    settings = VmiFgsmSettings(
        epsilon=f"{epsilon}/255", step=f"{step}/255", steps=steps, samples=2, beta=beta
    )
    made, _ = run(x, Goal(torch.tensor([0, 1, 2])), settings)
    assert made.images.dtype == dtype
    assert (made.images - x).abs().max() <= epsilon / 255 + torch.finfo(dtype).eps
    assert made.images.min() >= 0
    assert made.images.max() <= 1


def test_with_no_neighbourhood_it_is_mi_fgsm():
    x = pixels(8)
    goal = Goal(two_best(x)[0])
    plain, _ = run(x, goal, MiFgsmSettings(epsilon="16/255"))
    made, _ = run(x, goal, VmiFgsmSettings(epsilon="16/255", beta=0, samples=1))
    assert torch.equal(made.images, plain.images)
    tuned, _ = run(x, goal, VmiFgsmSettings(epsilon="16/255", beta=4))
    assert not torch.equal(tuned.images, plain.images)


@pytest.mark.parametrize("targeted", [False, True])
def test_a_linear_model_is_attacked_optimally(targeted: bool):
    """Its gradients have one direction, so no neighbour says anything else."""
    weight = torch.randn(12, generator=generator(3), dtype=torch.float64)
    x = torch.rand(3, 1, 3, 4, generator=generator(4), dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.int64)

    def linear(t: Tensor) -> Tensor:
        score = t.flatten(1) @ weight
        return torch.stack([torch.zeros_like(score), score], dim=1)

    made, _ = run(x, Goal(y, 1 - y if targeted else None), VmiFgsmSettings(), linear)
    optimum = (x + 8 / 255 * weight.sign().view(1, 1, 3, 4)).clamp(0, 1)
    torch.testing.assert_close(made.images, optimum, rtol=0, atol=1e-12)


def test_passes_are_counted_and_every_step_is_made():
    """The last iterate's neighbours would tune no step, so they are not asked about."""
    x = pixels(6)
    y = (two_best(x)[0] + 1) % 5
    made, oracle = run(x, Goal(y), VmiFgsmSettings(steps=7, samples=4))
    assert made.reached.all()
    assert (made.images - x).abs().amax(dim=(1, 2, 3)).min() > 7 / 255
    gradients = 7 + 6 * 4
    assert oracle.backwards.tolist() == [gradients] * 6
    assert oracle.forwards.tolist() == made.queries.tolist() == [gradients + 1] * 6


def test_an_image_is_attacked_alike_in_any_batch():
    x = pixels(8)
    y, _ = two_best(x)
    settings = VmiFgsmSettings(epsilon="16/255", beta=4)
    whole, _ = run(x, Goal(y), settings)
    for part in (torch.randperm(8, generator=generator(5)), torch.arange(4), torch.tensor([5])):
        made, _ = run(x[part], Goal(y[part]), settings, images=part)
        torch.testing.assert_close(made.images, whole.images[part], rtol=0, atol=1e-12)
        assert torch.equal(made.reached, whole.reached[part])
    other, _ = run(x, Goal(y), settings, images=torch.arange(8) + 8)
    assert not torch.allclose(other.images, whole.images, atol=1e-3)
