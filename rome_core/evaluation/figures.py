"""Pictures of an evaluation: numbers in, a matplotlib figure out, a pair of files from that.

Owns how results look. Must not compute any: intervals and matrices come as they are. Accuracies are
fractions in [0, 1] and are shown in percent. Every title names the protocol. Nothing here uses
pyplot or keeps global state, and equal input gives equal bytes with equal versions of matplotlib.

Colours are Okabe and Ito's, apart for colour-blind eyes; marks, dashes and hatches say the same
again, so that nothing is lost in grey. Names may be long and many: figures grow downwards.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from torch import Tensor

from rome_core.files import write_atomically

WIDTH: Final = 8.0  # inches: 800 pixels on a page
_DPI: Final = 200  # of the PNG: twice that, for sharp screens

_STYLE: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "#dddddd",
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "svg.hashsalt": "rome",  # else element ids are drawn at random
    "text.parse_math": False,  # names are names, dollar signs and all
}

_BAR, _WORST = "#56B4E9", "#D55E00"
_LINES: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: Final = ("-", "--", "-.", ":")
_MARKS: Final = "osD^vPX"

_QUIET = "#666666"


@dataclass(frozen=True)
class Score:
    """An accuracy and the bounds of its 95 % interval, if known; fractions in [0, 1]."""

    accuracy: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        numbers = [number for number in (self.accuracy, self.low, self.high) if number is not None]
        if not all(0 <= number <= 1 for number in numbers):
            raise ValueError(f"accuracies are fractions, not {numbers}")
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two bounds")


@dataclass(frozen=True)
class AttackBars:
    """Accuracies by mode, then attack; the worst case by mode. Modes and attacks keep their order.

    An attack that only one mode has is shown as not applicable in the other.
    """

    protocol: str
    subject: str  # what was evaluated, such as "ROME, CIFAR-10, 10 images per class"
    attacks: Mapping[str, Mapping[str, Score]]
    clean: Score | None = None
    worst: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """Accuracies at growing `x`: epsilons as fractions of [0, 1], or numbers of queries."""

    name: str
    x: Sequence[Fraction | int]
    scores: Sequence[Score]

    def __post_init__(self) -> None:
        if not self.x or len(self.x) != len(self.scores):
            raise ValueError(f"{self.name!r} has {len(self.x)} places, {len(self.scores)} scores")
        if any(a >= b for a, b in pairwise(self.x)):
            raise ValueError(f"the places of {self.name!r} do not grow")


@dataclass(frozen=True)
class EpsilonCurves:
    """How accuracy falls as the budget grows."""

    protocol: str
    subject: str
    attack: str
    curves: Sequence[Curve]
    norm: str = "L∞"


@dataclass(frozen=True)
class QueryCurves:
    """How accuracy falls as an attacker asks more; `x` of the curves begins at 1 or later."""

    protocol: str
    subject: str
    attack: str
    curves: Sequence[Curve]


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """`values` (sources, targets) as fractions, nan where there is none.

    A row is the model that images were crafted on, a column the one that saw them. Fractions above
    1 and below 0, which relative measures can be, keep their number and the colour of the bound.
    """

    protocol: str
    subject: str
    sources: Sequence[str]
    targets: Sequence[str]
    values: Tensor
    quantity: str = "accuracy"

    def __post_init__(self) -> None:
        shape = (len(self.sources), len(self.targets))
        if tuple(self.values.shape) != shape or 0 in shape:
            raise ValueError(f"values of {tuple(self.values.shape)} for names of {shape}")


@dataclass(frozen=True, eq=False)
class Sample:
    """One image before and after, (c, h, w) pixels in [0, 1], c 1 or 3, and names of classes."""

    clean: Tensor
    adversarial: Tensor
    label: str
    clean_prediction: str
    adversarial_prediction: str
    target: str | None = None

    def __post_init__(self) -> None:
        shapes = tuple(self.clean.shape), tuple(self.adversarial.shape)
        if shapes[0] != shapes[1] or len(shapes[0]) != 3 or shapes[0][0] not in (1, 3):
            raise ValueError(f"images of {shapes[0]} and {shapes[1]}, not of one (1 or 3, h, w)")


@dataclass(frozen=True)
class SampleGrid:
    """A few attacked images. The distances shown are those of the pixels, whatever the space."""

    protocol: str
    subject: str
    attack: str
    samples: Sequence[Sample]


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write `stem`.svg and `stem`.png, each wholly or not at all, without dates or versions."""
    paths = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    with _style():
        for path, metadata in zip(
            paths, ({"Date": None, "Creator": None}, {"Software": None}), strict=True
        ):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=path.suffix[1:], dpi=_DPI, metadata=metadata)
            write_atomically(path, buffer.getvalue())
    return paths


