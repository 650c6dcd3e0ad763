"""What one model's adversarial images do to other models.

Owns crafting, its cache and the matrix of who is right. Rows are crafting models, columns evaluated
ones. Crafted images depend on the source, the attack, the images and the seed alone, so they are
kept by a digest of these and crafted once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from rome_core import attacks, costs
from rome_core.attacks.oracle import Poll
from rome_core.distillation.checkpoints import Checkpoints
from rome_core.errors import CoreError
from rome_core.evaluation.robustness import (
    Measure,
    TestSet,
    block_size,
    check_suits,
    face,
    measures,
)
from rome_core.evaluation.subjects import Subject
from rome_core.evaluation.work import Work
from rome_core.files import trim, write_atomically
from rome_core.passes import Bound, Passes, Plan
from rome_core.progress import Report
from rome_core.provenance import circumstances, source_digest
from rome_core.recipes.protocols import Entry, Protocol

CACHE_BYTES = 4 * 2**30
"""Of crafted images on a machine; the longest unused go first."""


class Crafted:
    """Adversarial images on disk, by the digest of what they depend on."""

    def __init__(self, folder: Path | None, *, most: int = CACHE_BYTES) -> None:
        self._folder, self._most = folder, most

    def get(self, key: Mapping[str, Any]) -> tuple[Tensor, float] | None:
        """(n, c, h, w) in the attack's space and the seconds that crafting them took.

        None where they have to be crafted.
        """
        if self._folder is None:
            return None
        path = self._path(key)
        try:
            with safetensors.safe_open(path, "pt") as file:
                images: Tensor = file.get_tensor("images")
                told = file.metadata() or {}
            path.touch()
            seconds = float(told["seconds"])
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        return (images, seconds) if told.get("sha256") == _digest(images) else None

    def put(self, key: Mapping[str, Any], images: Tensor, seconds: float) -> None:
        """Keep them; a full disk keeps nothing and hurts nobody."""
        if self._folder is None:
            return
        images = images.cpu().contiguous()
        try:
            told = {"sha256": _digest(images), "seconds": repr(seconds)}
            content = safetensors.torch.save({"images": images}, told)
            write_atomically(self._path(key), content)
            trim(self._folder, self._most)
        except OSError:
            return

    def _path(self, key: Mapping[str, Any]) -> Path:
        assert self._folder is not None
        text = json.dumps(key, sort_keys=True, separators=(",", ":"))
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.numpy().tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Transferred:
    """Who was right on what: `correct` by (measure name, source, target), each (n,) bool.

    `clean` (n,) bool by target, `clamped` the same of images that were merely clamped in the
    attack's space, empty where pixels are attacked; `crafted` and `reused` count blocks of images.
    `seconds` by (measure name, source) are of crafting alone, where images were reused of when they
    were crafted; `clean_seconds` by target of classifying the images as they are.
    """

    measures: tuple[Measure, ...]
    entries: tuple[Entry, ...]
    protocol: Protocol
    clean: Mapping[str, Tensor]
    clamped: Mapping[str, Tensor]
    correct: Mapping[tuple[str, str, str], Tensor]
    hit: Mapping[tuple[str, str, str], Tensor]
    seconds: Mapping[tuple[str, str], float]
    clean_seconds: Mapping[str, float]
    crafted: int
    reused: int
    notes: tuple[str, ...]


class Transfer:
    """The work of one `kind: transfer` spec. `protocol` is the one that crafts.

    Raises CoreError where nothing would be crafted, or targets would be no class.
    """

    def __init__(
        self,
        sources: Sequence[Subject],
        targets: Sequence[Subject],
        test: TestSet,
        protocol: Protocol,
        entries: Sequence[Entry],
        modes: Sequence[Any],
        *,
        seed: int,
        data: Mapping[str, str],
        plan: Plan,
        cache: Crafted,
        device: str = "cpu",
    ) -> None:
        self._sources, self._targets = tuple(sources), tuple(targets)
        self._test, self._protocol, self._entries = test, protocol, tuple(entries)
        self._measures = tuple(measures(protocol, entries, modes))
        self._seed, self._data, self._plan = seed, data, plan
        self._cache, self._device = cache, device
        _check_measures(self._measures)
        check_suits(protocol, self._measures, test, "protocol")
        for subject in (*self._sources, *self._targets):
            attacks.check_domain(protocol.domain, subject.test(test).space, "protocol")

    def run(
        self, *, checkpoints: Checkpoints, report: Report, should_stop: Callable[[], bool]
    ) -> Transferred:
        """Do what is left of the work. Raises Stopped, after a checkpoint, when told to."""
        state: dict[str, Any] = {"transfer": {"crafted": 0, "reused": 0}}
        here = circumstances(plan=self._plan.as_dict(), device=self._device)
        work = Work(checkpoints, report, should_stop, here, lambda: state)
        state.update(work.resume() or {})
        models = {s.name: self._bound(s) for s in (*self._sources, *self._targets)}
        pairs = [(source, what) for source in self._sources for what in self._measures]
        weights = [
            costs.expected(self._protocol.entry(what.attack).settings, self._test.classes)
            for _, what in pairs
        ]
        total = len(pairs) * len(self._test)
        for place, (source, what) in enumerate(pairs):
            entry = self._protocol.entry(what.attack)
            key = f"{what.name}|{source.name}"
            held = state.setdefault(key, {"images": 0, "seconds": 0.0, "seen": {}})
            for rows in self._test.blocks(block_size(entry, self._device), held["images"]):
                block = self._test.part(rows)
                before = place * len(self._test) + rows.start
                images, seconds = self._craft(
                    models[source.name],
                    source,
                    source.test(block),
                    entry,
                    what,
                    state["transfer"],
                    partial(work.pulse, "attacking", before, total),
                )
                held["seconds"] += seconds
                for target in self._targets:
                    seen = target.test(block)
                    self._look(models[target.name], target, seen, what, images, held["seen"])
                held["images"] += len(block)
                effort = sum(weights[:place]) + weights[place] * held["images"] / len(self._test)
                share = effort / sum(weights)
                work.tick("attacking", before + len(block), total, share=share)
        return self._result(state, work.notes, models)

    def _craft(
        self,
        model: Bound,
        source: Subject,
        block: TestSet,
        entry: Entry,
        what: Measure,
        count: dict[str, int],
        poll: Poll,
    ) -> tuple[Tensor, float]:
        """The images in the attack's space, and the seconds that crafting them takes or took."""
        key = {
            "code": source_digest(),
            "source": source.digest,
            "network": source.network.spec.name,
            "domain": str(self._protocol.domain),
            "target_rule": self._protocol.target_rule,
            "settings": entry.settings.model_dump(mode="json"),
            "keeps_original": entry.keeps_original,
            "protocol": what.protocol,
            "attack": what.name,
            "seed": self._seed,
            "data": dict(self._data),
            "space": block.space.identity,
            "images": hashlib.sha256(block.numbers.cpu().numpy().tobytes()).hexdigest(),
        }
        # Without a digest of its weights nothing tells a model from another.
        cache = Crafted(None) if source.digest is None else self._cache
        found = cache.get(key)
        if found is not None and found[0].shape == block.pixels.shape:
            count["reused"] += 1
            return found[0].to(block.pixels), found[1]
        made = face(
            model,
            block,
            self._protocol,
            entry,
            what.mode,
            seed=self._seed,
            poll=poll,
        )
        count["crafted"] += 1
        cache.put(key, made.images, made.seconds)
        return made.images, made.seconds

    @torch.no_grad()
    def _look(
        self,
        model: Bound,
        target: Subject,
        block: TestSet,
        what: Measure,
        images: Tensor,
        seen: dict[str, Any],
    ) -> None:
        adapted = attacks.adapt(model, self._protocol.domain, block.space)
        guesses = adapted.model(images).argmax(dim=1)
        aims = None
        if what.mode == "targeted":
            aims = attacks.targets(self._protocol.target_rule, block.labels, block.classes)
        hit = torch.zeros_like(guesses, dtype=torch.bool) if aims is None else guesses == aims
        for name, value in (("correct", guesses == block.labels), ("hit", hit)):
            parts = seen.setdefault(f"{name}|{target.name}", [])
            parts.append(value.cpu())

    def _result(
        self, state: Mapping[str, Any], notes: Sequence[str], models: Mapping[str, Bound]
    ) -> Transferred:
        def collected(name: str) -> dict[tuple[str, str, str], Tensor]:
            return {
                (what.name, source.name, target.name): torch.cat(
                    state[f"{what.name}|{source.name}"]["seen"][f"{name}|{target.name}"]
                )
                for what in self._measures
                for source in self._sources
                for target in self._targets
            }

        clean, clean_seconds, clamped = {}, {}, {}
        for target in self._targets:
            began = time.perf_counter()
            clean[target.name] = self._right(models[target.name], target, clamp=False)
            clean_seconds[target.name] = time.perf_counter() - began
            if self._protocol.domain is attacks.Domain.REFERENCE:
                clamped[target.name] = self._right(models[target.name], target, clamp=True)
        return Transferred(
            measures=self._measures,
            entries=self._entries,
            protocol=self._protocol,
            clean=clean,
            clamped=clamped,
            correct=collected("correct"),
            hit=collected("hit"),
            seconds={
                (what.name, source.name): state[f"{what.name}|{source.name}"]["seconds"]
                for what in self._measures
                for source in self._sources
            },
            clean_seconds=clean_seconds,
            crafted=state["transfer"]["crafted"],
            reused=state["transfer"]["reused"],
            notes=tuple(notes),
        )

    @torch.no_grad()
    def _right(self, model: Bound, target: Subject, *, clamp: bool) -> Tensor:
        """Which images are right as they are, or clamped in the attack's space: (n,) on the CPU."""
        test = target.test(self._test)
        adapted = attacks.adapt(model, self._protocol.domain, test.space)
        right = []
        for rows in test.blocks(500):
            x = adapted.to_input(test.pixels[rows])
            guesses = adapted.model(x.clamp(0, 1) if clamp else x).argmax(dim=1)
            right.append((guesses == test.labels[rows]).cpu())
        return torch.cat(right)

    def _bound(self, subject: Subject) -> Bound:
        return Passes(subject.network, self._plan).bind(subject.network.state_dict())


def _check_measures(measures: Sequence[Measure]) -> None:
    if not any(what.mode for what in measures):
        raise CoreError(
            "nothing_to_transfer",
            "None of the attacks chosen crafts images in the modes asked for.",
            "Name attacks such as pgd, and a mode that they have.",
            "attacks",
        )
