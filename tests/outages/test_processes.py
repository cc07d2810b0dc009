"""Promise 1: our own processes die in the middle of their work, alone or together with a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import psycopg2
import pytest

from scripts.faults.load import Load
from scripts.faults.stack import RunningStack
from scripts.stack.supervision import wait_until
from tests.breakable import second_stack
from tests.outages.conftest import Drill
from tests.replica.superuser import ask

pytestmark = second_stack
_LOCK = "SELECT FROM tallies WHERE poll_id IN (SELECT id FROM polls WHERE room_code = ANY(%s)) FOR UPDATE"
_STUCK = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@contextmanager
def every_batch_held(stack: RunningStack, load: Load) -> Iterator[None]:
    """Workers stand in the middle of a transaction, waiting for the tallies of the crowd's polls: for the polls' own
    rows they would not wait for long."""
    with psycopg2.connect(stack.dsn) as holder, holder.cursor() as cursor:
        codes = [room.code for room in load.rooms]
        cursor.execute(_LOCK, (codes,))
        # As the superuser: what other accounts wait for is nobody else's business.
        stuck = partial(ask, stack.folder.path, stack.dsn, _STUCK)
        load.during(lambda: wait_until(stuck, 10, "no worker is in mid-batch"))
        yield
    holder.close()


@contextmanager
def every_vote_unconfirmed(stack: RunningStack, load: Load) -> Iterator[None]:
    """Nodes hold votes that RabbitMQ has not confirmed: it is frozen meanwhile."""
    stack["rabbitmq"].freeze()
    try:
        assert load.until(lambda: load.progress().unanswered > 20, 10), "no vote is on the way"
        yield
    finally:
        stack["rabbitmq"].thaw()


@pytest.mark.proves("FR-003", "SC-002", "US1.1")
def test_a_worker_killed_in_mid_batch(drill: Drill, stack: RunningStack, hold_s: float) -> None:
    worker = stack.of_kind("worker")[0]
    with drill("a worker killed in mid-batch") as load:
        with every_batch_held(stack, load):
            load.strike(worker.kill)
        load.hold(hold_s)
        load.during(worker.bring_back)
        assert load.progress().refused == 0, "a vote was refused"


@pytest.mark.proves("FR-003", "FR-004", "SC-002", "US1.1", "US1.3", "US1.5", "US5.3", "US5.5")
def test_a_node_killed_in_mid_batch(drill: Drill, stack: RunningStack, hold_s: float) -> None:
    node = stack.of_kind("node")[0]
    with drill("a node killed in mid-batch") as load:
        everybody = load.progress().joined
        with every_vote_unconfirmed(stack, load):
            load.strike(node.kill_and_hold_down)
        assert load.until(lambda: load.progress().joined == everybody, 12), "not everybody found the other node"
        load.hold(hold_s)
        load.during(node.bring_back)
        assert load.progress().reconnects > 0


@pytest.mark.proves("FR-003", "FR-035", "FR-036", "SC-002", "US6.3")
def test_postgres_and_a_worker_at_once(drill: Drill, stack: RunningStack, hold_s: float) -> None:
    with drill("PostgreSQL and a worker killed") as load:
        stack.of_kind("worker")[0].kill()
        load.strike(stack["postgres"].kill_and_hold_down)
        before = load.progress()
        load.hold(hold_s)
        after = load.progress()
        assert after.acked > before.acked and after.refused == 0, after
        load.during(stack["postgres"].bring_back)


@pytest.mark.proves("FR-003", "FR-004", "FR-030", "FR-038", "SC-002", "US1.3", "US5.5")
def test_redis_and_a_node_at_once(drill: Drill, stack: RunningStack, hold_s: float) -> None:
    with drill("Redis and a node killed") as load:
        before = load.progress()
        stack.of_kind("node")[0].kill()
        load.strike(stack["redis"].kill_and_hold_down)
        load.hold(hold_s)
        assert load.progress().acked > before.acked, "the other node took no votes"
        load.during(stack["redis"].bring_back)
        assert load.until(lambda: load.progress().joined == before.joined, 15), "not everybody came back"
