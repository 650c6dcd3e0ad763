import math

import pytest
import torch
from torch import nn

from rome_core.errors import CoreError
from rome_core.networks import build
from rome_core.randomness import generator
from rome_core.recipes.networks import NetworkSpec, catalogue, parse


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "size", "classes", "parameters"),
    [("convnet", 32, 10, 320_010), ("convnet", 32, 100, 504_420), ("convnet-d4", 64, 200, 857_160)],
)
def test_parameter_counts_are_the_published_ones(
    name: str, size: int, classes: int, parameters: int
):
    network = build(name, channels=3, size=size, classes=classes, generator=generator(0))
    assert count(network) == parameters


def test_the_state_dict_has_the_keys_of_published_checkpoints():
    network = build("convnet", channels=3, size=32, classes=10, generator=generator(0))
    assert set(network.state_dict()) == {
        f"{layer}.{kind}"
        for layer in (*(f"features.{i}" for i in (0, 1, 4, 5, 8, 9)), "classifier")
        for kind in ("weight", "bias")
    }


def test_weights_follow_the_default_distribution_and_come_from_the_generator_alone():
    made = build("convnet-w64", channels=3, size=32, classes=10, generator=generator(0))
    again = build("convnet-w64", channels=3, size=32, classes=10, generator=generator(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [(nn.Conv2d(3, 64, 3), 0), (nn.Conv2d(64, 64, 3), 4), (nn.Conv2d(64, 64, 3), 8)]
        standard = {f"features.{i}": layer for layer, i in layers} | {
            "classifier": nn.Linear(1024, 10)
        }
    for name, layer in standard.items():
        ours = made.get_submodule(name)
        bound = 1 / math.sqrt(layer.weight[0].numel())
        for kind in ("weight", "bias"):
            mine, theirs = getattr(ours, kind), getattr(layer, kind)
            assert mine.shape == theirs.shape
            assert mine.abs().max() <= bound
            assert theirs.abs().max() <= bound
        assert torch.allclose(ours.weight.std(), layer.weight.std(), rtol=0.05)
    for mine, other in zip(made.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("part", [p.name for p in catalogue() if p.field != "depth"])
def test_every_part_builds_and_learns(part: str):
    network = build(f"convnet-d1-{part}", channels=1, size=8, classes=3, generator=generator(1))
    x = torch.rand(4, 1, 8, 8, generator=generator(2))
    network(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_all_parts_in_any_order_have_one_canonical_name():
    spec = NetworkSpec(2, 64, "batch", "leakyrelu", "max")
    assert parse("ConvNet-max-w64-LeakyReLU-batch-d2") == spec
    assert spec.name == "convnet-d2-w64-batch-leakyrelu-max"
    assert parse(spec.name) == spec


def test_defaults_spelt_out_vanish_from_the_name():
    assert parse("convnet-d3-w128-instance-relu-avg").name == "convnet"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("resnet", "unknown network family 'resnet'.*convnet"),
        ("convnet-bn", "unknown part 'bn'.*batch"),
        ("convnet-", "unknown part ''"),
        ("convnet-d0", "depth d0"),
        ("convnet-d9", "depth d9.*d6"),
        ("convnet-w0", "width w0"),
        ("convnet-w4096", "width w4096.*w1024"),
        ("convnet-d2-d3", "'d3' gives the depth a second time"),
        ("convnet-w6-group", "no multiple of 4"),
    ],
)
def test_a_wrong_name_says_which_part_and_what_there_is(name: str, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        parse(name)


def test_the_catalogue_has_every_published_variant():
    words = {part.name for part in catalogue()}
    assert {"d1", "d4", "w32", "w256", "nonorm", "batch", "layer", "instance", "group"} <= words
    assert {"sigmoid", "relu", "leakyrelu", "swish", "nopool", "max", "avg"} <= words
    assert sorted(p.name for p in catalogue() if p.default) == sorted(
        ["d3", "w128", "instance", "relu", "avg"]
    )


def test_embedding_is_what_the_classifier_reads():
    network = build("convnet-w8", channels=3, size=32, classes=5, generator=generator(3))
    x = torch.rand(2, 3, 32, 32, generator=generator(4))
    embedding, logits = network.embed_and_logits(x)
    assert embedding.shape == (2, 8 * 4 * 4)
    assert torch.equal(embedding, network.embed(x))
    assert torch.equal(logits, network(x))
    assert torch.equal(logits, network.classifier(embedding))


@pytest.mark.parametrize(("size", "side"), [(8, 1), (28, 4), (32, 4)])
def test_small_and_grey_images_fit(size: int, side: int):
    network = build("convnet-w8", channels=1, size=size, classes=10, generator=generator(5))
    x = torch.rand(2, 1, size, size, generator=generator(6))
    assert network.embed(x).shape == (2, 8 * side * side)


def test_28_pixels_are_padded_with_zeros_to_32():
    small = build("convnet-w8", channels=1, size=28, classes=10, generator=generator(5))
    large = build("convnet-w8", channels=1, size=32, classes=10, generator=generator(5))
    x = torch.rand(2, 1, 28, 28, generator=generator(6))
    assert torch.allclose(small(x), large(nn.functional.pad(x, (2, 2, 2, 2))), atol=1e-6)


def test_channels_last_gives_the_same():
    network = build("convnet-w8", channels=3, size=16, classes=10, generator=generator(7)).double()
    x = torch.rand(2, 3, 16, 16, generator=generator(8), dtype=torch.float64)
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), network(x))


def test_images_too_small_for_the_depth_are_refused():
    with pytest.raises(CoreError, match="halves 8x8 images away") as caught:
        build("convnet-d4", channels=1, size=8, classes=10, generator=generator(0))
    assert caught.value.field == "network"
