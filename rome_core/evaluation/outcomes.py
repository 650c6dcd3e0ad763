"""What became of every attacked image: the table behind the accuracies, and its parquet file.

Owns the columns, what must hold between them, and the file, which any reader of parquet opens. Must
not know a specification or a run: who was attacked and how are names here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from rome_core.errors import CoreError
from rome_core.files import write_atomically

Mode: TypeAlias = Literal["targeted", "untargeted", ""]
"""The empty mode is that of what aims at nothing: clean images, or the clamp alone."""

MODES: Final[tuple[Mode, ...]] = get_args(Mode)

FORMAT: Final = {b"format": b"rome-outcomes", b"format_version": b"1"}

_NAMES: Final = ("subject", "protocol", "attack", "mode")

# Tensors' dtypes and the columns they become; the order is the file's.
_COLUMNS: Final = {
    "image": (torch.int64, pa.int64()),
    "label": (torch.int64, pa.int64()),
    "prediction": (torch.int64, pa.int64()),
    "target": (torch.int64, pa.int64()),
    "clean_correct": (torch.bool, pa.bool_()),
    "correct": (torch.bool, pa.bool_()),
    "hit": (torch.bool, pa.bool_()),
    "linf": (torch.float32, pa.float32()),
    "l2": (torch.float32, pa.float32()),
    "margin": (torch.float32, pa.float32()),
    "forwards": (torch.int64, pa.int64()),
    "backwards": (torch.int64, pa.int64()),
    "queries": (torch.int64, pa.int64()),
}

_TEXT: Final = pa.dictionary(pa.int32(), pa.string())

_SCHEMA: Final = pa.schema(
    [
        pa.field("subject", pa.int64(), nullable=False),
        *(pa.field(name, _TEXT, nullable=False) for name in _NAMES[1:]),
        *(pa.field(name, kind, nullable=False) for name, (_, kind) in _COLUMNS.items()),
    ],
    metadata=FORMAT,
)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """One attack in one mode on one model, image by image; every tensor is (n,), n at least 1.

    Raises ValueError where shapes, dtypes or columns contradict each other: a wrong row would
    otherwise be found, if ever, in somebody's analysis.
    """

    subject: int  # number of the student or model, from 0
    protocol: str
    attack: str
    mode: Mode
    image: Tensor  # int64, position in the dataset's test file, each at most once
    label: Tensor  # int64, the true class
    prediction: Tensor  # int64, the class of the adversarial image
    target: Tensor  # int64, the class aimed at, -1 where the mode is not targeted
    clean_correct: Tensor  # bool, the image as it was is given its label
    correct: Tensor  # bool, the prediction is the label
    hit: Tensor  # bool, the prediction is the target; false where there is none
    linf: Tensor  # float32, largest change of one value, in the space the attack moves in
    l2: Tensor  # float32, length of the change, in that space
    margin: Tensor  # float32, the label's logit less the best other's, of the adversarial image
    forwards: Tensor  # int64, forward passes spent on the image
    backwards: Tensor  # int64, backward passes spent on it
    queries: Tensor  # int64, forward passes until the goal was reached, -1 where it was not

    def __post_init__(self) -> None:
        if self.subject < 0:
            raise ValueError(f"subject {self.subject} is negative")
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is none of {MODES}")
        for name, (dtype, _) in _COLUMNS.items():
            column: Tensor = getattr(self, name)
            if column.dtype != dtype or column.shape != self.image.shape or column.ndim != 1:
                raise ValueError(
                    f"{name} must be {dtype} of shape {tuple(self.image.shape)}, one-dimensional, "
                    f"not {column.dtype} of {tuple(column.shape)}"
                )
        if len(self.image) == 0:
            raise ValueError("there is no image in it")
        for name, holds in self._rules():
            if not holds:
                raise ValueError(f"in {self.attack!r}, {name}")

    def _rules(self) -> Iterator[tuple[str, bool]]:
        """What must hold between columns, in words, and whether it does."""
        aimed = self.target >= 0
        yield "an image stands twice", len(torch.unique(self.image)) == len(self.image)
        yield (
            "an image or class is negative",
            bool((torch.stack([self.image, self.label, self.prediction]) >= 0).all()),
        )
        yield (
            "targets do not fit the mode",
            bool(aimed.all() if self.mode == "targeted" else (self.target == -1).all()),
        )
        yield (
            "`correct` is not whether the prediction is the label",
            bool((self.correct == (self.prediction == self.label)).all()),
        )
        yield (
            "`hit` is not whether the prediction is the target",
            bool((self.hit == (self.prediction == self.target)).all()),
        )
        sizes = torch.stack([self.linf, self.l2])
        yield "a distance is negative or not finite", bool(((sizes >= 0) & sizes.isfinite()).all())
        yield (
            "a count of passes is negative",
            bool((torch.stack([self.forwards, self.backwards]) >= 0).all()),
        )
        yield "`queries` is neither a count nor -1", bool((self.queries >= -1).all())

    @property
    def key(self) -> tuple[int, str, str, str]:
        """Subject, protocol, attack and mode: what tells one `Outcomes` from another."""
        return self.subject, self.protocol, self.attack, self.mode


def write_parquet(rows: Sequence[Outcomes], path: Path) -> None:
    """Write one long table, a row an image, in the order given; equal rows give equal bytes.

    Each `Outcomes` is a row group, so that a reader who wants one attack skips the rest, and memory
    is that of one and of the compressed file. Raises ValueError where two have one key.
    """
    counts = Counter(row.key for row in rows)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise ValueError(f"outcomes are there twice: {twice}")
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, _SCHEMA, version="2.6", compression="zstd") as writer:
        for row in rows:
            writer.write_table(_table(row), row_group_size=len(row.image))
    write_atomically(path, sink.getvalue().to_pybytes())


def read_parquet(path: Path) -> list[Outcomes]:
    """Read what `write_parquet` wrote, in its order.

    Raises CoreError `outcomes_unreadable` for a file of another format, version or columns, and
    where rows contradict each other.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _unreadable(path, f"it is no parquet file: {error}") from error
    metadata = table.schema.metadata or {}
    if any(metadata.get(name) != value for name, value in FORMAT.items()):
        raise _unreadable(path, "it does not say that it is a table of outcomes, version 1")
    if not table.schema.equals(_SCHEMA):
        raise _unreadable(path, f"its columns are {', '.join(map(str, table.schema))}")
    try:
        return [_outcomes(part) for part in _parts(table)]
    except ValueError as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, why: str) -> CoreError:
    return CoreError(
        "outcomes_unreadable",
        f"{path.name} cannot be read as outcomes: {why}.",
        "Give a file that an evaluation of this version wrote, unchanged.",
    )


