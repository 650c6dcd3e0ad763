"""What a person reads of a job's result."""

from __future__ import annotations

from typing import Any

import pytest

from rome_client.results import lines

SHARE = {"mean": 0.798, "std": 0.0137, "n": 5, "interval": [0.772, 0.8212]}


def evaluation(**doubt: Any) -> dict[str, Any]:
    return {  # sorted by name, as it is stored
        "quick/apgd/untargeted": SHARE,
        "quick/clean": {"mean": 0.5, "std": None, "n": 1, "interval": None},
        "quick/findings": [],
        "quick/metrics/untargeted": {"AE": None, "I-RR": 50.0, "RR": 12.345678, "new": 1.0},
        "quick/pgd/untargeted": SHARE,
        "quick/trust": "high",
        "quick/worst/linf 8/255": SHARE,
        **doubt,
    }


def test_accuracies_are_read_as_percentages_with_their_interval() -> None:
    assert list(lines(evaluation())) == [
        ("quick", "trust high"),
        ("quick/clean", "50.00 %, n = 1"),
        ("quick/apgd/untargeted", "79.80 ± 1.37 %, 95 % in [77.20, 82.12], n = 5"),
        ("quick/pgd/untargeted", "79.80 ± 1.37 %, 95 % in [77.20, 82.12], n = 5"),
        ("quick/worst/linf 8/255", "79.80 ± 1.37 %, 95 % in [77.20, 82.12], n = 5"),
        ("quick/metrics/untargeted", "RR 12.35, I-RR 50.00, AE undefined, new 1.00"),
    ]


@pytest.mark.parametrize("trust", ["low", "limited"])
def test_doubt_stands_beside_every_number(trust: str) -> None:
    found = ["clamp_sensitive", "boundary_noise", "boundary_noise"]
    doubted = {"quick/trust": trust, "quick/findings": found}
    other = {"pixel (changed)/pgd/untargeted": SHARE, "pixel (changed)/trust": "high"}
    head, *own = lines(evaluation(**doubted, **other))
    assert head == ("quick", f"trust {trust}: clamp_sensitive, boundary_noise")
    assert own[-2] == ("pixel (changed)", "trust high")
    assert len(own) == 7
    for name, text in own:
        assert text.endswith(f", trust {trust}") is name.startswith("quick/"), name


def test_a_transfer_is_read_by_crafting_model() -> None:
    result = {
        "protocol": "pixel@1",
        "sources": ["a"],
        "targets": ["a", "b"],
        "clean": {"a": 0.976, "b": 0.95},
        "i_rr": {"untargeted": [[55.123, None]]},
        "worst_case": [[0.03, 0.45]],
    }
    assert list(lines(result)) == [
        ("protocol", "pixel@1"),
        ("clean accuracy", "a 97.60 %, b 95.00 %"),
        ("I-RR untargeted, crafted on a", "a 55.12, b undefined"),
        ("accuracy left, crafted on a", "a 3.00 %, b 45.00 %"),
    ]


def test_models_are_read_one_by_one() -> None:
    each = {"a": [0.9, 0.85, 0.94], "b": [0.1, 0.07, 0.14]}
    several = {"mean": 0.5, "std": 0.56, "n": 2, "interval": None, "each": each}
    assert list(lines({"quick/pgd/untargeted": several, "quick/trust": "low"})) == [
        ("quick", "trust low"),
        ("quick/pgd/untargeted, a", "90.00 %, 95 % in [85.00, 94.00], n = 1, trust low"),
        ("quick/pgd/untargeted, b", "10.00 %, 95 % in [7.00, 14.00], n = 1, trust low"),
    ]


def test_a_transfer_is_read_with_what_speaks_against_it() -> None:
    result = {
        "protocol": "rome-2025@1",
        "sources": ["a"],
        "targets": ["a", "b"],
        "clean": {"a": 0.976, "b": 0.95},
        "clean_intervals": {"a": [0.95, 0.99], "b": [0.9, 0.98]},
        "i_rr": {"untargeted": [[55.123, None]]},
        "worst_case": [[0.03, 0.45]],
        "worst_case_intervals": [[[0.01, 0.08], [0.4, 0.5]]],
        "trust": "low",
        "findings": ["clamp_sensitive"],
    }
    assert list(lines(result)) == [
        ("protocol", "rome-2025@1"),
        ("trust", "trust low: clamp_sensitive"),
        ("clean accuracy", "a 97.60 % [95.00, 99.00], b 95.00 % [90.00, 98.00], trust low"),
        ("I-RR untargeted, crafted on a", "a 55.12, b undefined, trust low"),
        (
            "accuracy left, crafted on a",
            "a 3.00 % [1.00, 8.00], b 45.00 % [40.00, 50.00], trust low",
        ),
    ]


def test_results_of_before_and_of_other_kinds_are_read_as_well() -> None:
    result = {
        "pixel/pgd/untargeted": {"mean": 0.798, "std": 0.0137, "n": 5},
        "clean": {"mean": 0.5, "std": None, "n": 1},
        "iterations": 100,
        "scores": {"50": 0.25},
    }
    assert list(lines(result)) == [
        ("pixel/pgd/untargeted", "79.80 ± 1.37 %, n = 5"),
        ("clean", "50.00 %, n = 1"),
        ("iterations", "100"),
        ("scores.50", "0.25"),
    ]
