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


def save_png(synthetic: SyntheticSet, path: Path) -> None:
    """Write the images, as pixels and clipped, one class a row in order, packed as stored."""
    places = [
        torch.nonzero(synthetic.labels == label).flatten()[:SHOWN]
        for label in range(synthetic.classes)
    ]
    shown = replace(synthetic, images=synthetic.images[torch.cat(places)]).pixels
    rows = torch.split(shown, [len(own) for own in places])
    _, channels, height, width = synthetic.images.shape
    columns = max(len(row) for row in rows)
    scale = max(1, min(TILE // width, WIDTH // (columns * width)))
    tall, wide = height * scale + GAP, width * scale + GAP
    sheet = torch.ones(channels, len(rows) * tall + GAP, columns * wide + GAP)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            large = image.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
            top, left = GAP + r * tall, GAP + c * wide
            sheet[:, top : top + height * scale, left : left + width * scale] = large
    levels = (sheet * 255).round().to(torch.uint8)
    array = levels[0].numpy() if channels == 1 else levels.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", optimize=False)
    write_atomically(path, buffer.getvalue())
