"""DeepFool against a loop of its own, image by image in float64, and against closed forms."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rome_core.attacks import Domain, Goal, Oracle, adapt
from rome_core.attacks.deepfool import BEYOND, REACH, deepfool
from rome_core.attacks.outcome import Attacked
from rome_core.networks import build
from rome_core.passes import Passes, Plan
from rome_core.randomness import ImageDraws, generator
from rome_core.recipes.attacks import DeepFoolSettings
from rome_core.space import Normalised

SPACE = Normalised.of((0.49, 0.48, 0.44), (0.2, 0.21, 0.22))
N, CLASSES, SIZE = 8, 6, 3 * 8 * 8
FORMS = ["total", "step"]

Plain = Callable[[Tensor], Tensor]


def network(seed: int = 0) -> nn.Module:
    made = build("convnet-d1-w8", channels=3, size=8, classes=CLASSES, generator=generator(seed))
    return made.double().eval()


def pixels(n: int = N) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=generator(1), dtype=torch.float64)


def guesses(model: Plain, x: Tensor) -> Tensor:
    """Labels that every image is right about."""
    with torch.no_grad():
        return model(x).argmax(dim=1)


def run(model: Plain, x: Tensor, goal: Goal, chosen: DeepFoolSettings) -> tuple[Attacked, Oracle]:
    oracle = Oracle(model, len(x))
    return deepfool(oracle, x, goal, chosen, ImageDraws(0, images=torch.arange(len(x)))), oracle


def linear(weights: Tensor, biases: Tensor | None = None) -> Plain:
    return lambda t: t.flatten(1) @ weights.T + (0 if biases is None else biases)


def naive(
    model: Plain, x: Tensor, label: int, target: int | None, chosen: DeepFoolSettings
) -> tuple[bool, Tensor, float]:
    """One image: whether the goal was reached, the image, and how clearly it was decided."""
    by_step, centre = chosen.overshoot_on == "step", x.clamp(0, 1)

    def look(image: Tensor) -> tuple[list[float], list[Tensor]]:
        leaf = image[None].clone().requires_grad_()
        logits = model(leaf)[0]
        every = [torch.autograd.grad(z, leaf, retain_graph=True)[0][0] for z in logits]
        return logits.tolist(), every

    def reached(logits: list[float]) -> bool:
        first = logits.index(max(logits))
        return first != label if target is None else first == target

    image, total = x if by_step else centre, torch.zeros_like(x)
    logits, _ = look(image)
    if reached(logits):
        return True, image, torch.inf
    nearest = sorted(range(CLASSES), key=lambda k: -logits[k])
    rivals = [k for k in nearest[: chosen.classes or CLASSES] if k != label]
    hit = False
    for _ in range(chosen.steps):
        logits, slopes = look(image)
        hit = reached(logits)
        if hit:
            break
        if target is None:
            planes = [(logits[k] - logits[label], slopes[k] - slopes[label]) for k in rivals]
        else:
            first = logits.index(max(logits))
            planes = [(logits[target] - logits[first], slopes[target] - slopes[first])]
        gap, normal = min(planes, key=lambda plane: abs(plane[0]) / float(plane[1].norm()))
        unit = normal / normal.norm()
        if by_step:
            step = abs(gap) / normal.norm() * unit
            image = (image + (1 + chosen.overshoot) * step).clamp(0, 1)
        else:
            total = total + (abs(gap) / normal.norm() + BEYOND) * unit
            image = (x + (1 + chosen.overshoot) * total).clamp(0, 1)
    epsilon = torch.inf if chosen.epsilon is None else float(Fraction(chosen.epsilon))
    distance = float((image - centre).norm())
    if not hit or distance > epsilon:
        image = centre + (image - centre) * min(1, epsilon / distance)
        logits, _ = look(image)
        hit = reached(logits)
    first, second = sorted(logits, reverse=True)[:2]
    return hit, image, first - second


@pytest.mark.parametrize("epsilon", [None, "1/10"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("domain", list(Domain))
def test_deepfool_is_its_definition(domain: Domain, form: Any, targeted: bool, epsilon: str | None):
    seen = adapt(network(), domain, SPACE)
    x = seen.to_input(pixels())
    y = guesses(seen.model, x)
    y[0] = (y[0] + 1) % CLASSES  # one that is wrong to begin with
    aims = (y + 2) % CLASSES if targeted else None
    # On its last steps the form of each step comes to the boundary itself, as far as rounding goes.
    steps = 3 if form == "step" else 8
    chosen = DeepFoolSettings(overshoot_on=form, epsilon=epsilon, steps=steps, classes=None)
    made, _ = run(seen.model, x, Goal(y, aims), chosen)
    sure = 0
    for i in range(N):
        target = None if aims is None else int(aims[i])
        hit, image, lead = naive(seen.model, x[i], int(y[i]), target, chosen)
        torch.testing.assert_close(made.images[i], image, rtol=0, atol=1e-9)
        if lead > 1e-7:
            sure += 1
            assert bool(made.reached[i]) == hit
    assert sure > N // 2
    assert made.reached.any() or targeted
    assert torch.equal(made.queries >= 0, made.reached)


@pytest.mark.parametrize("form", FORMS)
def test_fewer_classes_are_those_with_the_largest_logits(form: Any):
    net, x = network(), pixels()
    y = guesses(net, x)
    differ = 0
    for classes in (2, 3, CLASSES):
        chosen = DeepFoolSettings(overshoot_on=form, epsilon=None, steps=2, classes=classes)
        made, _ = run(net, x, Goal(y), chosen)
        for i in range(N):
            _, image, _ = naive(net, x[i], int(y[i]), None, chosen)
            torch.testing.assert_close(made.images[i], image, rtol=0, atol=1e-9)
        every = DeepFoolSettings(overshoot_on=form, epsilon=None, steps=2, classes=None)
        differ += int((run(net, x, Goal(y), every)[0].images != made.images).any())
    assert differ >= 1


@pytest.mark.parametrize("form", FORMS)
def test_a_linear_model_is_crossed_where_it_is_nearest(form: Any):
    """One step: along the normal of the nearest plane, and the overshoot farther."""
    weights = torch.randn(CLASSES, SIZE, generator=generator(3), dtype=torch.float64)
    x = pixels() * 0.2 + 0.4  # no step reaches the walls of [0, 1]
    model = linear(weights)
    y = guesses(model, x)
    made, oracle = run(model, x, Goal(y), DeepFoolSettings(overshoot_on=form, epsilon=None))
    logits = model(x)
    for i in range(N):
        label = int(y[i])
        distance, k = min(
            (float((logits[i, label] - logits[i, k]) / (weights[label] - weights[k]).norm()), k)
            for k in range(CLASSES)
            if k != label
        )
        direction = (weights[k] - weights[label]) / (weights[k] - weights[label]).norm()
        length = 1.02 * (distance + (BEYOND if form == "total" else 0))
        expected = x[i] + length * direction.view_as(x[i])
        torch.testing.assert_close(made.images[i], expected, rtol=0, atol=1e-12)
    assert made.reached.all()
    # The start, the step and what came of it.
    assert oracle.forwards.tolist() == [3] * N
    assert torch.equal(made.queries, oracle.forwards)


@pytest.mark.parametrize("form", FORMS)
def test_with_two_classes_the_target_is_the_other_one(form: Any):
    weights = torch.randn(2, SIZE, generator=generator(3), dtype=torch.float64)
    x = pixels() * 0.2 + 0.4
    y = guesses(linear(weights), x)
    chosen = DeepFoolSettings(overshoot_on=form, epsilon=None)
    free, counted = run(linear(weights), x, Goal(y), chosen)
    aimed, _ = run(linear(weights), x, Goal(y, 1 - y), chosen)
    assert free.reached.all()
    torch.testing.assert_close(free.images, aimed.images, rtol=0, atol=1e-12)
    assert counted.backwards.tolist() == [1] * N
    assert counted.forwards.tolist() == [3] * N


@pytest.mark.parametrize("form", FORMS)
def test_a_target_is_reached_past_the_classes_between(form: Any):
    """Each step is onto the plane between the target and whichever class leads."""
    weights = torch.randn(CLASSES, SIZE, generator=generator(3), dtype=torch.float64)
    x = pixels() * 0.2 + 0.4
    model = linear(weights)
    aims = model(x).argmin(dim=1)
    chosen = DeepFoolSettings(overshoot_on=form, epsilon=None, overshoot=0.1)
    made, oracle = run(model, x, Goal(guesses(model, x), aims), chosen)
    assert made.reached.all()
    assert torch.equal(model(made.images).argmax(dim=1), aims)
    assert torch.equal(oracle.backwards, oracle.forwards - 2)  # neither first nor last
    assert oracle.forwards.max() > 3


def gapped(*gaps: float, slopes: tuple[float, ...] = ()) -> Plain:
    """Class 0 leads by these gaps; each other class's lead has a value of its own to grow with."""

    def model(t: Tensor) -> Tensor:
        flat = t.flatten(1)
        rates = slopes or (1.0,) * len(gaps)
        both = enumerate(zip(gaps, rates, strict=True))
        others = [rate * (flat[:, i] - 0.5) - gap for i, (gap, rate) in both]
        return torch.stack([torch.zeros_like(others[0]), *others], dim=1)

    return model


