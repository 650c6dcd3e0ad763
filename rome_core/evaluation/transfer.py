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
from rome_core.evaluation.robustness import Measure, TestSet, block_size, face, measures
from rome_core.evaluation.subjects import Subject
from rome_core.evaluation.work import Work
from rome_core.files import write_atomically
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

    def get(self, key: Mapping[str, Any]) -> Tensor | None:
        """(n, c, h, w) in the attack's space, or None where they have to be crafted."""
        if self._folder is None:
            return None
        path = self._path(key)
        try:
            with safetensors.safe_open(path, "pt") as file:
                images: Tensor = file.get_tensor("images")
                digest = (file.metadata() or {}).get("sha256")
            path.touch()
        except (OSError, SafetensorError):
            return None
        return images if digest == _digest(images) else None

    def put(self, key: Mapping[str, Any], images: Tensor) -> None:
        """Keep them; a full disk keeps nothing and hurts nobody."""
        if self._folder is None:
            return
        images = images.cpu().contiguous()
        try:
            content = safetensors.torch.save({"images": images}, {"sha256": _digest(images)})
            write_atomically(self._path(key), content)
            self._sweep()
        except OSError:
            return

    def _path(self, key: Mapping[str, Any]) -> Path:
        assert self._folder is not None
        text = json.dumps(key, sort_keys=True, separators=(",", ":"))
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"

    def _sweep(self) -> None:
        assert self._folder is not None
        files = []
        for path in self._folder.glob("*.safetensors"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another run swept it
                continue
            files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files, key=lambda file: file[0]):
            if total <= self._most:
                break
            path.unlink(missing_ok=True)
            total -= size


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.numpy().tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Transferred:
    """Who was right on what: `correct` by (measure name, source, target), each (n,) bool.

    `clean` (n,) bool by target; `crafted` and `reused` count blocks of images; `seconds` by
    (measure name, source) of crafting alone.
    """

    measures: tuple[Measure, ...]
    entries: tuple[Entry, ...]
    protocol: Protocol
    clean: Mapping[str, Tensor]
    correct: Mapping[tuple[str, str, str], Tensor]
    hit: Mapping[tuple[str, str, str], Tensor]
    seconds: Mapping[tuple[str, str], float]
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
        if any(what.mode == "targeted" for what in self._measures):
            attacks.targets(protocol.target_rule, test.labels[:1], test.classes)

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
            for rows in self._test.blocks(block_size(entry, self._device)):
                if rows.start < held["images"]:
                    continue
                block = self._test.part(rows)
                before = place * len(self._test) + rows.start
                began = time.perf_counter()
                images = self._craft(
                    models[source.name],
                    source,
                    block,
                    entry,
                    what,
                    state["transfer"],
                    partial(work.pulse, "attacking", before, total),
                )
                held["seconds"] += time.perf_counter() - began
                for target in self._targets:
                    self._look(models[target.name], target, block, what, images, held["seen"])
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
    ) -> Tensor:
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
            "statistics": [list(block.mean), list(block.std)],
            "images": hashlib.sha256(block.numbers.cpu().numpy().tobytes()).hexdigest(),
        }
        # Without a digest of its weights nothing tells a model from another.
        cache = Crafted(None) if source.digest is None else self._cache
        found = cache.get(key)
        if found is not None and found.shape == block.pixels.shape:
            count["reused"] += 1
            return found.to(block.pixels)
        made = face(
            model,
            block,
            self._protocol,
            entry,
            what.mode,
            seed=self._seed,
            poll=poll,
        ).images
        count["crafted"] += 1
        cache.put(key, made)
        return made

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
        adapted = attacks.adapt(model, self._protocol.domain, block.mean, block.std)
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

        clean = {}
        for target in self._targets:
            model = attacks.adapt(
                models[target.name], attacks.Domain.PIXEL, self._test.mean, self._test.std
            ).model
            with torch.no_grad():
                guesses = [
                    model(self._test.pixels[rows]).argmax(dim=1) for rows in self._test.blocks(500)
                ]
            clean[target.name] = (torch.cat(guesses) == self._test.labels).cpu()
        return Transferred(
            measures=self._measures,
            entries=self._entries,
            protocol=self._protocol,
            clean=clean,
            correct=collected("correct"),
            hit=collected("hit"),
            seconds={
                (what.name, source.name): state[f"{what.name}|{source.name}"]["seconds"]
                for what in self._measures
                for source in self._sources
            },
            crafted=state["transfer"]["crafted"],
            reused=state["transfer"]["reused"],
            notes=tuple(notes),
        )

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
