"""SECURITY.md names its proofs: they exist."""

import re

from tests.security.conftest import ROOT


def test_every_proof_that_the_threat_model_names_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|") and "`" in line]
    assert len(rows) > 10
    for row in rows:
        proofs = row.rsplit("|", 2)[1]
        named = re.findall(r"`([\w/.-]+\.(?:py|yml)|scripts/[\w-]+|fuzzing|socket_tier/transport)`", proofs)
        assert named, row
        for name in named:
            places = [ROOT / "tests" / name, ROOT / name, ROOT / "tests/socket_tier/transport" / name]
            assert any(place.exists() for place in places), name
        for file, tests in re.findall(r"`([\w/]+\.py)` \(([^)]+)\)", proofs):
            source = (ROOT / "tests" / file).read_text()
            for test in re.findall(r"`(\w+)`", tests):
                assert f"def test_{test}(" in source, (file, test)
