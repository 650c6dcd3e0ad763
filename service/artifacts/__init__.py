"""Artifacts: what a job published or somebody uploaded, by name; the bytes are blobs."""

from service.artifacts.repository import Artifact
from service.artifacts.service import get, of_job

__all__ = ["Artifact", "get", "of_job"]
