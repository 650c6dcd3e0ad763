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
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from rome_core import augment, foreign
from rome_core.data import Dataset
from rome_core.errors import CoreError
from rome_core.files import write_atomically
from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.networks import parse
from rome_core.space import Normalised, Space, Zca

FORMAT = "rome-synthetic-set"
FORMAT_VERSION = 1
SOFT_OR_WHITENED = 2
"""Version of files with what readers of version 1 would overlook: soft labels, a whitening, pixels
in the place of images."""

CLOSE_TO_ONE = 1e-4
"""How far the probabilities of a soft label may be from 1 together."""


@dataclass(frozen=True, eq=False)
class SyntheticSet:
    """A distilled set: images (n, c, h, w) float32 in the units of `space`, class by class.

    `factor` 2 says that each image packs four at half size (a 2x2 mosaic), to be decoded by
    `rome_core.augment.expand` before use; 1 says plain images. `augmentation` is the DSA strategy
    students should train with, `learning_rate` the rate they should start from, learned or the
    method's own. `soft_labels`, where a method makes any, are probabilities (factor^2 * n, classes)
    float32, a row a *decoded* image in the order of `augment.expand`; `labels` say the true class
    all the same. `preset` is the preset it was made by and `network` the catalogue's name of the
    network it was made with, None where there is none, as of a random subset, or where an older
    file does not say. `storage` uint8 says
    that files hold pixels of 256 levels, from which `images` follow to the last bit: for real
    images as they are, in a quarter of the space.
    """

    images: Tensor
    labels: Tensor  # (n,) int64
    factor: int
    dataset: str
    classes: int
    ipc: int
    space: Space
    augmentation: str
    learning_rate: float
    method: str
    preset: str | None = None
    soft_labels: Tensor | None = None
    storage: Literal["float32", "uint8"] = "float32"
    network: str | None = None

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
        soft_labels: Tensor | None = None,
        storage: Literal["float32", "uint8"] = "float32",
    ) -> "SyntheticSet":
        """A set in the units of `dataset`; its tensors are copied to the CPU."""
        if soft_labels is not None:
            soft_labels = soft_labels.detach().to("cpu", torch.float32, copy=True).contiguous()
        return cls(
            images=images.detach().to("cpu", torch.float32, copy=True).contiguous(),
            labels=labels.detach().to("cpu", torch.int64, copy=True),
            factor=factor,
            dataset=dataset.name,
            classes=dataset.classes,
            ipc=ipc,
            space=dataset.space,
            augmentation=augmentation,
            learning_rate=learning_rate,
            method=method,
            soft_labels=soft_labels,
            storage=storage,
        )

    @property
    def pixels(self) -> Tensor:
        """The images as pixels clipped to [0,1], for showing: (n, c, h, w)."""
        if self.factor == 1 or isinstance(self.space, Normalised):
            return self.space.to_pixels(self.images).clamp(0, 1)
        # A whitening is of whole images: those that a mosaic packs, not the mosaic.
        decoded, _ = augment.expand(self.images, factor=self.factor)
        small = augment.shrink(self.space.to_pixels(decoded).clamp(0, 1), self.factor)
        quadrants = small.view(self.factor**2, len(self.images), *small.shape[1:])
        return augment.mosaic(quadrants.transpose(0, 1))

    def learned(self) -> dict[str, Any]:
        """What differs between the iterates of one run, copied: images, rate and soft labels."""
        soft = self.soft_labels
        return {
            "images": self.images.cpu().clone(),
            "learning_rate": self.learning_rate,
            "soft_labels": None if soft is None else soft.cpu().clone(),
        }

    def metadata(self) -> dict[str, Any]:
        """All but the tensors, as JSON."""
        return {
            **self._described(),
            "network": self.network,
            "space": self.space.name,
            "labels": "hard" if self.soft_labels is None else "soft",
        }

    def _described(self) -> dict[str, Any]:
        """What files say beside their tensors: nothing new of sets that have nothing new."""
        plain = isinstance(self.space, Normalised)
        floats = self.storage == "float32"
        old = plain and floats and self.soft_labels is None
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION if old else SOFT_OR_WHITENED,
            "method": self.method,
            "preset": self.preset,
            "dataset": self.dataset,
            "classes": self.classes,
            "ipc": self.ipc,
            "factor": self.factor,
            "expanded": False,
            "normalised": plain and floats,
            **_statistics(self.space),
            "augmentation": self.augmentation,
            "learning_rate": self.learning_rate,
            **({} if floats else {"storage": self.storage}),
            **({} if self.network is None else {"network": self.network}),
        }

    def _stored(self) -> tuple[str, Tensor]:
        """What files hold of the images, and under which name: another where it is not images."""
        if self.storage == "float32":
            return "images", self.images
        # In blocks, for it may be a whole dataset.
        parts = (self.space.to_pixels(some) for some in torch.split(self.images, 4096))
        return "levels", torch.cat([(part * 255).round().to(torch.uint8) for part in parts])


