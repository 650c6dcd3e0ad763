"""Image files, of whatever origin, as bytes of pixels.

Owns which formats are opened and what is refused. Must not resize, or know whose images they are.
"""

import io
import warnings
from typing import Final

from PIL import Image, UnidentifiedImageError

FORMATS: Final = ("PNG", "JPEG", "BMP", "WEBP")
SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
_GREY: Final = ("1", "L", "LA")


def decode(content: bytes) -> Image.Image:
    """The pixels of an image file, read whole: mode L where the file is grey, else RGB.

    A file is grey by its kind, not by its colours. What is refused: other formats, whatever their
    names; truncated files; more than Pillow's limit of pixels, against decompression bombs; more
    than 8 bits a channel in grey; and transparency, under which any colours can lie. An orientation
    noted in a photograph is passed over, as torchvision does.

    Raises ValueError with what is wrong, as the end of a sentence.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of a stranger's file only errors matter, and this:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # A PNG's pixels can be whole while its end is missing: the sums of its parts tell.
            Image.open(io.BytesIO(content), formats=FORMATS).verify()
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            image.load()
            opaque = _opaque(image)
            if opaque and not image.mode.startswith(("I", "F")):
                return image.convert("L" if image.mode in _GREY else "RGB")
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"it is none of {', '.join(FORMATS)}") from error
    # Damaged bytes make Pillow's parsers raise whatever they trip over.
    except Exception as error:
        raise ValueError(str(error).rstrip(".") or type(error).__name__) from error
    if not opaque:
        raise ValueError("parts of it are transparent: save it without an alpha channel")
    raise ValueError("it has more than 8 bits a channel: save it with 8")


def _opaque(image: Image.Image) -> bool:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return True
    extrema = image.convert("RGBA").getchannel("A").getextrema()
    return extrema == (255, 255)
