"""A user's own images as a dataset: the split where they bring none, statistics, checks.

Owns what must hold however they were stored. Must not read files.
"""

from collections.abc import Mapping

import numpy as np
import torch

from rome_core.data.dataset import EVERY_FIFTH, Dataset, is_test, pixels
from rome_core.data.original import Labelled
from rome_core.recipes.augmentation import OBJECTS, SIGNS


def own_dataset(
    name: str,
    train: Labelled,
    test: Labelled | None,
    split: str,
    *,
    class_names: tuple[str, ...] | None,
    digests: Mapping[str, str],
) -> Dataset:
    """The dataset of images of one shape, statistics measured on those of training, per channel.

    `split` says whose `test` is; without one every fifth image of each class is a test image.
    Without names a class is called by its number.

    Raises ValueError with what is wrong, as the end of a sentence.
    """
    images, labels = train
    if test is None:
        taken = is_test(labels)
        test = images[taken], labels[taken]
        images, labels = images[~taken], labels[~taken]
        split = EVERY_FIFTH
    test_images, test_labels = test
    counts = np.bincount(labels)
    classes = len(counts)
    if classes < 2 or not counts.all():
        raise ValueError("labels must be 0 to C-1 with every class present and C at least 2")
    if not len(test_labels) or test_labels.max() >= classes:
        raise ValueError("there are no test images, or one of a class without training images")
    if class_names is None:
        class_names = tuple(str(label) for label in range(classes))
    if len(class_names) != classes:
        raise ValueError(f"class_names must be {classes} strings")
    pixels_of_training = pixels(images)
    std, mean = torch.std_mean(pixels_of_training.to(torch.float64), dim=(0, 2, 3), correction=0)
    return Dataset(
        name=name,
        train_images=pixels_of_training,
        train_labels=torch.from_numpy(labels),
        test_images=pixels(test_images),
        test_labels=torch.from_numpy(test_labels),
        mean=mean,
        # A channel that never changes carries nothing; 1 keeps it finite.
        std=torch.where(std > 0, std, 1.0),
        classes=classes,
        class_names=class_names,
        digests=digests,
        split=split,
        # Many grey images are signs, which a mirror would change.
        augmentation=SIGNS if images.shape[1] == 1 else OBJECTS,
    )
