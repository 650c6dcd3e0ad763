"""SPSA against PyTorch's Adam on directions asked about one by one, and what is known of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rome_core.attacks import Goal, Oracle, spsa
from rome_core.attacks.catalogue import attack
from rome_core.attacks.outcome import Attacked
from rome_core.randomness import ImageDraws, generator
from rome_core.recipes.attacks import SpsaSettings, parse_fraction


class Small(nn.Module):
    """Five classes, and the sizes of the batches it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        source = generator(0)
        self.first = torch.randn(48, 16, generator=source, dtype=torch.float64) / 4
        self.second = torch.randn(16, 5, generator=source, dtype=torch.float64) / 4
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return ((x.flatten(1) - 0.5) @ self.first.to(x)).tanh() @ self.second.to(x)


def pixels(n: int) -> Tensor:
    return torch.rand(n, 3, 4, 4, generator=generator(1, n), dtype=torch.float64)


def two_best(x: Tensor) -> tuple[Tensor, Tensor]:
    """The classes of the highest and the second logit: (n,) each."""
    first, second = Small()(x).topk(2, dim=1).indices.unbind(1)
    return first, second


def draws_of(images: Tensor) -> ImageDraws:
    return ImageDraws(7, "spsa", images=images)


def run(
    model: nn.Module, x: Tensor, goal: Goal, settings: SpsaSettings, images: Tensor | None = None
) -> tuple[Attacked, Oracle]:
    oracle = Oracle(model, len(x))
    numbers = torch.arange(len(x)) if images is None else images
    return attack(oracle, x, goal, settings, draws_of(numbers)), oracle


