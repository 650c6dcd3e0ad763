"""Who asks. Every route takes a principal and every repository works inside its project."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    project_id: str
    subject: str  # who inside the project; stored as `created_by`


LOCAL = Principal(project_id="prj_local", subject="local")
"""The one principal of an embedded service; migrations make its project."""
