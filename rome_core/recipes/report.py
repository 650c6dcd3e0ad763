"""What an evaluation says, as a schema: `evaluation.json`. Torch-free.

Owns the shape of the numbers. Each belongs to one protocol; there is deliberately no field that
joins two.
"""

from statistics import fmean, stdev
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rome_core.recipes.evaluate import Students

PLAIN = ConfigDict(extra="forbid", frozen=True)


class Share(BaseModel):
    """A share of images, a fraction in [0,1], one value a subject.

    `std` is the sample standard deviation over subjects, null for one. `interval` is a 95 % one of
    the mean: over images and, where they are students of one set, over students; null for several
    models, which are no sample of anything. `intervals` are the models' own, one a value, over
    images; null for students. Both are null where there is no interval at all.
    """

    model_config = PLAIN

    values: list[float]
    mean: float
    std: float | None
    n: int
    interval: tuple[float, float] | None
    intervals: list[tuple[float, float]] | None = None

    @classmethod
    def of(
        cls,
        values: list[float],
        interval: tuple[float, float] | None = None,
        intervals: list[tuple[float, float]] | None = None,
    ) -> "Share":
        return cls(
            values=values,
            mean=fmean(values),
            std=stdev(values) if len(values) > 1 else None,
            n=len(values),
            interval=interval,
            intervals=intervals,
        )


class Costs(BaseModel):
    """What an attack spent, means an image over all subjects: the same on every machine.

    `queries_to_break` is the median number of forward passes until success, of images it broke.
    """

    model_config = PLAIN

    forwards_per_image: float
    backwards_per_image: float
    queries_to_break: float | None


class Perturbation(BaseModel):
    """Medians over the images an attack broke, in its space; null where it broke none."""

    model_config = PLAIN

    linf: float | None
    l2: float | None


class MeasureReport(BaseModel):
    """One attack in one mode.

    `accuracy` is top-1 against the true label in both modes. `success` is the share of images that
    were right and are no longer, null where a subject was right on none. `target_hit` is the share
    predicted as their target.
    `not_applicable` says why there are no numbers.
    """

    model_config = PLAIN

    attack: str
    mode: Literal["targeted", "untargeted"] | None
    threat: str | None
    access: Literal["none", "white-box", "query", "both"]
    not_applicable: str | None
    accuracy: Share | None
    success: Share | None
    target_hit: Share | None
    per_class: list[float | None] | None
    costs: Costs | None
    perturbation: Perturbation | None
    flaws: list[dict[str, str]]


class Metrics(BaseModel):
    """The published metrics of one mode, in percent, from mean accuracies and counted costs.

    RR says how even the attacks are, I-RR how little they take, AE how much they cost (here counted
    passes an image, not seconds), CREI and I-CREI their means. `sound`: undefined ones are null
    with a reason, where the published toolkit says 0.
    """

    model_config = PLAIN

    values: dict[str, float | None]
    reasons: dict[str, str]
    cost_unit: Literal["passes"] = "passes"
    attacks: list[str]


class ProtocolReport(BaseModel):
    """One protocol: what it is, every number taken under it, and what speaks against them.

    `worst_case` counts an image only where a subject is right under every attack of a ball, and
    `all` under every attack; `worst_by_mode` does so under every attack of a mode. `curve` is
    accuracy of the first subject against Linf radius, on `curve_images` images.
    """

    model_config = PLAIN

    id: str
    digest: str
    domain: Literal["reference", "pixel"]
    target_rule: str
    overridden: list[str]
    settings: dict[str, dict[str, Any]]
    flaws: list[dict[str, str]]
    test_images: int
    clean: Share | None
    clean_per_class: list[float | None] | None
    measures: dict[str, MeasureReport]
    worst_case: dict[str, Share]
    worst_over: list[str]
    worst_by_mode: dict[str, Share]
    metrics: dict[str, Metrics]
    curve: list[tuple[str, float]] | None
    curve_images: int
    query_curves: dict[str, list[tuple[int, float]]]
    findings: list[dict[str, Any]]
    trust: Literal["high", "limited", "low"]


