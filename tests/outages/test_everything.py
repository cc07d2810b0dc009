"""Promise 1 at its hardest: every process of the stack dies in the same moment, as when a machine loses its power."""

from __future__ import annotations

import pytest

from scripts.faults import everything
from scripts.faults.stack import RunningStack
from tests.breakable import first_stack
from tests.outages.conftest import Drill

pytestmark = first_stack


@pytest.mark.proves("FR-001", "FR-002", "FR-003", "FR-004", "SC-002", "US1.1", "US1.3", "US1.5")
def test_everything_killed_at_once(drill: Drill, stack: RunningStack) -> None:
    with drill("everything killed at once, then scripts/up") as load:
        load.during(lambda: everything.kill_and_start(stack))
