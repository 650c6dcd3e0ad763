"""The real runner, checkpointing as often as it can and dying at planned instants.

`fragile.json` in the state folder lists one plan per attempt, in order; attempts beyond the list
are left alone. A plan is `{"step": k}` (at the first report of a step from k on), `{"flush": n}`
(at the n-th flush of a file to disk, so with some file half-way to its place), `{"phase": name}`
(at the first report of that phase), or empty.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from rome_core import runner
from rome_core.distillation import engine
from rome_core.distillation.checkpoints import Cadence
from rome_core.progress import Progress
from rome_core.runner import Context, Outcome
from tests.chaos.house import PLANS

__all__ = ["Context", "run"]


def run(spec: Mapping[str, Any], context: Context) -> Outcome:
    often = partial(Cadence, share=1.0, minimum=0.0)
    setattr(engine, "Cadence", often)  # noqa: B010 - a class can't be assigned in a typed way
    plans = context.workdir.parents[2] / PLANS
    attempt = int(context.workdir.name) // 2  # epochs of attempts are the odd numbers
    listed = json.loads(plans.read_text()) if plans.exists() else []
    plan = listed[attempt] if attempt < len(listed) else {}
    if "flush" in plan:
        setattr(os, "fsync", _die_at(os.fsync, int(plan["flush"])))  # noqa: B010 - as above

    def report(progress: Progress) -> None:
        context.report(progress)
        late = progress.phase == "distilling" and progress.step >= plan.get("step", 10**9)
        if late or progress.phase == plan.get("phase"):
            _die()

    return runner.run(spec, replace(context, report=report))


def _die_at(flush: Callable[[int], None], count: int) -> Callable[[int], None]:
    calls = 0

    def counted(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            _die()
        flush(handle)

    return counted


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
