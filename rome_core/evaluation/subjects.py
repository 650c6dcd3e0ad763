"""Who is attacked: trained networks, by name and with where they come from.

Owns the way from a reference in a spec to a network. Must not attack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rome_core import weights
from rome_core.data import Dataset
from rome_core.errors import CoreError
from rome_core.evaluation.robustness import TestSet
from rome_core.networks import Network
from rome_core.provenance import file_digest
from rome_core.recipes.evaluate import ModelRef
from rome_core.space import ZCA_EPSILON, Space, Zca

SUFFIXES = (".pth", ".pt", ".safetensors")
FOLDER = "models"


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network under its name in the report.

    `source` is the artifact or file it was read from and `digest` that file's sha256, hex; both
    empty for a student that was trained here. `assumed` is what the file leaves open, `space` what
    its images go through, None for that of the test images.
    """

    name: str
    network: Network
    source: str = ""
    digest: str | None = None
    assumed: tuple[str, ...] = ()
    space: Space | None = None

    def test(self, images: TestSet) -> TestSet:
        """Test images as the network takes them."""
        return images if self.space is None else replace(images, space=self.space)


def load_model(
    model: ModelRef,
    dataset: Dataset,
    inputs: Mapping[str, Path],
    data_root: Path,
    device: str,
    field: str,
    *,
    whiten: Callable[[float], Dataset],
) -> Subject:
    """Read a model for a dataset's images. Raises CoreError, its field under `field`.

    A model of whitened images finds their whitening again: `whiten` gives the dataset whitened with
    some ridge, and is called for such models alone.
    """
    if model.artifact is not None:
        path, source = inputs.get(model.artifact), model.artifact
        if path is None:
            raise CoreError(
                "input_missing",
                f"The run was given no file for the artifact {model.artifact}.",
                "Name an artifact that exists.",
                f"{field}.artifact",
            )
    else:
        assert model.file is not None
        path, source = _found(model.file, data_root, f"{field}.file"), model.file
    channels, size, _ = dataset.shape
    try:
        loaded = weights.read(
            path, network=model.network, channels=channels, size=size, classes=dataset.classes
        )
    except CoreError as error:
        inner = "network" if error.field == "network" else "artifact" if model.artifact else "file"
        raise CoreError(error.code, error.detail, error.remedy, f"{field}.{inner}") from error
    space = dataset.space
    if loaded.whitening is not None or model.whitening == "zca":
        epsilon = loaded.whitening.epsilon if loaded.whitening else ZCA_EPSILON
        space = whiten(epsilon).space
        assert isinstance(space, Zca)
        if loaded.whitening and not loaded.whitening.fits(space.sketch):
            raise CoreError(
                "weights_mismatch",
                f"{source} says that its images were whitened, and not by the ZCA of "
                f"{dataset.name}'s training images.",
                "Evaluate it on the dataset it was trained for.",
                f"{field}.{'artifact' if model.artifact else 'file'}",
            )
    return Subject(
        model.label, loaded.network.to(device), source, file_digest(path), loaded.assumed, space
    )


def _found(name: str, data_root: Path, field: str) -> Path:
    folder = data_root / FOLDER
    paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    there = [path for path in paths if path.is_file()]
    if not there:
        raise CoreError(
            "weights_missing",
            f"There is no {name}.pth, .pt or .safetensors in {folder.absolute()}.",
            "Put the file there, or name an artifact with weights.",
            field,
        )
    return there[0]
