"""A stack to break, a crowd that votes meanwhile, and what is demanded of every outage afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from scripts.faults.guest import Guest
from scripts.faults.load import OPTIONS, Load, Size
from scripts.faults.stack import RunningStack
from scripts.loadtest import rest
from tests.breakable import addresses, amqp_url, base_url, database_url, node_urls, redis_url, run_dir
from tests.outages.aftermath import Aftermath
from tests.own_stack import side_by_side

__all__ = ["addresses", "amqp_url", "base_url", "database_url", "node_urls", "redis_url", "run_dir"]

Drill = Callable[[str], AbstractContextManager[Load]]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Last of all where there is one stack: whoever came after a test that breaks it would wait for it to recover."""
    ours = [item for item in items if HERE in item.path.parents]
    if not side_by_side():
        items[:] = [item for item in items if HERE not in item.path.parents] + ours


@pytest.fixture(scope="session")
def hold_s() -> float:
    """How long each outage lasts, seconds; OUTAGE_HOLD_S=30 for the long version."""
    return float(os.environ.get("OUTAGE_HOLD_S", "2"))


@pytest.fixture
def stack(run_dir: Path) -> Iterator[RunningStack]:
    """The stack; whole again after the test, whatever the test left of it."""
    stack = RunningStack(run_dir)
    stack.mend()
    yield stack
    stack.mend()


@pytest.fixture
def side_room(stack: RunningStack) -> rest.Room:
    """An open poll beside the crowd's, known to both nodes: its guests' votes are in nobody's ledger."""
    room = rest.open_room(stack.nodes[0], 99, OPTIONS)
    for node in stack.nodes:
        rest.totals(node, room.code)
    return room


@pytest.fixture
def guest(stack: RunningStack, side_room: rest.Room) -> Iterator[Guest]:
    """A participant of the side room, on the first node."""
    guest = Guest(stack.nodes[0])
    joined = guest.join(side_room.code, "Regular")
    assert joined.success, joined
    yield guest
    guest.close()


@pytest.fixture
def drill(stack: RunningStack, record_property: Callable[[str, object], None]) -> Drill:
    """``with drill("what breaks") as load:`` break it and mend it inside; afterwards everything is asked for.

    The end of the block is the moment of recovery.
    """

    @contextmanager
    def run(fault: str) -> Iterator[Load]:
        aftermath = Aftermath(stack, fault, record_property)
        with Load(stack, Size()) as load:
            load.begin()
            try:
                yield load
            finally:
                load.during(stack.mend)
            aftermath.demand(load, time.monotonic())

    return run
