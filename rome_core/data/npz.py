"""A user's own dataset: NAME.npz right under the data root, read without pickle.

Arrays: `images` uint8 (n, h, w, c) or (n, h, w), square, 1 or 3 channels; `labels` integers (n,)
from 0; optionally `test_images` and `test_labels`, and `class_names`. Without a test split every
fifth image of each class is one.
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rome_core.data.dataset import EVERY_FIFTH, Dataset, is_test, pixels
from rome_core.errors import CoreError

Arrays = Mapping[str, npt.NDArray[np.generic]]


def read_npz(name: str, path: Path) -> Dataset:
    """Read the file; statistics are measured on its training images, per channel.

    Raises CoreError dataset_missing, dataset_damaged or dataset_invalid.
    """
    if not path.is_file():
        raise CoreError(
            "dataset_missing",
            f"{name} is not under the data root: {path.absolute()} not found.",
            "Put the file there: numpy.savez(path, images=…, labels=…) with uint8 images "
            "(n, h, w, c) and integer labels (n,).",
            "dataset",
        )
    arrays, digest = _read(name, path)
    images, labels = _pair(name, arrays, "images", "labels")
    if "test_images" in arrays or "test_labels" in arrays:
        test_images, test_labels = _pair(name, arrays, "test_images", "test_labels")
        if test_images.shape[1:] != images.shape[1:]:
            raise _invalid(name, "test_images are not of the shape of images")
        split = "the file's own"
    else:
        test = is_test(labels)
        test_images, test_labels = images[test], labels[test]
        images, labels = images[~test], labels[~test]
        split = EVERY_FIFTH
    counts = np.bincount(labels)
    classes = len(counts)
    if classes < 2 or not counts.all():
        raise _invalid(name, "labels must be 0 to C-1 with every class present and C at least 2")
    if not len(test_labels) or test_labels.max() >= classes:
        raise _invalid(name, "there are no test images, or one of a class without training images")
    train = pixels(images)
    std, mean = torch.std_mean(train.to(torch.float64), dim=(0, 2, 3), correction=0)
    return Dataset(
        name=name,
        train_images=train,
        train_labels=torch.from_numpy(labels),
        test_images=pixels(test_images),
        test_labels=torch.from_numpy(test_labels),
        mean=mean,
        # A channel that never changes carries nothing; 1 keeps it finite.
        std=torch.where(std > 0, std, 1.0),
        classes=classes,
        class_names=_class_names(name, arrays, classes),
        digests={path.name: digest},
        split=split,
    )


def _read(name: str, path: Path) -> tuple[Arrays, str]:
    """The arrays of the file, and the SHA-256 of the very bytes they were read from."""
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    # At damaged bytes zipfile, zlib, numpy and the parser of its headers each raise their own.
    except Exception as error:
        raise CoreError(
            "dataset_damaged",
            f"{path.absolute()} cannot be read: {str(error) or type(error).__name__}.",
            "Write it again with numpy.savez and plain arrays; pickled objects are refused.",
            "dataset",
        ) from error
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise _invalid(name, f"its member {key!r} is no array")
    return arrays, hashlib.sha256(content).hexdigest()


def _pair(
    name: str, arrays: Arrays, images_key: str, labels_key: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images as (n, c, h, w) bytes and their labels, checked."""
    for key in (images_key, labels_key):
        if key not in arrays:
            raise _invalid(name, f"the array {key!r} is missing; there are {sorted(arrays)}")
    images, labels = arrays[images_key], arrays[labels_key]
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise _invalid(
            name,
            f"{images_key} must be uint8 (n, h, w, c) with 1 or 3 channels, and is "
            f"{images.dtype} {images.shape}",
        )
    if images.shape[1] != images.shape[2]:
        raise _invalid(name, f"{images_key} must be square, and is {images.shape}")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or not len(labels):
        raise _invalid(
            name,
            f"{labels_key} must be {len(images)} integers, and is {labels.dtype} {labels.shape}",
        )
    numbers = labels.astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= len(numbers) + 10_000:
        raise _invalid(name, f"{labels_key} must count from 0")
    return images.transpose(0, 3, 1, 2).astype(np.uint8), numbers


def _class_names(name: str, arrays: Arrays, classes: int) -> tuple[str, ...]:
    if "class_names" not in arrays:
        return tuple(str(label) for label in range(classes))
    names = arrays["class_names"]
    if names.shape != (classes,) or names.dtype.kind != "U":
        raise _invalid(name, f"class_names must be {classes} strings")
    return tuple(str(label) for label in names)


def _invalid(name: str, why: str) -> CoreError:
    return CoreError(
        "dataset_invalid",
        f"{name}: {why}.",
        "Write the file again with numpy.savez: images uint8 (n, h, w, c), labels (n,) from 0.",
        "dataset",
    )
