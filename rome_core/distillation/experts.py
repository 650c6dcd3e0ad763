"""Networks trained on the real data, as a file: read by methods, written once.

Owns the format. A file is a safetensors of stacked tensors, so that its size is no matter: it is
written a snapshot at a time and read through a memory map. How experts are trained is not known
here (`expert_training`), nor whose experts a run may use (`runner.experts`).

| tensor | type, shape | holds |
|---|---|---|
| accuracy | F64 (count,) | on the test images, after the last epoch |
| train_accuracy, train_loss | F64 (count, E) | means over each epoch, before the updates |
| weights | F32 (count, snapshots, p) | flat weights of every kept epoch |
| forgetting | I32 (count, n) | of each training image, see `Experts.forgetting`; may be absent |
| digest | U8 (32,) | SHA-256 of every byte before it |

The header's one metadata entry, `experts`, is sorted JSON. Nothing in a file holds a time or a
machine, so equal runs leave equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import safetensors
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from rome_core.errors import CoreError
from rome_core.files import atomically
from rome_core.recipes.experts import ExpertTraining
from rome_core.recipes.networks import NetworkSpec, parse

FORMAT = 1
BLOCK = 2**22  # bytes read at a time while a file is proved
DTYPES: dict[str, npt.DTypeLike] = {"F64": "<f8", "F32": "<f4", "I32": "<i4", "U8": "u1"}


@dataclass(frozen=True)
class Layout:
    """How the weights of a network lie in one flat vector: its parameters, in their order."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, network: nn.Module) -> Layout:
        """Of a network's parameters. Raises ValueError where it has buffers, which are no weights.

        Running statistics of batch normalisation are such: they do not follow from the weights.
        """
        if any(True for _ in network.buffers()):
            raise ValueError("a network with buffers, such as batch statistics, has no flat form")
        named = dict(network.named_parameters())
        return cls(tuple(named), tuple(tuple(value.shape) for value in named.values()))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def size(self) -> int:
        """p, the number of weights."""
        return sum(self.sizes)

    def state(self, flat: Tensor) -> dict[str, Tensor]:
        """Flat weights (..., p) to views of them by name, (..., *shape); differentiable."""
        parts = torch.split(flat, list(self.sizes), dim=-1)
        return {
            name: part.view(*flat.shape[:-1], *shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def flat(self, state: Mapping[str, Tensor]) -> Tensor:
        """Weights by name to (..., p), differentiable; the leading dimensions are those all share.

        Raises KeyError where one is missing.
        """
        parts = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            value = state[name]
            parts.append(value.reshape(*value.shape[: value.dim() - len(shape)], -1))
        return torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class About:
    """What a file says of the networks in it, besides their weights."""

    training: ExpertTraining
    seed: int
    dataset: str
    data: Mapping[str, str]  # file -> SHA-256, as `Dataset.digests`
    space: str  # "normalised" or "zca": the units the networks take images in
    channels: int
    size: int
    classes: int
    train_images: int
    layout: Layout

    @property
    def epochs(self) -> tuple[int, ...]:
        """Those whose weights are kept, ascending; 0 is before the first."""
        last = self.training.epochs
        return (last,) if self.training.keep == "last" else tuple(range(last + 1))

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "training": self.training.model_dump(mode="json"),
            "seed": self.seed,
            "dataset": self.dataset,
            "data": dict(self.data),
            "space": self.space,
            "channels": self.channels,
            "size": self.size,
            "classes": self.classes,
            "train_images": self.train_images,
            "layout": [[name, list(shape)] for name, shape in self._layout()],
        }

    def _layout(self) -> list[tuple[str, tuple[int, ...]]]:
        return list(zip(self.layout.names, self.layout.shapes, strict=True))

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> About:
        """The way back. Raises KeyError, TypeError or ValueError where it is no such thing."""
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']!r}, this code reads {FORMAT}")
        layout = Layout(
            tuple(str(name) for name, _ in told["layout"]),
            tuple(tuple(int(length) for length in shape) for _, shape in told["layout"]),
        )
        kinds = {
            **dict.fromkeys(("seed", "channels", "size", "classes", "train_images"), int),
            **dict.fromkeys(("dataset", "space"), str),
            "data": dict,
        }
        for name, kind in kinds.items():
            if not isinstance(told[name], kind):
                raise TypeError(f"its {name} is no {kind.__name__}")
        training = ExpertTraining.model_validate(told["training"])
        return cls(training=training, layout=layout, **{name: told[name] for name in kinds})

    def shapes(self, *, forgetting: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Every tensor of a file, in the file's order: its type and shape."""
        count, epochs = self.training.count, self.training.epochs
        held: dict[str, tuple[str, tuple[int, ...]]] = {
            "accuracy": ("F64", (count,)),
            "train_accuracy": ("F64", (count, epochs)),
            "train_loss": ("F64", (count, epochs)),
            "weights": ("F32", (count, len(self.epochs), self.layout.size)),
        }
        if forgetting:
            held["forgetting"] = ("I32", (count, self.train_images))
        return held | {"digest": ("U8", (32,))}


@dataclass(frozen=True, eq=False)
class Experts:
    """A file of trained networks. Only what is asked for is read from it."""

    path: Path
    about: About
    _places: Mapping[str, tuple[int, str, tuple[int, ...]]]  # offset, type, shape

    @classmethod
    def open(cls, path: Path) -> Experts:
        """Prove a file whole, which reads it once, and open it.

        Raises CoreError: artifact_missing, or artifact_damaged for one that is cut off, changed or
        no file of experts.
        """
        if not path.is_file():
            raise CoreError(
                "artifact_missing",
                f"There is no file {path.absolute()}.",
                "Give the path of an experts.safetensors.",
                "experts",
            )
        try:
            with safetensors.safe_open(path, framework="np") as file:
                told = json.loads((file.metadata() or {})["experts"])
            about = About.from_dict(told)
            places = _places(path)
        except (
            safetensors.SafetensorError,
            ValidationError,
            ValueError,
            KeyError,
            TypeError,
        ) as error:
            what = str(error).partition("\n")[0] or type(error).__name__
            raise _damaged(path, f"it is no whole file of experts ({what})") from error
        found = {name: (dtype, shape) for name, (_, dtype, shape) in places.items()}
        if found != about.shapes(forgetting="forgetting" in found):
            raise _damaged(path, "its tensors are not those that its header speaks of")
        opened = cls(path, about, places)
        if opened.digest != _digest(path, places["digest"][0]):
            raise _damaged(path, "its content does not match its digest")
        return opened

    @property
    def training(self) -> ExpertTraining:
        return self.about.training

    @property
    def network(self) -> NetworkSpec:
        return parse(self.training.network)

    @property
    def channels(self) -> int:
        return self.about.channels

    @property
    def size(self) -> int:
        return self.about.size

    @property
    def classes(self) -> int:
        return self.about.classes

    @property
    def dataset(self) -> str:
        return self.about.dataset

    @property
    def space(self) -> str:
        """`normalised` or `zca`: the units the networks take images in."""
        return self.about.space

    @property
    def seed(self) -> int:
        return self.about.seed

    @property
    def layout(self) -> Layout:
        return self.about.layout

    @property
    def count(self) -> int:
        return self.training.count

    @property
    def epochs(self) -> tuple[int, ...]:
        """Those whose weights are kept, ascending: (0, 1, .., E) or (E,)."""
        return self.about.epochs

    def flat(self, expert: int, epoch: int) -> Tensor:
        """Weights after an epoch: (p,) float32 on the CPU, a copy of its own.

        Raises IndexError for an expert or an epoch that is not there.
        """
        if not 0 <= expert < self.count:
            raise IndexError(f"there are {self.count} experts, and no number {expert}")
        if epoch not in self.epochs:
            raise IndexError(f"the weights after epoch {epoch} were not kept")
        mapped: npt.NDArray[np.float32] = self._read("weights")
        return torch.from_numpy(mapped[expert, self.epochs.index(epoch)].astype(np.float32))

    def state(self, expert: int, epoch: int) -> dict[str, Tensor]:
        """The same by name, as the network's `load_state_dict` takes it."""
        return self.layout.state(self.flat(expert, epoch))

    @cached_property
    def digest(self) -> str:
        """SHA-256, hex, of all that comes before it in the file: equal experts have equal ones."""
        return self._read("digest").tobytes().hex()

    @cached_property
    def accuracy(self) -> tuple[float, ...]:
        """On the test images after the last epoch, a fraction, of each expert."""
        return tuple(self._read("accuracy").tolist())

    @cached_property
    def train_accuracy(self) -> Tensor:
        """On each epoch's own images, augmented and attacked as they were: (count, E) float64."""
        return torch.from_numpy(np.array(self._read("train_accuracy")))

    @cached_property
    def train_loss(self) -> Tensor:
        """Cross-entropy on the same images: (count, E) float64."""
        return torch.from_numpy(np.array(self._read("train_loss")))

    @cached_property
    def forgetting(self) -> Tensor | None:
        """How often each training image was forgotten: (count, n) int32; None if not recorded.

        Toneva et al. 2019: an image is right or wrong each time its batch is visited, before that
        batch's update and as augmented there; a turn from right to wrong is a forgetting event. One
        that was never right counts as epochs + 1, above all that could be forgotten.
        """
        if "forgetting" not in self._places:
            return None
        return torch.from_numpy(np.array(self._read("forgetting")))

    def _read(self, name: str) -> npt.NDArray[Any]:
        offset, dtype, shape = self._places[name]
        if 0 in shape:  # which cannot be mapped
            return np.empty(shape, DTYPES[dtype])
        mapped: npt.NDArray[Any] = np.memmap(
            str(self.path), DTYPES[dtype], mode="r", offset=offset, shape=shape
        )
        return mapped


@dataclass(frozen=True, eq=False)
class Records:
    """What is kept of the training besides weights; see `Experts` for what each means."""

    accuracy: Sequence[float]  # of each expert
    train_accuracy: Sequence[Sequence[float]]  # of each expert, of each epoch
    train_loss: Sequence[Sequence[float]]
    forgetting: Iterable[Tensor] | None = None  # (n,) int32 of each expert


def write(path: Path, about: About, snapshots: Iterable[Tensor], records: Records) -> None:
    """Write a file of experts, a snapshot in memory at a time; equal experts give equal bytes.

    `snapshots` gives (p,) for every kept epoch of the first expert, ascending, then the next
    expert's. Raises ValueError where they do not fit `about`, OSError with whatever was at `path`
    before still there.
    """
    held = about.shapes(forgetting=records.forgetting is not None)
    header: dict[str, Any] = {
        "__metadata__": {"experts": json.dumps(about.as_dict(), sort_keys=True)}
    }
    offset = 0
    for name, (dtype, shape) in held.items():
        end = offset + math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers behind it then lie at multiples of their size
    with atomically(path) as file:
        proof = _Proof(file)
        proof.write(len(text).to_bytes(8, "little") + text)
        content: dict[str, Iterable[Any]] = {
            "accuracy": [records.accuracy],
            "train_accuracy": records.train_accuracy,
            "train_loss": records.train_loss,
            "weights": snapshots,
            "forgetting": records.forgetting or (),
        }
        for name, (dtype, shape) in held.items():
            if name != "digest":
                proof.rows(name, content[name], DTYPES[dtype], shape)
        file.write(proof.digest())


class _Proof:
    """Writes, and knows the digest of what it has written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self.digest = self._hash.digest

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)

    def rows(
        self, name: str, rows: Iterable[Any], dtype: npt.DTypeLike, shape: tuple[int, ...]
    ) -> None:
        written = 0
        for row in rows:
            numbers = row.cpu().numpy() if isinstance(row, Tensor) else row
            values = np.ascontiguousarray(numbers, dtype)
            if values.shape != shape[-1:]:
                raise ValueError(f"{name} holds a row of {values.shape}, not {shape[-1:]}")
            self.write(values.tobytes())
            written += 1
        if written != math.prod(shape[:-1]):
            raise ValueError(f"{name} holds {written} rows, not {math.prod(shape[:-1])}")


def _places(path: Path) -> dict[str, tuple[int, str, tuple[int, ...]]]:
    """Where in a valid safetensors each tensor lies."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: (8 + length + told["data_offsets"][0], told["dtype"], tuple(told["shape"]))
        for name, told in header.items()
    }


def _digest(path: Path, end: int) -> str:
    """SHA-256, hex, of a file's first `end` bytes."""
    made = hashlib.sha256()
    with path.open("rb") as file:
        while end > 0 and (block := file.read(min(BLOCK, end))):
            made.update(block)
            end -= len(block)
    return made.hexdigest()


def _damaged(path: Path, why: str) -> CoreError:
    return CoreError(
        "artifact_damaged",
        f"{path.name} cannot be used: {why}.",
        "Give a file that a job of kind experts left, or train them anew.",
        "experts",
    )
