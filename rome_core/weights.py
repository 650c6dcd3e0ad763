"""Weights of networks in files: `.pth` and `.pt` of anybody, `.safetensors` of ours and others.

Owns how a state dict is read from a file that is not trusted, and which network it is of. No code
of a file ever runs, and no tensor is made before its shape is known to fit. Must not know who
trained a network, nor on what.

A file is a state dict, or a dictionary that holds one under a name of `WRAPPERS`, as training
scripts write; what lies beside it there, such as an optimiser's state, is ignored. In the state
dict itself texts, numbers and None (an accuracy, an epoch) are ignored; any other entry that is no
tensor is an error. Prefixes that `DataParallel` and `torch.compile` put before every key are taken
off. Half, bfloat16 and double weights become float32.

What network it is of is said by the caller or by the file's own metadata. Else the family is read
off keys and shapes, and what of it a name may change: of a ConvNet depth, width, norm and whether
there is pooling. Activation, kind of pooling, and instance against group norm leave no trace there,
and are assumed to be those of the family's standard network. `Loaded.assumed` says so.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rome_core import foreign
from rome_core.errors import CoreError
from rome_core.files import write_atomically
from rome_core.networks import CLASSES, Network, blank
from rome_core.recipes.networks import FAMILIES, SHRINKINGS, NetworkSpec, parse
from rome_core.space import Sketch, Space, Zca

MAX_BYTES: Final = 2**30
"""Of a file. The largest network of the catalogue, convnet-d1-w256-nopool for 200 classes of 64x64
images, takes 840 MB; the reference network 1.3 MB."""

WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
PREFIXES: Final = ("module.", "_orig_mod.")
FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
POOLINGS_SHOWN: Final = {"convnet": ("avg", "nopool"), "resnet18": tuple(SHRINKINGS)}
"""Those that keys or shapes tell from one another."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network in evaluation mode, and what of its name the file leaves open.

    `assumed` holds texts such as "activation relu"; it is empty where the caller or the file names
    the network. `whitening` is the one that its images went through, None for normalised ones.
    """

    network: Network
    assumed: tuple[str, ...]
    whitening: Sketch | None = None


def save(network: Network, path: Path, space: Space | None = None) -> None:
    """Write a `.safetensors` with the network's name in its metadata: equal weights, equal bytes.

    `space` is the one that its images went through; what tells a whitening from others is written
    with the name. Raises OSError with whatever was at `path` before still there.
    """
    weights = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    # One metadata key: the library writes several in no fixed order.
    named = {"network": network.spec.name}
    if isinstance(space, Zca):
        described = {**named, "whitening": asdict(space.sketch)}
        named = {"described": json.dumps(described, sort_keys=True)}
    write_atomically(path, safetensors.torch.save(weights, metadata=named))


def load(
    path: Path, *, network: str | None = None, channels: int, size: int, classes: int
) -> Network:
    """The network of `read`, without what was assumed about it."""
    return read(path, network=network, channels=channels, size=size, classes=classes).network


def read(
    path: Path, *, network: str | None = None, channels: int, size: int, classes: int
) -> Loaded:
    """Read a network for images (n, channels, size, size) of `classes` classes.

    On the CPU, in float32 and evaluation mode. `network` is a name from the catalogue; where the
    file has metadata of ours it must be None or agree with them. Raises ValueError for an unknown
    name, and CoreError: weights_missing, weights_too_large, weights_damaged (unreadable, or values
    that are not finite), weights_mismatch (keys, shapes, channels or classes) or
    weights_undescribed (neither said nor shown what network they are of).
    """
    asked = None if network is None else parse(network)
    state, named, whitening = _read(path)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assumed: tuple[str, ...] = ()
    if asked is not None and named is not None and asked != named:
        raise CoreError(
            "weights_mismatch",
            f"{path.name} says its network is {named.name}, not {asked.name}.",
            "Leave network out.",
            "network",
        )
    spec = asked or named
    if spec is None:
        spec, assumed = _infer(path, shapes, size)
    made = blank(spec, channels=channels, size=size, classes=classes)
    needed = made.state_dict()
    _check_shapes(path, shapes, _shapes(needed), made, "weights" if asked is None else "network")
    for key, value in state.items():
        if value.is_floating_point() != needed[key].is_floating_point():
            raise _mismatch(path, f"its {key} has values of the type {value.dtype}")
    made.to_empty(device="cpu")
    with torch.no_grad():
        for key, target in made.state_dict().items():
            target.copy_(state[key])
            if not bool(target.isfinite().all()):
                raise _damaged(path, f"its {key} holds values that are not finite in float32")
            if key.endswith("running_var") and bool((target < 0).any()):
                raise _damaged(path, f"its {key} holds variances below 0")
    return Loaded(made.eval(), assumed, whitening)


def _read(path: Path) -> tuple[dict[str, Tensor], NetworkSpec | None, Sketch | None]:
    """The state dict under its bare keys, and the network and whitening that the file names."""
    if not path.is_file():
        raise CoreError(
            "weights_missing",
            f"There is no file {path.absolute()}.",
            "Give the path of a state dict, such as student-0.safetensors or a .pth.",
            "weights",
        )
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise CoreError(
            "weights_too_large",
            f"{path.name} is larger than {MAX_BYTES:,} bytes, and no network of ours is.",
            "Save the network's state_dict() alone.",
            "weights",
        )
    named: NetworkSpec | None = None
    whitening: Sketch | None = None
    if raw[8:9] == b"{":  # eight bytes of length, then JSON
        content, named, whitening = _from_safetensors(path, raw)
    else:
        try:
            content = foreign.load(raw)
        except ValueError as error:
            raise _damaged(path, str(error)) from error
    if not isinstance(content, dict):
        raise _mismatch(path, f"it holds a {type(content).__name__}, not a dictionary of tensors")
    return _bare(_tensors(path, _unwrapped(path, content))), named, whitening


def _from_safetensors(
    path: Path, raw: bytes
) -> tuple[dict[str, Any], NetworkSpec | None, Sketch | None]:
    try:
        tensors: dict[str, Any] = safetensors.torch.load(raw)
        length = int.from_bytes(raw[:8], "little")
        told = json.loads(raw[8 : 8 + length]).get("__metadata__") or {}
        described = dict(json.loads(told["described"])) if "described" in told else told
        name, sketch = described.get("network"), described.get("whitening")
        return (
            tensors,
            None if name is None else parse(name),
            None if sketch is None else Sketch.of(sketch),
        )
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _damaged(path, str(error).partition("\n")[0] or type(error).__name__) from error


def _unwrapped(path: Path, content: dict[Any, Any]) -> dict[Any, Any]:
    for _ in range(3):  # as in {"model": {"state_dict": …}}; a pickle may even hold itself
        inner = [name for name in WRAPPERS if isinstance(content.get(name), dict)]
        if len(inner) > 1:
            raise _mismatch(path, f"it holds several networks: {', '.join(inner)}")
        if not inner:
            break
        content = content[inner[0]]
    return content


def _tensors(path: Path, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if isinstance(value, str | int | float | None):
            continue
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise _mismatch(path, f"its entry {_shown(key)} is a {type(value).__name__}, no tensor")
        if value.is_floating_point() and value.dtype not in FLOATS:
            raise _mismatch(path, f"its {_shown(key)} has values of the type {value.dtype}")
        if not foreign.is_whole(value):
            shape = tuple(value.shape)
            raise _damaged(path, f"its {_shown(key)} claims the shape {shape} without the values")
        state[key] = value
    if not state:
        raise _mismatch(path, "it holds no tensors")
    return state


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the prefixes that wrap a whole network."""
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _infer(path: Path, shapes: Shapes, size: int) -> tuple[NetworkSpec, tuple[str, ...]]:
    """The network that keys and shapes show, whatever its channels and classes, and the rest."""
    fitting = [spec for spec in _candidates(shapes) if _fits(spec, shapes, size)]
    if not fitting:
        raise CoreError(
            "weights_undescribed",
            f"{path.name} does not say what network it is of, and its keys and shapes are not "
            f"those of a network of the catalogue for images of {size}x{size}.",
            "Give network, such as convnet-d4-w64-batch or resnet18; others than the catalogue's "
            "are not read.",
            "network",
        )
    families = {spec.family for spec in fitting}
    assert len(families) == 1, "families differ in their keys or in the shapes of kernels"
    standard = FAMILIES[families.pop()]
    spec = next((spec for spec in fitting if spec.norm == standard.norm), fitting[0])
    open_fields = []
    if "activation" in standard.parts:
        open_fields.append("activation")
    if spec.family == "convnet" and spec.pooling != "nopool":
        open_fields.append("pooling")
    if len(fitting) > 1:
        open_fields.append("norm")
    return spec, tuple(f"{field} {getattr(spec, field)}" for field in open_fields)


