"""Errors of starting up, as one line with a remedy and an exit code.

Owns the translation from the service's catalogue to the form in which `rome` shows every error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rome_client.errors import RomeError as Shown
from service.errors import RomeError


class StartFailed(Shown):
    """The service cannot begin; nothing was started."""

    exit_code = 6


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Let an error of the catalogue end the command as `error: …` and its remedy."""
    try:
        yield
    except RomeError as error:
        raise StartFailed(f"{error.title}: {error.detail}", error.remedy) from error
