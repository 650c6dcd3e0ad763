"""Whole datasets as tensors: `load(name, root)` and what it gives.

Owns the `Dataset` and the choice of reader. Must not augment, sample or download.
"""

from pathlib import Path

from rome_core.data.cifar import read_cifar
from rome_core.data.dataset import Dataset
from rome_core.data.digits import read_digits
from rome_core.data.npz import read_npz
from rome_core.errors import CoreError
from rome_core.recipes.datasets import CIFAR10, CIFAR100, npz_stem, unknown_dataset

__all__ = ["Dataset", "load"]


def load(name: str, root: Path) -> Dataset:
    """Read a dataset whole: digits, cifar10, cifar100 or npz:NAME, from files under `root`.

    Raises CoreError: `dataset_unknown`, `dataset_missing` (which file, where, how to get it),
    `dataset_damaged` (a file that is not what its name promises) or `dataset_invalid` (a user's
    file that does not have the needed arrays).
    """
    problem = unknown_dataset(name)
    if problem is not None:
        raise CoreError("dataset_unknown", problem.message, problem.remedy, "dataset")
    stem = npz_stem(name)
    if stem is not None:
        return read_npz(name, root / f"{stem}.npz")
    match name:
        case "cifar10":
            return read_cifar(CIFAR10, root)
        case "cifar100":
            return read_cifar(CIFAR100, root)
    return read_digits()
