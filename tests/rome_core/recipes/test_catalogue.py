"""The catalogue: complete, JSON, and free of torch."""

import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from pydantic import BaseModel

from rome_core import recipes
from rome_core.recipes import catalogue
from rome_core.recipes.attack_catalogue import ATTACKS
from rome_core.recipes.attacks import SETTINGS
from rome_core.recipes.augmentation import parse_strategy
from rome_core.recipes.catalogue import MethodRecipe
from rome_core.recipes.datasets import DATASETS, folder, npz_stem
from rome_core.recipes.networks import parse
from rome_core.recipes.protocols import PROTOCOLS
from rome_core.torchvision_adapter import torchvision_datasets


@pytest.mark.parametrize(
    "kind", ["methods", "datasets", "networks", "presets", "attacks", "protocols"]
)
def test_entries_have_their_own_names_and_are_json(kind: str) -> None:
    entries = getattr(catalogue, kind)()
    names = [entry.name for entry in entries]
    assert names
    assert len(set(names)) == len(names)
    for entry in entries:
        described = json.loads(json.dumps(entry.as_dict(), allow_nan=False))
        assert described["name"] == entry.name


def test_every_published_setting_has_a_preset() -> None:
    names = {preset.name for preset in catalogue.presets()}
    for dataset in ("cifar10", "cifar100"):
        for ipc in (1, 10, 50):
            assert f"rome-2025-{dataset}-ipc{ipc}" in names
            assert f"random-{dataset}-ipc{ipc}" in names


def test_networks_parse_under_their_own_name() -> None:
    for network in catalogue.networks():
        assert parse(network.name) == network.spec


def test_every_attack_is_described_with_its_settings_and_protocols() -> None:
    assert list(ATTACKS) == list(SETTINGS)
    for attack in catalogue.attacks():
        described = attack.as_dict()
        assert described["settings_schema"]["properties"]["attack"]["default"] == attack.name
        assert "targeted" in described["modes"] or not attack.aimed
        assert described["protocols"]
        for id_, names in described["protocols"].items():
            for entry in (PROTOCOLS[id_].entry(name) for name in names):
                assert entry.settings.attack == attack.name
                assert entry.access == attack.access
                assert set(entry.modes) <= set(described["modes"])


def test_the_newest_version_of_each_protocol_is_listed() -> None:
    names = [protocol.name for protocol in catalogue.protocols()]
    assert sorted(names) == ["pixel", "quick", "rome-2025"]


def test_dataset_facts_agree_with_themselves() -> None:
    for facts in DATASETS.values():
        assert len(facts.class_names) == facts.classes
        assert len(facts.train_per_class) == len(facts.test_per_class) == facts.classes
        assert len(facts.mean) == len(facts.std) == facts.shape[0]


def test_dataset_facts_are_the_published_ones() -> None:
    sums = {
        name: (sum(facts.train_per_class), sum(facts.test_per_class))
        for name, facts in DATASETS.items()
    }
    assert sums == {
        "digits": (1_442, 355),
        "mnist": (60_000, 10_000),
        "fashionmnist": (60_000, 10_000),
        "svhn": (73_257, 26_032),
        "cifar10": (50_000, 10_000),
        "cifar100": (50_000, 10_000),
        "tinyimagenet": (100_000, 10_000),
    }
    for facts in DATASETS.values():
        assert facts.licence
        assert facts.citation
        assert facts.homepage.startswith("http")
        assert facts.train_files or facts.name == "digits"
        assert len(set(facts.class_names)) == facts.classes
        mirrored = "flip" in parse_strategy(facts.augmentation)
        assert mirrored == (facts.name not in ("digits", "mnist", "svhn"))


def test_files_of_datasets_have_their_published_sums() -> None:
    """None but those of the one dataset that is packed here."""
    for facts in DATASETS.values():
        for file in (*facts.train_files, *facts.test_files, *facts.packed_from):
            for form in file.forms:
                assert not form.path.startswith("/")
                ours = form.path.startswith("tinyimagenet.") or form.path.endswith("/")
                assert form.md5 is None if ours else re.fullmatch("[0-9a-f]{32}", str(form.md5))
    described = DATASETS["mnist"].as_dict()["files"][0]
    assert described["path"] == "MNIST/raw/train-images-idx3-ubyte"
    assert described["instead"][0]["md5"] == "f68b3c2dcbeaaa9fbdd348bbdeb94873"


def test_torchvision_knows_the_same_sums() -> None:
    datasets = torchvision_datasets()
    for name, kind in (("mnist", "MNIST"), ("fashionmnist", "FashionMNIST")):
        facts = DATASETS[name]
        archives = [f.instead[0] for f in (*facts.train_files, *facts.test_files)]
        known = getattr(datasets, kind).resources
        assert [(a.path.rpartition("/")[2], a.md5) for a in archives] == known
    svhn = DATASETS["svhn"]
    known = datasets.SVHN.split_list
    assert svhn.train_files[0].md5 == known["train"][2]
    assert svhn.test_files[0].md5 == known["test"][2]


def test_folder_names() -> None:
    assert folder("folder:my.data-2") == ("my.data-2", None)
    assert folder("folder:a@32") == ("a", 32)
    assert folder("npz:a") is folder("digits") is folder("folder:a@4") is None


def test_npz_stem() -> None:
    assert npz_stem("npz:my.data-2") == "my.data-2"
    assert npz_stem("digits") is None


def test_the_recipes_import_nothing_heavy() -> None:
    code = (
        "import sys; import rome_core.recipes; "
        "sys.exit(bool({'torch', 'numpy', 'torchvision', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Nothing(BaseModel):
    """Hyperparameters of a method that has none."""


RECIPE = MethodRecipe("plugged", "Plugged in", "", Nothing, {}, "")


def plug_in(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    points = [EntryPoint(name, value, "rome.recipes")]
    monkeypatch.setattr(catalogue, "entry_points", lambda group: points)
    monkeypatch.setattr(catalogue, "_recipes", catalogue._recipes.__wrapped__)


def test_a_plug_in_is_a_method_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, "plugged", f"{__name__}:RECIPE")
    spec = recipes.canonical({"method": "plugged", "dataset": "digits", "ipc": 1}, seed=1)
    assert spec["method"] == "plugged"


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("other", f"{__name__}:RECIPE", ValueError), ("plugged", f"{__name__}:Nothing", TypeError)],
)
def test_a_bad_plug_in_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, error: type[Exception]
) -> None:
    plug_in(monkeypatch, name, value)
    with pytest.raises(error, match=f"rome.recipes:{name}"):
        catalogue.methods()


def test_the_digits_baseline_trains_like_the_rome_preset_it_is_for() -> None:
    """Students of both must see the same augmentation, or their accuracies compare nothing."""
    rome, random = (
        catalogue.preset("rome-quick-digits-ipc10"),
        catalogue.preset("random-digits-ipc10"),
    )
    assert rome is not None
    assert random is not None
    assert random.hyperparameters["augmentation"] == rome.hyperparameters["augmentation"]
    assert random.hyperparameters.get("factor", 1) == rome.hyperparameters["factor"]
