"""A user's own dataset as image files: NAME/train/CLASS/*.png and the like under the data root.

`NAME/test/` of the same form is the test split, or `NAME/val/`; without either every fifth image of
each class is one. Classes and files count in the order of their names. Other files, hidden ones and
deeper folders are passed over. With a side asked for, an image's short side is resized to it,
bilinearly and antialiased, and the middle cropped; without one all images must be squares of one
size.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rome_core.data.dataset import Dataset
from rome_core.data.images import FORMATS, SUFFIXES, decode
from rome_core.data.original import Labelled
from rome_core.data.own import own_dataset
from rome_core.errors import CoreError
from rome_core.recipes.datasets import SIDES, Folder

_LAYOUT = (
    "Put images under NAME/train/CLASS/ in the data root, and under NAME/test/CLASS/ if there are "
    f"any to test with: {', '.join(FORMATS)}."
)


def read_folder(name: str, asked: Folder, root: Path) -> Dataset:
    """Read every image; statistics are measured on those of training, per channel.

    Images are grey where all files are, else colour. The digest is a SHA-256 over the paths and
    contents of all files, in their order.

    Raises CoreError dataset_missing, dataset_damaged (a file that is no image, or cut short) or
    dataset_invalid (a layout, size or link that is refused).
    """
    reading = _Reading(name, root / asked.stem, root.resolve(), asked.side)
    if not (reading.base / "train").is_dir():
        raise CoreError(
            "dataset_missing",
            f"{name} is not under the data root: {(reading.base / 'train').absolute()} not found.",
            _LAYOUT,
            "dataset",
        )
    classes = reading.classes("train")
    train = reading.split("train", classes)
    test = None
    held_out = next((part for part in ("test", "val") if (reading.base / part).is_dir()), None)
    if held_out is not None:
        strange = sorted(set(reading.classes(held_out)) - set(classes))
        if strange:
            raise reading.invalid(f"{held_out}/ has the class {strange[0]}, and train/ has not")
        test = reading.split(held_out, classes)
    try:
        return own_dataset(
            name,
            reading.stacked(train),
            None if test is None else reading.stacked(test),
            f"the folder's own {held_out}/",
            class_names=tuple(classes),
            digests={f"{asked.stem}/": reading.digest.hexdigest()},
        )
    except ValueError as error:
        raise reading.invalid(str(error)) from error


@dataclass
class _Read:
    """One split: an array (h, w) or (h, w, 3) and a label for each image."""

    images: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


class _Reading:
    """One pass over the folder: what all images share, and the digest of what was read."""

    def __init__(self, name: str, base: Path, inside: Path, side: int | None) -> None:
        self.name, self.base, self.inside, self.asked = name, base, inside, side
        self.side = side
        self.colour = False
        self.digest = hashlib.sha256()

    def classes(self, part: str) -> list[str]:
        """The names of the class folders of a split."""
        folder = self.base / part
        self._refuse_escape(folder)
        return [entry.name for entry in self._entries(folder) if entry.is_dir()]

    def split(self, part: str, classes: list[str]) -> _Read:
        """All images of a split, class by class."""
        read = _Read()
        for label, called in enumerate(classes):
            folder = self.base / part / called
            if not folder.is_dir():
                continue  # A test split need not have every class.
            files = [
                Path(entry.path)
                for entry in self._entries(folder)
                if Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file()
            ]
            if not files and part == "train":
                raise self.invalid(f"train/{called}/ holds no images")
            read.images += [self._image(path) for path in files]
            read.labels += [label] * len(files)
        return read

    def stacked(self, read: _Read) -> Labelled:
        """(n, c, h, w) bytes: three channels as soon as one image anywhere is in colour."""
        if not read.images:
            raise ValueError("there are no images")
        if self.colour:
            images = np.stack(
                [
                    np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
                    for image in read.images
                ]
            ).transpose(0, 3, 1, 2)
        else:
            images = np.stack(read.images)[:, None]
        return images, np.asarray(read.labels, dtype=np.int64)

    def invalid(self, why: str, remedy: str = _LAYOUT) -> CoreError:
        return CoreError("dataset_invalid", f"{self.name}: {why}.", remedy, "dataset")

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            if not entry.name.startswith("."):
                if entry.is_symlink():
                    self._refuse_escape(Path(entry.path))
                yield entry

    def _refuse_escape(self, path: Path) -> None:
        """A link must not lead to files that the data root was never meant to show."""
        if not path.resolve().is_relative_to(self.inside):
            raise self.invalid(
                f"{path.absolute()} is a link out of the data root",
                "Copy or move the images under the data root.",
            )

    def _image(self, path: Path) -> npt.NDArray[np.uint8]:
        """The pixels of a file, as large as all others: (h, w), or (h, w, 3) in colour."""
        content = path.read_bytes()
        place = path.relative_to(self.base).as_posix()
        self.digest.update(f"{hashlib.sha256(content).hexdigest()} {len(place)} ".encode())
        self.digest.update(os.fsencode(place))
        try:
            image = decode(content)
        except ValueError as error:
            raise CoreError(
                "dataset_damaged",
                f"{path.absolute()} cannot be read: {error}.",
                "Replace the file, or take it out of the folder.",
                "dataset",
            ) from error
        if self.asked is not None:
            image = _squared(image, self.asked)
        self._check_size(place, image.size)
        self.colour = self.colour or image.mode == "RGB"
        return np.asarray(image)

    def _check_size(self, place: str, size: tuple[int, int]) -> None:
        width, height = size
        remedy = (
            f"Name {self.name.partition('@')[0]}@SIZE to have all images resized to SIZE pixels a "
            f"side: {SIDES[0]} to {SIDES[-1]}, sensibly up to 128."
        )
        if width != height:
            raise self.invalid(f"{place} is {width}x{height} pixels, not a square", remedy)
        if width not in SIDES:
            raise self.invalid(
                f"{place} has {width} pixels a side, and {SIDES[0]} to {SIDES[-1]} can be", remedy
            )
        if self.side is None:
            self.side = width
        if width != self.side:
            raise self.invalid(
                f"{place} has {width} pixels a side, and those before it {self.side}", remedy
            )


def _squared(image: Image.Image, side: int) -> Image.Image:
    """The middle square of the image resized to this short side, without the rest of a strip."""
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    box = left, top, left + short, top + short
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box)