def test_classes_that_are_too_far_are_not_looked_at():
    x = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)
    chosen = DeepFoolSettings(epsilon=None, steps=1)
    goal = Goal(torch.zeros(1, dtype=torch.int64))
    assert REACH == 2
    for gaps, wanted in [
        ((0.1, 0.19, 0.21, 0.3), 2),
        ((0.3, 0.1, 0.21, 0.19), 2),
        ((0.1, 0.11, 0.12, 0.13), 4),
        ((0.1, 0.3, 0.3, 0.3), 1),
    ]:
        _, oracle = run(gapped(*gaps), x, goal, chosen)
        assert oracle.backwards.tolist() == [wanted]
    # The second is the nearest, and so steep that the third might be nearer still, which it is.
    slopes = (1.0, 1.4, 2.0, 9.0)
    made, oracle = run(gapped(0.1, 0.12, 0.15, 0.9, slopes=slopes), x, goal, chosen)
    assert oracle.backwards.tolist() == [3]
    moved = (made.images - x).flatten()
    assert moved.nonzero().flatten().tolist() == [2]
    assert moved[2] == pytest.approx(1.02 * (0.15 / 2 + BEYOND))
    # A steep class counts though it is no nearer: others might be as steep.
    _, oracle = run(gapped(0.1, 0.19, 0.3, slopes=(1.0, 1.6, 1.0)), x, goal, chosen)
    assert oracle.backwards.tolist() == [3]


