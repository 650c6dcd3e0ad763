"""Networks written out as functions of a state dict, one layer after the other."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def embedding(name: str, state: State, x: Tensor) -> Tensor:
    """In evaluation mode: (n, c, size, size) -> (n, d)."""
    family, *parts = name.split("-")
    made: dict[str, Callable[[], Tensor]] = {
        "mlp": lambda: _mlp(state, x),
        "lenet": lambda: _lenet(state, x),
        "alexnet": lambda: _alexnet(state, x),
        "vgg11": lambda: _vgg(state, x, "batch" in parts),
        "resnet18": lambda: _resnet(state, x, "batch" in parts, "ap" in parts),
    }
    return made[family]()


def _linear(state: State, key: str, x: Tensor) -> Tensor:
    return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]


def _conv(state: State, key: str, x: Tensor, padding: int, stride: int = 1) -> Tensor:
    return F.conv2d(x, state[f"{key}.weight"], state.get(f"{key}.bias"), stride, padding)


def _norm(state: State, key: str, x: Tensor, batch: bool) -> Tensor:
    if batch:
        mean = state[f"{key}.running_mean"].view(1, -1, 1, 1)
        variance = state[f"{key}.running_var"].view(1, -1, 1, 1)
    else:
        mean = x.mean((2, 3), keepdim=True)
        variance = (x - mean).square().mean((2, 3), keepdim=True)
    scale = state[f"{key}.weight"].view(1, -1, 1, 1) / (variance + 1e-5).sqrt()
    return (x - mean) * scale + state[f"{key}.bias"].view(1, -1, 1, 1)


def _relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def _max(x: Tensor) -> Tensor:
    side = x.shape[-1] // 2 * 2
    x = x[..., :side, :side]
    rows = torch.maximum(x[..., 0::2, :], x[..., 1::2, :])
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])


def _mean(x: Tensor) -> Tensor:
    side = x.shape[-1] // 2 * 2
    x = x[..., :side, :side]
    rows = x[..., 0::2, :] + x[..., 1::2, :]
    return (rows[..., 0::2] + rows[..., 1::2]) / 4


def _mlp(state: State, x: Tensor) -> Tensor:
    x = x.reshape(len(x), -1)
    return _relu(_linear(state, "fc_2", _relu(_linear(state, "fc_1", x))))


def _lenet(state: State, x: Tensor) -> Tensor:
    padding = 2 if x.shape[1] == 1 else 0
    x = _max(_relu(_conv(state, "features.0", x, padding)))
    x = _max(_relu(_conv(state, "features.3", x, 0)))
    x = x.reshape(len(x), -1)
    return _relu(_linear(state, "fc_2", _relu(_linear(state, "fc_1", x))))


def _alexnet(state: State, x: Tensor) -> Tensor:
    padding = 4 if x.shape[1] == 1 else 2
    x = _max(_relu(_conv(state, "features.0", x, padding)))
    x = _max(_relu(_conv(state, "features.3", x, 2)))
    for key in ("features.6", "features.8", "features.10"):
        x = _relu(_conv(state, key, x, 1))
    return _max(x).reshape(len(x), -1)


def _vgg(state: State, x: Tensor, batch: bool) -> Tensor:
    padding = 3 if x.shape[-1] == 28 else 1
    for place, pooled in (
        *((0, True), (4, True), (8, False), (11, True)),
        *((15, False), (18, True), (22, False), (25, True)),
    ):
        x = _conv(state, f"features.{place}", x, padding)
        x = _relu(_norm(state, f"features.{place + 1}", x, batch))
        x, padding = _max(x) if pooled else x, 1
    return x.reshape(len(x), -1)


def _resnet(state: State, x: Tensor, batch: bool, ap: bool) -> Tensor:
    x = _relu(_norm(state, "bn1", _conv(state, "conv1", x, 1), batch))
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            shrinks = stage > 1 and block == 0
            stride = 2 if shrinks and not ap else 1
            key = f"layer{stage}.{block}"
            inner = _conv(state, f"{key}.conv1", x, 1, stride)
            inner = _relu(_norm(state, f"{key}.bn1", inner, batch))
            inner = _mean(inner) if shrinks and ap else inner
            inner = _norm(state, f"{key}.bn2", _conv(state, f"{key}.conv2", inner, 1), batch)
            if shrinks:
                x = _conv(state, f"{key}.shortcut.0", x, 0, stride)
                x = _mean(x) if ap else x
                x = _norm(state, f"{key}.shortcut.{2 if ap else 1}", x, batch)
            x = _relu(inner + x)
    return x.reshape(len(x), -1) if ap else x.mean((2, 3))
