"""TinyImageNet: packed from its folder or archive, read back, and read as DC published it."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rome_core import data
from rome_core.data.packing import pack_found
from rome_core.data.tinyimagenet import read_tinyimagenet
from rome_core.recipes.augmentation import OBJECTS
from rome_core.recipes.datasets import TINYIMAGENET, DatasetFacts, File
from tests.rome_core.data.small import Bytes, failure, images, labels_of

FOLDER = "tiny-imagenet-200"
TRAIN, TEST = (2, 3, 1), (1, 2, 1)
SYNSETS = ("n01443537", "n01629819", "n12267677")
NAMES = ("goldfish", "European fire salamander", "acorn")
FACTS = replace(
    TINYIMAGENET,
    classes=3,
    class_names=NAMES,
    synsets=SYNSETS,
    shape=(3, 8, 8),
    train_per_class=TRAIN,
    test_per_class=TEST,
)


def jpeg(pixels: Bytes) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


def decoded(content: bytes) -> Bytes:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def official() -> dict[str, bytes]:
    """The files of the folder; one of its images is grey, as a few thousand of the real ones."""
    files = {}
    places = [(s, n) for s, count in zip(SYNSETS, TRAIN, strict=True) for n in range(count)]
    for (synset, number), pixels in zip(places, images(6, 8, 8, 3, seed=1), strict=True):
        grey = (synset, number) == (SYNSETS[1], 1)
        files[f"train/{synset}/images/{synset}_{number}.JPEG"] = jpeg(
            pixels[..., 0] if grey else pixels
        )
    lines = []
    for number, (label, pixels) in enumerate(
        zip(labels_of(TEST), images(4, 8, 8, 3, seed=2), strict=True)
    ):
        files[f"val/images/val_{number}.JPEG"] = jpeg(pixels)
        lines.append(f"val_{number}.JPEG\t{SYNSETS[label]}\t0\t1\t62\t63\n")
    files["val/val_annotations.txt"] = "".join(lines).encode()
    files["wnids.txt"] = "\n".join(reversed(SYNSETS)).encode()
    return files


def unpacked(root: Path, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        (root / FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
        (root / FOLDER / path).write_bytes(content)


def archived(root: Path, files: Mapping[str, bytes]) -> DatasetFacts:
    """Write the archive; the facts with its own digest."""
    path = root / f"{FOLDER}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{FOLDER}/{name}", content)
    return with_archive(path.read_bytes())


def with_archive(content: bytes) -> DatasetFacts:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    (archive,) = TINYIMAGENET.packed_from
    return replace(FACTS, packed_from=(replace(archive, md5=md5),))


def in_rows(files: Mapping[str, bytes], part: str) -> torch.Tensor:
    """The images of a split in the order of the files above, as pixels (n, c, h, w)."""
    rows = [decoded(c) for path, c in files.items() if path.startswith(part) and "JPEG" in path]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_packed_and_read_back_the_images_are_those_of_the_files(tmp_path: Path, form: str) -> None:
    files = official()
    facts = FACTS
    if form == "folder":
        unpacked(tmp_path, files)
    else:
        facts = archived(tmp_path, files)
    assert pack_found(facts, tmp_path) == tmp_path / "tinyimagenet.npz"
    read = read_tinyimagenet(facts, tmp_path)
    assert torch.equal(read.train_images, in_rows(files, "train"))
    assert torch.equal(read.test_images, in_rows(files, "val"))
    assert read.train_labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert read.test_labels.tolist() == labels_of(TEST)
    assert (read.class_names, read.augmentation) == (NAMES, OBJECTS)
    assert read.mean.tolist() == list(TINYIMAGENET.mean)
    content = (tmp_path / "tinyimagenet.npz").read_bytes()
    assert read.digests == {"tinyimagenet.npz": hashlib.sha256(content).hexdigest()}


def test_both_ways_pack_the_same_bytes_and_npz_reads_them_too(tmp_path: Path) -> None:
    files = official()
    unpacked(tmp_path, files)
    pack_found(FACTS, tmp_path)
    first = (tmp_path / "tinyimagenet.npz").read_bytes()
    shutil.rmtree(tmp_path / FOLDER)
    pack_found(archived(tmp_path, files), tmp_path)
    assert (tmp_path / "tinyimagenet.npz").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    as_own = data.load("npz:tinyimagenet", tmp_path)
    assert torch.equal(as_own.train_images, in_rows(files, "train"))
    assert as_own.class_names == NAMES


def test_there_is_nothing_to_pack(tmp_path: Path) -> None:
    assert pack_found(FACTS, tmp_path) is None
    error = failure(lambda: data.load("tinyimagenet", tmp_path))
    assert error.code == "dataset_missing"
    assert "tinyimagenet.npz or tinyimagenet.pt" in error.detail
    assert "fetch tinyimagenet" in error.remedy


def without(path: str) -> dict[str, bytes]:
    return {name: content for name, content in official().items() if name != path}


ANNOTATIONS = official()["val/val_annotations.txt"]
FIRST = f"train/{SYNSETS[0]}/images/{SYNSETS[0]}_0.JPEG"


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize(
    ("files", "code", "word"),
    [
        (without(FIRST), "dataset_missing", FIRST),
        (without("val/val_annotations.txt"), "dataset_missing", "val_annotations.txt"),
        (without("val/images/val_3.JPEG"), "dataset_missing", "val_3.JPEG"),
        ({**official(), FIRST: official()[FIRST][:-30]}, "dataset_damaged", FIRST),
        ({**official(), FIRST: jpeg(images(1, 9, 8, 3)[0])}, "dataset_damaged", "8x9 pixels"),
        (
            {**official(), "val/val_annotations.txt": ANNOTATIONS.partition(b"\n")[2]},
            "dataset_damaged",
            "as many images",
        ),
        (
            {**official(), "val/val_annotations.txt": b"val_9.JPEG\tn09999999\t0\t0\t1\t1\n"},
            "dataset_damaged",
            "line 1",
        ),
        (
            {**official(), "val/val_annotations.txt": b"../../x.JPEG\tn01443537\t0\t0\t1\t1\n"},
            "dataset_damaged",
            "line 1",
        ),
    ],
)
def test_a_folder_or_archive_that_is_not_whole(
    tmp_path: Path, form: str, files: dict[str, bytes], code: str, word: str
) -> None:
    facts = FACTS
    if form == "folder":
        unpacked(tmp_path, files)
    else:
        facts = archived(tmp_path, files)
    error = failure(lambda: pack_found(facts, tmp_path))
    assert error.code == code
    assert word in error.detail
    assert list(tmp_path.glob("*.npz")) == []


def test_an_archive_that_is_not_the_published_one_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / f"{FOLDER}.zip").write_bytes(b"another")
    error = failure(lambda: pack_found(FACTS, tmp_path))
    assert (error.code, "MD5" in error.detail) == ("dataset_damaged", True)


def packed(**changes: Any) -> dict[str, Any]:
    arrays = {
        "images": images(6, 8, 8, 3),
        "labels": np.array([0, 0, 1, 1, 1, 2]),
        "test_images": images(4, 8, 8, 3),
        "test_labels": np.array(labels_of(TEST)),
        "class_names": np.array(NAMES),
        **changes,
    }
    return {key: array for key, array in arrays.items() if array is not None}


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        (packed(images=images(5, 8, 8, 3), labels=np.array([0, 0, 1, 1, 2])), "(6, 3, 8, 8)"),
        (packed(images=images(6, 9, 9, 3)), "(6, 3, 8, 8)"),
        (packed(images=images(6, 8, 8)), "(6, 3, 8, 8)"),
        (packed(images=images(6, 8, 8, 3) / 255), "uint8"),
        (packed(labels=np.array([0, 0, 0, 1, 1, 2])), "3 images of class 0 and not 2"),
        (packed(test_labels=np.array([0, 1, 1, 3])), "not 0 to 2"),
        (packed(test_labels=np.array([0, 1, 1, -1])), "from 0"),
        (packed(test_images=None), "'test_images' is missing"),
        (packed(class_names=np.array(NAMES[::-1])), "class_names"),
        (packed(class_names=None), "class_names"),
        (packed(class_names=np.array(NAMES, dtype=object)), "allow_pickle"),
    ],
)
def test_packed_files_of_other_content_are_damaged(
    tmp_path: Path, arrays: dict[str, Any], word: str
) -> None:
    np.savez(tmp_path / "tinyimagenet.npz", **arrays)
    error = failure(lambda: read_tinyimagenet(FACTS, tmp_path))
    assert error.code == "dataset_damaged"
    assert "tinyimagenet.npz" in error.detail
    assert word in error.detail


def published(**changes: Any) -> dict[str, Any]:
    """As DC's tinyimagenet.pt: classes in the order of the folder, images of bytes."""
    held = {
        "classes": list(SYNSETS),
        "images_train": torch.from_numpy(images(6, 3, 8, 8, seed=1)),
        "labels_train": torch.tensor([0, 0, 1, 1, 1, 2]),
        "images_val": torch.from_numpy(images(4, 3, 8, 8, seed=2)),
        "labels_val": torch.tensor(labels_of(TEST)),
        **changes,
    }
    return {key: value for key, value in held.items() if value is not None}


