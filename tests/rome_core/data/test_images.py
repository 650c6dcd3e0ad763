"""Image files: pixels exactly, grey as grey, and nothing that could hide something."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from rome_core.data.images import decode
from tests.rome_core.data.small import images

COLOUR = images(1, 8, 9, 3)[0]
GREY = images(1, 8, 9)[0]


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})]
)
def test_lossless_formats_give_the_pixels(kind: str, options: dict[str, object]) -> None:
    image = decode(stored(Image.fromarray(COLOUR), kind, **options))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), COLOUR)


def test_jpeg_gives_about_the_pixels() -> None:
    smooth = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8).T
    image = decode(stored(Image.fromarray(smooth), "JPEG", quality=95))
    assert image.mode == "L"
    assert np.abs(np.asarray(image).astype(int) - smooth).max() < 8


@pytest.mark.parametrize(
    ("make", "mode", "expected"),
    [
        (lambda: Image.fromarray(GREY), "L", GREY),
        (lambda: Image.fromarray(GREY > 99), "L", (GREY > 99) * 255),
        (lambda: with_alpha(Image.fromarray(GREY), 255), "L", GREY),
        (lambda: with_alpha(Image.fromarray(COLOUR), 255), "RGB", COLOUR),
        (lambda: Image.fromarray(COLOUR // 255 * 255).convert("P"), "RGB", COLOUR // 255 * 255),
    ],
)
def test_every_kind_becomes_grey_or_colour(
    make: Callable[[], Image.Image], mode: str, expected: np.ndarray
) -> None:
    image = decode(stored(make(), "PNG"))
    assert image.mode == mode
    assert np.array_equal(np.asarray(image), expected)


def with_alpha(image: Image.Image, alpha: int) -> Image.Image:
    image.putalpha(alpha)
    return image


def transparent_palette() -> bytes:
    image = Image.fromarray(GREY).convert("P")
    return stored(image, "PNG", transparency=int(GREY[0, 0]))


def huge() -> bytes:
    """A PNG that says it has 20,000 x 20,000 pixels, in a hundred bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        length, check = struct.pack(">I", len(content)), zlib.crc32(kind + content)
        return length + kind + content + struct.pack(">I", check)

    header = struct.pack(">2I5B", 20_000, 20_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


def a_little_huge() -> bytes:
    """Pillow itself would only warn of it."""
    content = huge().replace(struct.pack(">2I", 20_000, 20_000), struct.pack(">2I", 10_000, 10_000))
    return content[:29] + struct.pack(">I", zlib.crc32(content[12:29])) + content[33:]


PNG = stored(Image.fromarray(COLOUR), "PNG")
JPEG = stored(Image.fromarray(COLOUR), "JPEG")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "none of png, jpeg, bmp, webp"),
        (b"no image", "none of"),
        (stored(Image.fromarray(COLOUR), "GIF"), "none of"),
        (stored(Image.fromarray(COLOUR), "TIFF"), "none of"),
        (PNG[:60], "truncated"),
        (PNG[:-40], "truncated"),
        (PNG[:-8], "broken"),
        (PNG[:80] + b"?" + PNG[81:], "broken"),
        (JPEG[:-20], "truncated"),
        (stored(with_alpha(Image.fromarray(COLOUR), 254), "PNG"), "transparent"),
        (stored(with_alpha(Image.fromarray(GREY), 0), "PNG"), "transparent"),
        (stored(with_alpha(Image.fromarray(COLOUR), 9), "WEBP"), "transparent"),
        (transparent_palette(), "transparent"),
        (stored(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"), "8 bits"),
        (huge(), "exceeds limit"),
        (a_little_huge(), "exceeds limit"),
    ],
)
def test_what_is_refused(content: bytes, word: str) -> None:
    with pytest.raises(ValueError) as caught:
        decode(content)
    assert word in str(caught.value).lower()
    assert not str(caught.value).endswith(".")
