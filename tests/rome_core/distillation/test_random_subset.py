"""The random subset: real, different, of the right class, and the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rome_core import augment
from rome_core.data import Dataset
from rome_core.distillation.random_subset import RandomSubset
from rome_core.errors import CoreError
from rome_core.recipes.augmentation import SIGNS
from rome_core.recipes.random import RandomHyperparameters


def numbered(classes: int = 3, each: int = 9, size: int = 4, channels: int = 1) -> Dataset:
    """Every image is of one value, its own, so that it can be recognised."""
    n = classes * each
    values = torch.arange(n, dtype=torch.float32).div(n).view(n, 1, 1, 1)
    images = values.expand(n, channels, size, size).contiguous()
    labels = torch.arange(n) % classes
    return Dataset(
        name="numbered",
        train_images=images,
        train_labels=labels,
        test_images=images[:classes],
        test_labels=labels[:classes],
        mean=torch.full((channels,), 0.5, dtype=torch.float64),
        std=torch.full((channels,), 0.25, dtype=torch.float64),
        classes=classes,
        class_names=tuple("abcdefgh"[:classes]),
        digests={},
        split="",
    )


def drawn(dataset: Dataset, *, ipc: int, seed: int = 1, factor: int = 1) -> RandomSubset:
    method = RandomSubset(
        dataset, RandomHyperparameters.model_validate({"factor": factor}), ipc=ipc, seed=seed
    )
    method.step()
    return method


def origins(dataset: Dataset, images: torch.Tensor) -> list[int]:
    """Positions in the training set of images of one value each."""
    values = dataset.denormalise(images).mean(dim=(1, 2, 3)) * len(dataset.train_labels)
    return [int(value) for value in values.round()]


@pytest.mark.parametrize("factor", [1, 2])
def test_images_are_real_different_and_of_their_class(factor: int) -> None:
    dataset = numbered()
    synthetic = drawn(dataset, ipc=2, factor=factor).synthetic_set()
    assert synthetic.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert synthetic.images.shape == (6, 1, 4, 4)
    images, labels = synthetic.images, synthetic.labels
    if factor == 2:
        images, decoded = augment.expand(images, labels)
        assert decoded is not None
        labels = decoded
    positions = origins(dataset, images)
    assert len(set(positions)) == len(positions) == 6 * factor**2
    assert dataset.train_labels[positions].tolist() == labels.tolist()


def test_the_seed_decides() -> None:
    one, same, other = (drawn(numbered(), ipc=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.synthetic_set().images, same.synthetic_set().images)
    assert not torch.equal(one.synthetic_set().images, other.synthetic_set().images)


def test_state_goes_round() -> None:
    one, other = drawn(numbered(), ipc=2, seed=1), drawn(numbered(), ipc=2, seed=2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.synthetic_set().images, other.synthetic_set().images)


def test_a_class_too_small() -> None:
    drawn(numbered(each=8), ipc=2, factor=2)
    with pytest.raises(CoreError, match="at most 1") as caught:
        drawn(numbered(each=7), ipc=2, factor=2)
    assert (caught.value.code, caught.value.field) == ("class_too_small", "ipc")


def test_odd_images_do_not_pack() -> None:
    with pytest.raises(CoreError) as caught:
        drawn(numbered(size=5), ipc=1, factor=2)
    assert caught.value.field == "hyperparameters.factor"


def test_students_take_the_datasets_own_augmentation_unless_asked() -> None:
    signs = replace(numbered(), augmentation=SIGNS)
    assert drawn(signs, ipc=1).synthetic_set().augmentation == SIGNS
    asked = RandomSubset(signs, RandomHyperparameters(augmentation="flip"), ipc=1, seed=1)
    asked.step()
    assert asked.synthetic_set().augmentation == "flip"


def test_the_draw_is_the_one_it_always_was() -> None:
    """Sets drawn before coresets shared its code have these images."""
    plain = drawn(numbered(), ipc=3, seed=7).synthetic_set()
    assert origins(numbered(), plain.images) == [15, 18, 0, 4, 25, 7, 14, 23, 20]
    packed = drawn(numbered(), ipc=2, seed=7, factor=2).synthetic_set()
    assert origins(numbered(), augment.expand(packed.images)[0]) == [
        *(15, 9, 4, 19, 14, 8),
        *(18, 21, 25, 22, 23, 2),
        *(0, 3, 7, 1, 20, 5),
        *(6, 12, 16, 10, 11, 17),
    ]
