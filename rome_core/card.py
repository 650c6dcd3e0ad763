"""The dataset card: what a synthetic set is, for whoever finds the file alone.

Owns the markdown. Its bytes depend on the set and its spec alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rome_core.files import write_atomically
from rome_core.recipes import catalogue, spec_hash
from rome_core.recipes.datasets import DATASETS
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
        f"# {recipe.title if recipe else synthetic.method} on {title}, "
        f"{synthetic.ipc} images per class",
        "",
        f"{count} images of {channels}x{height}x{width}, {synthetic.classes} classes. {packed}",
        "",
        "## Use",
        "",
        "```python",
        "import torch",
        "",
        'content = torch.load("synthetic.pt", weights_only=True)',
        'images, labels = content["data"][0]  # normalised float32 (n, c, h, w), int64 (n,)',
        "```",
        "",
        f"Normalised with mean {_numbers(synthetic.mean)} and std {_numbers(synthetic.std)} "
        "per channel of pixels in [0,1]; no ZCA.",
        f"Train with the augmentation `{synthetic.augmentation}` (DSA, one operator a batch) and "
        f"a learning rate of {synthetic.learning_rate:g}.",
        "",
        "## Made by",
        "",
        f"* method `{synthetic.method}`, preset `{spec['preset'] or 'none'}`"
        + (f", overriding {', '.join(spec['overrides'])}" if spec["overrides"] else ""),
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


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in values) + ")"
