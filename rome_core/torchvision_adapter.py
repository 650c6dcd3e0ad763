"""The one door to torchvision, used for downloading datasets where there is a network.

Owns the cure for a torchvision beside a CPU torch: its compiled part wants CUDA libraries, and
without it the import fails for want of the operator `nms`. Must not be imported by anything that
runs without being asked to download.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import torch

from rome_core.errors import CoreError
from rome_core.recipes.datasets import DATASETS

_CLASSES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
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

    Returns their folder. Raises CoreError where there is no such download or no network.
    """
    if name not in _CLASSES:
        raise CoreError(
            "dataset_not_downloadable",
            f"There is no download of {name}.",
            f"One of: {', '.join(_CLASSES)}.",
            "dataset",
        )
    facts = DATASETS[name]
    datasets = torchvision_datasets()
    try:
        getattr(datasets, _CLASSES[name])(root=root, download=True)
    except (OSError, RuntimeError) as error:
        raise CoreError(
            "download_failed",
            f"{facts.title} could not be downloaded: {error}.",
            f"Try again, or get it by hand from {facts.homepage} and unpack it under "
            f"{root.absolute()}.",
        ) from error
    return (root / facts.train_files[0].path).parent