def test_an_image_that_wants_more_classes_is_looked_at_again_and_pays_alone():
    """After the first step, that is, where it is not known beforehand how many are wanted."""

    def model(t: Tensor) -> Tensor:
        """Class 1 is crossed too soon by a bend; then the gaps of image 0 have come close."""
        flat = t.flatten(1)
        a, b = flat[:, 0] - 0.5, flat[:, 1] - 0.5
        return torch.stack([0 * a, a - 0.1 - 2 * a * a, b - 0.21 + 1.8 * a], dim=1)

    x = torch.full((2, 3, 8, 8), 0.5, dtype=torch.float64)
    x[1, 0, 0, 1] = 0.1  # for image 1 class 2 stays far
    chosen = DeepFoolSettings(epsilon=None, steps=2)
    _, oracle = run(model, x, Goal(torch.zeros(2, dtype=torch.int64)), chosen)
    # Start; first step; second, for image 0 twice, with the first class again; the final look.
    assert oracle.forwards.tolist() == [5, 4]
    assert oracle.backwards.tolist() == [1 + 1 + 2, 1 + 1]


@pytest.mark.parametrize("form", FORMS)
def test_an_image_has_one_outcome_in_whatever_batch(form: Any):
    net, x = network(), pixels()
    y = guesses(net, x)
    chosen = DeepFoolSettings(overshoot_on=form, epsilon="1/10", steps=3)
    whole, oracle = run(net, x, Goal(y), chosen)
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    for rows in (order, torch.arange(3), torch.arange(3, N)):
        part, counted = run(net, x[rows], Goal(y[rows]), chosen)
        torch.testing.assert_close(part.images, whole.images[rows], rtol=0, atol=1e-12)
        assert torch.equal(part.reached, whole.reached[rows])
        assert torch.equal(part.queries, whole.queries[rows])
        assert torch.equal(counted.forwards, oracle.forwards[rows])
        assert torch.equal(counted.backwards, oracle.backwards[rows])