class SubjectReport(BaseModel):
    """Who was attacked. `space` is what its images went through."""

    model_config = PLAIN

    name: str
    network: str
    digest: str | None  # of the weights' file, where it was given
    assumed: list[str]  # what the file leaves open about the network
    space: Literal["normalised", "zca"] = "normalised"


class SetReport(BaseModel):
    """The synthetic set that students learned from.

    `learning_rate` is what they started from, and `network` what they were; null in reports of
    before a set's own was taken: there they are `students.learning_rate` and `students.network`.
    """

    model_config = PLAIN

    artifact: str
    digest: str
    method: str
    ipc: int
    factor: int
    training_images: int
    augmentation: str
    learning_rate: float | None = None
    network: str | None = None
    labels: Literal["hard", "soft"] = "hard"
    students: Students
    train_accuracy: Share


class EvaluationReport(BaseModel):
    """`evaluation.json`: the subjects, and the protocols side by side, never mixed.

    `data` are the sha256 of the dataset's files, by their names: a name alone may mean any.
    """

    model_config = PLAIN

    format: Literal["rome-evaluation"] = "rome-evaluation"
    format_version: Literal[2] = 2
    dataset: str
    data: dict[str, str]
    test_images_of: int
    subjects: list[SubjectReport]
    set: SetReport | None
    protocols: list[ProtocolReport]
    seed: int


class Timing(BaseModel):
    """Wall-clock seconds of one measure, a subject each: of this machine and this run alone."""

    model_config = PLAIN

    seconds: list[float]


class TimingReport(BaseModel):
    """`timings.json`: what differs between equal runs, kept out of `evaluation.json`.

    `metrics` are the published ones with seconds as cost, by protocol and mode, in percent.
    """

    model_config = PLAIN

    format: Literal["rome-timings"] = "rome-timings"
    format_version: Literal[1] = 1
    hardware: dict[str, Any]
    seconds: dict[str, dict[str, Timing]]
    metrics: dict[str, dict[str, dict[str, float | None]]]


class TransferReport(BaseModel):
    """`transfer.json`: rows of every matrix are crafting models, columns evaluated ones.

    `accuracy` holds fractions in [0,1] by measure; `target_hit` the share of images predicted as
    their target, for targeted ones. `i_rr` is in percent, by mode, pooled over the mode's attacks;
    null where it is undefined. The space, the settings and the images are the same for all cells.
    `on_self` says which cells are attacks of a model on itself, which is no transfer. Intervals are
    Wilson's 95 % ones, over images.

    `digest` is of the protocol as an evaluation takes it, overrides included. Crafting departs from
    it as `crafting` says, and `settings` are those that images were crafted with. `flaws` are the
    protocol's and, with their `attack`, the attacks' own; `trust` follows from `findings`.
    """

    model_config = PLAIN

    format: Literal["rome-transfer"] = "rome-transfer"
    format_version: Literal[1] = 1
    dataset: str
    test_images: int
    test_images_of: int
    protocol: str
    digest: str
    domain: Literal["reference", "pixel"]
    overridden: list[str]
    crafting: Literal["every image is attacked, with all steps"] = (
        "every image is attacked, with all steps"
    )
    settings: dict[str, dict[str, Any]]
    flaws: list[dict[str, str]]
    findings: list[dict[str, Any]]
    trust: Literal["high", "limited", "low"]
    sources: list[str]
    targets: list[str]
    models: list[SubjectReport]
    clean: dict[str, float]
    clean_intervals: dict[str, tuple[float, float]]
    accuracy: dict[str, list[list[float]]]
    accuracy_intervals: dict[str, list[list[tuple[float, float]]]]
    target_hit: dict[str, list[list[float]]]
    i_rr: dict[str, list[list[float | None]]]
    worst_case: list[list[float]]
    worst_case_intervals: list[list[tuple[float, float]]]
    on_self: list[list[bool]]
    seed: int
