"""Attacks: functions of (model, images in its space, labels, budget) to adversarial images.

A model is a callable from images to logits. Where it also has `input_gradient`, as
`rome_core.passes` gives it, attacks use that instead of autograd.
"""

from rome_core.attacks.domain import Adapted, adapt
from rome_core.attacks.fgsm import fgsm
from rome_core.attacks.pgd import pgd
from rome_core.attacks.targets import targets
from rome_core.recipes.attacks import Budget, Domain

__all__ = ["Adapted", "Budget", "Domain", "adapt", "fgsm", "pgd", "targets"]
