"""TinyImageNet as its authors publish it, 110,000 JPEG files, packed into one npz file.

The file is one that `npz:NAME` could read as well: `images`, `labels`, `test_images`,
`test_labels` and `class_names`. Owns the layout of tiny-imagenet-200/; must not download it.
"""

import hashlib
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rome_core.data.images import decode
from rome_core.errors import CoreError
from rome_core.files import atomically
from rome_core.recipes.datasets import DatasetFacts

Read = Callable[[str], bytes]
"""The content of a file by its path in tiny-imagenet-200/."""

_ANNOTATION = re.compile(r"(?P<file>val_[0-9]+\.JPEG)\t(?P<synset>n[0-9]+)(\t[0-9]+){4}")


def pack_found(facts: DatasetFacts, root: Path) -> Path | None:
    """Pack the unpacked folder or the archive that lies under the root; None without either.

    Returns the packed file. Raises CoreError dataset_missing or dataset_damaged.
    """
    (archive,) = facts.packed_from
    (folder,) = archive.instead
    packed = root / facts.train_files[0].path
    if (root / folder.path).is_dir():
        pack(facts, lambda path: (root / folder.path / path).read_bytes(), packed)
        return packed
    if not (root / archive.path).is_file():
        return None
    with (root / archive.path).open("rb") as file:
        if hashlib.file_digest(file, "md5").hexdigest() != archive.md5:
            raise _damaged(facts, archive.path, f"its MD5 is not the published {archive.md5}")
        with zipfile.ZipFile(file) as opened:
            pack(facts, lambda path: opened.read(f"{folder.path}{path}"), packed)
    return packed


def pack(facts: DatasetFacts, read: Read, packed: Path) -> None:
    """Decode every image and write the packed file, wholly or not at all.

    Training images stand class by class and in the order of their numbers, those of validation in
    the order of their annotations. Raises CoreError dataset_missing or dataset_damaged.
    """

    def content(path: str) -> bytes:
        try:
            return read(path)
        except (KeyError, FileNotFoundError, NotADirectoryError) as error:
            raise CoreError(
                "dataset_missing",
                f"{facts.title} is not whole: {path} is missing.",
                f"Unpack {facts.packed_from[0].path} again, wholly.",
                "dataset",
            ) from error

    training = [
        (f"train/{synset}/images/{synset}_{number}.JPEG", label)
        for label, (synset, count) in enumerate(
            zip(facts.synsets, facts.train_per_class, strict=True)
        )
        for number in range(count)
    ]
    annotations = "val/val_annotations.txt"
    validation = list(_annotated(facts, annotations, content(annotations)))
    counts = np.bincount([label for _, label in validation], minlength=facts.classes)
    if counts.tolist() != list(facts.test_per_class):
        raise _damaged(facts, annotations, "it does not list as many images as were published")
    images = _stacked(facts, content, [path for path, _ in training])
    test_images = _stacked(facts, content, [path for path, _ in validation])
    with atomically(packed) as file:
        np.savez(
            file,
            images=images,
            labels=np.array([label for _, label in training]),
            test_images=test_images,
            test_labels=np.array([label for _, label in validation]),
            class_names=np.array(facts.class_names),
        )


def _annotated(facts: DatasetFacts, path: str, content: bytes) -> Iterable[tuple[str, int]]:
    """Paths and labels of the validation images."""
    labels = {synset: label for label, synset in enumerate(facts.synsets)}
    for number, line in enumerate(content.decode("ascii", "replace").splitlines(), 1):
        match = _ANNOTATION.fullmatch(line)
        if match is None or match["synset"] not in labels:
            raise _damaged(facts, path, f"its line {number} does not annotate an image")
        yield f"val/images/{match['file']}", labels[match["synset"]]


def _stacked(facts: DatasetFacts, content: Read, paths: list[str]) -> npt.NDArray[np.uint8]:
    """(n, h, w, c): the images in colour, though some files are grey."""
    channels, height, width = facts.shape
    images = np.empty((len(paths), height, width, channels), dtype=np.uint8)
    for row, path in zip(images, paths, strict=True):
        try:
            image = decode(content(path))
        except ValueError as error:
            raise _damaged(facts, path, str(error)) from error
        if image.size != (width, height):
            raise _damaged(facts, path, f"it is {image.width}x{image.height} pixels")
        row[:] = np.asarray(image.convert("RGB"))
    return images


def _damaged(facts: DatasetFacts, path: str, why: str) -> CoreError:
    return CoreError(
        "dataset_damaged",
        f"{facts.title} is damaged: {path}: {why}.",
        f"Delete it and get it again from {facts.homepage}.",
        "dataset",
    )
