"""Artifacts: open anywhere, equal bytes for equal sets, clear words for anything else."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from rome_core import augment, recipes, synthetic
from rome_core.card import save_card
from rome_core.errors import CoreError
from rome_core.files import write_atomically, write_json
from rome_core.space import Normalised, Zca
from rome_core.sprite import GAP, save_png
from rome_core.synthetic import SyntheticSet
from tests.rome_core.distillation.conftest import tiny_dataset

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def made(factor: int = 1, channels: int = 3, size: int = 32) -> SyntheticSet:
    draws = torch.Generator().manual_seed(3)
    return SyntheticSet(
        images=torch.randn(20, channels, size, size, generator=draws),
        labels=torch.arange(10).repeat_interleave(2),
        factor=factor,
        dataset="cifar10",
        classes=10,
        ipc=2,
        space=Normalised.of(MEAN[:channels], STD[:channels]),
        augmentation="color_crop",
        learning_rate=0.01,
        method="rome",
        preset="rome-2025-cifar10-ipc10",
    )


def same(one: SyntheticSet, other: SyntheticSet) -> bool:
    def told(value: Any) -> Any:
        return value.identity if isinstance(value, Normalised | Zca) else value

    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else told(a) == told(b)
        for a, b in ((getattr(one, f.name), getattr(other, f.name)) for f in fields(SyntheticSet))
    )


def failure(call: Callable[[], object]) -> CoreError:
    with pytest.raises(CoreError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("save", [synthetic.save_pt, synthetic.save_safetensors])
def test_a_set_comes_back_whatever_the_file_is_called(
    tmp_path: Path, save: Callable[[SyntheticSet, Path], None]
) -> None:
    path = tmp_path / "sub" / "9f86d081"
    save(made(factor=2), path)
    assert same(synthetic.load(path), made(factor=2))
    assert [entry.name for entry in path.parent.iterdir()] == ["9f86d081"]


def test_the_pt_is_what_the_field_s_tools_expect(tmp_path: Path) -> None:
    synthetic.save_pt(made(), tmp_path / "set.pt")
    content = torch.load(tmp_path / "set.pt", weights_only=True)
    images, labels = content["data"][0]
    assert torch.equal(images, made().images)
    assert labels.dtype == torch.int64
    assert (content["zca"], content["expanded"], content["learning_rate"]) == (None, False, 0.01)
    assert content["format_version"] == 1


def test_the_safetensors_twin_needs_nothing_of_ours(tmp_path: Path) -> None:
    synthetic.save_safetensors(made(), tmp_path / "set.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "set.safetensors")
    assert torch.equal(tensors["images"], made().images)
    assert set(tensors) == {"images", "labels"}


SPEC = {"preset": "rome-2025-cifar10-ipc10", "ipc": 2}

WRITE_ALL = """
from pathlib import Path
import sys
from tests.rome_core.test_synthetic import write_all
write_all(Path(sys.argv[1]))
"""


def write_all(folder: Path) -> None:
    synthetic.save_pt(made(), folder / "a.pt")
    synthetic.save_safetensors(made(), folder / "a.safetensors")
    save_png(made(), folder / "a.png")
    save_card(made(), recipes.canonical(SPEC, seed=4), folder / "a.md")


def test_equal_sets_give_equal_bytes_in_another_process_and_folder(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write_all(here)
    there.mkdir()
    subprocess.run(
        [sys.executable, "-c", WRITE_ALL, str(there)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo"},
    )
    for path in sorted(here.iterdir()):
        assert path.read_bytes() == (there / path.name).read_bytes(), path.name
    assert len(list(here.iterdir())) == 4


def test_the_picture_shows_a_class_a_row_in_pixels(tmp_path: Path) -> None:
    save_png(made(), tmp_path / "set.png")
    with Image.open(tmp_path / "set.png") as opened:
        picture = np.asarray(opened)
    tile = 64 + GAP
    assert picture.shape == (10 * tile + GAP, 2 * tile + GAP, 3)
    expected = (made().pixels[7] * 255).round().to(torch.uint8)  # second image of class 3
    cell = picture[GAP + 3 * tile : GAP + 3 * tile + 64, GAP + tile : GAP + tile + 64]
    assert torch.equal(torch.from_numpy(cell[::2, ::2].copy()).permute(2, 0, 1), expected)
    assert np.array_equal(cell[::2], cell[1::2])  # enlarged without inventing colours


def test_a_grey_picture_is_grey(tmp_path: Path) -> None:
    save_png(made(channels=1, size=8), tmp_path / "set.png")
    with Image.open(tmp_path / "set.png") as picture:
        assert picture.mode == "L"


def test_the_card_says_what_a_finder_needs(tmp_path: Path) -> None:
    spec = recipes.canonical(SPEC, seed=4)
    save_card(made(factor=2), spec, tmp_path / "card.md")
    card = (tmp_path / "card.md").read_text()
    for words in (
        "ROME on CIFAR-10",
        "weights_only=True",
        "packs 4",
        recipes.spec_hash(spec),
        "Krizhevsky",
        "overriding ipc",
        "(0.4914, 0.4822, 0.4465)",
    ):
        assert words in card


def test_a_bare_reference_file_needs_a_dataset_and_a_factor(tmp_path: Path) -> None:
    path = tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt"
    torch.save({"data": [[made().images, made().labels]], "accs_all_exps": {"ConvNet": []}}, path)
    assert failure(lambda: synthetic.load(path)).field == "dataset"
    assert failure(lambda: synthetic.load(path, dataset="cifar10")).field == "factor"
    read = synthetic.load(path, dataset="cifar10", factor=2)
    assert torch.equal(read.images, made().images)
    assert (read.factor, read.ipc, read.classes) == (2, 2, 10)
    assert read.space.identity == made().space.identity
    assert failure(lambda: synthetic.load(path, dataset="digits", factor=2)).code == (
        "artifact_invalid"
    )


class Exploit:
    """What an unsafe load would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploited"),))


