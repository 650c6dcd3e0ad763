import hashlib

import pytest
import torch

from rome_core.randomness import generator


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
