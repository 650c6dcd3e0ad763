"""Robustness metrics of BEARD and ROME: RR, I-RR, I-RR+, AE, CREI, I-CREI, for one model or pooled.

Part of the torch-free ring: standard library and pydantic, so that the API may compute them.
"""

from rome_core.metrics.formulas import (
    ALPHA,
    AttackCell,
    CostUnit,
    Degenerate,
    Group,
    Kind,
    Metrics,
    MetricsError,
    Score,
    attack_efficiency,
    combine,
    measure,
    robustness_ratio,
)
from rome_core.metrics.logs import Clean, CleanTime, Entry, Log, Mode, Row, parse
from rome_core.metrics.report import named, report

__all__ = [
    "ALPHA",
    "AttackCell",
    "Clean",
    "CleanTime",
    "CostUnit",
    "Degenerate",
    "Entry",
    "Group",
    "Kind",
    "Log",
    "Metrics",
    "MetricsError",
    "Mode",
    "Row",
    "Score",
    "attack_efficiency",
    "combine",
    "measure",
    "named",
    "parse",
    "report",
    "robustness_ratio",
]
