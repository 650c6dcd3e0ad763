"""CIFAR-10 and CIFAR-100 from the authors' original files, pickles written by Python 2.

Owns reading them without trusting them: a file must have its published MD5, and the unpickler
admits nothing but the stand-ins below, so that no class or function of any library can be called.
"""

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rome_core.data.dataset import Dataset
from rome_core.data.original import Labelled, as_published, content, damaged, present
from rome_core.recipes.datasets import DatasetFacts, File


def read_cifar(facts: DatasetFacts, root: Path) -> Dataset:
    """Read the batches that `facts` lists. Raises CoreError dataset_missing or dataset_damaged."""
    files = present(facts, root)
    batches = len(facts.train_files)
    digests: dict[str, str] = {}
    train = _read(facts, files[:batches], root, digests)
    test = _read(facts, files[batches:], root, digests)
    return as_published(facts, train, test, digests)


def _read(facts: DatasetFacts, files: list[File], root: Path, digests: dict[str, str]) -> Labelled:
    """Read some batches: (n, c, h, w) images and (n,) labels."""
    images, labels = [], []
    for file in files:
        read = content(facts, file, root, digests)
        try:
            batch = _Unpickler(io.BytesIO(read), encoding="bytes").load()
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
            raise damaged(facts, root / file.path, f"it is no batch of images ({error})") from error
    return np.concatenate(images), np.concatenate(labels)


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
