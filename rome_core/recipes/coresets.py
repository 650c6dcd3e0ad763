"""The coresets: real images chosen by what a network makes of them, and what each can be told.

Free of torch; the choices are made in `rome_core.distillation.coresets`. All four are methods of
their own: `herding`, `k_center`, `k_means` and `forgetting`.

Sources: Zhao et al., "Dataset Condensation with Gradient Matching", ICLR 2021 (the field's table of
herding, k-center and forgetting), Cui et al., "DC-BENCH", NeurIPS 2022 (k-means), and the papers of
the rules themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, Field

from rome_core.recipes import cost
from rome_core.recipes.augmentation import OBJECTS, SIGNS
from rome_core.recipes.cost import Cost, Problem
from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.experts import ExpertTraining
from rome_core.recipes.hyperparameters import Compiling, Strategy, UncoupledNetworkName
from rome_core.recipes.presets import Preset, per_class, reference_network
from rome_core.recipes.subsets import (
    BENCHMARKS,
    UNAUGMENTED,
    SubsetHyperparameters,
    images_per_class,
)

__all__ = [
    "PRESETS",
    "CoresetHyperparameters",
    "ForgettingHyperparameters",
    "HerdingHyperparameters",
    "KCenterHyperparameters",
    "KMeansHyperparameters",
    "TrainedHyperparameters",
    "experts",
    "images_per_class",
    "network",
    "predict_cost",
]


class TrainedHyperparameters(SubsetHyperparameters, Compiling):
    """Of choices by networks that were trained on the whole training set first."""

    network: UncoupledNetworkName = Field(
        "convnet", description="Name of the network that judges, without batch normalisation."
    )
    net_epochs: int = Field(
        50, ge=1, le=10_000, description="Epochs of its training on the whole training set."
    )
    lr_net: float = Field(
        0.01,
        gt=0,
        le=100,
        description="Its learning rate, a tenth from the middle of the epochs on; SGD with "
        "momentum 0.9, weight decay 5e-4 and batches of 256.",
    )
    net_augmentation: Strategy | None = Field(
        None,
        description="DSA strategy of its training; null takes the dataset's own, which mirrors no "
        "digits.",
    )


class CoresetHyperparameters(TrainedHyperparameters):
    """Of choices by where images lie among those of their class."""

    features: Literal["trained", "random", "pixels"] = Field(
        "trained",
        description="Where images lie: in the embedding of a network that was trained on the whole "
        "training set, in that of one that learned nothing, or as networks take them, which needs "
        "no network.",
    )


class HerdingHyperparameters(CoresetHyperparameters):
    """Herding: the images whose running mean stays nearest to the mean of the class."""


class KCenterHyperparameters(CoresetHyperparameters):
    """Greedy k-center: each image the farthest from those chosen before it."""

    start: Literal["nearest_mean", "random"] = Field(
        "nearest_mean",
        description="The first image: the nearest to the mean of its class, or a random one.",
    )


class KMeansHyperparameters(CoresetHyperparameters):
    """k-means: the images nearest to the means of as many clusters as images are asked for."""

    restarts: int = Field(
        3,
        ge=1,
        le=1_000,
        description="Clusterings from different starts (k-means++); the tightest is taken.",
    )
    limit: int = Field(100, ge=1, le=100_000, description="Most rounds of one clustering.")


class ForgettingHyperparameters(TrainedHyperparameters):
    """Forgetting: the images that a network unlearned most often while it was trained."""

    net_count: int = Field(
        1, ge=1, le=1_000, description="Networks trained, whose counts are added up."
    )


def network(hyperparameters: BaseModel) -> str | None:
    """The network that images are chosen by; none where they are compared as they are."""
    hp = hyperparameters
    assert isinstance(hp, TrainedHyperparameters)
    pixels = isinstance(hp, CoresetHyperparameters) and hp.features == "pixels"
    return None if pixels else hp.network


def experts(hyperparameters: BaseModel) -> ExpertTraining | None:
    """The networks that must be trained first; none where features need no training."""
    hp = hyperparameters
    assert isinstance(hp, TrainedHyperparameters)
    if isinstance(hp, CoresetHyperparameters) and hp.features != "trained":
        return None
    return ExpertTraining(
        network=hp.network,
        count=hp.net_count if isinstance(hp, ForgettingHyperparameters) else 1,
        epochs=hp.net_epochs,
        keep="last",
        learning_rate=hp.lr_net,
        schedule="step",
        momentum=0.9,
        weight_decay=5e-4,
        augmentation=hp.net_augmentation,
    )


def predict_cost(hyperparameters: BaseModel, problem: Problem) -> Cost:
    """What a choice will cost: the training of its networks, mostly. An iteration is a class."""
    hp = hyperparameters
    assert isinstance(hp, TrainedHyperparameters)
    needed = experts(hp)
    embeds = isinstance(hp, CoresetHyperparameters) and hp.features != "pixels"
    return Cost(
        network=hp.network,
        iterations=problem.classes,
        iteration=problem.images / problem.classes * cost.FORWARD if embeds else 0.0,
        preparation=cost.expert_training(problem, needed) if needed else 0.0,
        peak_bytes=cost.dataset_bytes(problem)
        + (cost.graph_bytes(hp.network, problem.shape[1], 256) if needed else 0),
    )


_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "herding": "Herding",
        "k_center": "k-center",
        "k_means": "k-means",
        "forgetting": "Forgetting",
    }
)
_TABLE = "Zhao et al., Dataset Condensation with Gradient Matching, ICLR 2021, table 1"
_BENCH = "Cui et al., DC-BENCH, NeurIPS 2022, leaderboard"
_HOW = (
    "How the published network was trained is not known: ours is trained for 50 epochs with "
    "momentum and DSA."
)
_REMARKS: Mapping[str, str] = MappingProxyType(
    {
        "herding": "An image is never taken twice.",
        "k_center": "That it starts from the image nearest to the mean is from memory of the "
        "paper. It takes outliers, and does worse than a random subset at IPC 10 and 50.",
        "k_means": "DC-BENCH calls this k-center; it is k-means. Its numbers are the best over "
        "several augmentations of students; these students take DSA.",
        "forgetting": "An image that was never learned counts as forgotten most.",
    }
)


def _published() -> Iterator[tuple[str, str, str, str, tuple[int, ...]]]:
    """Method, year, source, dataset and images per class of every number in the tables."""
    for dataset in BENCHMARKS:
        yield "herding", "2021", _TABLE, dataset, (1, 10, 50)
        few = dataset == "tinyimagenet"
        yield "k_center", "2021", _TABLE, dataset, (1, 10) if few else (1, 10, 50)
    for dataset in ("cifar10", "cifar100", "tinyimagenet"):
        yield "forgetting", "2021", _TABLE, dataset, (1, 10, 50)
    for dataset in ("cifar10", "cifar100"):
        yield "k_means", "2022", _BENCH, dataset, (1, 10, 50)


def _settings(dataset: str) -> dict[str, Any]:
    facts = DATASETS[dataset]
    return {"network": reference_network(facts), "net_augmentation": facts.augmentation}


def _preset(method: str, kind: str, dataset: str, ipc: int, **given: Any) -> Preset:
    settings, source, notes = given["settings"], given["source"], given["notes"]
    return Preset(
        name=f"{method.replace('_', '-')}-{kind}-{dataset}-ipc{ipc}",
        title=f"{_NAMES[method]} {given['words']}, {DATASETS[dataset].title}, {per_class(ipc)}",
        method=method,
        dataset=dataset,
        ipc=ipc,
        hyperparameters=MappingProxyType(settings),
        source=source,
        notes=notes,
    )


def _presets() -> Iterator[Preset]:
    for method, year, source, dataset, sizes in _published():
        plain = {"augmentation": "none"} if year == "2021" else {}
        said = f"{UNAUGMENTED} {_HOW}" if plain else _HOW
        for ipc in sizes:
            yield _preset(
                method,
                year,
                dataset,
                ipc,
                words="as published",
                settings={**_settings(dataset), **plain},
                source=source,
                notes=f"{_REMARKS[method]} {said}",
            )
    for method in _NAMES:
        for dataset in ("cifar10", "cifar100", "tinyimagenet"):
            for ipc in (1, 10, 50):
                yield _preset(
                    method,
                    "modern",
                    dataset,
                    ipc,
                    words="for augmented students",
                    settings=_settings(dataset),
                    source="this project",
                    notes="Students take DSA, as those of distilled sets do: hold the two against "
                    "each other.",
                )
        yield _preset(
            method,
            "quick",
            "cifar10",
            10,
            words="for a CPU",
            settings={
                "network": "convnet-w32",
                "net_epochs": 4,
                "lr_net": 0.05,
                "net_augmentation": OBJECTS,
            },
            source="this project, sized for one CPU core",
            notes="A narrow network that is trained for four epochs: a trial, not a result.",
        )
        yield _preset(
            method,
            "quick",
            "digits",
            10,
            words="for half a minute of CPU",
            settings={
                "network": "convnet-d2-w32",
                "net_epochs": 20,
                "lr_net": 0.05,
                "net_augmentation": SIGNS,
            },
            source="this project, sized for one CPU core",
            notes="A trial, not a result.",
        )


PRESETS: Mapping[str, Mapping[str, Preset]] = MappingProxyType(
    {
        method: MappingProxyType({one.name: one for one in _presets() if one.method == method})
        for method in _NAMES
    }
)
"""Of each method, by their names."""
