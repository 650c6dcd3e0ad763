"""The commands: from arguments to a spec, a run and files where the user asked for them.

Owns resuming: a work folder remembers its spec, so that the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from rome_core.cli.comparison import compare_files
from rome_core.cli.summary import (
    comparison,
    distilled,
    estimated,
    evaluated,
    methods_table,
    presets_table,
    protocols_table,
    trained,
    transferred,
)
from rome_core.cli.terminal import Terminal
from rome_core.errors import CoreError
from rome_core.files import write_json
from rome_core.provenance import file_digest
from rome_core.recipes import canonical, catalogue, is_exact, spec_hash
from rome_core.runner import Context, Outcome, run
from rome_core.runner.estimate import estimate as estimated_of


def distill(arguments: argparse.Namespace) -> None:
    """Distil and put the set and its companions at --out."""
    body = _asked(arguments)
    if arguments.seed is not None:
        body["seed"] = arguments.seed
    inputs: dict[str, Path] = {}
    if arguments.experts is not None:
        body["experts"] = _given(arguments.experts, "--experts", inputs)
    spec, outcome = _run(arguments, body, inputs, cache=arguments.cache)
    names = {
        "synthetic.pt": arguments.out,
        "synthetic.safetensors": arguments.out.with_suffix(".safetensors"),
        "preview.png": arguments.out.with_suffix(".png"),
        "card.md": arguments.out.with_suffix(".card.md"),
        "provenance.json": arguments.out.with_suffix(".provenance.json"),
        "synthetic-last.pt": arguments.out.with_suffix(".last.pt"),
        "experts.safetensors": arguments.out.with_suffix(".experts.safetensors"),
    }
    _deliver(arguments, spec, outcome, names, distilled)


def experts(arguments: argparse.Namespace) -> None:
    """Train networks and put their file at --out."""
    body: dict[str, Any] = {"kind": "experts", "dataset": arguments.dataset}
    if arguments.seed is not None:
        body["seed"] = arguments.seed
    for field, value in arguments.settings:
        _put(body, field, _as_exact(field, value))
    spec, outcome = _run(arguments, body, {}, cache=arguments.cache)
    names = {
        "experts.safetensors": arguments.out,
        "provenance.json": arguments.out.with_suffix(".provenance.json"),
    }
    _deliver(arguments, spec, outcome, names, trained)


def estimate(arguments: argparse.Namespace) -> None:
    """Say what a distillation would cost."""
    spec = canonical(_asked(arguments), seed=0)
    told = estimated_of(spec, arguments.data_root).as_dict()
    if arguments.json:
        print(json.dumps({"method": spec["method"], "dataset": spec["dataset"], **told}))
    else:
        print(estimated(spec, told))


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """The body of `kind: distill` that the flags describe, without its seed."""
    given = {name: _as_exact(f"hyperparameters.{name}", v) for name, v in arguments.settings}
    body: dict[str, Any] = {"kind": "distill", "hyperparameters": given}
    for name in ("preset", "method", "dataset", "ipc"):
        if getattr(arguments, name) is not None:
            body[name] = getattr(arguments, name)
    return body


def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a set's file or checkpoints; the report and its companions go to --out, if given."""
    body: dict[str, Any] = {"kind": "evaluate"}
    inputs: dict[str, Path] = {}
    if arguments.set_file is not None:
        body["artifact"] = _given(arguments.set_file, "--set-file", inputs)
    else:
        body["models"] = _models(arguments.checkpoints, arguments.network, inputs, {})
    for name in ("dataset", "factor"):
        if getattr(arguments, name) is not None:
            body[name] = getattr(arguments, name)
    if arguments.protocol is not None:
        body["protocols"] = arguments.protocol.split(",")
    given = [("students.count", arguments.students), ("students.epochs", arguments.epochs)]
    if arguments.set_file is not None:
        given.append(("students.network", arguments.network))
    for field, value in given:
        if value is not None:
            _put(body, field, value)
    _attacked(arguments, body)
    if arguments.out is None:
        first = arguments.set_file or arguments.checkpoints[0]
        arguments.workdir = arguments.workdir or Path(f"{first.stem}.evaluation.work")
    spec, outcome = _run(arguments, body, inputs)
    _deliver_report(arguments, spec, outcome, "evaluation.json", evaluated)


