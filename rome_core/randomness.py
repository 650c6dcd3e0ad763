"""Where every random number comes from: one seed and the name of the draw.

Owns the only way to make a generator. Nothing in the core reads the clock or the global generator,
and no generator is stored: it is made anew where it is used, so a resumed run draws what an
undisturbed one draws.
"""

import hashlib
import json

import torch


def generator(seed: int, *path: str | int) -> torch.Generator:
    """Make the CPU generator of one draw.

    Its seed is the first 63 bits of SHA-256 over the JSON list `[seed, *path]`, so neighbouring
    seeds and paths are unrelated, and `1` and `"1"` are different steps of a path. Raises TypeError
    for any other type.

    PyTorch's CPU engine, a Mersenne Twister, starts from the low 32 bits of that number: two paths
    of one run may share a stream by chance, but neither can be told from the other's name.
    """
    for step in (seed, *path):
        if isinstance(step, bool) or not isinstance(step, str | int):
            raise TypeError(f"a seed path holds str and int, not {type(step).__name__}: {step!r}")
    encoding = json.dumps([seed, *path], separators=(",", ":")).encode()
    number = int.from_bytes(hashlib.sha256(encoding).digest()[:8], "big") >> 1
    made = torch.Generator(device="cpu")
    made.manual_seed(number)
    return made


class ImageDraws:
    """Random numbers that belong to images, not to batches.

    A number is a hash of (seed, path, image, position): SplitMix64 (Steele et al. 2014) at a
    position that the image's number gives. So an image's draws are the same in whatever batch,
    order, shard or resumed run it is attacked, and finished images may leave a batch without moving
    the others' draws. `images` (n,) holds the number of each image of the batch in its dataset;
    `rows` below are positions in the batch.
    """

    def __init__(self, seed: int, *path: str | int, images: torch.Tensor) -> None:
        self._seed, self._path = seed, path
        self._images = images.to(torch.int64)

    def take(self, rows: torch.Tensor) -> "ImageDraws":
        """The draws of some of the images, numbered anew: each keeps its own."""
        return ImageDraws(self._seed, *self._path, images=self._images[rows])

    def under(self, *name: str | int) -> "ImageDraws":
        """Other draws for the same images, such as those of one attack of several."""
        return ImageDraws(self._seed, *self._path, *name, images=self._images)

    def uniform(self, rows: torch.Tensor, shape: tuple[int, ...], *name: str | int) -> torch.Tensor:
        """Uniform in [0, 1), (m, *shape) float32 with 24 random bits, under a name of its own."""
        return (self._bits(rows, shape, name) >> 40 & 0xFFFFFF).to(torch.float32) / 2**24

    def normal(self, rows: torch.Tensor, shape: tuple[int, ...], *name: str | int) -> torch.Tensor:
        """Standard normal, (m, *shape) float32, by Box and Muller."""
        radius = 1 - self.uniform(rows, shape, *name, "radius")  # in (0, 1]
        angle = self.uniform(rows, shape, *name, "angle")
        return (-2 * radius.log()).sqrt() * (2 * torch.pi * angle).cos()

    def signs(self, rows: torch.Tensor, shape: tuple[int, ...], *name: str | int) -> torch.Tensor:
        """-1 or 1 with equal chances, (m, *shape) float32."""
        return (self._bits(rows, shape, name) >> 63).to(torch.float32) * 2 + 1

    def integers(
        self, rows: torch.Tensor, shape: tuple[int, ...], high: int, *name: str | int
    ) -> torch.Tensor:
        """Uniform in 0 .. high - 1, (m, *shape) int64; `high` at most 2**24."""
        return (self._bits(rows, shape, name) >> 40 & 0xFFFFFF) * high >> 24

    def _bits(
        self, rows: torch.Tensor, shape: tuple[int, ...], name: tuple[str | int, ...]
    ) -> torch.Tensor:
        key = _key(self._seed, (*self._path, *name))
        size = int(torch.Size(shape).numel())
        place = torch.arange(size, device=self._images.device)
        z = (self._images[rows].view(-1, 1) << 32) + place
        z = z * _GOLDEN + key  # SplitMix64: a Weyl sequence, its terms then mixed
        z = (z ^ _shifted(z, 30)) * _MIX_1
        z = (z ^ _shifted(z, 27)) * _MIX_2
        return (z ^ _shifted(z, 31)).view(-1, *shape)


def _signed(number: int) -> int:
    """An unsigned 64-bit number as PyTorch's int64 holds it."""
    return number - 2**64 if number >= 2**63 else number


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shifted(z: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical shift to the right: PyTorch's own repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _key(seed: int, path: tuple[str | int, ...]) -> int:
    encoding = json.dumps([seed, *path], separators=(",", ":")).encode()
    return _signed(int.from_bytes(hashlib.sha256(encoding).digest()[:8], "big"))
