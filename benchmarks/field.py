"""What each method's set is worth to students, next to random images of equal number.

Runs the CPU-sized presets (`METHOD-quick-DATASET-ipc10`) as jobs are run, evaluates every set with
the same students, and prints accuracies: clean and under PGD in pixel space, each seed by itself. A
set that packs four images into one is compared with random images packed alike. "Ours" is the
set's clean accuracy, "theirs" the random one's.

    python -m benchmarks.field --quick                            digits, one seed, two methods
    python -m benchmarks.field --data-root DIR --out field.jsonl  CIFAR-10, every method, 3 seeds

Lines of --out are kept: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks._report import result
from benchmarks._trials import Place, Rows, accuracies

PACKED = ("rome", "idm", "bacon")  # four images in one
PLAIN = (
    *("random", "herding", "k-center", "k-means", "forgetting"),
    *("dm", "dc", "dsa", "mtt", "bptt"),
)


@dataclass(frozen=True)
class Settings:
    """What is asked of every method alike."""

    dataset: str
    network: str
    students: int
    epochs: int
    epsilon: str
    images: int  # test images attacked
    place: Place


def main() -> None:
    parser = argparse.ArgumentParser(description="Every method against random images.")
    parser.add_argument("--quick", action="store_true", help="digits, one seed, random and dm")
    parser.add_argument("--methods", help="comma-separated (default: every one)")
    parser.add_argument("--seeds", type=int, help="3 unless told")
    parser.add_argument("--students", type=int, default=2, help="a set and seed")
    parser.add_argument("--epochs", type=int, default=150, help="of each student")
    parser.add_argument("--epsilon", default="2/255", help="Linf radius of the PGD")
    parser.add_argument("--images", type=int, default=2000, help="test images attacked")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--cache", type=Path, help="folder that keeps trained networks")
    parser.add_argument("--out", type=Path, help="JSON lines, one a set; kept and added to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            dataset="digits" if arguments.quick else "cifar10",
            network="convnet-d2-w32" if arguments.quick else "convnet-w32",
            students=arguments.students,
            epochs=arguments.epochs,
            epsilon=arguments.epsilon,
            images=arguments.images,
            place=Place(arguments.data_root, arguments.cache or Path(folder), arguments.threads),
        )
        usual = ("random", "dm") if arguments.quick else (*PLAIN, "random-packed", *PACKED)
        names = arguments.methods.split(",") if arguments.methods else usual
        seeds = range(arguments.seeds or (1 if arguments.quick else 3))
        rows = Rows(arguments.out)
        for seed in seeds:
            for name in names:
                rows.measure(name, seed, partial(measured, name, seed, settings))
    report(rows.found, names, list(seeds), settings)


def measured(name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """One set, made and judged."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = settings.place
        distilled = place.carry_out(set_of(name, settings), Path(folder) / "set", seed=seed)
        made = time.perf_counter() - began
        file = next(out.path for out in distilled.outputs if out.name == "synthetic.pt")
        judged = place.carry_out(
            judgement(settings), Path(folder) / "judged", seed=seed, inputs={"set": file}
        )
    shares = accuracies(judged)
    return {
        "clean": shares["clean"],
        "robust": shares["pgd/untargeted"],
        "seconds": round(made, 1),
        "iterations": distilled.metrics["iterations"],
    }


def set_of(name: str, settings: Settings) -> dict[str, Any]:
    """The spec of one set."""
    if name.startswith("random"):
        return {
            "kind": "distill",
            "method": "random",
            "dataset": settings.dataset,
            "ipc": 10,
            "hyperparameters": {"factor": 2 if name == "random-packed" else 1},
        }
    return {"kind": "distill", "preset": f"{name}-quick-{settings.dataset}-ipc10"}


def judgement(settings: Settings) -> dict[str, Any]:
    """The same students and the same attack for every set, with the augmentation for all alike."""
    signs = settings.dataset == "digits"
    return {
        "kind": "evaluate",
        "artifact": "set",
        "protocols": ["pixel"],
        "attacks": ["clean", "pgd"],
        "modes": ["untargeted"],
        "overrides": {"pgd": {"epsilon": settings.epsilon, "steps": 10}},
        "limit": settings.images,
        "students": {
            "count": settings.students,
            "network": settings.network,
            "epochs": settings.epochs,
            "augmentation": "color_crop_cutout_scale_rotate"
            if signs
            else "color_crop_cutout_flip_scale_rotate",
        },
    }


def report(
    rows: Iterable[Mapping[str, Any]], names: Iterable[str], seeds: list[int], settings: Settings
) -> None:
    """A line a method, then the JSON line of all."""
    of = {(row["method"], row["seed"]): row for row in rows}
    ours, theirs, table = [], [], {}
    for name in names:
        own = [of[name, seed] for seed in seeds if (name, seed) in of]
        table[name] = {
            key: [round(100 * row[key], 2) for row in own] for key in ("clean", "robust")
        }
        means = {key: fmean(values) for key, values in table[name].items()}
        print(
            f"{name:<14} clean {means['clean']:6.2f}  robust {means['robust']:6.2f}  {table[name]}"
        )
        base = "random-packed" if name in PACKED else "random"
        for seed in seeds:
            if name != base and (base, seed) in of and (name, seed) in of:
                ours.append(of[name, seed]["clean"])
                theirs.append(of[base, seed]["clean"])
    print(
        result(
            "field",
            ours,
            theirs,
            unit="clean accuracy of students, over that of random images; larger is better",
            packages=["torch"],
            more={
                "setting": f"{settings.dataset}, 10 images per class, {settings.students} students "
                f"{settings.network} of {settings.epochs} epochs, PGD-10 at {settings.epsilon} in "
                f"pixel space on {settings.images} images",
                "methods": table,
            },
        )
    )


if __name__ == "__main__":
    main()