# The figures


def attack_bars(bars: AttackBars) -> Figure:
    """A bar an attack with its interval, a panel a mode; clean as a line, the worst case below."""
    names = list(dict.fromkeys(name for scores in bars.attacks.values() for name in scores))
    if not names:
        raise ValueError("there is no attack to show")
    rows = [*names, *(["worst case"] if bars.worst else [])]
    labels = [_folded(name, 26) for name in rows]
    lines = max(label.count("\n") for label in labels)
    places = [i + (0.35 if i == len(names) else 0.0) for i in range(len(rows))]
    height = 1.5 + (0.27 + 0.15 * lines) * (places[-1] + 1)
    with _figure(f"Accuracy under attack: {bars.subject}", bars.protocol, height) as figure:
        panels = figure.subplots(1, len(bars.attacks), sharey=True, squeeze=False)[0]
        for axes, (mode, scores) in zip(panels, bars.attacks.items(), strict=True):
            shown = {**scores, **({"worst case": bars.worst[mode]} if mode in bars.worst else {})}
            for place, name in zip(places, rows, strict=True):
                own = {"color": _BAR, "edgecolor": "#20506e"}
                if place > len(names) - 1:
                    own = {"color": _WORST, "edgecolor": "white", "hatch": "////"}
                _bar(axes, place, shown.get(name), own)
            if bars.clean is not None:
                _clean_line(axes, bars.clean)
            axes.set_title(mode, loc="left", fontsize=10, pad=20)
            axes.set(xlim=(0, 100), ylim=(places[-1] + 0.6, -0.6), xticks=range(0, 101, 20))
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
            axes.set_yticks(places, labels, fontsize=9)
            if bars.worst:
                axes.axhline(len(names) - 0.325, color="#999999", linewidth=0.8)
        if bars.worst:
            panels[0].get_yticklabels()[-1].set_fontweight("bold")
        known = [s for scores in bars.attacks.values() for s in scores.values()]
        whiskers = "; whiskers: 95 % interval" if any(s.low is not None for s in known) else ""
        figure.supxlabel(f"accuracy (%){whiskers}", fontsize=10)
    return figure


def epsilon_curves(data: EpsilonCurves) -> Figure:
    """Accuracy against epsilon, labelled in 255ths, a line and a band a curve."""
    title = f"Accuracy by epsilon, {data.attack}: {data.subject}"
    with _figure(title, data.protocol, 4.8) as figure:
        axes = figure.subplots()
        _curves(figure, axes, data.curves, step=False)
        places = sorted({Fraction(x) for curve in data.curves for x in curve.x})
        reach = float(places[-1]) or 1 / 255
        ticks = _apart(places, reach)
        axes.set_xticks([float(x) for x in ticks], [_in_255ths(x) for x in ticks])
        axes.set_xlim(0, reach)
        axes.set_xlabel(f"epsilon ({data.norm}, of the range [0, 1]){_band(data.curves)}")
    return figure


def query_curves(data: QueryCurves) -> Figure:
    """Accuracy against queries an image, on a logarithmic axis, a line and a band a curve."""
    if any(curve.x[0] < 1 for curve in data.curves):
        raise ValueError("a logarithmic axis has no place for 0 queries")
    title = f"Accuracy by queries, {data.attack}: {data.subject}"
    with _figure(title, data.protocol, 4.8) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        _curves(figure, axes, data.curves, step=True)
        first = min(float(curve.x[0]) for curve in data.curves)
        last = max(float(curve.x[-1]) for curve in data.curves)
        axes.set_xlim(first, last if last > first else 10 * first)
        axes.xaxis.set_major_locator(LogLocator(10, numticks=12))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}".replace(",", " ")))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"queries an image{_band(data.curves)}")
    return figure


