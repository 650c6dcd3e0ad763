"""Spaces against plain formulas, one image at a time, and by another decomposition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rome_core.randomness import generator
from rome_core.space import Normalised, Space, Zca

SHAPE = (3, 4, 4)
D = 48


def pixels(n: int = 200, *, seed: int = 1) -> Tensor:
    """Neighbours are alike, as in images: (n, 3, 4, 4) float32 in [0, 1]."""
    draws = generator(seed, "space", "pixels")
    coarse = torch.rand(n, 3, 2, 2, generator=draws).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return 0.8 * coarse + 0.2 * torch.rand(n, *SHAPE, generator=draws)


def naive_whitening(images: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Mean (d,) and W (d, d) float64, by the singular values of the centred images.

    What no image varies in has the eigenvalue 0, so the inverse root of epsilon.
    """
    flat = [image.double().flatten() for image in images]
    mean = sum(flat, torch.zeros(flat[0].numel(), dtype=torch.float64)) / len(flat)
    centred = torch.stack([row - mean for row in flat])
    _, singular, right = torch.linalg.svd(centred, full_matrices=True)
    variances = torch.zeros(len(mean), dtype=torch.float64)
    variances[: len(singular)] = singular.square() / (len(flat) - 1)
    whitening = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for variance, direction in zip(variances, right, strict=True):
        whitening += (variance + epsilon) ** -0.5 * torch.outer(direction, direction)
    return mean, whitening


@pytest.mark.parametrize("n", [200, 30], ids=["enough", "fewer images than values"])
@pytest.mark.parametrize("epsilon", [0.1, 0.01])
def test_zca_is_the_plain_formula(n: int, epsilon: float) -> None:
    images = pixels(n)
    mean, whitening = naive_whitening(images, epsilon)
    space = Zca.fit(images, epsilon)
    seen = space.from_pixels(images.double())
    for image, got in zip(images, seen, strict=True):
        expected = (image.double().flatten() - mean) @ whitening
        torch.testing.assert_close(got.flatten(), expected, atol=1e-5, rtol=1e-5)
    back = torch.linalg.inv(whitening)
    for x, got in zip(seen, space.to_pixels(seen), strict=True):
        expected = x.flatten() @ back + mean
        torch.testing.assert_close(got.flatten(), expected, atol=1e-5, rtol=1e-5)


def test_whitened_images_vary_by_their_eigenvalue_over_it_and_the_ridge() -> None:
    images = pixels(400)
    space = Zca.fit(images, 0.05)
    flat = space.from_pixels(images.double()).flatten(1)
    found = torch.linalg.eigvalsh(torch.cov(flat.T))
    expected = space.eigenvalues.double() / (space.eigenvalues.double() + 0.05)
    torch.testing.assert_close(found, expected.sort().values, atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.mean(dim=0), torch.zeros_like(flat[0]), atol=1e-5, rtol=0)


def test_a_fit_looks_at_every_block_of_images() -> None:
    draws = generator(4, "space", "blocks")
    images = torch.rand(5000, 1, 2, 2, generator=draws)
    images[4096:] *= 0.3
    mean, whitening = naive_whitening(images, 0.1)
    got = Zca.fit(images).from_pixels(images[:3].double()).flatten(1)
    expected = (images[:3].double().flatten(1) - mean) @ whitening
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_one_image_shows_no_variance() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Zca.fit(pixels(1))


def normalised() -> Normalised:
    return Normalised.of((0.49, 0.48, 0.44), (0.2, 0.21, 0.22))


SPACES: list[Callable[[], Space]] = [normalised, lambda: Zca.fit(pixels())]


