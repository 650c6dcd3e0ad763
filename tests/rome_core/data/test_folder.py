"""Folders of images: the same as their pixels in npz, and nothing from outside the data root."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rome_core import data
from rome_core.recipes.augmentation import OBJECTS, SIGNS
from tests.rome_core.data.small import Bytes, failure, images


def save(path: Path, pixels: Bytes, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def filled(
    root: Path,
    part: str,
    pixels: Bytes,
    labels: list[int],
    names: tuple[str, ...] = ("apple", "bear"),
) -> None:
    """One file an image, numbered so that names have the order of the images."""
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        save(root / part / names[label] / f"{number:03}.png", image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("split", ["test", "val", None])
def test_a_folder_equals_the_same_pixels_in_npz(
    tmp_path: Path, split: str | None, channels: int
) -> None:
    shape = (8, 8) if channels == 1 else (8, 8, 3)
    pixels, labels = images(14, *shape, seed=1), [0] * 8 + [1] * 6
    arrays = {"images": pixels, "labels": np.array(labels), "class_names": ["apple", "bear"]}
    filled(tmp_path / "mine", "train", pixels, labels)
    if split is not None:
        held_out = images(3, *shape, seed=2)
        filled(tmp_path / "mine", split, held_out, [0, 0, 1])
        arrays |= {"test_images": held_out, "test_labels": np.array([0, 0, 1])}
    np.savez(tmp_path / "mine.npz", **arrays)
    one, other = data.load("folder:mine", tmp_path), data.load("npz:mine", tmp_path)
    for name in ("train_images", "train_labels", "test_images", "test_labels", "mean", "std"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert (one.classes, one.class_names) == (other.classes, other.class_names)
    assert one.augmentation == other.augmentation == (SIGNS if channels == 1 else OBJECTS)
    assert one.shape == (channels, 8, 8)
    assert split is None or split in one.split
    assert split is not None or "every fifth" in one.split


def test_test_images_come_before_validation(tmp_path: Path) -> None:
    for part, n in (("train", 4), ("test", 2), ("val", 4)):
        filled(tmp_path / "mine", part, images(n, 8, 8), [0, 1] * (n // 2))
    assert len(data.load("folder:mine", tmp_path).test_images) == 2


def test_one_image_in_colour_makes_all_colour(tmp_path: Path) -> None:
    grey, colour = images(4, 8, 8), images(1, 8, 8, 3)
    filled(tmp_path / "mine", "train", grey, [0, 0, 1, 1])
    filled(tmp_path / "mine", "test", colour, [1])
    read = data.load("folder:mine", tmp_path)
    assert read.shape == (3, 8, 8)
    assert torch.equal(
        read.train_images, torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1).float() / 255
    )
    assert torch.equal(read.test_images, torch.from_numpy(colour).permute(0, 3, 1, 2).float() / 255)


def simple(root: Path, *, size: int = 8) -> Path:
    """Two classes, two images each, and one to test with."""
    folder = root / "mine"
    filled(folder, "train", images(4, size, size), [0, 0, 1, 1])
    filled(folder, "test", images(1, size, size, seed=2), [1])
    return folder


def test_all_formats_and_spellings_are_read_and_other_files_passed_over(tmp_path: Path) -> None:
    folder = simple(tmp_path)
    pixels = images(1, 8, 8)[0]
    for name in ("a.PNG", "b.bmp", "c.webp", "d.jpg", "e.JPEG"):
        save(folder / "train" / "bear" / name, pixels)
    before = len(data.load("folder:mine", tmp_path).train_labels)
    assert before == 4 + 5
    digest = data.load("folder:mine", tmp_path).digests
    for name in (".DS_Store", "._a.png", "notes.txt", "Thumbs.db", "deeper/x.png"):
        (folder / "train/bear" / name).parent.mkdir(exist_ok=True)
        (folder / "train/bear" / name).write_bytes(b"no image")
    (folder / "train" / "README").write_bytes(b"not a class")
    (folder / "train" / ".hidden").mkdir()
    assert data.load("folder:mine", tmp_path).digests == digest


def test_the_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    folder = simple(tmp_path)
    seen = [data.load("folder:mine", tmp_path).digests]
    assert list(seen[0]) == ["mine/"]
    shutil.copytree(folder, tmp_path / "copy")
    assert [*data.load("folder:copy", tmp_path).digests.values()] == [*seen[0].values()]
    assert data.load("folder:mine@9", tmp_path).digests == seen[0]
    first, last = (folder / "train/apple" / name for name in ("000.png", "001.png"))
    last.rename(last.with_name("002.png"))
    seen.append(data.load("folder:mine", tmp_path).digests)
    last.with_name("002.png").rename(last)
    first.write_bytes((folder / "train/apple/001.png").read_bytes())
    seen.append(data.load("folder:mine", tmp_path).digests)
    (folder / "test/bear/000.png").write_bytes(first.read_bytes())
    seen.append(data.load("folder:mine", tmp_path).digests)
    assert len({digest["mine/"] for digest in seen}) == 4


@pytest.mark.parametrize("shape", [(24, 40), (40, 24, 3), (24, 24), (6, 10)])
def test_a_side_is_that_of_the_short_one_and_the_middle_is_kept(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    pixels = images(5, *shape)
    filled(tmp_path / "mine", "train", pixels[:4], [0, 0, 1, 1])
    filled(tmp_path / "mine", "test", pixels[4:], [1])
    read = data.load("folder:mine@12", tmp_path)
    height, width = (12 * side // min(shape[:2]) for side in shape[:2])
    top, left = (height - 12) // 2, (width - 12) // 2
    for image, got in zip(pixels, [*read.train_images, *read.test_images], strict=True):
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        cropped = np.asarray(resized)[top : top + 12, left : left + 12].reshape(12, 12, -1)
        expected = torch.tensor(cropped).permute(2, 0, 1).float() / 255
        # Pillow rounds between its two passes, and the order of these depends on the sizes.
        assert torch.allclose(got, expected, atol=1.01 / 255)


def test_resizing_is_antialiased_and_square_images_of_that_size_are_untouched(
    tmp_path: Path,
) -> None:
    folder = simple(tmp_path, size=32)
    stripes = np.zeros((32, 32), dtype=np.uint8)
    stripes[::2] = 255
    save(folder / "train/apple/stripes.png", stripes)
    read = data.load("folder:mine@8", tmp_path)
    assert (read.train_images[2] - 0.5).abs().max() < 0.05  # sampled, it would be black or white
    same = data.load("folder:mine@32", tmp_path)
    assert torch.equal(same.train_images, data.load("folder:mine", tmp_path).train_images)


def test_a_thin_strip_costs_no_memory(tmp_path: Path) -> None:
    """Its short side enlarged to 256 before cropping would give half a gigapixel."""
    folder = simple(tmp_path)
    save(folder / "train/apple/strip.png", np.full((2, 16_000), 9, dtype=np.uint8))
    assert data.load("folder:mine@256", tmp_path).shape == (1, 256, 256)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((8, 10), "train/bear/zz.png is 10x8 pixels, not a square"),
        ((9, 9), "train/bear/zz.png has 9 pixels a side, and those before it 8"),
    ],
)
def test_sizes_that_differ_name_the_first_and_the_way_out(
    tmp_path: Path, shape: tuple[int, int], words: str
) -> None:
    folder = simple(tmp_path)
    save(folder / "train/bear/zz.png", images(1, *shape)[0])
    error = failure(lambda: data.load("folder:mine", tmp_path))
    assert (error.code, words in error.detail) == ("dataset_invalid", True)
    assert "folder:mine@SIZE" in error.remedy
    assert "up to 128" in error.remedy
    assert data.load("folder:mine@8", tmp_path).shape == (1, 8, 8)


@pytest.mark.parametrize("size", [7, 257])
def test_sizes_that_no_network_is_made_for(tmp_path: Path, size: int) -> None:
    simple(tmp_path, size=size)
    error = failure(lambda: data.load("folder:mine", tmp_path))
    assert (error.code, f"{size} pixels a side" in error.detail) == ("dataset_invalid", True)
    assert "folder:mine@SIZE" in error.remedy


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.npz").touch()
    for name in ("mine", "gone"):
        error = failure(lambda name=name: data.load(f"folder:{name}", tmp_path))
        assert error.code == "dataset_missing"
        assert str(tmp_path / name / "train") in error.detail
        assert "train/CLASS/" in error.remedy


def test_layouts_that_are_none(tmp_path: Path) -> None:
    folder = simple(tmp_path)

    def refused(word: str) -> None:
        error = failure(lambda: data.load("folder:mine", tmp_path))
        assert (error.code, word in error.detail) == ("dataset_invalid", True), error.detail

    (folder / "train/empty").mkdir()
    refused("train/empty/ holds no images")
    (folder / "train/empty").rmdir()
    save(folder / "test/cat/0.png", images(1, 8, 8)[0])
    refused("test/ has the class cat")
    shutil.rmtree(folder / "test/cat")
    (folder / "test/bear/000.png").unlink()
    refused("no images")
    shutil.rmtree(folder / "test")
    refused("no test images")  # two of a class have no fifth
    shutil.rmtree(folder / "train/bear")
    refused("C at least 2")
    shutil.rmtree(folder / "train/apple")
    refused("no images")


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = simple(tmp_path) / "train/apple/001.png"
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    error = failure(lambda: data.load("folder:mine", tmp_path))
    assert (error.code, str(path) in error.detail) == ("dataset_damaged", True)


@pytest.mark.parametrize("place", ["", "train", "train/bear", "train/bear/link.png", "test"])
def test_links_out_of_the_data_root_are_refused(tmp_path: Path, place: str) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    folder = simple(root)
    outside = simple(elsewhere)
    target = outside / ("train/bear/002.png" if place.endswith("png") else place)
    path = folder / place
    if path.is_dir():
        shutil.rmtree(path)
    path.symlink_to(target)
    error = failure(lambda: data.load("folder:mine", root))
    assert (error.code, "link out of the data root" in error.detail) == ("dataset_invalid", True)


def test_links_within_the_data_root_are_followed(tmp_path: Path) -> None:
    folder = simple(tmp_path)
    (tmp_path / "other").symlink_to(folder)
    (folder / "train/apple/link.png").symlink_to(folder / "train/bear/002.png")
    read = data.load("folder:other", tmp_path)
    assert read.train_labels.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(read.train_images[2], read.train_images[3])


def test_a_data_root_that_is_a_link_itself(tmp_path: Path) -> None:
    simple(tmp_path / "root")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    assert data.load("folder:mine", tmp_path / "link").classes == 2


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    """A pipe would keep its reader waiting for ever."""
    os.mkfifo(simple(tmp_path) / "train/apple/pipe.png")
    assert len(data.load("folder:mine", tmp_path).train_labels) == 4
