"""The wheel, installed where nothing else is: everything it needs is in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"api", "launcher", "migrations", "rome_client", "rome_core", "service", "worker"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # From a copy: a build leaves its folders beside the source, and takes what an earlier one left.
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    folder = tmp_path_factory.mktemp("dist")
    command = ["build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.long
def test_the_wheel_holds_the_packages_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == PACKAGES
    assert any(name.startswith("migrations/versions/") for name in names)
    assert "migrations/script.py.mako" in names


@pytest.mark.long
def test_the_api_installs_and_starts_without_torch(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "venv"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run([python, *install], check=True, cwd="/")
    environ = {"ROME_STATE_DIR": str(tmp_path / "state"), "PATH": str(place / "bin")}

    def run(*command: str | Path) -> str:
        ended = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environ)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert run(python, "-c", "import importlib.util as u; print(u.find_spec('torch'))") == "None\n"
    assert "empty -> " in run(place / "bin" / "rome", "db", "upgrade")
    answered = run(
        python,
        "-c",
        "from starlette.testclient import TestClient\n"
        "from api.application import create_app\n"
        "with TestClient(create_app(), base_url='http://127.0.0.1') as client:\n"
        "    print(client.get('/health/ready').json()['status'])\n",
    )
    assert answered == "ok\n"
