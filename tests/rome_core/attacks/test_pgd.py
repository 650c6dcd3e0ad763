"""PGD and FGSM as attacks: restarts, early stop, L2 and losses, against loops of their own in
float64, image by image, and against what is known in closed form.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rome_core.attacks import Domain, Goal, Oracle, adapt, norms
from rome_core.attacks.fgsm import fgsm
from rome_core.attacks.outcome import Attacked
from rome_core.attacks.pgd import pgd
from rome_core.errors import CoreError
from rome_core.networks import build
from rome_core.randomness import ImageDraws, generator
from rome_core.recipes.attacks import FgsmSettings, PgdSettings
from rome_core.space import Normalised

SPACE = Normalised.of((0.49, 0.48, 0.44), (0.2, 0.21, 0.22))
N, CLASSES, SIZE = 8, 5, 3 * 8 * 8
SHAPE = (3, 8, 8)
NORMS, LOSSES = ["linf", "l2"], ["ce", "dlr", "margin"]
RADII: dict[str, dict[str, Any]] = {
    "linf": {"norm": "linf", "epsilon": "12/255", "step": "4/255"},
    "l2": {"norm": "l2", "epsilon": "1/2", "step": "1/6"},
}

Plain = Callable[[Tensor], Tensor]


def network(seed: int = 0, classes: int = CLASSES) -> nn.Module:
    """Rugged, unlike untrained ones: starts and steps matter."""
    made = build("convnet-d1-w8", channels=3, size=8, classes=classes, generator=generator(seed))
    with torch.no_grad():
        for value in made.parameters():
            value += 0.5 * torch.randn(value.shape, generator=generator(seed, "rugged"))
    return made.double().eval()


def pixels(n: int = N) -> Tensor:
    return torch.rand(n, *SHAPE, generator=generator(1), dtype=torch.float64)


def guesses(model: Plain, x: Tensor) -> Tensor:
    """Labels that every image is right about."""
    with torch.no_grad():
        return model(x.clamp(0, 1)).argmax(dim=1)


def draws(images: Tensor) -> ImageDraws:
    return ImageDraws(0, "pgd", images=images)


def run(
    model: Plain, x: Tensor, goal: Goal, chosen: PgdSettings, images: Tensor | None = None
) -> tuple[Attacked, Oracle]:
    oracle = Oracle(model, len(x))
    images = torch.arange(len(x)) if images is None else images
    return pgd(oracle, x, goal, chosen, draws(images)), oracle


def climbed(name: str, logits: Tensor, label: int, target: int | None) -> Tensor:
    """One image's loss from its logits (classes,)."""
    towards = label if target is None else target
    others = torch.cat([logits[:towards], logits[towards + 1 :]]).max()
    ordered = logits.sort(descending=True).values
    if name == "dlr" and target is not None:
        scale = ordered[0] - (ordered[2] + ordered[3]) / 2
        return (logits[target] - logits[label]) / (scale + 1e-12)
    flight = {
        "ce": -F.log_softmax(logits, dim=0)[towards],
        "dlr": (others - logits[towards]) / (ordered[0] - ordered[2] + 1e-12),
        "margin": others - logits[towards],
    }[name]
    return flight if target is None else -flight


def start(chosen: PgdSettings, number: int, restart: int) -> Tensor:
    """Uniform in the ball, from the numbers of one image."""
    one, rows, epsilon = draws(torch.tensor([number])), torch.tensor([0]), radius(chosen)
    if chosen.norm == "linf":
        unit = one.uniform(rows, SHAPE, "start", restart)[0].double()
        return (2 * unit - 1) * epsilon
    direction = one.normal(rows, SHAPE, "start", restart)[0].double()
    share = one.uniform(rows, (1, 1, 1), "start radius", restart)[0].double()
    return direction / direction.norm() * share ** (1 / SIZE) * epsilon


def radius(chosen: PgdSettings) -> float:
    return float(Fraction(chosen.epsilon))