def transfer(arguments: argparse.Namespace) -> None:
    """Attack models with the images crafted on others."""
    inputs: dict[str, Path] = {}
    body: dict[str, Any] = {"kind": "transfer", "dataset": arguments.dataset}
    named: dict[str, str] = {}
    body["sources"] = _models(arguments.checkpoints, arguments.network, inputs, named)
    if arguments.targets:
        body["targets"] = _models(arguments.targets, arguments.network, inputs, named)
    if arguments.protocol is not None:
        body["protocol"] = arguments.protocol
    _attacked(arguments, body)
    if arguments.out is None:
        stem = arguments.checkpoints[0].stem
        arguments.workdir = arguments.workdir or Path(f"{stem}.transfer.work")
    spec, outcome = _run(arguments, body, inputs, cache=arguments.cache)
    _deliver_report(arguments, spec, outcome, "transfer.json", transferred)


def compare(arguments: argparse.Namespace) -> None:
    """Test whether two evaluations differ, attack by attack."""
    compared = compare_files(arguments.first, arguments.second)
    if arguments.json:
        print(json.dumps(compared, ensure_ascii=False))
    else:
        print(comparison(compared))


def protocols(arguments: argparse.Namespace) -> None:
    """List the protocols."""
    entries = catalogue.protocols()
    if arguments.json:
        print(json.dumps([entry.as_dict() for entry in entries], ensure_ascii=False))
    else:
        print(protocols_table(entries))


def _given(path: Path, flag: str, inputs: dict[str, Path]) -> str:
    """The name that a file has in the spec: its digest, so that the spec says what it was."""
    if not path.is_file():
        raise CoreError("artifact_missing", f"there is no file {path}.", "Give its path.", flag)
    name = f"sha256:{file_digest(path)}"
    inputs[name] = path
    return name


def _models(
    paths: Sequence[Path], network: str | None, inputs: dict[str, Path], named: dict[str, str]
) -> list[dict[str, Any]]:
    """References to files, under the files' names; `named` says whose each name is already."""
    models = []
    for path in paths:
        artifact = _given(path, "--checkpoint", inputs)
        name = _name(path, artifact, named)
        models.append({"artifact": artifact, "network": network, "name": name})
    return models


def _name(path: Path, artifact: str, named: dict[str, str]) -> str:
    """The file's own, numbered where another file has it; one file given again keeps its name."""
    stem = re.sub(r"[^A-Za-z0-9_.+-]", "_", path.stem).lstrip("_.+-")[:60] or "model"
    name, number = stem, 1
    while named.setdefault(name, artifact) != artifact:
        number += 1
        name = f"{stem}-{number}"
    return name


def _attacked(arguments: argparse.Namespace, body: dict[str, Any]) -> None:
    """The flags that evaluations and transfers share."""
    for name in ("limit", "seed"):
        if getattr(arguments, name) is not None:
            body[name] = getattr(arguments, name)
    for name in ("attacks", "modes"):
        if getattr(arguments, name) is not None:
            body[name] = getattr(arguments, name).split(",")
    for field, value in arguments.settings:
        _put(body, field, _as_exact(field, value))


def _as_exact(field: str, value: object) -> object:
    """A bare number as the exact text that sizes are, where the field is one; 8/255 is already."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and is_exact(field):
        return f"{Decimal(str(value)):f}"
    return value


def fetch(arguments: argparse.Namespace) -> None:
    """Download a dataset's original files under the data root."""
    from rome_core.torchvision_adapter import fetch as download

    folder = download(arguments.dataset, arguments.data_root)
    print(f"{arguments.dataset} is in {folder}")


def methods(arguments: argparse.Namespace) -> None:
    """List the methods."""
    entries = catalogue.methods()
    if arguments.json:
        print(json.dumps([entry.as_dict() for entry in entries], ensure_ascii=False))
    else:
        print(methods_table(entries))


def presets(arguments: argparse.Namespace) -> None:
    """List the presets."""
    entries = catalogue.presets()
    if arguments.json:
        print(json.dumps([entry.as_dict() for entry in entries], ensure_ascii=False))
    else:
        print(presets_table(entries))


COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "distill": distill,
    "experts": experts,
    "estimate": estimate,
    "evaluate": evaluate,
    "transfer": transfer,
    "compare": compare,
    "protocols": protocols,
    "fetch": fetch,
    "methods": methods,
    "presets": presets,
}


