"""scripts/requirements and the marks behind it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.proofs import report
from tests import proofs

ROOT = Path(__file__).resolve().parents[2]


def test_the_list_has_every_id_of_the_specification() -> None:
    ids = list(proofs.known_ids())
    functional = [f"FR-{n:03}" for n in range(1, 42)]
    success = [f"SC-{n:03}" for n in range(1, 13)]
    scenarios = [f"US{story}.{n}" for story in range(1, 7) for n in range(1, 6)]
    assert ids == functional + success + scenarios + [f"E{n}" for n in range(1, 8)]


def test_an_id_that_the_specification_does_not_have_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "test_marked.py"
    file.write_text("import pytest\n@pytest.mark.proves('FR-999')\ndef test_it():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "setup.cfg", "--rootdir", tmp_path, file]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "FR-999" in result.stdout + result.stderr


def test_a_test_with_parameters_counts_as_failed_when_one_of_them_failed() -> None:
    assert proofs.name_of("tests/test_a.py::test_b[1]") == proofs.name_of("tests/test_a.py::test_b[2]")
    assert proofs.worse("failed", "passed") == "failed"
    assert proofs.worse("passed", "skipped") == "skipped"


def test_the_report_shows_proofs_results_and_what_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    # Given one test that passed and one that never ran
    tests_by_id = {"FR-001": ["tests/a.py::test_one", "tests/a.py::test_two"]}
    # When the report is printed
    code = report(tests_by_id, {"tests/a.py::test_one": "passed"})
    # Then both show their last result, and an id without a test says so
    shown = capsys.readouterr().out
    assert code == 0
    assert "passed   tests/a.py::test_one" in shown
    assert "not run  tests/a.py::test_two" in shown
    assert "1 of 90 ids have a proof" in shown
