"""Square against image-by-image searches of their own in float64, and what is known of it."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rome_core.attacks import Goal, Oracle
from rome_core.attacks.catalogue import attack
from rome_core.attacks.outcome import Attacked
from rome_core.attacks.square import _L2, _Linf, _plan, _Window
from rome_core.randomness import ImageDraws, generator
from rome_core.recipes.attacks import SquareSettings, parse_fraction

BLOCK = 64
Cells = tuple[slice, slice]


def network() -> nn.Module:
    """Small: the naive forms ask it thousands of times."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            source = generator(0)
            self.first = torch.randn(192, 16, generator=source, dtype=torch.float64) / 8
            self.second = torch.randn(16, 5, generator=source, dtype=torch.float64) / 4

        def forward(self, x: Tensor) -> Tensor:
            hidden = ((x.flatten(1) - 0.5) @ self.first.to(x)).tanh()
            return hidden @ self.second.to(x)

    return Small()


def two_best(x: Tensor) -> tuple[Tensor, Tensor]:
    """The classes of the highest and the second logit: (n,) each."""
    first, second = network()(x).topk(2, dim=1).indices.unbind(1)
    return first, second


def pixels(n: int) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=generator(1, n), dtype=torch.float64)


def draws_of(images: Tensor) -> ImageDraws:
    return ImageDraws(7, "square", images=images)


def run(
    model: nn.Module, x: Tensor, goal: Goal, settings: SquareSettings, images: Tensor | None = None
) -> tuple[Attacked, Oracle]:
    oracle = Oracle(model, len(x))
    numbers = torch.arange(len(x)) if images is None else images
    return attack(oracle, x, goal, settings, draws_of(numbers)), oracle


class Spy(nn.Module):
    """A model that remembers what it was asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.clone())
        answer: Tensor = self.model(x)
        return answer


class Linear(nn.Module):
    """Logits (0, w x + b): one class gains what moves along w."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight.to(x) + self.bias
        return torch.stack([torch.zeros_like(score), score], dim=1)


def naive_share(step: int, settings: SquareSettings) -> float:
    it, p_init = step * 10000 // settings.queries, settings.p_init
    if it <= 10:
        return p_init
    if it <= 50:
        return p_init / 2
    if it <= 200:
        return p_init / 4
    if it <= 500:
        return p_init / 8
    if it <= 1000:
        return p_init / 16
    if it <= 2000:
        return p_init / 32
    if it <= 4000:
        return p_init / 64
    if it <= 6000:
        return p_init / 128
    if it <= 8000:
        return p_init / 256
    return p_init / 512


