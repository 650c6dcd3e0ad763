"""The datasets as facts: names, shapes, counts, statistics, licences, files and where to get them.

Owns the names a spec may use. Must not open a file: `rome_core.data` does that.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rome_core.recipes.problems import FieldProblem, unknown_name

NPZ_NAME = re.compile(r"npz:(?P<stem>[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*)")
"""`npz:NAME` reads NAME.npz under the data root. No slash and no leading dot can match."""


@dataclass(frozen=True)
class File:
    """One original file, relative to the data root, and its published MD5."""

    path: str
    md5: str


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a dataset without opening it. Counts are images, shape is (c, h, w).

    `mean` and `std` are per channel of the training images in [0,1]: the published ones where the
    field has agreed on some, measured otherwise.
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
    train_files: tuple[File, ...] = ()
    test_files: tuple[File, ...] = ()
    meta_file: File | None = None

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
            "files": [
                {"path": file.path, "md5": file.md5}
                for file in (*self.train_files, *self.test_files)
            ],
        }


DIGITS = DatasetFacts(
    name="digits",
    title="Optical recognition of handwritten digits",
    classes=10,
    class_names=tuple(str(digit) for digit in range(10)),
    shape=(1, 8, 8),
    train_per_class=(143, 146, 142, 147, 145, 146, 145, 144, 140, 144),
    test_per_class=(35, 36, 35, 36, 36, 36, 36, 35, 34, 36),
    mean=(0.3051,),
    std=(0.3762,),
    statistics_source="measured on the 1,442 training images, rounded to 4 digits",
    split="of each class, in file order, every fifth image is a test image",
    licence="CC BY 4.0",
    citation=(
        "E. Alpaydin and C. Kaynak. Optical Recognition of Handwritten Digits. "
        "UCI Machine Learning Repository, 1998."
    ),
    homepage="https://archive.ics.uci.edu/dataset/80",
    obtain="Comes with scikit-learn: pip install scikit-learn.",
)

_KRIZHEVSKY = (
    "A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. "
    "University of Toronto, 2009."
)
_CIFAR_LICENCE = "none stated by its authors; used for research"
_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def _obtain(name: str, archive: str, folder: str) -> str:
    return (
        f"Run `python -m rome_core fetch {name} --data-root FOLDER` where there is a network, or "
        f"download {archive} from {_CIFAR_PAGE} and unpack it so that {folder}/ lies under the "
        "data root."
    )


CIFAR10 = DatasetFacts(
    name="cifar10",
    title="CIFAR-10",
    classes=10,
    class_names=(
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    shape=(3, 32, 32),
    train_per_class=(5000,) * 10,
    test_per_class=(1000,) * 10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    statistics_source="as used by DC, DSA, DM, IDM, BACON and ROME",
    split="the authors' own",
    licence=_CIFAR_LICENCE,
    citation=_KRIZHEVSKY,
    homepage=_CIFAR_PAGE,
    obtain=_obtain("cifar10", "cifar-10-python.tar.gz", "cifar-10-batches-py"),
    train_files=(
        File("cifar-10-batches-py/data_batch_1", "c99cafc152244af753f735de768cd75f"),
        File("cifar-10-batches-py/data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        File("cifar-10-batches-py/data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        File("cifar-10-batches-py/data_batch_4", "634d18415352ddfa80567beed471001a"),
        File("cifar-10-batches-py/data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    test_files=(File("cifar-10-batches-py/test_batch", "40351d587109b95175f43aff81a1287e"),),
)

_CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch "
    "crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo "
    "keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse "
    "mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy "
    "porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television "
    "tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)

CIFAR100 = DatasetFacts(
    name="cifar100",
    title="CIFAR-100",
    classes=100,
    class_names=tuple(_CIFAR100_CLASSES.split()),
    shape=(3, 32, 32),
    train_per_class=(500,) * 100,
    test_per_class=(100,) * 100,
    mean=(0.5071, 0.4866, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    statistics_source="as used by DC, DSA, DM and ROME (MTT and its heirs use CIFAR-10's here)",
    split="the authors' own",
    licence=_CIFAR_LICENCE,
    citation=_KRIZHEVSKY,
    homepage=_CIFAR_PAGE,
    obtain=_obtain("cifar100", "cifar-100-python.tar.gz", "cifar-100-python"),
    train_files=(File("cifar-100-python/train", "16019d7e3df5f24257cddd939b257f8d"),),
    test_files=(File("cifar-100-python/test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
)

DATASETS: Mapping[str, DatasetFacts] = {facts.name: facts for facts in (DIGITS, CIFAR10, CIFAR100)}


def npz_stem(name: str) -> str | None:
    """The file stem that `npz:NAME` asks for, or None where the name is not of that form."""
    match = NPZ_NAME.fullmatch(name)
    return match["stem"] if match else None


def unknown_dataset(name: str) -> FieldProblem | None:
    """The problem with a dataset's name, if it has one. An npz file need not exist yet."""
    if name in DATASETS or npz_stem(name) is not None:
        return None
    if name.startswith("npz:"):
        return FieldProblem(
            "dataset",
            f"{name!r} does not name a file of the data root",
            "Write npz:NAME for NAME.npz right under the data root: letters, digits, '-', '_' "
            "and single dots, no folder.",
        )
    return unknown_name("dataset", "dataset", name, (*DATASETS, "npz:NAME"))