def _table(row: Outcomes) -> Any:
    n = len(row.image)
    same = pa.array([0] * n, pa.int32())
    columns = [pa.array([row.subject] * n, pa.int64())]
    for name in _NAMES[1:]:
        texts = pa.array([getattr(row, name)], pa.string())
        columns.append(pa.DictionaryArray.from_arrays(same, texts))
    for name, (_, kind) in _COLUMNS.items():
        columns.append(pa.array(getattr(row, name).cpu().numpy(), kind))
    return pa.table(columns, schema=_SCHEMA)


def _parts(table: Any) -> Iterator[Any]:
    """The table cut where a name changes."""
    if not len(table):
        return
    table = table.unify_dictionaries().combine_chunks()
    changes = torch.zeros(len(table) - 1, dtype=torch.bool)
    for name in _NAMES:
        column = table.column(name).chunk(0)
        numbers = torch.tensor((column if name == "subject" else column.indices).to_numpy())
        changes |= numbers[1:] != numbers[:-1]
    cuts = [0, *(changes.nonzero()[:, 0] + 1).tolist(), len(table)]
    for start, end in pairwise(cuts):
        yield table.slice(start, end - start)


def _outcomes(part: Any) -> Outcomes:
    values: dict[str, Any] = {name: part.column(name)[0].as_py() for name in _NAMES}
    for name in _COLUMNS:  # copied: Arrow's own memory is read-only, which PyTorch cannot say
        values[name] = torch.tensor(part.column(name).to_numpy())
    return Outcomes(**values)