def naive_spsa(
    model: nn.Module, x: Tensor, label: int, target: int | None, s: SpsaSettings, number: int
) -> tuple[Tensor, int]:
    """One image (c, h, w), one direction after another: the image and its queries, or -1."""
    draws, row = draws_of(torch.tensor([number])), torch.tensor([0])
    epsilon, spent = float(parse_fraction(s.epsilon)), 0

    def ask(image: Tensor) -> tuple[float, bool]:
        """The margin that falls as the goal comes near, and whether it is reached."""
        nonlocal spent
        spent += 1
        logits = model(image[None])[0]
        aim = label if target is None else target
        lead = float(logits[aim] - torch.cat([logits[:aim], logits[aim + 1 :]]).max())
        guess = int(logits.argmax())
        return (lead, guess != label) if target is None else (-lead, guess == target)

    change = torch.zeros_like(x)
    adam = torch.optim.Adam([change], lr=s.learning_rate)
    for step in range(s.steps):
        if s.early_stop and ask(x + change)[1]:
            return x + change, spent
        gradient = torch.zeros_like(x)
        for pair in range(s.samples // 2):
            block, place = divmod(pair, 24)
            bits = draws.integers(row, x.shape, 2**24, "directions", step, block * 24)[0]
            v = (bits // 2**place % 2).double() * 2 - 1
            rise = ask(x + change + s.delta * v)[0] - ask(x + change - s.delta * v)[0]
            gradient += rise / (2 * s.delta) * v / (s.samples // 2)
        change.grad = gradient
        adam.step()
        change.copy_((x + change.clamp(-epsilon, epsilon)).clamp(0, 1) - x)
    reached = ask(x + change)[1]
    return x + change, spent if reached else -1


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_spsa_is_its_definition(targeted: bool, early_stop: bool, outside: bool):
    """`outside`: on images beyond [0, 1], as normalised ones are."""
    x = pixels(6) * 2 - 0.5 if outside else pixels(6)
    model, y, aim = Small(), *two_best(x.clamp(0, 1))
    settings = SpsaSettings(epsilon="16/255", steps=5, samples=60, early_stop=early_stop)
    made, _ = run(model, x, Goal(y, aim if targeted else None), settings)
    for i in range(len(x)):
        target = int(aim[i]) if targeted else None
        image, queries = naive_spsa(model, x[i], int(y[i]), target, settings, i)
        torch.testing.assert_close(made.images[i], image, rtol=0, atol=1e-9)
        assert made.queries[i] == queries
        assert made.reached[i] == (queries > 0)
    assert 0 < made.reached.sum() < len(x)


@given(
    epsilon=st.integers(0, 255),
    delta=st.sampled_from([0.001, 0.01, 1.0]),
    rate=st.sampled_from([0.001, 0.1, 1.0]),
    steps=st.integers(1, 4),
    early_stop=st.booleans(),
    single=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_budget_is_never_exceeded(
    epsilon: int,
    delta: float,
    rate: float,
    steps: int,
    early_stop: bool,
    single: bool,
    seed: int,
):
    dtype = torch.float32 if single else torch.float64
    x = torch.rand(3, 3, 4, 4, generator=generator(seed), dtype=dtype).mul(2).sub(0.5).clamp(0, 1)
    settings = SpsaSettings(
        epsilon=f"{epsilon}/255",
        delta=delta,
        learning_rate=rate,
        steps=steps,
        samples=8,
        early_stop=early_stop,
    )
    made, _ = run(Small(), x, Goal(torch.tensor([0, 1, 2])), settings)
    assert made.images.dtype == dtype
    assert (made.images - x).abs().max() <= epsilon / 255 + torch.finfo(dtype).eps
    assert made.images.min() >= 0
    assert made.images.max() <= 1


@pytest.mark.parametrize("targeted", [False, True])
def test_a_linear_model_is_attacked_optimally(targeted: bool):
    """Enough directions tell every sign of its gradient, and then the best corner is near."""
    weight = torch.randn(12, generator=generator(2), dtype=torch.float64).sign()
    x = torch.rand(3, 1, 3, 4, generator=generator(3), dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.int64)

    def model(t: Tensor) -> Tensor:
        score = t.flatten(1) @ weight - 1000
        return torch.stack([torch.zeros_like(score), score], dim=1)

    settings = SpsaSettings(epsilon="8/255", steps=5, samples=1024)
    made, _ = run(model, x, Goal(y, 1 - y if targeted else None), settings)
    optimum = (x + 8 / 255 * weight.sign().view(1, 1, 3, 4)).clamp(0, 1)
    assert not made.reached.any()
    torch.testing.assert_close(made.images, optimum, rtol=0, atol=1e-12)


def test_one_step_is_one_of_the_learning_rate():
    """The published form."""
    x = pixels(5) / 2 + 0.25
    settings = SpsaSettings(steps=1, samples=32, learning_rate=0.02, early_stop=False)
    made, oracle = run(Small(), x, Goal(two_best(x)[0]), settings)
    moved = (made.images - x).abs()
    torch.testing.assert_close(moved, torch.full_like(x, 0.02), rtol=0, atol=1e-6)
    assert oracle.forwards.tolist() == [33] * 5


@pytest.mark.parametrize("at_once", [1, 40, 10**6])
def test_memory_is_bounded_and_how_changes_nothing(monkeypatch, at_once: int):
    x = pixels(6)
    goal = Goal(two_best(x)[0])
    settings = SpsaSettings(epsilon="16/255", steps=5, samples=60)
    whole, _ = run(Small(), x, goal, settings)
    monkeypatch.setattr(spsa, "AT_ONCE", at_once)
    model = Small()
    made, _ = run(model, x, goal, settings)
    torch.testing.assert_close(made.images, whole.images, rtol=0, atol=1e-9)
    assert torch.equal(made.queries, whole.queries)
    most = {1: 2 * 6, 40: 40, 10**6: 2 * 24 * 6}[at_once]  # a block has 24 pairs
    assert max(model.sizes) <= most
    assert max(model.sizes) > most / 2


def test_an_image_is_attacked_alike_in_any_batch():
    model, x = Small(), pixels(8)
    y, _ = two_best(x)
    settings = SpsaSettings(epsilon="16/255", steps=5, samples=16)
    whole, _ = run(model, x, Goal(y), settings)
    order = torch.randperm(8, generator=generator(6))
    for part in (order, torch.arange(4), torch.arange(4, 8), torch.tensor([5])):
        made, _ = run(model, x[part], Goal(y[part]), settings, images=part)
        torch.testing.assert_close(made.images, whole.images[part], rtol=0, atol=1e-9)
        assert torch.equal(made.queries, whole.queries[part])
    assert 0 < whole.reached.sum() < 8
    other, _ = run(model, x, Goal(y), settings, images=torch.arange(8) + 8)
    assert not torch.allclose(other.images, whole.images, atol=1e-3)


@pytest.mark.parametrize("targeted", [False, True])
def test_passes_are_counted_and_finished_images_leave(targeted: bool):
    model, x = Small(), pixels(8)
    y, aim = two_best(x)
    y[0] = (y[0] + 1) % 5  # away from it already
    goal = Goal(y, aim if targeted else None)
    settings = SpsaSettings(epsilon="16/255", steps=5, samples=16)
    made, oracle = run(model, x, goal, settings)
    assert 0 < made.reached.sum() < 8
    guesses = Small()(made.images).argmax(dim=1)
    assert torch.equal(made.reached, guesses == aim if targeted else guesses != y)
    assert targeted or made.queries[0] == 1
    assert (made.queries[made.reached] % 17 == 1).all()
    assert torch.equal(oracle.forwards, torch.where(made.reached, made.queries, 5 * 17 + 1))
    assert sum(model.sizes) == oracle.forwards.sum()
    assert not oracle.backwards.any()


def test_without_early_stop_only_the_last_iterate_counts():
    model, x = Small(), pixels(8)
    y, _ = two_best(x)
    y[0] = (y[0] + 1) % 5
    settings = SpsaSettings(epsilon="16/255", steps=5, samples=16, early_stop=False)
    made, oracle = run(model, x, Goal(y), settings)
    assert oracle.forwards.tolist() == [81] * 8
    assert torch.equal(made.reached, model(made.images).argmax(dim=1) != y)
    assert torch.equal(made.queries, torch.where(made.reached, 81, -1))
    assert not torch.equal(made.images[0], x[0])


def test_no_images_are_no_work():
    made, oracle = run(Small(), pixels(0), Goal(torch.arange(0)), SpsaSettings())
    assert len(made.images) == len(oracle.forwards) == 0
