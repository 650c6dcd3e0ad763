"""Small datasets of the published forms: facts of few images, and files with their true digests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rome_core.errors import CoreError
from rome_core.recipes.datasets import DatasetFacts, File

Bytes = npt.NDArray[np.uint8]


def failure(call: Callable[[], object]) -> CoreError:
    with pytest.raises(CoreError) as caught:
        call()
    assert caught.value.field == "dataset"
    return caught.value


def images(n: int, *shape: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def labels_of(per_class: tuple[int, ...]) -> list[int]:
    """As many of each class as facts say, not in order."""
    ordered = [label for label, count in enumerate(per_class) for _ in range(count)]
    return [ordered[place] for place in np.random.default_rng(1).permutation(len(ordered))]


def written(
    root: Path, facts: DatasetFacts, files: Mapping[str, bytes], tests: int = 1, **changes: Any
) -> DatasetFacts:
    """Put files under the root, and list them as the dataset's, the last `tests` for testing."""
    listed = []
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        listed.append(File(path, hashlib.md5(content, usedforsecurity=False).hexdigest()))
    return replace(
        facts, train_files=tuple(listed[:-tests]), test_files=tuple(listed[-tests:]), **changes
    )
