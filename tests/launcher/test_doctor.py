"""`rome doctor` looks for a dataset's files in every form that the readers take."""

from pathlib import Path

from launcher.doctor import examine
from rome_core.recipes.datasets import DATASETS
from service.settings import Settings


def found(root: Path) -> dict[str, bool | None]:
    """What it says of the datasets."""
    findings = examine(Settings(state_dir=root, data_root=root))
    words = {finding.what.split(":")[0]: finding.ok for finding in findings}
    return {name: words[f"dataset {name}"] for name in DATASETS}


def test_datasets_are_found_in_any_form(tmp_path: Path) -> None:
    assert found(tmp_path) == {name: True if name == "digits" else None for name in DATASETS}
    for name in (
        "MNIST/raw/train-images-idx3-ubyte.gz",
        "MNIST/raw/train-labels-idx1-ubyte",
        "train_32x32.mat",
        "tinyimagenet.pt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    there = {name for name, ok in found(tmp_path).items() if ok}
    assert there == {"digits", "mnist", "svhn", "tinyimagenet"}
