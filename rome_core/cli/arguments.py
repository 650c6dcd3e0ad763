"""What can be typed after `python -m rome_core`.

Owns flags and their help. Flags that are not given stay None, so that presets and defaults keep
their say.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DATA_ROOT = "ROME_DATA_ROOT"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments; exits with 2 and a usage line where they make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m rome_core",
        description="Distil and evaluate robust datasets on this machine, without the service.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _distill(commands.add_parser("distill", help="make a synthetic set"))
    _evaluate(commands.add_parser("evaluate", help="train students on a set and attack them"))
    fetch = commands.add_parser("fetch", help="download CIFAR-10 or CIFAR-100")
    fetch.add_argument("dataset", choices=["cifar10", "cifar100"])
    _data_root(fetch)
    presets = commands.add_parser("presets", help="list the presets")
    presets.add_argument("--json", action="store_true", help="one JSON line on stdout")
    return parser.parse_args(argv)


def _distill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", help="a name from `presets`; flags beside it override it")
    parser.add_argument("--method", help="rome or random")
    parser.add_argument("--dataset", help="digits, cifar10, cifar100 or npz:NAME")
    parser.add_argument("--ipc", type=int, help="images per class")
    _set(parser, "a hyperparameter of the method, such as iterations=500")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the .pt to write; .safetensors, .png, .card.md and .provenance.json go beside it",
    )
    _run(parser)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set-file", type=Path, required=True, help="the synthetic set")
    parser.add_argument("--dataset", help="of a bare reference file, which does not say")
    parser.add_argument("--factor", type=int, help="of a bare reference file: 2 if packed")
    parser.add_argument("--students", type=int, help="how many to train (default 5)")
    parser.add_argument("--epochs", type=int, help="of each student (default 1000)")
    parser.add_argument("--network", help="of the students (default convnet)")
    parser.add_argument("--attacks", help="comma-separated: clean,clamp,fgsm,pgd")
    parser.add_argument("--domains", help="comma-separated: reference,pixel")
    parser.add_argument("--limit", type=int, help="test images to use (default all)")
    _set(parser, "any other field, such as budgets.pixel.steps=20")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the .json to write; .provenance.json and the students go beside it",
    )
    _run(parser)


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, help="drawn and recorded when absent")
    _data_root(parser)
    parser.add_argument(
        "--workdir", type=Path, help="checkpoints of an unfinished run (default OUT.work)"
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        help="CPU threads (default: PyTorch's choice, 1 for tiny images)",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--json", action="store_true", help="one JSON line on stdout")


def _data_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path(os.environ.get(DATA_ROOT, "data")),
        help=f"folder of the datasets (default ${DATA_ROOT}, else ./data)",
    )


def _set(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        type=_setting,
        action="append",
        default=[],
        help=f"{what}; may be repeated",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _setting(text: str) -> tuple[str, Any]:
    """`key=value`; the value is JSON where it is some, else text, so 8/255 needs no quotes."""
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
