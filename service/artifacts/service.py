"""What the API asks about artifacts."""

from sqlalchemy import Connection

from service.artifacts import repository
from service.artifacts.repository import Artifact
from service.errors import NotFound
from service.principals import Principal


def get(conn: Connection, principal: Principal, artifact_id: str) -> Artifact:
    """Raises NotFound, for another project's artifact as well."""
    found = repository.get(conn, principal.project_id, artifact_id)
    if found is None:
        raise NotFound(f"There is no artifact {artifact_id}.")
    return found


def of_job(conn: Connection, principal: Principal, job_id: str) -> list[Artifact]:
    """What a job published, by name; nothing before it succeeded."""
    return repository.of_job(conn, principal.project_id, job_id)
