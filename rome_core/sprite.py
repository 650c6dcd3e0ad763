"""A synthetic set as one picture: a class a row, in pixels.

Owns the layout of the PNG. Its bytes depend on the set alone.
"""

import io
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from rome_core.files import write_atomically
from rome_core.synthetic import SyntheticSet

TILE = 64  # Screen pixels an image of a small set is enlarged to; nearest, so nothing is invented.
WIDTH = 2048  # Nothing is enlarged beyond this.
GAP = 2
SHOWN = 200  # Images of a class at most, the first: a whole dataset makes no picture.
PIXELS = 50_000_000  # Of the whole picture: first columns are left out beyond it, then classes.


def save_png(synthetic: SyntheticSet, path: Path) -> None:
    """Write the images, as pixels and clipped, one class a row in order, packed as stored."""
    _, channels, height, width = synthetic.images.shape
    room = PIXELS // ((height + GAP) * (width + GAP))  # images
    count = max(1, min(synthetic.classes, room))
    most = max(1, min(SHOWN, room // count))
    places = [torch.nonzero(synthetic.labels == c).flatten()[:most] for c in range(count)]
    columns = max(1, *(len(row) for row in places))
    scale = max(1, min(TILE // width, WIDTH // (columns * width)))
    while scale > 1 and count * columns * (height * scale + GAP) * (width * scale + GAP) > PIXELS:
        scale -= 1
    tall, wide = height * scale + GAP, width * scale + GAP
    sheet = torch.full((channels, count * tall + GAP, columns * wide + GAP), 255, dtype=torch.uint8)
    for r, own in enumerate(places):
        row = replace(synthetic, images=synthetic.images[own]).pixels if len(own) else ()
        for c, image in enumerate(row):
            levels = (image * 255).round().to(torch.uint8)
            large = levels.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
            top, left = GAP + r * tall, GAP + c * wide
            sheet[:, top : top + height * scale, left : left + width * scale] = large
    array = sheet[0].numpy() if channels == 1 else sheet.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", optimize=False)
    write_atomically(path, buffer.getvalue())