def images_of(levels: Tensor, space: Space) -> Tensor:
    """Pixels of 256 levels, uint8 (n, c, h, w), in the units of a space, float32.

    Where that is `Normalised`, bits are the same on every machine.
    """
    return space.from_pixels(levels.to(torch.float32).div_(255))


def _statistics(space: Space) -> dict[str, Any]:
    """A whitened set has no mean and std, so that nobody normalises by them."""
    if isinstance(space, Normalised):
        return {"mean": space.mean.tolist(), "std": space.std.tolist(), "zca": None}
    assert isinstance(space, Zca)
    return {"mean": None, "std": None, "zca": {"epsilon": space.epsilon}}


def save_pt(synthetic: SyntheticSet, path: Path) -> None:
    """Write a `.pt` that loads under `torch.load(weights_only=True)`.

    `data` is the list of [images, labels] pairs that the field's evaluation code reads, packed and
    in the set's space; the other keys are metadata and, of a set that has them, `soft_labels` and
    the whitening's tensors under `zca`. Of one stored as pixels there is no `data`, which would be
    taken for images: the pair is under `levels`.
    """
    name, stored = synthetic._stored()
    key = "data" if name == "images" else name
    content = {key: [[stored, synthetic.labels]], **synthetic._described()}
    if isinstance(synthetic.space, Zca):
        content["zca"] = synthetic.space.state
    if synthetic.soft_labels is not None:
        content["soft_labels"] = synthetic.soft_labels
    buffer = io.BytesIO()  # A buffer, because torch writes a path's name into the file.
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def save_safetensors(synthetic: SyntheticSet, path: Path) -> None:
    """Write the tensors `images` and `labels`, with metadata as JSON under the key `set`.

    Of a set that has them, `soft_labels` and `zca/mean`, `zca/eigenvectors`, `zca/eigenvalues` too;
    of one stored as pixels, `levels` in the place of `images`.
    """
    # One key only: the library writes several in no fixed order.
    described = json.dumps(synthetic._described(), sort_keys=True)
    name, stored = synthetic._stored()
    tensors = {name: stored, "labels": synthetic.labels}
    if isinstance(synthetic.space, Zca):
        state = synthetic.space.state
        tensors |= {f"zca/{name}": state[name] for name in _WHITENING}
    if synthetic.soft_labels is not None:
        tensors["soft_labels"] = synthetic.soft_labels
    write_atomically(path, safetensors.torch.save(tensors, metadata={"set": described}))


_WHITENING = ("mean", "eigenvectors", "eigenvalues")


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
    if content.get("format") == FORMAT and content.get("storage") == "uint8":
        content = _restored(path, content)
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
    key, name = ("data", "images") if "images" in tensors else ("levels", "levels")
    content = {key: [[tensors[name], tensors["labels"]]], **described}
    if described.get("zca") is not None:
        whitening = {name: tensors[f"zca/{name}"] for name in _WHITENING}
        content["zca"] = {**described["zca"], **whitening}
    if "soft_labels" in tensors:
        content["soft_labels"] = tensors["soft_labels"]
    return content


