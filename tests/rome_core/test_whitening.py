"""The whitening of a dataset: what is fitted, kept, read again, and when it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rome_core.data import Dataset, load, whitened, whitening
from rome_core.errors import CoreError
from rome_core.space import Normalised, Zca


def digits() -> Dataset:
    return load("digits", Path())


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The ridges of the fits that were made."""
    made: list[float] = []
    fit = Zca.fit

    def counted(pixels: torch.Tensor, epsilon: float) -> Zca:
        made.append(epsilon)
        return fit(pixels, epsilon)

    monkeypatch.setattr(Zca, "fit", counted)
    return made


def test_a_whitened_dataset_is_the_same_but_for_its_space() -> None:
    plain = digits()
    made = whitened(plain, None)
    assert isinstance(plain.space, Normalised)
    assert isinstance(made.space, Zca)
    assert made.space.identity == Zca.fit(plain.train_images).identity
    assert made.space.identity == plain.whitened().space.identity
    assert made.train_images is plain.train_images
    assert (made.name, made.mean, made.std) == (plain.name, plain.mean, plain.std)
    x = made.normalise(plain.test_images)
    assert torch.equal(x, made.space.from_pixels(plain.test_images))
    torch.testing.assert_close(made.denormalise(x), plain.test_images, atol=1e-5, rtol=0)
    assert not torch.allclose(x, plain.normalise(plain.test_images), atol=0.1)


def test_a_fit_is_made_once(tmp_path: Path, fits: list[float]) -> None:
    first, again = whitened(digits(), tmp_path), whitened(digits(), tmp_path)
    assert fits == [0.1]
    assert again.space.identity == first.space.identity
    x = digits().test_images
    assert torch.equal(first.normalise(x), again.normalise(x))
    (path,) = (tmp_path / "whitening").iterdir()
    assert path.suffix == ".safetensors"


@pytest.mark.parametrize(
    "change",
    [
        lambda data: replace(data, name="other"),
        lambda data: replace(data, digests={"file": "another"}),
        lambda data: replace(data, split="another"),
        lambda data: replace(data, train_images=data.train_images[:500]),
    ],
    ids=["name", "files", "split", "images"],
)
def test_other_images_are_fitted_anew(
    change: Callable[[Dataset], Dataset], tmp_path: Path, fits: list[float]
) -> None:
    whitened(digits(), tmp_path)
    whitened(change(digits()), tmp_path)
    assert len(fits) == 2


def test_each_ridge_has_its_own(tmp_path: Path, fits: list[float]) -> None:
    one, other = (whitened(digits(), tmp_path, epsilon) for epsilon in (0.1, 0.2))
    again = whitened(digits(), tmp_path, 0.2)
    assert fits == [0.1, 0.2]
    assert again.space.identity == other.space.identity != one.space.identity


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: flipped(content, len(content) - 3),
        lambda content: flipped(content, len(content) // 2),
        lambda content: flipped(content, 20),
    ],
    ids=["empty", "half", "a bit at the end", "a bit in the middle", "a bit of the header"],
)
def test_a_damaged_fit_is_made_anew(
    damage: Callable[[bytes], bytes], tmp_path: Path, fits: list[float]
) -> None:
    first = whitened(digits(), tmp_path)
    (path,) = (tmp_path / "whitening").iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again = whitened(digits(), tmp_path)
    assert len(fits) == 2
    assert again.space.identity == first.space.identity
    assert path.read_bytes() == whole


def test_a_full_disk_hurts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whitening, "write_atomically", full)
    assert isinstance(whitened(digits(), tmp_path).space, Zca)
    assert list(tmp_path.iterdir()) == []


def test_images_too_large_to_whiten_are_refused_before_anything_is_fitted(
    fits: list[float],
) -> None:
    large = replace(digits(), train_images=torch.zeros(3, 3, 64, 64))
    with pytest.raises(CoreError) as caught:
        whitened(large, None)
    assert (caught.value.code, caught.value.field) == ("spec_invalid", "hyperparameters.whitening")
    assert "12,288" in caught.value.detail
    assert fits == []
