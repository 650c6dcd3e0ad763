"""The plug-in of the documentation: installed, it is a method like any other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_core.data import load

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages that holds the plug-in as an installer would leave it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(SOURCE / "rome_averages", folder / "rome_averages")
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    info = folder / f"rome_averages-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def python(site: Path, *arguments: str) -> str:
    environ = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    ended = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environ, cwd=site
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_it_appears_in_the_catalogue_with_its_schema_and_without_torch(site: Path) -> None:
    told = python(
        site,
        "-c",
        "import json, sys\n"
        "from rome_core.recipes import catalogue, specs\n"
        "assert 'torch' not in sys.modules\n"
        "print(json.dumps([catalogue.method('averages').as_dict(), specs.schema('distill')]))",
    )
    described, schema = json.loads(told)
    assert described["hyperparameters"]["properties"]["group"]["maximum"] == 1000
    assert "averages" in schema["properties"]["method"]["enum"]


def distil(site: Path, out: Path, *more: str) -> dict[str, Any]:
    command = ["distill", "--method", "averages", "--dataset", "digits", "--ipc", "2"]
    python(site, "-m", "rome_core", *command, "--seed", "3", *more, "--out", str(out))
    content: dict[str, Any] = torch.load(out, weights_only=True)
    return content


def test_it_runs_from_the_command_line(site: Path, tmp_path: Path) -> None:
    content = distil(site, tmp_path / "averages.pt", "--set", "group=140")
    images, labels = content["data"][0]
    assert labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert content["method"] == "averages"
    # The smallest class has 140 training images: their averages are the class's mean.
    digits = load("digits", tmp_path)
    eight = digits.normalise(digits.train_images[digits.train_labels == 8]).mean(dim=0)
    torch.testing.assert_close(images[16], eight)


def test_a_wrong_setting_is_told_like_any_other(site: Path, tmp_path: Path) -> None:
    command = ["distill", "--method", "averages", "--dataset", "digits", "--ipc", "1"]
    environ = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "rome_core", *command),
            *("--set", "group=0", "--out", str(tmp_path / "x.pt")),
        ],
        capture_output=True,
        text=True,
        env=environ,
        cwd=site,
    )
    assert ended.returncode == 2
    assert "hyperparameters.group" in ended.stderr