@pytest.mark.parametrize("make", SPACES, ids=["normalised", "zca"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back(make: Callable[[], Space], dtype: torch.dtype) -> None:
    space, x = make(), pixels(20, seed=2).to(dtype)
    seen = space.from_pixels(x)
    assert seen.dtype == dtype
    assert seen.shape == x.shape
    assert not torch.allclose(seen, x, atol=0.1)
    close = 1e-5 if dtype == torch.float32 else 1e-6  # eigenvectors are float32
    torch.testing.assert_close(space.to_pixels(seen), x, atol=close, rtol=0)
    # The same again, from what the first call left behind; another type is another constant.
    assert torch.equal(space.from_pixels(x), seen)
    other = torch.float64 if dtype == torch.float32 else torch.float32
    again = space.from_pixels(x.to(other))
    assert again.dtype == other
    torch.testing.assert_close(again, seen.to(other), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", SPACES, ids=["normalised", "zca"])
def test_gradients_are_pulled_back_as_autograd_does(make: Callable[[], Space]) -> None:
    space, x = make(), pixels(5, seed=3).double().requires_grad_()
    weights = torch.randn(5, 4, *SHAPE, generator=generator(3, "weights"), dtype=torch.float64)
    seen = space.from_pixels(x)
    pulled = space.pull_back(weights)  # four gradients an image
    for k in range(4):
        (plain,) = torch.autograd.grad((seen * weights[:, k]).sum(), x, retain_graph=True)
        torch.testing.assert_close(pulled[:, k], plain, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(space.pull_back(weights[:, k]), plain, atol=1e-12, rtol=1e-12)


def test_any_layout_of_memory_is_whitened_alike() -> None:
    space, x = Zca.fit(pixels()), pixels(6, seed=5)
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(space.from_pixels(last), space.from_pixels(x))
    assert torch.equal(space.to_pixels(last), space.to_pixels(x))
    assert torch.equal(space.pull_back(last), space.pull_back(x))


def test_normalising_has_the_bits_it_always_had() -> None:
    """As datasets and attacks wrote it before there were spaces."""
    space, x = normalised(), pixels(20)
    mean, std = space.mean.to(x).view(-1, 1, 1), space.std.to(x).view(-1, 1, 1)
    assert torch.equal(space.from_pixels(x), (x - mean) / std)
    assert torch.equal(space.to_pixels(x), x * std + mean)
    assert torch.equal(space.pull_back(x), x / std)


def test_spaces_know_each_other_apart() -> None:
    one, again = Zca.fit(pixels()), Zca.fit(pixels())
    others = [
        Zca.fit(pixels(), 0.2),
        Zca.fit(pixels(seed=2)),
        normalised(),
        Normalised.of((0.49, 0.48, 0.44), (0.2, 0.21, 0.23)),
        Normalised.of((0.49, 0.48, 0.45), (0.2, 0.21, 0.22)),
    ]
    assert one.identity == again.identity
    known: list[Any] = [one.identity]
    for other in others:
        assert other.identity not in known
        known.append(other.identity)
    assert {one.name, others[2].name} == {"zca", "normalised"}


def test_a_sketch_is_of_the_images_and_the_ridge_alone() -> None:
    images = pixels()
    order = torch.randperm(len(images), generator=generator(1, "order"))
    sketch = Zca.fit(images).sketch
    assert sketch.fits(Zca.fit(images[order]).sketch)
    assert not sketch.fits(Zca.fit(images, 0.11).sketch)
    assert not sketch.fits(Zca.fit(pixels(seed=2)).sketch)
    assert not sketch.fits(Zca.fit(images[:, :1]).sketch)
    assert len(sketch.values) == 16
    mean, whitening = naive_whitening(images, 0.1)
    image = torch.rand(D, generator=generator(0, "sketch"), dtype=torch.float64)
    expected = ((image - mean) @ whitening)[::3]
    assert sketch.values == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_whitening_comes_back() -> None:
    space = Zca.fit(pixels(), 0.2)
    read = Zca.restored(space.state, SHAPE)
    assert read.identity == space.identity
    assert read.epsilon == 0.2


def scaled(tensor: Tensor) -> Tensor:
    made = tensor.clone()
    made[:, 5] *= 1.1
    return made


def negative(tensor: Tensor) -> Tensor:
    made = tensor.clone()
    made[0] = -1e-3
    return made


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("mean", lambda t: None, "mean are no float tensor"),
        ("mean", lambda t: t.long(), "mean are no float tensor"),
        ("mean", lambda t: t[1:], "mean have the shape (47,)"),
        ("mean", lambda t: t / 0, "mean hold values"),
        ("mean", lambda t: t[:1].clone().expand(D), "mean hold values"),
        ("eigenvalues", lambda t: t.view(1, D), "eigenvalues have the shape"),
        ("eigenvalues", negative, "below 0"),
        ("eigenvectors", lambda t: t[:, 1:], "eigenvectors have the shape"),
        ("eigenvectors", scaled, "not orthonormal"),
        ("eigenvectors", lambda t: torch.zeros_like(t), "not orthonormal"),
        ("epsilon", lambda t: 0.0, "epsilon 0.0"),
        ("epsilon", lambda t: float("inf"), "epsilon inf"),
        ("epsilon", lambda t: "0.1", "epsilon 0.1"),
    ],
)
def test_what_is_no_whitening_is_refused(
    name: str, damage: Callable[[Any], Any], words: str
) -> None:
    state = Zca.fit(pixels()).state
    with pytest.raises(ValueError) as caught:
        Zca.restored({**state, name: damage(state[name])}, SHAPE)
    assert words in str(caught.value)
