"""A tiny dataset of the right kind: coloured, three classes, 8x8."""

import pytest
import torch

from rome_core.data import Dataset
from rome_core.randomness import generator


def tiny_dataset(classes: int = 3, per_class: int = 12, size: int = 8) -> Dataset:
    """Images that differ by class in their mean, with noise on top, in [0, 1]."""
    made = generator(0, "tiny dataset")
    labels = torch.arange(classes).repeat(per_class)
    base = torch.rand(classes, 3, size, size, generator=made)
    noise = torch.rand(len(labels), 3, size, size, generator=made)
    images = (0.6 * base[labels] + 0.4 * noise).contiguous()
    return Dataset(
        name="tiny",
        train_images=images,
        train_labels=labels,
        test_images=images[:classes],
        test_labels=labels[:classes],
        mean=images.mean(dim=(0, 2, 3)),
        std=images.std(dim=(0, 2, 3)),
        classes=classes,
        class_names=tuple(str(label) for label in range(classes)),
        digests={},
        split="made up",
    )


@pytest.fixture(scope="session")
def tiny() -> Dataset:
    return tiny_dataset()
