"""What can be asked for: methods, datasets, networks, presets, attacks and protocols, as data.

Owns the registry of recipes, built-in and plugged in. A plug-in registers the entry point
`rome.recipes` (a `MethodRecipe`, torch-free) and, under the same name, `rome.methods` (its
implementation, which only the runner loads). Must not load an implementation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from rome_core.recipes import networks as network_recipes
from rome_core.recipes.attack_catalogue import ATTACKS, Attack
from rome_core.recipes.built_in import BUILT_IN
from rome_core.recipes.datasets import DATASETS, DatasetFacts
from rome_core.recipes.method import MethodRecipe
from rome_core.recipes.networks import NetworkSpec
from rome_core.recipes.presets import Preset
from rome_core.recipes.protocols import LATEST, Protocol


@dataclass(frozen=True)
class Network:
    """One network; a family's parts combine, so `convnet-d4-w64` is a network as well."""

    name: str
    summary: str
    spec: NetworkSpec

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "summary": self.summary,
            **asdict(self.spec),
            "couples_images": self.spec.couples_images,
        }


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
    """Each family's standard network, and every published one some parts away from it."""
    listed = []
    for family, about in network_recipes.FAMILIES.items():
        listed.append(Network(family, about.summary, network_recipes.parse(family)))
        for part in network_recipes.catalogue(family):
            if not part.default:
                spec = network_recipes.parse(f"{family}-{part.name}")
                listed.append(Network(spec.name, f"{family} with {part.description}", spec))
    both = network_recipes.parse("resnet18-batch-ap")
    return [*listed, Network(both.name, "resnet18 with batch and with ap", both)]


def presets() -> list[Preset]:
    return [entry for recipe in methods() for entry in recipe.presets.values()]


def attacks() -> list[Attack]:
    return list(ATTACKS.values())


def protocols() -> list[Protocol]:
    """The newest version of each."""
    return list(LATEST.values())