def naive(
    model: Plain, x: Tensor, label: int, target: int | None, chosen: PgdSettings, number: int
) -> tuple[bool, Tensor, int, int]:
    """One image: whether the goal was reached, the image, forward and backward passes."""
    epsilon, step = radius(chosen), float(Fraction(chosen.step))
    forwards, backwards, highest, best = 0, 0, -torch.inf, x

    def reached(logits: Tensor) -> bool:
        first = int(logits.argmax())
        return first != label if target is None else first == target

    for restart in range(chosen.restarts if chosen.random_start else 1):
        image = x
        if chosen.random_start:
            image = (x + start(chosen, number, restart)).clamp(0, 1)
        for _ in range(chosen.steps):
            leaf = image.clone().requires_grad_()
            logits = model(leaf[None])[0]
            (slope,) = torch.autograd.grad(climbed(chosen.loss, logits, label, target), leaf)
            forwards, backwards = forwards + 1, backwards + 1
            if chosen.early_stop and reached(logits):
                return True, image, forwards, backwards
            if chosen.norm == "linf":
                change = (image + step * slope.sign() - x).clamp(-epsilon, epsilon)
            else:
                change = image + step * slope / slope.norm() - x
                change = change * min(1.0, epsilon / float(change.norm()))
            image = (x + change).clamp(0, 1)
        logits = model(image[None])[0].detach()
        forwards += 1
        if reached(logits):
            return True, image, forwards, backwards
        height = float(climbed(chosen.loss, logits, label, target))
        if height >= highest:
            highest, best = height, image
    return False, best, forwards, backwards


# Where an image goes on after it has been reached, `dlr` may come to where it is constant, which is
# where the label is third, and go by rounding from there.
@pytest.mark.parametrize(
    ("loss", "early_stop"),
    [("ce", True), ("dlr", True), ("margin", True), ("ce", False), ("margin", False)],
)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("domain", list(Domain))
def test_pgd_is_its_definition(
    domain: Domain, norm: str, loss: Any, targeted: bool, early_stop: bool
):
    seen = adapt(network(), domain, SPACE)
    x = seen.to_input(pixels())
    y = guesses(seen.model, x)
    aims = (y + 2) % CLASSES if targeted else None
    chosen = PgdSettings(**RADII[norm], steps=4, restarts=3, loss=loss, early_stop=early_stop)
    made, oracle = run(seen.model, x, Goal(y, aims), chosen)
    for i in range(N):
        target = None if aims is None else int(aims[i])
        hit, image, forwards, backwards = naive(seen.model, x[i], int(y[i]), target, chosen, i)
        torch.testing.assert_close(made.images[i], image, rtol=0, atol=1e-11)
        assert bool(made.reached[i]) == hit
        assert int(made.queries[i]) == (forwards if hit else -1)
        assert int(oracle.forwards[i]) == forwards
        assert int(oracle.backwards[i]) == backwards
    assert made.images.min() >= 0
    assert made.images.max() <= 1


def test_the_cases_above_are_not_all_alike():
    """Some images are reached and some are not, in a first, in a later and in no restart."""
    net, x = network(), pixels(40)
    y, chosen = guesses(net, x), PgdSettings(**RADII["linf"], steps=3, restarts=3)
    made, oracle = run(net, x, Goal(y), chosen)
    assert 0 < made.reached.sum() < 40
    passes = made.queries[made.reached]
    assert (passes <= 4).any()
    assert (passes > 4).any()
    assert oracle.forwards[~made.reached].tolist() == [12] * int((~made.reached).sum())


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_are_for_what_is_left(norm: str):
    net, x = network(), pixels(30)
    y = guesses(net, x)
    first, _ = run(net, x, Goal(y), PgdSettings(**RADII[norm], steps=3))
    third, oracle = run(net, x, Goal(y), PgdSettings(**RADII[norm], steps=3, restarts=3))
    early = first.reached
    assert 0 < early.sum() < 30
    assert torch.equal(third.images[early], first.images[early])
    assert torch.equal(third.queries[early], first.queries[early])
    assert (oracle.forwards[early] <= 4).all()
    assert (oracle.forwards[~early] > 4).all()
    assert (third.reached | ~early).all()


