"""Names of networks: what they mean, and what is said of wrong ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rome_core.recipes.networks import (
    ACTIVATIONS,
    FAMILIES,
    MAX_DEPTH,
    MAX_WIDTH,
    NORMS,
    POOLINGS,
    NetworkSpec,
    catalogue,
    parse,
)


def test_all_parts_in_any_order_have_one_canonical_name():
    spec = NetworkSpec(2, 64, "batch", "leakyrelu", "max")
    assert parse("ConvNet-max-w64-LeakyReLU-batch-d2") == spec
    assert spec.name == "convnet-d2-w64-batch-leakyrelu-max"
    assert parse(spec.name) == spec
    assert parse("ResNet18-AP-batch").name == "resnet18-batch-ap"
    assert parse("mlp-w256-d3").name == "mlp-d3-w256"


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("convnet-d3-w128-instance-relu-avg", "convnet"),
        ("mlp-d2-w128", "mlp"),
        ("vgg11-instance", "vgg11"),
        ("resnet18-stride-instance", "resnet18"),
    ],
)
def test_defaults_spelt_out_vanish_from_the_name(name: str, canonical: str):
    assert parse(name).name == canonical


@given(
    st.integers(1, MAX_DEPTH),
    st.integers(1, MAX_WIDTH),
    st.sampled_from(sorted(NORMS)),
    st.sampled_from(sorted(ACTIVATIONS)),
    st.sampled_from(sorted(POOLINGS)),
)
def test_names_of_convnets_lead_back_to_them(
    depth: int, width: int, norm: str, activation: str, pooling: str
):
    width = width + -width % 4 if norm == "group" else width
    spec = NetworkSpec(depth, width, norm, activation, pooling)
    assert parse(spec.name) == spec
    spelt = f"convnet-{pooling}-w{width}-{norm}-d{depth}-{activation}"
    assert parse(spelt) == spec


@given(st.data())
def test_names_of_any_family_lead_back_to_them(data: st.DataObject):
    kind = data.draw(st.sampled_from(sorted(FAMILIES)))
    words = [
        data.draw(st.sampled_from(sorted(words)))
        for words in FAMILIES[kind].parts.values()
        if words
    ]
    chosen = data.draw(st.permutations(words))[: data.draw(st.integers(0, len(words)))]
    spec = parse("-".join((kind, *chosen)))
    assert spec.family == kind
    assert parse(spec.name) == spec
    standard = {part.name for part in catalogue(kind) if part.default}
    assert set(spec.name.split("-")) == {kind, *chosen} - standard


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("resnet", "'resnet': unknown network family 'resnet'.*convnet.*mlp.*resnet18$"),
        ("", "unknown network family ''"),
        ("convnet-bn", "'convnet-bn': unknown part 'bn'.*batch"),
        ("convnet-", "unknown part ''"),
        ("convnet-d0", "depth d0"),
        ("convnet-d9", "depth d9.*d6"),
        ("convnet-w0", "width w0"),
        ("convnet-w4096", "width w4096.*w1024"),
        ("convnet-d2-d3", "'d3' gives the depth a second time"),
        ("convnet-w6-group", "no multiple of 4"),
        ("convnet-ap", "unknown part 'ap'"),
        ("mlp-batch", "unknown part 'batch'; choices of mlp are d1 to d6, w1 to w1024$"),
        ("mlp-d0", "depth d0 is not in d1 to d6"),
        ("lenet-relu", "unknown part 'relu': lenet is the whole name"),
        ("alexnet-w64", "unknown part 'w64': alexnet is the whole name"),
        ("vgg11-d8", "unknown part 'd8'; choices of vgg11 are batch, instance$"),
        ("vgg11-group", "unknown part 'group'; choices of vgg11 are batch, instance$"),
        ("vgg11-batch-instance", "'instance' gives the norm a second time"),
        ("resnet18-avg", "unknown part 'avg'; choices of resnet18 are batch, instance, stride, ap"),
    ],
)
def test_a_wrong_name_says_which_part_and_what_there_is(name: str, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        parse(name)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"family": "lenet"}, "depth of lenet is 2, not 3"),
        ({"family": "alexnet", "depth": 5}, "width of alexnet is 256, not 128"),
        ({"family": "mlp"}, "norm of mlp is 'nonorm', not 'instance'"),
        ({"family": "vgg"}, "unknown network family 'vgg'"),
        ({"norm": "spectral"}, "norm 'spectral' is not one of nonorm, batch"),
        ({"pooling": "ap"}, "pooling 'ap' is not one of nopool, max, avg"),
    ],
)
def test_a_spec_is_no_other_than_a_name_could_say(fields: dict[str, object], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        NetworkSpec(**fields)  # type: ignore[arg-type]


def test_the_catalogue_has_every_published_variant():
    words = {part.name for part in catalogue()}
    assert {"d1", "d4", "w32", "w256", "nonorm", "batch", "layer", "instance", "group"} <= words
    assert {"sigmoid", "relu", "leakyrelu", "swish", "nopool", "max", "avg"} <= words
    assert sorted(p.name for p in catalogue() if p.default) == sorted(
        ["d3", "w128", "instance", "relu", "avg"]
    )
    assert {p.name for p in catalogue("resnet18")} == {"batch", "instance", "stride", "ap"}
    assert catalogue("lenet") == ()


def test_batch_norm_alone_couples_the_images_of_a_batch():
    coupled = ("convnet-batch", "vgg11-batch", "resnet18-batch", "resnet18-ap-batch")
    assert all(parse(name).couples_images for name in coupled)
    others = (*FAMILIES, "convnet-group", "convnet-layer", "resnet18-ap")
    assert not any(parse(name).couples_images for name in others)
