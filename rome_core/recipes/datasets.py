"""The names of datasets: those of the field, and a user's own.

Owns what a spec may call its dataset. Must not open a file: `rome_core.data` does that.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from rome_core.recipes.dataset_facts import DatasetFacts, File
from rome_core.recipes.problems import FieldProblem, unknown_name
from rome_core.recipes.published_datasets import (
    CIFAR10,
    CIFAR100,
    DIGITS,
    FASHIONMNIST,
    MNIST,
    SVHN,
    TINYIMAGENET,
)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DATASETS",
    "DIGITS",
    "FASHIONMNIST",
    "MNIST",
    "OWN_FORMS",
    "SIDES",
    "SVHN",
    "TINYIMAGENET",
    "DatasetFacts",
    "File",
    "Folder",
    "folder",
    "npz_stem",
    "unknown_dataset",
]

DATASETS: Final[Mapping[str, DatasetFacts]] = {
    facts.name: facts
    for facts in (DIGITS, MNIST, FASHIONMNIST, SVHN, CIFAR10, CIFAR100, TINYIMAGENET)
}

OWN_FORMS: Final = ("npz:NAME", "folder:NAME", "folder:NAME@SIZE")
"""How a user's own datasets are named."""

SIDES: Final = range(8, 257)
"""Pixels a side that images of a folder may have; up to 128 the field's networks are made for."""

_STEM = r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*"  # no slash and no leading dot can match
_NPZ = re.compile(f"npz:(?P<stem>{_STEM})")
_FOLDER = re.compile(f"folder:(?P<stem>{_STEM})(?:@(?P<side>[1-9][0-9]{{0,3}}))?")


class Folder(NamedTuple):
    """A folder of images right under the data root, and the side they are resized to, if any."""

    stem: str
    side: int | None


def npz_stem(name: str) -> str | None:
    """The file stem that `npz:NAME` asks for, or None where the name is not of that form."""
    match = _NPZ.fullmatch(name)
    return match["stem"] if match else None


def folder(name: str) -> Folder | None:
    """What `folder:NAME` or `folder:NAME@SIZE` asks for, or None where the name is neither."""
    match = _FOLDER.fullmatch(name)
    if match is None:
        return None
    side = None if match["side"] is None else int(match["side"])
    return Folder(match["stem"], side) if side is None or side in SIDES else None


def unknown_dataset(name: str) -> FieldProblem | None:
    """The problem with a dataset's name, if it has one. Files of its own need not exist yet."""
    if name in DATASETS or npz_stem(name) is not None or folder(name) is not None:
        return None
    if name.startswith("npz:"):
        return FieldProblem(
            "dataset",
            f"{name!r} does not name a file of the data root",
            "Write npz:NAME for NAME.npz right under the data root: letters, digits, '-', '_' "
            "and single dots, no folder.",
        )
    if name.startswith("folder:"):
        return FieldProblem(
            "dataset",
            f"{name!r} does not name a folder of the data root, and a side",
            "Write folder:NAME for NAME/ right under the data root: letters, digits, '-', '_' and "
            "single dots, no slash. folder:NAME@SIZE resizes its images to SIZE pixels a side: "
            f"{SIDES[0]} to {SIDES[-1]}, sensibly up to 128.",
        )
    return unknown_name("dataset", "dataset", name, (*DATASETS, *OWN_FORMS))
