"""The body of a submission: the recipe's fields and the service's own, taken apart.

Owns the service's fields (name, labels, priority, times, bounds); the recipe's fields belong to
`rome_core.recipes`. Pure: no database, no clock.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from rome_core import recipes
from rome_core.recipes import FieldProblem, SpecError
from rome_core.recipes.problems import from_validation
from service.clock import micros
from service.database import canonical_json
from service.errors import MalformedRequest, ValidationFailed

DAY = 86_400
LabelKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
PRINTABLE = r"^[^\x00-\x1f\x7f]*$"  # a database may refuse U+0000, a terminal obeys the others
LabelValue = Annotated[str, Field(max_length=256, pattern=PRINTABLE)]
# With bounds, every time that follows from one can be computed, stored and shown.
Moment = Annotated[
    AwareDatetime,
    Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC)),
]


class Directions(BaseModel):
    """What a submission tells the service, as opposed to the science. Not part of the hash."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(default=None, min_length=1, max_length=200, pattern=PRINTABLE)
    labels: dict[LabelKey, LabelValue] = Field(default={}, max_length=32)
    priority: int = Field(default=0, ge=-100, le=100, strict=True, description="Higher goes first.")
    run_at: Moment | None = Field(default=None, description="Not before this time.")
    queue_deadline: Moment | None = Field(
        default=None, description="Expires if it was not started by then."
    )
    max_wait_seconds: int | None = Field(
        default=None, ge=1, le=30 * DAY, strict=True, description="queue_deadline, from now."
    )
    run_seconds: int | None = Field(
        default=None, ge=1, le=30 * DAY, strict=True, description="Over all attempts together."
    )
    max_attempts: int | None = Field(
        default=None, ge=1, le=10, strict=True, description="Charged attempts before it fails."
    )

    @model_validator(mode="after")
    def _one_deadline(self) -> "Directions":
        if self.queue_deadline is not None and self.max_wait_seconds is not None:
            raise ValueError("give queue_deadline or max_wait_seconds, not both")
        if self.queue_deadline and self.run_at and self.queue_deadline <= self.run_at:
            raise ValueError("queue_deadline must lie after run_at")
        return self

    def run_at_micros(self, now: int) -> int:
        return max(now, micros(self.run_at)) if self.run_at else now

    def deadline_micros(self, now: int) -> int | None:
        if self.max_wait_seconds is not None:
            return self.run_at_micros(now) + self.max_wait_seconds * 1_000_000
        return micros(self.queue_deadline) if self.queue_deadline else None


@dataclass(frozen=True, slots=True)
class Input:
    """An artifact that a spec names: in which field, and as what."""

    field: str  # such as models.0.artifact
    artifact: str
    role: Literal["synthetic set", "weights", "experts"]

    def takes(self, kind: str) -> bool:
        """Whether an artifact of this kind can play the role."""
        if self.role == "weights":
            return kind.endswith("-weights")
        return kind == ("experts" if self.role == "experts" else "synthetic-set")


@dataclass(frozen=True, slots=True)
class Request:
    """A body that was understood."""

    spec: dict[str, Any]  # canonical
    spec_hash: str
    resource_class: str
    directions: Directions

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Every mention of an artifact, in the order of the spec; one may be named twice."""
        named = []
        if self.spec.get("artifact") is not None:
            named.append(Input("artifact", self.spec["artifact"], "synthetic set"))
        if self.spec.get("experts") is not None:
            named.append(Input("experts", self.spec["experts"], "experts"))
        for field in ("models", "sources", "targets"):
            for place, model in enumerate(self.spec.get(field) or ()):
                if model["artifact"] is not None:
                    path = f"{field}.{place}.artifact"
                    named.append(Input(path, model["artifact"], "weights"))
        return tuple(named)


def parse(body: Mapping[str, Any], *, seed: int) -> Request:
    """Raises ValidationFailed with every problem of both halves, not just the first."""
    ours = {name: value for name, value in body.items() if name in Directions.model_fields}
    theirs = {name: value for name, value in body.items() if name not in ours}
    problems: list[FieldProblem] = []
    directions, spec = Directions(), {}
    try:
        directions = Directions.model_validate(ours)
    except ValidationError as error:
        problems += from_validation(error, Directions)
    try:
        spec = recipes.canonical(theirs, seed=seed)
    except SpecError as error:
        problems += error.problems
    if problems:
        raise ValidationFailed(problems)
    return Request(spec, recipes.spec_hash(spec), recipes.resource_class(spec), directions)


def body_hash(body: Mapping[str, Any]) -> str:
    """What an idempotency key is bound to: the body as sent, whatever the order of its fields."""
    try:
        return hashlib.sha256(canonical_json(body).encode()).hexdigest()
    except ValueError as error:
        raise MalformedRequest("The body holds a number that JSON does not have.") from error
