"""Events: the history of a job, numbered without a gap."""

from service.events.repository import Event, append, last_seqs
from service.events.service import after

__all__ = ["Event", "after", "append", "last_seqs"]
