"""The last line of every benchmark: one JSON object, so that results can be collected.

Owns its form and the description of the machine. Must not measure.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any


def result(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    unit: str,
    packages: Sequence[str],
    more: Mapping[str, Any] | None = None,
) -> str:
    """The line for paired rounds: medians, their ratio, and the spread of the rounds' ratios.

    `unit` says what is measured and whether smaller or larger is better.
    """
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return json.dumps(
        {
            "name": name,
            "ratio": round(median(ours) / median(theirs), 4),
            "ours": round(median(ours), 4),
            "theirs": round(median(theirs), 4),
            "unit": unit,
            "n": len(ratios),
            "spread": [round(min(ratios), 4), round(max(ratios), 4)],
            "hardware": hardware(),
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in packages},
            },
            **(more or {}),
        }
    )


def hardware() -> str:
    """Processor and usable cores, such as "Xeon … , 2 cores"."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores"


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
