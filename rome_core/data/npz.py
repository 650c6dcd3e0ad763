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

from rome_core.data.dataset import Dataset
from rome_core.data.original import Labelled
from rome_core.data.own import own_dataset
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
    try:
        arrays, digest = read_arrays(path)
    except ValueError as error:
        raise CoreError(
            "dataset_damaged",
            f"{path.absolute()} cannot be read: {error}.",
            "Write it again with numpy.savez and plain arrays; pickled objects are refused.",
            "dataset",
        ) from error
    try:
        train = labelled(arrays, "images", "labels")
        test = None
        if "test_images" in arrays or "test_labels" in arrays:
            test = labelled(arrays, "test_images", "test_labels")
            if test[0].shape[1:] != train[0].shape[1:]:
                raise ValueError("test_images are not of the shape of images")
        names = class_names(arrays)
        return own_dataset(
            name, train, test, "the file's own", class_names=names, digests={path.name: digest}
        )
    except ValueError as error:
        raise CoreError(
            "dataset_invalid",
            f"{name}: {error}.",
            "Write the file again with numpy.savez: images uint8 (n, h, w, c), labels (n,) from 0.",
            "dataset",
        ) from error


def read_arrays(path: Path) -> tuple[Arrays, str]:
    """The arrays of a file, and the SHA-256 of the very bytes they were read from.

    Raises ValueError with what is wrong, as the end of a sentence.
    """
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    # At damaged bytes zipfile, zlib, numpy and the parser of its headers each raise their own.
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return arrays, hashlib.sha256(content).hexdigest()


def labelled(arrays: Arrays, images_key: str, labels_key: str) -> Labelled:
    """Images as (n, c, h, w) bytes and their labels. Raises ValueError with what is wrong."""
    images, labels = _member(arrays, images_key), _member(arrays, labels_key)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"{images_key} must be uint8 (n, h, w, c) with 1 or 3 channels, and is "
            f"{images.dtype} {images.shape}"
        )
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"{images_key} must be square, and is {images.shape}")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or not len(labels):
        raise ValueError(
            f"{labels_key} must be {len(images)} integers, and is {labels.dtype} {labels.shape}"
        )
    numbers = labels.astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= len(numbers) + 10_000:
        raise ValueError(f"{labels_key} must count from 0")
    return images.transpose(0, 3, 1, 2).astype(np.uint8, copy=False), numbers


def class_names(arrays: Arrays) -> tuple[str, ...] | None:
    """The names of the classes, if the file has any. Raises ValueError with what is wrong."""
    if "class_names" not in arrays:
        return None
    names = _member(arrays, "class_names")
    if names.ndim != 1 or names.dtype.kind != "U":
        raise ValueError(f"class_names must be strings (n,), and is {names.dtype} {names.shape}")
    return tuple(str(name) for name in names)


def _member(arrays: Arrays, key: str) -> npt.NDArray[np.generic]:
    if key not in arrays:
        raise ValueError(f"the array {key!r} is missing; there are {sorted(arrays)}")
    if not isinstance(arrays[key], np.ndarray):
        raise ValueError(f"its member {key!r} is no array")
    return arrays[key]
