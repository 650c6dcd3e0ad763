import re

import pytest

from service import ids


def test_an_id_names_its_noun_and_is_never_the_same() -> None:
    made = {ids.new("job") for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"job_[0-9a-hjkmnp-tv-z]{26}", each) for each in made)


def test_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in (1, 31, 32, 2**40, 2**48 - 1):
        monkeypatch.setattr(ids.time, "time_ns", lambda ms=milliseconds: ms * 1_000_000)
        made.append(ids.new("job"))
    assert made == sorted(made)
    assert {len(each) for each in made} == {30}
