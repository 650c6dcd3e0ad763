"""C&W against loops of its own, with autograd and PyTorch's Adam in float64, and closed forms."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rome_core.attacks import Domain, Goal, Oracle, adapt
from rome_core.attacks.cw import INSIDE, cw
from rome_core.attacks.outcome import Attacked
from rome_core.networks import build
from rome_core.randomness import ImageDraws, generator
from rome_core.recipes.attacks import CwSettings
from rome_core.space import Normalised

SPACE = Normalised.of((0.49, 0.48, 0.44), (0.2, 0.21, 0.22))
N, CLASSES, SIZE = 6, 5, 3 * 8 * 8
MARGINS = ["sound", "published"]

Plain = Callable[[Tensor], Tensor]


def network(seed: int = 0) -> nn.Module:
    made = build("convnet-d1-w8", channels=3, size=8, classes=CLASSES, generator=generator(seed))
    return made.double().eval()


def pixels(n: int = N) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=generator(1), dtype=torch.float64)


def guesses(model: Plain, x: Tensor) -> Tensor:
    """Labels that every image is right about."""
    with torch.no_grad():
        return model(x.clamp(0, 1)).argmax(dim=1)


def run(model: Plain, x: Tensor, goal: Goal, chosen: CwSettings) -> tuple[Attacked, Oracle]:
    oracle = Oracle(model, len(x))
    return cw(oracle, x, goal, chosen, ImageDraws(0, images=torch.arange(len(x)))), oracle


def excess(logits: Tensor, label: int, target: int | None, chosen: CwSettings) -> Tensor:
    """f of one image, from its logits (classes,)."""
    named = label if target is None else target
    others = [z for k, z in enumerate(logits) if k != named]
    own, best = logits[named], torch.stack(others).max()
    if chosen.margin == "published":  # as zeros take the place of what is masked
        own, best = own.clamp(min=0), best.clamp(min=0)
    return (own - best if target is None else best - own).clamp(min=-chosen.kappa)


def start(x: Tensor, chosen: CwSettings) -> tuple[Tensor, Tensor]:
    """Where w starts, and what distances are from: in the published form x, as in torchattacks."""
    if chosen.margin == "published":
        return torch.atanh((2 * x - 1).clamp(-1, 1)), x
    return torch.atanh((2 * x - 1).clamp(-INSIDE, INSIDE)), x.clamp(0, 1)


def reached(logits: Tensor, label: int, target: int | None) -> bool:
    first = int(logits.argmax())
    return first != label if target is None else first == target


class Naive:
    """One image and what was found for it; several of them stop as one where they share a cost."""

    def __init__(self, x: Tensor, label: int, target: int | None, chosen: CwSettings) -> None:
        self.x, self.label, self.target, self.chosen = x, label, target, chosen
        self.best, self.image, self.over = torch.inf, x, False
        self.c, self.low, self.high, self.enough = chosen.c, 0.0, torch.inf, False
        self.begin()

    def begin(self) -> None:
        w, self.origin = start(self.x, self.chosen)
        self.w = w.requires_grad_()
        self.adam = torch.optim.Adam([self.w], lr=self.chosen.learning_rate)
        self.enough = False

    def step(self, model: Plain) -> float:
        image = (self.w.tanh() + 1) / 2
        logits = model(image[None])[0]
        distance = (image - self.origin).square().sum()
        f = excess(logits, self.label, self.target, self.chosen)
        cost = distance + self.c * f
        self.adam.zero_grad()
        cost.backward()
        self.adam.step()
        published = self.chosen.margin == "published"
        self.hit = reached(logits, self.label, self.target)
        if not published and f.item() > -self.chosen.kappa:
            self.hit = False
        self.enough |= self.hit
        if self.hit and distance.item() < self.best:
            self.best, self.image = distance.item(), image.detach()
        elif self.best == torch.inf and not published:
            self.image = image.detach()
        return cost.item()

    def next_c(self) -> None:
        if self.enough:
            self.high = self.c
        else:
            self.low = self.c
        self.c = 10 * self.c if self.high == torch.inf else (self.low + self.high) / 2

    def settle(self, model: Plain) -> tuple[bool, Tensor]:
        centre = self.x.clamp(0, 1)
        if self.chosen.epsilon is None:
            found = self.best < torch.inf
        else:
            epsilon = float(Fraction(self.chosen.epsilon))
            distance = float((self.image - centre).norm())
            found = self.best < torch.inf and distance <= epsilon
            if not found:
                change = (self.image - centre) * min(1, epsilon / max(distance, 1e-12))
                self.image = (centre + change).clamp(0, 1)
        return found or reached(model(self.image[None])[0], self.label, self.target), self.image


def naive(
    model: Plain, x: Tensor, label: int, target: int | None, chosen: CwSettings
) -> tuple[bool, Tensor]:
    one = Naive(x, label, target, chosen)
    for _ in range(chosen.binary_search_steps):
        one.begin()
        lowest, fell_at = torch.inf, 0
        for step in range(chosen.steps):
            cost = one.step(model)
            if step == 0 and one.hit:
                return one.settle(model)
            if cost < lowest:
                lowest, fell_at = cost, step
            if step - fell_at >= max(chosen.steps // 5, 1):
                break
        one.next_c()
    return one.settle(model)


def naive_batch(
    model: Plain, x: Tensor, y: Tensor, aims: Tensor | None, chosen: CwSettings
) -> list[tuple[bool, Tensor]]:
    """All stop when their summed cost has grown."""
    every = [
        Naive(x[i], int(y[i]), None if aims is None else int(aims[i]), chosen)
        for i in range(len(x))
    ]
    for _ in range(chosen.binary_search_steps):
        for one in every:
            one.begin()
        before = torch.inf
        for step in range(chosen.steps):
            cost = sum(one.step(model) for one in every)
            if step % max(chosen.steps // 10, 1) == 0:
                if cost > before:
                    break
                before = cost
        for one in every:
            one.next_c()
    return [one.settle(model) for one in every]


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("domain", list(Domain))
@pytest.mark.parametrize(
    ("c", "kappa", "rounds", "epsilon"), [(0.02, 0.0, 4, None), (1.0, 0.05, 2, "1/5")]
)
def test_cw_is_its_definition(
    domain: Domain,
    targeted: bool,
    margin: Any,
    c: float,
    kappa: float,
    rounds: int,
    epsilon: str | None,
):
    seen = adapt(network(), domain, SPACE)
    x = seen.to_input(pixels(4))
    y = guesses(seen.model, x)
    y[0] = (y[0] + 1) % CLASSES  # one that is wrong to begin with
    aims = (y + 2) % CLASSES if targeted else None
    chosen = CwSettings(
        c=c, kappa=kappa, steps=20, learning_rate=0.05, binary_search_steps=rounds,
        margin=margin, epsilon=epsilon,
    )  # fmt: skip
    made, _ = run(seen.model, x, Goal(y, aims), chosen)
    for i in range(len(x)):
        target = None if aims is None else int(aims[i])
        hit, image = naive(seen.model, x[i], int(y[i]), target, chosen)
        torch.testing.assert_close(made.images[i], image, rtol=0, atol=1e-8)
        assert bool(made.reached[i]) == hit
    assert torch.equal(made.queries >= 0, made.reached)
    if epsilon is None:
        assert made.reached.any()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("domain", list(Domain))
def test_a_batch_that_stops_as_one_is_its_definition(domain: Domain, margin: Any, targeted: bool):
    seen = adapt(network(), domain, SPACE)
    x = seen.to_input(pixels(4))
    y = guesses(seen.model, x)
    y[0] = (y[0] + 1) % CLASSES
    aims = (y + 2) % CLASSES if targeted else None
    chosen = CwSettings(
        c=0.3, steps=40, learning_rate=0.1, binary_search_steps=2, margin=margin, stop="batch",
        epsilon=None,
    )  # fmt: skip
    made, oracle = run(seen.model, x, Goal(y, aims), chosen)
    expected = naive_batch(seen.model, x, y, aims, chosen)
    for i, (hit, image) in enumerate(expected):
        torch.testing.assert_close(made.images[i], image, rtol=0, atol=1e-8)
        assert bool(made.reached[i]) == hit
    assert len(set(oracle.backwards.tolist())) == 1
    assert 2 * 5 <= int(oracle.backwards[0]) < 2 * 40  # it did stop early


def linear(weights: Tensor) -> Plain:
    return lambda t: t.flatten(1) @ weights.T


@pytest.mark.parametrize("targeted", [False, True])
def test_a_linear_model_is_crossed_near_the_optimum(targeted: bool):
    weights = torch.randn(2, SIZE, generator=generator(3), dtype=torch.float64) / 3
    x = pixels() * 0.2 + 0.4
    model = linear(weights)
    y = guesses(model, x)
    goal = Goal(y, 1 - y if targeted else None)
    chosen = CwSettings(steps=200, binary_search_steps=6, epsilon=None)
    made, _ = run(model, x, goal, chosen)
    normal = weights[1] - weights[0]
    optimum = (x.flatten(1) @ normal).abs() / normal.norm()
    distance = (made.images - x).flatten(1).norm(dim=1)
    assert made.reached.all()
    assert (distance >= optimum).all()
    assert (distance <= optimum + 0.003).all()


def test_confidence_is_what_is_asked_for():
    weights = torch.randn(3, SIZE, generator=generator(3)) / 3
    x = pixels().float() * 0.2 + 0.4
    model = linear(weights)
    y = guesses(model, x)
    leads = []
    for kappa in (0.0, 0.7):
        chosen = CwSettings(kappa=kappa, steps=60, learning_rate=0.05, epsilon=None)
        made, _ = run(model, x, Goal(y), chosen)
        assert made.reached.all()
        logits = model(made.images)
        own = logits.gather(1, y[:, None])[:, 0]
        leads.append(logits.amax(dim=1) - own)
    assert (leads[0] > 0).all()
    assert (leads[0] < 0.5).all()
    assert (leads[1] > 0.699).all()


def test_an_image_has_one_outcome_in_whatever_batch():
    net, x = network(), pixels()
    y = guesses(net, x)
    chosen = CwSettings(c=0.1, steps=20, learning_rate=0.05, binary_search_steps=3, epsilon="1/5")
    whole, oracle = run(net, x, Goal(y), chosen)
    for rows in (torch.tensor([5, 2, 0, 1, 3, 4]), torch.arange(2), torch.arange(2, N)):
        part, counted = run(net, x[rows], Goal(y[rows]), chosen)
        torch.testing.assert_close(part.images, whole.images[rows], rtol=0, atol=1e-11)
        assert torch.equal(part.reached, whole.reached[rows])
        assert torch.equal(part.queries, whole.queries[rows])
        assert torch.equal(counted.forwards, oracle.forwards[rows])


def spied(model: Plain) -> tuple[Plain, list[int]]:
    sizes: list[int] = []

    def spy(t: Tensor) -> Tensor:
        sizes.append(len(t))
        return model(t)

    return spy, sizes


def test_finished_images_leave():
    weights = torch.randn(3, SIZE, generator=generator(3), dtype=torch.float64) / 3
    x = pixels()
    model, sizes = spied(linear(weights))
    y = guesses(model, x)
    y[:2] = (y[:2] + 1) % 3
    sizes.clear()
    chosen = CwSettings(steps=40, learning_rate=0.3, binary_search_steps=3, epsilon=None)
    made, oracle = run(model, x, Goal(y), chosen)
    assert sizes[:2] == [N, N - 2]  # two had nowhere to go
    assert made.queries[:2].tolist() == [1, 1]
    torch.testing.assert_close(made.images[:2], x[:2], rtol=0, atol=1e-6)
    assert sum(sizes) == int(oracle.forwards.sum())
    assert torch.equal(oracle.forwards, oracle.backwards)
    assert min(sizes) < N - 2  # some stopped before others
    assert max(sizes[2:]) == N - 2
    assert len(sizes) <= 3 * 40


@pytest.mark.parametrize("margin", MARGINS)
def test_every_step_is_a_pass_there_and_back(margin: Any):
    """A cost that falls to the end, of a model that can't be fooled; the outcome is tried once."""

    def model(t: Tensor) -> Tensor:
        lead = 1 + t.flatten(1).sum(dim=1)
        return torch.stack([lead, 0 * lead], dim=1)

    x = torch.full((2, 3, 8, 8), 0.5, dtype=torch.float64)
    for rounds in (1, 3):
        chosen = CwSettings(steps=10, binary_search_steps=rounds, margin=margin, epsilon=None)
        made, oracle = run(model, x, Goal(torch.zeros(2).long()), chosen)
        assert oracle.forwards.tolist() == [10 * rounds + 1] * 2
        assert oracle.backwards.tolist() == [10 * rounds] * 2
        assert made.queries.tolist() == [-1, -1]
        assert not made.reached.any()
        assert torch.equal(made.images, x) == (margin == "published")


