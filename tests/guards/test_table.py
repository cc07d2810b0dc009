"""The table of guards is true of the code and of the tests that there are."""

from __future__ import annotations

import ast

import pytest

from tests.guards.table import ROOT, Guard, guards


@pytest.mark.parametrize("guard", guards(), ids=lambda guard: guard.name)
def test_a_guard_can_be_taken_out_and_names_tests_that_exist(guard: Guard) -> None:
    without = guard.removed()
    ast.parse(without)
    for test in guard.tests:
        file, *names = test.split("::")
        text = (ROOT / file).read_text()
        assert all(f"def {name.partition('[')[0]}(" in text for name in names), test
