"""The dataset card: what a synthetic set is, for whoever finds the file alone.

Owns the markdown. Its bytes depend on the set and its spec alone.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rome_core.files import write_atomically
from rome_core.recipes import catalogue, spec_hash
from rome_core.recipes.datasets import DATASETS
from rome_core.space import Normalised
from rome_core.synthetic import SyntheticSet


def save_card(synthetic: SyntheticSet, spec: Mapping[str, Any], path: Path) -> None:
    """Write the card of a set made from a canonical spec."""
    write_atomically(path, _card(synthetic, spec).encode())


def _card(synthetic: SyntheticSet, spec: Mapping[str, Any]) -> str:
    recipe = catalogue.method(synthetic.method)
    facts = DATASETS.get(synthetic.dataset)
    title = facts.title if facts else synthetic.dataset
    count, channels, height, width = synthetic.images.shape
    packed = (
        f"Each image packs {synthetic.factor**2} at half size: decode with "
        "`rome_core.augment.expand` before training."
        if synthetic.factor > 1
        else "Images are plain, nothing is packed."
    )
    lines = [
        f"# {recipe.title if recipe else synthetic.method} on {title}, {_each(synthetic)}",
        "",
        f"{count} images of {channels}x{height}x{width}, {synthetic.classes} classes. {packed}",
        "",
        "## Use",
        "",
        "```python",
        "import torch",
        "",
        'content = torch.load("synthetic.pt", weights_only=True)',
        *_units(synthetic),
        f"Train with the augmentation `{synthetic.augmentation}` (DSA, one operator a batch) and "
        f"a learning rate of {synthetic.learning_rate:g}.",
        "",
        "## Made by",
        "",
        f"* method `{synthetic.method}`, preset `{spec['preset'] or 'none'}`"
        + (f", overriding {', '.join(spec['overrides'])}" if spec["overrides"] else ""),
        *([f"* network `{synthetic.network}`"] if synthetic.network else []),
        f"* seed {spec['seed']}",
        f"* spec sha256 `{spec_hash(spec)}`",
        "",
        "```json",
        json.dumps(spec, indent=2, sort_keys=True),
        "```",
        "",
        "## Source",
        "",
    ]
    if recipe and recipe.paper:
        lines += [f"* {recipe.paper}"]
    if facts:
        lines += [
            f"* {facts.citation}",
            f"* licence of the real images: {facts.licence}",
        ]
    else:
        lines += [f"* `{synthetic.dataset}`, a dataset of its user's own"]
    preset = catalogue.preset(spec["preset"]) if spec["preset"] else None
    if preset and preset.notes:
        lines += ["", "## Note", "", preset.notes]
    return "\n".join(lines) + "\n"


def _each(synthetic: SyntheticSet) -> str:
    counts = synthetic.labels.bincount(minlength=synthetic.classes)
    even = int(counts.min()) == int(counts.max())
    return f"{'' if even else 'up to '}{synthetic.ipc} images per class"


def _units(synthetic: SyntheticSet) -> list[str]:
    """The code's end, which says how to get images to the set's units, and the words to it."""
    space = synthetic.space
    soft = [] if synthetic.soft_labels is None else SOFT.splitlines()
    said = [] if synthetic.soft_labels is None else [SOFT_SAID]
    if synthetic.storage == "uint8":
        assert isinstance(space, Normalised), "only such sets are stored as pixels"
        return [
            'levels, labels = content["levels"][0]  # pixels uint8 (n, c, h, w), int64 (n,)',
            *soft,
            f"mean = torch.tensor({_numbers(space.mean.tolist())}).view(-1, 1, 1)",
            f"std = torch.tensor({_numbers(space.std.tolist())}).view(-1, 1, 1)",
            "images = (levels / 255 - mean) / std",
            "```",
            "",
            "Stored as pixels of 256 levels; students see them normalised as above, with no ZCA.",
            *said,
        ]
    if isinstance(space, Normalised):
        return [
            'images, labels = content["data"][0]  # normalised float32 (n, c, h, w), int64 (n,)',
            *soft,
            "```",
            "",
            f"Normalised with mean {_numbers(space.mean.tolist())} and std "
            f"{_numbers(space.std.tolist())} per channel of pixels in [0,1]; no ZCA.",
            *said,
        ]
    return [
        'images, labels = content["data"][0]  # whitened float32 (n, c, h, w), int64 (n,)',
        *soft,
        *WHITENING.splitlines(),
        "```",
        "",
        "Whitened by the ZCA of the training images, which takes "
        "the place of normalisation by mean and std. A network trained on them is right on "
        "whitened images alone: test images, as pixels in [0,1], have to go through `whitened` "
        "above.",
        *said,
    ]


SOFT = 'soft_labels = content["soft_labels"]  # probabilities float32 (m, classes)'

SOFT_SAID = (
    "Learn the soft labels, one a decoded image in the order of `rome_core.augment.expand`, by "
    "cross-entropy; `labels` are the true classes."
)

WHITENING = """
zca = content["zca"]
scale = (zca["eigenvalues"] + zca["epsilon"]).rsqrt()
whitening = (zca["eigenvectors"] * scale) @ zca["eigenvectors"].T


def whitened(pixels):  # (n, c, h, w) in [0,1], not normalised by mean and std
    return ((pixels.flatten(1) - zca["mean"]) @ whitening).view(pixels.shape)
"""


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in values) + ")"
