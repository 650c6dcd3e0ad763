"""The HTTP client and the `rome` command.

Owns everything that talks to the service from outside. It imports none of the service's packages,
so that it can be installed alone, and never imports torch.
"""

from rome_client.client import Client, Event
from rome_client.errors import (
    DamagedDownload,
    JobDidNotSucceed,
    Problem,
    RomeError,
    ServiceUnreachable,
)

__all__ = [
    "Client",
    "DamagedDownload",
    "Event",
    "JobDidNotSucceed",
    "Problem",
    "RomeError",
    "ServiceUnreachable",
]
