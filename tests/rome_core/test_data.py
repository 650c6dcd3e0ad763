"""Datasets: original files read exactly, damaged and hostile ones refused with a way out."""

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rome_core import data
from rome_core.data.cifar import read_cifar
from rome_core.data.dataset import is_test
from rome_core.errors import CoreError
from rome_core.recipes.datasets import CIFAR10, CIFAR100, DIGITS, DatasetFacts, File


def failure(call: Callable[[], object]) -> CoreError:
    with pytest.raises(CoreError) as caught:
        call()
    return caught.value


def test_digits_are_as_the_catalogue_says() -> None:
    digits = data.load("digits", Path("nowhere"))
    assert digits.shape == DIGITS.shape
    assert tuple(digits.train_labels.bincount().tolist()) == DIGITS.train_per_class
    assert tuple(digits.test_labels.bincount().tolist()) == DIGITS.test_per_class
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 1)
    assert digits.train_images.dtype == torch.float32
    measured = digits.train_images.double().std(correction=0), digits.train_images.double().mean()
    assert torch.allclose(
        torch.stack(measured), torch.tensor([*DIGITS.std, *DIGITS.mean]).double(), atol=5e-5
    )
    assert [len(digest) for digest in digits.digests.values()] == [64]


def test_normalising_goes_both_ways() -> None:
    digits = data.load("digits", Path("nowhere"))
    x = digits.normalise(digits.test_images)
    assert x.dtype == torch.float32
    assert torch.allclose(digits.denormalise(x), digits.test_images, atol=1e-6)
    assert abs(float(digits.normalise(digits.train_images).mean())) < 1e-3


def test_every_fifth_of_a_class_is_a_test_image() -> None:
    labels = np.array([0, 1] * 11)
    assert np.flatnonzero(is_test(labels)).tolist() == [8, 9, 18, 19]


# A CIFAR batch as Python 2 wrote it: protocol 2, byte strings, numpy's own reconstruction.


def batch(images: "np.ndarray[Any, np.dtype[np.uint8]]", labels: list[int], key: str) -> bytes:
    """Pickle {data, labels} by hand, opcode by opcode."""
    out = io.BytesIO()

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    out.write(b"\x80\x02}(" + text(b"data"))
    out.write(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
    )
    rows, columns = images.shape
    out.write(
        b"(K\x01"
        + b"J"
        + rows.to_bytes(4, "little")
        + b"J"
        + columns.to_bytes(4, "little")
        + b"\x86"
    )
    out.write(b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR")
    out.write(b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
    out.write(b"\x89" + text(images.tobytes()) + b"tb")
    out.write(
        text(key.encode()) + b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    )
    out.write(b"u.")
    return out.getvalue()


def written(root: Path, facts: DatasetFacts, files: dict[str, bytes]) -> DatasetFacts:
    """Put files under the root and list them, with their own digests, as the dataset's."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)

    def listed(path: str) -> File:
        return File(path, hashlib.md5(files[path], usedforsecurity=False).hexdigest())

    names = list(files)
    return replace(
        facts,
        train_files=tuple(listed(name) for name in names[:-1]),
        test_files=(listed(names[-1]),),
    )


def pixels(n: int, seed: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    return np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)


@pytest.mark.parametrize(("facts", "key"), [(CIFAR10, "labels"), (CIFAR100, "fine_labels")])
def test_cifar_batches_are_read_exactly(tmp_path: Path, facts: DatasetFacts, key: str) -> None:
    first, second, test = pixels(3, 1), pixels(2, 2), pixels(2, 3)
    facts = written(
        tmp_path,
        facts,
        {
            "f/data_batch_1": batch(first, [3, 1, 9], key),
            "f/data_batch_2": batch(second, [0, 2], key),
            "f/test_batch": batch(test, [5, 4], key),
        },
    )
    read = read_cifar(facts, tmp_path)
    both = np.concatenate([first, second]).reshape(-1, 3, 32, 32)
    assert torch.equal(read.train_images, torch.from_numpy(both).float() / 255)
    assert read.train_labels.tolist() == [3, 1, 9, 0, 2]
    assert read.test_labels.tolist() == [5, 4]
    assert list(read.digests) == ["f/data_batch_1", "f/data_batch_2", "f/test_batch"]
    assert read.mean.tolist() == list(facts.mean)


def test_a_missing_file_says_which_where_and_how(tmp_path: Path) -> None:
    error = failure(lambda: data.load("cifar10", tmp_path))
    assert error.code == "dataset_missing"
    assert "data_batch_3" in error.detail
    assert str(tmp_path) in error.detail
    assert "python -m rome_core fetch cifar10" in error.remedy


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    whole = batch(pixels(2, 1), [0, 1], "labels")
    facts = written(tmp_path, CIFAR10, {"f/data_batch_1": whole, "f/test_batch": whole})
    (tmp_path / "f/test_batch").write_bytes(whole[:-100])
    error = failure(lambda: read_cifar(facts, tmp_path))
    assert error.code == "dataset_damaged"
    assert "test_batch" in error.detail
    assert "fetch cifar10" in error.remedy


class Exploit:
    """What an unsafe unpickler would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploited"),))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"data": Exploit(), "labels": []}, protocol=2),
        pickle.dumps([1, 2], protocol=2),
        pickle.dumps({b"data": 3, b"labels": []}, protocol=2),
        batch(pixels(2, 1), [0], "labels")[:-9],
        b"not a pickle",
        b"",
    ],
)
def test_hostile_and_odd_pickles_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    facts = written(tmp_path, CIFAR10, {"f/data_batch_1": content, "f/test_batch": content})
    assert failure(lambda: read_cifar(facts, tmp_path)).code == "dataset_damaged"
    assert not (tmp_path / "exploited").exists()


