"""Sets made and judged as jobs are, a row a set, for the benchmarks of what sets are worth.

Owns carrying out and the file of rows. Must not know which sets are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rome_core.recipes import canonical
from rome_core.runner import Context, Outcome, run


@dataclass(frozen=True)
class Place:
    """Where sets are made: the data, a folder that keeps trained networks, and threads."""

    data_root: Path
    cache: Path
    threads: int

    def carry_out(
        self,
        body: Mapping[str, Any],
        workdir: Path,
        *,
        seed: int,
        inputs: Mapping[str, Path] | None = None,
    ) -> Outcome:
        """Run a spec as the command line does."""
        return run(
            canonical(dict(body), seed=seed),
            Context(
                workdir=workdir,
                data_root=self.data_root,
                inputs=inputs or {},
                cache=self.cache,
                threads=self.threads,
            ),
        )


def accuracies(judged: Outcome) -> dict[str, float]:
    """Mean accuracies of an evaluation under one protocol, by attack."""
    return {
        key.partition("/")[2]: value["mean"]
        for key, value in judged.metrics.items()
        if isinstance(value, Mapping) and "mean" in value
    }


class Rows:
    """One row a set and seed, read back from the file where there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        kept = file.read_text().splitlines() if file is not None and file.is_file() else []
        self.found: list[dict[str, Any]] = [json.loads(line) for line in kept]

    def measure(self, name: str, seed: int, measured: Callable[[], Mapping[str, Any]]) -> None:
        """Add what `measured` returns, unless the row is there already."""
        if any((row["method"], row["seed"]) == (name, seed) for row in self.found):
            return
        row = {"method": name, "seed": seed, **measured()}
        self.found.append(row)
        print(json.dumps(row), flush=True)
        if self._file is not None:
            with self._file.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
