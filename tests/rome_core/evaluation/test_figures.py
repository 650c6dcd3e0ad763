"""Figures: the same bytes each time, names that do not collide, and nobody's settings changed."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from unittest.mock import patch

import matplotlib
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from rome_core.evaluation import figures
from rome_core.evaluation.figures import (
    AttackBars,
    Curve,
    EpsilonCurves,
    QueryCurves,
    Sample,
    SampleGrid,
    Score,
    TransferMatrix,
    attack_bars,
    epsilon_curves,
    query_curves,
    sample_grid,
    save,
    transfer_heat_map,
)

LONG = [
    "FGSM",
    "PGD, 100 steps, 5 restarts",
    "APGD-DLR, targeted at 9 classes, 5 restarts",
    "AutoAttack (10 steps, as published)",
    "SPSA, 40 steps of 128 samples",
    "PGD_L2 $with$ signs",
    *(f"attack number {number}" for number in range(8)),
]


def bars(names: list[str] = LONG, clean: float = 0.7, robust: float = 0.3) -> Figure:
    score = Score(robust, max(0, robust - 0.1), robust + 0.1)
    first = dict.fromkeys(names, score)
    return attack_bars(
        AttackBars(
            "pixel",
            "ROME",
            {"targeted": first, "untargeted": {**first, "DeepFool": score}},
            Score(clean),
            {"targeted": score, "untargeted": score},
        )
    )


def epsilons(count: int = 17, curves: int = 9) -> Figure:
    places = [Fraction(k, 510) for k in range(count)]
    scores = [Score(1 - k / count, max(0, 0.9 - k / count), 1) for k in range(count)]
    names = [f"a method with quite a long name, number {n}" for n in range(curves)]
    return epsilon_curves(
        EpsilonCurves("rome-2025", "ROME", "PGD", [Curve(name, places, scores) for name in names])
    )


def queries() -> Figure:
    curve = Curve("Square", [1, 10, 5000], [Score(0.9), Score(0.5), Score(0)])
    return query_curves(QueryCurves("pixel", "ROME", "Square", [curve]))


def heat(n: int = 8, words: str = "resnet-18, method {}") -> Figure:
    names = [words.format(i) for i in range(n)]
    return transfer_heat_map(
        TransferMatrix("pixel", "ROME", names, names, torch.linspace(0, 1, n * n).view(n, n))
    )


def samples(count: int = 3, channels: int = 3) -> Figure:
    clean = torch.full((channels, 8, 8), 0.5)
    name = "a class of a very long name"
    return sample_grid(
        SampleGrid(
            "pixel", "ROME", "PGD", [Sample(clean, clean + 0.03, name, name, "dog", name)] * count
        )
    )


def drawn_texts(figure: Figure) -> list[Text]:
    """What a reader sees, so without ticks out of view and the like."""
    found: list[Text] = []
    draw = Text.draw

    def note(text: Text, renderer: RendererBase) -> None:
        if text.get_visible() and text.get_text().strip():
            found.append(text)
        draw(text, renderer)

    with patch.object(Text, "draw", note):
        figure.draw_without_rendering()
    return found


SMALL: list[Callable[[], Figure]] = [
    lambda: bars(["PGD"]),
    lambda: epsilons(3, 2),
    queries,
    lambda: heat(2, "m{}"),
    lambda: samples(1),
]


@pytest.mark.parametrize("draw", SMALL)
def test_the_same_bytes_again(draw: Callable[[], Figure], tmp_path: Path) -> None:
    """Whether drawn anew or saved again, and whatever the user's own settings, which stay."""
    figure = draw()
    first = [path.read_bytes() for path in save(figure, tmp_path / "a")]
    with matplotlib.rc_context({"font.size": 31, "text.parse_math": True, "axes.grid": True}):
        before = dict(matplotlib.rcParams)
        anew = [path.read_bytes() for path in save(draw(), tmp_path / "b")]
        assert dict(matplotlib.rcParams) == before
    assert first == anew == [path.read_bytes() for path in save(figure, tmp_path / "a")]
    assert first[0].startswith(b"<?xml")
    assert b"dc:date" not in first[0]
    assert b"atplotlib" not in first[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 1600
    assert Gcf.get_all_fig_managers() == []  # pyplot knows of none of them


@pytest.mark.parametrize("draw", SMALL)
def test_the_protocol_is_in_the_title(draw: Callable[[], Figure]) -> None:
    title = draw().get_suptitle()
    assert "ROME" in title
    assert f"protocol: {'rome-2025' if 'epsilon' in title else 'pixel'}" in title


@pytest.mark.parametrize(
    "figure",
    [
        bars,
        lambda: bars(["PGD"]),
        lambda: bars(clean=1),
        lambda: bars(clean=0, robust=0),
        epsilons,
        lambda: epsilons(33, 1),
        lambda: epsilons(1, 1),
        queries,
        heat,
        lambda: heat(2, "{}"),
        lambda: heat(16, "m{}"),
        lambda: heat(1),
        samples,
        lambda: samples(1, 1),
    ],
)
def test_no_text_touches_another_or_the_edge(figure: Callable[[], Figure]) -> None:
    drawn = figure()
    width, height = drawn.bbox.width, drawn.bbox.height
    boxes = [(text, text.get_window_extent()) for text in drawn_texts(drawn)]
    assert boxes
    for text, box in boxes:
        assert -1 < box.x0 < box.x1 < width + 1, text
        assert -1 < box.y0 < box.y1 < height + 1, text
    for (one, a), (other, b) in combinations(boxes, 2):
        apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
        assert apart, (one, other)


def test_what_a_mode_lacks_is_said() -> None:
    shown = [text.get_text() for text in drawn_texts(bars(["PGD"]))]
    assert shown.count("not applicable") == 1
    assert shown.count("clean 70.0") == 2
    assert shown.count("30.0") == 5  # two of PGD, one of DeepFool, two worst cases


def test_accuracy_runs_from_0_to_100() -> None:
    assert {axes.get_xlim() for axes in bars().axes} == {(0, 100)}
    assert [f().axes[0].get_ylim() for f in (epsilons, queries)] == [(0, 100)] * 2


def test_epsilons_are_labelled_in_255ths() -> None:
    def labels(*places: str) -> list[str]:
        curve = Curve("a", [Fraction(place) for place in places], [Score(0.5)] * len(places))
        axes = epsilon_curves(EpsilonCurves("pixel", "x", "PGD", [curve])).axes[0]
        return [text.get_text() for text in axes.get_xticklabels()]

    assert labels("0", "2/255", "8/255") == ["0", "2/255", "8/255"]
    assert labels("0", "1/510", "8/255") == ["0", "8/255"]
    assert labels("0", "1/2", "1") == ["0", "127.5/255", "255/255"]
    assert labels("0", "1/10", "1/2", "3") == ["0", "127.5/255", "765/255"]
    assert labels("0") == ["0"]
    halves = [f"{k}/510" for k in range(33)]
    assert labels(*halves) == ["0", *(f"{k}/255" for k in range(2, 17, 2))]


def test_rows_craft_and_columns_are_evaluated() -> None:
    values = torch.tensor([[0.1, 0.2, float("nan")], [1.03, -0.05, 0.6]])
    figure = transfer_heat_map(
        TransferMatrix("pixel", "x", ["DC", "DM"], ["DM", "DC", "MTT"], values, "I-RR")
    )
    axes = figure.axes[0]
    cells = {t.get_position(): t.get_text() for t in axes.texts}
    assert cells == {
        (0, 0): "10.0",
        (1, 0): "20.0",
        (2, 0): "–",
        (0, 1): "103.0",
        (1, 1): "-5.0",
        (2, 1): "60.0",
    }
    assert axes.get_ylabel() == "crafting model"
    assert axes.get_xlabel() == "evaluated model"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["DC", "DM"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["DM", "DC", "MTT"]
    assert len(axes.patches) == 2  # each framed where it meets itself


def test_differences_are_amplified_about_grey() -> None:
    axes = samples(2).axes
    assert axes[2].get_title() == "difference × 16"  # 0.48: the next power of two is out of sight
    pixels = axes[2].images[0].get_array()
    assert pixels is not None
    assert pixels.min() == pytest.approx(0.98)
    assert axes[0].texts[0].get_text() == "label: a class of a…\nseen: a class of a… ✓"
    assert axes[1].texts[0].get_text() == "seen: dog ✗\ntarget: a class of a…"
    assert axes[2].texts[0].get_text() == "L∞ 7.6/255\nL2 0.42"
    same = Sample(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), "a", "a", "a")
    assert sample_grid(SampleGrid("pixel", "x", "none", [same])).axes[2].get_title().endswith("× 1")


def test_what_cannot_be_shown_is_refused() -> None:
    half = Score(0.5)
    refusals: list[tuple[str, Callable[[], object]]] = [
        ("fractions", lambda: Score(54.3)),
        ("fractions", lambda: Score(float("nan"))),
        ("two bounds", lambda: Score(0.5, 0.4)),
        ("no attack", lambda: attack_bars(AttackBars("pixel", "x", {"targeted": {}}))),
        ("do not grow", lambda: Curve("a", [2, 1], [half, half])),
        ("2 places, 1 scores", lambda: Curve("a", [1, 2], [half])),
        ("no curve", lambda: epsilon_curves(EpsilonCurves("pixel", "x", "PGD", []))),
        (
            "0 queries",
            lambda: query_curves(QueryCurves("pixel", "x", "Square", [Curve("a", [0], [half])])),
        ),
        ("names of", lambda: TransferMatrix("pixel", "x", ["a"], ["b"], torch.zeros(2, 1))),
        ("names of", lambda: TransferMatrix("pixel", "x", [], [], torch.zeros(0, 0))),
        ("not of one", lambda: Sample(torch.zeros(2, 8, 8), torch.zeros(2, 8, 8), "", "", "")),
        ("no sample", lambda: sample_grid(SampleGrid("pixel", "x", "PGD", []))),
    ]
    for says, make in refusals:
        with pytest.raises(ValueError, match=says):
            make()


def test_every_line_differs_without_its_colour() -> None:
    marks = [(figures._DASHES[n % 4], figures._MARKS[n % 7]) for n in range(28)]
    assert len(set(marks)) == 28
