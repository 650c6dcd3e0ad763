"""Iterations a second and peak memory of each distillation method, next to its naive form.

Both sides make the same draws on random pixels in the shape of CIFAR-10, in float32 with the same
threads, one after the other in each round, and the images they end with are compared. "Theirs" is
the sequential form of the tests: one class after another, plain eager autograd.

    python -m benchmarks.methods --quick                  narrow networks, IPC 1: about a minute
    python -m benchmarks.methods --ipc 1 10 --rounds 3    the width of the papers, shortened
    python -m benchmarks.methods --published --methods dm every setting as published

Settings are those of the published presets. Unless --published is given, what an iteration repeats
is cut as `SHORT` says; each line tells what differs. MTT's experts are made up, so that it starts
from their first epochs and whitens nothing. A line a method and IPC, then MTT's memory by the
student's steps, then a line that sums up.

Seconds are by the clock and, next to them, of the processor, which other work on the machine
disturbs less. Peak memory is the most that PyTorch's allocator held in one iteration, above what it
held before. The selection rules of coresets are not here: they make one choice, not iterations,
and their naive forms are lists of numbers, no way that anyone would take.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks._memory import Kept, peak_bytes
from benchmarks._pixels import SEED, random_pixels
from benchmarks._report import result
from rome_core import networks
from rome_core.data import Dataset
from rome_core.distillation.bacon import Bacon
from rome_core.distillation.dm import Dm
from rome_core.distillation.experts import About, Experts, Layout, Records, write
from rome_core.distillation.gradient_matching import Dc, Dsa
from rome_core.distillation.idm import Idm
from rome_core.distillation.mtt import Mtt
from rome_core.distillation.rome import Rome
from rome_core.passes import Plan, plan
from rome_core.randomness import generator
from rome_core.recipes.built_in import BUILT_IN
from rome_core.recipes.gradient_matching import loops
from rome_core.recipes.method import MethodRecipe
from rome_core.recipes.networks import parse
from rome_core.recipes.presets import Preset
from tests.rome_core.distillation.naive_bacon import NaiveBacon
from tests.rome_core.distillation.naive_dm import NaiveDm
from tests.rome_core.distillation.naive_gradient_matching import NaiveGradientMatching
from tests.rome_core.distillation.naive_idm import NaiveIdm
from tests.rome_core.distillation.naive_mtt import NaiveMtt
from tests.rome_core.distillation.naive_rome import NaiveRome


class Side(Protocol):
    """A method, ours or naive."""

    images: Tensor

    def step(self) -> object: ...


@dataclass(frozen=True)
class Rival:
    """One method, its naive form, and who published its settings when."""

    preset: str  # as far as the data set
    recipe: MethodRecipe
    ours: Callable[..., Side]
    naive: Callable[..., Side]

    def published(self, ipc: int) -> Preset:
        return self.recipe.presets[f"{self.preset}-cifar10-ipc{ipc}"]

    def settings(self, told: Mapping[str, Any]) -> Any:
        return self.recipe.hyperparameters(**told)


RECIPES = {recipe.name: recipe for recipe in BUILT_IN}
RIVALS = {
    "dm": Rival("dm-2023", RECIPES["dm"], Dm, NaiveDm),
    "dc": Rival("dc-2021", RECIPES["dc"], Dc, NaiveGradientMatching),
    "dsa": Rival("dsa-2021", RECIPES["dsa"], Dsa, NaiveGradientMatching),
    "idm": Rival("idm-2023", RECIPES["idm"], Idm, NaiveIdm),
    "bacon": Rival("bacon-2024", RECIPES["bacon"], Bacon, NaiveBacon),
    "rome": Rival("rome-2025", RECIPES["rome"], Rome, NaiveRome),
    "mtt": Rival("mtt-2022", RECIPES["mtt"], Mtt, NaiveMtt),
}

# No more than this of each; an iteration of ROME passes every image eleven times.
_POOL = {"batch_real": 64, "model_train_steps": 2, "batch_train": 64}
_MATCHING = {"batch_real": 32, "inner_loop": 2}
SHORT: Mapping[str, Mapping[str, int]] = {
    "dm": {"batch_real": 64},
    "dc": _MATCHING,
    "dsa": _MATCHING,
    "idm": _POOL,
    "bacon": _POOL,
    "rome": _POOL | {"batch_real": 8, "batch_train": 8},
    "mtt": {"syn_steps": 3},
}
QUICK = {
    "batch_real": 8,
    "model_train_steps": 1,
    "batch_train": 8,
    "inner_loop": 1,
    "syn_steps": 3,
}
STUDENT_STEPS = (5, 10, 20, 30)
MIB = 2**20


@dataclass(frozen=True)
class Bench:
    """What all methods are measured with."""

    data: Dataset
    folder: Path  # of experts
    network: str | None  # in place of the published one
    limits: str  # "published", "short" or "quick"
    rounds: int
    threads: int
    compile: str

    def settings(self, method: str, ipc: int, **more: Any) -> Any:
        """The published ones of a method, as far as the measurement takes them."""
        rival = RIVALS[method]
        told = dict(rival.published(ipc).hyperparameters)
        if self.network is not None:
            told["network"] = self.network
        if method in ("dc", "dsa"):
            told["outer_loop"], told["inner_loop"] = loops(ipc)
        if method == "mtt":
            # Experts are made up, and so are the pixels, of which there is nothing to whiten.
            told |= {"max_start_epoch": 2, "buffer_experts": 2, "whitening": "none"}
        if self.limits != "published":
            whole = rival.settings(told)
            limits = dict(SHORT[method])
            if self.limits == "quick":
                limits = {name: min(most, QUICK[name]) for name, most in limits.items()}
            told |= {name: min(getattr(whole, name), most) for name, most in limits.items()}
        return rival.settings(told | more)

    def pair(self, method: str, ipc: int, hp: Any) -> tuple[Side, Side]:
        """Ours and the naive form, at the start."""
        rival = RIVALS[method]
        given: dict[str, Any] = {"ipc": ipc, "seed": SEED}
        if method == "mtt":
            experts = self.experts(hp)
            naive = rival.naive(self.data, hp, experts, **given, dtype=torch.float32)
            given["experts"] = experts
        else:
            naive = rival.naive(self.data, hp, **given, dtype=torch.float32)
        return rival.ours(self.data, hp, **given, plan=self.plan(hp)), naive

    def plan(self, hp: Any) -> Plan:
        """As for a run of published length."""
        mode: Any = self.compile
        return plan(mode=mode, images=10**7, network=parse(hp.network), threads=self.threads)

    def experts(self, hp: Any) -> Experts:
        """Networks whose weights walk at random: what a step costs does not depend on them."""
        training = RECIPES["mtt"].experts(hp)
        assert training is not None
        channels, size, _ = self.data.shape
        started = [
            networks.build(
                hp.network,
                channels=channels,
                size=size,
                classes=self.data.classes,
                generator=generator(SEED, "benchmark expert", number),
            )
            for number in range(training.count)
        ]
        layout = Layout.of(started[0])

        def walks() -> Iterator[Tensor]:
            for number, network in enumerate(started):
                weights = layout.flat(dict(network.named_parameters())).detach()
                made = generator(SEED, "benchmark expert", number, "walk")
                for _ in range(training.epochs + 1):
                    yield weights
                    weights = weights + 0.003 * torch.randn(weights.shape, generator=made)

        about = About(
            training=training,
            seed=SEED,
            dataset=self.data.name,
            data={},
            space="normalised",
            channels=channels,
            size=size,
            classes=self.data.classes,
            train_images=len(self.data.train_images),
            layout=layout,
        )
        nothing = [[0.0] * training.epochs] * training.count
        path = self.folder / "experts.safetensors"
        write(path, about, walks(), Records([0.0] * training.count, nothing, nothing))
        return Experts.open(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Every distillation method and its naive form.")
    parser.add_argument("--quick", action="store_true", help="narrow networks, small batches")
    parser.add_argument("--published", action="store_true", help="shorten nothing")
    parser.add_argument("--methods", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--ipc", type=int, nargs="+", choices=(1, 10, 50), help="1 10 50, quick 1")
    parser.add_argument("--rounds", type=int, help="timed rounds: 3 unless told, quick 2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--network", help="in place of convnet, whose width is 128")
    parser.add_argument(
        "--compile", choices=["auto", "compiled", "eager"], help="auto, quick eager"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    quick = arguments.quick
    # IPC 1 of the pool's methods is published with 5,000 real images a class.
    data = random_pixels(5_000 if arguments.published else 512)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            data=data,
            folder=Path(folder),
            network=arguments.network or ("convnet-w16" if quick else None),
            limits="quick" if quick else "published" if arguments.published else "short",
            rounds=arguments.rounds or (2 if quick else 3),
            threads=arguments.threads,
            compile=arguments.compile or ("eager" if quick else "auto"),
        )
        rows = [
            Row.measured(method, ipc, bench)
            for ipc in arguments.ipc or ((1,) if quick else (1, 10, 50))
            for method in arguments.methods
        ]
        memory = student_memory(bench) if "mtt" in arguments.methods else {}
    ratios = [row.ratio for row in rows]
    print(
        result(
            "methods",
            ratios,
            [1.0] * len(ratios),
            unit="iterations per second over the naive form's, of each method and IPC; "
            "larger is better",
            packages=["torch"],
            more={
                "setting": bench.limits,
                "threads": bench.threads,
                "rounds": bench.rounds,
                "ratios": {row.name: round(row.ratio, 3) for row in rows},
                "processor_ratios": {row.name: round(row.processor_ratio, 3) for row in rows},
                "peak_memory_ratios": {row.name: round(row.memory_ratio, 3) for row in rows},
                "differences": {row.name: row.difference for row in rows},
                "mtt_kept_mib": memory,
            },
        )
    )


@dataclass(frozen=True)
class Row:
    """What was found of one method at one IPC."""

    name: str
    ratio: float  # of iterations a second
    processor_ratio: float
    memory_ratio: float
    difference: float

    @classmethod
    def measured(cls, method: str, ipc: int, bench: Bench) -> Row:
        """Memory in an iteration that is not timed, then the rounds."""
        hp = bench.settings(method, ipc)
        ours, theirs = bench.pair(method, ipc, hp)
        if bench.plan(hp).compiled:
            ours.step()  # compiling takes memory, too
        peaks = [peak_bytes(side.step) for side in (ours, theirs)]
        ours, theirs = bench.pair(method, ipc, hp)
        start = ours.images.detach().clone()
        gc.collect()
        rounds = [(seconds(ours.step), seconds(theirs.step)) for _ in range(bench.rounds)]
        rates = [[1 / one[side].clock for one in rounds] for side in (0, 1)]
        processor = [median(one[side].processor for one in rounds) for side in (0, 1)]
        moved = (theirs.images.detach() - start).norm()
        row = cls(
            name=f"{method}-ipc{ipc}",
            ratio=median(rates[0]) / median(rates[1]),
            processor_ratio=processor[1] / processor[0],
            memory_ratio=peaks[0] / peaks[1],
            difference=float(f"{(theirs.images.detach() - ours.images).norm() / moved:.1e}"),
        )
        print(
            result(
                f"methods_{method}_ipc{ipc}",
                *rates,
                unit="iterations per second, larger is better",
                packages=["torch"],
                more={
                    "setting": told(method, ipc, hp, bench),
                    "processor_seconds": [round(value, 3) for value in processor],
                    "processor_ratio": round(row.processor_ratio, 3),
                    "peak_mib": [round(peak / MIB, 1) for peak in peaks],
                    "difference": row.difference,  # of images, relative to their movement
                    "threads": bench.threads,
                    "compiled": bench.plan(hp).compiled and method != "mtt",
                },
            ),
            flush=True,
        )
        return row


@dataclass(frozen=True)
class Seconds:
    clock: float
    processor: float  # of all threads together


def seconds(work: Callable[[], object]) -> Seconds:
    began, busy = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - began, time.process_time() - busy)


def told(method: str, ipc: int, hp: Any, bench: Bench) -> str:
    """The preset, and where what was measured differs from it."""
    rival = RIVALS[method]
    preset = rival.published(ipc)
    published = vars(rival.settings(preset.hyperparameters))
    if method in ("dc", "dsa"):
        outer, inner = loops(ipc)
        published = published | {"outer_loop": outer, "inner_loop": inner}
    changed = [
        f"{field} {value} for {published[field]}"
        for field, value in vars(hp).items()
        if value != published[field]
    ]
    return ", ".join([preset.name, *changed])


def student_memory(bench: Bench) -> dict[str, list[float]]:
    """What MTT's graphs keep at most, in MiB, by the student's steps: adjoint and unrolled."""
    kept: dict[str, list[int]] = {"adjoint": [], "unrolled": []}
    peaks: dict[str, list[int]] = {"adjoint": [], "unrolled": []}
    for steps in STUDENT_STEPS:
        hp = bench.settings("mtt", 1, syn_steps=steps, network=bench.network or "convnet-w32")
        for name, side in zip(kept, bench.pair("mtt", 1, hp), strict=True):
            graphs = Kept()
            with graphs.counting():
                peaks[name].append(peak_bytes(side.step))
            kept[name].append(graphs.most)
    rounded = {
        f"{name}{suffix}": [round(value / MIB, 2) for value in values]
        for suffix, found in (("", kept), ("_peak", peaks))
        for name, values in found.items()
    }
    print(
        result(
            "methods_mtt_memory",
            kept["adjoint"],
            kept["unrolled"],
            unit="bytes kept for going back at 5, 10, 20, 30 student steps; smaller is better",
            packages=["torch"],
            more={
                "setting": f"IPC 1, 10 images a step, {hp.network}, all four steps by themselves",
                "student_steps": list(STUDENT_STEPS),
                "mib": rounded,
            },
        ),
        flush=True,
    )
    return rounded


if __name__ == "__main__":
    main()
