import pytest

from rome_core.recipes.attacks import (
    ApgdSettings,
    AutoAttackSettings,
    FabSettings,
    Settings,
    SquareSettings,
)
from rome_core.recipes.autoattack import stages


def listed(version: str, classes: int) -> dict[str, Settings]:
    settings = AutoAttackSettings(
        norm="l2", epsilon="1/2", version=version, steps=30, queries=700
    )  # fmt: skip
    made = stages(settings, classes)
    assert len(dict(made)) == len(made)
    return dict(made)


def test_standard():
    ball = {"norm": "l2", "epsilon": "1/2"}
    made = listed("standard", 10)
    assert list(made) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert made == {
        "apgd-ce": ApgdSettings(**ball, steps=30, loss="ce"),
        "apgd-t": ApgdSettings(**ball, steps=30, loss="dlr-targeted", target_classes=9),
        "fab-t": FabSettings(**ball, steps=30, multi_target=True, target_classes=9),
        "square": SquareSettings(**ball, queries=700),
    }


def test_plus():
    made = listed("plus", 10)
    assert list(made) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    ball = {"norm": "l2", "epsilon": "1/2", "steps": 30}
    assert made["apgd-ce"] == ApgdSettings(**ball, restarts=5)
    assert made["apgd-dlr"] == ApgdSettings(**ball, restarts=5, loss="dlr")
    assert made["fab"] == FabSettings(**ball, restarts=5, multi_target=False)
    standard = listed("standard", 10)
    assert all(made[name] == standard[name] for name in ("apgd-t", "fab-t", "square"))


def test_rand():
    made = listed("rand", 10)
    assert list(made) == ["apgd-ce", "apgd-dlr"]
    ball = {"norm": "l2", "epsilon": "1/2", "steps": 30}
    assert made["apgd-ce"] == ApgdSettings(**ball, eot=20)
    assert made["apgd-dlr"] == ApgdSettings(**ball, eot=20, loss="dlr")


@pytest.mark.parametrize(
    ("version", "classes", "names"),
    [
        ("standard", 4, ["apgd-ce", "apgd-t", "fab-t", "square"]),
        ("standard", 3, ["apgd-ce", "apgd-dlr", "fab-t", "square"]),
        ("standard", 2, ["apgd-ce", "apgd-margin", "fab-t", "square"]),
        ("plus", 3, ["apgd-ce", "apgd-dlr", "fab", "square", "fab-t"]),
        ("plus", 2, ["apgd-ce", "apgd-margin", "fab", "square", "fab-t"]),
        ("rand", 2, ["apgd-ce", "apgd-margin"]),
    ],
)
def test_few_classes_have_losses_that_mean_something(version: str, classes: int, names: list[str]):
    made = listed(version, classes)
    assert list(made) == names
    losses = {name: stage.loss for name, stage in made.items() if isinstance(stage, ApgdSettings)}
    assert losses == {
        name: {"apgd-t": "dlr-targeted"}.get(name, name.removeprefix("apgd-")) for name in losses
    }


@pytest.mark.parametrize(("classes", "targets"), [(2, 1), (5, 4), (10, 9), (200, 9)])
def test_no_more_targets_than_wrong_classes(classes: int, targets: int):
    made = listed("standard", classes)
    targeted = [made[name] for name in ("apgd-t", "fab-t") if name in made]
    assert all(stage.target_classes == targets for stage in targeted)
