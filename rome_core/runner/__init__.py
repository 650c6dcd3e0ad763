"""`run(spec, context)`: the one call that carries out a canonical spec.

Owns the way from spec to files. Must not own the science, nor know of jobs, databases or HTTP.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

import torch

from rome_core.errors import CoreError
from rome_core.progress import Progress, Stopped
from rome_core.recipes import FieldProblem, SpecError, canonical
from rome_core.runner.context import Context, Outcome, Output
from rome_core.runner.distill import distill
from rome_core.runner.evaluate import evaluate
from rome_core.runner.experts import experts
from rome_core.runner.transfer import transfer

__all__ = ["Context", "Outcome", "Output", "Progress", "Stopped", "run"]

KINDS = {"distill": distill, "evaluate": evaluate, "transfer": transfer, "experts": experts}
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def run(spec: Mapping[str, Any], context: Context) -> Outcome:
    """Carry out a canonical spec, going on from the newest checkpoint in reach.

    Raises CoreError for what a user can put right, Stopped after a checkpoint when told to stop;
    anything else is a bug.
    """
    spec = _canonical(spec)
    _check_device(context.device)
    threads = torch.get_num_threads()  # a run sets those of its plan
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # a GPU's float32 is the CPU's within rounding
    try:
        return KINDS[spec["kind"]](spec, context)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise CoreError(
            "storage_full",
            f"There is no space left under {context.workdir.absolute()}.",
            "Free some space; the run then goes on from its newest checkpoint.",
        ) from error
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = tf32


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise CoreError(
            "device_unknown", f"There is no device {name!r}.", "Take cpu or cuda.", "device"
        )
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise CoreError(
            "device_missing",
            f"{name} was asked for, and PyTorch sees {count} CUDA devices here.",
            "Take cpu, or install a CUDA build of PyTorch beside a working driver.",
            "device",
        )


def _canonical(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Check that the spec is canonical already: a run must be what its hash says."""
    try:
        if "seed" not in spec:
            raise SpecError([FieldProblem("seed", "it is missing", "Fill it in with canonical().")])
        checked = canonical(spec, seed=spec["seed"])
    except SpecError as error:
        first = error.problems[0]
        raise CoreError("spec_invalid", first.message, first.remedy, first.field) from error
    if checked != spec:
        raise CoreError(
            "spec_invalid",
            "The spec is not canonical: defaults are missing.",
            "Pass it through rome_core.recipes.canonical first.",
        )
    return checked
