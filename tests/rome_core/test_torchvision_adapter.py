"""The door to torchvision opens beside a CPU torch, and nothing else opens it."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rome_core.data.tinyimagenet import read_tinyimagenet
from rome_core.errors import CoreError
from rome_core.recipes.datasets import DATASETS, DatasetFacts
from rome_core.torchvision_adapter import fetch, torchvision_datasets
from tests.rome_core.data.test_tinyimagenet import archived, official, unpacked


def test_the_datasets_can_be_had() -> None:
    assert hasattr(torchvision_datasets(), "CIFAR10")
    assert torchvision_datasets() is torchvision_datasets()


def test_running_specs_never_imports_torchvision() -> None:
    code = (
        "import sys, rome_core.runner, rome_core.distillation.rome, rome_core.cli.commands; "
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_digits_are_not_downloadable(tmp_path: Path) -> None:
    with pytest.raises(CoreError) as caught:
        fetch("digits", tmp_path)
    assert caught.value.code == "dataset_not_downloadable"
    for name, facts in DATASETS.items():
        assert (name in caught.value.remedy) == bool(facts.train_files)


@pytest.mark.parametrize(
    ("name", "kind", "asked", "folder"),
    [
        ("mnist", "MNIST", [(".", {})], "MNIST/raw"),
        ("fashionmnist", "FashionMNIST", [(".", {})], "FashionMNIST/raw"),
        ("cifar10", "CIFAR10", [(".", {})], "cifar-10-batches-py"),
        ("cifar100", "CIFAR100", [(".", {})], "cifar-100-python"),
        ("svhn", "SVHN", [("SVHN", {"split": "train"}), ("SVHN", {"split": "test"})], "SVHN"),
    ],
)
def test_files_are_put_where_the_reader_looks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    asked: list[tuple[str, dict[str, str]]],
    folder: str,
) -> None:
    calls: list[tuple[Path, dict[str, Any]]] = []

    def download(root: Path, **options: Any) -> None:
        calls.append((root, options))

    monkeypatch.setattr(torchvision_datasets(), kind, download)
    assert fetch(name, tmp_path) == tmp_path / folder
    expected = [(tmp_path / place, {**options, "download": True}) for place, options in asked]
    assert calls == expected


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetFacts:
    """A small TinyImageNet in the catalogue, its archive elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    facts = archived(tmp_path / "elsewhere", official())
    monkeypatch.setitem(DATASETS, "tinyimagenet", facts)
    return facts


def test_tinyimagenet_is_downloaded_and_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: DatasetFacts
) -> None:
    (archive,) = tiny.packed_from
    root = tmp_path / "root"

    def download_url(url: str, root: Path, filename: str, md5: str) -> None:
        assert (filename, md5) == ("tiny-imagenet-200.zip", archive.md5)
        assert url.startswith("http")
        root.mkdir()
        shutil.copy(tmp_path / "elsewhere" / filename, root / filename)

    monkeypatch.setattr(torchvision_datasets().utils, "download_url", download_url)
    assert fetch("tinyimagenet", root) == root
    assert read_tinyimagenet(tiny, root).classes == 3


@pytest.mark.parametrize("there", ["archive", "folder", "packed", "published"])
def test_what_lies_there_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: DatasetFacts, there: str
) -> None:
    def no_network(*arguments: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision_datasets().utils, "download_url", no_network)
    with pytest.raises(CoreError) as caught:
        fetch("tinyimagenet", tmp_path)
    assert caught.value.code == "download_failed"
    match there:
        case "archive":
            shutil.copy(tmp_path / "elsewhere/tiny-imagenet-200.zip", tmp_path)
        case "folder":
            unpacked(tmp_path, official())
        case "packed":
            (tmp_path / "tinyimagenet.npz").touch()
        case "published":
            (tmp_path / "tinyimagenet.pt").touch()
    fetch("tinyimagenet", tmp_path)
    assert (tmp_path / "tinyimagenet.npz").exists() == (there != "published")