@pytest.mark.parametrize("domain", list(Domain))
def test_chunks_of_passes_change_nothing(domain: Domain):
    net = build("convnet-d1-w8", channels=3, size=8, classes=CLASSES, generator=generator(0))
    net = net.double().eval()
    chunked = Passes(net, Plan(False, 8 * 8 * 8 * 4 * 3, True, 1, "two images a chunk"))
    assert chunked.chunk == 2
    chosen, outcomes = DeepFoolSettings(epsilon="1/10", steps=4), []
    for model in (net, chunked.bind(net.state_dict())):
        seen = adapt(model, domain, SPACE)
        x = seen.to_input(pixels())
        made, oracle = run(seen.model, x, Goal(guesses(seen.model, x)), chosen)
        outcomes.append((made.images, made.queries, oracle.forwards, oracle.backwards))
    for plain, fast in zip(*outcomes, strict=True):
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-10)


def test_finished_images_leave():
    weights = torch.randn(3, SIZE, generator=generator(3), dtype=torch.float64)
    bent, x = pixels(1)[0].flatten(), pixels()
    sizes = []

    def model(t: Tensor) -> Tensor:
        sizes.append(len(t))
        flat = t.flatten(1)
        return flat @ weights.T + 5 * (flat - bent).square().sum(dim=1, keepdim=True).sin()

    y = guesses(model, x)
    y[:3] = (y[:3] + 1) % 3
    sizes.clear()
    made, oracle = run(model, x, Goal(y), DeepFoolSettings(epsilon=None))
    assert sizes[:2] == [N, N - 3]
    assert made.queries[:3].tolist() == [1] * 3
    assert sum(sizes) == int(oracle.forwards.sum())
    assert max(sizes[2:]) <= N - 3


@pytest.mark.parametrize("form", FORMS)
def test_what_was_wrong_already_stays_as_it_was(form: Any):
    """In the form of torchattacks unclamped, in the paper's clamped, and there it must be wrong."""
    seen = adapt(network(), "reference", SPACE)
    x = seen.to_input(pixels())
    start = x if form == "step" else x.clamp(0, 1)
    y = (guesses(seen.model, start) + 1) % CLASSES
    made, oracle = run(seen.model, x, Goal(y), DeepFoolSettings(overshoot_on=form, epsilon="1/9"))
    assert torch.equal(made.images, start)
    assert made.reached.all()
    assert oracle.forwards.tolist() == made.queries.tolist() == [1] * N
    assert not oracle.backwards.any()


def test_what_lies_beyond_epsilon_is_kept_as_the_nearest_point_of_the_ball():
    weights = torch.randn(2, SIZE, generator=generator(3), dtype=torch.float64)
    x = pixels() * 0.2 + 0.4
    model = linear(weights)
    y = guesses(model, x)
    normal = weights[1] - weights[0]
    distance = (x.flatten(1) @ normal).abs() / normal.norm()
    lengths = 1.02 * (distance + BEYOND)
    below, above = lengths.sort().values[2], distance.sort().values[3]
    assert above > below  # no one is brought back across the boundary
    epsilon = Fraction(float(below + above) / 2).limit_denominator(1000)
    made, oracle = run(model, x, Goal(y), DeepFoolSettings(epsilon=str(epsilon)))
    near = lengths <= float(epsilon)
    assert near.sum() == 3
    assert torch.equal(made.reached, near)
    assert made.queries.tolist() == [3 if hit else -1 for hit in near.tolist()]
    assert oracle.forwards.tolist() == [3 if hit else 4 for hit in near.tolist()]
    towards = torch.where(y == 0, 1, -1)[:, None] * normal / normal.norm()
    lengths = torch.where(near, lengths, float(epsilon))
    expected = x + (lengths[:, None] * towards).view_as(x)
    torch.testing.assert_close(made.images, expected, rtol=0, atol=1e-12)


