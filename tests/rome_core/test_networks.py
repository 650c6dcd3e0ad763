import math
import re

import pytest
import torch
from torch import nn

from rome_core.errors import CoreError
from rome_core.networks import Network, blank, build, footprint, operations
from rome_core.randomness import generator
from rome_core.recipes.networks import FAMILIES, catalogue, parse
from tests.rome_core import naive_networks


def made(name: str, channels: int, size: int, classes: int = 10) -> Network:
    return build(name, channels=channels, size=size, classes=classes, generator=generator(1))


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def conv(fan: int, width: int, side: int, bias: bool = True) -> int:
    return fan * width * side**2 + width * bias


def linear(fan: int, width: int) -> int:
    return fan * width + width


def norm(width: int) -> int:
    return 2 * width


def block(fan: int, width: int) -> int:
    """Of a ResNet, with a shortcut where the width changes."""
    inner = conv(fan, width, 3, bias=False) + conv(width, width, 3, bias=False) + 2 * norm(width)
    return inner + (conv(fan, width, 1, bias=False) + norm(width)) * (fan != width)


MLP = linear(3 * 32 * 32, 128) + linear(128, 128) + linear(128, 10)
LENET = conv(3, 6, 5) + conv(6, 16, 5) + linear(16 * 25, 120) + linear(120, 84) + linear(84, 10)
ALEXNET = (
    *(conv(3, 128, 5), conv(128, 192, 5), conv(192, 256, 3), conv(256, 192, 3)),
    *(conv(192, 192, 3), linear(192 * 4 * 4, 10)),
)
VGG = (
    *(conv(3, 64, 3), conv(64, 128, 3), conv(128, 256, 3), conv(256, 256, 3)),
    *(conv(256, 512, 3), 3 * conv(512, 512, 3), linear(512, 10)),
    norm(64 + 128 + 2 * 256 + 4 * 512),
)
RESNET = (
    *(conv(3, 64, 3, bias=False), norm(64), 2 * block(64, 64)),
    *(block(64, 128), block(128, 128), block(128, 256), block(256, 256)),
    *(block(256, 512), block(512, 512)),
)


@pytest.mark.parametrize(
    ("name", "size", "classes", "parameters"),
    [
        ("convnet", 32, 10, 320_010),
        ("convnet", 32, 100, 504_420),
        ("convnet-d4", 64, 200, 857_160),
        ("mlp", 32, 10, MLP),
        ("lenet", 32, 10, LENET),
        ("alexnet", 32, 10, sum(ALEXNET)),
        ("vgg11", 32, 10, sum(VGG)),
        ("vgg11-batch", 32, 10, sum(VGG)),
        ("resnet18", 32, 10, sum(RESNET) + linear(512, 10)),
        ("resnet18-batch", 32, 10, sum(RESNET) + linear(512, 10)),
        ("resnet18-ap", 32, 10, sum(RESNET) + linear(512 * 4 * 4, 10)),
        ("resnet18-batch-ap", 32, 10, sum(RESNET) + linear(512 * 4 * 4, 10)),
    ],
)
def test_parameter_counts_are_the_published_ones(
    name: str, size: int, classes: int, parameters: int
):
    assert count(blank(parse(name), channels=3, size=size, classes=classes)) == parameters


def test_the_state_dict_has_the_keys_of_published_checkpoints():
    network = blank(parse("convnet"), channels=3, size=32, classes=10)
    assert set(network.state_dict()) == {
        f"{layer}.{kind}"
        for layer in (*(f"features.{i}" for i in (0, 1, 4, 5, 8, 9)), "classifier")
        for kind in ("weight", "bias")
    }


