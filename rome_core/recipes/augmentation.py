"""The names of augmentation operators and strategies. Torch-free."""

from typing import Final

OPERATORS: Final = {
    "color": "brightness, then saturation, then contrast",
    "crop": "shift by up to an eighth of the size, zeros fill",
    "cutout": "a zero square of half the size",
    "flip": "horizontal mirror with probability one half",
    "scale": "zoom each axis by a factor of 1/1.2 to 1.2",
    "rotate": "turn by up to 15 degrees",
}
OBJECTS: Final = "color_crop_cutout_flip_scale_rotate"
SIGNS: Final = "color_crop_cutout_scale_rotate"
STRATEGIES: Final = {
    OBJECTS: "objects: CIFAR, FashionMNIST, TinyImageNet",
    SIGNS: "digits, which a mirror would change: MNIST, SVHN",
    "none": "no augmentation",
}


def spoils_whitened(strategy: str | None) -> tuple[str, str] | None:
    """Why whitened images, augmented by a strategy, are not to be attacked in pixels, and what is.

    None where they may be. A strategy of None is the dataset's own, of which every one has color;
    what to take in its place suits any. Brightness is moved by up to 0.5 in the units networks
    take. Normalised, that is an eighth of the range of pixels; whitened by the ZCA of CIFAR-10 it
    is 3.4 times that range, and what an attack in [0,1] clamps is, of most such images, one
    constant.
    """
    operators = parse_strategy(SIGNS if strategy is None else strategy)
    if "color" not in operators:
        return None
    kept = "_".join(operator for operator in operators if operator != "color") or "none"
    return (
        "color moves whitened images so far beyond the range of pixels that an attack, which "
        "clamps them to it, leaves them blank",
        f"drop color, that is, take {kept}",
    )


def parse_strategy(strategy: str) -> tuple[str, ...]:
    """Read a strategy: operators joined by `_`, or `none`.

    Raises ValueError that names the unknown or repeated operator and the choices there are.
    """
    if strategy == "none":
        return ()
    operators = tuple(strategy.split("_"))
    for place, operator in enumerate(operators):
        if operator not in OPERATORS:
            raise ValueError(
                f"{strategy!r}: unknown operator {operator!r}; choices are "
                f"{', '.join(OPERATORS)}, joined by _, or none"
            )
        if operator in operators[:place]:
            raise ValueError(f"{strategy!r}: {operator!r} stands twice")
    return operators
