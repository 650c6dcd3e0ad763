"""The torch-free ring of the core: what can be asked for, and what a request means.

Owns specs, hyperparameters, presets and catalogues, all as data. Must not import torch, numpy or
anything that does: the API validates with it in a process that never loads them.
"""

from rome_core.recipes import catalogue
from rome_core.recipes.problems import FieldProblem, SpecError
from rome_core.recipes.specs import (
    MAX_SEED,
    canonical,
    is_exact,
    resource_class,
    schema,
    spec_hash,
)

__all__ = [
    "MAX_SEED",
    "FieldProblem",
    "SpecError",
    "canonical",
    "catalogue",
    "is_exact",
    "resource_class",
    "schema",
    "spec_hash",
]
