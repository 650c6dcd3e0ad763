"""Images to measure on where what they show is no matter. Must not measure."""

from __future__ import annotations

import torch

from rome_core.data import Dataset
from rome_core.randomness import generator

SEED = 0


def random_pixels(per_class: int = 512) -> Dataset:
    """Noise in the shape of CIFAR-10: what the passes cost does not depend on the pixels."""
    labels = torch.arange(10).repeat_interleave(per_class)
    images = torch.rand(len(labels), 3, 32, 32, generator=generator(SEED, "benchmark pixels"))
    return Dataset(
        name="random",
        train_images=images,
        train_labels=labels,
        test_images=images[:0],
        test_labels=labels[:0],
        mean=torch.full((3,), 0.5),
        std=torch.full((3,), 0.25),
        classes=10,
        class_names=tuple(str(label) for label in range(10)),
        digests={},
        split="",
    )
