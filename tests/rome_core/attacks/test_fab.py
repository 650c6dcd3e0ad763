"""FAB against a loop of its own, image by image in float64, and against closed forms."""

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rome_core.attacks import Adapted, Domain, Goal, Oracle, adapt, norms
from rome_core.attacks import fab as fab_module
from rome_core.attacks.fab import fab
from rome_core.networks import build
from rome_core.randomness import ImageDraws, generator
from rome_core.recipes.attacks import FabSettings
from rome_core.space import Normalised

SPACE = Normalised.of((0.49, 0.48, 0.44), (0.2, 0.21, 0.22))
N = 5


def network(seed: int = 0) -> nn.Module:
    made = build("convnet-d1-w8", channels=3, size=8, classes=5, generator=generator(seed))
    return made.double().eval()


def pixels(n: int = N) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=generator(1), dtype=torch.float64)


def guesses(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Labels that every image is right about."""
    with torch.no_grad():
        return net(x.clamp(0, 1)).argmax(dim=1)


def draws(n: int = N, seed: int = 0) -> ImageDraws:
    return ImageDraws(seed, "fab", images=torch.arange(n))


def size(norm: str, change: Tensor) -> float:
    return float(change.abs().max() if norm == "linf" else change.norm())


def onto(norm: str, point: Tensor, normal: Tensor, gap: float) -> Tensor:
    """The smallest step with normal . step = gap inside [0, 1], by trying each number of values at
    a wall in the order in which they get there.
    """
    t, w = point.flatten(), normal.flatten() * (1 if gap >= 0 else -1)
    pace = w.sign() if norm == "linf" else w
    room = torch.where(w > 0, 1 - t, t)
    times = torch.where(w == 0, torch.inf, room / pace.abs())
    order = times.argsort()
    step = torch.where(w == 0, 0, w.sign() * room)  # as far as possible, unless less will do
    for stopped in range(int((w != 0).sum())):
        at_wall, moving = order[:stopped], order[stopped:]
        gained = float((w[at_wall].abs() * room[at_wall]).sum())
        time = (abs(gap) - gained) / float((w[moving] * pace[moving]).sum())
        if time <= float(times[order[stopped]]):
            step = torch.where(w == 0, 0, pace * time)
            step[at_wall] = (w.sign() * room)[at_wall]
            break
    return step.view_as(point)


def naive(
    net: Callable[[Tensor], Tensor],
    x: Tensor,
    label: int,
    target: int | None,
    chosen: FabSettings,
    start: Callable[[int, int], Tensor],
) -> tuple[bool, Tensor, int, int]:
    """One image, as the paper and the authors' implementation say, and its passes."""
    norm, epsilon = chosen.norm, float(Fraction(chosen.epsilon))
    centre, free = x.clamp(0, 1), (x >= 0) & (x <= 1)
    clean = net(centre[None])[0].detach()
    classes, forwards, backwards = len(clean), 1, 0

    def there(logits: Tensor) -> bool:
        guess = int(logits.argmax())
        return guess != label if target is None else guess == target

    def leads(point: Tensor, aim: int | None) -> list[tuple[float, Tensor]]:
        """For each class looked at: by how much it leads, and the gradient of that."""
        leaf = point.clone().requires_grad_()
        logits = net(leaf[None])[0]
        if target is not None:
            rival = max((k for k in range(classes) if k != target), key=lambda k: logits[k].item())
            pairs = [(target, rival)]
        elif aim is not None:
            pairs = [(aim, label)]
        else:
            pairs = [(k, label) for k in range(classes) if k != label]
        out = []
        for a, b in pairs:
            lead = logits[a] - logits[b]
            (slope,) = torch.autograd.grad(lead, leaf, retain_graph=True)
            out.append((lead.item(), slope * free))
        return out

    if there(clean):
        return True, centre, forwards, backwards
    aims: list[int | None] = [None]
    if target is None and chosen.multi_target:
        order = [k for k in clean.argsort(descending=True).tolist() if k != label]
        aims = list(order[: chosen.target_classes])
    shortest, kept = torch.inf, centre
    for number, aim in enumerate(aims):
        for restart in range(chosen.restarts):
            point = centre
            if restart:
                point = (centre + start(number, restart) * free).clamp(0, 1)
            crossings: list[tuple[float, Tensor]] = []
            for _ in range(chosen.steps):
                found = leads(point, aim)
                forwards += 1
                backwards += 1 if target is not None or aim is not None else classes
                dual = [s.abs().sum() if norm == "linf" else s.norm() for _, s in found]
                nearest = min(range(len(found)), key=lambda k: abs(found[k][0]) / float(dual[k]))
                lead, slope = found[nearest]
                ahead = onto(norm, point, slope, -lead)
                direct = onto(norm, centre, slope, float((slope * (point - centre)).sum()) - lead)
                a, b = (max(size(norm, s), 1e-8) for s in (ahead, direct))
                alpha = min(a / (a + b), chosen.alpha_max)
                point = (1 - alpha) * (point + chosen.eta * ahead)
                point = (point + alpha * (centre + chosen.eta * direct)).clamp(0, 1)
                forwards += 1
                last = point
                if there(net(point[None])[0].detach()):
                    distance = size(norm, point - centre)
                    if distance <= epsilon:
                        return True, point, forwards, backwards
                    crossings.append((distance, point))
                    point = centre + chosen.beta * (point - centre)
            distance, nearest_image = min(crossings, key=lambda c: c[0], default=(torch.inf, last))
            if distance <= shortest:
                change = nearest_image - centre
                if norm == "linf":
                    change = change.clamp(-epsilon, epsilon)
                else:
                    change = change * min(1, epsilon / size(norm, change))
                shortest, kept = distance, (centre + change).clamp(0, 1)
    return False, kept, forwards, backwards


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_its_definition(norm: str, multi: bool, targeted: bool):
    radius = {"linf": ("0.055", "0.08"), "l2": ("0.6", "0.8")}[norm][targeted]
    seen = adapt(network(), Domain.PIXEL, SPACE)
    check(seen, norm, radius, multi=multi, targeted=targeted)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_its_definition_in_the_reference_domain(norm: str):
    seen = adapt(network(1), Domain.REFERENCE, SPACE)
    radius = {"linf": "0.06", "l2": "0.28"}[norm]
    x, made = check(seen, norm, radius, multi=True, targeted=False)
    outside = (x < 0) | (x > 1)
    assert torch.equal(made[outside], x.clamp(0, 1)[outside])


def check(
    seen: Adapted, norm: str, radius: str, *, multi: bool, targeted: bool
) -> tuple[Tensor, Tensor]:
    x = seen.to_input(pixels())
    y = guesses(seen.model, x)
    y[0] = (y[0] + 1) % 5  # wrong to begin with
    aim = (y + 1) % 5 if targeted else None
    chosen = FabSettings(
        norm=norm, epsilon=radius, steps=4, restarts=2, multi_target=multi, target_classes=2
    )
    oracle, numbers = Oracle(seen.model, N), draws()
    made = fab(oracle, x, Goal(y, aim), chosen, numbers)
    half = float(Fraction(chosen.epsilon)) / 2
    for i in range(N):
        row = torch.tensor([i])

        def start(number: int, restart: int, row: Tensor = row) -> Tensor:
            return norms.surface(norm, x[row], half, numbers, row, number, restart)[0]

        reached, image, forwards, backwards = naive(
            seen.model, x[i], int(y[i]), None if aim is None else int(aim[i]), chosen, start
        )
        assert bool(made.reached[i]) == reached
        torch.testing.assert_close(made.images[i], image, rtol=0, atol=1e-10)
        assert int(oracle.forwards[i]) == forwards
        assert int(oracle.backwards[i]) == backwards
        assert int(made.queries[i]) == (forwards if reached else -1)
    assert made.reached[1:].any()
    assert not made.reached.all()
    return x, made.images


@given(
    epsilon=st.integers(0, 64),
    norm=st.sampled_from(["linf", "l2"]),
    multi=st.booleans(),
    single=st.booleans(),
    targeted=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=25)
def test_the_budget_is_never_exceeded(
    epsilon: int, norm: str, multi: bool, single: bool, targeted: bool, seed: int
):
    dtype = torch.float32 if single else torch.float64
    net, x = network(seed).to(dtype), pixels(2).to(dtype)
    y = guesses(net, x)
    chosen = FabSettings(
        norm=norm, epsilon=f"{epsilon}/255", steps=3, restarts=2, multi_target=multi
    )
    goal = Goal(y, (y + 1) % 5 if targeted else None)
    made = fab(Oracle(net, 2), x, goal, chosen, draws(2, seed)).images
    linf, l2 = norms.sizes(x, made)
    assert made.dtype == dtype
    assert (linf if norm == "linf" else l2).max() <= epsilon / 255 + 4 * torch.finfo(dtype).eps
    assert made.min() >= 0
    assert made.max() <= 1


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_boundary_is_crossed_where_it_is_nearest(norm: str, multi: bool, targeted: bool):
    """The first step goes eta times the distance to the plane, along the shortest way."""
    weight = torch.randn(192, generator=generator(6), dtype=torch.float64)
    x, y = pixels(4) * 0.6 + 0.2, torch.zeros(4).long()
    dual = weight.abs().sum() if norm == "linf" else weight.norm()
    distances = torch.tensor([0.05, 0.0951, 0.0953, 0.11], dtype=torch.float64)

    def model(t: Tensor) -> Tensor:
        score = (t - x[: len(t)]).flatten(1) @ weight + distances[: len(t)] * dual
        return torch.stack([score, torch.zeros_like(score)], dim=1)

    goal = Goal(y, 1 - y if targeted else None)
    chosen = FabSettings(norm=norm, epsilon="1/10", steps=1, multi_target=multi)
    made = fab(Oracle(model, 4), x, goal, chosen, draws(4))
    assert made.reached.tolist() == [True, True, False, False]  # 0.1 / 1.05 = 0.09524
    way = -weight.sign() if norm == "linf" else -weight / weight.norm()
    step = (1.05 * distances).clamp_max(0.1)[:, None] * way
    torch.testing.assert_close(made.images, x + step.view_as(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("norm", "radius"), [("linf", "1/20"), ("l2", "1/5")])
def test_the_nearest_class_is_nearest_in_the_norm(norm: str, radius: str):
    """A class that one value decides is far under Linf, one that all decide a little under L2."""
    x = pixels(1) * 0.4 + 0.3
    one, every = torch.zeros(192).double(), torch.full((192,), 0.1).double()
    one[7] = 1

    def model(t: Tensor) -> Tensor:
        move = (t - x).flatten(1)
        return torch.stack([torch.zeros_like(move[:, 0]), move @ one - 0.15, move @ every - 0.4], 1)

    chosen = FabSettings(norm=norm, epsilon=radius, steps=1, multi_target=False)
    made = fab(Oracle(model, 1), x, Goal(torch.zeros(1).long()), chosen, draws(1))
    assert made.reached.tolist() == [True]
    assert int(model(made.images).argmax()) == {"linf": 2, "l2": 1}[norm]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steps_come_as_near_as_the_plane(norm: str):
    """A linear boundary is crossed just beyond its distance, though walls are in the way."""
    weight = torch.randn(192, generator=generator(6), dtype=torch.float64)
    x = pixels(1)  # some values meet a wall
    goal, rows = Goal(torch.zeros(1).long()), torch.zeros(1).long()

    def model(t: Tensor) -> Tensor:
        score = (t - x).flatten(1) @ weight + 30
        return torch.stack([score, torch.zeros_like(score)], dim=1)

    way = onto(norm, x[0], weight.view(3, 8, 8), -30.0)
    least = size(norm, way)
    for epsilon, reached in ((1.06 * least, True), (0.999 * least, False)):
        chosen = FabSettings(norm=norm, epsilon=f"{epsilon:.12f}", steps=30)
        made = fab(Oracle(model, 1), x, goal, chosen, draws(1))
        assert made.reached.tolist() == [reached]
    assert goal.reached(model(made.images), rows).tolist() == [False]


@pytest.mark.parametrize("multi", [False, True])
def test_an_image_does_not_depend_on_its_batch(multi: bool):
    net, n = network(), 10
    x = pixels(n)
    y = guesses(net, x)
    chosen = FabSettings(epsilon="1/20", steps=4, restarts=2, multi_target=multi, target_classes=2)
    whole = fab(Oracle(net, n), x, Goal(y), chosen, draws(n))
    assert 0 < int(whole.reached.sum()) < n
    order = torch.randperm(n, generator=generator(3))
    for rows in (order, order[:5], order[5:]):
        part = fab(Oracle(net, len(rows)), x[rows], Goal(y[rows]), chosen, draws(n).take(rows))
        torch.testing.assert_close(part.images, whole.images[rows], rtol=0, atol=1e-10)
        assert torch.equal(part.reached, whole.reached[rows])
        assert torch.equal(part.queries, whole.queries[rows])


def test_what_has_crossed_is_not_asked_about_again():
    net, x, asked = network(), pixels(10), []

    def model(t: Tensor) -> Tensor:
        asked.append(len(t))
        return net(t)

    oracle = Oracle(model, 10)
    chosen = FabSettings(epsilon="1/20", steps=4)
    made = fab(oracle, x, Goal(guesses(net, x)), chosen, draws(10))
    assert asked[0] == 10
    assert asked[-1] == int((~made.reached).sum()) < 10
    assert sum(asked) == int(oracle.forwards.sum())
    assert int(oracle.forwards.max()) == 1 + 4 * 4 * 2
    assert int(oracle.backwards.max()) == 4 * 4


def test_all_classes_are_looked_at_some_images_at_a_time(monkeypatch: pytest.MonkeyPatch):
    net, x = network(), pixels()
    y = guesses(net, x)
    chosen = FabSettings(epsilon="1/50", steps=3, multi_target=False)
    whole = fab(Oracle(net, N), x, Goal(y), chosen, draws())
    monkeypatch.setattr(fab_module, "JACOBIAN_VALUES", 2 * 5 * 192)
    asked = []

    def model(t: Tensor) -> Tensor:
        asked.append(len(t))
        return net(t)

    parts = fab(Oracle(model, N), x, Goal(y), chosen, draws())
    torch.testing.assert_close(parts.images, whole.images, rtol=0, atol=1e-12)
    assert asked[:5] == [5, 2, 2, 1, 5]
