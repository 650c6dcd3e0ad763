"""The transfer matrix against crafting and looking by hand; the cache; resuming."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rome_core.beard_log import parse
from rome_core.distillation.checkpoints import Cadence, Checkpoints
from rome_core.errors import CoreError
from rome_core.evaluation import beard, work
from rome_core.evaluation import transfer as module
from rome_core.evaluation.robustness import Block, TestSet, face, measures
from rome_core.evaluation.subjects import Subject
from rome_core.evaluation.transfer import Crafted, Transfer, Transferred
from rome_core.progress import Progress, Stopped
from rome_core.recipes.attacks import MODES, Mode
from rome_core.recipes.protocols import PROTOCOLS, Protocol, crafting, overridden
from rome_core.recipes.report import TransferReport
from rome_core.space import Normalised, Zca
from tests.rome_core.evaluation.conftest import PLAN, bound, digits, some, subject

QUICK, PUBLISHED = (
    crafting(overridden(PROTOCOLS[name], {"pgd": {"steps": 3, "epsilon": "24/255"}}))
    for name in ("quick@1", "rome-2025@1")
)
NAMES = ("fgsm", "pgd")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images a block, and no sign of life by the clock: as many polls each run."""
    monkeypatch.setattr(module, "block_size", lambda entry, device: 4)
    monkeypatch.setattr(work, "PULSE_SECONDS", float("inf"))


def transfer(
    sources: Sequence[Subject],
    targets: Sequence[Subject],
    *,
    test: TestSet | None = None,
    protocol: Protocol = QUICK,
    names: Sequence[str] = NAMES,
    modes: Sequence[Mode] = MODES,
    cache: Path | None = None,
    seed: int = 5,
    data: str = "digest of the data",
) -> Transfer:
    return Transfer(
        sources,
        targets,
        some(10) if test is None else test,
        protocol,
        [protocol.entry(name) for name in names],
        modes,
        seed=seed,
        data={"digits": data},
        plan=PLAN,
        cache=Crafted(cache),
    )


class Polls:
    """Asks to stop from the n-th poll on."""

    def __init__(self, until: float = float("inf")) -> None:
        self.count, self.until = 0, until

    def __call__(self) -> bool:
        self.count += 1
        return self.count >= self.until


def run(made: Transfer, folder: Path, **more: Any) -> Transferred:
    earlier = more.pop("earlier", ())
    given = {"report": lambda progress: None, "should_stop": lambda: False, **more}
    return made.run(checkpoints=Checkpoints(folder, earlier), **given)


def matrix(done: Transferred) -> dict[str, Any]:
    """Every cell, image by image."""
    return {
        "correct": {key: value.tolist() for key, value in done.correct.items()},
        "hit": {key: value.tolist() for key, value in done.hit.items()},
        "clean": {key: value.tolist() for key, value in done.clean.items()},
    }


def naive(
    sources: Sequence[Subject], targets: Sequence[Subject], test: TestSet, protocol: Protocol
) -> dict[str, Any]:
    """All images at once: crafted on the row's model, looked at by the column's."""
    mean, std = digits().mean.float(), digits().std.float()

    def answers(model: Subject, images: Tensor, *, pixels: bool) -> Tensor:
        return model.network((images - mean) / std if pixels else images).argmax(dim=1)

    found: dict[str, Any] = {"correct": {}, "hit": {}, "clean": {}}
    for target in targets:
        right = answers(target, test.pixels, pixels=True) == test.labels
        found["clean"][target.name] = right.tolist()
    for what in measures(protocol, [protocol.entry(name) for name in NAMES], MODES):
        for source in sources:
            images = face(
                bound(source.network),
                test,
                protocol,
                protocol.entry(what.attack),
                what.mode,
                seed=5,
            ).images
            for target in targets:
                guesses = answers(target, images, pixels=protocol.name == "quick")
                key = (what.name, source.name, target.name)
                found["correct"][key] = (guesses == test.labels).tolist()
                aims = (test.labels + 1) % 10 if what.mode == "targeted" else -1
                found["hit"][key] = (guesses == aims).tolist()
    return found


@pytest.mark.parametrize("protocol", [QUICK, PUBLISHED], ids=["pixel", "reference"])
def test_rows_craft_and_columns_are_looked_at(protocol: Protocol, tmp_path: Path) -> None:
    a, b, c = (subject(name, seed) for seed, name in enumerate("abc"))
    test = some(60)
    done = run(transfer([a, b], [b, c], test=test, protocol=protocol), tmp_path)
    expected = naive([a, b], [b, c], test, protocol)
    assert matrix(done) == expected
    ways = {(source, target) for _, source, target in done.correct}
    assert ways == {("a", "b"), ("a", "c"), ("b", "b"), ("b", "c")}
    assert set(done.clean) == {"b", "c"}
    # The test would not tell rows from columns if both were alike.
    own, other = (sum(expected["correct"]["pgd/untargeted", "b", target]) for target in ("b", "c"))
    assert own < other < 60
    assert set(done.seconds) == {(w.name, s.name) for w in done.measures for s in (a, b)}
    assert all(seconds > 0 for seconds in done.seconds.values())


