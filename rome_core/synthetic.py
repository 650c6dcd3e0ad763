"""The synthetic set and its files: `.pt` and `.safetensors`.

Owns the artifact formats. Their bytes depend on the set alone, never on time, host or path, so
that equal runs give equal files. Must not know how a set was made.
"""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from rome_core import augment, foreign
from rome_core.data import Dataset
from rome_core.errors import CoreError
from rome_core.files import write_atomically
from rome_core.recipes.datasets import DATASETS

FORMAT = "rome-synthetic-set"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class SyntheticSet:
    """A distilled set: images (n, c, h, w) float32 in *normalised* units, class by class.

    `factor` 2 says that each image packs four at half size (a 2x2 mosaic), to be decoded by
    `rome_core.augment.expand` before use; 1 says plain images. `mean` and `std` are per channel,
    of pixels in [0,1]. `augmentation` is the DSA strategy students should train with,
    `learning_rate` what the method suggests they start from: an evaluation takes its spec's own, so
    that all sets are learned alike. `preset` is the preset it was made by, if any.
    """

    images: Tensor
    labels: Tensor  # (n,) int64
    factor: int
    dataset: str
    classes: int
    ipc: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str
    learning_rate: float
    method: str
    preset: str | None = None

    @classmethod
    def of(
        cls,
        images: Tensor,
        labels: Tensor,
        dataset: Dataset,
        *,
        factor: int,
        ipc: int,
        augmentation: str,
        method: str,
        learning_rate: float = 0.01,
    ) -> "SyntheticSet":
        """A set in the units of `dataset`; its tensors are copied to the CPU."""
        return cls(
            images=images.detach().to("cpu", torch.float32, copy=True).contiguous(),
            labels=labels.detach().to("cpu", torch.int64, copy=True),
            factor=factor,
            dataset=dataset.name,
            classes=dataset.classes,
            ipc=ipc,
            mean=tuple(dataset.mean.tolist()),
            std=tuple(dataset.std.tolist()),
            augmentation=augmentation,
            learning_rate=learning_rate,
            method=method,
        )

    @property
    def pixels(self) -> Tensor:
        """The images as pixels clipped to [0,1], for showing: (n, c, h, w)."""
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return (self.images * std + mean).clamp(0, 1)

    def metadata(self) -> dict[str, Any]:
        """All but the tensors, as JSON."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "method": self.method,
            "preset": self.preset,
            "dataset": self.dataset,
            "classes": self.classes,
            "ipc": self.ipc,
            "factor": self.factor,
            "expanded": False,
            "normalised": True,
            "mean": list(self.mean),
            "std": list(self.std),
            "zca": None,
            "augmentation": self.augmentation,
            "learning_rate": self.learning_rate,
        }


def save_pt(synthetic: SyntheticSet, path: Path) -> None:
    """Write a `.pt` that loads under `torch.load(weights_only=True)`.

    `data` is the list of [images, labels] pairs that the field's evaluation code reads, packed and
    normalised; the other keys are `metadata()`.
    """
    content = {"data": [[synthetic.images, synthetic.labels]], **synthetic.metadata()}
    buffer = io.BytesIO()  # A buffer, because torch writes a path's name into the file.
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def save_safetensors(synthetic: SyntheticSet, path: Path) -> None:
    """Write the tensors `images` and `labels`, with `metadata()` as JSON under the key `set`."""
    # One key only: the library writes several in no fixed order.
    described = json.dumps(synthetic.metadata(), sort_keys=True)
    tensors = {"images": synthetic.images, "labels": synthetic.labels}
    write_atomically(path, safetensors.torch.save(tensors, metadata={"set": described}))


def load(path: Path, *, dataset: str | None = None, factor: int | None = None) -> SyntheticSet:
    """Read a `.pt` or `.safetensors` of ours, or a bare reference `.pt` (`data` and little else).

    A bare file does not say what it is of, so `dataset` (one with published statistics) and
    `factor` must; for one of ours they must be None or agree. Raises CoreError artifact_missing,
    artifact_damaged or artifact_invalid.
    """
    if not path.is_file():
        raise CoreError(
            "artifact_missing",
            f"There is no file {path.absolute()}.",
            "Give the path of a synthetic set, such as synthetic.pt.",
            "artifact",
        )
    content = _read(path)
    images, labels = _pair(path, content)
    if content.get("format") == FORMAT:
        return _ours(path, content, images, labels, dataset, factor)
    return _bare(path, images, labels, dataset, factor)


def _read(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    try:
        if raw[8:9] == b"{":  # eight bytes of length, then JSON
            return _from_safetensors(raw)
        content = foreign.load(raw)
    except (KeyError, ValueError, TypeError, safetensors.SafetensorError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CoreError(
            "artifact_damaged",
            f"{path.name} cannot be read as tensors and plain containers: {why}",
            "Take a file that loads under torch.load(weights_only=True), or get it again if it is "
            "one of ours.",
            "artifact",
        ) from error
    if not isinstance(content, dict):
        raise _invalid(path, f"it holds a {type(content).__name__}, not a dictionary with 'data'")
    return content


def _from_safetensors(raw: bytes) -> dict[str, Any]:
    tensors = safetensors.torch.load(raw)
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    described: dict[str, Any] = json.loads(header["__metadata__"]["set"])
    return {"data": [[tensors["images"], tensors["labels"]]], **described}


def _pair(path: Path, content: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The first [images, labels] of `data`, checked."""
    try:
        images, labels = content["data"][0]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _invalid(path, "'data' is no list of [images, labels]") from error
    for tensor in (images, labels):
        if isinstance(tensor, Tensor) and not foreign.is_whole(tensor):
            raise _invalid(path, "a tensor claims more values than the file holds")
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        raise _invalid(path, "its images are no float tensor of the shape (n, c, h, w)")
    if not isinstance(labels, Tensor) or labels.shape != images.shape[:1] or not len(labels):
        raise _invalid(path, "its labels are no tensor of the shape (n,)")
    if labels.is_floating_point() or int(labels.min()) < 0:
        raise _invalid(path, "its labels are not class numbers from 0; soft labels are not read")
    images = images.float()
    if not bool(images.isfinite().all()):
        raise _invalid(path, "its images hold values that are not finite")
    return images.contiguous(), labels.long()