def _candidates(shapes: Shapes) -> Iterator[NetworkSpec]:
    """As deep and wide as the shapes are, one for each choice of a name that they could show."""
    if any(0 in shape for shape in shapes.values()):
        return
    convolutions = [key for key in shapes if re.fullmatch(r"features\.[0-9]+\.weight", key)]
    read = {
        "convnet": sum(len(shapes[key]) == 4 for key in convolutions),
        "mlp": sum(bool(re.fullmatch(r"fc_[0-9]+\.weight", key)) for key in shapes) - 1,
    }
    for kind, family in FAMILIES.items():
        depth, width = family.depth, family.width
        if stem := shapes.get(f"{CLASSES[kind].stem}.weight") if kind in read else None:
            depth, width = read[kind], stem[0]
        norms = family.parts.get("norm", (family.norm,))
        poolings = POOLINGS_SHOWN.get(kind, (family.pooling,))
        for norm, pooling in product(norms, poolings):
            with suppress(ValueError):  # no such network
                yield NetworkSpec(depth, width, norm, family.activation, pooling, kind)


def _fits(spec: NetworkSpec, shapes: Shapes, size: int) -> bool:
    """Whether shapes are this network's, for whatever channels and classes they show."""
    stem = shapes.get(f"{CLASSES[spec.family].stem}.weight", ())
    if len(stem) < 2:
        return False
    channels = stem[1] if len(stem) == 4 else stem[1] // size**2  # a linear one reads all pixels
    try:
        made = blank(spec, channels=max(1, channels), size=size, classes=1)
    except CoreError:  # not at this size
        return False
    last = f"{made.head}.weight", f"{made.head}.bias"
    classes = shapes.get(last[0], ())[:1]
    needed = {
        **_shapes(made.state_dict()),
        last[0]: (*classes, made.embedding_size),
        last[1]: classes,
    }
    return needed == shapes


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def _check_shapes(path: Path, shapes: Shapes, needed: Shapes, made: Network, field: str) -> None:
    remedy = "Give the network that these weights are of."
    missing = [key for key in needed if key not in shapes]
    unexpected = [key for key in shapes if key not in needed]
    if missing or unexpected:
        parts = [f"it lacks {_some(missing)} of {made.spec.name}"] if missing else []
        parts += [f"{made.spec.name} lacks {_some(unexpected)} of it"] if unexpected else []
        raise _mismatch(path, ", and ".join(parts), remedy, field)
    for key, shape in shapes.items():
        need = needed[key]
        if shape == need:
            continue
        if key.startswith(f"{made.head}.") and shape[1:] == need[1:]:
            field, remedy = "weights", f"Take weights trained for these {made.classes} classes."
        elif key == f"{made.stem}.weight" and (shape[0], *shape[2:]) == (need[0], *need[2:]):
            images = f"{made.channels}-channel images of {made.size}x{made.size}"
            field, remedy = "weights", f"Take weights trained on {images}."
        raise _mismatch(
            path,
            f"its {key} has the shape {shape}, and {made.spec.name} for {made.classes} classes of "
            f"{made.channels}x{made.size}x{made.size} images needs {need}",
            remedy,
            field,
        )


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
    return ", ".join(_shown(key) for key in keys[:2]) + more


def _shown(key: object) -> str:
    text = key if isinstance(key, str) else repr(key)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _damaged(path: Path, why: str) -> CoreError:
    return CoreError(
        "weights_damaged",
        f"{path.name} cannot be read as weights: {why}.",
        "Save them again with torch.save(network.state_dict(), path), or as .safetensors.",
        "weights",
    )


def _mismatch(
    path: Path,
    why: str,
    remedy: str = "Give the state dict of one network, alone or under 'state_dict'.",
    field: str = "weights",
) -> CoreError:
    return CoreError("weights_mismatch", f"{path.name} does not fit: {why}.", remedy, field)
