"""Student training against the published recipe, and each student against itself alone."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from rome_core import augment
from rome_core.evaluation.students import Student, TrainingSet
from rome_core.networks import build
from rome_core.randomness import generator
from rome_core.recipes.evaluate import Students
from rome_core.synthetic import SyntheticSet

NETWORK = "convnet-d1-w4"


def training(
    n: int = 12, *, augmentation: str = "color_crop_cutout_flip_scale_rotate"
) -> TrainingSet:
    draws = torch.Generator().manual_seed(5)
    return TrainingSet(
        torch.randn(n, 1, 8, 8, generator=draws), torch.arange(n) % 3, 3, augmentation
    )


def recipe(epochs: int, **changes: object) -> Students:
    return Students.model_validate({"network": NETWORK, "epochs": epochs, **changes})


def student(epochs: int, *, number: int = 0, batch: int = 256) -> Student:
    return Student(training(), recipe(epochs, batch=batch), seed=7, number=number)


def weights(made: Student) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in made.network.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_thousand_epochs_are_1001_and_the_rate_drops_after_index_501() -> None:
    plain = training(augmentation="none")
    epochs = list(Student(plain, recipe(1000), seed=7, number=0).train())
    rates = [epoch.learning_rate for epoch in epochs]
    assert len(rates) == 1001
    assert rates[:502] == [0.01] * 502
    assert rates[502:] == pytest.approx([0.001] * 499)
    assert [epoch.index for epoch in epochs] == list(range(1001))


def test_the_optimiser_forgets_its_momentum_at_the_drop_and_only_there() -> None:
    made = student(10)
    held = [bool(made.state_dict()["optimiser"]["state"]) for _ in made.train()]
    # E = 10: the drop comes after epoch index 6.
    assert held == [True] * 6 + [False] + [True] * 4


def naive(epochs: int, batch: int) -> dict[str, torch.Tensor]:
    """The published loop with SGD written out, fed the same draws."""
    data = training()
    net = build(
        NETWORK, channels=1, size=8, classes=3, generator=generator(7, "student", 0, "network")
    )
    rate, velocity = 0.01, dict[str, torch.Tensor]()
    for epoch in range(epochs + 1):
        draws = generator(7, "student", 0, "epoch", epoch)
        order = torch.randperm(len(data.images), generator=draws)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            rows = augment.draw(
                data.augmentation, len(chosen), size=8, generator=draws, siamese=False
            )
            loss = F.cross_entropy(
                net(augment.apply(data.images[chosen], rows)), data.labels[chosen]
            )
            net.zero_grad()
            loss.backward()
            with torch.no_grad():
                for name, p in net.named_parameters():
                    assert p.grad is not None
                    gradient = p.grad + 5e-4 * p
                    old = velocity.get(name)
                    velocity[name] = gradient if old is None else 0.9 * old + gradient
                    p -= rate * velocity[name]
        if epoch == epochs // 2 + 1:
            rate *= 0.1
            velocity.clear()
    return dict(net.state_dict())


def test_the_loop_equals_a_naive_one_with_partial_batches() -> None:
    made = student(8, batch=5)
    list(made.train())
    for name, value in naive(8, 5).items():
        assert torch.allclose(weights(made)[name], value, rtol=1e-4, atol=1e-6), name


def test_each_student_equals_that_student_alone() -> None:
    together = [student(6, number=number) for number in range(3)]
    for made in together:
        list(made.train())
    alone = student(6, number=2)
    list(alone.train())
    assert equal(weights(together[2]), weights(alone))
    assert not equal(weights(together[0]), weights(together[1]))


@pytest.mark.parametrize("stop", [1, 5, 6, 7, 10])
def test_a_resumed_student_equals_an_undisturbed_one(stop: int) -> None:
    whole = student(10)
    list(whole.train())
    first = student(10)
    assert len(list(islice(first.train(), stop))) == stop
    second = student(10)
    second.load_state_dict(first.state_dict())
    assert len(list(second.train())) == 11 - stop
    assert equal(weights(second), weights(whole))


def test_training_learns_something() -> None:
    data = training(augmentation="none")
    images = data.images + 3 * F.one_hot(data.labels, 8).view(-1, 1, 1, 8)
    made = Student(TrainingSet(images, data.labels, 3, "none"), recipe(60), seed=1, number=0)
    epochs = list(made.train())
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    assert epochs[-1].accuracy == 1


def test_a_packed_set_is_decoded_first() -> None:
    packed = SyntheticSet(
        images=torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)),
        labels=torch.tensor([0, 0, 1, 1]),
        factor=2,
        dataset="digits",
        classes=2,
        ipc=2,
        mean=(0.5,),
        std=(0.5,),
        augmentation="flip",
        learning_rate=0.01,
        method="random",
    )
    decoded = TrainingSet.of(packed)
    assert decoded.images.shape == (16, 1, 8, 8)
    assert decoded.labels.tolist() == [0, 0, 1, 1] * 4
    assert decoded.augmentation == "flip"
    assert TrainingSet.of(packed, augmentation="none").augmentation == "none"