def test_without_a_random_start_there_is_one():
    net, x = network(), pixels()
    goal = Goal(guesses(net, x))
    chosen = PgdSettings(epsilon="1/255", step="1/2550", steps=2, random_start=False, restarts=5)
    made, oracle = run(net, x, goal, chosen)
    once, _ = run(net, x, goal, chosen.model_copy(update={"restarts": 1}))
    assert torch.equal(made.images, once.images)
    assert not made.reached.all()
    assert oracle.forwards[~made.reached].unique().tolist() == [3]


def test_a_failure_keeps_the_highest_of_its_restarts():
    """Not the last: another restart may have ended lower."""
    net, x = network(), pixels(30)
    y = guesses(net, x)
    tiny: dict[str, Any] = {"epsilon": "2/255", "step": "1/2550", "steps": 1}
    tries = [
        run(net, x, Goal(y), PgdSettings(**tiny, restarts=count, early_stop=False))[0]
        for count in (1, 2, 3, 4)
    ]
    left = ~tries[-1].reached
    assert left.sum() > 10
    rows = torch.arange(30)
    heights = torch.stack([Goal(y).loss("ce")(net(made.images), rows) for made in tries])
    assert (heights.diff(dim=0)[:, left] >= 0).all()
    kept = (heights.diff(dim=0)[:, left] == 0).double().mean()
    assert 0 < kept < 1  # some later starts were higher, and some lower


def test_early_stop_lets_images_go_at_once():
    net, x = network(), pixels(20)
    sizes: list[int] = []

    def model(t: Tensor) -> Tensor:
        sizes.append(len(t))
        return net(t)

    y = guesses(net, x)
    y[:4] = (y[:4] + 1) % CLASSES
    chosen = PgdSettings(**RADII["linf"], steps=5, random_start=False)
    made, oracle = run(model, x, Goal(y), chosen)
    assert sizes[:2] == [20, 16]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == int(oracle.forwards.sum())
    assert made.queries[:4].tolist() == [1] * 4
    assert torch.equal(made.images[:4], x[:4])
    sizes.clear()
    late, counted = run(model, x, Goal(y), chosen.model_copy(update={"early_stop": False}))
    assert sizes == [20] * 6
    assert counted.forwards.tolist() == [6] * 20
    assert counted.backwards.tolist() == [5] * 20
    assert late.queries[late.reached].unique().tolist() == [6]


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_model_of_two_classes_is_attacked_optimally(norm: str, targeted: bool, loss: Any):
    """Its losses are monotone in one linear map: the farthest point of the ball is known."""
    weights = torch.randn(2, SIZE, generator=generator(6), dtype=torch.float64) / 20
    x = pixels(4) * 0.5 + 0.25  # no budget reaches the walls of [0, 1]
    y = torch.tensor([0, 1, 1, 0])
    chosen = PgdSettings(**RADII[norm], steps=60, loss=loss, early_stop=False)
    goal = Goal(y, 1 - y if targeted else None)
    made, _ = run(lambda t: t.flatten(1) @ weights.T, x, goal, chosen)
    normal = (weights[1] - weights[0]).view(SHAPE)
    unit = normal.sign() if norm == "linf" else normal / normal.norm()
    sides = torch.where(y == 0, 1, -1).view(-1, 1, 1, 1)
    expected = x + sides * unit * radius(chosen)
    torch.testing.assert_close(made.images, expected, rtol=0, atol=1e-5)


