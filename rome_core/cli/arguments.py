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

from rome_core.recipes.datasets import DATASETS, OWN_FORMS

DATA_ROOT = "ROME_DATA_ROOT"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments; exits with 2 and a usage line where they make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m rome_core",
        description="Distil and evaluate robust datasets on this machine, without the service.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _distill(commands.add_parser("distill", help="make a synthetic set"))
    _estimate(commands.add_parser("estimate", help="say what a distillation would cost"))
    _experts(commands.add_parser("experts", help="train the networks that some methods need"))
    _evaluate(commands.add_parser("evaluate", help="train students on a set and attack them"))
    fetch = commands.add_parser("fetch", help="download a dataset, and pack TinyImageNet")
    fetch.add_argument("dataset", choices=[n for n, facts in DATASETS.items() if facts.train_files])
    _data_root(fetch)
    methods = commands.add_parser("methods", help="list the methods")
    methods.add_argument("--json", action="store_true", help="one JSON line on stdout")
    presets = commands.add_parser("presets", help="list the presets")
    presets.add_argument("--json", action="store_true", help="one JSON line on stdout")
    _transfer(commands.add_parser("transfer", help="attack models with each other's images"))
    _compare(commands.add_parser("compare", help="test whether two evaluations differ"))
    protocols = commands.add_parser("protocols", help="list the protocols and their attacks")
    protocols.add_argument("--json", action="store_true", help="one JSON line on stdout")
    _metrics(commands.add_parser("metrics", help="RR, I-RR, AE and CREI of an evaluation log"))
    return parser.parse_args(argv)


def _estimate(parser: argparse.ArgumentParser) -> None:
    _what(parser)
    _data_root(parser)
    parser.add_argument("--json", action="store_true", help="one JSON line on stdout")


def _what(parser: argparse.ArgumentParser) -> None:
    """What is to be distilled."""
    parser.add_argument("--preset", help="a name from `presets`; flags beside it override it")
    parser.add_argument("--method", help="such as rome, dm or mtt; `methods` lists them")
    parser.add_argument("--dataset", help=", ".join((*DATASETS, *OWN_FORMS)))
    parser.add_argument("--ipc", type=int, help="images per class")
    _set(parser, "a hyperparameter of the method, such as iterations=500")


def _distill(parser: argparse.ArgumentParser) -> None:
    _what(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the .pt to write; .safetensors, .png, .card.md and .provenance.json go beside it",
    )
    parser.add_argument(
        "--experts",
        type=Path,
        help="trained networks for methods that need some (default: they are trained first)",
    )
    _cache(parser)
    _run(parser)


def _experts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help=", ".join((*DATASETS, *OWN_FORMS)))
    _set(parser, "how they are trained, such as count=10, epochs=20 or adversarial.steps=7")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the .safetensors to write; .provenance.json goes beside it",
    )
    _cache(parser)
    _run(parser)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--set-file", type=Path, help="a synthetic set to train students on")
    whom.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        dest="checkpoints",
        help="weights of a trained network (.pth, .pt, .safetensors); may be repeated",
    )
    parser.add_argument("--dataset", help="of checkpoints, or of a bare reference file")
    parser.add_argument("--factor", type=int, help="of a bare reference file: 2 if packed")
    parser.add_argument("--students", type=int, help="how many to train (default 5)")
    parser.add_argument("--epochs", type=int, help="of each student (default 1000)")
    parser.add_argument(
        "--network", help="of the students (default: the set's own), or of checkpoints"
    )
    parser.add_argument(
        "--protocol",
        help="comma-separated: rome-2025 (published), pixel (default), quick (CPU-sized)",
    )
    _attacks(parser)
    parser.add_argument(
        "--out",
        type=Path,
        help="the .json to write, its companions beside it (default: print and keep nothing)",
    )
    _run(parser)


def _transfer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        dest="checkpoints",
        required=True,
        help="weights of a model that crafts; may be repeated",
    )
    parser.add_argument(
        "--target",
        type=Path,
        action="append",
        dest="targets",
        help="weights of a model that is attacked; may be repeated (default: those that craft)",
    )
    parser.add_argument("--dataset", required=True, help="whose test images are attacked")
    parser.add_argument("--network", help="of the checkpoints (default: read off their weights)")
    parser.add_argument("--protocol", help="rome-2025, pixel (default) or quick")
    _attacks(parser)
    _cache(parser)
    parser.add_argument("--out", type=Path, help="the .json to write, its companions beside it")
    _run(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, help="an evaluation.json, its outcomes.parquet beside")
    parser.add_argument("second", type=Path, help="another, of the same protocol and images")
    parser.add_argument("--json", action="store_true", help="one JSON line on stdout")


def _attacks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--attacks", help="comma-separated, of the protocol (default: its own)")
    parser.add_argument("--modes", help="comma-separated: targeted,untargeted (default both)")
    parser.add_argument("--limit", type=int, help="test images to use (default: the protocol's)")
    _set(parser, "any other field, such as overrides.pgd.steps=20")


def _metrics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="a BEARD-format log, or JSON: an entry, or a list or object of entries",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.5,
        help="weight of robustness in CREI, 0 to 1 (default 0.5)",
    )
    parser.add_argument(
        "--degenerate",
        choices=["published", "sound"],
        default="published",
        help="what to say where nothing was lost: 0 as published, or 100 and null (sound)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON line on stdout")


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


def _cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder that keeps what other runs need again: experts, whitenings, crafted images",
    )


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
