"""What a finished command prints for a person.

Owns the words and tables on stdout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rome_core.recipes.presets import Preset
from rome_core.runner import Outcome


def distilled(spec: Mapping[str, Any], outcome: Outcome, out: Path) -> str:
    """Two lines: what there is, and what to do next."""
    count = outcome.metrics["images"]
    return (
        f"{out}: {count} images, {spec['ipc']} per class of {spec['dataset']}, by "
        f"{spec['method']}, seed {spec['seed']}\n"
        f"Evaluate it: python -m rome_core evaluate --set-file {out} --out "
        f"{out.with_suffix('.evaluation.json')}"
    )


def evaluated(spec: Mapping[str, Any], outcome: Outcome, out: Path) -> str:
    """A table of accuracies in percent, one block an attack domain."""
    n = spec["students"]["count"]
    lines = [f"{out}: accuracy in percent, mean and spread of {n} student{'s' * (n > 1)}"]
    width = max(len(name) for name in outcome.metrics)
    for name, score in outcome.metrics.items():
        spread = "" if score["std"] is None else f" ± {100 * score['std']:.2f}"
        lines.append(f"  {name:<{width}}  {100 * score['mean']:6.2f}{spread}")
    if len(spec["domains"]) > 1:
        lines.append("Numbers of the reference and the pixel domain must not be compared.")
    return "\n".join(lines)


def presets_table(presets: Sequence[Preset]) -> str:
    width = max(len(preset.name) for preset in presets)
    return "\n".join(f"{preset.name:<{width}}  {preset.title}" for preset in presets)