def _ours(
    path: Path,
    content: Mapping[str, Any],
    images: Tensor,
    labels: Tensor,
    dataset: str | None,
    factor: int | None,
) -> SyntheticSet:
    if content.get("format_version") != FORMAT_VERSION:
        raise _invalid(
            path,
            f"its format version is {content.get('format_version')}, this code reads "
            f"{FORMAT_VERSION}",
        )
    try:
        synthetic = SyntheticSet(
            images=images,
            labels=labels,
            factor=int(content["factor"]),
            dataset=str(content["dataset"]),
            classes=int(content["classes"]),
            ipc=int(content["ipc"]),
            mean=tuple(float(value) for value in content["mean"]),
            std=tuple(float(value) for value in content["std"]),
            augmentation=str(content["augmentation"]),
            learning_rate=float(content["learning_rate"]),
            method=str(content["method"]),
            preset=None if content["preset"] is None else str(content["preset"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _invalid(path, f"its metadata lack or garble {error}") from error
    _check(path, synthetic)
    for field, given, own in (
        ("dataset", dataset, synthetic.dataset),
        ("factor", factor, synthetic.factor),
    ):
        if given is not None and given != own:
            raise CoreError(
                "artifact_mismatch",
                f"{path.name} says its {field} is {own}, not {given}.",
                f"Leave {field} out.",
                field,
            )
    return synthetic


def _check(path: Path, synthetic: SyntheticSet) -> None:
    """What a set says of itself must hold of its images, or its numbers would be wrong."""
    _, channels, height, width = synthetic.images.shape
    if int(synthetic.labels.max()) >= synthetic.classes:
        raise _invalid(path, f"a label is not below its {synthetic.classes} classes")
    if synthetic.factor not in (1, 2):
        raise _invalid(path, f"its factor is {synthetic.factor}, not 1 or 2")
    if height % synthetic.factor or width % synthetic.factor:
        raise _invalid(path, f"images of {height}x{width} cannot hold four smaller ones")
    for name, values in (("mean", synthetic.mean), ("std", synthetic.std)):
        if len(values) != channels or not all(map(math.isfinite, values)):
            raise _invalid(path, f"its {name} {values} is not one number a channel of {channels}")
    if min(synthetic.std) <= 0:
        raise _invalid(path, f"its std {synthetic.std} is not above 0")
    if not (synthetic.learning_rate > 0 and math.isfinite(synthetic.learning_rate)):
        raise _invalid(path, f"its learning_rate {synthetic.learning_rate} is not above 0")
    try:
        augment.parse_strategy(synthetic.augmentation)
    except ValueError as error:
        raise _invalid(path, f"its augmentation is unknown: {error}") from error


def _bare(
    path: Path, images: Tensor, labels: Tensor, dataset: str | None, factor: int | None
) -> SyntheticSet:
    facts = DATASETS.get(dataset or "")
    for field, missing, example in (
        ("dataset", facts is None, ", ".join(DATASETS)),
        ("factor", factor is None, "2 if each image packs four, 1 if not"),
    ):
        if missing:
            raise CoreError(
                "artifact_undescribed",
                f"{path.name} holds images and labels but does not say its {field}.",
                f"Give {field}: {example}.",
                field,
            )
    assert facts is not None
    assert factor is not None
    if images.shape[1:] != facts.shape or int(labels.max()) >= facts.classes:
        raise _invalid(path, f"it does not fit {facts.title}'s images {facts.shape} and classes")
    return SyntheticSet(
        images=images,
        labels=labels,
        factor=factor,
        dataset=facts.name,
        classes=facts.classes,
        ipc=int(labels.bincount().max()),
        mean=facts.mean,
        std=facts.std,
        augmentation="color_crop_cutout_flip_scale_rotate",
        learning_rate=0.01,
        method="unknown",
    )


def _invalid(path: Path, why: str) -> CoreError:
    return CoreError(
        "artifact_invalid",
        f"{path.name} is no synthetic set: {why}.",
        "Give a synthetic.pt of this project, or a .pt in the layout of the ROME and DC code.",
        "artifact",
    )
