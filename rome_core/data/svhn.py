"""SVHN's cropped digits from the authors' MATLAB files.

scipy, which scikit-learn brings along, reads them: a file must have its published MD5 first, so
that its parser meets no other bytes.
"""

import io
from pathlib import Path

import numpy as np

from rome_core.data.dataset import Dataset
from rome_core.data.original import Labelled, as_published, checked, content, damaged, present
from rome_core.errors import CoreError
from rome_core.recipes.datasets import DatasetFacts, File


def read_svhn(facts: DatasetFacts, root: Path) -> Dataset:
    """Read both files. Raises CoreError dataset_missing or dataset_damaged."""
    train, test = present(facts, root)
    digests: dict[str, str] = {}
    return as_published(
        facts,
        _read(facts, train, root, digests, facts.train_per_class),
        _read(facts, test, root, digests, facts.test_per_class),
        digests,
    )


def _read(
    facts: DatasetFacts,
    file: File,
    root: Path,
    digests: dict[str, str],
    per_class: tuple[int, ...],
) -> Labelled:
    """`X` (h, w, c, n) and `y` (n, 1), in which 10 stands for the digit 0."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise CoreError(
            "dataset_missing",
            f"{facts.title} is read by scipy, which is not installed.",
            "pip install scipy.",
            "dataset",
        ) from error
    path = root / file.path
    read = content(facts, file, root, digests)
    try:
        arrays = loadmat(io.BytesIO(read), variable_names=("X", "y"))
        images, labels = arrays["X"], arrays["y"]
    # At bytes that are none of its format scipy raises whatever its parser trips over.
    except Exception as error:
        raise damaged(facts, path, f"it holds no X and y ({error or type(error)})") from error
    if images.dtype != np.uint8 or images.ndim != 4 or labels.dtype.kind not in "iu":
        why = f"X is {images.dtype} {images.shape}, and y {labels.dtype}: not images and integers"
        raise damaged(facts, path, why)
    digits = labels.reshape(-1).astype(np.int64)
    digits[digits == 10] = 0
    return checked(facts, path, (images.transpose(3, 2, 0, 1), digits), per_class)
