"""What the API asks about attempts."""

from sqlalchemy import Connection

from service import pages
from service.attempts import repository
from service.attempts.repository import Attempt, Point
from service.errors import ValidationFailed
from service.pages import Page
from service.principals import Principal

MAX_POINTS = 10_000


def of_job(conn: Connection, principal: Principal, job_id: str) -> list[Attempt]:
    """The attempts of a job, oldest first; none for a job of another project."""
    return repository.of_job(conn, principal.project_id, job_id)


def metrics(
    conn: Connection,
    principal: Principal,
    job_id: str,
    *,
    name: str | None = None,
    cursor: str | None = None,
    limit: int = MAX_POINTS,
) -> Page[Point]:
    """The metric points of a job by name, attempt and step; of one name only, when given.

    Raises ValidationFailed for the limit, InvalidCursor.
    """
    problems = pages.limit_problems(limit, MAX_POINTS)
    if problems:
        raise ValidationFailed(problems)
    return repository.metrics(conn, principal.project_id, job_id, name, cursor, limit)
