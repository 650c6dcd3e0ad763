"""SVHN: MATLAB files as the authors wrote them; 10 is the digit 0."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from rome_core import data
from rome_core.data.svhn import read_svhn
from rome_core.recipes.augmentation import SIGNS
from rome_core.recipes.datasets import SVHN, DatasetFacts
from tests.rome_core.data.small import failure, images, labels_of, written

TRAIN, TEST = (2, 1, 3, 1, 1, 1, 1, 1, 1, 1), (1,) * 10


def mat(pixels: Any, labels: Any) -> bytes:
    """Compressed, as the published files are: X (h, w, c, n) and y (n, 1)."""
    out = io.BytesIO()
    savemat(out, {"X": pixels, "y": labels}, do_compression=True)
    return out.getvalue()


def part(per_class: tuple[int, ...], seed: int) -> bytes:
    pixels = images(sum(per_class), 3, 32, 32, seed=seed).transpose(2, 3, 1, 0)
    labels = [label or 10 for label in labels_of(per_class)]
    return mat(pixels, np.array(labels, dtype=np.uint8)[:, None])


def small(root: Path, train: bytes, test: bytes) -> DatasetFacts:
    return written(
        root,
        SVHN,
        {"SVHN/train_32x32.mat": train, "SVHN/test_32x32.mat": test},
        train_per_class=TRAIN,
        test_per_class=TEST,
    )


def test_files_are_read_exactly(tmp_path: Path) -> None:
    read = read_svhn(small(tmp_path, part(TRAIN, 1), part(TEST, 2)), tmp_path)
    for got, per_class, seed in (
        (read.train_images, TRAIN, 1),
        (read.test_images, TEST, 2),
    ):
        expected = torch.from_numpy(images(sum(per_class), 3, 32, 32, seed=seed)).float() / 255
        assert torch.equal(got, expected)
        assert got.is_contiguous()
    assert read.train_labels.tolist() == labels_of(TRAIN)
    assert read.test_labels.bincount().tolist() == list(TEST)
    assert read.std.tolist() == list(SVHN.std)
    assert read.augmentation == SIGNS
    assert list(read.digests) == ["SVHN/train_32x32.mat", "SVHN/test_32x32.mat"]


def test_files_right_under_the_root_will_do(tmp_path: Path) -> None:
    (tmp_path / "train_32x32.mat").write_bytes(b"another")
    error = failure(lambda: data.load("svhn", tmp_path))
    assert error.code == "dataset_missing"
    assert "train" not in error.detail.partition("not found")[0]
    (tmp_path / "test_32x32.mat").write_bytes(b"another")
    error = failure(lambda: data.load("svhn", tmp_path))
    assert (error.code, "train_32x32.mat" in error.detail) == ("dataset_damaged", True)


GOOD = images(sum(TRAIN), 3, 32, 32).transpose(2, 3, 1, 0)
LABELS = np.array([label or 10 for label in labels_of(TRAIN)], dtype=np.uint8)[:, None]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (part(TRAIN, 1)[:-40], "holds no X and y"),
        (b"no such file", "holds no X and y"),
        (b"", "holds no X and y"),
        (mat(GOOD, LABELS).replace(b"MATLAB 5.0", b"MATLAB 9.9")[:130], "holds no X and y"),
        (mat(GOOD.astype(float), LABELS), "float64"),
        (mat(GOOD, LABELS / 2), "not images and integers"),
        (mat(GOOD[..., 1:], LABELS), "holds images (12, 3, 32, 32)"),
        (mat(GOOD[1:], LABELS), "holds images (13, 3, 31, 32)"),
        (mat(GOOD, LABELS[1:]), "holds images"),
        (mat(GOOD[..., 0], LABELS), "not images"),
        (mat(GOOD, np.where(LABELS == 10, 1, LABELS)), "images of class 0"),
        (mat(GOOD, np.where(LABELS == 10, 20, LABELS)), "not 0 to 9"),
    ],
)
def test_files_of_other_content_are_damaged(tmp_path: Path, content: bytes, word: str) -> None:
    facts = small(tmp_path, content, part(TEST, 2))
    error = failure(lambda: read_svhn(facts, tmp_path))
    assert error.code == "dataset_damaged"
    assert "train_32x32.mat" in error.detail
    assert word in error.detail


def test_a_file_without_one_of_them(tmp_path: Path) -> None:
    out = io.BytesIO()
    savemat(out, {"X": GOOD})
    facts = small(tmp_path, out.getvalue(), part(TEST, 2))
    assert "holds no X and y" in failure(lambda: read_svhn(facts, tmp_path)).detail