def transfer_heat_map(matrix: TransferMatrix) -> Figure:
    """The matrix with its numbers in percent; a model's attacks on itself are framed."""
    rows, columns = matrix.values.shape
    percent = 100 * matrix.values.detach().cpu().double()
    above = [_folded(name, max(6, 60 // columns)) for name in matrix.targets]
    lines = max(name.count("\n") for name in above)
    height = 2.0 + 0.5 * rows + 0.15 * lines
    with _figure(f"Transfer, {matrix.quantity}: {matrix.subject}", matrix.protocol, height) as fig:
        axes = fig.subplots()
        size = min(9.0, 108 / columns)
        colours = matplotlib.colormaps["cividis"].with_extremes(bad="#eeeeee")
        shown = axes.imshow(percent.numpy(), cmap=colours, vmin=0, vmax=100, aspect="auto")
        for r, source in enumerate(matrix.sources):
            for c, target in enumerate(matrix.targets):
                number = float(percent[r, c])
                ink = "white" if number < 50 else "black"
                text = f"{number:.1f}" if number == number else "–"
                axes.text(c, r, text, ha="center", va="center", fontsize=size, color=ink)
                if source == target:
                    frame = (c - 0.44, r - 0.42), 0.88, 0.84
                    axes.add_patch(Rectangle(*frame, fill=False, edgecolor=ink, linewidth=1.5))
        axes.set_xticks(range(columns), above, fontsize=9)
        axes.set_yticks(range(rows), [_folded(name, 22) for name in matrix.sources], fontsize=9)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="evaluated model", ylabel="crafting model")
        fig.colorbar(shown, ax=axes, label="%", pad=0.02, fraction=0.05)
        if set(matrix.sources) & set(matrix.targets):
            fig.supxlabel("framed: crafted on the evaluated model itself", fontsize=9, color=_QUIET)
    return fig


def sample_grid(grid: SampleGrid) -> Figure:
    """Each sample as it was, attacked, and their difference, amplified about mid-grey."""
    if not grid.samples:
        raise ValueError("there is no sample to show")
    across = 1 if len(grid.samples) == 1 else 2
    rows = -(-len(grid.samples) // across)
    differences = [s.adversarial.cpu().double() - s.clean.cpu().double() for s in grid.samples]
    gain = _gain(max(float(d.abs().max()) for d in differences))
    title = f"Attacked images, {grid.attack}: {grid.subject}"
    height = 4.1 if across == 1 else 1.0 + 1.72 * rows
    with _figure(title, grid.protocol, height) as figure:
        gap = [] if across == 1 else [0.12, 1, 1, 1]  # what belongs together stands together
        tiles = figure.subplots(rows, 3 + len(gap), squeeze=False, width_ratios=[1, 1, 1, *gap])
        for axes in tiles.flat:
            axes.set_axis_off()
        for number, (sample, difference) in enumerate(zip(grid.samples, differences, strict=True)):
            row, first = number // across, 4 * (number % across)
            images = sample.clean, sample.adversarial, 0.5 + gain * difference
            heads = "clean", "adversarial", f"difference × {gain}"
            captions = _captions(sample, difference)
            for column in range(3):
                axes = tiles[row, first + column]
                _image(axes, images[column])
                if row == 0:
                    axes.set_title(heads[column], fontsize=10)
                axes.text(
                    0.5,
                    -0.04,
                    captions[column],
                    transform=axes.transAxes,
                    fontsize=8,
                    ha="center",
                    va="top",
                )
    return figure


# Their parts


@contextmanager
def _style() -> Iterator[None]:
    """Our settings and matplotlib's defaults, whatever a user's own file says; then as before."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


@contextmanager
def _figure(title: str, protocol: str, height: float) -> Iterator[Figure]:
    """A figure under our style, laid out once, at the end: a second drawing moves nothing."""
    with _style():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.suptitle(
            f"{_folded(title, 84)}\nprotocol: {_folded(protocol, 84)}",
            x=0.012,
            ha="left",
            fontsize=11,
        )
        yield figure
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def _folded(text: str, width: int) -> str:
    return "\n".join(wrap(text, width)) or " "


def _bar(axes: Axes, place: float, score: Score | None, own: Mapping[str, Any]) -> None:
    if score is None:
        axes.text(1, place, "not applicable", va="center", fontsize=8, color=_QUIET)
        return
    axes.barh(place, 100 * score.accuracy, height=0.66, linewidth=0.6, **own)
    if score.low is not None and score.high is not None:
        axes.plot(
            [100 * score.low, 100 * score.high],
            [place, place],
            color="black",
            linewidth=1.3,
            marker="|",
            markersize=6,
            clip_on=False,
        )
    # In a column of its own, clear of any bar, whisker or line.
    axes.text(102, place, f"{100 * score.accuracy:.1f}", va="center", fontsize=9)


def _clean_line(axes: Axes, clean: Score) -> None:
    if clean.low is not None and clean.high is not None:
        axes.axvspan(100 * clean.low, 100 * clean.high, color="#bbbbbb", alpha=0.6, linewidth=0)
    axes.axvline(100 * clean.accuracy, color="black", linestyle=(0, (4, 2)), linewidth=1.2)
    axes.annotate(
        f"clean {100 * clean.accuracy:.1f}",
        (100 * clean.accuracy, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right" if clean.accuracy > 0.85 else "left" if clean.accuracy < 0.15 else "center",
        va="bottom",
        fontsize=9,
    )


def _curves(figure: Figure, axes: Axes, curves: Sequence[Curve], *, step: bool) -> None:
    if not curves:
        raise ValueError("there is no curve to show")
    for number, curve in enumerate(curves):
        x = [float(place) for place in curve.x]
        colour = _LINES[number % len(_LINES)]
        bounds = [(s.low, s.high) for s in curve.scores if s.low is not None]
        if len(bounds) == len(x):
            low, high = ([100 * (b or 0.0) for b in part] for part in zip(*bounds, strict=True))
            axes.fill_between(
                x, low, high, color=colour, alpha=0.2, linewidth=0, step="post" if step else None
            )
        axes.plot(
            x,
            [100 * score.accuracy for score in curve.scores],
            label=_folded(curve.name, 44),
            color=colour,
            linestyle=_DASHES[number % len(_DASHES)],
            marker=_MARKS[number % len(_MARKS)],
            markevery=max(1, len(x) // 12),
            markersize=5,
            linewidth=1.6,
            drawstyle="steps-post" if step else "default",
            clip_on=False,
            zorder=3,
        )
    axes.set(ylim=(0, 100), yticks=range(0, 101, 20), ylabel="accuracy (%)")
    axes.grid()
    longest = max(len(curve.name) for curve in curves)
    columns = min(len(curves), 4 if longest < 18 else 2)
    figure.legend(loc="outside lower left", ncols=columns, fontsize=9, handlelength=3.5)


def _band(curves: Sequence[Curve]) -> str:
    known = any(score.low is not None for curve in curves for score in curve.scores)
    return "; band: 95 % interval" if known else ""


def _in_255ths(x: Fraction) -> str:
    return "0" if x == 0 else f"{float(255 * x):.4g}/255"


def _apart(places: Sequence[Fraction], reach: float) -> list[Fraction]:
    """The places that labels fit at without touching, the last one always.

    Where not all do: multiples of 1, 2, 4 ... 255ths, unless the places are too odd for that; then
    from the left, each with room on both sides.
    """
    room = 0.085 * reach  # of the axis: a label such as 12.75/255 takes 0.08
    *earlier, last = places
    packed: list[Fraction] = []
    for place in earlier:
        left = float(place - packed[-1]) if packed else room
        if left >= room and float(last - place) >= room:
            packed.append(place)
    for step in (0, 1, 2, 4, 8, 16):
        kept = [x for x in earlier if not step or 255 * x % step == 0] + [last]
        fits = all(float(b - a) >= room for a, b in pairwise(kept))
        if fits and len(kept) >= 0.75 * (len(packed) + 1):
            return kept
    return [*packed, last]


def _gain(largest: float) -> int:
    """The largest power of two that keeps the largest difference in sight."""
    gain = 1
    while largest > 0 and 2 * gain * largest <= 0.5 and gain < 256:
        gain *= 2
    return gain


def _captions(sample: Sample, difference: Tensor) -> tuple[str, str, str]:
    def seen(prediction: str) -> str:
        return f"seen: {_short(prediction)} {'✓' if prediction == sample.label else '✗'}"

    aim = f"\ntarget: {_short(sample.target)}" if sample.target is not None else ""
    largest, length = float(difference.abs().max()), float(difference.norm())
    return (
        f"label: {_short(sample.label)}\n{seen(sample.clean_prediction)}",
        f"{seen(sample.adversarial_prediction)}{aim}",
        f"L∞ {255 * largest:.1f}/255\nL2 {length:.2f}",
    )


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= 13 else f"{name[:12].rstrip()}…"


def _image(axes: Axes, image: Tensor) -> None:
    pixels = image.detach().cpu().double().clamp(0, 1)
    shown = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    axes.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
