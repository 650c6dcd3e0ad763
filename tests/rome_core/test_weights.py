"""Weights from files: whose they are, whether they fit, and clear words where they do not."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from rome_core import weights
from rome_core.errors import CoreError
from rome_core.networks import Network, build
from rome_core.randomness import generator
from rome_core.space import Normalised, Zca
from tests.rome_core.test_foreign import Exploit

NAME = "convnet-d2-w8"


def network(name: str = NAME, **changes: int) -> Network:
    shape = {"channels": 3, "size": 8, "classes": 4, **changes}
    return build(name, **shape, generator=generator(1, name))


def read(path: Path, name: str | None = None, **changes: int) -> weights.Loaded:
    return weights.read(path, network=name, **{"channels": 3, "size": 8, "classes": 4, **changes})


def failure(call: Callable[[], object]) -> CoreError:
    with pytest.raises(CoreError) as caught:
        call()
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a1b2c3"  # names of artifacts have no ending


def put(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def same(one: Network, other: Network) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.parametrize("name", [NAME, "convnet-d1-w4-batch-swish-max", "convnet-w4-group-nopool"])
def test_what_is_saved_comes_back_and_says_what_it_is(path: Path, name: str) -> None:
    made = network(name)
    weights.save(made, path)
    loaded = read(path)
    assert loaded.network.spec.name == name
    assert loaded.assumed == ()
    assert same(loaded.network, made)
    assert not any(module.training for module in loaded.network.modules())
    assert all(parameter.requires_grad for parameter in loaded.network.parameters())
    x = torch.rand(2, 3, 8, 8, generator=generator(2))
    assert torch.equal(loaded.network(x), made.eval()(x))
    again = path.with_name("again")
    weights.save(loaded.network, again)
    assert again.read_bytes() == path.read_bytes()
    assert safetensors.torch.load_file(path).keys() == made.state_dict().keys()


def test_weights_of_whitened_images_say_whose_whitening_it_was(path: Path) -> None:
    made, images = network(), torch.rand(200, 3, 8, 8, generator=generator(4))
    space = Zca.fit(images, 0.2)
    weights.save(made, path, space)
    loaded = read(path)
    assert same(loaded.network, made)
    assert (loaded.network.spec.name, loaded.assumed) == (NAME, ())
    assert loaded.whitening == space.sketch
    first = path.read_bytes()
    weights.save(loaded.network, path, Zca.fit(images, 0.2))
    assert path.read_bytes() == first
    weights.save(made, path)
    plain = path.read_bytes()
    assert read(path).whitening is None
    weights.save(made, path, Normalised.of((0.5,) * 3, (0.2,) * 3))
    assert path.read_bytes() == plain


@pytest.mark.parametrize(
    "told",
    [
        "no JSON",
        "[1]",
        '"convnet"',
        '{"network": "convnet-d2-w4", "whitening": {"epsilon": 0.1}}',
        '{"network": "convnet-d2-w4", "whitening": {"epsilon": "x", "values": []}}',
        '{"network": "convnet-d2-w4", "whitening": {"epsilon": 0.1, "values": [null]}}',
        '{"network": "convnet-d2-w4", "whitening": "zca"}',
    ],
)
def test_a_whitening_that_is_none_is_damage(path: Path, told: str) -> None:
    safetensors.torch.save_file(network().state_dict(), path, {"described": told})
    assert failure(lambda: read(path)).code == "weights_damaged"


FITTING = {"mlp": 8, "mlp-d3-w16": 8, "lenet": 16, "alexnet": 8, "vgg11": 32, "vgg11-batch": 32}
FITTING |= {f"resnet18{more}": 16 for more in ("", "-batch", "-ap", "-batch-ap")}


@pytest.mark.parametrize(("name", "size"), FITTING.items())
def test_other_families_come_back_and_are_told_by_their_shapes(
    path: Path, name: str, size: int
) -> None:
    made = network(name, size=size)
    weights.save(made, path)
    assert same(read(path, size=size).network, made)
    assert read(path, size=size).network.spec.name == name
    for save in (torch.save, safetensors.torch.save_file):  # as anybody else would
        save({f"module.{key}": value for key, value in made.state_dict().items()}, path)
        loaded = read(path, size=size)
        assert loaded.network.spec.name == name
        assert loaded.assumed == ()
        assert same(loaded.network, made)
        assert same(read(path, name, size=size).network, made)


@pytest.mark.parametrize(
    ("name", "size", "changes", "words"),
    [
        ("mlp", 8, {"classes": 5}, ("fc_3.weight", "(4, 128)", "(5, 128)", "these 5 classes")),
        ("mlp", 8, {"channels": 1}, ("fc_1.weight", "(128, 192)", "1-channel images of 8x8")),
        ("lenet", 16, {"classes": 5}, ("fc_3.weight", "(4, 84)", "these 5 classes")),
        ("alexnet", 8, {"channels": 1}, ("features.0.weight", "1-channel images of 8x8")),
        ("resnet18", 16, {"channels": 1}, ("conv1.weight", "(64, 3, 3, 3)", "1-channel images")),
        ("vgg11", 32, {"classes": 5}, ("classifier.weight", "(4, 512)", "these 5 classes")),
    ],
)
def test_other_families_say_what_does_not_fit(
    path: Path, name: str, size: int, changes: dict[str, int], words: tuple[str, ...]
) -> None:
    put(path, network(name, size=size).state_dict())
    for asked in (None, name):
        error = failure(lambda asked=asked: read(path, asked, size=size, **changes))
        assert (error.code, error.field) == ("weights_mismatch", "weights")
        for word in words:
            assert word in f"{error.detail} {error.remedy}"


@pytest.mark.parametrize(
    ("name", "other", "words"),
    [
        ("resnet18", "resnet18-ap", "lacks layer2.0.shortcut.2.weight"),
        ("resnet18", "resnet18-batch", "lacks bn1.running_mean"),
        ("vgg11", "convnet", "convnet lacks features.11.weight"),
        ("convnet-d2-w8", "alexnet", "lacks"),
    ],
)
def test_a_network_of_another_family_is_refused(
    path: Path, name: str, other: str, words: str
) -> None:
    put(path, network(name, size=32).state_dict())
    error = failure(lambda: read(path, other, size=32))
    assert (error.code, error.field) == ("weights_mismatch", "network")
    assert words in error.detail


@pytest.mark.parametrize(
    ("name", "size", "other"), [("mlp", 8, 12), ("vgg11", 32, 64), ("resnet18", 16, 8)]
)
def test_shapes_of_other_images_than_asked_for_are_not_guessed_at(
    path: Path, name: str, size: int, other: int
) -> None:
    put(path, network(name, size=size).state_dict())
    error = failure(lambda: read(path, size=other))
    assert (error.code, error.field) == ("weights_undescribed", "network")
    assert f"{other}x{other}" in error.detail


def test_a_file_that_names_its_network_is_not_contradicted(path: Path) -> None:
    weights.save(network(), path)
    assert read(path, "convnet-w8-d2-instance").assumed == ()
    error = failure(lambda: read(path, "convnet-d2-w8-leakyrelu"))
    assert (error.code, error.field) == ("weights_mismatch", "network")
    assert "convnet-d2-w8, not convnet-d2-w8-leakyrelu" in error.detail
    with pytest.raises(ValueError, match="resnet"):
        read(path, "resnet")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": state, "epoch": 3, "best": torch.tensor(0.7)},
        lambda state: {"net": {f"module.{key}": value for key, value in state.items()}, "acc": 61},
        lambda state: {"model": {"state_dict": state}, "optimizer": {"state": {}, "lr": [0.1]}},
        lambda state: {**state, "arch": "ConvNet", "accuracy": 0.7, "note": None, "done": True},
    ],
)
def test_the_forms_in_which_weights_come(
    path: Path, wrap: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    made = network()
    put(path, wrap(made.state_dict()))
    assert same(read(path, NAME).network, made)
    assert same(weights.load(path, channels=3, size=8, classes=4), made)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(path: Path, kind: torch.dtype) -> None:
    made = network("convnet-d1-w4-batch").to(kind)
    for save in (torch.save, safetensors.torch.save_file):
        save(made.state_dict(), path)
        loaded = read(path, "convnet-d1-w4-batch").network
        assert {value.dtype for value in loaded.state_dict().values()} == {
            torch.float32,
            torch.int64,
        }
        assert same(loaded, made.float())
        made = made.to(kind)


@pytest.mark.parametrize(
    ("name", "seen", "assumed"),
    [
        ("convnet-d2-w8", "convnet-d2-w8", {"activation relu", "pooling avg", "norm instance"}),
        ("convnet-d1-w8-max", "convnet-d1-w8", {"activation relu", "pooling avg", "norm instance"}),
        ("convnet-w6-nopool", "convnet-w6-nopool", {"activation relu"}),  # 6 makes no four groups
        ("convnet-d1-w8-nopool", "convnet-d1-w8-nopool", {"activation relu", "norm instance"}),
        ("convnet-w4-batch-swish", "convnet-w4-batch", {"activation relu", "pooling avg"}),
        ("convnet-w4-layer", "convnet-w4-layer", {"activation relu", "pooling avg"}),
        ("convnet-w4-nonorm", "convnet-w4-nonorm", {"activation relu", "pooling avg"}),
    ],
)
def test_shapes_show_depth_width_norm_and_pooling(
    path: Path, name: str, seen: str, assumed: set[str]
) -> None:
    loaded = read(put(path, network(name).state_dict()))
    assert loaded.network.spec.name == seen
    assert set(loaded.assumed) == assumed


def test_bare_safetensors_are_read_like_any_others(path: Path) -> None:
    made = network()
    safetensors.torch.save_file(made.state_dict(), path, metadata={"format": "pt"})
    assert same(read(path).network, made)
    assert "pooling avg" in read(path).assumed


@pytest.mark.parametrize(
    "content",
    [
        {"fc.weight": torch.zeros(4, 3), "fc.bias": torch.zeros(4)},
        {"features.0.weight": torch.zeros(0, 3, 3, 3), "classifier.weight": torch.zeros(0, 9)},
        {"features.0.weight": torch.zeros(8, 3, 5, 5), "classifier.weight": torch.zeros(4, 32)},
        {"features.0.weight": torch.zeros(2000, 3, 3, 3), "classifier.weight": torch.zeros(4, 9)},
    ],
)
def test_weights_of_another_family_ask_for_a_name(path: Path, content: dict[str, Tensor]) -> None:
    error = failure(lambda: read(put(path, content)))
    assert (error.code, error.field) == ("weights_undescribed", "network")
    assert "convnet" in error.remedy
    assert failure(lambda: read(path, NAME)).code == "weights_mismatch"


@pytest.mark.parametrize(
    ("name", "changes", "field", "words"),
    [
        (None, {"classes": 5}, "weights", ("classifier.weight", "(4, 32)", "(5, 32)")),
        (NAME, {"classes": 5}, "weights", ("classifier.weight", "(4, 32)", "(5, 32)")),
        (None, {"channels": 1}, "weights", ("features.0.weight", "(8, 3, 3, 3)", "(8, 1, 3, 3)")),
        (NAME, {"size": 16}, "network", ("classifier.weight", "(4, 32)", "(4, 128)")),
        ("convnet-d2-w4", {}, "network", ("features.0.weight", "(8, 3, 3, 3)", "(4, 3, 3, 3)")),
        ("convnet-d3-w8", {}, "network", ("lacks", "features.8.weight", "and 2 more")),
        ("convnet-d1-w8", {}, "network", ("convnet-d1-w8 lacks features.4.weight", "of it")),
        ("convnet-d2-w8-batch", {}, "network", ("lacks features.1.running_mean",)),
    ],
)
def test_what_does_not_fit_is_named_with_both_shapes(
    path: Path, name: str | None, changes: dict[str, int], field: str, words: tuple[str, ...]
) -> None:
    put(path, network().state_dict())
    error = failure(lambda: read(path, name, **changes))
    assert (error.code, error.field) == ("weights_mismatch", field)
    for word in (*words, path.name):
        assert word in error.detail
    assert error.remedy.startswith(("Give the network", "Take weights trained"))


def test_a_network_too_deep_for_the_images_is_said_as_ever(path: Path) -> None:
    put(path, network().state_dict())
    assert failure(lambda: read(path, NAME, size=2)).code == "network_too_deep"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"classifier.bias": torch.tensor([0, float("nan"), 0, 0])}, "damaged", "not finite"),
        ({"features.0.bias": torch.full((8,), float("inf"))}, "damaged", "features.0.bias"),
        (
            {"features.0.bias": torch.full((8,), 1e300, dtype=torch.float64)},
            "damaged",
            "features.0.bias",
        ),
        ({"features.1.running_var": -torch.ones(8)}, "damaged", "below 0"),
        ({"features.0.bias": torch.zeros(8, dtype=torch.int64)}, "mismatch", "torch.int64"),
        ({"classifier.bias": [0.0] * 4}, "mismatch", "classifier.bias is a list"),
        ({"classifier.bias": 0.0}, "mismatch", "lacks classifier.bias"),
        ({"ema": {"a": torch.zeros(1)}}, "mismatch", "ema is a dict"),
        ({7: torch.zeros(1)}, "mismatch", "7"),
        ({"model": {}, "net": {}}, "mismatch", "several networks: model, net"),
        ({"model": {}}, "mismatch", "no tensors"),
        ({"features.0.bias": torch.zeros(1).expand(2**40)}, "damaged", "claims the shape"),
    ],
)
def test_values_that_cannot_be_weights(
    path: Path, change: dict[Any, Any], code: str, words: str
) -> None:
    put(path, {**network("convnet-d1-w8-batch").state_dict(), **change})
    for name in (None, "convnet-d1-w8-batch"):
        error = failure(lambda name=name: read(path, name))
        if name is None and error.code == "weights_undescribed":
            continue  # shapes come first where nobody names the network
        assert error.code == f"weights_{code}"
        assert words in error.detail


@pytest.mark.parametrize("content", [[torch.zeros(1)], torch.zeros(3), "words", {}, {"epoch": 1}])
def test_files_that_hold_something_else(path: Path, content: object) -> None:
    error = failure(lambda: read(put(path, content)))
    assert (error.code, error.field) == ("weights_mismatch", "weights")


def test_a_dictionary_that_holds_itself_ends(path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    assert failure(lambda: read(put(path, content))).code == "weights_mismatch"


def test_a_pickle_with_code_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    error = failure(lambda: read(put(path, {"state_dict": Exploit()}), NAME))
    assert (error.code, error.field) == ("weights_damaged", "weights")
    assert "state_dict" in error.remedy
    assert "weights_only" not in str(error)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("save", [weights.save, lambda net, path: put(path, net.state_dict())])
def test_torn_files_are_damaged(path: Path, save: Callable[[Network, Path], object]) -> None:
    save(network(), path)
    whole = path.read_bytes()
    for length in (0, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert failure(lambda: read(path)).code == "weights_damaged"


def header(fields: dict[str, Any]) -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "raw",
    [
        header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}) + b"\0" * 4,
        struct.pack("<Q", 2**40) + b"{}",
        header({"__metadata__": {"network": "resnet"}}),
        header({"__metadata__": {"network": 3}}),
    ],
)
def test_safetensors_that_lie_are_damaged(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    assert failure(lambda: read(path)).code == "weights_damaged"


def test_missing_and_enormous_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(lambda: read(path)).code == "weights_missing"
    assert failure(lambda: read(path.parent)).code == "weights_missing"
    weights.save(network(), path)
    size = path.stat().st_size
    monkeypatch.setattr(weights, "MAX_BYTES", size)
    read(path)
    monkeypatch.setattr(weights, "MAX_BYTES", size - 1)
    error = failure(lambda: read(path))
    assert error.code == "weights_too_large"
    assert f"{size - 1:,} bytes" in error.detail