def test_a_pickle_with_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"data": Exploit()}, tmp_path / "set.pt")
    error = failure(lambda: synthetic.load(tmp_path / "set.pt"))
    assert error.code == "artifact_damaged"
    assert "weights_only" in error.remedy
    assert not (tmp_path / "exploited").exists()


@pytest.mark.parametrize("save", [synthetic.save_pt, synthetic.save_safetensors])
def test_a_truncated_file_is_damaged(
    tmp_path: Path, save: Callable[[SyntheticSet, Path], None]
) -> None:
    path = tmp_path / "set"
    save(made(), path)
    whole = path.read_bytes()
    for length in (0, 7, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert failure(lambda: synthetic.load(path)).code == "artifact_damaged"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "not a dictionary"),
        ({}, "'data'"),
        ({"data": []}, "'data'"),
        ({"data": [[torch.zeros(2, 3), torch.zeros(2)]]}, "(n, c, h, w)"),
        ({"data": [[torch.zeros(2, 3, 4, 4), torch.zeros(3)]]}, "(n,)"),
        ({"data": [[torch.zeros(2, 3, 4, 4), torch.zeros(2)]]}, "soft ones"),
        ({"data": [[torch.zeros(2, 3, 4, 4) / 0, torch.tensor([0, 1])]]}, "not finite"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, content: object, words: str) -> None:
    torch.save(content, tmp_path / "set.pt")
    error = failure(lambda: synthetic.load(tmp_path / "set.pt"))
    assert error.code == "artifact_invalid"
    assert words in error.detail


