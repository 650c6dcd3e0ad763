"""The table of outcomes: rows that cannot be wrong, and a file that is a function of them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rome_core.errors import CoreError
from rome_core.evaluation.outcomes import Mode, Outcomes, read_parquet, write_parquet


def made(subject: int = 0, attack: str = "pgd", mode: Mode = "untargeted", n: int = 7) -> Outcomes:
    draws = torch.Generator().manual_seed(31 * subject + n)
    label = torch.randint(10, (n,), generator=draws)
    prediction = torch.randint(10, (n,), generator=draws)
    target = (label + 1) % 10 if mode == "targeted" else torch.full((n,), -1)
    return Outcomes(
        subject=subject,
        protocol="pixel",
        attack=attack,
        mode=mode,
        image=torch.randperm(10_000, generator=draws)[:n],
        label=label,
        prediction=prediction,
        target=target,
        clean_correct=torch.rand(n, generator=draws) < 0.7,
        correct=prediction == label,
        hit=prediction == target,
        linf=torch.rand(n, generator=draws) * 8 / 255,
        l2=torch.rand(n, generator=draws),
        margin=torch.randn(n, generator=draws),
        forwards=torch.randint(1, 100, (n,), generator=draws),
        backwards=torch.randint(100, (n,), generator=draws),
        queries=torch.randint(-1, 100, (n,), generator=draws),
    )


SEVERAL = [
    made(0, "pgd", "targeted"),
    made(0, "pgd", "untargeted", 5),
    made(0, "a name of words, ∞", "untargeted"),
    made(0, "clean", "", 1),
    made(1, "pgd", "targeted", 9),
]


def same(first: Outcomes, second: Outcomes) -> bool:
    pairs = [(getattr(first, f.name), getattr(second, f.name)) for f in fields(Outcomes)]
    return all(
        torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b
        for a, b in pairs
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_parquet(SEVERAL, tmp_path / "outcomes.parquet")
    back = read_parquet(tmp_path / "outcomes.parquet")
    assert len(back) == len(SEVERAL)
    assert all(same(a, b) for a, b in zip(back, SEVERAL, strict=True))
    back[0].linf[0] = 0  # theirs to change: not Arrow's read-only memory


def test_no_outcomes_are_a_table_too(tmp_path: Path) -> None:
    write_parquet([], tmp_path / "none.parquet")
    assert read_parquet(tmp_path / "none.parquet") == []


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet([replace(row) for row in SEVERAL], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write_parquet(SEVERAL[::-1], tmp_path / "b")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_file_is_one_long_table(tmp_path: Path) -> None:
    """What a reader without our code finds: plain columns, strings as dictionaries."""
    path = tmp_path / "outcomes.parquet"
    write_parquet(SEVERAL, path)
    table = pq.read_table(path)
    assert table.column_names == [field.name for field in fields(Outcomes)]
    assert len(table) == sum(len(row.image) for row in SEVERAL)
    assert all(pa.types.is_dictionary(table.schema.field(n).type) for n in ("attack", "mode"))
    assert table.column("attack")[12].as_py() == "a name of words, ∞"
    only = pq.read_table(path, filters=[("subject", "==", 1)])
    assert only.column("prediction").to_pylist() == SEVERAL[-1].prediction.tolist()


def test_one_key_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        write_parquet([made(), made()], tmp_path / "outcomes.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"subject": -1}, "negative"),
        ({"mode": "both"}, "mode 'both'"),
        ({"mode": "targeted"}, "targets do not fit"),
        ({"target": torch.zeros(7, dtype=torch.int64)}, "targets do not fit"),
        ({"label": torch.zeros(6, dtype=torch.int64)}, "label must be"),
        ({"label": torch.zeros(7)}, "label must be"),
        ({"image": torch.zeros(7, dtype=torch.int64)}, "twice"),
        ({"prediction": torch.full((7,), -1)}, "negative"),
        ({"correct": torch.ones(7, dtype=torch.bool)}, "`correct`"),
        ({"hit": torch.ones(7, dtype=torch.bool)}, "`hit`"),
        ({"linf": torch.full((7,), -0.1)}, "distance"),
        ({"l2": torch.full((7,), torch.nan)}, "distance"),
        ({"forwards": torch.full((7,), -1)}, "count"),
        ({"queries": torch.full((7,), -2)}, "queries"),
    ],
)
def test_contradictions_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(made(), **change)


def test_no_image_is_refused() -> None:
    row = made()
    with pytest.raises(ValueError, match="no image"):
        replace(
            row,
            **{
                f.name: getattr(row, f.name)[:0]
                for f in fields(row)
                if isinstance(getattr(row, f.name), torch.Tensor)
            },
        )


def refused(path: Path) -> str:
    with pytest.raises(CoreError) as caught:
        read_parquet(path)
    assert caught.value.code == "outcomes_unreadable"
    return caught.value.detail


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.parquet"
    path.write_bytes(b"not parquet")
    assert "no parquet file" in refused(path)
    write_parquet(SEVERAL, path)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({}), path)
    assert "does not say" in refused(path)
    pq.write_table(table.drop_columns(["queries"]), path)
    assert "its columns are" in refused(path)
    flipped = pa.compute.invert(table.column("correct"))
    place = table.schema.get_field_index("correct")
    pq.write_table(table.set_column(place, table.schema.field("correct"), flipped), path)
    assert "`correct`" in refused(path)
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path / "nowhere.parquet")


def test_rows_of_another_writer_are_read(tmp_path: Path) -> None:
    """A filter by another tool keeps no row groups; the names tell attacks apart."""
    path = tmp_path / "outcomes.parquet"
    write_parquet(SEVERAL, path)
    pq.write_table(pq.read_table(path).filter(pa.compute.field("subject") == 0), path)
    assert [row.key for row in read_parquet(path)] == [row.key for row in SEVERAL[:-1]]
