"""The embedded supervisor as `rome serve` starts it: `worker.embedded` with the service's log.

python -m launcher.supervisor
"""

from __future__ import annotations

import sys

from launcher import logs
from worker import embedded

if __name__ == "__main__":
    logs.configure()
    sys.exit(embedded.main())