def test_queries_are_those_until_the_first_find_within_epsilon():
    weights = torch.randn(2, SIZE, generator=generator(3), dtype=torch.float64) / 3
    x = pixels() * 0.2 + 0.4
    model = linear(weights)
    y = guesses(model, x)
    chosen = CwSettings(c=3, steps=60, binary_search_steps=1, epsilon=None)
    free, _ = run(model, x, Goal(y), chosen)
    distance = (free.images - x).flatten(1).norm(dim=1)
    epsilon = str(Fraction(float(distance.median()) + 1e-3).limit_denominator(1000))
    tight, _ = run(model, x, Goal(y), chosen.model_copy(update={"epsilon": epsilon}))
    near = distance <= float(Fraction(epsilon))
    assert 0 < near.sum() < N
    assert free.reached.all()
    assert torch.equal(tight.images[near], free.images[near])
    assert tight.reached[near].all()
    assert (tight.queries[near] >= free.queries[near]).all()
    # The others are in the ball, on the way to what was found.
    far = free.images[~near] - x[~near]
    inside = far * (float(Fraction(epsilon)) / distance[~near]).view(-1, 1, 1, 1)
    torch.testing.assert_close(tight.images[~near], x[~near] + inside, rtol=0, atol=1e-12)
    assert torch.equal(tight.reached, model(tight.images).argmax(dim=1) != y)


