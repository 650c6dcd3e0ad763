"""Where a result comes from: spec, code, data, machine.

Owns `provenance.json`, the only result that may hold what differs between equal runs, and the
circumstances a checkpoint is written under: what may change a result's last digits, and no more.
"""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rome_core.data import Dataset
from rome_core.recipes import spec_hash

PACKAGES = ("torch", "torchvision", "numpy", "safetensors", "pillow", "scikit-learn")


def provenance(
    spec: Mapping[str, Any],
    dataset: Dataset,
    *,
    device: str,
    plan: Mapping[str, Any],
    parents: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """All that must be known to repeat a run. `parents` maps input artifacts to their SHA-256."""
    return {
        "format": "rome-provenance",
        "format_version": 1,
        "spec": dict(spec),
        "spec_hash": spec_hash(spec),
        "seed": spec["seed"],
        "code": {"rome-service": _version("rome-service"), "source_sha256": source_digest()},
        "dataset": {
            "name": dataset.name,
            "files": dict(dataset.digests),
            "split": dataset.split,
            "train_images": len(dataset.train_images),
            "test_images": len(dataset.test_images),
            "mean": [round(value, 8) for value in dataset.mean.tolist()],
            "std": [round(value, 8) for value in dataset.std.tolist()],
            "space": dataset.space.name,
        },
        "parents": dict(parents or {}),
        "plan": dict(plan),
        "hardware": hardware(device),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "notes": list(notes),
    }


def circumstances(**more: Any) -> dict[str, Any]:
    """What the last digits of a run depend on besides its spec and data, and `more` of the kind."""
    return {
        "torch": torch.__version__,
        "code": _version("rome-service"),
        "threads": torch.get_num_threads(),
        "tf32": _tf32(),
        **more,
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What a checkpoint was written under and this process is not, as notes for the provenance."""
    return [
        f"{name} was {before.get(name)} before and is {value} now: the result may differ in "
        "its last digits from an undisturbed run's"
        for name, value in now.items()
        if before.get(name) != value
    ]


def source_digest() -> str:
    """SHA-256 over the source of this package, path by path: which code ran, released or not."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hardware(device: str) -> dict[str, Any]:
    """The machine a run is on, as far as it can change numbers or times."""
    described: dict[str, Any] = {
        "device": device,
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "tf32": _tf32(),
    }
    if device.startswith("cuda"):
        described["gpu"] = torch.cuda.get_device_name(torch.device(device))
    return described


def _tf32() -> bool:
    """Whether float32 work may be rounded to ten bits of mantissa on the way."""
    return torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
