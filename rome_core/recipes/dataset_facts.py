"""What is known of a dataset without opening it.

Owns the form of the facts, and of the files that hold a dataset. Must not open one.
"""

from dataclasses import dataclass
from typing import Any

from rome_core.recipes.augmentation import OBJECTS


@dataclass(frozen=True)
class File:
    """One file of a dataset, relative to the data root.

    `md5` is the published one, None where there is none, as of a file made on this machine.
    `instead` are other forms of the same content, any of which will do.
    """

    path: str
    md5: str | None
    instead: tuple["File", ...] = ()

    @property
    def forms(self) -> tuple["File", ...]:
        """This file and those that will do as well, in the order they are looked for."""
        return (self, *self.instead)

    def as_dict(self) -> dict[str, Any]:
        described: dict[str, Any] = {"path": self.path, "md5": self.md5}
        if self.instead:
            described["instead"] = [file.as_dict() for file in self.instead]
        return described


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a dataset without opening it. Counts are images, shape is (c, h, w).

    `mean` and `std` are per channel of the training images in [0,1]: the published ones where the
    field has agreed on some, measured otherwise. `augmentation` is the DSA strategy that suits the
    images: digits are not mirrored. `synsets` are the WordNet ids of the classes where files have
    those for names, and `packed_from` what a file made on this machine is made from.
    """

    name: str
    title: str
    classes: int
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    train_per_class: tuple[int, ...]
    test_per_class: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    statistics_source: str
    split: str
    licence: str
    citation: str
    homepage: str
    obtain: str
    augmentation: str = OBJECTS
    train_files: tuple[File, ...] = ()
    test_files: tuple[File, ...] = ()
    packed_from: tuple[File, ...] = ()
    synsets: tuple[str, ...] = ()

    @property
    def smallest_class(self) -> int:
        return min(self.train_per_class)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "classes": self.classes,
            "class_names": list(self.class_names),
            "shape": list(self.shape),
            "train_images": sum(self.train_per_class),
            "test_images": sum(self.test_per_class),
            "train_per_class": list(self.train_per_class),
            "test_per_class": list(self.test_per_class),
            "mean": list(self.mean),
            "std": list(self.std),
            "statistics_source": self.statistics_source,
            "split": self.split,
            "licence": self.licence,
            "citation": self.citation,
            "homepage": self.homepage,
            "obtain": self.obtain,
            "augmentation": self.augmentation,
            "files": [file.as_dict() for file in (*self.train_files, *self.test_files)],
            "packed_from": [file.as_dict() for file in self.packed_from],
        }