def test_metadata_of_ours_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "set.pt"
    synthetic.save_pt(made(), path)
    good = torch.load(path, weights_only=True)
    changes: tuple[tuple[str, object, str], ...] = (
        ("format_version", 3, "format version is 3"),
        ("factor", "x", "garble"),
        ("factor", float("inf"), "garble"),
        ("factor", 0, "factor is 0"),
        ("factor", 3, "factor is 3"),
        ("classes", 3, "3 classes"),
        ("mean", [0.5], "mean"),
        ("mean", [0.5, float("nan"), 0.5], "mean"),
        ("std", [0.2, 0.2], "std"),
        ("std", [0.2, 0.0, 0.2], "std"),
        ("std", [0.2, -0.2, 0.2], "std"),
        ("learning_rate", 0.0, "learning_rate"),
        ("augmentation", "nonsense", "unknown operator 'nonsense'"),
        ("network", "nonsense", "unknown network family 'nonsense'"),
        ("network", 3, "network"),
    )
    for field, value, words in changes:
        torch.save({**good, field: value}, path)
        error = failure(lambda: synthetic.load(path))
        assert error.code == "artifact_invalid"
        assert words in error.detail
    synthetic.save_pt(made(factor=2, size=9), path)
    assert "9x9" in failure(lambda: synthetic.load(path)).detail
    synthetic.save_pt(made(), path)
    assert failure(lambda: synthetic.load(path, factor=2)).field == "factor"
    assert failure(lambda: synthetic.load(path, dataset="digits")).code == "artifact_mismatch"
    assert failure(lambda: synthetic.load(tmp_path / "no.pt")).code == "artifact_missing"


def test_a_set_copies_what_it_is_made_of() -> None:
    source, dataset = made(), tiny_dataset()
    images = source.images.clone().requires_grad_()
    copied = SyntheticSet.of(
        images, source.labels, dataset, factor=1, ipc=2, augmentation="none", method="random"
    )
    with torch.no_grad():
        images.zero_()
    assert torch.equal(copied.images, source.images)
    assert not copied.images.requires_grad
    assert same(copied, replace(copied))


def test_a_failed_write_leaves_the_file_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "ä": [None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1, "ä": [None]}
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", {"a": float("nan")})
    assert not (tmp_path / "b.json").exists()


def whitened(factor: int = 1) -> SyntheticSet:
    """Of small images, in a space of their own, with soft labels and a learned rate."""
    draws = torch.Generator().manual_seed(4)
    coarse = torch.rand(300, 3, 4, 4, generator=draws).repeat_interleave(2, 2)
    space = Zca.fit(coarse.repeat_interleave(2, 3))
    pixels = torch.rand(20, 3, 8, 8, generator=draws)
    return replace(
        made(factor, size=8),
        images=space.from_pixels(pixels),
        space=space,
        learning_rate=0.0123,
        soft_labels=torch.rand(20 * factor**2, 10, generator=draws).softmax(dim=1),
    )


@pytest.mark.parametrize("save", [synthetic.save_pt, synthetic.save_safetensors])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_whitened_set_comes_back_with_its_soft_labels(
    tmp_path: Path, save: Callable[[SyntheticSet, Path], None], factor: int
) -> None:
    one = whitened(factor)
    for kept in (one, replace(one, soft_labels=None), replace(made(factor), soft_labels=None)):
        save(kept, tmp_path / "set")
        assert same(synthetic.load(tmp_path / "set"), kept)
    soft = replace(made(factor), soft_labels=one.soft_labels)
    save(soft, tmp_path / "set")
    assert same(synthetic.load(tmp_path / "set"), soft)
    save(one, tmp_path / "again")
    save(whitened(factor), tmp_path / "set")
    assert (tmp_path / "set").read_bytes() == (tmp_path / "again").read_bytes()


def test_only_sets_with_something_new_are_of_a_new_version(tmp_path: Path) -> None:
    """A reader of version 1 would take whitened images for normalised ones."""
    one = whitened()
    for kept, version in (
        (made(), 1),
        (replace(made(), learning_rate=0.5), 1),
        (one, 2),
        (replace(one, soft_labels=None), 2),
        (replace(made(), soft_labels=one.soft_labels), 2),
    ):
        assert kept.metadata()["format_version"] == version
        synthetic.save_pt(kept, tmp_path / "set.pt")
        content = torch.load(tmp_path / "set.pt", weights_only=True)
        assert content["format_version"] == version
        assert ("soft_labels" in content) == (kept.soft_labels is not None)
        assert "space" not in content
    plain, new = made().metadata(), one.metadata()
    assert (plain["space"], plain["labels"], plain["normalised"]) == ("normalised", "hard", True)
    assert (new["space"], new["labels"], new["normalised"]) == ("zca", "soft", False)
    assert (new["mean"], new["std"], new["zca"]) == (None, None, {"epsilon": 0.1})
    assert json.loads(json.dumps(new)) == new