def test_fgsm_of_the_same_is_at_its_corner_with_two_passes():
    weights = torch.randn(2, SIZE, generator=generator(6), dtype=torch.float64)
    x = pixels(4) * 0.5 + 0.25
    y = torch.tensor([0, 1, 1, 0])
    normal = (weights[1] - weights[0]).view(SHAPE)
    expected = x + torch.where(y == 0, 1, -1).view(-1, 1, 1, 1) * normal.sign() * 8 / 255

    def model(t: Tensor) -> Tensor:
        return t.flatten(1) @ weights.T

    for goal in (Goal(y), Goal(y, 1 - y)):
        oracle = Oracle(model, 4)
        made = fgsm(oracle, x, goal, FgsmSettings(), draws(torch.arange(4)))
        torch.testing.assert_close(made.images, expected, rtol=0, atol=1e-12)
        assert oracle.forwards.tolist() == [2] * 4
        assert oracle.backwards.tolist() == [1] * 4
        assert torch.equal(made.reached, model(expected).argmax(dim=1) != y)
        assert made.queries.tolist() == [2 if hit else -1 for hit in made.reached.tolist()]


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_an_image_has_one_outcome_in_whatever_batch(norm: str, early_stop: bool):
    net, x = network(), pixels()
    y = guesses(net, x)
    chosen = PgdSettings(**RADII[norm], steps=4, restarts=2, early_stop=early_stop)
    whole, oracle = run(net, x, Goal(y), chosen)
    plain = fgsm(Oracle(net, N), x, Goal(y), FgsmSettings(), draws(torch.arange(N)))
    for rows in (torch.tensor([5, 2, 7, 0, 1, 6, 3, 4]), torch.arange(3), torch.arange(3, N)):
        part, counted = run(net, x[rows], Goal(y[rows]), chosen, images=rows)
        torch.testing.assert_close(part.images, whole.images[rows], rtol=0, atol=1e-12)
        assert torch.equal(part.queries, whole.queries[rows])
        assert torch.equal(counted.forwards, oracle.forwards[rows])
        few = fgsm(Oracle(net, len(rows)), x[rows], Goal(y[rows]), FgsmSettings(), draws(rows))
        torch.testing.assert_close(few.images, plain.images[rows], rtol=0, atol=1e-12)


@given(
    epsilon=st.integers(0, 60),
    step=st.integers(0, 60),
    steps=st.integers(1, 3),
    restarts=st.integers(1, 2),
    norm=st.sampled_from(NORMS),
    loss=st.sampled_from(LOSSES),
    random_start=st.booleans(),
    early_stop=st.booleans(),
    targeted=st.booleans(),
    single=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=50, deadline=None)
def test_the_budget_is_never_exceeded(
    epsilon: int,
    step: int,
    steps: int,
    restarts: int,
    norm: Any,
    loss: Any,
    random_start: bool,
    early_stop: bool,
    targeted: bool,
    single: bool,
    seed: int,
):
    dtype = torch.float32 if single else torch.float64
    net, x = network(seed).to(dtype), pixels(3).to(dtype)
    x[0, :, :4], x[1, :, :4] = 0, 1
    y = guesses(net, x)
    scale = 255 if norm == "linf" else 30
    chosen = PgdSettings(
        norm=norm, epsilon=f"{epsilon}/{scale}", step=f"{step}/{scale}", steps=steps, loss=loss,
        restarts=restarts, random_start=random_start, early_stop=early_stop,
    )  # fmt: skip
    goal = Goal(y, (y + 1) % CLASSES if targeted else None)
    made, _ = run(net, x, goal, chosen)
    assert made.images.dtype == dtype
    linf, l2 = norms.sizes(x, made.images)
    farthest = linf.max() if norm == "linf" else l2.max()
    assert farthest <= radius(chosen) + 20 * torch.finfo(dtype).eps
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    logits = net(made.images).sort(dim=1, descending=True).values
    sure = logits[:, 0] - logits[:, 1] > 1e-4
    hit = goal.reached(net(made.images), torch.arange(3))
    assert torch.equal(made.reached[sure], hit[sure])


