"""The file of experts: a round trip, equal bytes, and nothing but whole files is opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from rome_core import networks
from rome_core.distillation.experts import About, Experts, Layout, Records, write
from rome_core.errors import CoreError
from rome_core.recipes.experts import ExpertTraining

NETWORK = "convnet-d1-w8"
SHAPE = {"channels": 3, "size": 8, "classes": 4}
IMAGES = 20


def network(seed: int = 0) -> networks.Network:
    return networks.build(NETWORK, **SHAPE, generator=torch.Generator().manual_seed(seed))


def about(**changes: Any) -> About:
    told = {"network": NETWORK, "count": 3, "epochs": 2, **changes}
    return About(
        training=ExpertTraining.model_validate(told),
        seed=11,
        dataset="digits",
        data={"digits.csv": "ab" * 32},
        space="zca",
        train_images=IMAGES,
        layout=Layout.of(network()),
        **SHAPE,
    )


def snapshots(told: About) -> list[Tensor]:
    made = torch.Generator().manual_seed(1)
    count = told.training.count * len(told.epochs)
    return [torch.randn(told.layout.size, generator=made) for _ in range(count)]


def records(told: About, *, forgetting: bool = True) -> Records:
    count, epochs = told.training.count, told.training.epochs
    return Records(
        accuracy=[1 / (number + 3) for number in range(count)],
        train_accuracy=[[number + epoch / 7 for epoch in range(epochs)] for number in range(count)],
        train_loss=[[number - epoch / 7 for epoch in range(epochs)] for number in range(count)],
        forgetting=(torch.arange(IMAGES) + number for number in range(count))
        if forgetting
        else None,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    told = about()
    write(tmp_path / "experts.safetensors", told, iter(snapshots(told)), records(told))
    return tmp_path / "experts.safetensors"


def test_everything_comes_back(path: Path) -> None:
    told = about()
    opened = Experts.open(path)
    assert opened.path == path
    assert opened.about == told
    assert opened.epochs == (0, 1, 2)
    assert (opened.count, opened.seed, opened.dataset, opened.space) == (3, 11, "digits", "zca")
    assert (opened.channels, opened.size, opened.classes) == (3, 8, 4)
    assert opened.network.name == NETWORK
    kept = snapshots(told)
    for number in range(3):
        for epoch in range(3):
            assert torch.equal(opened.flat(number, epoch), kept[3 * number + epoch])
    assert opened.accuracy == (1 / 3, 1 / 4, 1 / 5)
    assert opened.train_accuracy.tolist() == records(told).train_accuracy
    assert opened.train_loss.tolist() == records(told).train_loss
    assert opened.forgetting is not None
    assert opened.forgetting.dtype == torch.int32
    assert opened.forgetting.tolist() == [[n + k for n in range(IMAGES)] for k in range(3)]


def test_a_snapshot_is_a_copy(path: Path) -> None:
    opened = Experts.open(path)
    before = opened.flat(1, 1)
    opened.flat(1, 1).zero_()
    opened.state(1, 1)["classifier.bias"].zero_()
    assert torch.equal(opened.flat(1, 1), before)


@pytest.mark.parametrize("place", [(3, 0), (-1, 0), (0, 3), (0, -1)])
def test_what_is_not_there_is_not_given(path: Path, place: tuple[int, int]) -> None:
    with pytest.raises(IndexError):
        Experts.open(path).flat(*place)


def test_the_last_epoch_alone_and_no_epoch_at_all(tmp_path: Path) -> None:
    for changes, kept in (({"keep": "last"}, (2,)), ({"epochs": 0}, (0,))):
        told = about(**changes)
        write(tmp_path / "some", told, snapshots(told), records(told, forgetting=False))
        opened = Experts.open(tmp_path / "some")
        assert opened.epochs == kept
        assert opened.forgetting is None
        assert torch.equal(opened.flat(2, kept[0]), snapshots(told)[2])
        assert opened.train_loss.shape == (3, told.training.epochs)
        if kept == (2,):
            with pytest.raises(IndexError, match="not kept"):
                opened.flat(0, 1)


def test_equal_experts_give_equal_bytes(path: Path) -> None:
    told, again = about(), path.with_name("again")
    write(again, told, snapshots(told), records(told))
    assert again.read_bytes() == path.read_bytes()


def test_others_read_it_as_safetensors(path: Path) -> None:
    told = about()
    held = safetensors.torch.load_file(path)
    assert held["weights"].shape == (3, 3, told.layout.size)
    assert torch.equal(held["weights"].flatten(0, 1), torch.stack(snapshots(told)))
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.metadata()) == {"experts"}
        text = file.metadata()["experts"]
    assert text == json.dumps(json.loads(text), sort_keys=True)


def test_writing_holds_one_snapshot_at_a_time(tmp_path: Path) -> None:
    """Each is asked for after the one before it was written, and none is kept."""
    told, part = about(), []

    def one_by_one() -> Iterator[Tensor]:
        for snapshot in snapshots(told):
            [file] = tmp_path.glob(".experts*.part")
            part.append(file)
            yield snapshot

    write(tmp_path / "experts", told, one_by_one(), records(told))
    assert len(part) == 9
    assert not part[0].exists()


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    told, path = about(), tmp_path / "experts"
    path.write_bytes(b"before")
    for weights in (
        snapshots(told)[:-1],
        [*snapshots(told), snapshots(told)[0]],
        [value[:-1] for value in snapshots(told)],
    ):
        with pytest.raises(ValueError, match="weights holds"):
            write(path, told, weights, records(told))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_any_change_is_found(path: Path) -> None:
    whole = path.read_bytes()
    length = len(whole)
    for place in [0, 9, 200, length // 3, length // 2, length - 33, length - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CoreError) as caught:
            Experts.open(path)
        assert caught.value.code == "artifact_damaged", place
        assert caught.value.field == "experts"
    for content in (b"", whole[: length // 2], whole[:-1], whole + b"x", b"{}" * 40):
        path.write_bytes(content)
        with pytest.raises(CoreError) as caught:
            Experts.open(path)
        assert caught.value.code == "artifact_damaged"


def test_other_files_are_not_experts(tmp_path: Path) -> None:
    tensors = {"weights": torch.zeros(3, 3, 5)}
    for metadata in (
        None,
        {"network": NETWORK},
        {"experts": "no JSON"},
        {"experts": "[1, 2]"},
        {"experts": json.dumps({**about().as_dict(), "format": 2})},
        {"experts": json.dumps({**about().as_dict(), "training": {"network": "convnet-d99"}})},
        {"experts": json.dumps({**about().as_dict(), "seed": "11"})},
        {"experts": json.dumps({**about().as_dict(), "data": ["ab"]})},
        {"experts": json.dumps(about().as_dict())},  # but not its tensors
    ):
        path = tmp_path / "other.safetensors"
        safetensors.torch.save_file(tensors, path, metadata)
        with pytest.raises(CoreError) as caught:
            Experts.open(path)
        assert caught.value.code == "artifact_damaged"
    with pytest.raises(CoreError) as caught:
        Experts.open(tmp_path / "nowhere")
    assert caught.value.code == "artifact_missing"


def test_a_layout_takes_weights_apart_and_together() -> None:
    made = network()
    layout = Layout.of(made)
    state = dict(made.named_parameters())
    flat = layout.flat(state)
    assert flat.shape == (layout.size,)
    assert layout.size == sum(value.numel() for value in made.parameters())
    assert np.array_equal(
        flat.detach().numpy(),
        torch.nn.utils.parameters_to_vector(made.parameters()).detach().numpy(),
    )
    for name, value in layout.state(flat).items():
        assert torch.equal(value, state[name])
    other = network(1)
    other.load_state_dict(layout.state(flat.detach()))
    assert torch.equal(layout.flat(dict(other.named_parameters())), flat)


def test_a_layout_stacks_and_differentiates() -> None:
    layout = Layout.of(network())
    stack = torch.arange(2.0 * layout.size).view(2, -1).requires_grad_()
    states = layout.state(stack)
    assert states["classifier.bias"].shape == (2, 4)
    assert torch.equal(layout.flat(states), stack)
    (gradient,) = torch.autograd.grad(layout.flat(states).square().sum(), stack)
    assert torch.equal(gradient, 2 * stack)
    del states["classifier.bias"]
    with pytest.raises(KeyError, match=r"classifier\.bias"):
        layout.flat(states)


def test_batch_statistics_are_no_weights() -> None:
    coupled = networks.build(
        "convnet-d1-w8-batch", **SHAPE, generator=torch.Generator().manual_seed(0)
    )
    with pytest.raises(ValueError, match="batch statistics"):
        Layout.of(coupled)
