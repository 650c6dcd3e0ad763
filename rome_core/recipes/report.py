"""What an evaluation says, as a schema: `evaluation.json`.

Owns the shape of the numbers. Each belongs to one attack domain, or to none (clean accuracy);
there is deliberately no field that joins two domains.
"""

from statistics import fmean, stdev
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rome_core.recipes.evaluate import DomainBudget, Students


class Accuracies(BaseModel):
    """Top-1 accuracy against the true label, a fraction in [0,1], one value a student.

    `std` is the sample standard deviation over students; null for one student. `gradients` and
    `forwards` are passes an image, summed over nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: list[float]
    mean: float
    std: float | None
    n: int
    gradients_per_image: int
    forwards_per_image: int

    @classmethod
    def of(cls, values: list[float], gradients: int, forwards: int = 1) -> "Accuracies":
        return cls(
            values=values,
            mean=fmean(values),
            std=stdev(values) if len(values) > 1 else None,
            n=len(values),
            gradients_per_image=gradients,
            forwards_per_image=forwards,
        )


class DomainReport(BaseModel):
    """One attack domain: its budget, every measure by name, and the worst case over them.

    `worst_case` counts an image only where a student is right under every measure in `worst_over`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    domain: Literal["reference", "pixel"]
    budget: DomainBudget
    measures: dict[str, Accuracies]
    worst_case: Accuracies | None
    worst_over: list[str]


class EvaluationReport(BaseModel):
    """`evaluation.json`: one set, its students, and the domains side by side, never mixed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["rome-evaluation"] = "rome-evaluation"
    format_version: Literal[1] = 1
    artifact: str
    set_digest: str
    method: str
    dataset: str
    ipc: int
    factor: int
    training_images: int
    test_images: int
    test_images_of: int
    students: Students
    augmentation: str
    train_accuracy: Accuracies
    clean: Accuracies | None
    domains: list[DomainReport]
    seed: int
