"""TinyImageNet from one file: packed by us, or the tinyimagenet.pt that DC published.

Owns reading both. Labels count the classes by their WordNet ids, whichever file they come from.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rome_core import foreign
from rome_core.data.dataset import Dataset
from rome_core.data.npz import class_names, labelled, read_arrays
from rome_core.data.original import as_published, checked, damaged, present
from rome_core.recipes.datasets import DatasetFacts


def read_tinyimagenet(facts: DatasetFacts, root: Path) -> Dataset:
    """Read the packed file, else the published one.

    As pixels in float32 the dataset takes 5.4 GB, and 1.4 GB more while it is read (measured).
    Raises CoreError dataset_missing or dataset_damaged.
    """
    (file,) = present(facts, root)
    path = root / file.path
    try:
        return _packed(facts, path) if path.suffix == ".npz" else _published(facts, path)
    except ValueError as error:
        raise damaged(facts, path, str(error)) from error


def _packed(facts: DatasetFacts, path: Path) -> Dataset:
    arrays, digest = read_arrays(path)
    names = class_names(arrays)
    if names != facts.class_names:
        raise ValueError("its class_names are not those of the dataset")
    train = labelled(arrays, "images", "labels")
    test = labelled(arrays, "test_images", "test_labels")
    return as_published(
        facts,
        checked(facts, path, train, facts.train_per_class),
        checked(facts, path, test, facts.test_per_class),
        {path.name: digest},
    )


def _published(facts: DatasetFacts, path: Path) -> Dataset:
    """`classes`, `images_train`, `labels_train`, `images_val` and `labels_val` of torch.save.

    The published code divides images by 255; fractions are taken as they are.
    """
    content = path.read_bytes()
    digests = {path.name: hashlib.sha256(content).hexdigest()}
    held = foreign.load(content)
    del content  # A gigabyte.
    if not isinstance(held, dict):
        raise ValueError("it holds no dictionary")
    names, places = _order(facts, held.pop("classes", None))
    train = _tensor(held, "images_train"), _labels(held, "labels_train", places)
    test = _tensor(held, "images_val"), _labels(held, "labels_val", places)
    whole = max(_whole(train[0], "images_train"), _whole(test[0], "images_val"))
    made = as_published(
        facts,
        checked(facts, path, (train[0].numpy(), train[1].numpy()), facts.train_per_class),
        checked(facts, path, (test[0].numpy(), test[1].numpy()), facts.test_per_class),
        digests,
        whole,
    )
    return replace(made, class_names=names)


def _order(facts: DatasetFacts, classes: object) -> tuple[tuple[str, ...], Tensor]:
    """The names of the classes, and the label of ours for each label of the file."""
    given = tuple(classes) if isinstance(classes, list | tuple) else ()
    if len(given) != facts.classes or not all(isinstance(name, str) for name in given):
        raise ValueError(f"its classes are not {facts.classes} strings")
    for known in (facts.synsets, facts.class_names):
        if set(given) == set(known):
            return facts.class_names, torch.tensor([known.index(name) for name in given])
    # Of names that are none of ours nothing tells the order: it stays.
    return given, torch.arange(facts.classes)


def _tensor(held: dict[Any, Any], key: str) -> Tensor:
    tensor = held.pop(key, None)
    if not isinstance(tensor, Tensor) or not foreign.is_whole(tensor):
        raise ValueError(f"it holds no tensor {key}")
    return tensor.detach()


def _labels(held: dict[Any, Any], key: str, places: Tensor) -> Tensor:
    """Labels as we count."""
    labels = _tensor(held, key)
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.ndim != 1:
        raise ValueError(f"its {key} are {labels.dtype} {tuple(labels.shape)}, not integers (n,)")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(places):
        raise ValueError(f"its {key} are not 0 to {len(places) - 1}")
    return places[labels.long()]


def _whole(images: Tensor, key: str) -> float:
    """The value that is white: 255, or 1 where images are fractions."""
    if images.dtype == torch.uint8:
        return 255
    low, high = (float(bound) for bound in images.aminmax()) if images.numel() else (0.0, 0.0)
    if not images.is_floating_point() or not 0 <= low <= high <= 255:
        raise ValueError(f"its {key} are {images.dtype} from {low:g} to {high:g}, not 0 to 255")
    return 255 if high > 1 else 1
