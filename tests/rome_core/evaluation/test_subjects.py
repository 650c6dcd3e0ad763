"""From a reference in a spec to a network: which file, under which name, and what may be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from rome_core import weights
from rome_core.data import Dataset, whitened
from rome_core.errors import CoreError
from rome_core.evaluation.subjects import Subject, load_model
from rome_core.networks import build
from rome_core.provenance import file_digest
from rome_core.randomness import generator
from rome_core.recipes.evaluate import ModelRef
from tests.rome_core.evaluation.conftest import NETWORK, digits, some, trained


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path


def load(model: ModelRef, root: Path, **inputs: Path) -> Subject:
    whiten = partial(whitened, digits(), None)
    return load_model(model, digits(), inputs, root, "cpu", "models.3", whiten=whiten)


def failure(call: Callable[[], object]) -> tuple[str, str | None]:
    with pytest.raises(CoreError) as caught:
        call()
    assert caught.value.remedy
    return caught.value.code, caught.value.field


def same(found: Subject) -> bool:
    mine, theirs = found.network.state_dict(), trained().state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_file_is_found_by_its_name(suffix: str, root: Path) -> None:
    path = root / "models" / f"my.net-1{suffix}"
    if suffix == ".safetensors":
        weights.save(trained(), path)
    else:
        torch.save(trained().state_dict(), path)
    found = load(ModelRef(file="my.net-1"), root)
    assert same(found)
    assert not found.network.training
    assert (found.name, found.source) == ("my.net-1", "my.net-1")
    assert found.digest == file_digest(path)
    assert load(ModelRef(file="my.net-1", name="other"), root).name == "other"
    # A file of ours says all about its network, one of anybody's only its shapes.
    assert bool(found.assumed) is (suffix != ".safetensors")
    assert load(ModelRef(file="my.net-1", network=NETWORK), root).assumed == ()


def test_of_several_endings_the_published_one_comes_first(root: Path) -> None:
    weights.save(trained(2), root / "models" / "m.safetensors")
    torch.save(trained().state_dict(), root / "models" / "m.pth")
    assert same(load(ModelRef(file="m"), root))


def test_an_artifact_is_found_among_the_inputs(root: Path) -> None:
    weights.save(trained(), root / "blob")
    found = load(ModelRef(artifact="art_1"), root, art_1=root / "blob")
    assert same(found)
    assert (found.name, found.source) == ("art_1", "art_1")
    assert found.digest == file_digest(root / "blob")


def test_what_is_missing_is_named(root: Path) -> None:
    assert failure(lambda: load(ModelRef(file="gone"), root)) == (
        "weights_missing",
        "models.3.file",
    )
    (root / "models" / "gone.pth").mkdir()  # no file
    assert failure(lambda: load(ModelRef(file="gone"), root))[0] == "weights_missing"
    assert failure(lambda: load(ModelRef(artifact="art_1"), root)) == (
        "input_missing",
        "models.3.artifact",
    )


def test_what_does_not_fit_is_blamed_on_the_field_it_came_from(root: Path) -> None:
    path = root / "models" / "m.pth"
    torch.save(trained().state_dict(), path)
    wrong = ModelRef(file="m", network="convnet-d2-w8")
    assert failure(lambda: load(wrong, root))[1] == "models.3.network"
    five = build(NETWORK, channels=1, size=8, classes=5, generator=generator(1))
    torch.save(five.state_dict(), path)
    assert failure(lambda: load(ModelRef(file="m"), root))[1] == "models.3.file"
    assert failure(lambda: load(ModelRef(artifact="a"), root, a=path))[1] == "models.3.artifact"
    path.write_bytes(b"no weights")
    assert failure(lambda: load(ModelRef(file="m"), root))[1] == "models.3.file"


def fail(epsilon: float) -> Dataset:
    raise AssertionError("nothing has to be whitened")


def test_only_models_of_whitened_images_need_a_whitening(root: Path) -> None:
    weights.save(trained(), root / "models" / "m.safetensors", digits().space)
    found = load_model(ModelRef(file="m"), digits(), {}, root, "cpu", "models.0", whiten=fail)
    assert found.space is digits().space
    test = some()
    assert found.test(test).space is digits().space
    assert replace(found, space=None).test(test) is test


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_a_model_of_whitened_images_finds_their_whitening_again(root: Path, epsilon: float) -> None:
    """It is a function of the training images, so weights need not carry it."""
    space = whitened(digits(), None, epsilon).space
    weights.save(trained(), root / "models" / "m.safetensors", space)
    found = load(ModelRef(file="m"), root)
    assert found.space is not None
    assert found.space.identity == space.identity
    x = some().pixels
    assert torch.equal(found.test(some()).space.from_pixels(x), space.from_pixels(x))
    said = load(ModelRef(file="m", whitening="zca"), root)
    assert said.space is not None
    assert said.space.identity == space.identity


def test_anybody_s_weights_may_be_said_to_be_of_whitened_images(root: Path) -> None:
    torch.save(trained().state_dict(), root / "models" / "m.pth")
    assert load(ModelRef(file="m"), root).space is digits().space
    found = load(ModelRef(file="m", whitening="zca"), root)
    assert found.space is not None
    assert found.space.identity == whitened(digits(), None).space.identity


def test_another_dataset_s_whitening_is_refused(root: Path) -> None:
    others = replace(digits(), train_images=digits().train_images.flip(3))
    weights.save(trained(), root / "models" / "m.safetensors", whitened(others, None).space)
    found = failure(lambda: load(ModelRef(file="m"), root))
    assert found == ("weights_mismatch", "models.3.file")
    path = root / "models" / "m.safetensors"
    found = failure(lambda: load(ModelRef(artifact="a"), root, a=path))
    assert found == ("weights_mismatch", "models.3.artifact")
