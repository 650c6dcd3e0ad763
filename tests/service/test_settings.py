from pathlib import Path

import pytest

from service import settings
from service.errors import SettingsInvalid
from service.settings import Settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith(settings.PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_everything_lies_in_the_state_folder(tmp_path: Path) -> None:
    made = settings.load()
    assert made.state_dir == tmp_path / ".rome"
    assert made.data_root == tmp_path / ".rome" / "data"
    assert made.database_url == f"sqlite:///{tmp_path}/.rome/rome.db"
    assert made.host == "127.0.0.1"
    assert not made.state_dir.exists(), "settings touch no files"


def test_the_environment_and_arguments_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROME_STATE_DIR", "/srv/rome")
    monkeypatch.setenv("ROME_RESOURCE_CLASSES", "cpu, gpu")
    monkeypatch.setenv("ROME_PORT", "9000")
    made = settings.load(port=9001)
    assert made.data_root == Path("/srv/rome/data")
    assert (made.resource_classes, made.port) == (("cpu", "gpu"), 9001)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]  # the very thing that must fail


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ROME_PORT", "many", "ROME_PORT"),
        ("ROME_PORT", "70000", "ROME_PORT"),
        ("ROME_LEASE_TTL_SECONDS", "nan", "ROME_LEASE_TTL_SECONDS"),
        ("ROME_LEASE_TTL_SECONDS", "15", "at most half"),
        ("ROME_DEVICE", "tpu", "ROME_DEVICE"),
        ("ROME_RESOURCE_CLASSES", ",", "ROME_RESOURCE_CLASSES"),
        ("ROME_SLOTS", "0", "ROME_SLOTS"),
    ],
)
def test_a_wrong_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsInvalid, match=said):
        settings.load()


def test_a_misspelt_variable_names_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROME_LEASE_TLL_SECONDS", "30")
    with pytest.raises(SettingsInvalid) as caught:
        settings.load()
    assert "ROME_LEASE_TTL_SECONDS" in caught.value.remedy


def test_a_variable_of_something_else_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROME_COLISEUM", "x")
    settings.load()
