"""A dataset whitened by ZCA, and the cache of what was fitted.

Owns when a fit is made anew and when one is read. How images are whitened is `rome_core.space`'s.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from safetensors import SafetensorError

from rome_core.data.dataset import Dataset
from rome_core.errors import CoreError
from rome_core.files import write_atomically
from rome_core.space import ZCA_EPSILON, Zca

FOLDER = "whitening"
"""Of fitted whitenings, under the cache."""

FITTED = 1
"""Version of the fit: another one makes what lies in caches worthless."""

MOST_VALUES = 4096
"""Of an image. CIFAR-10, 50,000 images of 3x32x32, takes 28 s of one core, in which nobody hears of
progress and no run stops; 3x64x64 would take some 64 times as long, and a set 600 MB."""

_TENSORS = ("mean", "eigenvectors", "eigenvalues")


def whitened(dataset: Dataset, cache: Path | None, epsilon: float = ZCA_EPSILON) -> Dataset:
    """The same images, whitened for networks by what the training images show.

    A fit is kept in the folder `cache`, where there is one, and taken from there the next time: for
    images of 3x32x32 that is 38 MB. Raises CoreError spec_invalid for images too large to whiten.
    """
    values = math.prod(dataset.shape)
    if values > MOST_VALUES:
        raise CoreError(
            "spec_invalid",
            f"Images of {'x'.join(map(str, dataset.shape))} have {values:,} values, and ZCA is "
            f"fitted for {MOST_VALUES:,} at most.",
            "Set whitening=none.",
            "hyperparameters.whitening",
        )
    key = {
        "fit": FITTED,
        "dataset": dataset.name,
        "files": dict(dataset.digests),
        "split": dataset.split,
        "images": list(dataset.train_images.shape),
        "epsilon": epsilon,
    }
    path = None if cache is None else cache / FOLDER / f"{_digest(key)}.safetensors"
    found = None if path is None else _read(path, dataset)
    if found is None:
        found = Zca.fit(dataset.train_images, epsilon)
        if path is not None:
            _keep(path, found)
    return replace(dataset, whitening=found)


def _read(path: Path, dataset: Dataset) -> Zca | None:
    """What lies there, or None where it has to be fitted."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            state: dict[str, Any] = {name: file.get_tensor(name) for name in _TENSORS}
            told = json.loads((file.metadata() or {})["fit"])
        found = Zca.restored({**state, "epsilon": told["epsilon"]}, dataset.shape)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    return found if found.identity == told["identity"] else None


def _keep(path: Path, fitted: Zca) -> None:
    """A full disk keeps nothing and hurts nobody."""
    state = fitted.state
    # One metadata key: the library writes several in no fixed order.
    told = json.dumps({"epsilon": fitted.epsilon, "identity": fitted.identity}, sort_keys=True)
    content = safetensors.torch.save({name: state[name] for name in _TENSORS}, {"fit": told})
    try:
        write_atomically(path, content)
    except OSError:
        return


def _digest(key: dict[str, Any]) -> str:
    text = json.dumps(key, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
