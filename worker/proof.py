"""The load proof: opens a finished file the way its readers will, and judges nothing but that it
opens.

Runs in a child that had no part in writing the files; the supervisor never imports this module.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree


class Unreadable(Exception):
    """A file that its reader could not open; the message says why."""


def load(path: Path, media_type: str) -> None:
    """Open `path` as `media_type`; a type without a known reader only has to exist and hold
    something.

    Raises Unreadable.
    """
    if not path.is_file():
        raise Unreadable("the file is missing")
    if path.stat().st_size == 0:
        raise Unreadable("the file is empty")
    reader = READERS.get(path.suffix) or READERS.get(media_type)
    if reader is None:
        return
    try:
        reader(path)
    except Unreadable:
        raise
    except (OSError, ValueError, RuntimeError, EOFError, SyntaxError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise Unreadable(str(error)) from error


def _torch(path: Path) -> None:
    import torch

    # The safe default of every reader: tensors and plain containers, no code.
    torch.load(path, map_location="cpu", weights_only=True)


def _safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no dict and has no iterator
                tensors.get_tensor(name)
    except SafetensorError as error:
        raise Unreadable(str(error)) from error


def _image(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.load()


def _json(path: Path) -> None:
    json.loads(path.read_bytes())


def _text(path: Path) -> None:
    path.read_text(encoding="utf-8")


def _parquet(path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            for _ in table.iter_batches():  # a table may be larger than the memory at hand
                pass
    except pyarrow.ArrowException as error:
        raise Unreadable(str(error)) from error


def _svg(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    if root.tag != "{http://www.w3.org/2000/svg}svg":
        raise Unreadable(f"the root element is {root.tag}")


READERS: Mapping[str, Callable[[Path], None]] = {
    ".pt": _torch,
    ".safetensors": _safetensors,
    ".png": _image,
    ".json": _json,
    ".md": _text,
    ".log": _text,
    ".svg": _svg,
    ".parquet": _parquet,
    "application/x-pytorch": _torch,
    "image/png": _image,
    "application/json": _json,
    "text/markdown": _text,
    "text/plain": _text,
    "image/svg+xml": _svg,
    "application/vnd.apache.parquet": _parquet,
    "application/x-safetensors": _safetensors,
}
