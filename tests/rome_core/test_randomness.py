import hashlib
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rome_core.randomness import ImageDraws, generator


def draw(*path: str | int) -> torch.Tensor:
    return torch.rand(8, generator=generator(*path))  # type: ignore[arg-type]  # the seed is an int


def test_the_same_path_draws_the_same():
    assert torch.equal(draw(3, "pool", 1), draw(3, "pool", 1))


@pytest.mark.parametrize(
    "other", [(4, "pool", 1), (3, "pool", 2), (3, "pool"), (3, "pool", "1"), (3, "pool", 1, 0)]
)
def test_another_path_draws_something_else(other: tuple[str | int, ...]):
    assert not torch.equal(draw(3, "pool", 1), draw(*other))


def test_the_boundaries_between_steps_count():
    assert not torch.equal(draw(0, "ab", "c"), draw(0, "a", "bc"))


def test_the_seed_is_the_first_63_bits_of_the_hash():
    digest = hashlib.sha256(b'[3,"pool",1]').digest()
    assert generator(3, "pool", 1).initial_seed() == int.from_bytes(digest[:8], "big") // 2


@pytest.mark.parametrize("step", [True, 1.0, None])
def test_other_types_are_refused(step: object):
    with pytest.raises(TypeError, match="str and int"):
        generator(0, step)  # type: ignore[arg-type]  # the point of the test


def split_mix(key: int, state: int) -> int:
    """SplitMix64 in whole numbers: the output for one state of its Weyl sequence, 64 bits."""
    whole = 2**64 - 1
    z = (state * 0x9E3779B97F4A7C15 + key) & whole
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & whole
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & whole
    return z ^ (z >> 31)


def test_the_mixing_is_split_mix_64() -> None:
    """The first numbers of the reference implementation seeded with 0 and with 1234567."""
    assert [split_mix(0, n) for n in (1, 2, 3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]
    assert split_mix(1234567, 1) == 6457827717110365317


def by_hand(seed: int, path: list[str | int], image: int, place: int) -> int:
    encoding = json.dumps([seed, *path], separators=(",", ":")).encode()
    key = int.from_bytes(hashlib.sha256(encoding).digest()[:8], "big")
    return split_mix(key, (image << 32) + place)


IMAGES = torch.tensor([7, 0, 123_456, 2**31 - 1, 3])


def draws(seed: int = 5, *path: str | int) -> ImageDraws:
    return ImageDraws(seed, *(path or ("attack", 1)), images=IMAGES)


def test_every_number_is_the_hash_of_seed_names_image_and_place() -> None:
    rows, shape = torch.tensor([2, 0, 3]), (2, 3)
    bits = [
        [by_hand(5, ["attack", 1, "start", 0], int(IMAGES[row]), place) for place in range(6)]
        for row in rows
    ]

    def told(numbers: torch.Tensor) -> list[list[float]]:
        assert numbers.shape == (3, 2, 3)
        return numbers.flatten(1).tolist()

    made = draws()
    uniform = made.uniform(rows, shape, "start", 0)
    assert uniform.dtype == torch.float32
    assert told(uniform) == [[(z >> 40) / 2**24 for z in of] for of in bits]
    signs = made.signs(rows, shape, "start", 0)
    assert told(signs) == [[-1 if z >> 63 else 1 for z in of] for of in bits]
    for high in (1, 2, 10, 1000, 2**24):
        integers = made.integers(rows, shape, high, "start", 0)
        assert integers.dtype == torch.int64
        assert told(integers) == [[(z >> 40) * high >> 24 for z in of] for of in bits]


def test_normal_numbers_are_box_and_mullers() -> None:
    rows = torch.tensor([1, 4])
    radius = 1 - draws().uniform(rows, (50,), "n", "radius").double()
    angle = draws().uniform(rows, (50,), "n", "angle").double()
    expected = (-2 * radius.log()).sqrt() * (2 * torch.pi * angle).cos()
    found = draws().normal(rows, (50,), "n")
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    assert found.isfinite().all()


@given(
    chosen=st.lists(st.integers(0, 4), min_size=1, max_size=8),
    order=st.permutations(range(5)),
)
def test_an_images_draws_are_its_own_in_any_batch(chosen: list[int], order: list[int]) -> None:
    """Whatever else is in the batch, in whatever order, asked for by whatever rows."""
    whole = draws().uniform(torch.arange(5), (3, 4), "name")
    rows = torch.tensor(chosen)
    assert torch.equal(draws().uniform(rows, (3, 4), "name"), whole[rows])
    assert torch.equal(
        draws().take(rows).uniform(torch.arange(len(rows)), (3, 4), "name"), whole[rows]
    )
    turned = ImageDraws(5, "attack", 1, images=IMAGES[torch.tensor(order)])
    assert torch.equal(turned.uniform(torch.arange(5), (3, 4), "name"), whole[torch.tensor(order)])


def test_names_are_streams_of_their_own() -> None:
    rows = torch.arange(5)
    streams = [
        draws(),
        draws(6),
        draws(5, "attack", 2),
        draws(5, "attack", "1"),
        draws(5, "attack"),
        draws(5, "attack", 1, "more"),
        draws().under("stage"),
        draws().under("stage", 0),
    ]
    seen = [stream.uniform(rows, (8,), "a") for stream in streams]
    seen += [draws().uniform(rows, (8,), *name) for name in (("b",), ("a", 0), (0,), ("a", "0"))]
    for number, one in enumerate(seen):
        assert not any(torch.equal(one, other) for other in seen[:number])
    # What `under` does is to lengthen the path.
    assert torch.equal(seen[5], draws().under("more").uniform(rows, (8,), "a"))
    assert torch.equal(seen[6], draws().uniform(rows, (8,), "stage", "a"))


def test_no_two_images_or_places_share_a_number() -> None:
    many = ImageDraws(1, "distinct", images=torch.arange(200))
    bits = many._bits(torch.arange(200), (500,), ("a",))
    assert len(torch.unique(bits)) == 200 * 500


CHI_SQUARE_255 = 347.7  # exceeded with probability 1e-4 by 255 degrees of freedom


def chi_square(counts: torch.Tensor) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected).square() / expected).sum())