def test_the_ratio_loss_is_refused_where_it_is_constant():
    net, x = network(classes=2), pixels(2)
    goal = Goal(guesses(net, x))
    with pytest.raises(CoreError, match="fewer than 3 classes") as refusal:
        run(net, x, goal, PgdSettings(loss="dlr"))
    assert refusal.value.code == "attack_unsuitable"
    assert refusal.value.field == "loss"
    three = network(classes=3)
    y = guesses(three, x)
    assert run(three, x, Goal(y), PgdSettings(loss="dlr", epsilon="1/4"))[0].reached.any()
    with pytest.raises(CoreError, match="fewer than 4 classes"):
        run(three, x, Goal(y, (y + 1) % 3), PgdSettings(loss="dlr"))
    for loss in ("ce", "margin"):
        chosen = PgdSettings.model_validate({"loss": loss, "epsilon": "32/255", "step": "8/255"})
        assert run(net, x, goal, chosen)[0].reached.any()


def test_the_ratio_loss_does_not_know_scale_or_shift():
    logits = torch.randn(6, 5, generator=generator(8), dtype=torch.float64)
    rows = torch.arange(6)
    loss = Goal(logits.argmax(dim=1)).loss("dlr")
    moved = 7 * logits + 3
    torch.testing.assert_close(loss(moved, rows), loss(logits, rows), rtol=0, atol=1e-9)
    assert (loss(logits, rows) < 0).all()
    assert (loss(logits, rows) >= -1).all()


def test_the_ratio_loss_climbs_to_a_target_that_is_third():
    """There the ratio of the target alone is constant."""
    net, x = network(), pixels(30)
    ordered = net(x).argsort(dim=1, descending=True)
    goal = Goal(ordered[:, 0], ordered[:, 2])
    chosen = PgdSettings(loss="dlr", epsilon="1/4", step="1/16", steps=20)
    assert run(net, x, goal, chosen)[0].reached.double().mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_is_as_long_however_small_the_gradient(dtype: torch.dtype):
    direction = torch.randn(2, *SHAPE, generator=generator(9)).to(dtype)
    unit = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    for scale in (1e-30, 1.0, 1e30):
        torch.testing.assert_close(norms.steepest("l2", scale * direction), unit)
    assert not norms.steepest("l2", torch.zeros_like(direction)).any()


@pytest.mark.parametrize("norm", NORMS)
def test_starts_are_uniform_in_the_ball(norm: str):
    x = torch.zeros(2000, 1, 2, 2, dtype=torch.float64)
    one = ImageDraws(0, images=torch.arange(2000))
    made = norms.noise(norm, x, 0.5, one, 0, torch.arange(2000)).flatten(1)
    size = made.abs().amax(dim=1) if norm == "linf" else made.norm(dim=1)
    assert size.max() <= 0.5
    # The share of the ball's volume within a radius r is (r / epsilon) ** 4: uniform in [0, 1].
    share = ((size / 0.5) ** 4).sort().values
    assert (share - torch.linspace(0, 1, 2000, dtype=torch.float64)).abs().max() < 0.04
    assert made.mean(dim=0).abs().max() < 0.02
    other = norms.noise(norm, x, 0.5, one, 1, torch.arange(2000)).flatten(1)
    assert (other - made).abs().mean() > 0.05


def test_in_the_reference_domain_the_clamp_wins():
    seen = adapt(network(), "reference", SPACE)
    x = seen.to_input(pixels())
    y = guesses(seen.model, x)
    chosen = PgdSettings(**RADII["linf"], early_stop=False, random_start=False)
    made, _ = run(seen.model, x, Goal(y), chosen)
    far = (x < -radius(chosen)) | (x > 1 + radius(chosen))
    assert 0.5 < far.double().mean() < 0.9
    assert torch.equal(made.images[far], x.clamp(0, 1)[far])
    # In L2 what the clamp moves uses the whole ball up: little but the clamped image is left.
    chosen = PgdSettings(**RADII["l2"], early_stop=False, random_start=False)
    inert, _ = run(seen.model, x, Goal(y), chosen)
    assert (inert.images - x.clamp(0, 1)).abs().max() < 0.02
