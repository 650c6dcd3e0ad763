"""scikit-learn's 1,797 handwritten digits, 8x8: real images that come with a dependency."""

import hashlib
from importlib import resources

import numpy as np

from rome_core.data.dataset import Dataset, is_test
from rome_core.data.original import as_published
from rome_core.errors import CoreError
from rome_core.recipes.datasets import DIGITS

_FILE = "digits.csv.gz"


def read_digits() -> Dataset:
    """The digits with grey levels 0 to 16 as [0,1]. Raises CoreError where scikit-learn is not."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise CoreError(
            "dataset_missing",
            "The digits come with scikit-learn, which is not installed.",
            "pip install scikit-learn.",
            "dataset",
        ) from error
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]  # (n, 1, 8, 8)
    labels = bunch.target.astype(np.int64)
    test = is_test(labels)
    return as_published(
        DIGITS,
        (images[~test], labels[~test]),
        (images[test], labels[test]),
        {f"sklearn/{_FILE}": _digest()},
        whole=16,
    )


def _digest() -> str:
    file = resources.files("sklearn.datasets.data").joinpath(_FILE)
    return hashlib.sha256(file.read_bytes()).hexdigest()
