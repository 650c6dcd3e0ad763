"""AutoAttack as a list of stages (Croce and Hein 2020), each an attack on what is left. Torch-free.

Owns which attacks a version is made of. An evaluation that runs the stages one by one, saving after
each, and `rome_core.attacks.autoattack` run the same list.
"""

from typing import Any, Final, Literal

from rome_core.recipes.attacks import (
    ApgdSettings,
    AutoAttackSettings,
    FabSettings,
    Settings,
    SquareSettings,
)

TARGET_CLASSES: Final = 9
"""Of the targeted stages: every wrong class of a set of ten, the likeliest of a larger one."""

RESTARTS: Final = 5
"""Of the untargeted stages of `plus`."""

SAMPLES: Final = 20
"""Gradients averaged a step in `rand`, for models that draw."""

Loss = Literal["ce", "dlr", "dlr-targeted", "margin"]


def stages(settings: AutoAttackSettings, classes: int) -> list[tuple[str, Settings]]:
    """The attacks of a version in their order, each under the name that its draws go by.

    The targeted DLR loss needs four classes: with three, the stage `apgd-t` is plain DLR and called
    `apgd-dlr`. With two, DLR is constant, and its stages climb the margin itself as `apgd-margin`.
    Where that makes two stages of one name, the first alone is run.
    """
    ball: dict[str, Any] = {"norm": settings.norm, "epsilon": settings.epsilon}
    stepped = {**ball, "steps": settings.steps}
    aims = {"target_classes": min(classes - 1, TARGET_CLASSES)}

    def apgd(loss: Loss, **more: int) -> tuple[str, Settings]:
        if loss == "dlr-targeted" and classes >= 4:
            return "apgd-t", ApgdSettings(**stepped, **aims, loss=loss)
        if loss != "ce":
            loss = "dlr" if classes >= 3 else "margin"
        return f"apgd-{loss}", ApgdSettings(**stepped, **more, loss=loss)

    fab_t = "fab-t", FabSettings(**stepped, **aims)
    square = "square", SquareSettings(**ball, queries=settings.queries)
    chosen: list[tuple[str, Settings]]
    if settings.version == "standard":
        chosen = [apgd("ce"), apgd("dlr-targeted"), fab_t, square]
    elif settings.version == "rand":
        chosen = [apgd("ce", eot=SAMPLES), apgd("dlr", eot=SAMPLES)]
    else:
        ce, dlr = apgd("ce", restarts=RESTARTS), apgd("dlr", restarts=RESTARTS)
        fab = "fab", FabSettings(**stepped, restarts=RESTARTS, multi_target=False)
        chosen = [ce, dlr, fab, square, apgd("dlr-targeted"), fab_t]
    return [stage for k, stage in enumerate(chosen) if stage[0] not in dict(chosen[:k])]