def _restored(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a set stored as pixels, as that of one stored as images."""
    try:
        levels, labels = content["levels"][0]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _invalid(path, "'levels' is no list of [pixels, labels]") from error
    if not isinstance(levels, Tensor) or levels.ndim != 4 or levels.dtype != torch.uint8:
        raise _invalid(path, "its pixels are no uint8 tensor of the shape (n, c, h, w)")
    if not foreign.is_whole(levels):
        raise _invalid(path, "a tensor claims more values than the file holds")
    images = images_of(levels, _space(path, content, levels))
    return {**content, "data": [[images, labels]]}


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
        raise _invalid(path, "its labels are not class numbers from 0; soft ones go beside them")
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
    version = content.get("format_version")
    if version not in (FORMAT_VERSION, SOFT_OR_WHITENED):
        raise _invalid(
            path,
            f"its format version is {version}, this code reads {FORMAT_VERSION} and "
            f"{SOFT_OR_WHITENED}",
        )
    space = _space(path, content, images)
    try:
        synthetic = SyntheticSet(
            images=images,
            labels=labels,
            factor=int(content["factor"]),
            dataset=str(content["dataset"]),
            classes=int(content["classes"]),
            ipc=int(content["ipc"]),
            space=space,
            augmentation=str(content["augmentation"]),
            learning_rate=float(content["learning_rate"]),
            method=str(content["method"]),
            preset=None if content["preset"] is None else str(content["preset"]),
            soft_labels=content.get("soft_labels"),
            storage="uint8" if content.get("storage") == "uint8" else "float32",
            network=None if content.get("network") is None else str(content["network"]),
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
    _, _, height, width = synthetic.images.shape
    if int(synthetic.labels.max()) >= synthetic.classes:
        raise _invalid(path, f"a label is not below its {synthetic.classes} classes")
    if synthetic.factor not in (1, 2):
        raise _invalid(path, f"its factor is {synthetic.factor}, not 1 or 2")
    if height % synthetic.factor or width % synthetic.factor:
        raise _invalid(path, f"images of {height}x{width} cannot hold four smaller ones")
    if not (synthetic.learning_rate > 0 and math.isfinite(synthetic.learning_rate)):
        raise _invalid(path, f"its learning_rate {synthetic.learning_rate} is not above 0")
    try:
        augment.parse_strategy(synthetic.augmentation)
    except ValueError as error:
        raise _invalid(path, f"its augmentation is unknown: {error}") from error
    try:
        if synthetic.network is not None:
            parse(synthetic.network)
    except ValueError as error:
        raise _invalid(path, f"its network is unknown: {error}") from error
    if synthetic.soft_labels is not None:
        _check_soft_labels(path, synthetic, synthetic.soft_labels)


def _check_soft_labels(path: Path, synthetic: SyntheticSet, soft: object) -> None:
    wanted = (len(synthetic.images) * synthetic.factor**2, synthetic.classes)
    if not isinstance(soft, Tensor) or soft.dtype != torch.float32 or tuple(soft.shape) != wanted:
        raise _invalid(path, f"its soft labels are no float32 tensor of the shape {wanted}")
    if not foreign.is_whole(soft) or not bool(soft.isfinite().all()):
        raise _invalid(path, "its soft labels hold values that are not finite, or not there")
    if float(soft.min()) < 0 or float((soft.sum(dim=1) - 1).abs().max()) > CLOSE_TO_ONE:
        raise _invalid(path, "a soft label is no probabilities that sum to 1")


def _space(path: Path, content: Mapping[str, Any], images: Tensor) -> Space:
    """The units of the images, checked."""
    shape = images.shape[1:]
    whitening = content.get("zca")
    if whitening is not None:
        try:
            return Zca.restored(whitening, shape)
        except (ValueError, AttributeError) as error:
            raise _invalid(path, f"its zca is no whitening of such images: {error}") from error
    try:
        mean, std = ([float(value) for value in content[name]] for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid(path, f"its metadata lack or garble {error}") from error
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != shape[0] or not all(map(math.isfinite, values)):
            raise _invalid(path, f"its {name} {values} is not one number a channel of {shape[0]}")
    if min(std) <= 0:
        raise _invalid(path, f"its std {std} is not above 0")
    return Normalised.of(mean, std)


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
        space=Normalised.of(facts.mean, facts.std),
        augmentation=facts.augmentation,
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