def test_numbers_are_uniform_and_images_and_places_independent() -> None:
    """Chi-square over 256 bins, of numbers and of pairs of neighbours, with a fixed seed."""
    many = ImageDraws(2, "chi", images=torch.arange(400))
    x = many.uniform(torch.arange(400), (256,), "a")
    assert 0 <= float(x.min()) < float(x.max()) < 1
    bins = (x * 256).long()
    assert chi_square(torch.bincount(bins.flatten(), minlength=256)) < CHI_SQUARE_255
    coarse = (x * 16).long()
    for one, other in (
        (coarse[:, ::2], coarse[:, 1::2]),  # neighbouring places
        (coarse[::2], coarse[1::2]),  # neighbouring images
    ):
        pairs = (16 * one + other).flatten()
        assert chi_square(torch.bincount(pairs, minlength=256)) < CHI_SQUARE_255
    other = many.uniform(torch.arange(400), (256,), "b")
    pairs = (16 * coarse + (other * 16).long()).flatten()
    assert chi_square(torch.bincount(pairs, minlength=256)) < CHI_SQUARE_255


@pytest.mark.parametrize("high", [1, 2, 3, 10, 256, 1000, 2**24])
def test_integers_reach_every_number_below_high_and_never_high(high: int) -> None:
    many = ImageDraws(3, "integers", images=torch.arange(100))
    x = many.integers(torch.arange(100), (1000,), high, "a")
    assert int(x.min()) >= 0
    assert int(x.max()) < high
    if high <= 256:
        counts = torch.bincount(x.flatten(), minlength=high)
        assert len(counts) == high
        assert float((counts / counts.sum() * high - 1).abs().max()) < 0.25


def test_the_largest_draw_stays_below_high(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 24 bits set: what comes nearest to 1, and to `high`."""
    monkeypatch.setattr(
        ImageDraws, "_bits", lambda self, rows, shape, name: torch.full((len(rows), *shape), -1)
    )
    rows = torch.arange(2)
    assert float(draws().uniform(rows, (1,)).max()) == 1 - 2**-24
    for high in (1, 2, 3, 255, 2**24):
        assert draws().integers(rows, (1,), high).tolist() == [[high - 1]] * 2
    assert draws().normal(rows, (1,)).isfinite().all()


def test_signs_are_balanced() -> None:
    many = ImageDraws(4, "signs", images=torch.arange(300))
    x = many.signs(torch.arange(300), (300,), "a")
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(x.mean())) < 4 / 300  # four standard errors
    assert abs(float((x[:, 1:] * x[:, :-1]).mean())) < 4 / 299


def test_normal_numbers_have_their_moments() -> None:
    many = ImageDraws(5, "normal", images=torch.arange(300))
    x = many.normal(torch.arange(300), (300,), "a").double()
    assert abs(float(x.mean())) < 4 / 300
    assert abs(float(x.var()) - 1) < 4 * 2**0.5 / 300
    within = float((x.abs() < 1).double().mean())
    assert within == pytest.approx(0.6827, abs=4 * 0.4655 / 300)
