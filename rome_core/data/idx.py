"""MNIST and FashionMNIST from their original idx files, as they are or gzipped.

An idx file is two zero bytes, a type (8: unsigned bytes), the number of dimensions, each of them as
a big-endian 32-bit integer, and the values.
"""

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rome_core.data.dataset import Dataset
from rome_core.data.original import Labelled, as_published, checked, content, damaged, present
from rome_core.recipes.datasets import DatasetFacts, File


def read_idx(facts: DatasetFacts, root: Path) -> Dataset:
    """Read the four files. Raises CoreError dataset_missing or dataset_damaged."""
    train_images, train_labels, test_images, test_labels = present(facts, root)
    digests: dict[str, str] = {}

    def part(images: File, labels: File, per_class: tuple[int, ...]) -> Labelled:
        n, (_, height, width) = sum(per_class), facts.shape
        read = _values(facts, images, root, digests, (n, height, width))
        classes = _values(facts, labels, root, digests, (n,)).astype(np.int64)
        return checked(facts, root / labels.path, (read[:, None], classes), per_class)

    train = part(train_images, train_labels, facts.train_per_class)
    test = part(test_images, test_labels, facts.test_per_class)
    return as_published(facts, train, test, digests)


def _values(
    facts: DatasetFacts, file: File, root: Path, digests: dict[str, str], shape: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    """The bytes of a file, which must be of this very shape."""
    path = root / file.path
    header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
    whole = len(header) + int(np.prod(shape))
    read = content(facts, file, root, digests)
    if path.suffix == ".gz":
        try:
            # One byte more than there should be tells of all that follow, and costs nothing.
            read = gzip.GzipFile(fileobj=io.BytesIO(read)).read(whole + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise damaged(facts, path, f"it cannot be unpacked ({error})") from error
    if not read.startswith(header):
        size = "x".join(str(side) for side in shape)
        raise damaged(facts, path, f"it does not begin as an idx file of {size} bytes does")
    if len(read) != whole:
        more = "more than" if len(read) > whole else f"{len(read):,} and not"
        raise damaged(facts, path, f"it has {more} {whole:,} bytes")
    return np.frombuffer(read, dtype=np.uint8, offset=len(header)).reshape(shape)
