"""What a person reads of a job's result."""

from __future__ import annotations

from rome_client.display import results


def test_accuracies_are_read_as_percentages_with_their_spread() -> None:
    result = {
        "pixel/pgd/untargeted": {"mean": 0.798, "std": 0.0137, "n": 5},
        "clean": {"mean": 0.5, "std": None, "n": 1},
        "iterations": 100,
        "scores": {"50": 0.25},
    }
    assert list(results(result)) == [
        ("pixel/pgd/untargeted", "79.80 ± 1.37 %, n = 5"),
        ("clean", "50.00 %, n = 1"),
        ("iterations", "100"),
        ("scores.50", "0.25"),
    ]
