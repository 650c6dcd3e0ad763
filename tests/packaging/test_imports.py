"""What may be imported without torch must be, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "torchvision",
    "numpy",
    "sklearn",
    "safetensors",
    "scipy",
    "PIL",
    "pyarrow",
    "matplotlib",
)


@pytest.mark.parametrize(
    "module",
    [
        "api.application",
        "rome_client.cli",
        "launcher.commands",
        "launcher.serve",
        "launcher.doctor",
        "launcher.demo",
        "launcher.supervisor",
        "worker.embedded",
        "service.database",
        "rome_core.recipes",
        "rome_core.recipes.report",
        "rome_core.metrics",
        "rome_core.findings",
        "rome_core.costs",
        "rome_core.beard_log",
    ],
)
def test_no_torch_is_loaded(module: str) -> None:
    code = f"import sys, {module}\nprint([name for name in {HEAVY!r} if name in sys.modules])\n"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "[]"


def test_the_client_imports_nothing_of_the_service() -> None:
    code = (
        "import sys, rome_client, rome_client.cli\n"
        "print([n for n in ('api', 'service', 'worker', 'launcher', 'rome_core')"
        " if n in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.strip() == "[]", ended.stderr
