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
from rome_core.recipes.autoattack import stages

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
    """Passes an image that an attack can make: of most attacks, those of an image they fail on."""
    match settings:
        case FgsmSettings():
            return 3
        case PgdSettings():
            return settings.restarts * (2 * settings.steps + 1)
        case DeepFoolSettings():
            # A step is a forward pass and a backward one for each rival. All but the first try the
            # nearest rival alone, and where that is not enough look at all of them again.
            looked = min(settings.classes or classes, classes)
            return 1 + looked + (settings.steps - 1) * (looked + 2) + 1
        case CwSettings():
            return settings.binary_search_steps * 2 * settings.steps + 1
        case ApgdSettings():
            targets = settings.target_classes if settings.loss == "dlr-targeted" else 1
            runs = settings.restarts * min(targets, classes - 1)
            return 1 + runs * 2 * settings.eot * (settings.steps + 1)
        case FabSettings(multi_target=True):
            runs = settings.restarts * min(settings.target_classes, classes - 1)
            return 1 + runs * 3 * settings.steps
        case FabSettings():
            return 1 + settings.restarts * settings.steps * (2 + classes)
        case SquareSettings():
            return settings.restarts * settings.queries
        case AutoAttackSettings():
            return 1 + sum(at_most(stage, classes) for _, stage in stages(settings, classes))
        case SpsaSettings():
            return settings.steps * (settings.samples + settings.early_stop) + 1
        case MiFgsmSettings():
            return 2 * settings.steps + 1
        case VmiFgsmSettings():
            return 2 * settings.steps + 2 * settings.samples * (settings.steps - 1) + 1
    return 1
