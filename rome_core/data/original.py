"""The original files of a published dataset: found, whole, and holding what the facts say.

Owns these checks and their errors. Must not know any file's format.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rome_core.data.dataset import Dataset, pixels
from rome_core.errors import CoreError
from rome_core.recipes.datasets import DatasetFacts, File

Labelled = tuple[npt.NDArray[np.generic], npt.NDArray[np.int64]]
"""Images (n, c, h, w), nearly always of bytes, and their labels (n,)."""


def present(facts: DatasetFacts, root: Path) -> list[File]:
    """The form in which each file of the dataset lies there, training files first.

    Raises CoreError dataset_missing, which names all that are not there.
    """
    found, missing = [], []
    for file in (*facts.train_files, *facts.test_files):
        there = next((form for form in file.forms if (root / form.path).is_file()), None)
        if there is None:
            missing.append(" or ".join(form.path for form in file.forms))
        else:
            found.append(there)
    if missing:
        raise CoreError(
            "dataset_missing",
            f"{facts.title} is not under the data root: {', '.join(missing)} not found in "
            f"{root.absolute()}.",
            facts.obtain,
            "dataset",
        )
    return found


def content(facts: DatasetFacts, file: File, root: Path, digests: dict[str, str]) -> bytes:
    """The bytes of a file, held against its published MD5; its SHA-256 joins the digests."""
    read = (root / file.path).read_bytes()
    if file.md5 not in (None, hashlib.md5(read, usedforsecurity=False).hexdigest()):
        raise damaged(facts, root / file.path, f"its MD5 is not the published {file.md5}")
    digests[file.path] = hashlib.sha256(read).hexdigest()
    return read


def checked(
    facts: DatasetFacts, path: Path, labelled: Labelled, per_class: Sequence[int]
) -> Labelled:
    """The images and labels, if their numbers are those of the facts; `path` is to blame if not."""
    images, labels = labelled
    shape = sum(per_class), *facts.shape
    if images.shape != shape or labels.shape != shape[:1]:
        raise damaged(facts, path, f"it holds images {images.shape} and not {shape}")
    if labels.min() < 0 or labels.max() >= facts.classes:
        raise damaged(facts, path, f"its labels are not 0 to {facts.classes - 1}")
    counts = np.bincount(labels, minlength=facts.classes)
    for label, (counted, known) in enumerate(zip(counts, per_class, strict=True)):
        if counted != known:
            why = f"it holds {counted:,} images of class {label} and not {known:,}"
            raise damaged(facts, path, why)
    return labelled


def as_published(
    facts: DatasetFacts,
    train: Labelled,
    test: Labelled,
    digests: Mapping[str, str],
    whole: float = 255,
) -> Dataset:
    """The dataset of these images, in which `whole` is white, with the statistics of the field."""
    return Dataset(
        name=facts.name,
        train_images=pixels(train[0], whole),
        train_labels=torch.from_numpy(train[1]),
        test_images=pixels(test[0], whole),
        test_labels=torch.from_numpy(test[1]),
        mean=torch.tensor(facts.mean, dtype=torch.float64),
        std=torch.tensor(facts.std, dtype=torch.float64),
        classes=facts.classes,
        class_names=facts.class_names,
        digests=digests,
        split=facts.split,
        augmentation=facts.augmentation,
    )


def damaged(facts: DatasetFacts, path: Path, why: str) -> CoreError:
    """The error for a file that is not what its name promises."""
    return CoreError(
        "dataset_damaged",
        f"{path.absolute()} is damaged: {why}.",
        f"Delete it and get it again. {facts.obtain}",
        "dataset",
    )
