"""Which class a targeted attack aims at."""

from torch import Tensor

from rome_core.errors import CoreError
from rome_core.recipes.attacks import TARGET_RULES


def targets(rule: str, labels: Tensor, classes: int) -> Tensor | None:
    """The target of each label under a rule of TARGET_RULES, or None if there is none.

    Raises CoreError for an unknown rule, and for `mod10` with fewer than ten classes, where a
    target would be no class.
    """
    if rule not in TARGET_RULES:
        raise CoreError(
            "unknown_target_rule",
            f"There is no target rule {rule!r}.",
            f"Choose one of {', '.join(TARGET_RULES)}.",
            field="target_rule",
        )
    if rule == "untargeted":
        return None
    if rule == "modC":
        return (labels + 1) % classes
    if classes < 10:
        raise CoreError(
            "target_out_of_range",
            f"mod10 aims at classes 0 to 9, but there are {classes}.",
            "Set it to modC.",
            field="target_rule",
        )
    return (labels + 1) % 10
