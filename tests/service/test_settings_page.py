"""docs/settings.md names every setting, and no other."""

import re
from pathlib import Path

from service.settings import PREFIX, Settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_lists_exactly_the_settings() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `ROME_")]
    named = [name for row in rows for name in re.findall(r"`(ROME_\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(PREFIX + field.upper() for field in Settings.model_fields)
