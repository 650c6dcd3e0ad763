"""Jobs: what was asked for and how far it is."""

from service.jobs.repository import FILTERS, Job
from service.jobs.service import (
    Submission,
    find,
    get,
    request_cancel,
    request_pause,
    resume,
    submit,
)
from service.jobs.states import Status

__all__ = [
    "FILTERS",
    "Job",
    "Status",
    "Submission",
    "find",
    "get",
    "request_cancel",
    "request_pause",
    "resume",
    "submit",
]