def test_images_that_the_source_errs_on_are_attacked_as_well(tmp_path: Path) -> None:
    a, test = subject("a"), some(4)
    guesses = a.network(test.space.from_pixels(test.pixels)).argmax(dim=1)
    wrong, cache = replace(test, labels=(guesses + 1) % 10), tmp_path / "cache"
    only = transfer([a], [a], test=wrong, names=["pgd"], modes=["untargeted"], cache=cache)
    done = run(only, tmp_path / "work")
    assert not done.clean["a"].any()
    (path,) = cache.iterdir()
    moved = load_file(path)["images"] - test.pixels
    assert (moved.abs().amax(dim=(1, 2, 3)) > 2 / 255).all()


def counts(done: Transferred) -> tuple[int, int]:
    return done.crafted, done.reused


BLOCKS = 3 * 4  # of ten images, for two attacks in two modes on one source


def test_what_was_crafted_once_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = subject("a", 1), subject("b", 2)
    cache = tmp_path / "cache"
    first = run(transfer([a], [a, b], cache=cache), tmp_path / "1")
    assert counts(first) == (BLOCKS, 0)
    assert len(list(cache.iterdir())) == BLOCKS

    def craft(*arguments: object, **more: object) -> None:
        raise AssertionError("it was crafted already")

    monkeypatch.setattr(module, "face", craft)
    again = run(transfer([a], [a, b], cache=cache), tmp_path / "2")
    assert counts(again) == (0, BLOCKS)
    assert matrix(again) == matrix(first)
    other = run(transfer([a], [b], cache=cache), tmp_path / "3")  # another target
    assert counts(other) == (0, BLOCKS)
    few = run(transfer([a], [b], cache=cache, names=["fgsm"], modes=["targeted"]), tmp_path / "4")
    assert counts(few) == (0, 3)


def whitening(epsilon: float) -> Zca:
    return Zca.fit(digits().train_images, epsilon)


