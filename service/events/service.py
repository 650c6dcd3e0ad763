"""What the API asks about events."""

from sqlalchemy import Connection

from service.events import repository
from service.events.repository import Event
from service.principals import Principal


def after(
    conn: Connection, principal: Principal, job_id: str, seq: int = 0, limit: int = 500
) -> list[Event]:
    """The events of a job that follow number `seq`; none for a job of another project."""
    return repository.after(conn, principal.project_id, job_id, seq, limit)