@cache
def naive_eta(side: int) -> Tensor:
    """Upright, by the paper's sums over k, one cell after another."""

    def half(height: int) -> Tensor:
        n = max(height, side) // 2
        made = torch.zeros(height, side, dtype=torch.float64)
        for r in range(height):
            for s in range(side):
                last = n - max(abs(r - height // 2), abs(s - side // 2))
                made[r, s] = sum(1 / (n + 1 - k) ** 2 for k in range(last + 1))
        return made / made.norm() if height else made

    made = torch.cat([half(side // 2), -half(side - side // 2)])
    return made / made.norm()


def naive_score(logits: Tensor, label: int, target: int | None, loss: str) -> tuple[float, bool]:
    """What is climbed, and whether the goal is reached, of one image's logits."""
    aim, sign = (label, 1) if target is None else (target, -1)
    if loss == "ce":
        score = float(F.cross_entropy(logits[None], torch.tensor([aim])))
    else:
        others = [float(z) for i, z in enumerate(logits) if i != aim]
        score = max(others) - float(logits[aim])
    guess = int(logits.argmax())
    return sign * score, guess != label if target is None else guess == target


class Naive:
    """The draws of one image, read one after another, and the moves they make of it."""

    def __init__(self, settings: SquareSettings, x: Tensor, number: int) -> None:
        self.settings, self.x = settings, x
        self.epsilon = float(parse_fraction(settings.epsilon))
        self.l2 = settings.norm == "l2"
        self.draws = draws_of(torch.tensor([number]))
        self.row = torch.tensor([0])

    def start(self, restart: int) -> Tensor:
        c, h, w = self.x.shape
        if not self.l2:
            stripes = self.draws.signs(self.row, (c, 1, w), "stripes", restart)[0].double()
            return (self.x + self.epsilon * stripes).clamp(0, 1)
        side = min(h, w) // 5
        tiles = (c, h // side, 1, w // side, 1)
        signs = self.draws.signs(self.row, tiles, "tiles", restart)[0]
        lying = self.draws.signs(self.row, (1, *tiles[1:]), "turns", restart)[0] > 0
        change = torch.zeros_like(self.x)
        for i in range(h // side):
            for j in range(w // side):
                r, t = (
                    (h - h // side * side) // 2 + i * side,
                    (w - w // side * side) // 2 + j * side,
                )
                for k in range(c):
                    eta = naive_eta(side).T if lying[0, i, 0, j, 0] else naive_eta(side)
                    change[k, r : r + side, t : t + side] = signs[k, i, 0, j, 0] * eta
        return (self.x + change / change.norm() * self.epsilon).clamp(0, 1)

    def step(self, best: Tensor, restart: int, query: int) -> Tensor:
        c, h, w = self.x.shape
        block, place = divmod(query, BLOCK)
        places, signs = (drawn[place] for drawn in self._drawn(restart, block))
        side = round(math.sqrt(naive_share(query - 1, self.settings) * h * w))
        if self.l2:
            side = max(side, 3)
            side = side + 1 if side % 2 == 0 else side
        side = min(max(side, 1), h, w)
        windows = []
        for down, across in places.tolist():
            r, t = down * (h - side + 1) // 2**24, across * (w - side + 1) // 2**24
            windows.append((slice(r, r + side), slice(t, t + side)))
        if self.l2:
            return self._move_l2(best, *windows, naive_eta(side), signs)
        trial = best.clone()
        for k in range(c):
            own = self.x[k][windows[0]] + self.epsilon * signs[k]
            trial[k][windows[0]] = own.clamp(0, 1)
        return trial

    @cache  # noqa: B019  # it ends with the test
    def _drawn(self, restart: int, block: int) -> tuple[Tensor, Tensor]:
        count, c = min(BLOCK, self.settings.queries - block * BLOCK), len(self.x)
        windows = (count, 2 if self.l2 else 1, 2)
        places = self.draws.integers(self.row, windows, 2**24, "places", restart, block)
        signs = (count, c + 1 if self.l2 else c)
        return places[0], self.draws.signs(self.row, signs, "signs", restart, block)[0].double()

    def _move_l2(
        self, best: Tensor, one: Cells, other: Cells, eta: Tensor, signs: Tensor
    ) -> Tensor:
        change = best - self.x
        c = len(change)
        unused = self.epsilon**2 - float(change.square().sum())
        unused = unused if unused > 1e-6 * self.epsilon**2 else 0
        union = torch.zeros(change.shape[1:], dtype=torch.bool)
        union[one] = union[other] = True
        eta = eta.T if signs[c] > 0 else eta
        made = change.clone()
        for k in range(c):
            old = change[k][one]
            new = signs[k] * eta + (old / old.norm() if old.any() else 0)
            room = math.sqrt(float(change[k][union].square().sum()) + unused / c)
            made[k][other] = 0
            made[k][one] = new / new.norm() * room if new.norm() > 1e-3 else 0
        return (self.x + made / made.norm() * self.epsilon).clamp(0, 1)


def naive_square(
    model: nn.Module, x: Tensor, label: int, target: int | None, s: SquareSettings, number: int
) -> tuple[Tensor, int]:
    """One image (c, h, w), one query after another: its best image and its queries, or -1."""
    moves = Naive(s, x, number)
    answer, overall, spent = x, -math.inf, 0
    for restart in range(s.restarts):
        best, highest = x, -math.inf
        for query in range(s.queries):
            trial = moves.step(best, restart, query) if query else moves.start(restart)
            spent += 1
            with torch.no_grad():
                score, reached = naive_score(model(trial[None])[0], label, target, s.loss)
            if reached:
                return trial, spent
            if score > highest:
                best, highest = trial, score
        if highest > overall:
            answer, overall = best, highest
    return answer, -1


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ["margin", "ce"])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", "20/255"), ("l2", "1")])
def test_square_is_its_definition(
    norm: str, epsilon: str, loss: str, targeted: bool, outside: bool
):
    """`outside`: on images beyond [0, 1], as normalised ones are."""
    x = pixels(5) * 3 - 1 if outside else pixels(5)
    model, y, aim = network(), *two_best(x.clamp(0, 1))
    settings = SquareSettings(norm=norm, epsilon=epsilon, queries=66, restarts=2, loss=loss)
    made, _ = run(model, x, Goal(y, aim if targeted else None), settings)
    for i in range(len(x)):
        target = int(aim[i]) if targeted else None
        image, queries = naive_square(model, x[i], int(y[i]), target, settings, i)
        torch.testing.assert_close(made.images[i], image, rtol=0, atol=1e-9)
        assert made.queries[i] == queries
        assert made.reached[i] == (queries > 0)
    assert outside or 0 < made.reached.sum() < len(x)


@pytest.mark.parametrize("queries", [1, 700, 10_000])
def test_windows_shrink_on_the_schedule_stretched_to_the_queries(queries: int):
    settings, x = SquareSettings(queries=queries), torch.zeros(1, 1, 64, 80)
    plan = _plan(_Linf(0.1), settings, x)
    shares = [naive_share(max(query - 1, 0), settings) for query in range(queries)]
    assert [window.side for window in plan] == [
        max(round(math.sqrt(share * 64 * 80)), 1) for share in shares
    ]


@given(
    norm=st.sampled_from(["linf", "l2"]),
    epsilon=st.integers(0, 255),
    queries=st.integers(1, 12),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    p_init=st.sampled_from([1.0, 0.8, 0.01]),
    targeted=st.booleans(),
    single=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_budget_is_never_exceeded(
    norm: str,
    epsilon: int,
    queries: int,
    shape: tuple[int, int, int],
    p_init: float,
    targeted: bool,
    single: bool,
    seed: int,
):
    dtype = torch.float32 if single else torch.float64
    x = torch.rand(3, *shape, generator=generator(seed), dtype=dtype).mul(1.5).sub(0.25).clamp(0, 1)
    weight = torch.randn(x[0].numel(), generator=generator(seed, 1), dtype=dtype)
    text, y = f"{epsilon}/255", torch.tensor([0, 1, 1])
    settings = SquareSettings(norm=norm, epsilon=text, queries=queries, p_init=p_init, restarts=2)
    spy = Spy(Linear(weight, 0.5))
    made, _ = run(spy, x, Goal(y, 1 - y if targeted else None), settings)
    assert made.images.dtype == dtype
    for tried in (made.images, *(asked for asked in spy.asked if len(asked) == 3)):
        change = (tried - x).flatten(1)
        size = change.abs().amax() if norm == "linf" else change.norm(dim=1).amax()
        assert size <= epsilon / 255 + 8 * torch.finfo(dtype).eps
        assert tried.min() >= 0
        assert tried.max() <= 1


def test_linf_finds_the_corner_of_a_linear_model():
    """Windows of one cell, at every place, put each value on its side."""
    weight = torch.randn(30, generator=generator(2), dtype=torch.float64)
    x = torch.rand(3, 1, 5, 6, generator=generator(3), dtype=torch.float64)
    optimum = (x + 8 / 255 * weight.sign().view(1, 1, 5, 6)).clamp(0, 1)
    settings = SquareSettings(epsilon="8/255", queries=700)
    made, _ = run(Linear(weight, -1000), x, Goal(torch.zeros(3, dtype=torch.int64)), settings)
    assert not made.reached.any()
    torch.testing.assert_close(made.images, optimum, rtol=0, atol=1e-12)


def test_l2_comes_near_the_best_direction_of_a_linear_model():
    """It can't pass epsilon |w|, the gain along w, and a window can't take just any shape."""
    weight = torch.randn(64, generator=generator(4), dtype=torch.float64)
    x = torch.rand(3, 1, 8, 8, generator=generator(5), dtype=torch.float64) / 2 + 0.25
    settings = SquareSettings(norm="l2", epsilon="1/4", queries=700)
    made, _ = run(Linear(weight, -1000), x, Goal(torch.zeros(3, dtype=torch.int64)), settings)
    gain = (made.images - x).flatten(1) @ weight / (0.25 * weight.norm())
    assert gain.min() > 0.6
    assert gain.max() <= 1


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", "20/255"), ("l2", "1")])
def test_an_image_is_attacked_alike_in_any_batch(norm: str, epsilon: str):
    model, x = network(), pixels(8)
    y, _ = two_best(x)
    settings = SquareSettings(norm=norm, epsilon=epsilon, queries=66, restarts=2)
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
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_passes_are_counted_and_finished_images_leave(norm: str, targeted: bool):
    spy, x = Spy(network()), pixels(8)
    y, aim = two_best(x)
    goal = Goal(y, aim if targeted else None)
    settings = SquareSettings(
        norm=norm, epsilon="20/255" if norm == "linf" else "1", queries=40, restarts=3
    )
    made, oracle = run(spy, x, goal, settings)
    assert 0 < made.reached.sum() < 8
    guesses = network()(made.images).argmax(dim=1)
    assert torch.equal(made.reached, guesses == aim if targeted else guesses != y)
    spent = torch.where(made.reached, made.queries, 3 * 40)
    assert torch.equal(oracle.forwards, spent)
    assert not oracle.backwards.any()
    alive = [int((spent >= query).sum()) for query in range(1, 121)]
    assert [len(asked) for asked in spy.asked] == alive


@pytest.mark.parametrize("loss", ["margin", "ce"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_failure_keeps_the_best_of_all_tries(norm: str, loss: str):
    x = pixels(1)
    goal, winners = Goal(two_best(x)[0]), set()
    settings = SquareSettings(norm=norm, epsilon="4/255", queries=12, restarts=3, loss=loss)
    for number in range(5):
        spy = Spy(network())
        made, _ = run(spy, x, goal, settings, images=torch.tensor([number]))
        tried = torch.cat(spy.asked)
        assert len(tried) == 36
        losses = goal.loss(loss)(network()(tried), torch.zeros(36, dtype=torch.int64))
        assert made.queries.tolist() == [-1]
        assert torch.equal(made.images[0], tried[losses.argmax()])
        winners.add(int(losses.argmax()) // 12)
    assert len(winners) > 1, "else one restart would do"


def test_a_window_that_held_the_opposite_is_left_empty():
    """Scaled to the budget, the rounding errors it leaves would be noise of any size."""
    x = torch.rand(1, 1, 9, 9, generator=generator(8)) / 2 + 0.25
    best = x.clone()
    best[0, 0, :3, :3] += 0.1 * naive_eta(3).float()
    best[0, 0, 8, 8] += 0.1
    window = _Window.of(3, x)
    opposite, upright = -1, -1
    signs, firsts = torch.tensor([[opposite, upright]]), torch.tensor([[0, 40]])
    made = _L2(0.2).step(best, x, window, firsts, signs)
    assert torch.equal(made[0, 0, :3, :3], x[0, 0, :3, :3])
    assert made[0, 0, 8, 8] - x[0, 0, 8, 8] == pytest.approx(0.2)


def test_no_images_are_no_work():
    made, oracle = run(network(), pixels(0), Goal(torch.arange(0)), SquareSettings())
    assert len(made.images) == len(oracle.forwards) == 0
