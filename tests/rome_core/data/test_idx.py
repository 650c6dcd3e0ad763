"""MNIST's format, byte by byte: read exactly, and refused where a byte is not as it should be."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import pytest
import torch

from rome_core import data
from rome_core.data.idx import read_idx
from rome_core.recipes.augmentation import SIGNS
from rome_core.recipes.datasets import DATASETS, MNIST, DatasetFacts
from tests.rome_core.data.small import Bytes, failure, images, labels_of, written

TRAIN, TEST = (3, 1, 2, 1, 1, 1, 1, 1, 1, 2), (1,) * 10
SHAPE = (1, 5, 4)


def idx(values: Bytes, *, kind: int = 8) -> bytes:
    """As the authors wrote it; values (n,) or (n, h, w)."""
    header = bytes([0, 0, kind, values.ndim]) + b"".join(
        struct.pack(">I", side) for side in values.shape
    )
    return header + values.tobytes()


def parts() -> dict[str, bytes]:
    """Files of a small MNIST: names as torchvision has them."""
    return {
        "m/train-images": idx(images(sum(TRAIN), *SHAPE[1:], seed=1)),
        "m/train-labels": idx(as_bytes(labels_of(TRAIN))),
        "m/t10k-images": idx(images(sum(TEST), *SHAPE[1:], seed=2)),
        "m/t10k-labels": idx(as_bytes(labels_of(TEST))),
    }


def as_bytes(labels: list[int]) -> Bytes:
    made: Bytes = images(len(labels))
    made[:] = labels
    return made


def small(root: Path, files: dict[str, bytes]) -> DatasetFacts:
    return written(root, MNIST, files, 2, shape=SHAPE, train_per_class=TRAIN, test_per_class=TEST)


@pytest.mark.parametrize("packed", [False, True])
def test_files_are_read_exactly_packed_or_not(tmp_path: Path, packed: bool) -> None:
    files = parts()
    if packed:
        files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    read = read_idx(small(tmp_path, files), tmp_path)
    assert torch.equal(
        read.train_images,
        torch.from_numpy(images(sum(TRAIN), *SHAPE, seed=1)).float() / 255,
    )
    assert read.train_images.shape[1:] == SHAPE
    assert read.train_labels.tolist() == labels_of(TRAIN)
    assert read.test_labels.tolist() == labels_of(TEST)
    assert (read.train_labels.dtype, read.train_images.dtype) == (torch.int64, torch.float32)
    assert read.mean.tolist() == list(MNIST.mean)
    assert read.augmentation == SIGNS
    assert read.digests == {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items()
    }


def test_what_lies_there_in_either_form_will_do(tmp_path: Path) -> None:
    """The catalogue lists the archive beside the file; torchvision leaves both."""
    for file in (*MNIST.train_files, *MNIST.test_files):
        plain, packed = file.forms
        assert packed.path == f"{plain.path}.gz"
    names = [file.path for file in (*MNIST.train_files, *MNIST.test_files)]
    facts = small(tmp_path, dict(zip(names, parts().values(), strict=True)))
    (tmp_path / names[3]).rename(tmp_path / "elsewhere")
    error = failure(lambda: read_idx(facts, tmp_path))
    assert (error.code, "t10k-labels" in error.detail) == ("dataset_missing", True)
    assert "train" not in error.detail.partition("not found")[0]


@pytest.mark.parametrize("name", ["mnist", "fashionmnist"])
def test_the_catalogue_leads_to_the_reader(tmp_path: Path, name: str) -> None:
    error = failure(lambda: data.load(name, tmp_path))
    assert error.code == "dataset_missing"
    assert "raw/t10k-labels-idx1-ubyte.gz" in error.detail
    assert f"fetch {name}" in error.remedy
    facts = DATASETS[name]
    path = tmp_path / facts.train_files[0].path
    for file in (*facts.train_files, *facts.test_files):
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).write_bytes(b"another")
    error = failure(lambda: data.load(name, tmp_path))
    assert (error.code, str(path) in error.detail) == ("dataset_damaged", True)
    assert "MD5" in error.detail


def other(name: str, content: bytes) -> dict[str, bytes]:
    return {**parts(), f"m/{name}": content}


N = sum(TRAIN)


@pytest.mark.parametrize(
    ("files", "blamed", "word"),
    [
        (
            other("train-images", idx(images(N - 1, 5, 4))),
            "train-images",
            "14x5x4",
        ),
        (other("train-images", idx(images(N, 4, 5))), "train-images", "does not begin"),
        (other("train-images", idx(images(N, 5, 4), kind=9)), "train-images", "does not begin"),
        (other("train-images", parts()["m/train-images"][:-1]), "train-images", "295 and not"),
        (other("train-images", parts()["m/train-images"] + b"x"), "train-images", "more than"),
        (other("train-images", b""), "train-images", "does not begin"),
        (other("t10k-labels", parts()["m/train-labels"]), "t10k-labels", "does not begin"),
        (other("t10k-labels", idx(as_bytes([0] * 10))), "t10k-labels", "10 images of class 0"),
        (other("t10k-labels", idx(as_bytes([*range(9), 10]))), "t10k-labels", "not 0 to 9"),
        (
            other("train-labels", idx(as_bytes([9, *sorted(labels_of(TRAIN))[1:]]))),
            "train-labels",
            "class 0",
        ),
    ],
)
def test_files_of_other_content_are_damaged(
    tmp_path: Path, files: dict[str, bytes], blamed: str, word: str
) -> None:
    facts = small(tmp_path, files)
    error = failure(lambda: read_idx(facts, tmp_path))
    assert error.code == "dataset_damaged"
    assert blamed in error.detail
    assert word in error.detail
    assert "fetch mnist" in error.remedy


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(parts()["m/train-labels"])[:-9],
        flipped(gzip.compress(parts()["m/train-labels"]), -6),  # its check sum
        b"no archive",
        b"",
        gzip.compress(parts()["m/train-labels"] + bytes(10**7)),
    ],
)
def test_archives_that_are_cut_short_or_never_end(tmp_path: Path, content: bytes) -> None:
    files = {f"{name}.gz": gzip.compress(whole) for name, whole in parts().items()}
    facts = small(tmp_path, {**files, "m/train-labels.gz": content})
    error = failure(lambda: read_idx(facts, tmp_path))
    assert error.code == "dataset_damaged"
    assert "train-labels.gz" in error.detail