EVERY = (
    *("mlp", "lenet", "alexnet", "vgg11", "vgg11-batch"),
    *("resnet18", "resnet18-batch", "resnet18-ap", "resnet18-batch-ap"),
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", EVERY)
def test_networks_are_what_they_are_written_out(name: str, channels: int):
    """Also that no key is there which the published layers lack."""
    size = 28 if channels == 1 else 32
    network = made(name, channels, size).double()
    draws = generator(2)
    with torch.no_grad():  # norms start at one and zero, which would hide mistakes
        for key, value in network.state_dict().items():
            if value.is_floating_point() and value.dim() == 1:
                noise = 0.2 * torch.rand(value.shape, generator=draws, dtype=torch.float64)
                value += noise if key.endswith("running_var") else noise - 0.1
    x = torch.randn(2, channels, size, size, generator=draws, dtype=torch.float64)
    expected = naive_networks.embedding(name, network.state_dict(), x)
    network.eval()
    embedding, logits = network.embed_and_logits(x)
    assert embedding.shape == (2, network.embedding_size)
    torch.testing.assert_close(embedding, expected)
    head = network.get_submodule(network.head)
    torch.testing.assert_close(logits, head(expected))
    torch.testing.assert_close(network(x), logits)
    torch.testing.assert_close(network.embed(x), embedding)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(last), logits)


@pytest.mark.parametrize("name", EVERY)
def test_stem_and_head_are_the_first_and_the_last_weights(name: str):
    network = blank(parse(name), channels=3, size=32, classes=7)
    keys = list(network.state_dict())
    assert keys[0] == f"{network.stem}.weight"
    assert keys[-2:] == [f"{network.head}.weight", f"{network.head}.bias"]
    assert network.get_submodule(network.head).weight.shape == (7, network.embedding_size)


@pytest.mark.parametrize(
    ("name", "channels", "size", "embedding"),
    [
        *((name, c, s, 128) for name in ("mlp", "mlp-d3") for c, s in ((1, 8), (1, 28), (3, 64))),
        *(("lenet", c, s, 84) for c, s in ((1, 12), (1, 28), (3, 16), (3, 64), (3, 96))),
        ("alexnet", 1, 8, 192),
        ("alexnet", 3, 8, 192),
        ("alexnet", 1, 28, 192 * 4 * 4),
        ("alexnet", 3, 64, 192 * 8 * 8),
        ("vgg11", 1, 28, 512),
        ("vgg11", 3, 28, 512),
        ("vgg11", 3, 32, 512),
        ("vgg11-batch", 3, 64, 512 * 2 * 2),
        ("vgg11", 3, 96, 512 * 3 * 3),
        ("resnet18", 3, 9, 512),
        ("resnet18", 1, 28, 512),
        ("resnet18-batch", 3, 64, 512),
        ("resnet18-ap", 1, 28, 512 * 3 * 3),
        ("resnet18-ap", 3, 64, 512 * 8 * 8),
    ],
)
def test_the_embedding_follows_from_the_size(name: str, channels: int, size: int, embedding: int):
    network = blank(parse(name), channels=channels, size=size, classes=5)
    x = torch.empty(2, channels, size, size, device="meta")
    assert network.embedding_size == embedding
    assert [t.shape for t in network.embed_and_logits(x)] == [(2, embedding), (2, 5)]


STANDARD = {
    "convnet-w64": {
        **{f"features.{i}": nn.Conv2d(c, 64, 3) for i, c in ((0, 3), (4, 64), (8, 64))},
        "classifier": nn.Linear(1024, 10),
    },
    "lenet": {"features.3": nn.Conv2d(6, 16, 5), "fc_1": nn.Linear(400, 120)},
    "resnet18-ap": {
        "layer2.0.shortcut.0": nn.Conv2d(64, 128, 1, bias=False),
        "layer3.1.conv2": nn.Conv2d(256, 256, 3, bias=False),
    },
}


