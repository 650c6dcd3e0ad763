"""AutoAttack against its stages run by hand, each on copies of what the others left."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rome_core.attacks import Domain, Goal, Oracle, adapt, norms
from rome_core.attacks.autoattack import autoattack, run_stage
from rome_core.attacks.catalogue import attack
from rome_core.attacks.outcome import Attacked, begin
from rome_core.errors import CoreError
from rome_core.networks import build
from rome_core.randomness import ImageDraws, generator
from rome_core.recipes.attacks import ApgdSettings, AutoAttackSettings
from rome_core.recipes.autoattack import stages
from rome_core.space import Normalised

N = 6


def network(classes: int = 5, seed: int = 0) -> nn.Module:
    made = build("convnet-d1-w8", channels=3, size=8, classes=classes, generator=generator(seed))
    return made.double().eval()


def pixels(n: int = N) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=generator(1), dtype=torch.float64)


def guesses(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Labels that every image is right about."""
    with torch.no_grad():
        return net(x.clamp(0, 1)).argmax(dim=1)


def settings(version: str = "standard", **more: object) -> AutoAttackSettings:
    words = {"epsilon": "12/255", "version": version, "steps": 5, "queries": 20, **more}
    return AutoAttackSettings.model_validate(words)


def draws(n: int = N) -> ImageDraws:
    return ImageDraws(3, "autoattack", images=torch.arange(n))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_it_is_its_stages_each_on_what_is_left(version: str, norm: str):
    net, x = network(), pixels()
    y = guesses(net, x)
    y[0] = (y[0] + 1) % 5  # wrong to begin with
    chosen = settings(version, norm=norm, epsilon={"linf": "1/20", "l2": "3/5"}[norm])
    oracle = Oracle(net, N)
    made = autoattack(oracle, x, Goal(y), chosen, draws())
    images, reached, spent = x.clone(), guesses(net, x) != y, torch.ones(N).long()
    queries = torch.where(reached, 1, -1)
    backwards = torch.zeros(N).long()
    for name, stage in stages(chosen, 5):
        for i in (~reached).nonzero()[:, 0].tolist():
            alone = Oracle(net, 1)
            own = ImageDraws(3, "autoattack", name, images=torch.tensor([i]))
            one = attack(alone, x[i : i + 1], Goal(y[i : i + 1]), stage, own)
            spent[i] += alone.forwards[0]
            backwards[i] += alone.backwards[0]
            if one.reached[0] or name == "apgd-ce":
                images[i] = one.images[0]
            if one.reached[0]:
                reached[i], queries[i] = True, spent[i]
    torch.testing.assert_close(made.images, images, rtol=0, atol=1e-9)
    assert torch.equal(made.reached, reached)
    assert torch.equal(made.queries, queries)
    assert torch.equal(oracle.forwards, spent)
    assert torch.equal(oracle.backwards, backwards)
    assert reached[1:].any()
    assert not reached.all()


def test_stages_run_one_by_one_and_resumed_are_the_same():
    """As an evaluation does that saves what it has after each."""
    net, x = network(), pixels()
    y, chosen = guesses(net, x), settings(epsilon="1/20")
    y[1] = (y[1] + 1) % 5  # wrong to begin with
    goal = Goal(y)
    whole, held = Oracle(net, N), {}
    made = autoattack(whole, x, goal, chosen, draws(), held=held)
    oracle = Oracle(net, N)
    done, logits = begin(oracle, x, goal)
    broken_by = torch.where(done.reached, 0, -1)
    for number, (name, stage) in enumerate(stages(chosen, logits.shape[1])):
        saved = (done.images, done.reached, done.queries, oracle.forwards, oracle.backwards)
        images, reached, queries, forwards, backwards = (t.clone() for t in saved)
        oracle, done = Oracle(net, N), Attacked(images, reached, queries)
        oracle.recall(forwards, backwards)
        run_stage(oracle, x, goal, stage, draws().under(name), done, first=number == 0)
        broken_by[done.reached & ~saved[1]] = number + 1
    assert torch.equal(held["broken_by"], broken_by)
    assert broken_by.tolist() == [2, 0, -1, -1, -1, 2]
    assert torch.equal(done.images, made.images)
    assert torch.equal(done.reached, made.reached)
    assert torch.equal(done.queries, made.queries)
    assert torch.equal(oracle.forwards, whole.forwards)
    assert torch.equal(oracle.backwards, whole.backwards)