@pytest.mark.parametrize(
    ("change", "crafted"),
    [
        ({"seed": 6}, BLOCKS),
        ({"data": "other images"}, BLOCKS),
        ({"protocol": crafting(PROTOCOLS["quick@1"])}, BLOCKS // 2),  # fgsm is as it was
        ({"protocol": PUBLISHED}, BLOCKS),
        ({"test": lambda: some(10, seed=4)}, BLOCKS),
        ({"test": lambda: some(10).part(slice(0, 8))}, 0),
        ({"test": lambda: some(10).part(slice(1, 9))}, 8),
        ({"test": lambda: replace(some(10), space=Normalised.of((0.4,), (0.2,)))}, BLOCKS),
        ({"test": lambda: replace(some(10), space=whitening(0.2))}, BLOCKS),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
def test_other_images_are_crafted_anew(
    change: dict[str, Any], crafted: int, tmp_path: Path
) -> None:
    if "test" in change:
        change = {"test": change["test"]()}
    a, cache = subject("a"), tmp_path / "cache"
    run(transfer([a], [a], cache=cache), tmp_path / "1")
    changed = run(transfer([a], [a], cache=cache, **change), tmp_path / "2")
    assert changed.crafted == crafted
    alone = run(transfer([a], [a], **change), tmp_path / "3")
    assert matrix(changed) == matrix(alone)


def test_reused_images_cost_the_seconds_that_crafting_them_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not those of reading a file, which say nothing of the attack."""
    a, cache = subject("a"), tmp_path / "cache"
    made = module.face

    def slow(*arguments: Any, **more: Any) -> Block:
        return replace(made(*arguments, **more), seconds=1000.0)

    monkeypatch.setattr(module, "face", slow)
    first = run(transfer([a], [a], cache=cache), tmp_path / "1")
    again = run(transfer([a], [a], cache=cache), tmp_path / "2")
    assert counts(again) == (0, BLOCKS)
    assert set(first.seconds.values()) == set(again.seconds.values()) == {3 * 1000.0}


def test_classifying_the_images_as_they_are_is_timed(tmp_path: Path) -> None:
    a, b = subject("a", 1), subject("b", 2)
    done = run(transfer([a], [a, b], protocol=PUBLISHED), tmp_path)
    assert set(done.clean_seconds) == {"a", "b"}
    assert all(seconds > 0 for seconds in done.clean_seconds.values())
    done = replace(done, clean_seconds={"a": 12.5, "b": 7.0})
    report = SimpleNamespace(
        sources=["a"],
        targets=["a", "b"],
        clean={name: float(right.double().mean()) for name, right in done.clean.items()},
        protocol="rome-2025@1",
        dataset="digits",
    )
    (text,) = beard.transfer_logs(cast(TransferReport, report), done).values()
    lines = {line.attack: line for line in parse(text)}
    assert lines["Clean"].untargeted is not None
    assert lines["Clean"].untargeted.seconds == 12.5  # of the model that crafts


@pytest.mark.parametrize("protocol", [QUICK, PUBLISHED], ids=["pixel", "reference"])
def test_the_clamp_alone_is_looked_at_where_normalised_images_are_clamped(
    protocol: Protocol, tmp_path: Path
) -> None:
    a, test = subject("a"), some(60)
    done = run(transfer([subject("b", 2)], [a], test=test, protocol=protocol), tmp_path)
    if protocol is QUICK:
        assert done.clamped == {}
        return
    x = test.space.from_pixels(test.pixels)
    expected = a.network(x.clamp(0, 1)).argmax(dim=1) == test.labels
    assert torch.equal(done.clamped["a"], expected)
    assert not torch.equal(done.clamped["a"], done.clean["a"])


def test_another_model_of_the_same_name_is_another_model(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(transfer([subject("a", 1)], [subject("a", 1)], cache=cache), tmp_path / "1")
    other = replace(subject("a", 2), digest="another digest")
    done = run(transfer([other], [other], cache=cache), tmp_path / "2")
    assert counts(done) == (BLOCKS, 0)


def test_models_without_a_digest_are_not_cached(tmp_path: Path) -> None:
    """Students have none, and all would share one."""
    a, b = (replace(subject("a", seed), digest=None) for seed in (1, 2))
    cache = tmp_path / "cache"
    for number, model in enumerate((a, b, a)):
        done = run(transfer([model], [model], cache=cache), tmp_path / str(number))
        assert counts(done) == (BLOCKS, 0)
        assert matrix(done) == matrix(run(transfer([model], [model]), tmp_path / f"{number} alone"))
    assert not cache.exists()


def damaged(content: bytes, how: str) -> bytes:
    if how == "cut":
        return content[: len(content) // 2]
    if how == "empty":
        return b""
    if how == "flipped":
        return content[:-3] + bytes([content[-3] ^ 0x40]) + content[-2:]
    return b"no tensors at all"


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "replaced"])
def test_a_damaged_file_is_crafted_again(how: str, tmp_path: Path) -> None:
    a, cache = subject("a"), tmp_path / "cache"
    first = run(transfer([a], [a], cache=cache), tmp_path / "1")
    whole = {path: path.read_bytes() for path in cache.iterdir()}
    images = {path: load_file(path)["images"].clone() for path in whole}
    victim = sorted(whole)[5]
    victim.write_bytes(damaged(whole[victim], how))
    again = run(transfer([a], [a], cache=cache), tmp_path / "2")
    assert matrix(again) == matrix(first)
    assert counts(again) == (1, BLOCKS - 1)
    assert set(cache.iterdir()) == set(whole)
    for path, content in whole.items():
        assert torch.equal(load_file(path)["images"], images[path])
        assert path == victim or path.read_bytes() == content


def test_images_of_another_shape_are_crafted_again(tmp_path: Path) -> None:
    a, cache = subject("a"), tmp_path / "cache"
    run(transfer([a], [a], cache=cache), tmp_path / "1")
    keep = Crafted(cache)
    names = iter(sorted(cache.iterdir())[:2])
    for path in names:
        keep._path = lambda key, path=path: path  # type: ignore[method-assign]  # any file's
        keep.put({}, torch.zeros(2, 1, 4, 4), 1.0)
    again = run(transfer([a], [a], cache=cache), tmp_path / "2")
    assert counts(again) == (2, BLOCKS - 2)


def aged(folder: Path) -> dict[str, float]:
    """Make files old, each a second older than the next, the first by name the oldest."""
    times = {}
    for age, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, (1000 + age, 1000 + age))
        times[path.name] = 1000.0 + age
    return times


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    images = torch.zeros(4, 1, 8, 8)
    for number in range(5):
        Crafted(tmp_path).put({"number": number}, images, 1.0)
    size = next(tmp_path.iterdir()).stat().st_size
    oldest, second, *_ = aged(tmp_path)
    cache = Crafted(tmp_path, most=4 * size)
    used = next(n for n in range(5) if cache._path({"number": n}).name == oldest)
    assert cache.get({"number": used}) is not None  # so it is the newest now
    cache.put({"number": 99}, images, 1.0)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 4
    assert oldest in left
    assert second not in left
    assert cache._path({"number": 99}).name in left


def test_a_cache_smaller_than_a_file_keeps_nothing(tmp_path: Path) -> None:
    cache = Crafted(tmp_path, most=10)
    cache.put({"a": 1}, torch.zeros(4, 1, 8, 8), 1.0)
    assert cache.get({"a": 1}) is None
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_all_of_it_in_any_order(tmp_path: Path) -> None:
    cache = Crafted(tmp_path)
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    cache.put({"a": 1, "b": {"c": 2, "d": 3}}, images, 0.1)
    found = cache.get({"b": {"d": 3, "c": 2}, "a": 1})
    assert found is not None
    assert torch.equal(found[0], images)
    assert found[1] == 0.1
    assert cache.get({"a": 1, "b": {"c": 2}}) is None
    assert Crafted(None).get({"a": 1}) is None
    Crafted(None).put({"a": 1}, images, 1.0)


def test_a_full_disk_keeps_nothing_and_hurts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    a = subject("a")
    expected = matrix(run(transfer([a], [a]), tmp_path / "1"))
    monkeypatch.setattr(module, "write_atomically", full)
    done = run(transfer([a], [a], cache=tmp_path / "cache"), tmp_path / "2")
    assert matrix(done) == expected
    assert counts(done) == (BLOCKS, 0)


def test_stopped_at_any_poll_it_goes_on_and_ends_alike(tmp_path: Path) -> None:
    models = [subject("a", 1), subject("b", 2)]

    def made() -> Transfer:
        return transfer(models, models, names=["pgd"], modes=["untargeted"], test=some(6))

    counted = Polls()
    whole = run(made(), tmp_path / "whole", should_stop=counted)
    assert counted.count > 16
    for until in range(1, counted.count + 1):
        first, second = tmp_path / f"{until}" / "first", tmp_path / f"{until}" / "second"
        with pytest.raises(Stopped):
            run(made(), first, should_stop=Polls(until))
        resumed = run(made(), second, earlier=[first])
        assert matrix(resumed) == matrix(whole)
        assert counts(resumed) == counts(whole) == (4, 0)
        assert resumed.notes[0].startswith("resumed after")


def test_it_goes_on_with_blocks_of_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another device."""
    a = subject("a")
    expected = matrix(run(transfer([a], [a]), tmp_path / "whole"))
    with pytest.raises(Stopped):
        run(transfer([a], [a]), tmp_path / "a", should_stop=Polls(8))
    monkeypatch.setattr(module, "block_size", lambda entry, device: 9)
    resumed = run(transfer([a], [a]), tmp_path / "b", earlier=[tmp_path / "a"])
    assert matrix(resumed) == expected


def test_a_crash_costs_what_was_done_since_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "Cadence", lambda: Cadence(share=float("inf"), minimum=0))
    models = [subject("a", 1), subject("b", 2)]
    expected = matrix(run(transfer(models, models), tmp_path / "whole"))
    seen: list[Progress] = []

    def crash(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 9:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        run(transfer(models, models), tmp_path / "a", report=crash)
    (*_, last), seen = seen, []
    done = run(
        transfer(models, models), tmp_path / "b", earlier=[tmp_path / "a"], report=seen.append
    )
    assert matrix(done) == expected
    assert seen[0].step == last.step


def test_progress_counts_images_of_every_crafting(tmp_path: Path) -> None:
    seen: list[Progress] = []
    models = [subject("a", 1), subject("b", 2)]
    run(transfer(models, models), tmp_path, report=seen.append)
    assert {(p.phase, p.total) for p in seen} == {("attacking", 2 * 4 * 10)}
    steps = [p.step for p in seen]
    assert steps == sorted(steps)
    assert steps[-1] == 2 * 4 * 10


def test_targets_that_are_no_class_are_refused_before_any_work() -> None:
    few = replace(some(6), classes=3, labels=some(6).labels % 3)
    model = subject("a", classes=3)
    with pytest.raises(CoreError, match="mod10") as caught:
        transfer([model], [model], test=few, protocol=PUBLISHED)
    assert caught.value.field == "modes"  # a field that transfers have
    assert "modes: [untargeted]" in caught.value.remedy
    transfer([model], [model], test=few, protocol=PUBLISHED, modes=["untargeted"])


def test_nothing_to_craft_is_refused() -> None:
    a = subject("a")
    with pytest.raises(CoreError) as caught:
        transfer([a], [a], names=["autoattack"], modes=["targeted"])
    assert (caught.value.code, caught.value.field) == ("nothing_to_transfer", "attacks")
