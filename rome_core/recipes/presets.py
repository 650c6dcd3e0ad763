"""The shape of a preset: a published or proven setting under a name.

Owns no settings: each method lists its own beside its hyperparameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rome_core.recipes.dataset_facts import DatasetFacts
from rome_core.recipes.networks import reference


@dataclass(frozen=True)
class Preset:
    """Where every field of a distill spec comes from when it is not given.

    `hyperparameters` holds what differs from the method's defaults; `source` says who published
    the setting (or that it is ours), `notes` what a reader must know before comparing numbers.
    """

    name: str
    title: str
    method: str
    dataset: str
    ipc: int
    hyperparameters: Mapping[str, Any]
    source: str
    notes: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "method": self.method,
            "dataset": self.dataset,
            "ipc": self.ipc,
            "hyperparameters": dict(self.hyperparameters),
            "source": self.source,
            "notes": self.notes,
        }


def per_class(ipc: int) -> str:
    """`1 image per class`, as titles say it."""
    return f"{ipc} image{'s' if ipc > 1 else ''} per class"


def reference_network(facts: DatasetFacts) -> str:
    """The field's network for a dataset's images."""
    return reference(facts.shape[1])
