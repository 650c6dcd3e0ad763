"""The whole training set as a set, and sets stored as pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from rome_core.card import save_card
from rome_core.data import Dataset
from rome_core.distillation.full import Full
from rome_core.errors import CoreError
from rome_core.recipes.full import FullHyperparameters
from rome_core.sprite import SHOWN, save_png
from rome_core.synthetic import SyntheticSet, load, save_pt, save_safetensors

SAVERS = {"pt": save_pt, "safetensors": save_safetensors}


def of_levels(dataset: Dataset) -> Dataset:
    """The same images, of 256 levels, and one of class 0 less than of the others."""
    images = (dataset.train_images * 255).round().div(255)
    return replace(dataset, train_images=images[1:], train_labels=dataset.train_labels[1:])


def full(dataset: Dataset, augmentation: str | None = None) -> SyntheticSet:
    method = Full(dataset, FullHyperparameters(augmentation=augmentation))
    assert method.iterations == 1
    method.step()
    method.load_state_dict(method.state_dict())
    return method.synthetic_set()


def test_it_holds_every_training_image_class_by_class(tiny: Dataset) -> None:
    uneven = of_levels(tiny)
    whole = full(uneven)
    assert whole.labels.bincount().tolist() == [11, 12, 12]
    assert whole.labels.tolist() == sorted(whole.labels.tolist())
    assert (whole.ipc, whole.factor, whole.method) == (12, 1, "full")
    for label in range(3):
        own = uneven.normalise(uneven.train_images[uneven.train_labels == label])
        assert torch.equal(whole.images[whole.labels == label], own)
    assert whole.augmentation == uneven.augmentation
    assert full(uneven, "none").augmentation == "none"


@pytest.mark.parametrize("ending", list(SAVERS))
def test_pixels_come_back_as_the_same_images_from_a_quarter_of_the_space(
    tiny: Dataset, tmp_path: Path, ending: str
) -> None:
    whole = replace(full(of_levels(tiny)), preset=None)
    assert whole.storage == "uint8"
    pixels, floats = tmp_path / f"pixels.{ending}", tmp_path / f"floats.{ending}"
    SAVERS[ending](whole, pixels)
    SAVERS[ending](replace(whole, storage="float32"), floats)
    assert pixels.stat().st_size < 0.4 * floats.stat().st_size
    read = load(pixels)
    assert torch.equal(read.images, whole.images)
    assert torch.equal(read.labels, whole.labels)
    assert read.metadata() == whole.metadata()
    assert (read.metadata()["storage"], read.metadata()["format_version"]) == ("uint8", 2)
    assert "storage" not in load(floats).metadata()
    again = tmp_path / f"again.{ending}"
    SAVERS[ending](read, again)
    assert again.read_bytes() == pixels.read_bytes()


def test_nobody_takes_pixels_for_images(tiny: Dataset, tmp_path: Path) -> None:
    """What reads `data`, as the field's code does, must not find 0 to 255 there."""
    save_pt(full(of_levels(tiny)), tmp_path / "set.pt")
    content = torch.load(tmp_path / "set.pt", weights_only=True)
    assert "data" not in content
    assert content["normalised"] is False
    save_safetensors(full(of_levels(tiny)), tmp_path / "set.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "set.safetensors")
    assert tensors["levels"].dtype == torch.uint8
    assert "images" not in tensors


def test_what_pixels_would_not_bring_back_is_stored_as_it_is(tiny: Dataset) -> None:
    assert full(tiny).storage == "float32"  # no 256 levels
    whitened = of_levels(tiny).whitened()
    assert full(whitened).storage == "float32"  # whose last bits are a machine's own
    assert torch.equal(
        full(whitened).images.sort(dim=0).values,
        whitened.normalise(whitened.train_images).sort(dim=0).values,
    )


@pytest.mark.parametrize(
    "levels",
    [
        None,
        torch.zeros(2, 3, 8, 8),
        torch.zeros(2, 3, 8, dtype=torch.uint8),
        torch.zeros(3, 3, 8, 8, dtype=torch.uint8),
    ],
    ids=["none", "floats", "no images", "more than labels"],
)
def test_garbled_pixels_are_refused(
    tiny: Dataset, tmp_path: Path, levels: torch.Tensor | None
) -> None:
    path = tmp_path / "set.pt"
    save_pt(full(of_levels(tiny)), path)
    content = torch.load(path, weights_only=True)
    content["levels"] = [] if levels is None else [[levels, torch.tensor([0, 1])]]
    torch.save(content, path)
    with pytest.raises(CoreError) as caught:
        load(path)
    assert caught.value.code == "artifact_invalid"


def test_blocks_change_nothing(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = of_levels(tiny)
    whole = full(levels)
    monkeypatch.setattr("rome_core.distillation.full.BLOCK", 8)
    parts = full(levels)
    assert torch.equal(parts.images, whole.images)
    assert torch.equal(parts.labels, whole.labels)
    assert parts.storage == "uint8"
    # The images of the first blocks alone have 256 levels.
    images = levels.train_images.clone()
    images[levels.train_labels.argsort(stable=True)[-1], 0, 0, 0] = 0.5
    assert full(replace(levels, train_images=images)).storage == "float32"
    images[levels.train_labels.argsort(stable=True)[-1], 0, 0, 0] = 0.0
    images[levels.train_labels.argsort(stable=True)[0], 0, 0, 0] = 0.5
    assert full(replace(levels, train_images=images)).storage == "float32"


@pytest.mark.parametrize(
    ("pixels", "size"),
    [
        (10**6, (3 * 66 + 2, 12 * 66 + 2)),  # eight times as large, for there is room
        (3 * 12 * 18**2, (3 * 18 + 2, 12 * 18 + 2)),  # twice
        (3 * 12 * 10**2, (3 * 10 + 2, 12 * 10 + 2)),
        (3 * 4 * 10**2 + 99, (3 * 10 + 2, 4 * 10 + 2)),  # four images of each class
        (2 * 10**2, (2 * 10 + 2, 1 * 10 + 2)),  # one of two classes
        (1, (10 + 2, 10 + 2)),
    ],
)
def test_its_preview_has_a_bound_in_pixels(
    tiny: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pixels: int,
    size: tuple[int, int],
) -> None:
    monkeypatch.setattr("rome_core.sprite.PIXELS", pixels)
    whole = full(tiny)
    save_png(whole, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        picture = np.asarray(opened)
    assert picture.shape == (*size, 3)
    first = (whole.pixels[0, :, 0, 0] * 255).round().int()
    assert picture[2, 2].tolist() == first.tolist()


def test_its_preview_shows_the_first_of_each_class(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = full(tiny)
    few = torch.cat([torch.nonzero(whole.labels == label).flatten()[:5] for label in range(3)])
    save_png(replace(whole, images=whole.images[few], labels=whole.labels[few]), tmp_path / "a.png")
    monkeypatch.setattr("rome_core.sprite.SHOWN", 5)
    save_png(whole, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert SHOWN >= 50  # the largest sets that are distilled as a rule are shown whole


def test_its_card_reads_pixels_and_says_what_classes_have(tiny: Dataset, tmp_path: Path) -> None:
    whole = full(of_levels(tiny))
    spec = {"preset": None, "overrides": [], "seed": 1}
    save_card(whole, spec, tmp_path / "card.md")
    card = (tmp_path / "card.md").read_text()
    assert "up to 12 images per class" in card
    save_pt(whole, tmp_path / "synthetic.pt")
    code = card.split("```python")[1].split("```")[0]
    found: dict[str, torch.Tensor] = {}
    exec(code.replace("synthetic.pt", str(tmp_path / "synthetic.pt")), found)
    # The card rounds statistics to four digits.
    torch.testing.assert_close(found["images"], whole.images, rtol=0, atol=5e-3)
    assert torch.equal(found["labels"], whole.labels)