def test_the_bytes_of_plain_sets_are_those_of_before(tmp_path: Path) -> None:
    """What files said before there were whitened sets: whoever holds a digest finds it again."""
    synthetic.save_safetensors(made(factor=2), tmp_path / "set")
    length = int.from_bytes((tmp_path / "set").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "set").read_bytes()[8 : 8 + length])
    assert json.loads(header["__metadata__"]["set"]) == {
        "format": "rome-synthetic-set",
        "format_version": 1,
        "method": "rome",
        "preset": "rome-2025-cifar10-ipc10",
        "dataset": "cifar10",
        "classes": 10,
        "ipc": 2,
        "factor": 2,
        "expanded": False,
        "normalised": True,
        "mean": list(MEAN),
        "std": list(STD),
        "zca": None,
        "augmentation": "color_crop",
        "learning_rate": 0.01,
    }
    synthetic.save_pt(made(factor=2), tmp_path / "set.pt")
    content = torch.load(tmp_path / "set.pt", weights_only=True)
    assert {**json.loads(header["__metadata__"]["set"]), "data": content["data"]} == content


@pytest.mark.parametrize("name", ["set.pt", "set.safetensors"])
def test_a_set_says_which_network_it_was_made_with(name: str, tmp_path: Path) -> None:
    save = synthetic.save_pt if name.endswith(".pt") else synthetic.save_safetensors
    one = replace(made(), network="convnet-d4")
    save(one, tmp_path / name)
    assert same(synthetic.load(tmp_path / name), one)
    assert one.metadata()["network"] == "convnet-d4"
    assert one.metadata()["format_version"] == 1
    save(made(), tmp_path / name)  # which says none, as files of before
    assert synthetic.load(tmp_path / name).network is None
    assert made().metadata()["network"] is None


