"""A torch-free runner: a chain of hashes instead of a training run, and every way of going wrong on
request.

`python -m worker.child --runner tests.chaos.probe`. Its result depends on the seed and the number
of steps alone, so a run that was interrupted anywhere must end with the same bytes as one that was
not.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rome_core.errors import CoreError
from rome_core.progress import Progress, Stopped


@dataclass(frozen=True)
class Context:
    workdir: Path
    data_root: Path
    report: Callable[[Progress], None]
    should_stop: Callable[[], bool]
    earlier: tuple[Path, ...] = ()
    inputs: Mapping[str, Path] = field(default_factory=dict)
    cache: Path | None = None
    device: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True)
class Output:
    name: str
    path: Path
    kind: str
    media_type: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    outputs: tuple[Output, ...]
    metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]


def run(spec: Mapping[str, Any], context: Context) -> Outcome:
    options = spec.get("hyperparameters", {})
    steps = int(options.get("steps", 20))
    every = int(options.get("checkpoint_every", 5))
    behaviour = str(options.get("behaviour", ""))
    at = int(options.get("at", 0))
    checkpoints = context.workdir / "checkpoints"
    checkpoints.mkdir(exist_ok=True)

    step, state = _resume((context.workdir, *context.earlier), spec["seed"])
    resumed = step
    saved = step if step else None
    context.report(Progress("loading", 0, 1))
    while step < steps:
        if behaviour and step >= at and _first_time(context, options):
            _misbehave(behaviour)
        if context.should_stop() and behaviour != "deaf":
            _save(checkpoints, step, state)
            raise Stopped
        state = hashlib.sha256(state + step.to_bytes(8, "big")).digest()
        step += 1
        time.sleep(float(options.get("step_seconds", 0)))
        if step % every == 0:
            _save(checkpoints, step, state)
            saved = step
        context.report(Progress("distilling", step, steps, {"loss": 1 / step}, None, saved))
    return _finish(context, state, steps, resumed, behaviour)


def _finish(context: Context, state: bytes, steps: int, resumed: int, behaviour: str) -> Outcome:
    context.report(Progress("saving", 0, 1))
    results = context.workdir / "results"
    results.mkdir(exist_ok=True)
    chain, bulk = results / "chain.json", results / "bulk.bin"
    chain.write_text(
        '{"chain":' if behaviour == "unreadable" else json.dumps({"chain": state.hex()})
    )
    bulk.write_bytes(state * 4096)
    return Outcome(
        outputs=(
            Output("chain.json", chain, "metrics", "application/json", {"steps": steps}),
            Output("bulk.bin", bulk, "synthetic-set", "application/octet-stream", {}),
        ),
        metrics={
            "chain": state.hex(),
            "nothing": float("nan"),
            "inputs": {name: _digest(path) for name, path in context.inputs.items()},
            "cache": str(context.cache),
        },
        provenance={"resumed_step": resumed, "threads": context.threads},
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _first_time(context: Context, options: Mapping[str, Any]) -> bool:
    """Whether to misbehave: always, or with `once` only in the job's first attempt."""
    return not (options.get("once") and context.earlier)


def _misbehave(behaviour: str) -> None:
    match behaviour:
        case "hang":
            while True:
                time.sleep(3600)
        case "segfault":
            print("about to crash", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        case "bug":
            raise ZeroDivisionError("nothing divides by zero")
        case "bad data":
            raise CoreError(
                "dataset_missing", "digits.npz is not there", "Put it there.", "dataset"
            )
        case "disk full":
            raise OSError(errno.ENOSPC, "No space left on device", "checkpoints/7")
        case "memory":
            raise MemoryError
        case "print":
            print('{"type":"done"}')


def _save(checkpoints: Path, step: int, state: bytes) -> None:
    temporary = checkpoints / f"{step}.tmp"
    with temporary.open("w") as file:
        json.dump({"step": step, "state": state.hex()}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(checkpoints / f"{step}.json")
    for old in sorted(checkpoints.glob("*.json"), key=lambda path: int(path.stem))[:-2]:
        old.unlink()


def _resume(folders: tuple[Path, ...], seed: int) -> tuple[int, bytes]:
    found = [
        json.loads(file.read_text())
        for folder in folders
        for file in (folder / "checkpoints").glob("*.json")
    ]
    if not found:
        return 0, hashlib.sha256(str(seed).encode()).digest()
    newest = max(found, key=lambda checkpoint: int(checkpoint["step"]))
    return int(newest["step"]), bytes.fromhex(newest["state"])
