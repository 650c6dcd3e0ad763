"""Progress on stderr: one live line on a terminal, plain lines elsewhere.

Owns what a waiting person reads.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

from rome_core.progress import Progress

LIVE_SECONDS = 0.1
PLAIN_SECONDS = 10.0


class Terminal:
    """Call it with every Progress; call `close` before printing anything else."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._live = stream.isatty()
        self._last = float("-inf")
        self._phase = ""
        self._open = False

    def __call__(self, progress: Progress) -> None:
        """Show it, unless the last one is too fresh; the end of a phase is always shown."""
        now = self._clock()
        ended = progress.step >= progress.total > 1  # a single step's end is the next phase
        turn = progress.phase != self._phase or ended
        if not turn and now - self._last < (LIVE_SECONDS if self._live else PLAIN_SECONDS):
            return
        if self._live and progress.phase != self._phase:
            self.close()
        self._phase, self._last = progress.phase, now
        text = describe(progress)
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{text[:width]}")
            self._stream.flush()
            self._open = True
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """End the live line."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False


def describe(progress: Progress) -> str:
    """`distilling 120/300 40 %, loss 3.1, eta 1 min 20 s`."""
    parts = [progress.phase]
    if progress.total > 1:
        share = progress.step / progress.total
        parts = [f"{progress.phase} {progress.step:,}/{progress.total:,} {share:.0%}"]
    parts += [f"{name.replace('_', ' ')} {value:.4g}" for name, value in progress.scalars.items()]
    if progress.eta_seconds is not None and progress.step < progress.total:
        parts.append(f"eta {duration(progress.eta_seconds)}")
    if progress.checkpoint_step is not None and progress.step < progress.total:
        parts.append(f"checkpoint at {progress.checkpoint_step:,}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `5 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
