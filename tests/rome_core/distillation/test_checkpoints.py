"""Checkpoints: whole or not there, only what changed, and a way back from damage."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_core.distillation import checkpoints as module
from rome_core.distillation.checkpoints import Cadence, Checkpoints


def state(step: int) -> dict[str, Any]:
    return {
        "counters": {"iteration": step, "names": ["a", "b"], "accuracy": 0.5},
        "images": torch.full((2, 3), float(step)),
        "network": {"w": torch.arange(4.0)},
    }


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*.json"))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(7, state(7), {"threads": 1})
    found = Checkpoints(tmp_path).newest()
    assert found is not None
    assert (found.step, found.circumstances, found.folder) == (7, {"threads": 1}, tmp_path)
    assert found.state["counters"] == state(7)["counters"]
    assert torch.equal(found.state["images"], state(7)["images"])


def test_nothing_yet(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", [tmp_path / "neither"]).newest() is None


def test_only_what_changed_is_written_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    before = {path.name: path.stat().st_ino for path in (tmp_path / "chunks").iterdir()}
    checkpoints.save(2, state(2))
    after = {path.name: path.stat().st_ino for path in (tmp_path / "chunks").iterdir()}
    assert before.items() <= after.items()
    assert len(after) == 5  # one network, two sets of counters and images
    checkpoints.save(3, state(3))
    assert steps(tmp_path) == ["step-000000002.json", "step-000000003.json"]
    assert len(list((tmp_path / "chunks").iterdir())) == 5


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def only_in_newest(folder: Path) -> Path:
    """The chunk of the images of step 2."""
    found = Checkpoints(folder).newest()
    assert found is not None
    body = json.loads((folder / "step-000000002.json").read_bytes())["body"]
    return folder / "chunks" / body["chunks"]["images"]["digest"]


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("part", ["manifest", "chunk"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: Any, part: str
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    damage(only_in_newest(tmp_path) if part == "chunk" else tmp_path / "step-000000002.json")

    reader = Checkpoints(tmp_path)
    found = reader.newest()
    assert found is not None
    assert found.step == 1
    assert torch.equal(found.state["images"], state(1)["images"])
    if not (part == "manifest" and damage is Path.unlink):
        assert len(reader.passed_over) == 1
        assert "step-000000002" in reader.passed_over[0]

    # The run goes on from there and the damage is out of its way.
    reader.save(2, state(2))
    reader.save(3, state(3))
    again = Checkpoints(tmp_path)
    assert again.newest() is not None
    assert again.passed_over == []
    assert steps(tmp_path) == ["step-000000002.json", "step-000000003.json"]


def test_a_manifest_past_the_fallback_is_dropped(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, state(5))
    checkpoints.save(9, state(9))
    flip(tmp_path / "step-000000009.json")
    reader = Checkpoints(tmp_path)
    found = reader.newest()
    assert found is not None
    reader.save(6, state(6))
    assert steps(tmp_path) == ["step-000000005.json", "step-000000006.json"]


def test_another_format_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Checkpoints(tmp_path).save(1, state(1))
    monkeypatch.setattr(module, "FORMAT", 2)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() is None
    assert "format" in checkpoints.passed_over[0]


def test_earlier_attempts_are_read_newest_first_and_never_written(tmp_path: Path) -> None:
    first, second, own = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    Checkpoints(first).save(3, state(3))
    Checkpoints(second).save(5, state(5))
    listing = sorted(second.rglob("*"))
    checkpoints = Checkpoints(own, [second, first])
    found = checkpoints.newest()
    assert found is not None
    assert (found.step, found.folder) == (5, second)

    flip(second / "step-000000005.json")
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 3
    checkpoints.save(4, state(4))
    assert sorted(second.rglob("*")) == listing
    assert len(list((own / "chunks").iterdir())) == 3  # nothing is borrowed from other folders


def test_a_failed_write_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Checkpoints(tmp_path).save(1, state(1))
    real, written = module.write_atomically, []

    def full(path: Path, content: bytes) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        real(path, content)

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        Checkpoints(tmp_path).save(2, state(2))
    monkeypatch.undo()
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1
    assert checkpoints.passed_over == []


def test_a_damaged_chunk_of_before_is_written_anew(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(1, state(1))
    for path in (tmp_path / "chunks").iterdir():
        flip(path)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() is None
    checkpoints.save(1, state(1))
    assert Checkpoints(tmp_path).newest() is not None


def test_only_plain_containers_of_tensors_are_loaded(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(1, {"path": Path("anything")})
    with pytest.raises(pickle.UnpicklingError, match="weights"):
        Checkpoints(tmp_path).newest()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_writing_takes_at_most_its_share() -> None:
    clock = Clock()
    cadence = Cadence(share=0.03, minimum=5, clock=clock)
    writing = 0.0

    def write() -> None:
        nonlocal writing
        clock.now += 2
        writing += 2

    assert not cadence.due()
    for _ in range(2000):
        clock.now += 0.7
        if cadence.due():
            cadence.record(write)
    assert writing >= 2 * 15
    assert writing / clock.now <= 0.03 + 2 / clock.now  # the first cost could not be foreseen


def test_a_cheap_write_still_waits_its_minimum() -> None:
    clock = Clock()
    cadence = Cadence(share=0.03, minimum=5, clock=clock)
    clock.now = 4.9
    assert not cadence.due()
    clock.now = 5
    assert cadence.due()
    cadence.record(lambda: None)
    assert not cadence.due()


def test_a_stored_value_is_written_once_and_comes_back_where_it_lies(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    kept = checkpoints.store({"w": torch.arange(5.0)})
    assert kept.path.parent == tmp_path / "chunks"
    inode = kept.path.stat().st_ino
    for step in range(1, 4):
        checkpoints.save(step, {**state(step), "kept": kept})
    assert kept.path.stat().st_ino == inode
    found = Checkpoints(tmp_path).newest()
    assert found is not None
    assert found.state["kept"] == kept
    assert torch.equal(found.state["kept"].read()["w"], torch.arange(5.0))
    checkpoints.save(4, state(4))
    checkpoints.save(5, state(5))
    assert not kept.path.exists()  # no state holds it any more


def test_a_stored_value_outlives_the_attempt_that_made_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    before = Checkpoints(first)
    kept = before.store(torch.arange(5.0))
    before.save(1, {"kept": kept})
    after = Checkpoints(second, [first])
    found = after.newest()
    assert found is not None
    own = found.state["kept"]
    assert own.path == second / "chunks" / kept.digest
    after.save(2, {"kept": own, "more": 1})
    shutil.rmtree(first)
    assert torch.equal(own.read(), torch.arange(5.0))
    again = Checkpoints(second).newest()
    assert again is not None
    assert again.step == 2


def test_a_damaged_stored_value_is_not_used(tmp_path: Path) -> None:
    """Neither by the next attempt, which falls back, nor by whoever holds it already."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    kept = checkpoints.store(torch.arange(5.0))
    checkpoints.save(2, {**state(2), "kept": kept})
    flip(kept.path)
    later = Checkpoints(tmp_path)
    found = later.newest()
    assert found is not None
    assert found.step == 1
    assert "chunk kept does not match" in later.passed_over[0]
    with pytest.raises(ValueError, match="does not match its digest"):
        kept.read()
    assert torch.equal(later.store(torch.arange(5.0)).read(), torch.arange(5.0))  # written anew
