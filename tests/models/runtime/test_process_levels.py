"""What a process takes of its machine."""

from pathlib import Path

import pytest

from models.runtime import process_levels
from models.runtime.process_levels import ProcessLevels


def test_the_fullest_disk_of_those_that_are_watched_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = {".": 0.25, str(tmp_path): 0.97, "/nowhere": 0.0}
    assert ProcessLevels(["/nowhere"]).read()["process.disk_used_share"] < 1
    monkeypatch.setattr(process_levels, "_disk_used_share", used.__getitem__)
    assert ProcessLevels().read()["process.disk_used_share"] == 0.25
    assert ProcessLevels([str(tmp_path), "/nowhere"]).read()["process.disk_used_share"] == 0.97
