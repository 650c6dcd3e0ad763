"""Seconds of one ROME iteration at the published CIFAR-10 IPC 10 setting, next to the naive form.

Both run the released code's switches on the same draws with the same threads, in float32, one
after the other in each round, and what they did to the images is compared. "Theirs" is the
sequential form of the tests: one class after another, plain eager autograd.

    python -m benchmarks.rome_step --quick          a smaller setting, about a minute
    python -m benchmarks.rome_step --tenths 2       2 of 10 classes and of 10 training steps
    python -m benchmarks.rome_step --data-root DIR  real CIFAR-10 instead of random pixels

A whole iteration passes 84,000 images forward and backward. With --tenths N the work is N tenths of
it by count of images in both parts, and the seconds are multiplied by 10 / N.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks._pixels import SEED, random_pixels
from benchmarks._report import result
from rome_core.data import Dataset, load
from rome_core.distillation.rome import Rome
from rome_core.passes import plan
from rome_core.recipes.rome import PRESETS, RomeHyperparameters
from tests.rome_core.distillation.naive_rome import NaiveRome

PRESET = PRESETS["rome-2025-cifar10-ipc10"]
QUICK = {"batch_real": 48, "batch_train": 64, "model_train_steps": 1, "target_rule": "modC"}


def main() -> None:
    parser = argparse.ArgumentParser(description="ROME's iteration against its naive form.")
    parser.add_argument("--quick", action="store_true", help="4 classes, small batches")
    parser.add_argument("--tenths", type=int, default=10, choices=range(1, 11), metavar="1..10")
    parser.add_argument("--rounds", type=int, help="timed rounds, 2 unless told")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", choices=["auto", "compiled", "eager"], default="auto")
    parser.add_argument("--data-root", type=Path, help="where CIFAR-10 lies")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    if arguments.quick:
        classes, scale, changes = 4, 1.0, dict(QUICK)
    else:
        classes, scale = arguments.tenths, 10 / arguments.tenths
        changes = {"model_train_steps": arguments.tenths}
        if classes < 10:
            changes["target_rule"] = "modC"  # class 9 would be no class; it costs the same
    settings = RomeHyperparameters(**{**PRESET.hyperparameters, **changes})
    dataset = some_classes(
        load("cifar10", arguments.data_root) if arguments.data_root else random_pixels(), classes
    )
    chosen = plan(mode=arguments.compile, images=10**7, threads=arguments.threads)
    ours = Rome(dataset, settings, ipc=PRESET.ipc, seed=SEED, plan=chosen)
    theirs = naive(dataset, settings)

    before = copy.deepcopy(ours.state_dict())
    warm_up = seconds(ours.step)
    ours.load_state_dict(before)
    naive(dataset, settings).step()  # its first iteration is not counted either
    print(f"plan {chosen.as_dict()}; first iteration {warm_up:.1f} s, not counted", flush=True)

    start, mine, other = ours.images.clone(), [], []
    for number in range(arguments.rounds or 2):
        mine.append(scale * seconds(ours.step))
        other.append(scale * seconds(theirs.step))
        print(f"round {number}: ours {mine[-1]:.2f} s, naive {other[-1]:.2f} s", flush=True)
    moved = (theirs.images.detach() - start).norm()
    apart = (theirs.images.detach() - ours.images).norm() / moved
    print(
        result(
            "rome_step",
            mine,
            other,
            unit="seconds per iteration, smaller is better",
            packages=["torch"],
            more={
                "setting": "quick" if arguments.quick else f"{PRESET.name}, {classes}/10 measured",
                "difference": float(f"{apart:.2e}"),  # of the images, relative to their movement
                "plan": chosen.as_dict(),
                "warm_up_seconds": round(warm_up, 2),
            },
        )
    )


def naive(dataset: Dataset, settings: RomeHyperparameters) -> NaiveRome:
    return NaiveRome(dataset, settings, ipc=PRESET.ipc, seed=SEED, dtype=torch.float32)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def some_classes(dataset: Dataset, classes: int) -> Dataset:
    """The first classes of a dataset."""
    kept = dataset.train_labels < classes
    return Dataset(
        **{
            **vars(dataset),
            "train_images": dataset.train_images[kept],
            "train_labels": dataset.train_labels[kept],
            "classes": classes,
            "class_names": dataset.class_names[:classes],
        }
    )


if __name__ == "__main__":
    main()
