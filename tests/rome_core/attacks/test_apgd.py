"""APGD against a loop of its own, image by image in float64, and against closed forms."""

from collections.abc import Callable
from fractions import Fraction
from itertools import cycle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rome_core.attacks import Domain, Goal, Oracle, adapt, norms
from rome_core.attacks.apgd import _windows, apgd
from rome_core.attacks.goal import rivals
from rome_core.errors import CoreError
from rome_core.networks import build
from rome_core.randomness import ImageDraws, generator
from rome_core.recipes.attacks import ApgdSettings
from rome_core.space import Normalised

SPACE = Normalised.of((0.49, 0.48, 0.44), (0.2, 0.21, 0.22))
RADII = {"linf": "12/255", "l2": "1/2"}
LOSSES = ["ce", "dlr", "dlr-targeted", "margin"]
N, STEPS = 6, 20


def network(seed: int = 0, classes: int = 10) -> nn.Module:
    made = build("convnet-d1-w8", channels=3, size=8, classes=classes, generator=generator(seed))
    return made.double().eval()


def pixels(n: int = N) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=generator(1), dtype=torch.float64)


def guesses(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Labels that every image is right about."""
    with torch.no_grad():
        return net(x.clamp(0, 1)).argmax(dim=1)


def draws(n: int = N, seed: int = 0) -> ImageDraws:
    return ImageDraws(seed, "apgd", images=torch.arange(n))


def plain_loss(name: str, logits: Tensor, label: int, target: int | None) -> Tensor:
    """One image's loss, climbed, from its logits (classes,) alone."""
    if name == "dlr" and target is not None:
        name = "dlr-targeted"
    ordered = logits.sort(descending=True).values
    toward = label if target is None or name == "dlr-targeted" else target
    others = torch.cat([logits[:toward], logits[toward + 1 :]]).max()
    if name == "dlr-targeted":
        assert target is not None
        scale = ordered[0] - (ordered[2] + ordered[3]) / 2
        return -(logits[label] - logits[target]) / (scale + 1e-12)
    flight = {
        "ce": -F.log_softmax(logits, dim=0)[toward],
        "dlr": -(logits[toward] - others) / (ordered[0] - ordered[2] + 1e-12),
        "margin": others - logits[toward],
    }[name]
    return flight if target is None else -flight


def into_ball(norm: str, point: Tensor, x: Tensor, epsilon: float) -> Tensor:
    if norm == "linf":
        return torch.minimum(torch.maximum(point, x - epsilon), x + epsilon).clamp(0, 1)
    change = point - x
    size = float(change.norm())
    return (x + change * min(1, epsilon / size)).clamp(0, 1) if size else x.clamp(0, 1)


def naive(
    net: Callable[[Tensor], Tensor],
    x: Tensor,
    label: int,
    target: int | None,
    chosen: ApgdSettings,
    start: Callable[[int, int], Tensor],
) -> tuple[bool, Tensor, int, int]:
    """One image, as the paper and the authors' implementation say: whether its goal was reached,
    its image, and how many passes it took forward and backward.
    """
    epsilon = float(Fraction(chosen.epsilon))
    passes, best_of_all, best_image = 1, -torch.inf, x.clamp(0, 1)
    clean = net(x.clamp(0, 1)[None])[0].detach()

    def there(logits: Tensor) -> bool:
        guess = int(logits.argmax())
        return guess != label if target is None else guess == target

    if there(clean):
        return True, x.clamp(0, 1), 1, 0
    if chosen.loss == "dlr-targeted" and target is None:
        order = [k for k in clean.argsort(descending=True).tolist() if k != label]
        aims: list[int | None] = list(order[: chosen.target_classes])
    else:
        aims = [target]
    for aim_number, aim in enumerate(aims):
        for restart in range(chosen.restarts):
            points = [(x + start(aim_number, restart)).clamp(0, 1)]
            values: list[float] = []
            slopes: list[Tensor] = []
            best, step, halved, best_then = 0, 2 * epsilon, True, 0.0
            window, since = max(int(0.22 * chosen.steps), 1), 0
            position, before = points[0], points[0]
            for k in range(chosen.steps + 1):
                leaf = points[k].clone().requires_grad_()
                logits = net(leaf[None])[0]
                value = plain_loss(chosen.loss, logits, label, aim)
                slopes.append(torch.autograd.grad(value, leaf)[0])
                values.append(float(value.detach()))
                passes += 1
                if there(logits.detach()):
                    return True, points[k], passes, passes - 1
                best = k if values[k] > values[best] else best
                slope = slopes[k]
                since += k > 0
                if k == 0:
                    best_then = values[0]
                elif since == window:
                    compared = [0.0, *values[1:]]
                    rises = sum(compared[j] > compared[j - 1] for j in range(k - window + 1, k + 1))
                    stuck = rises <= chosen.rho * window
                    stuck = stuck or (not halved and best_then >= values[best])
                    halved, best_then, since = stuck, values[best], 0
                    window = max(
                        window - max(int(0.03 * chosen.steps), 1),
                        max(int(0.06 * chosen.steps), 1),
                    )
                    if stuck:
                        step, position, slope = step / 2, points[best], slopes[best]
                if chosen.norm == "linf":
                    ahead = position + step * slope.sign()
                else:
                    ahead = position + step * slope / slope.norm()
                ahead = into_ball(chosen.norm, ahead, x, epsilon)
                if k > 0:
                    ahead = position + 0.75 * (ahead - position) + 0.25 * (position - before)
                    ahead = into_ball(chosen.norm, ahead, x, epsilon)
                before, position = position, ahead
                points.append(ahead)
            if values[best] > best_of_all:
                best_of_all, best_image = values[best], points[best]
    return False, best_image, passes, passes - 1


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_its_definition(norm: str, loss: str, targeted: bool):
    check(norm, loss, targeted, Domain.PIXEL)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_its_definition_in_the_reference_domain(norm: str):
    check(norm, "ce", False, Domain.REFERENCE)


def check(norm: str, loss: str, targeted: bool, domain: Domain) -> None:
    seen = adapt(network(), domain, SPACE)
    x = seen.to_input(pixels())
    y = guesses(seen.model, x)
    y[0] = (y[0] + 1) % 10  # wrong to begin with
    aim = (y + 1) % 10 if targeted else None
    radius = RADII[norm] if domain is Domain.PIXEL else "1"
    chosen = ApgdSettings(
        norm=norm, epsilon=radius, steps=STEPS, restarts=2, loss=loss, target_classes=3
    )
    oracle, numbers = Oracle(seen.model, N), draws()
    made = apgd(oracle, x, Goal(y, aim), chosen, numbers)
    for i in range(N):
        row = torch.tensor([i])

        def start(number: int, restart: int, row: Tensor = row) -> Tensor:
            epsilon = float(Fraction(radius))
            return norms.surface(norm, x[row], epsilon, numbers, row, number, restart)[0]

        reached, image, forwards, backwards = naive(
            seen.model, x[i], int(y[i]), None if aim is None else int(aim[i]), chosen, start
        )
        assert bool(made.reached[i]) == reached
        torch.testing.assert_close(made.images[i], image, rtol=0, atol=1e-10)
        assert int(oracle.forwards[i]) == forwards
        assert int(oracle.backwards[i]) == backwards
        assert int(made.queries[i]) == (forwards if reached else -1)
    if not targeted and domain is Domain.PIXEL:
        assert made.reached[1:].any()
        assert not made.reached.all()


def test_the_checkpoints_of_a_hundred_steps_are_the_papers():
    windows, at = _windows(100), 0
    assert [at := at + next(windows) for _ in range(8)] == [22, 41, 57, 70, 80, 87, 93, 99]


@given(
    epsilon=st.integers(0, 64),
    steps=st.integers(1, 6),
    norm=st.sampled_from(["linf", "l2"]),
    loss=st.sampled_from(LOSSES),
    single=st.booleans(),
    targeted=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=25)
def test_the_budget_is_never_exceeded(
    epsilon: int, steps: int, norm: str, loss: str, single: bool, targeted: bool, seed: int
):
    dtype = torch.float32 if single else torch.float64
    net = network(seed).to(dtype)
    x = pixels(2).to(dtype)
    y = guesses(net, x)
    goal = Goal(y, (y + 1) % 10 if targeted else None)
    chosen = ApgdSettings(norm=norm, epsilon=f"{epsilon}/255", steps=steps, loss=loss)
    made = apgd(Oracle(net, 2), x, goal, chosen, draws(2, seed)).images
    linf, l2 = norms.sizes(x, made)
    assert made.dtype == dtype
    assert (linf if norm == "linf" else l2).max() <= epsilon / 255 + 4 * torch.finfo(dtype).eps
    assert made.min() >= 0
    assert made.max() <= 1


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_model_of_two_classes_is_attacked_optimally(norm: str, loss: str, targeted: bool):
    weight = torch.randn(192, generator=generator(6), dtype=torch.float64)
    x = pixels(4) * 0.8 + 0.1  # no budget reaches the walls of [0, 1]
    y = torch.tensor([0, 1, 1, 0])
    far = torch.where(y.eq(0), 1, -1) * weight.abs().sum() / 19  # nor the boundary

    def model(t: Tensor) -> Tensor:
        score = (t - x).flatten(1) @ weight + far
        return torch.stack([score, torch.zeros_like(score)], dim=1)

    chosen = ApgdSettings(norm=norm, epsilon="1/20", steps=100, loss=loss)
    made = apgd(Oracle(model, 4), x, Goal(y, 1 - y if targeted else None), chosen, draws(4))
    step = weight.sign() if norm == "linf" else weight / weight.norm()
    away = torch.where(y.eq(0), -1, 1).view(-1, 1, 1, 1) * step.view(3, 8, 8) / 20
    assert not made.reached.any()
    torch.testing.assert_close(made.images, x + away, rtol=0, atol=1e-7)


@pytest.mark.parametrize("loss", ["ce", "dlr-targeted"])
def test_an_image_does_not_depend_on_its_batch(loss: str):
    net, x, n = network(), pixels(10), 10
    y = guesses(net, x)
    chosen = ApgdSettings(epsilon="20/255", steps=STEPS, restarts=2, loss=loss, target_classes=2)
    whole = apgd(Oracle(net, n), x, Goal(y), chosen, draws(n))
    assert 0 < int(whole.reached.sum()) < n
    order = torch.randperm(n, generator=generator(3))
    for rows in (order, order[:5], order[5:]):
        oracle = Oracle(net, len(rows))
        part = apgd(oracle, x[rows], Goal(y[rows]), chosen, draws(n).take(rows))
        torch.testing.assert_close(part.images, whole.images[rows], rtol=0, atol=1e-10)
        assert torch.equal(part.reached, whole.reached[rows])
        assert torch.equal(part.queries, whole.queries[rows])


def test_what_has_reached_its_goal_is_not_asked_about_again():
    net, x, asked = network(), pixels(10), []

    def model(t: Tensor) -> Tensor:
        asked.append(len(t))
        return net(t)

    oracle = Oracle(model, 10)
    chosen = ApgdSettings(epsilon="20/255", steps=STEPS, loss="dlr-targeted", target_classes=2)
    made = apgd(oracle, x, Goal(guesses(net, x)), chosen, draws(10))
    assert asked[0] == 10
    assert asked[-1] == int((~made.reached).sum()) < 10
    assert sum(asked) == int(oracle.forwards.sum())
    assert int(oracle.forwards.max()) == 1 + 2 * (STEPS + 1)


def test_nothing_is_asked_for_nothing():
    net, x = network(), pixels(3)
    oracle = Oracle(net, 3)
    made = apgd(oracle, x, Goal((guesses(net, x) + 1) % 10), ApgdSettings(), draws(3))
    assert oracle.forwards.tolist() == [1, 1, 1]
    assert made.queries.tolist() == [1, 1, 1]
    assert torch.equal(made.images, x)


def test_a_failure_keeps_the_highest_loss_of_all_runs():
    net, x, seen = network(), pixels(3), []
    y = guesses(net, x)

    def model(t: Tensor) -> Tensor:
        seen.append(t.detach().clone())
        return net(t)

    chosen = ApgdSettings(epsilon="1/255", steps=10, restarts=3)
    made = apgd(Oracle(model, 3), x, Goal(y), chosen, draws(3))
    assert not made.reached.any()
    losses = torch.stack([F.cross_entropy(net(t), y, reduction="none") for t in seen[1:]])
    kept = F.cross_entropy(net(made.images), y, reduction="none")
    torch.testing.assert_close(kept, losses.amax(dim=0))


def test_gradients_of_a_model_that_draws_are_averaged():
    weights = [torch.randn(192, generator=generator(k), dtype=torch.float64) for k in (1, 2)]
    drawn, x = cycle(weights), pixels(2) * 0.8 + 0.1

    def model(t: Tensor) -> Tensor:
        score = (t - x).flatten(1) @ next(drawn) + 50
        return torch.stack([score, torch.zeros_like(score)], dim=1)

    next(drawn)  # the look at the images as they are is the other one of the pair
    oracle = Oracle(model, 2)
    chosen = ApgdSettings(norm="l2", epsilon="1/2", steps=1, loss="margin", eot=2)
    made = apgd(oracle, x, Goal(torch.zeros(2).long()), chosen, draws(2))
    start = x + norms.surface("l2", x, 0.5, draws(2), torch.arange(2), 0, 0)
    mean = -(weights[0] + weights[1]).view(3, 8, 8)
    moved = into_ball("l2", start[0] + mean / mean.norm(), x[0], 0.5)
    torch.testing.assert_close(made.images[0], moved, rtol=0, atol=1e-12)
    assert oracle.forwards.tolist() == [5, 5]
    assert oracle.backwards.tolist() == [4, 4]


@pytest.mark.parametrize(
    ("loss", "classes"), [("dlr-targeted", 3), ("dlr-targeted", 2), ("dlr", 2)]
)
def test_losses_that_the_classes_are_too_few_for_are_refused(loss: str, classes: int):
    net, x = network(classes=classes), pixels(2)
    with pytest.raises(CoreError, match="classes") as refusal:
        apgd(Oracle(net, 2), x, Goal(guesses(net, x)), ApgdSettings(loss=loss), draws(2))
    assert refusal.value.code == "attack_unsuitable"
    assert refusal.value.field == "loss"


def test_rivals_are_the_likeliest_wrong_classes():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 4.0, 5.0, 4.0]])
    assert rivals(logits, torch.tensor([0, 3]), 2).tolist() == [[2, 1], [2, 1]]
    assert rivals(logits, torch.tensor([1, 2]), 9).tolist() == [[0, 2, 3], [1, 3, 0]]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_random_start_is_as_far_as_the_radius(norm: str):
    x, rows = pixels(), torch.arange(N)
    step = norms.surface(norm, x, 0.25, draws(), rows, 0, 0)
    sizes = dict(zip(("linf", "l2"), norms.sizes(x, x + step), strict=True))[norm]
    torch.testing.assert_close(sizes, torch.full_like(sizes, 0.25))
    assert step.mean().abs() < 0.02
    assert not torch.equal(step, norms.surface(norm, x, 0.25, draws(), rows, 0, 1))
