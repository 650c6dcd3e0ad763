"""Which strategy every method and preset comes down to, said here once more by hand."""

from __future__ import annotations

from typing import Any

import pytest

from rome_core import recipes
from rome_core.recipes import SpecError, catalogue
from rome_core.recipes.augmentation import spoils_whitened
from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.presets import Preset

DSA = "color_crop_cutout_flip_scale_rotate"
UNMIRRORED = "color_crop_cutout_scale_rotate"
SIGNS = {"digits", "mnist", "svhn"}  # a mirrored 2 is none, and a mirrored 3 may be an E
LEFT_OUT = ("rome", "idm", "bacon", "dm", "dsa", "mtt", "bptt", "robust_features")
CORESETS = ("herding", "k_center", "k_means", "forgetting")


def strategy(preset: Preset) -> str:
    """What is published of it, or else DSA, which mirrors no signs."""
    name, dataset = preset.name, preset.dataset
    if name.startswith(("idm-2023-", "bacon-2024-", "rome-2025-")):
        return DSA  # one command line for all datasets, signs among them
    if name.startswith("dc-2021-"):
        return "crop_scale_rotate" if dataset == "mnist" else "none"
    if preset.method in ("random", *CORESETS) and "-2021-" in name:
        return "none"
    if name.startswith("mtt-pixel-") and preset.hyperparameters.get("whitening") == "zca":
        return "crop_cutout_flip_scale_rotate"  # color would leave nothing to attack
    return UNMIRRORED if dataset in SIGNS else DSA


@pytest.mark.parametrize("preset", catalogue.presets(), ids=lambda preset: preset.name)
def test_every_preset_comes_down_to_its_strategy(preset: Preset) -> None:
    spec = recipes.canonical({"preset": preset.name}, seed=1)
    own = DATASETS[preset.dataset].augmentation
    given = spec["hyperparameters"]["augmentation"]
    assert (own if given is None else given) == strategy(preset)
    recipe = catalogue.method(preset.method)
    assert recipe is not None
    experts = recipe.experts(recipe.hyperparameters.model_validate(spec["hyperparameters"]))
    if preset.method in CORESETS:
        assert experts is not None
        mirrors = "flip" in (experts.settled(own).augmentation or "")
        assert mirrors == (preset.dataset not in SIGNS)
    if preset.method == "mtt":
        assert experts is not None
        assert experts.settled(own).augmentation == strategy(preset)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("method", LEFT_OUT)
def test_left_out_it_is_the_datasets_own(method: str, dataset: str) -> None:
    spec = recipes.canonical({"method": method, "dataset": dataset, "ipc": 1}, seed=1)
    assert spec["hyperparameters"]["augmentation"] is None
    assert recipes.canonical(spec, seed=2) == spec
    assert ("flip" in DATASETS[dataset].augmentation) == (dataset not in SIGNS)
    given: dict[str, Any] = {**spec, "hyperparameters": {"augmentation": "none"}}
    assert recipes.canonical(given, seed=1)["hyperparameters"]["augmentation"] == "none"


def test_dc_augments_nothing_unless_told() -> None:
    body: dict[str, Any] = {"method": "dc", "dataset": "digits", "ipc": 1}
    assert recipes.canonical(body, seed=1)["hyperparameters"]["augmentation"] == "none"
    body["hyperparameters"] = {"augmentation": None}
    assert recipes.canonical(body, seed=1)["hyperparameters"]["augmentation"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"method": "dm", "ipc": 1, "hyperparameters": {"whitening": "zca", "perturbed": "real"}},
        {
            "method": "mtt",
            "ipc": 1,
            "hyperparameters": {"whitening": "zca", "expert_training": "adversarial"},
        },
        {"kind": "experts", "whitening": "zca", "adversarial": {}},
    ],
)
@pytest.mark.parametrize("dataset", ["cifar10", "svhn"])
def test_the_datasets_own_has_color_and_whitened_images_are_not_attacked_after_it(
    body: dict[str, Any], dataset: str
) -> None:
    with pytest.raises(SpecError) as caught:
        recipes.canonical({**body, "dataset": dataset}, seed=1)
    (problem,) = caught.value.problems
    assert problem.message.endswith("take crop_cutout_scale_rotate")


def test_every_dataset_s_own_strategy_has_color() -> None:
    assert spoils_whitened(None) is not None
    for facts in DATASETS.values():
        assert spoils_whitened(facts.augmentation) is not None