def images(n: int, *shape: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


def save(root: Path, **arrays: Any) -> None:
    np.savez(root / "mine.npz", **arrays)


def test_npz_with_its_own_test_split(tmp_path: Path) -> None:
    x, labels = images(6, 4, 4, 3), np.array([0, 1, 2] * 2, dtype=np.uint8)
    save(tmp_path, images=x, labels=labels, test_images=x[:2], test_labels=labels[:2])
    read = data.load("npz:mine", tmp_path)
    assert read.shape == (3, 4, 4)
    assert read.classes == 3
    assert torch.equal(read.train_images, torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255)
    assert read.test_labels.tolist() == [0, 1]
    expected = read.train_images.double().mean(dim=(0, 2, 3))
    assert torch.allclose(read.mean, expected)
    spread = (read.train_images.double() - expected.view(-1, 1, 1)).square().mean(dim=(0, 2, 3))
    assert torch.allclose(read.std, spread.sqrt(), rtol=1e-9)
    assert read.split == "the file's own"


def test_npz_without_one_gives_up_every_fifth(tmp_path: Path) -> None:
    save(tmp_path, images=images(20, 4, 4), labels=np.array([0, 1] * 10), class_names=["no", "yes"])
    read = data.load("npz:mine", tmp_path)
    assert (len(read.train_images), len(read.test_images)) == (16, 4)
    assert read.shape == (1, 4, 4)
    assert read.class_names == ("no", "yes")
    assert "every fifth" in read.split


def test_a_channel_that_never_changes_is_divided_by_one(tmp_path: Path) -> None:
    x = images(10, 4, 4, 3)
    x[..., 1] = 51
    save(tmp_path, images=x, labels=np.array([0, 1] * 5))
    read = data.load("npz:mine", tmp_path)
    assert (float(read.mean[1]), float(read.std[1])) == (pytest.approx(0.2), 1)
    assert float(read.std[0]) < 0.5


GOOD = {"images": images(10, 4, 4), "labels": np.array([0, 1] * 5)}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"labels": None}, "'labels' is missing"),
        ({"images": images(10, 4, 4).astype(np.float32)}, "uint8"),
        ({"images": images(10, 4, 6)}, "square"),
        ({"images": images(10, 4, 4, 2)}, "channels"),
        ({"labels": np.arange(9)}, "10 integers"),
        ({"labels": np.linspace(0, 1, 10)}, "10 integers"),
        ({"labels": np.full(10, -1)}, "from 0"),
        ({"labels": np.full(10, 2**40)}, "from 0"),
        ({"labels": np.array([0, 2] * 5)}, "every class present"),
        ({"images": images(4, 4, 4), "labels": np.array([0, 1] * 2)}, "no test images"),
        ({"class_names": np.array(["a"])}, "2 strings"),
        ({"test_images": images(2, 6, 6), "test_labels": np.array([0, 1])}, "shape of images"),
        ({"test_images": images(2, 4, 4)}, "'test_labels' is missing"),
        ({"test_labels": np.array([0, 1])}, "'test_images' is missing"),
    ],
)
def test_npz_that_lacks_something_says_what(
    tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    save(tmp_path, **{k: v for k, v in {**GOOD, **change}.items() if v is not None})
    error = failure(lambda: data.load("npz:mine", tmp_path))
    assert error.code == "dataset_invalid"
    assert word in error.detail


def test_npz_with_pickled_objects_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path, images=np.array([Exploit()], dtype=object), labels=np.array([0]))
    assert failure(lambda: data.load("npz:mine", tmp_path)).code == "dataset_damaged"
    assert not (tmp_path / "exploited").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"no zip at all"])
def test_npz_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.npz").write_bytes(content)
    assert failure(lambda: data.load("npz:mine", tmp_path)).code == "dataset_damaged"


def test_npz_with_any_bit_flipped_is_read_right_or_refused(tmp_path: Path) -> None:
    """Zip, deflate and numpy's header each fail in ways of their own."""
    path = tmp_path / "mine.npz"
    x = np.repeat(images(20, 4, 4), 4, axis=1).repeat(4, axis=2)
    np.savez_compressed(path, images=x, labels=np.array([0, 1] * 10))
    whole = path.read_bytes()
    good = data.load("npz:mine", tmp_path)
    codes = set()
    for number in range(0, 8 * len(whole), 5):
        content = bytearray(whole)
        content[number // 8] ^= 1 << number % 8
        path.write_bytes(content)
        try:
            read = data.load("npz:mine", tmp_path)
        except CoreError as error:
            codes.add(error.code)
        else:
            assert torch.equal(read.train_images, good.train_images)
            assert torch.equal(read.train_labels, good.train_labels)
    assert codes == {"dataset_damaged", "dataset_invalid"}


def test_npz_with_a_member_that_is_no_array(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        for name in ("images", "labels"):
            archive.writestr(name, b"no array")
    error = failure(lambda: data.load("npz:mine", tmp_path))
    assert (error.code, error.field) == ("dataset_invalid", "dataset")
    assert "'images' is no array" in error.detail


def test_npz_that_is_missing(tmp_path: Path) -> None:
    error = failure(lambda: data.load("npz:mine", tmp_path))
    assert error.code == "dataset_missing"
    assert "numpy.savez" in error.remedy


@pytest.mark.parametrize("name", ["minst", "npz:../mine", "folder:../mine", ""])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    assert failure(lambda: data.load(name, tmp_path)).code == "dataset_unknown"
