"""`.pt` and `.pth` files of strangers: tensors in plain containers, and nothing else.

Owns what must hold of a file before `torch.load` sees it. `weights_only=True` runs no code, but it
bounds nothing: it unpacks compressed records, finds records whatever the case of their names, and
calls `bytearray` with any size, so that (measured, torch 2.13) 200 bytes of pickle took 8 GiB. Must
not know what the tensors are for.
"""

import io
import pickletools
import re
import warnings
import zipfile
from typing import Any, Final

import torch

MAX_RECORDS: Final = 10_000
"""Records of an archive. A tensor is one; the listing of millions would itself take gigabytes."""

MAX_PICKLE: Final = 2**20
"""Bytes of the pickle that describes the tensors: the reference network's has 2 kB."""

_DICT: Final = "collections OrderedDict"
_GLOBALS: Final = frozenset(
    {
        _DICT,
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        *(
            f"torch {kind}Storage"
            for kind in (
                *("Half", "BFloat16", "Float", "Double"),
                *("Byte", "Char", "Short", "Int", "Long", "Bool"),
            )
        ),
    }
)
_MEMO: Final = {"BINPUT", "LONG_BINPUT"}
_RECALL: Final = {"BINGET", "LONG_BINGET"}


def load(raw: bytes) -> Any:
    """Read what `torch.save` wrote, onto the CPU, without running code and in memory like `raw`'s.

    A tensor may still claim to be larger than its storage, through strides of 0: see `is_whole`.
    Raises ValueError with what is wrong, as the end of a sentence about the file.
    """
    if raw[:4] != b"PK\x03\x04":
        raise ValueError("it is no archive as torch.save has written since PyTorch 1.6")
    try:
        _look_over(raw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of a stranger's file only errors matter.
            return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except _Refused as refused:
        raise ValueError(str(refused)) from None
    except Exception as error:  # whatever damaged bytes raise in three parsers
        # Before the reason, torch's own text may advise to load the file unsafely: not ours.
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
        raise ValueError(reason or type(error).__name__) from error


def is_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor has memory for every value that its shape promises."""
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


class _Refused(Exception):
    """An archive that `torch.save` would not have written."""


def _look_over(raw: bytes) -> None:
    if raw.count(b"PK\x01\x02") > MAX_RECORDS:
        raise _Refused(f"it lists more than {MAX_RECORDS:,} records")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise _Refused("its records are compressed, and torch.save compresses none")
        if sum(record.file_size for record in records) > len(raw):
            raise _Refused("its records overlap: together they are larger than the file")
        for record in records:
            name = record.filename.partition("/")[2]
            # torch finds x under the name X as well, and would read it again for each spelling.
            if name.lower().startswith("data/") and not re.fullmatch(r"data/[0-9]+", name):
                raise _Refused(f"a record is called {name!r}, and torch.save numbers them")
        pickles = [r for r in records if r.filename.partition("/")[2].lower() == "data.pkl"]
        if len(pickles) != 1:
            raise _Refused(f"it has {len(pickles)} records data.pkl, not one")
        if pickles[0].file_size > MAX_PICKLE:
            raise _Refused(f"its description of the tensors has {pickles[0].file_size:,} bytes")
        _scan(archive.read(pickles[0]))


def _scan(pickled: bytes) -> None:
    """Only the names that tensors need, and the dictionary only ever made empty.

    Called with a tensor of 2**30 rows of stride 0, the dictionary would fill the memory with them.
    """
    dictionaries: set[object] = set()  # memo places that hold the class
    is_class = False  # the newest thing on the stack is the class of dictionaries
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.proto > 2:
            raise _Refused(f"its pickle uses {opcode.name}, and torch.save writes protocol 2")
        if opcode.name in _MEMO:
            if is_class:
                dictionaries.add(argument)
            else:
                dictionaries.discard(argument)
            continue
        if is_class and opcode.name != "EMPTY_TUPLE":
            raise _Refused("it calls a dictionary with contents")
        is_class = opcode.name in _RECALL and argument in dictionaries
        if opcode.name == "GLOBAL":
            if argument not in _GLOBALS:
                asked = str(argument).replace(" ", ".")
                raise _Refused(f"it asks for {asked}, which tensors do not need")
            is_class = argument == _DICT
