"""Files that are wholly there or not at all, and folders that stay small."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rome_core import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with files.atomically(path) as file:
        file.write(b"one ")
        assert not path.exists()
        file.write(b"two")
    assert path.read_bytes() == b"one two"
    assert names(path.parent) == ["file"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def half() -> None:
        with files.atomically(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("links", [True, False])
def test_a_link_takes_the_place_of_what_was_there(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def refuse(*paths: object) -> None:
            raise OSError

        monkeypatch.setattr(os, "link", refuse)
    source, path = tmp_path / "source", tmp_path / "new" / "file"
    source.write_bytes(b"content")
    for _ in range(2):  # onto nothing, then onto itself
        files.link(source, path)
        assert path.read_bytes() == b"content"
        assert names(path.parent) == ["file"]
    assert (path.stat().st_ino == source.stat().st_ino) is links
    other = tmp_path / "other"
    other.write_bytes(b"another")
    files.link(other, path)
    assert path.read_bytes() == b"another"
    assert source.read_bytes() == b"content"


def test_the_longest_unused_files_go_first(tmp_path: Path) -> None:
    now = time.time()
    for age, name in enumerate(["new", "old", "older", "oldest"]):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (now - 100 * age, now - 100 * age))
    files.trim(tmp_path, 40)
    assert len(names(tmp_path)) == 4
    files.trim(tmp_path, 25)
    assert names(tmp_path) == ["new", "old"]
    files.trim(tmp_path, 0)
    assert names(tmp_path) == []


def test_leftovers_go_once_they_are_nobody_s(tmp_path: Path) -> None:
    for name, age in ((".a.1.part", 10.0), (".b.2.part", 2 * 86_400.0)):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    files.trim(tmp_path, 0)
    assert names(tmp_path) == [".a.1.part"]