def fractions(seed: int, n: int) -> torch.Tensor:
    return torch.from_numpy(images(n, 3, 8, 8, seed=seed)).float() / 255


@pytest.mark.parametrize("kind", ["bytes", "fractions", "whole numbers"])
def test_the_published_tensors_are_read_whatever_is_white(tmp_path: Path, kind: str) -> None:
    scale = {"bytes": 0, "fractions": 1, "whole numbers": 255}[kind]
    changes = {}
    if scale:
        changes = {"images_train": fractions(1, 6) * scale, "images_val": fractions(2, 4) * scale}
    torch.save(published(**changes), tmp_path / "tinyimagenet.pt")
    read = read_tinyimagenet(FACTS, tmp_path)
    assert torch.allclose(read.train_images, fractions(1, 6), atol=1e-6)
    assert torch.allclose(read.test_images, fractions(2, 4), atol=1e-6)
    assert read.train_images.dtype == torch.float32
    if kind != "whole numbers":
        assert torch.equal(read.train_images, fractions(1, 6))
    assert read.train_labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert read.class_names == NAMES
    assert list(read.digests) == ["tinyimagenet.pt"]


@pytest.mark.parametrize("names", [SYNSETS, NAMES])
def test_labels_count_the_classes_as_we_do(tmp_path: Path, names: tuple[str, ...]) -> None:
    """The file may list the classes in any order, as wnids.txt does."""
    order = [2, 0, 1]  # the file's label 0 is our 2
    there = [order.index(label) for label in [0, 0, 1, 1, 1, 2]]
    held = published(
        classes=[names[label] for label in order],
        labels_train=torch.tensor(there),
        labels_val=torch.tensor([order.index(label) for label in labels_of(TEST)]),
    )
    torch.save(held, tmp_path / "tinyimagenet.pt")
    read = read_tinyimagenet(FACTS, tmp_path)
    assert read.train_labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert read.test_labels.tolist() == labels_of(TEST)
    assert read.class_names == NAMES


