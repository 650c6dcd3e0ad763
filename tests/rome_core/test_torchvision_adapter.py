"""The door to torchvision opens beside a CPU torch, and nothing else opens it."""

import subprocess
import sys
from pathlib import Path

import pytest

from rome_core.errors import CoreError
from rome_core.torchvision_adapter import fetch, torchvision_datasets


def test_the_datasets_can_be_had() -> None:
    assert hasattr(torchvision_datasets(), "CIFAR10")
    assert torchvision_datasets() is torchvision_datasets()


def test_running_specs_never_imports_torchvision() -> None:
    code = (
        "import sys, rome_core.runner, rome_core.distillation.rome, rome_core.cli.commands; "
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_cifar_is_downloadable(tmp_path: Path) -> None:
    with pytest.raises(CoreError) as caught:
        fetch("digits", tmp_path)
    assert caught.value.code == "dataset_not_downloadable"
