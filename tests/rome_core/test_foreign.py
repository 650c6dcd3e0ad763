"""Strangers' files: what torch.save writes comes back, anything else is refused before it acts."""

import io
import pickle
import struct
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rome_core import foreign


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def changed(
    raw: bytes,
    *,
    pickled: Callable[[bytes], bytes] = lambda data: data,
    name: Callable[[str], str] = lambda name: name,
    compression: int = zipfile.ZIP_STORED,
    more: dict[str, bytes] | None = None,
) -> bytes:
    """An archive of torch.save, written again with changes."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(raw)) as before,
        zipfile.ZipFile(buffer, "w", compression) as after,
    ):
        for record in before.infolist():
            data = before.read(record)
            if record.filename.endswith("data.pkl"):
                data = pickled(data)
            after.writestr(name(record.filename), data)
        for extra, data in (more or {}).items():
            after.writestr(extra, data)
    return buffer.getvalue()


def why(raw: bytes) -> str:
    with pytest.raises(ValueError) as caught:
        foreign.load(raw)
    return str(caught.value)


def test_what_training_scripts_save_comes_back() -> None:
    with torch.random.fork_rng():
        network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(2, 1, 4, 4)).sum().backward()
    optimiser.step()
    content = {
        "state_dict": network.state_dict(),
        "parameters": dict(network.named_parameters()),
        "half": [torch.ones(2).half(), torch.ones(2).bfloat16(), torch.ones(2).double()],
        "optimiser": optimiser.state_dict(),
        "epoch": 3,
        "best": (0.5, None, True, "words"),
    }
    back = foreign.load(saved(content))
    assert list(back) == list(content)
    for key, value in network.state_dict().items():
        assert torch.equal(back["state_dict"][key], value)
        assert foreign.is_whole(back["state_dict"][key])
    assert isinstance(back["parameters"]["0.weight"], nn.Parameter)
    assert [t.dtype for t in back["half"]] == [torch.float16, torch.bfloat16, torch.float64]
    assert back["best"] == content["best"]
    buffers = back["optimiser"]["state"]
    assert torch.equal(
        buffers[0]["momentum_buffer"], optimiser.state_dict()["state"][0]["momentum_buffer"]
    )


class Exploit:
    """What an unsafe load would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploited"),))


@pytest.mark.parametrize(("protocol", "words"), [(0, "asks for"), (2, "asks for"), (4, "protocol")])
def test_code_is_never_run(
    protocol: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = pickle.dumps({"state_dict": Exploit()}, protocol=protocol)
    packed = changed(saved({}), pickled=lambda data: plain)
    assert words in why(packed)
    assert "no archive" in why(plain)
    buffer = io.BytesIO()
    torch.save(Exploit(), buffer, _use_new_zipfile_serialization=False)
    assert "no archive" in why(buffer.getvalue())
    assert list(tmp_path.iterdir()) == []


def test_a_whole_network_is_refused_by_the_name_of_its_class() -> None:
    with torch.device("meta"):
        network = nn.Linear(2, 2)
    assert "torch.nn.modules.linear.Linear" in why(saved(network))


PICKLE = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01%bs."


def test_bombs_are_refused_before_they_take_memory() -> None:
    huge = b"\x8a\x05" + (2**33).to_bytes(5, "little")
    many = b"J" + (2**30).to_bytes(4, "little")
    array = PICKLE % (b"c__builtin__\nbytearray\nq\x02" + huge + b"\x85Rq\x03")
    seen = why(changed(saved({}), pickled=lambda data: array))
    assert seen == "it asks for __builtin__.bytearray, which tensors do not need"

    def filled(data: bytes) -> bytes:
        """The dictionary called with a tensor of 2**30 rows of two values, all the same two."""
        start, end = data.index(b"ctorch._utils"), data.rindex(b"s.")
        tensor = data[start:end].replace(
            b"K\x02\x85q\x08K\x01\x85", many + b"K\x02\x86q\x08K\x00K\x01\x86"
        )
        assert many in tensor
        return PICKLE % (b"ccollections\nOrderedDict\nq\x50" + tensor + b"\x85R")

    raw = changed(saved({"a": torch.zeros(2)}), pickled=filled)
    assert "dictionary with contents" in why(raw)
    recalled = changed(
        saved({"a": torch.zeros(2)}),
        pickled=lambda data: filled(data).replace(
            b"OrderedDict\nq\x50", b"OrderedDict\nq\x50)h\x50", 1
        ),
    )
    assert "dictionary with contents" in why(recalled)

    zeros = saved({"a": torch.zeros(2**26)})
    packed = changed(zeros, compression=zipfile.ZIP_DEFLATED)
    assert len(packed) < len(zeros) / 100
    assert "compressed" in why(packed)


def test_a_record_is_found_under_one_name_only() -> None:
    """torch finds `data/x` as `data/X` too; twenty letters would be a million copies."""
    raw = changed(
        saved({"a": torch.zeros(4)}),
        pickled=lambda data: data.replace(b"X\x01\x00\x00\x000q", b"X\x01\x00\x00\x00Xq"),
        name=lambda name: name.replace("data/0", "DATA/x"),
    )
    assert "'DATA/x'" in why(raw)


def test_records_that_overlap_or_are_too_many() -> None:
    raw = saved({"a": torch.zeros(1000)})
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    entry = struct.pack("<II", largest.file_size, largest.file_size)
    place = raw.rindex(entry)  # in the list at the end
    assert place > largest.header_offset + largest.file_size
    overlapping = raw.replace(entry, struct.pack("<II", *[len(raw)] * 2))
    assert "overlap" in why(overlapping)
    assert "more than" in why(raw + b"PK\x01\x02" * (foreign.MAX_RECORDS + 1))
    assert "2 records data.pkl" in why(changed(raw, more={"a/DATA.PKL": b"."}))
    assert "bytes" in why(changed(raw, pickled=lambda data: data + b"\0" * foreign.MAX_PICKLE))


def test_a_tensor_is_no_larger_than_its_storage() -> None:
    raw = saved({"a": torch.zeros(4)})
    size = b"K\x04\x85q\x08K\x01\x85"
    many = b"J" + (2**30).to_bytes(4, "little")
    for stride in (b"K\x01", b"K\x00"):
        lying = changed(
            raw,
            pickled=lambda data, stride=stride: data.replace(
                size, many + b"\x85q\x08" + stride + b"\x85"
            ),
        )
        if stride == b"K\x01":
            assert "not resizable" in why(lying)
        else:
            assert not foreign.is_whole(foreign.load(lying)["a"])
    short = changed(raw, pickled=lambda data: data.replace(b"K\x04tq\x07", many + b"tq\x07"))
    assert "size" in why(short)


def test_the_reason_never_advises_to_load_it_unsafely() -> None:
    raw = changed(saved({"a": 1}), pickled=lambda data: b"\x80\x02(l.")  # LIST, of protocol 0
    assert "weights_only" not in why(raw)


def test_torn_and_random_bytes_are_refused_in_words() -> None:
    whole = saved({"a": torch.zeros(100), "b": OrderedDict(c=1)})
    for length in (0, 3, 4, 100, len(whole) // 2, len(whole) - 1):
        assert why(whole[:length])
    draws = torch.Generator().manual_seed(1)
    for place in torch.randint(4, len(whole), (300,), generator=draws).tolist():
        raw = bytearray(whole)
        raw[place] ^= 0xFF
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with suppress(ValueError):
                foreign.load(bytes(raw))
    assert "collections.Counter" in why(saved({"a": Counter("abc")}))
