"""Attacks: functions of (oracle, images in its space, goal, settings, draws) to `Attacked`.

An oracle is a model that counts; a model is a callable from images to logits. Where it also has the
methods of `gradient.Differentiable`, as `rome_core.passes` gives it, attacks use those instead of
autograd. `attack` runs any of them by its settings.
"""

from rome_core.attacks.domain import Adapted, adapt, check_domain
from rome_core.attacks.goal import Goal
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked
from rome_core.attacks.pgd import perturb
from rome_core.attacks.targets import targets
from rome_core.recipes.attacks import Budget, Domain

__all__ = [
    "Adapted",
    "Attacked",
    "Budget",
    "Domain",
    "Goal",
    "Oracle",
    "adapt",
    "check_domain",
    "perturb",
    "targets",
]
