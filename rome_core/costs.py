"""What an attack costs, before it runs: passes an image. Torch-free.

A forward and a backward pass are counted one each. Estimates are of the whole budget, as for an
image that never breaks; `expected` weighs attacks that drop finished images by a typical share.
"""

from rome_core.recipes.attacks import (
    ApgdSettings,
    AutoAttackSettings,
    CwSettings,
    DeepFoolSettings,
    FabSettings,
    FgsmSettings,
    MiFgsmSettings,
    PgdSettings,
    Settings,
    SpsaSettings,
    SquareSettings,
    VmiFgsmSettings,
)

TYPICAL_LEFT = 0.3
"""Share of the images that an attack in a cascade still has before it, on average."""


def expected(settings: Settings, classes: int) -> float:
    """Passes an image that an attack will make, roughly: for plans and remaining times."""
    most = float(at_most(settings, classes))
    if isinstance(settings, AutoAttackSettings):
        return most * TYPICAL_LEFT**2
    if isinstance(settings, SquareSettings | DeepFoolSettings):
        return most * TYPICAL_LEFT
    return most


def at_most(settings: Settings, classes: int) -> int:
    """Passes an image that an attack can make."""
    match settings:
        case FgsmSettings():
            return 3
        case PgdSettings():
            return settings.restarts * (2 * settings.steps + 1)
        case DeepFoolSettings():
            looked = min(settings.classes or classes, classes)
            return settings.steps * (1 + looked) + 1
        case CwSettings():
            return settings.binary_search_steps * (2 * settings.steps + 1)
        case ApgdSettings():
            runs = min(settings.target_classes, classes - 1) if _multi(settings) else 1
            return runs * settings.restarts * 2 * settings.eot * (settings.steps + 1)
        case FabSettings():
            each = 3 * settings.steps + 1
            if settings.multi_target:
                return settings.restarts * min(settings.target_classes, classes - 1) * each
            return settings.restarts * settings.steps * (2 + classes)
        case SquareSettings():
            return settings.restarts * settings.queries
        case AutoAttackSettings():
            apgd = 2 * (settings.steps + 1)
            targeted = min(9, classes - 1) * (apgd + 3 * settings.steps)
            return 2 * apgd + targeted + settings.queries
        case SpsaSettings():
            return settings.steps * (settings.samples + 1)
        case MiFgsmSettings():
            return 2 * settings.steps + 1
        case VmiFgsmSettings():
            return 2 * settings.steps * (1 + settings.samples) + 1
    return 1


def _multi(settings: ApgdSettings) -> bool:
    return settings.loss == "dlr-targeted"
