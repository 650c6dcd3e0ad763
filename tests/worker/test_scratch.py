from pathlib import Path

from worker import scratch


def test_earlier_attempts_newest_first(tmp_path: Path) -> None:
    folder = scratch.attempt_folder(tmp_path, "job_a", 9)
    for epoch in (1, 11, 3, 9):
        scratch.make(scratch.attempt_folder(tmp_path, "job_a", epoch))
    (folder.parent / "note.txt").write_text("not an attempt")
    assert [int(other.name) for other in scratch.earlier(folder)] == [3, 1]


def test_only_earlier_attempts_are_removed(tmp_path: Path) -> None:
    folders = [scratch.attempt_folder(tmp_path, "job_a", epoch) for epoch in (1, 9, 11)]
    for folder in folders:
        scratch.make(folder)
    scratch.remove_earlier(folders[1])
    assert [folder.is_dir() for folder in folders] == [False, True, True]


def test_sweep_removes_what_is_named_and_no_more(tmp_path: Path) -> None:
    for job_id in ("job_a", "job_b"):
        scratch.make(scratch.attempt_folder(tmp_path, job_id, 1))
    assert scratch.sweep(tmp_path, lambda ids: [each for each in ids if each == "job_a"]) == [
        "job_a"
    ]
    assert [each.name for each in tmp_path.iterdir()] == ["job_b"]
    assert scratch.sweep(tmp_path / "nothing", lambda ids: ids) == []