def test_names_that_are_none_of_ours_stay(tmp_path: Path) -> None:
    torch.save(published(classes=["c", "a", "b"]), tmp_path / "tinyimagenet.pt")
    read = read_tinyimagenet(FACTS, tmp_path)
    assert read.class_names == ("c", "a", "b")
    assert read.train_labels.tolist() == [0, 0, 1, 1, 1, 2]


def test_the_packed_file_comes_first(tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "tinyimagenet.pt")
    np.savez(tmp_path / "tinyimagenet.npz", **packed())
    assert list(read_tinyimagenet(FACTS, tmp_path).digests) == ["tinyimagenet.npz"]


@pytest.mark.parametrize(
    ("held", "word"),
    [
        ([1], "no dictionary"),
        (published(classes=None), "3 strings"),
        (published(classes=["a", "b"]), "3 strings"),
        (published(classes=[1, 2, 3]), "3 strings"),
        (published(images_train=None), "no tensor images_train"),
        (published(images_val=[1]), "no tensor images_val"),
        (published(images_val=torch.zeros(1, dtype=torch.uint8).expand(4, 3, 8, 8)), "images_val"),
        (published(images_train=fractions(1, 5)), "(6, 3, 8, 8)"),
        (published(images_train=fractions(1, 6) * 300), "not 0 to 255"),
        (published(images_train=fractions(1, 6) - 1), "not 0 to 255"),
        (published(images_train=fractions(1, 6) * float("nan")), "not 0 to 255"),
        (published(images_train=torch.zeros(6, 3, 8, 8, dtype=torch.int64)), "int64"),
        (published(labels_train=torch.tensor([0.0, 0, 1, 1, 1, 2])), "labels_train"),
        (published(labels_train=torch.tensor([0, 0, 1, 1, 1, 3])), "labels_train"),
        (published(labels_train=torch.tensor([0, 0, 1, 1, 1, -1])), "labels_train"),
        (published(labels_train=torch.tensor([0, 0, 1, 1, 1])), "holds images"),
        (published(labels_val=torch.tensor([0, 0, 0, 0])), "4 images of class 0"),
    ],
)
def test_published_tensors_of_other_content_are_damaged(
    tmp_path: Path, held: Any, word: str
) -> None:
    torch.save(held, tmp_path / "tinyimagenet.pt")
    error = failure(lambda: read_tinyimagenet(FACTS, tmp_path))
    assert error.code == "dataset_damaged"
    assert word in error.detail


class Exploit:
    """What an unsafe unpickler would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploited"),))


def test_published_files_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (b"", b"no archive", None):
        if content is None:
            torch.save(published(classes=Exploit()), tmp_path / "tinyimagenet.pt")
        else:
            (tmp_path / "tinyimagenet.pt").write_bytes(content)
        assert failure(lambda: read_tinyimagenet(FACTS, tmp_path)).code == "dataset_damaged"
    assert not (tmp_path / "exploited").exists()


def test_the_facts_are_those_of_the_folder() -> None:
    assert len(set(TINYIMAGENET.synsets)) == 200
    assert list(TINYIMAGENET.synsets) == sorted(TINYIMAGENET.synsets)
    assert len(set(TINYIMAGENET.class_names)) == 200
    assert TINYIMAGENET.packed_from[0].instead == (File(f"{FOLDER}/", None),)
    pairs = dict(zip(TINYIMAGENET.synsets, TINYIMAGENET.class_names, strict=True))
    assert [pairs[synset] for synset in SYNSETS] == list(NAMES)
