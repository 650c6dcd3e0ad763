"""CIFAR-10 and CIFAR-100 from the authors' original files, pickles written by Python 2.

Owns reading them without trusting them: a file must have its published MD5, and the unpickler
admits nothing but the stand-ins below, so that no class or function of any library can be called.
"""

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rome_core.data.dataset import Dataset, pixels
from rome_core.errors import CoreError
from rome_core.recipes.datasets import DatasetFacts, File


def read_cifar(facts: DatasetFacts, root: Path) -> Dataset:
    """Read the batches that `facts` lists. Raises CoreError dataset_missing or dataset_damaged."""
    missing = [
        file.path
        for file in facts.train_files + facts.test_files
        if not (root / file.path).is_file()
    ]
    if missing:
        raise CoreError(
            "dataset_missing",
            f"{facts.title} is not under the data root: {', '.join(missing)} not found in "
            f"{root.absolute()}.",
            facts.obtain,
            "dataset",
        )
    digests: dict[str, str] = {}
    train_images, train_labels = _read(facts, facts.train_files, root, digests)
    test_images, test_labels = _read(facts, facts.test_files, root, digests)
    return Dataset(
        name=facts.name,
        train_images=pixels(train_images),
        train_labels=torch.from_numpy(train_labels),
        test_images=pixels(test_images),
        test_labels=torch.from_numpy(test_labels),
        mean=torch.tensor(facts.mean, dtype=torch.float64),
        std=torch.tensor(facts.std, dtype=torch.float64),
        classes=facts.classes,
        class_names=facts.class_names,
        digests=digests,
        split=facts.split,
    )


def _read(
    facts: DatasetFacts, files: tuple[File, ...], root: Path, digests: dict[str, str]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read some batches: (n, c, h, w) images and (n,) labels."""
    images, labels = [], []
    for file in files:
        content = (root / file.path).read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != file.md5:
            raise _damaged(facts, root / file.path, f"its MD5 is not the published {file.md5}")
        digests[file.path] = hashlib.sha256(content).hexdigest()
        try:
            batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
            key = b"labels" if b"labels" in batch else b"fine_labels"
            images.append(batch[b"data"].bytes().reshape(-1, *facts.shape))
            labels.append(np.asarray(batch[key], dtype=np.int64))
        except (
            pickle.UnpicklingError,
            KeyError,
            TypeError,
            ValueError,
            EOFError,
            AttributeError,
        ) as error:
            raise _damaged(
                facts, root / file.path, f"it is no batch of images ({error})"
            ) from error
    return np.concatenate(images), np.concatenate(labels)


def _damaged(facts: DatasetFacts, path: Path, why: str) -> CoreError:
    return CoreError(
        "dataset_damaged",
        f"{path.absolute()} is damaged: {why}.",
        f"Delete it and get it again. {facts.obtain}",
        "dataset",
    )


@dataclass
class _Type:
    """Stands in for numpy.dtype: remembers which type it is."""

    code: bytes | str
    align: object = None
    copy: object = None

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, of no consequence for single bytes."""


class _Array:
    """Stands in for numpy.ndarray: remembers its state."""

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def bytes(self) -> npt.NDArray[np.uint8]:
        """The array, which must be of unsigned bytes in C order."""
        _, shape, kind, fortran, content = self.state
        if not isinstance(kind, _Type) or kind.code not in (b"u1", "u1") or fortran:
            raise ValueError("its array does not hold unsigned bytes")
        return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    """Stands in for numpy's function of that name, which makes an empty array."""
    return _Array()


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}


class _Unpickler(pickle.Unpickler):
    """Admits the three names that the original files hold, each as a harmless stand-in."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None