def test_the_safetensors_twin_of_a_whitened_set_holds_its_whitening(tmp_path: Path) -> None:
    one = whitened()
    synthetic.save_safetensors(one, tmp_path / "set.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "set.safetensors")
    assert set(tensors) == {
        *("images", "labels", "soft_labels"),
        *("zca/mean", "zca/eigenvectors", "zca/eigenvalues"),
    }
    assert isinstance(one.space, Zca)
    assert torch.equal(tensors["zca/eigenvectors"], one.space.eigenvectors)


def resaved(tensors: dict[str, torch.Tensor], path: Path, described: dict[str, Any]) -> None:
    safetensors.torch.save_file(tensors, path, {"set": json.dumps(described)})


def test_damaged_whitenings_and_soft_labels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.pt"
    synthetic.save_pt(whitened(), path)
    good = torch.load(path, weights_only=True)
    zca, soft = good["zca"], good["soft_labels"]
    changes: tuple[tuple[str, object, str], ...] = (
        ("zca", None, "garble"),
        ("zca", [1, 2], "no whitening"),
        ("zca", {}, "its mean are no float tensor"),
        ("zca", {**zca, "mean": zca["mean"][1:]}, "the shape (191,)"),
        ("zca", {**zca, "eigenvectors": zca["eigenvectors"] * 1.1}, "orthonormal"),
        ("zca", {**zca, "eigenvalues": zca["eigenvalues"] - 1}, "below 0"),
        ("zca", {**zca, "epsilon": 0.0}, "epsilon"),
        ("soft_labels", "soft", "no float32 tensor of the shape (20, 10)"),
        ("soft_labels", soft.double(), "no float32 tensor"),
        ("soft_labels", soft[1:], "no float32 tensor"),
        ("soft_labels", soft[:, 1:], "no float32 tensor"),
        ("soft_labels", soft[:1].clone().expand(20, 10), "not finite, or not there"),
        ("soft_labels", soft / 0, "not finite"),
        ("soft_labels", soft * 1.001, "sum to 1"),
        ("soft_labels", 2 * torch.eye(10).repeat(2, 1) - 0.1, "sum to 1"),
        ("factor", 2, "(80, 10)"),
    )
    for field, value, words in changes:
        torch.save({**good, field: value}, path)
        error = failure(lambda: synthetic.load(path))
        assert error.code == "artifact_invalid", words
        assert words in error.detail

    path = tmp_path / "set.safetensors"
    synthetic.save_safetensors(whitened(), path)
    tensors, described = safetensors.torch.load_file(path), whitened().metadata()
    resaved(tensors, path, described)
    assert same(synthetic.load(path), whitened())
    del tensors["zca/mean"]
    resaved(tensors, path, described)
    assert failure(lambda: synthetic.load(path)).code == "artifact_damaged"


def test_soft_labels_of_a_rounding_s_width_are_read(tmp_path: Path) -> None:
    one = replace(made(), soft_labels=torch.eye(10).repeat_interleave(2, dim=0) * 1.00005)
    synthetic.save_pt(one, tmp_path / "set.pt")
    assert same(synthetic.load(tmp_path / "set.pt"), one)


def test_a_whitened_set_is_shown_in_pixels(tmp_path: Path) -> None:
    one = whitened()
    draws = torch.Generator().manual_seed(4)
    torch.rand(300, 3, 4, 4, generator=draws)
    pixels = torch.rand(20, 3, 8, 8, generator=draws)
    torch.testing.assert_close(one.pixels, pixels, atol=1e-5, rtol=0)
    save_png(one, tmp_path / "set.png")
    with Image.open(tmp_path / "set.png") as opened:
        picture = np.asarray(opened)
    cell = picture[GAP : GAP + 64 : 8, GAP : GAP + 64 : 8].astype(np.float64) / 255
    assert np.abs(cell - pixels[0].permute(1, 2, 0).numpy()).max() < 0.51 / 255 + 1e-5


def test_the_card_s_code_whitens_as_the_set_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, spec = whitened(), recipes.canonical(SPEC, seed=4)
    synthetic.save_pt(one, Path("synthetic.pt"))
    save_card(one, spec, Path("card.md"))
    card = Path("card.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    told: dict[str, Any] = {}
    exec(code, told)
    pixels = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    seen = told["whitened"](pixels)
    torch.testing.assert_close(seen, one.space.from_pixels(pixels), atol=1e-5, rtol=1e-5)
    assert torch.equal(told["soft_labels"], one.soft_labels)
    assert torch.equal(told["images"], one.images)
    for words in ("test images", "0.0123", "in the place of", "soft labels"):
        assert words.replace("in the place of", "the place of normalisation") in card
    save_card(made(), spec, Path("plain.md"))
    assert "soft" not in Path("plain.md").read_text()
    assert "no ZCA" in Path("plain.md").read_text()


def test_a_set_of_a_whitened_dataset_is_in_its_space() -> None:
    dataset = tiny_dataset().whitened()
    soft = torch.rand(20, dataset.classes, generator=torch.Generator().manual_seed(7))
    soft = soft.softmax(dim=1).double().requires_grad_()
    one = SyntheticSet.of(
        made(size=16).images,
        made().labels,
        dataset,
        factor=1,
        ipc=2,
        augmentation="none",
        method="random",
        learning_rate=0.3,
        soft_labels=soft,
    )
    assert one.space is dataset.whitening
    assert one.soft_labels is not None
    assert one.soft_labels.dtype == torch.float32
    assert not one.soft_labels.requires_grad
    assert torch.equal(one.soft_labels, soft.detach().float())


def test_a_whitened_mosaic_is_shown_by_the_images_it_packs() -> None:
    """Each, decoded and taken back to pixels by itself, fills its quadrant at half size."""
    one = whitened(factor=2)
    decoded, _ = augment.expand(one.images)
    pixels = one.space.to_pixels(decoded).clamp(0, 1)
    shown = one.pixels
    assert shown.shape == one.images.shape
    for number in range(20):
        for tile in range(4):
            top, left = 4 * (tile % 2), 4 * (tile // 2)  # column by column
            for row, column in np.ndindex(4, 4):
                cell = pixels[tile * 20 + number, :, 2 * row : 2 * row + 2][..., 2 * column :][
                    ..., :2
                ]
                torch.testing.assert_close(
                    shown[number, :, top + row, left + column], cell.mean(dim=(1, 2))
                )