@pytest.mark.parametrize("name", STANDARD)
def test_weights_follow_the_default_distribution_and_come_from_the_generator_alone(name: str):
    network, again = made(name, 3, 32), made(name, 3, 32)
    before = torch.random.get_rng_state()
    for place, layer in STANDARD[name].items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layer.reset_parameters()
        ours = network.get_submodule(place)
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert dict(ours.named_parameters()).keys() == dict(layer.named_parameters()).keys()
        for kind, theirs in layer.named_parameters():
            mine = getattr(ours, kind)
            assert mine.shape == theirs.shape
            assert mine.abs().max() <= bound
            assert theirs.abs().max() <= bound
        assert torch.allclose(ours.weight.std(), layer.weight.std(), rtol=0.05)
    for mine, other in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(mine, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("part", [p.name for p in catalogue() if p.field != "depth"])
def test_every_part_builds_and_learns(part: str):
    network = made(f"convnet-d1-{part}", 1, 8, classes=3)
    x = torch.rand(4, 1, 8, 8, generator=generator(2))
    network(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "first"),
    [("convnet-w8-batch", "features.1"), ("vgg11-batch", "features.1"), ("resnet18-batch", "bn1")],
)
def test_running_statistics_follow_in_training_alone(name: str, first: str):
    network = made(name, 3, 32)
    x = torch.rand(2, 3, 32, 32, generator=generator(2))
    maps = network.get_submodule(network.stem)(x)
    network.eval()(x)
    norms = {k: v for k, v in network.state_dict().items() if k.endswith("running_mean")}
    assert not any(value.any() for value in norms.values())
    network.train()(x)
    assert all(value.any() for value in norms.values())
    torch.testing.assert_close(norms[f"{first}.running_mean"], 0.1 * maps.mean((0, 2, 3)))
    assert network.get_buffer(f"{first}.num_batches_tracked") == 1


@pytest.mark.parametrize("name", ["convnet-w8", "vgg11", "resnet18", "resnet18-ap"])
def test_without_batch_norm_an_image_is_seen_alone(name: str):
    network = made(name, 3, 32).double().train()
    x = torch.rand(2, 3, 32, 32, generator=generator(2), dtype=torch.float64)
    torch.testing.assert_close(network(x)[:1], network(x[:1]))


def test_28_pixels_are_padded_with_zeros_to_32():
    for name in ("convnet-w8", "vgg11"):
        small, large = made(name, 1, 28), made(name, 1, 32)
        x = torch.rand(2, 1, 28, 28, generator=generator(6))
        padded = nn.functional.pad(x, (2, 2, 2, 2))
        assert torch.allclose(small(x), large(padded), atol=1e-6)


def test_channels_last_gives_the_same():
    network = made("convnet-w8", 3, 16).double()
    x = torch.rand(2, 3, 16, 16, generator=generator(8), dtype=torch.float64)
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), network(x))


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [
        ("convnet-d4", 1, 8),
        ("convnet-d2", 1, 2),
        ("convnet-d1", 1, 1),
        ("lenet", 1, 8),
        ("lenet", 1, 11),
        ("lenet", 3, 15),
        ("alexnet", 3, 7),
        ("alexnet", 1, 3),
        ("vgg11", 1, 8),
        ("vgg11-batch", 3, 31),
        ("resnet18", 1, 8),
        ("resnet18-batch", 3, 8),
        ("resnet18-ap", 3, 15),
    ],
)
def test_images_too_small_are_refused_with_a_network_that_fits(name: str, channels: int, size: int):
    with pytest.raises(CoreError, match=f"{name} halves {size}x{size} images away") as caught:
        made(name, channels, size)
    assert (caught.value.code, caught.value.field) == ("network_too_deep", "network")
    named = re.findall(r"\b(?:convnet|mlp)(?:-\w+)*", caught.value.remedy)
    assert "mlp" in named
    for other in named:
        made(other, channels, size)
    assert operations(parse(name), 1) == 0  # a plan is made before any network


def test_operations_and_the_largest_activation_are_those_of_the_layers():
    blocks = 27 * 128 * 32**2 + 9 * 128**2 * 16**2 + 9 * 128**2 * 8**2
    found = footprint(parse("convnet"))
    assert found.operations == 2 * (blocks + 2048 * 10)
    assert found.largest == 128 * 32 * 32
    assert footprint(parse("convnet-w8"), channels=1, size=28).largest == 8 * 32 * 32
    mlp = footprint(parse("mlp"), channels=1, size=28, classes=7)
    assert mlp.operations == 2 * (784 * 128 + 128 * 128 + 128 * 7)
    assert mlp.largest == 784  # of the image itself
    lenet = 75 * 6 * 28**2 + 150 * 16 * 10**2 + 400 * 120 + 120 * 84 + 84 * 10
    assert footprint(parse("lenet")).operations == operations(parse("lenet"), 32) == 2 * lenet
    assert {footprint(parse(name)).operations > 0 for name in FAMILIES} == {True}
