from __future__ import annotations

import io
from pathlib import Path

import pytest

from rome_client import specification
from rome_client.errors import SpecFileError
from rome_core import recipes


def _read(tmp_path: Path, text: str, *overrides: str) -> dict[str, object]:
    file = tmp_path / "spec.yaml"
    file.write_text(text, encoding="utf-8")
    return specification.read(str(file), overrides)


def test_a_file_with_overrides(tmp_path: Path) -> None:
    spec = _read(
        tmp_path,
        "preset: rome-quick-digits-ipc10\nhyperparameters: {iterations: 5}\n",
        "hyperparameters.lr_img=1e-3",
        "labels.study=a",
        "ipc=2",
        "name='7'",
    )
    assert spec == {
        "preset": "rome-quick-digits-ipc10",
        "hyperparameters": {"iterations": 5, "lr_img": 0.001},
        "labels": {"study": "a"},
        "ipc": 2,
        "name": "7",
    }


@pytest.mark.parametrize("text", ["1e-3", "1E3", "+1.5e+2", "-.5e1", "1.e2", "0.1", "2.5"])
def test_a_number_is_a_number(tmp_path: Path, text: str) -> None:
    assert _read(tmp_path, f"x: {text}") == {"x": float(text)}


@pytest.mark.parametrize(("text", "value"), [("8/255", "8/255"), ("7", 7), ("null", None)])
def test_other_scalars_stay_what_they_are(tmp_path: Path, text: str, value: object) -> None:
    assert _read(tmp_path, f"x: {text}") == {"x": value}


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"ipc": 1}'))
    assert specification.read("-") == {"ipc": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ipc: 1\nipc: 2\n", "line 2: 'ipc' is given twice"),
        ("a: [1\n", "line 2"),
        ("- 1\n", "holds a list"),
        ("", "holds nothing"),
        ("x: !!python/object/apply:os.getcwd []\n", "line 1"),
    ],
)
def test_a_wrong_file_says_where(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SpecFileError, match=says):
        _read(tmp_path, text)


@pytest.mark.parametrize("override", ["ipc", "=1", "a..b=1", "ipc.x=1", "a=[1"])
def test_a_wrong_override(tmp_path: Path, override: str) -> None:
    with pytest.raises(SpecFileError, match="--set"):
        _read(tmp_path, "ipc: 1", override)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecFileError, match=r"cannot read .*No such file"):
        specification.read(str(tmp_path / "none.yaml"))


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.stem))
def test_an_example_is_what_the_service_takes(file: Path) -> None:
    spec = recipes.canonical(specification.read(str(file)), seed=0)
    assert recipes.canonical(spec, seed=1) == spec
