"""What the log of a service looks like, the same in every process of its tree."""

from __future__ import annotations

import logging


def configure() -> None:
    """Log to standard error: time, level, where, what. Nothing of third parties below a warning."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(threadName)s %(message)s"
    )
    for chatty in ("alembic", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