def test_an_overshoot_beyond_epsilon_is_tried_again_within():
    weights = torch.randn(2, SIZE, generator=generator(3), dtype=torch.float64)
    x = pixels(1) * 0.2 + 0.4
    model = linear(weights)
    distance = float((model(x)[0, 0] - model(x)[0, 1]).abs() / (weights[0] - weights[1]).norm())
    epsilon = str(Fraction(1.2 * distance).limit_denominator(1000))
    chosen = DeepFoolSettings(overshoot=0.5, epsilon=epsilon)
    made, oracle = run(model, x, Goal(guesses(model, x)), chosen)
    assert made.reached.tolist() == [True]
    assert made.queries.tolist() == oracle.forwards.tolist() == [4]
    assert float((made.images - x).norm()) == pytest.approx(float(Fraction(epsilon)))


@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_can_no_longer_move_leaves_where_that_is_certain(form: Any):
    """Against the wall the paper's total still grows, and might yet turn."""
    x = torch.ones(2, 3, 8, 8, dtype=torch.float64)
    x[1] = 0.5
    weights = torch.zeros(2, SIZE, dtype=torch.float64)
    weights[1] = 0.01
    model = linear(weights, torch.tensor([9.0, 0.0], dtype=torch.float64))
    goal = Goal(torch.zeros(2, dtype=torch.int64))
    chosen = DeepFoolSettings(overshoot_on=form, epsilon=None, steps=7)
    made, oracle = run(model, x, goal, chosen)
    assert not made.reached.any()
    assert torch.equal(made.images, torch.ones_like(x))
    assert oracle.forwards.tolist() == ([3, 4] if form == "step" else [9, 9])


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_where_there_is_no_slope_nothing_moves(form: Any, targeted: bool):
    x = pixels(2)
    goal = Goal(torch.zeros(2).long(), torch.ones(2).long() if targeted else None)
    flat = linear(torch.zeros(3, SIZE, dtype=torch.float64), torch.tensor([1.0, 0.5, 0.0]))
    made, oracle = run(flat, x, goal, DeepFoolSettings(overshoot_on=form))
    assert torch.equal(made.images, x)
    assert not made.reached.any()
    assert oracle.forwards.tolist() == [3, 3]


def test_a_flat_class_does_not_hide_the_others():
    weights = torch.zeros(3, SIZE, dtype=torch.float64)
    weights[2, 0] = 1
    model = linear(weights, torch.tensor([1.0, 0.9, 0.1], dtype=torch.float64))
    x = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)
    made, _ = run(model, x, Goal(torch.zeros(1).long()), DeepFoolSettings(epsilon=None, steps=2))
    assert made.reached.tolist() == [True]
    assert made.images[0, 0, 0, 0] == pytest.approx(0.5 + 1.02 * (0.4 + BEYOND))


@given(
    epsilon=st.integers(0, 40),
    overshoot=st.floats(0, 1),
    steps=st.integers(1, 4),
    form=st.sampled_from(FORMS),
    targeted=st.booleans(),
    single=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_the_budget_is_never_exceeded(
    epsilon: int, overshoot: float, steps: int, form: Any, targeted: bool, single: bool, seed: int
):
    dtype = torch.float32 if single else torch.float64
    net, x = network(seed).to(dtype), pixels(3).to(dtype)
    y = guesses(net, x)
    chosen = DeepFoolSettings(
        epsilon=f"{epsilon}/100", overshoot=overshoot, steps=steps, overshoot_on=form
    )
    goal = Goal(y, (y + 1) % CLASSES if targeted else None)
    made, _ = run(net, x, goal, chosen)
    assert made.images.dtype == dtype
    distance = (made.images - x).flatten(1).norm(dim=1)
    assert distance.max() <= epsilon / 100 + 20 * torch.finfo(dtype).eps
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    logits = net(made.images).sort(dim=1, descending=True).values
    sure = logits[:, 0] - logits[:, 1] > 1e-4
    reached = goal.reached(net(made.images), torch.arange(3))
    assert torch.equal(made.reached[sure], reached[sure])
