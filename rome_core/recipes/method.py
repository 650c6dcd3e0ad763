"""The shape of a method's recipe: what the catalogue, the API and the runner know of a method.

Owns no method: each has its own file beside this one. Free of torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from rome_core.recipes.cost import Cost, Problem
from rome_core.recipes.experts import ExpertTraining
from rome_core.recipes.presets import Preset


def _as_many_as_asked(hyperparameters: BaseModel, ipc: int) -> int:
    return ipc


def _no_experts(hyperparameters: BaseModel) -> ExpertTraining | None:
    return None


def _own_network(hyperparameters: BaseModel) -> str | None:
    return getattr(hyperparameters, "network", None)


@dataclass(frozen=True)
class MethodRecipe:
    """A method as a recipe: its hyperparameters and presets.

    `images_per_class(hyperparameters, ipc)` is how many real images of a class its start needs,
    `experts(hyperparameters)` the trained networks it needs before it begins, if any,
    `network(hyperparameters)` the name of the network that sets are made with, if any, and
    `predict_cost(hyperparameters, problem)` what a run will cost, where that can be said. A method
    that makes as many images as there are real ones takes no ipc: specs leave it out, and it is
    None.
    """

    name: str
    title: str
    summary: str
    hyperparameters: type[BaseModel]
    presets: Mapping[str, Preset]
    paper: str
    resumable: bool = True
    images_per_class: Callable[[BaseModel, int], int] = field(default=_as_many_as_asked)
    experts: Callable[[BaseModel], ExpertTraining | None] = field(default=_no_experts)
    network: Callable[[BaseModel], str | None] = field(default=_own_network)
    predict_cost: Callable[[BaseModel, Problem], Cost] | None = None
    takes_ipc: bool = True

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "paper": self.paper,
            "resumable": self.resumable,
            "takes_ipc": self.takes_ipc,
            "presets": sorted(self.presets),
            "hyperparameters": self.hyperparameters.model_json_schema(),
        }