def _run(
    arguments: argparse.Namespace,
    body: dict[str, Any],
    inputs: Mapping[str, Path],
    cache: Path | None = None,
) -> tuple[dict[str, Any], Outcome]:
    """Run the spec in its work folder, going on where an earlier run of the same spec stopped."""
    workdir = _workdir(arguments)
    spec = _remembered(workdir, body)
    write_json(workdir / "spec.json", spec)
    terminal = Terminal(sys.stderr)
    with _stop_on_signals() as should_stop:
        try:
            outcome = run(
                spec,
                Context(
                    workdir=workdir,
                    data_root=arguments.data_root,
                    inputs=inputs,
                    cache=cache,
                    device=arguments.device,
                    threads=arguments.threads,
                    report=terminal,
                    should_stop=should_stop,
                ),
            )
        finally:
            terminal.close()
    return spec, outcome


def _workdir(arguments: argparse.Namespace) -> Path:
    chosen: Path | None = arguments.workdir
    out: Path = arguments.out
    return chosen if chosen is not None else out.with_name(f"{out.name}.work")


def _clear(workdir: Path) -> None:
    """Remove what the run made there, and the folder if nothing else lies in it."""
    for folder in ("checkpoints", "results"):
        shutil.rmtree(workdir / folder, ignore_errors=True)
    (workdir / "spec.json").unlink(missing_ok=True)
    with suppress(OSError):  # somebody else's files are in it
        workdir.rmdir()


def _remembered(workdir: Path, body: dict[str, Any]) -> dict[str, Any]:
    """The canonical spec; an absent seed is the unfinished run's, or drawn.

    Raises CoreError where the folder holds an unfinished run of another spec.
    """
    try:
        earlier = json.loads((workdir / "spec.json").read_text())
        seed = int(earlier["seed"])
        unfinished = any((workdir / "checkpoints").rglob("step-*.json"))
    except (OSError, ValueError, KeyError, TypeError):
        return canonical(body, seed=secrets.randbits(31))
    spec = canonical(body, seed=seed)
    if spec != earlier and unfinished:
        raise CoreError(
            "workdir_taken",
            f"{workdir} holds an unfinished run of another spec.",
            "Repeat that command to finish it, delete the folder, or give another --workdir.",
            "--workdir",
        )
    return spec


def _deliver(
    arguments: argparse.Namespace,
    spec: Mapping[str, Any],
    outcome: Outcome,
    names: Mapping[str, Path],
    summary: Callable[[Mapping[str, Any], Outcome, Path], str],
) -> None:
    """Move the results to where they were asked for, drop the work folder and say what there is."""
    for output in outcome.outputs:
        target = names[output.name]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(output.path, target)
    _clear(_workdir(arguments))
    if arguments.json:
        told = {
            "spec": dict(spec),
            "spec_hash": spec_hash(spec),
            "outputs": {output.name: str(names[output.name]) for output in outcome.outputs},
            "metrics": dict(outcome.metrics),
        }
        print(json.dumps(told, ensure_ascii=False))
    else:
        print(summary(spec, outcome, arguments.out))


def _deliver_report(
    arguments: argparse.Namespace,
    spec: Mapping[str, Any],
    outcome: Outcome,
    main: str,
    summary: Callable[[Mapping[str, Any], Outcome, Path | None], str],
) -> None:
    """Show a report, and keep it and its companions where --out says so."""
    out: Path | None = arguments.out
    report = next(output.path for output in outcome.outputs if output.name == main)
    told = {
        "spec": dict(spec),
        "spec_hash": spec_hash(spec),
        "metrics": dict(outcome.metrics),
        "report": json.loads(report.read_bytes()),
        "outputs": {},
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        for output in outcome.outputs:
            target = out if output.name == main else out.with_name(f"{out.stem}.{output.name}")
            shutil.move(output.path, target)
            told["outputs"][output.name] = str(target)
    _clear(_workdir(arguments))
    if arguments.json:
        print(json.dumps(told, ensure_ascii=False))
    else:
        print(summary(told["report"], outcome, out))


def _put(body: dict[str, Any], field: str, value: object) -> None:
    """Set a field by its path, such as `students.count`."""
    *parents, last = field.split(".")
    for name in parents:
        inner = body.setdefault(name, {})
        if not isinstance(inner, dict):
            raise CoreError(
                "field_not_nested", f"{name} has no fields of its own.", "Look at --help.", field
            )
        body = inner
    body[last] = value


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask the run to stop at its next checkpoint; a second Ctrl-C ends it."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
