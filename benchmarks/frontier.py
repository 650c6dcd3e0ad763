"""What sets make students that are trained as usual withstand AutoAttack in pixel space?

Every set has as many images; students never see an attacked one. Prints accuracies, each seed by
itself: clean, under PGD, and under AutoAttack (standard) at several radii. The controls: real
images with hard labels, with a teacher's, clean or robust, and with labels smoothed to what the
teacher is sure of. "Ours" is the accuracy under AutoAttack at the second radius of the sets of
`bptt-pixel-quick-*`, "theirs" that of real images with the robust teacher's labels.

    python -m benchmarks.frontier --quick                            digits, one seed, few images
    python -m benchmarks.frontier --data-root DIR --out frontier.jsonl   CIFAR-10, 3 seeds

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
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks._report import result
from benchmarks._trials import Place, Rows, accuracies

REAL = {"objective": "none", "init": "class", "iterations": 1}
CLEAN = {"teacher_training": "clean", "teacher_epochs": 6}
SETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "real-hard": ("robust-features", {**REAL, "labels": "hard"}),
    "real-smoothed": ("robust-features", {**REAL, "labels": "smoothed"}),
    "real-clean-teacher": ("robust-features", {**REAL, **CLEAN}),
    "real-robust-teacher": ("robust-features", REAL),
    "dm": ("dm", {}),
    "bptt": ("bptt", {}),
    "bptt-pixel": ("bptt-pixel", {}),
}
OURS, THEIRS = "bptt-pixel", "real-robust-teacher"


@dataclass(frozen=True)
class Settings:
    """What is asked of every set alike."""

    dataset: str
    network: str
    students: int
    epochs: int
    radii: tuple[str, ...]
    images: int  # test images attacked
    place: Place


def main() -> None:
    parser = argparse.ArgumentParser(description="Robust after training as usual.")
    parser.add_argument("--quick", action="store_true", help="digits, one seed, 64 images")
    parser.add_argument("--sets", help=f"comma-separated of {', '.join(SETS)} (default: all)")
    parser.add_argument("--seeds", type=int, help="3 unless told")
    parser.add_argument("--students", type=int, default=1, help="a set and seed")
    parser.add_argument("--epochs", type=int, default=150, help="of each student")
    parser.add_argument("--images", type=int, help="test images attacked; 200 unless told")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--cache", type=Path, help="folder that keeps teachers")
    parser.add_argument("--out", type=Path, help="JSON lines, one a set; kept and added to")
    arguments = parser.parse_args()
    quick = arguments.quick
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            dataset="digits" if quick else "cifar10",
            network="convnet-d2-w32" if quick else "convnet-w32",
            students=arguments.students,
            epochs=arguments.epochs,
            radii=("8/255", "16/255") if quick else ("1/255", "2/255", "4/255", "8/255"),
            images=arguments.images or (64 if quick else 200),
            place=Place(arguments.data_root, arguments.cache or Path(folder), arguments.threads),
        )
        names = arguments.sets.split(",") if arguments.sets else (THEIRS, OURS) if quick else SETS
        seeds = range(arguments.seeds or (1 if quick else 3))
        rows = Rows(arguments.out)
        for seed in seeds:
            for name in names:
                rows.measure(name, seed, partial(measured, name, seed, settings))
    report(rows.found, names, seeds, settings)


def measured(name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """One set, made, and attacked at every radius; the same students each time."""
    began = time.perf_counter()
    family, changes = SETS[name]
    spec = {
        "kind": "distill",
        "preset": f"{family}-quick-{settings.dataset}-ipc10",
        "hyperparameters": dict(changes),
    }
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = settings.place
        distilled = place.carry_out(spec, Path(folder) / "set", seed=seed)
        row["seconds"] = round(time.perf_counter() - began, 1)
        file = next(out.path for out in distilled.outputs if out.name == "synthetic.pt")
        for number, radius in enumerate(settings.radii):
            judged = place.carry_out(
                judgement(settings, radius),
                Path(folder) / f"judged {number}",
                seed=seed,
                inputs={"set": file},
            )
            shares = accuracies(judged)
            row["clean"] = shares["clean"]
            row[f"pgd {radius}"] = shares["pgd/untargeted"]
            row[f"autoattack {radius}"] = shares["autoattack/untargeted"]
    return row


def judgement(settings: Settings, radius: str) -> dict[str, Any]:
    """Students trained as usual, then attacked within one radius."""
    return {
        "kind": "evaluate",
        "artifact": "set",
        "protocols": ["pixel"],
        "attacks": ["clean", "pgd", "autoattack"],
        "modes": ["untargeted"],
        "overrides": {"pgd": {"epsilon": radius}, "autoattack": {"epsilon": radius}},
        "limit": settings.images,
        "probes": False,
        "students": {
            "count": settings.students,
            "network": settings.network,
            "epochs": settings.epochs,
        },
    }


def report(
    rows: Iterable[Mapping[str, Any]],
    names: Iterable[str],
    seeds: Iterable[int],
    settings: Settings,
) -> None:
    """A line a set, then the JSON line of all."""
    of = {(row["method"], row["seed"]): row for row in rows}
    columns = ["clean", *(f"{a} {r}" for a in ("pgd", "autoattack") for r in settings.radii)]
    table: dict[str, dict[str, list[float]]] = {}
    for name in names:
        own = [of[name, seed] for seed in seeds if (name, seed) in of]
        table[name] = {key: [round(100 * row[key], 2) for row in own] for key in columns}
        told = ", ".join(f"{key} {_spread(values)}" for key, values in table[name].items())
        print(f"{name:<20} {told}")
    judged_by = f"autoattack {settings.radii[1]}"
    pairs = [s for s in seeds if (OURS, s) in of and (THEIRS, s) in of]
    print(
        result(
            "frontier",
            [of[OURS, seed][judged_by] for seed in pairs],
            [of[THEIRS, seed][judged_by] for seed in pairs],
            unit=f"accuracy under {judged_by}, {OURS} over {THEIRS}; larger is better",
            packages=["torch"],
            more={
                "setting": f"{settings.dataset}, 10 images per class, {settings.students} students "
                f"{settings.network} of {settings.epochs} epochs a set, {settings.images} test "
                "images, pixel space",
                "sets": table,
            },
        )
    )


def _spread(values: list[float]) -> str:
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
