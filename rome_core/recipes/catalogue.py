"""What can be asked for: methods, datasets, networks, presets, attacks and protocols, as data.

Owns the registry of recipes, built-in and plugged in. A plug-in registers the entry point
`rome.recipes` (a `MethodRecipe`, torch-free) and, under the same name, `rome.methods` (its
implementation, which only the runner loads). Must not load an implementation.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel

from rome_core.recipes import networks as network_recipes
from rome_core.recipes import random, rome
from rome_core.recipes.attack_catalogue import ATTACKS, Attack
from rome_core.recipes.datasets import DATASETS, DatasetFacts
from rome_core.recipes.networks import NetworkSpec
from rome_core.recipes.presets import Preset
from rome_core.recipes.protocols import LATEST, Protocol


@dataclass(frozen=True)
class Network:
    """One network of the family; parts combine, so `convnet-d4-w64` is a network as well."""

    name: str
    summary: str
    spec: NetworkSpec

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "summary": self.summary, **asdict(self.spec)}


def _as_many_as_asked(hyperparameters: BaseModel, ipc: int) -> int:
    return ipc


@dataclass(frozen=True)
class MethodRecipe:
    """A method as a recipe: its hyperparameters and presets.

    `images_per_class(hyperparameters, ipc)` is how many real images of a class its start needs.
    """

    name: str
    title: str
    summary: str
    hyperparameters: type[BaseModel]
    presets: Mapping[str, Preset]
    paper: str
    resumable: bool = True
    images_per_class: Callable[[BaseModel, int], int] = field(default=_as_many_as_asked)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "paper": self.paper,
            "resumable": self.resumable,
            "presets": sorted(self.presets),
            "hyperparameters": self.hyperparameters.model_json_schema(),
        }


BUILT_IN = (
    MethodRecipe(
        name="rome",
        title="ROME",
        summary=(
            "Robust dataset distillation by matching adversarial features against a pool of "
            "adversarially trained networks."
        ),
        hyperparameters=rome.RomeHyperparameters,
        presets=rome.PRESETS,
        paper="Zhou et al., ROME is Forged in Adversity, ICML 2025",
        images_per_class=rome.images_per_class,
    ),
    MethodRecipe(
        name="random",
        title="Random real subset",
        summary="Real training images drawn at random: the baseline of the same size.",
        hyperparameters=random.RandomHyperparameters,
        presets=random.PRESETS,
        paper="",
        images_per_class=random.images_per_class,
    ),
)


@cache
def _recipes() -> Mapping[str, MethodRecipe]:
    return {recipe.name: recipe for recipe in (*BUILT_IN, *_plugged_in())}


def _plugged_in() -> Iterator[MethodRecipe]:
    taken = {recipe.name for recipe in BUILT_IN}
    for point in entry_points(group="rome.recipes"):
        recipe = point.load()
        if not isinstance(recipe, MethodRecipe):
            raise TypeError(f"the entry point rome.recipes:{point.name} is not a MethodRecipe")
        if recipe.name != point.name or recipe.name in taken:
            raise ValueError(
                f"the entry point rome.recipes:{point.name} gives a recipe named {recipe.name!r}, "
                "which must be its own name and not be taken"
            )
        taken.add(recipe.name)
        yield recipe


def method(name: str) -> MethodRecipe | None:
    return _recipes().get(name)


def preset(name: str) -> Preset | None:
    return next((entry for entry in presets() if entry.name == name), None)


def methods() -> list[MethodRecipe]:
    return list(_recipes().values())


def datasets() -> list[DatasetFacts]:
    return list(DATASETS.values())


def networks() -> list[Network]:
    """`convnet` and every published network one part away from it."""
    parts = [part for part in network_recipes.catalogue() if not part.default]
    return [
        Network("convnet", "The field's reference: depth 3, width 128.", NetworkSpec()),
        *(
            Network(spec.name, f"convnet with {part.description}", spec)
            for part in parts
            for spec in [network_recipes.parse(f"convnet-{part.name}")]
        ),
    ]


def presets() -> list[Preset]:
    return [entry for recipe in methods() for entry in recipe.presets.values()]


def attacks() -> list[Attack]:
    return list(ATTACKS.values())


def protocols() -> list[Protocol]:
    """The newest version of each."""
    return list(LATEST.values())
