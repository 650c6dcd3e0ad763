"""`rome doctor`: is this machine fit to run the service?

Owns the checks. It changes nothing, and asks for the versions of packages without importing them.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.markup import escape

from launcher import serve
from rome_core.recipes.datasets import DATASETS
from service import settings
from service.errors import PortInUse, SettingsInvalid
from service.settings import Settings

LOW_DISK_BYTES = 2 << 30  # a pool's checkpoints take up to 0.8 GB, two of them are kept


@dataclass(frozen=True)
class Finding:
    ok: bool | None  # None: worth knowing, not wrong
    what: str
    remedy: str = ""


def run() -> bool:
    """Print every finding; whether nothing is wrong."""
    console = Console(highlight=False)
    findings = list(examine(settings.load()))
    marks = {True: "[green]ok[/]  ", None: "[yellow]note[/]", False: "[red]bad[/] "}
    for finding in findings:
        console.print(f"{marks[finding.ok]} {escape(finding.what)}", soft_wrap=True)
        if finding.remedy and not finding.ok:
            console.print(f"     [dim]→[/] {escape(finding.remedy)}", soft_wrap=True)
    return all(finding.ok is not False for finding in findings)


def examine(chosen: Settings) -> Iterator[Finding]:
    yield Finding(
        True,
        f"Python {platform.python_version()}, rome-service {version('rome-service')}, "
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
    )
    for package in ("torch", "numpy", "safetensors", "scikit-learn"):
        try:
            yield Finding(True, f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Finding(
                False,
                f"{package} is not installed: jobs cannot run",
                "pip install 'rome-service[worker]'",
            )
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    yield Finding(
        True if compiler else None,
        f"C++ compiler {compiler}" if compiler else "no C++ compiler: jobs run eager, slower",
        "install g++",
    )
    for name, facts in DATASETS.items():
        missing = [
            file.path
            for file in facts.train_files
            if not any((chosen.data_root / form.path).is_file() for form in file.forms)
        ]
        yield Finding(
            None if missing else True,
            f"dataset {name}: {missing[0]} is not under {chosen.data_root}"
            if missing
            else f"dataset {name}",
            facts.obtain,
        )
    folder = next(p for p in (chosen.state_dir, *chosen.state_dir.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    yield Finding(
        free >= LOW_DISK_BYTES,
        f"{free / 1e9:.1f} GB free at {folder}",
        "free some space, or set ROME_STATE_DIR to another disk",
    )
    yield Finding(
        os.access(folder, os.W_OK), f"{folder} is writable", "set ROME_STATE_DIR elsewhere"
    )
    try:
        serve.bind(chosen).close()
        yield Finding(True, f"port {chosen.port} is free")
    except PortInUse as error:
        yield Finding(None, str(error), "a running service, perhaps; else give --port another")
    except SettingsInvalid as error:
        yield Finding(False, str(error), error.remedy)
