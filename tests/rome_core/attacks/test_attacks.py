"""PGD and FGSM against loops of their own in float64, and against what is known in closed form."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rome_core.attacks import Budget, Domain, Goal, Oracle, adapt, perturb, targets
from rome_core.attacks.fgsm import fgsm as fgsm_attack
from rome_core.attacks.gradient import Model
from rome_core.attacks.pgd import start_noise
from rome_core.errors import CoreError
from rome_core.networks import build
from rome_core.randomness import ImageDraws, generator
from rome_core.recipes.attacks import FgsmSettings
from rome_core.space import Normalised

MEAN, STD = (0.49, 0.48, 0.44), (0.2, 0.21, 0.22)
SPACE = Normalised.of(MEAN, STD)
PUBLISHED = Budget.of("8/255", "2/225", 10, True)


def network(seed: int = 0) -> nn.Module:
    made = build("convnet-d2-w8", channels=3, size=8, classes=10, generator=generator(seed))
    return made.double()


def pixels(n: int = 6) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=generator(1, n), dtype=torch.float64)


def labels(n: int = 6) -> Tensor:
    return torch.randint(0, 10, (n,), generator=generator(2, n))


def fgsm(
    model: Model, x: Tensor, y: Tensor, budget: Budget, *, targets: Tensor | None = None
) -> Tensor:
    settings = FgsmSettings(epsilon=str(budget.epsilon))
    draws = ImageDraws(0, images=torch.arange(len(x)))
    return fgsm_attack(Oracle(model, len(x)), x, Goal(y, targets), settings, draws).images


def naive_pgd(
    net: nn.Module, x0: Tensor, y: Tensor, noise: Tensor | None, *, targeted: bool, pixel: bool
) -> Tensor:
    """Image by image, step by step; `y` is the target or the label."""
    mean, std = (torch.tensor(s, dtype=torch.float64).view(3, 1, 1) for s in (MEAN, STD))
    epsilon, out = torch.tensor(8 / 255, dtype=torch.float64), []
    for i in range(len(x0)):
        start = x0[i]
        x = start if noise is None else (start + noise[i]).clamp(0, 1)
        for _ in range(10):
            x = x.clone().requires_grad_()
            logits = net(((x - mean) / std if pixel else x).unsqueeze(0))
            loss = F.cross_entropy(logits, y[i : i + 1])
            (gradient,) = torch.autograd.grad(-loss if targeted else loss, x)
            x = x.detach() + 2 / 225 * torch.sign(gradient)
            delta = torch.minimum(torch.maximum(x - start, -epsilon), epsilon)
            x = (start + delta).clamp(0, 1)
        out.append(x)
    return torch.stack(out)


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("rule", ["mod10", "untargeted"])
@pytest.mark.parametrize("domain", list(Domain))
def test_pgd_is_its_definition(domain: Domain, rule: str, random_start: bool):
    net, y = network(), labels()
    seen = adapt(net, domain, SPACE)
    x = seen.to_input(pixels())
    budget = Budget.of("8/255", "2/225", 10, random_start)
    noise = start_noise(x, budget, generator(3)) if random_start else None
    aim = targets(rule, y, 10)
    fast = perturb(seen.model, x, y, budget, generator(3), targets=aim)
    slow = naive_pgd(
        net, x, y if aim is None else aim, noise,
        targeted=aim is not None, pixel=domain is Domain.PIXEL,
    )  # fmt: skip
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    assert not torch.allclose(fast, x.clamp(0, 1), atol=1e-3)


@pytest.mark.parametrize("domain", list(Domain))
@pytest.mark.parametrize("rule", ["modC", "untargeted"])
def test_fgsm_is_its_definition(domain: Domain, rule: str):
    net, y = network(), labels()
    seen = adapt(net, domain, SPACE)
    x = seen.to_input(pixels()).requires_grad_()
    aim = targets(rule, y, 10)
    loss = F.cross_entropy(net(seen.to_normalised(x)), y if aim is None else aim)
    (gradient,) = torch.autograd.grad(loss, x)
    sign = gradient.sign() if aim is None else -gradient.sign()
    expected = (x.detach() + 8 / 255 * sign).clamp(0, 1)
    made = fgsm(seen.model, x, y, PUBLISHED, targets=aim)
    assert torch.equal(made, expected)
    assert not made.requires_grad


@pytest.mark.parametrize("rule", ["mod10", "untargeted"])
def test_attacks_serve_their_purpose(rule: str):
    net, y = network(), labels(16)
    seen = adapt(net, "pixel", SPACE)
    x, aim = pixels(16), targets(rule, labels(16), 10)
    made = perturb(seen.model, x, y, PUBLISHED, generator(4), targets=aim)
    before, after = (F.cross_entropy(seen.model(t), y if aim is None else aim) for t in (x, made))
    assert (after > before) if aim is None else (after < before)


def test_reference_domain_clamps_what_no_budget_reaches():
    """Acceptance list, d: values in [0, 1], and the clamp alone outside [-eps, 1 + eps]."""
    seen = adapt(network(), "reference", SPACE)
    x, y = seen.to_input(pixels()), labels()
    made = perturb(seen.model, x, y, PUBLISHED, generator(5), targets=targets("mod10", y, 10))
    epsilon = 8 / 255
    assert made.min() >= 0
    assert made.max() <= 1
    out_of_reach = (x < -epsilon) | (x > 1 + epsilon)
    assert 0.5 < out_of_reach.double().mean() < 0.9
    assert torch.equal(made[out_of_reach], x.clamp(0, 1)[out_of_reach])
    assert not torch.equal(made[~out_of_reach], x.clamp(0, 1)[~out_of_reach])


@given(
    epsilon=st.integers(0, 64),
    step=st.integers(0, 64),
    steps=st.integers(0, 4),
    random_start=st.booleans(),
    single=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_budget_is_never_exceeded(
    epsilon: int, step: int, steps: int, random_start: bool, single: bool, seed: int
):
    dtype = torch.float32 if single else torch.float64
    budget = Budget(Fraction(epsilon, 255), Fraction(step, 255), steps, random_start)
    net = network(seed).to(dtype)
    x, y = pixels(2).to(dtype), labels(2)
    for made in (perturb(net, x, y, budget, generator(seed)), fgsm(net, x, y, budget)):
        assert made.dtype == dtype
        assert (made - x).abs().max() <= epsilon / 255 + torch.finfo(dtype).eps
        assert made.min() >= 0
        assert made.max() <= 1


@pytest.mark.parametrize("targeted", [False, True])
def test_a_linear_model_of_two_classes_is_attacked_optimally(targeted: bool):
    """Its loss is monotone in the difference of two linear maps: the best corner is known."""
    weights = torch.randn(2, 192, generator=generator(6), dtype=torch.float64)
    x = pixels(4) * 0.8 + 0.1  # no budget reaches the walls of [0, 1]
    y = torch.tensor([0, 1, 1, 0])

    def model(t: Tensor) -> Tensor:
        return t.flatten(1) @ weights.T

    aim = 1 - y if targeted else None
    made = perturb(model, x, y, PUBLISHED, generator(7), targets=aim)
    direction = torch.where(y.eq(0)[:, None], weights[1] - weights[0], weights[0] - weights[1])
    optimum = x + 8 / 255 * direction.sign().view_as(x)
    torch.testing.assert_close(made, optimum, rtol=0, atol=1e-12)
    torch.testing.assert_close(fgsm(model, x, y, PUBLISHED, targets=aim), optimum)


def test_chunks_of_a_set_with_their_share_of_the_noise_equal_the_whole():
    net, x, y = network(), pixels(7), labels(7)
    noise = start_noise(x, PUBLISHED, generator(8))
    whole = perturb(net, x, y, PUBLISHED, generator(8))
    parts = [
        perturb(net, a, b, PUBLISHED, noise=c)
        for a, b, c in zip(x.split(3), y.split(3), noise.split(3), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)


def test_single_and_double_precision_share_their_noise():
    x = pixels(3)
    double, single = (start_noise(t, PUBLISHED, generator(9)) for t in (x, x.float()))
    assert double.abs().max() <= 8 / 255
    assert double.abs().max() > 0.03
    torch.testing.assert_close(double, single.double(), rtol=1e-6, atol=0)


def test_a_random_start_needs_something_random():
    with pytest.raises(ValueError, match="generator or its noise"):
        perturb(network(), pixels(), labels(), PUBLISHED)


def test_a_module_is_attacked_in_evaluation_mode_and_put_back():
    modes = []

    class Spy(nn.Flatten):
        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(x)

    spy = Spy()
    perturb(spy, pixels(), labels(), Budget.of(steps=1, random_start=False))
    assert modes == [False]
    assert spy.training


@pytest.mark.parametrize("domain", list(Domain))
def test_the_way_between_spaces(domain: Domain):
    seen = adapt(network(), domain, SPACE)
    x = pixels()
    mean, std = (torch.tensor(s, dtype=x.dtype).view(3, 1, 1) for s in (MEAN, STD))
    normalised = (x - mean) / std
    torch.testing.assert_close(seen.to_normalised(seen.to_input(x)), normalised)
    torch.testing.assert_close(seen.from_normalised(normalised), seen.to_input(x))
    torch.testing.assert_close(seen.model(seen.to_input(x)), network()(normalised))


def test_a_network_behind_its_normalisation_goes_into_evaluation_mode_too():
    net = build("convnet-d1-w8-batch", channels=3, size=8, classes=10, generator=generator(0))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    seen = adapt(net, "pixel", SPACE)
    perturb(seen.model, pixels().float(), labels(), PUBLISHED, generator(0))
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_an_unknown_domain_is_refused():
    with pytest.raises(ValueError, match="normalized"):
        adapt(network(), "normalized", SPACE)


@pytest.mark.parametrize(
    ("rule", "classes", "expected"),
    [("mod10", 10, [1, 0, 5]), ("modC", 10, [1, 0, 5]), ("mod10", 100, [1, 0, 5]),
     ("modC", 100, [1, 10, 5])],
)  # fmt: skip
def test_targets(rule: str, classes: int, expected: list[int]):
    aim = targets(rule, torch.tensor([0, 9, 4]), classes)
    assert aim is not None
    assert aim.tolist() == expected


def test_no_target_equals_its_label():
    for classes in (10, 37, 100):
        every = torch.arange(classes)
        for rule in ("mod10", "modC"):
            aim = targets(rule, every, classes)
            assert aim is not None
            assert not aim.eq(every).any()
            assert aim.max() < classes


def test_wrong_target_rules_are_refused():
    assert targets("untargeted", torch.arange(3), 3) is None
    with pytest.raises(CoreError, match="modC"):
        targets("mod10", torch.arange(3), 3)
    with pytest.raises(CoreError, match="Choose one of mod10"):
        targets("least_likely", torch.arange(3), 3)


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", Fraction(8, 255)), ("2/225", Fraction(2, 225)), ("0.5", Fraction(1, 2)), (0, 0)],
)
def test_budgets_are_exact(text: str | int, value: Fraction | int):
    assert Budget.of(epsilon=text).epsilon == value


@pytest.mark.parametrize("text", ["8/0", "-1/255", "eight", "nan", "1e-3", "", -1])
def test_what_is_no_budget_is_refused(text: str | int):
    with pytest.raises(ValueError):
        Budget.of(epsilon=text)


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="steps -1"):
        Budget.of(steps=-1)
