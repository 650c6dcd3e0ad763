"""The one door to torchvision, used for downloading datasets where there is a network.

Owns the cure for a torchvision beside a CPU torch: its compiled part wants CUDA libraries, and
without it the import fails for want of the operator `nms`. Must not be imported by anything that
runs without being asked to download.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import torch

from rome_core.data.packing import pack_found
from rome_core.errors import CoreError
from rome_core.recipes.datasets import DATASETS, DatasetFacts

_LIBRARIES: list[torch.library.Library] = []  # a definition lives as long as its library


def torchvision_datasets() -> ModuleType:
    """`torchvision.datasets`; raises CoreError where torchvision cannot be had."""
    try:
        return importlib.import_module("torchvision.datasets")
    except ModuleNotFoundError as error:
        raise CoreError(
            "torchvision_missing",
            "torchvision is not installed.",
            "Install it, or put the files under the data root by hand.",
        ) from error
    except RuntimeError:
        if torch.version.cuda is not None or _LIBRARIES:
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch's own
    for name in ("nms", "qnms"):
        signature = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(signature)  # type: ignore[no-untyped-call]  # torch's own
    _LIBRARIES.append(library)
    return importlib.import_module("torchvision.datasets")


def fetch(name: str, root: Path) -> Path:
    """Download the original files of `name` under `root`, unless they lie there whole.

    TinyImageNet is packed as well, from what lies there or from a downloaded archive. Returns the
    folder of the files. Raises CoreError where there is no such download or no network, and
    dataset_missing or dataset_damaged where an archive cannot be packed.
    """
    if name not in _DOWNLOADS:
        raise CoreError(
            "dataset_not_downloadable",
            f"There is no download of {name}.",
            f"One of: {', '.join(_DOWNLOADS)}.",
            "dataset",
        )
    facts = DATASETS[name]
    try:
        _DOWNLOADS[name](facts, root)
    except (OSError, RuntimeError) as error:
        raise CoreError(
            "download_failed",
            f"{facts.title} could not be downloaded: {error}.",
            f"Try again, or get it by hand from {facts.homepage}. {facts.obtain}",
        ) from error
    return (root / facts.train_files[0].path).parent


def _cifar10(facts: DatasetFacts, root: Path) -> None:
    torchvision_datasets().CIFAR10(root, download=True)


def _cifar100(facts: DatasetFacts, root: Path) -> None:
    torchvision_datasets().CIFAR100(root, download=True)


def _mnist(facts: DatasetFacts, root: Path) -> None:
    torchvision_datasets().MNIST(root, download=True)


def _fashionmnist(facts: DatasetFacts, root: Path) -> None:
    torchvision_datasets().FashionMNIST(root, download=True)


def _svhn(facts: DatasetFacts, root: Path) -> None:
    for split in ("train", "test"):
        torchvision_datasets().SVHN(root / "SVHN", split=split, download=True)


def _tinyimagenet(facts: DatasetFacts, root: Path) -> None:
    if any((root / form.path).is_file() for form in facts.train_files[0].forms):
        return
    if pack_found(facts, root) is None:
        (archive,) = facts.packed_from
        download = torchvision_datasets().utils.download_url
        download(facts.homepage, root, archive.path, archive.md5)
        pack_found(facts, root)


_DOWNLOADS: Mapping[str, Callable[[DatasetFacts, Path], None]] = {
    "mnist": _mnist,
    "fashionmnist": _fashionmnist,
    "svhn": _svhn,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "tinyimagenet": _tinyimagenet,
}
