"""What a finished command prints for a person.

Owns the words and tables on stdout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rome_core.recipes.method import MethodRecipe
from rome_core.recipes.presets import Preset
from rome_core.recipes.protocols import Protocol
from rome_core.runner import Outcome

Row = tuple[str, str, str]  # name, number, remark


def distilled(spec: Mapping[str, Any], outcome: Outcome, out: Path) -> str:
    """Two lines: what there is, and what to do next."""
    count = outcome.metrics["images"]
    each = f"{spec['ipc']} per class" if spec["ipc"] else "all"
    return (
        f"{out}: {count} images, {each} of {spec['dataset']}, by "
        f"{spec['method']}, seed {spec['seed']}\n"
        f"Evaluate it: python -m rome_core evaluate --set-file {out} --out "
        f"{out.with_suffix('.evaluation.json')}"
    )


def estimated(spec: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """What a run takes, a line a part; passes in forward passes of one image."""
    passes, forward = told["passes"], told["forward_operations"]

    def line(name: str, count: float) -> str:
        return f"  {name:<13}{_short(count):>8} passes  {_short(count * forward):>8} operations"

    lines = [
        f"{spec['method']} on {spec['dataset']}, {spec['ipc'] or 'all'} images per class, "
        f"{told['network']}: a forward pass of one image is {_short(forward)} operations",
        line("preparation", passes["preparation"]),
        f"{line('distillation', passes['distillation'])}  in {told['iterations']:,} iterations",
        line("selection", passes["selection"]),
        line("together", passes["total"]),
        f"  memory of the run about {_short(told['peak_bytes'])}B, of the set's file "
        f"{_short(told['artifact_bytes'])}B. Estimates, within a factor of two or so.",
    ]
    return "\n".join(lines)


def _short(number: float) -> str:
    """Three digits and a unit of thousands: 1.23 G."""
    units = iter(("", "k", "M", "G", "T", "P", "E"))
    unit = next(units)
    while abs(number) >= 999.5:
        number, unit = number / 1000, next(units)
    return f"{number:.3g} {unit}".strip()


def trained(spec: Mapping[str, Any], outcome: Outcome, out: Path) -> str:
    """Two lines: what there is, and what to do with it."""
    accuracy = outcome.metrics["test_accuracy"]
    spread = f" ± {100 * accuracy['std']:.2f}" if accuracy["std"] is not None else ""
    return (
        f"{out}: {spec['count']} of {spec['network']}, {spec['epochs']} epochs on "
        f"{spec['dataset']}, seed {spec['seed']}, test accuracy {100 * accuracy['mean']:.2f}"
        f"{spread} %\n"
        f"Give it to a method that needs some: python -m rome_core distill --experts {out} ..."
    )


def evaluated(report: Mapping[str, Any], outcome: Outcome, out: Path | None) -> str:
    """One block a protocol: accuracies in percent, worst cases, metrics, and what to doubt."""
    blocks = []
    names = [subject["name"] for subject in report["subjects"]]
    students = report["set"] is not None
    models = None if students or len(names) == 1 else names
    if report["set"]:
        blocks.append(_learned(report))
    for protocol in report["protocols"]:
        lines = [_heading(protocol, report["dataset"], len(names), students)]
        rows: list[Row] = []
        if protocol["clean"]:
            rows += _shares("clean", protocol["clean"], models)
        for name, measure in protocol["measures"].items():
            rows += _rows(name, measure, models)
        for ball, share in protocol["worst_case"].items():
            rows += _shares(f"worst of {ball}", share, models, "right under every attack")
        width = max(len(row[0]) for row in rows)
        lines += [f"  {name:<{width}}  {text:<26}  {more}".rstrip() for name, text, more in rows]
        for mode, metrics in protocol["metrics"].items():
            values = ", ".join(
                f"{name} {'undefined' if value is None else f'{value:.2f}'}"
                for name, value in metrics["values"].items()
                if name in ("RR", "I-RR", "AE", "CREI", "I-CREI")
            )
            mean = f", of the mean of {len(names)} models" if models else ""
            lines.append(f"  {mode}: {values}  (cost in counted passes{mean})")
        lines.append(f"  trust in these numbers: {protocol['trust']}")
        for finding in protocol["findings"]:
            lines.append(f"    {finding['severity']}: {finding['title']} [{finding['code']}]")
            lines.append(f"      {finding['remedy']}")
        blocks.append("\n".join(lines))
    if len(report["protocols"]) > 1:
        blocks.append("Numbers of different protocols must not be compared.")
    if out is not None:
        blocks.append(f"The report is {out}, the table of images and figures lie beside it.")
    return "\n\n".join(blocks)


def transferred(report: Mapping[str, Any], outcome: Outcome, out: Path | None) -> str:
    """One matrix a mode: rows craft, columns are attacked. What to doubt stands below."""
    blocks = []
    for mode, matrix in report["i_rr"].items():
        names = report["targets"]
        width = max(len(name) for name in (*report["sources"], *names)) + 2
        lines = [
            f"I-RR in percent, {mode}, {report['protocol']} (rows craft, columns are attacked)"
        ]
        lines.append(" " * width + "".join(f"{name:>{width}}" for name in names))
        for source, row in zip(report["sources"], matrix, strict=True):
            cells = "".join(f"{'-' if v is None else f'{v:.2f}':>{width}}" for v in row)
            lines.append(f"{source:<{width}}{cells}")
        blocks.append("\n".join(lines))
    blocks.append("\n".join(_left(report)))
    doubt = [f"trust in these numbers: {report['trust']}"]
    for finding in report["findings"]:
        target = finding["evidence"].get("subject")
        of = f" ({target})" if target else ""
        doubt.append(f"  {finding['severity']}: {finding['title']} [{finding['code']}]{of}")
        doubt.append(f"    {finding['remedy']}")
    doubt += [
        f"  flaw of {flaw.get('attack', 'the protocol')}: {flaw['text']}"
        for flaw in report["flaws"]
    ]
    blocks.append("\n".join(doubt))
    if out is not None:
        blocks.append(f"The report is {out}, its figures lie beside it.")
    return "\n\n".join(blocks)


def _left(report: Mapping[str, Any]) -> Iterator[str]:
    """A line a pair: what the target gets right under every attack of the source."""
    yield f"Accuracy left in percent, of {report['test_images']:,} test images, 95 % interval"
    pairs = [f"{source} on {t}" for source in report["sources"] for t in report["targets"]]
    width = max(len(name) for name in ("clean", *report["targets"], *pairs)) + len("clean ")
    for target in report["targets"]:
        name = f"clean {target}"
        interval = report["clean_intervals"][target]
        yield f"  {name:<{width}}  {_share(report['clean'][target], interval)}"
    values = [value for row in report["worst_case"] for value in row]
    intervals = [interval for row in report["worst_case_intervals"] for interval in row]
    for name, value, interval in zip(pairs, values, intervals, strict=True):
        yield f"  {name:<{width}}  {_share(value, interval)}"


def comparison(compared: Mapping[str, Any]) -> str:
    """A line an attack: the difference in points, its interval and the p-value."""
    lines = [f"{compared['first']} less {compared['second']}, in points of accuracy"]
    for one in compared["comparisons"]:
        name = "/".join(filter(None, (one["protocol"], one["attack"], one["mode"])))
        low, high = one["interval"]["low"], one["interval"]["high"]
        lines.append(
            f"  {name:<32} {one['difference']:+7.2f}  [{low:+.2f}, {high:+.2f}]  "
            f"p = {one['p']:.3g} ({one['test']}, n = {one['n']})"
        )
    return "\n".join(lines)


def protocols_table(protocols: Sequence[Protocol]) -> str:
    lines = []
    for protocol in protocols:
        lines += [f"{protocol.id}  {protocol.title}", f"  {protocol.summary}"]
        width = max(len(entry.name) for entry in protocol.entries)
        for entry in protocol.entries:
            mark = "*" if entry.name in protocol.default else " "
            lines.append(f"  {mark} {entry.name:<{width}}  {entry.title}")
    lines.append("* runs unless attacks are named")
    return "\n".join(lines)


def _learned(report: Mapping[str, Any]) -> str:
    """How students were made of the set, where the set may decide it."""
    told = report["set"]
    space = {"normalised": "normalised", "zca": "ZCA-whitened"}[report["subjects"][0]["space"]]
    return (
        f"Students of {told['network']} started from a learning rate of "
        f"{told['learning_rate']:g} and learned {told['labels']} labels of "
        f"{told['training_images']:,} {space} images."
    )


def _heading(protocol: Mapping[str, Any], dataset: str, subjects: int, students: bool) -> str:
    changed = ", changed: " + ", ".join(protocol["overridden"]) if protocol["overridden"] else ""
    many = f", {'mean of' if students else 'each of'} {subjects}" if subjects > 1 else ""
    return (
        f"{protocol['id']}{changed}: accuracy in percent on {protocol['test_images']:,} test "
        f"images of {dataset}{many}, 95 % interval"
    )


def _rows(name: str, measure: Mapping[str, Any], models: Sequence[str] | None) -> list[Row]:
    if measure["not_applicable"]:
        return [(name, "not applicable", measure["not_applicable"])]
    costs = measure["costs"]
    more = f"{costs['forwards_per_image']:.1f} + {costs['backwards_per_image']:.1f} passes"
    hit = measure["target_hit"]
    if models is None:
        return _shares(
            name, measure["accuracy"], None, f"{more}, {_hit(hit['mean'])}" if hit else more
        )
    own = [_hit(value) for value in hit["values"]] if hit else None
    return _shares(name, measure["accuracy"], models, f"{more}, mean of the models", own)


def _shares(
    name: str,
    share: Mapping[str, Any],
    models: Sequence[str] | None,
    more: str = "",
    own: Sequence[str] | None = None,
) -> list[Row]:
    """One row, or one a model with its `own` remark: what they share stands at the name."""
    if models is None:
        return [(name, _share(share["mean"], share["interval"]), more)]
    remarks = own or [""] * len(models)
    each = zip(models, share["values"], share["intervals"], remarks, strict=True)
    rows = [(f"  {model}", _share(value, bounds), remark) for model, value, bounds, remark in each]
    return [(name, "", more), *rows]


def _hit(share: float) -> str:
    return f"{100 * share:.2f} % hit their target"


def _share(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * value:6.2f}  [{100 * low:.2f}, {100 * high:.2f}]"


def methods_table(entries: Sequence[MethodRecipe]) -> str:
    """A line a method: its name, its title and how many presets it has."""
    width = max(len(entry.name) for entry in entries)
    return "\n".join(
        f"{entry.name:<{width}}  {entry.title}, {len(entry.presets)} presets. {entry.summary}"
        for entry in entries
    )


def presets_table(presets: Sequence[Preset]) -> str:
    width = max(len(preset.name) for preset in presets)
    return "\n".join(f"{preset.name:<{width}}  {preset.title}" for preset in presets)
