"""Whole datasets as tensors: `load(name, root)` and what it gives.

Owns the `Dataset` and the choice of reader. Must not augment, sample or download.
"""

from pathlib import Path

from rome_core.data.cifar import read_cifar
from rome_core.data.dataset import Dataset
from rome_core.data.digits import read_digits
from rome_core.data.folder import read_folder
from rome_core.data.idx import read_idx
from rome_core.data.npz import read_npz
from rome_core.data.svhn import read_svhn
from rome_core.data.tinyimagenet import read_tinyimagenet
from rome_core.data.whitening import whitened
from rome_core.errors import CoreError
from rome_core.recipes.datasets import DATASETS, folder, npz_stem, unknown_dataset

__all__ = ["Dataset", "load", "whitened"]


def load(name: str, root: Path) -> Dataset:
    """Read a dataset whole from files under `root`: one of the catalogue, npz:NAME or folder:NAME.

    Raises CoreError: `dataset_unknown`, `dataset_missing` (which file, where, how to get it),
    `dataset_damaged` (a file that is not what its name promises) or `dataset_invalid` (a user's
    file that does not have the needed arrays, a folder that does not have the needed images).
    """
    problem = unknown_dataset(name)
    if problem is not None:
        raise CoreError("dataset_unknown", problem.message, problem.remedy, "dataset")
    stem = npz_stem(name)
    if stem is not None:
        return read_npz(name, root / f"{stem}.npz")
    asked = folder(name)
    if asked is not None:
        return read_folder(name, asked, root)
    facts = DATASETS[name]
    match name:
        case "mnist" | "fashionmnist":
            return read_idx(facts, root)
        case "svhn":
            return read_svhn(facts, root)
        case "cifar10" | "cifar100":
            return read_cifar(facts, root)
        case "tinyimagenet":
            return read_tinyimagenet(facts, root)
    return read_digits()