def test_interrupted_it_still_knows_what_broke_an_image():
    net, x = network(), pixels()
    goal, chosen = Goal(guesses(net, x)), settings(epsilon="1/20")
    whole: dict[str, object] = {}
    autoattack(Oracle(net, N), x, goal, chosen, draws(), held=whole)
    held: dict[str, object] = {}

    def poll():
        if held.get("stages", 0) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        autoattack(Oracle(net, N, poll=poll), x, goal, chosen, draws(), held=held)
    autoattack(Oracle(net, N), x, goal, chosen, draws(), held=held)
    assert torch.equal(held["broken_by"], whole["broken_by"])
    assert 0 < int((whole["broken_by"] == 2).sum()) < N


def test_an_image_does_not_depend_on_its_batch():
    net, x = network(), pixels()
    y, chosen = guesses(net, x), settings(epsilon="1/20")
    whole = attack(Oracle(net, N), x, Goal(y), chosen, draws())
    assert 0 < int(whole.reached.sum()) < N
    order = torch.randperm(N, generator=generator(3))
    for rows in (order, order[:2], order[2:]):
        part = attack(Oracle(net, len(rows)), x[rows], Goal(y[rows]), chosen, draws().take(rows))
        torch.testing.assert_close(part.images, whole.images[rows], rtol=0, atol=1e-9)
        assert torch.equal(part.reached, whole.reached[rows])
        assert torch.equal(part.queries, whole.queries[rows])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_few_classes(version: str, classes: int):
    net, x = network(classes), pixels()
    y, chosen = guesses(net, x), settings(version, epsilon={2: "1/20", 3: "1/100"}[classes])
    made = autoattack(Oracle(net, N), x, Goal(y), chosen, draws())
    assert 0 < int(made.reached.sum()) < N
    assert torch.equal(guesses(net, made.images) != y, made.reached)


def test_what_nothing_breaks_keeps_the_point_of_the_highest_cross_entropy():
    net, x = network(), pixels(2)
    y, chosen = guesses(net, x), settings(epsilon="1/1000")
    made = autoattack(Oracle(net, 2), x, Goal(y), chosen, draws(2))
    alone = attack(
        Oracle(net, 2), x, Goal(y), ApgdSettings(epsilon="1/1000", steps=5),
        draws(2).under("apgd-ce"),
    )  # fmt: skip
    assert not made.reached.any()
    assert torch.equal(made.images, alone.images)
    assert (F.cross_entropy(net(made.images), y) > F.cross_entropy(net(x), y)).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_budget_is_never_exceeded(norm: str, dtype: torch.dtype):
    net, x = network().to(dtype), pixels().to(dtype)
    chosen = settings(norm=norm, epsilon="1/20")
    made = autoattack(Oracle(net, N), x, Goal(guesses(net, x)), chosen, draws()).images
    sizes = dict(zip(("linf", "l2"), norms.sizes(x, made), strict=True))[norm]
    assert made.dtype == dtype
    assert sizes.max() <= 1 / 20 + 4 * torch.finfo(dtype).eps
    assert made.min() >= 0
    assert made.max() <= 1


def test_the_reference_domain_is_clamped():
    space = Normalised.of((0.49, 0.48, 0.44), (0.2, 0.21, 0.22))
    seen = adapt(network(seed=1), Domain.REFERENCE, space)
    x = seen.to_input(pixels())
    y = guesses(seen.model, x)
    made = autoattack(Oracle(seen.model, N), x, Goal(y), settings(epsilon="1/10"), draws())
    out_of_reach = (x < -1 / 10) | (x > 1 + 1 / 10)
    assert made.reached.any()
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    assert torch.equal(made.images[out_of_reach], x.clamp(0, 1)[out_of_reach])


def test_a_targeted_goal_is_refused():
    net, x = network(), pixels(2)
    y = guesses(net, x)
    with pytest.raises(CoreError, match="untargeted") as refusal:
        autoattack(Oracle(net, 2), x, Goal(y, (y + 1) % 5), settings(), draws(2))
    assert refusal.value.code == "attack_unsuitable"


def test_an_interruption_leaves_nothing_running():
    """`poll` is asked before the passes of every stage."""
    net, x, calls = network(), pixels(2), []

    class Enough(Exception):
        pass

    def poll() -> None:
        calls.append(1)
        if len(calls) == 40:
            raise Enough

    oracle = Oracle(net, 2, poll=poll)
    with pytest.raises(Enough):
        autoattack(oracle, x, Goal(guesses(net, x)), settings(epsilon="1/1000"), draws(2))
    assert oracle.forwards.tolist() == [39, 39]