def test_a_failure_of_the_published_form_leaves_the_image_unclamped():
    seen = adapt(network(5), "reference", SPACE)
    x = seen.to_input(pixels())
    y = guesses(seen.model, x)
    chosen = CwSettings(
        c=1e-6, steps=5, binary_search_steps=1, margin="published", stop="batch", epsilon=None
    )
    made, _ = run(seen.model, x, Goal(y), chosen)
    assert torch.equal(made.images, x)
    assert torch.equal(made.reached, seen.model(x).argmax(dim=1) != y)
    assert 0 < made.reached.sum() < N  # some are right only where clamped


def test_values_at_the_walls_move_in_the_sound_form_alone():
    weights = torch.ones(2, SIZE, dtype=torch.float64)
    weights[1] = -1
    x = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    moved = []
    for margin in ("sound", "published"):
        chosen = CwSettings.model_validate(
            {"c": 10.0, "steps": 150, "learning_rate": 0.1, "margin": margin, "epsilon": None}
        )
        made, _ = run(linear(weights), x, Goal(torch.zeros(1).long()), chosen)
        moved.append(float((made.images - x).abs().max()))
    assert moved[0] > 0.4
    assert moved[1] == 0


@given(
    epsilon=st.integers(0, 60),
    c=st.sampled_from([0.1, 1.0, 100.0]),
    kappa=st.sampled_from([0.0, 0.2]),
    rounds=st.integers(1, 2),
    rate=st.sampled_from([0.01, 0.3]),
    targeted=st.booleans(),
    margin=st.sampled_from(MARGINS),
    stop=st.sampled_from(["image", "batch"]),
    single=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_the_budget_is_never_exceeded(
    epsilon: int,
    c: float,
    kappa: float,
    rounds: int,
    rate: float,
    targeted: bool,
    margin: Any,
    stop: Any,
    single: bool,
    seed: int,
):
    dtype = torch.float32 if single else torch.float64
    net, x = network(seed).to(dtype), pixels(3).to(dtype)
    x[0, :, :4], x[1, :, :4] = 0, 1
    y = guesses(net, x)
    chosen = CwSettings(
        epsilon=f"{epsilon}/100", c=c, kappa=kappa, learning_rate=rate, steps=8,
        binary_search_steps=rounds, margin=margin, stop=stop,
    )  # fmt: skip
    goal = Goal(y, (y + 1) % CLASSES if targeted else None)
    made, _ = run(net, x, goal, chosen)
    assert made.images.dtype == dtype
    distance = (made.images - x).flatten(1).norm(dim=1)
    assert distance.max() <= epsilon / 100 + 20 * torch.finfo(dtype).eps
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    logits = net(made.images).sort(dim=1, descending=True).values
    sure = logits[:, 0] - logits[:, 1] > 1e-4
    hit = goal.reached(net(made.images), torch.arange(3))
    assert torch.equal(made.reached[sure], hit[sure])
