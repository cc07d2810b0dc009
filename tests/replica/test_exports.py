"""Exports are read from the standby while it keeps up; they never fail for want of it, and never show too little."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec
import pytest
import redis

from models import poll_store
from models.database import Database, open_database
from models.runtime.settings import load
from scripts.faults.guest import Guest
from scripts.loadtest import rest
from scripts.stack.supervision import wait_until
from tests.own_stack import on_own_servers
from tests.replica.conftest import SOON_S, ReplicaStack, Witness, export
from tests.replica.moving import Address
from tests.workers import given
from workers.database_gate import DatabaseGate
from workers.metrics import WorkerMetrics
from workers.replica import ReplicaReads
from workers.rooms import Rooms

pytestmark = [on_own_servers, pytest.mark.proves("FR-034")]


@pytest.fixture
def database(replica_stack: ReplicaStack) -> Iterator[Database]:
    """The primary."""
    database = open_database(msgspec.structs.replace(load().database, url=replica_stack.dsn), "replica-tests")
    yield database
    database.close()


def test_an_export_is_read_from_the_standby(stack: ReplicaStack, witness: Witness) -> None:
    # Given servers that differ, since the standby has not replayed the last change
    witness.known_as_standby()
    with stack.replay_held():
        witness.call_voter("primary")
        # Then the rows are the standby's, each time
        assert [witness.names() for _ in range(5)] == [["standby"]] * 5


def test_above_the_lag_limit_the_primary_answers(stack: ReplicaStack, witness: Witness) -> None:
    # Given a standby that has fallen behind just now: it is still read
    witness.known_as_standby()
    with stack.replay_held():
        witness.call_voter("primary")
        assert witness.names() == ["standby"]
        # When it stays behind: then the primary is read
        wait_until(lambda: witness.names() == ["primary"], SOON_S, "the standby is read however late it is")


def test_a_standby_that_is_cut_off_is_not_read_although_it_looks_level(stack: ReplicaStack, witness: Witness) -> None:
    witness.known_as_standby()
    with stack.cut_off():
        witness.call_voter("primary")
        assert stack.is_level()
        assert witness.names() == ["primary"]


def test_a_standby_that_is_killed_costs_no_export(stack: ReplicaStack, witness: Witness) -> None:
    # Given a standby that is dead and stays so
    witness.known_as_standby()
    stack["standby"].kill_and_hold_down()
    witness.call_voter("primary")
    # Then the primary answers: who had a connection to the standby, and who wants one
    assert [witness.names() for _ in range(3)] == [["primary"]] * 3
    # And when it is back, it is read again (see the fixture)
    stack["standby"].bring_back()


def test_a_standby_that_hangs_costs_an_export_less_than_a_node_waits(stack: ReplicaStack, witness: Witness) -> None:
    # Given a standby that was just read from and answers nothing any more
    witness.known_as_standby()
    stack["standby"].freeze()
    witness.call_voter("primary")
    # Then the primary answers before the node gives up, which would be a 503
    assert [witness.names() for _ in range(3)] == [["primary"]] * 3


def test_a_room_is_restored_from_the_primary_even_while_the_standby_is_read(
    stack: ReplicaStack, witness: Witness, database: Database
) -> None:
    # Given a poll that the standby doesn't have yet, nor Redis, and exports that are read from the standby
    witness.known_as_standby()
    with stack.replay_held():
        poll = poll_store.create_poll(database, given.create_command(), retention_days=1, now_us=given.now_us())
        witness.call_voter("primary")
        assert witness.names() == ["standby"]
        # When somebody looks at it: then it is there
        assert rest.totals(witness.node, poll.room_code).version == poll.version


def test_an_export_after_the_close_has_every_vote_of_the_final_totals(stack: ReplicaStack, witness: Witness) -> None:
    # Given a poll with a vote that the standby has
    room = rest.open_room(witness.node, 2, 2)
    first, second = Guest(witness.node), Guest(witness.node)
    assert first.join(room.code, "first").success and first.vote(room.code, 0).success
    wait_until(lambda: len(export(witness.node, room)) == 1, SOON_S, "the vote is not stored")
    wait_until(stack.is_level, SOON_S, "the standby does not catch up")
    witness.known_as_standby()
    with stack.replay_held():
        # When another vote comes and the poll is closed, and the standby has neither
        assert second.join(room.code, "second").success and second.vote(room.code, 1).success
        rest.change_state(witness.node, room, "closed")
        wait_until(lambda: rest.totals(witness.node, room.code).final, SOON_S, "the totals are not final")
        shown = rest.totals(witness.node, room.code).votes
        # Then the export has what is shown as final
        rows = export(witness.node, room)
        # And not for the lag: other exports are still read from the standby
        witness.call_voter("primary")
        assert witness.names() == ["standby"]
    assert shown == (1, 1)
    assert [row[0] for row in rows] == ["first", "second"]
    first.close()
    second.close()


def test_a_version_that_another_node_has_shown_counts_too(
    stack: ReplicaStack, witness: Witness, database: Database
) -> None:
    # Given an export that is read from the standby
    witness.known_as_standby()
    with stack.replay_held():
        witness.call_voter("primary")
        assert witness.names() == ["standby"]
        # When Redis has a later version than this node has heard of
        poll = poll_store.read_snapshot_by_code(database, witness.room.code)
        assert poll is not None
        with redis.Redis.from_url(stack.env["REDIS_URL"]) as client:
            Rooms(client, ttl_s=3600).store([msgspec.structs.replace(poll, version=poll.version + 1)])
        # Then the standby is too old for it
        assert witness.names() == ["primary"]
    assert witness.guest.vote(witness.room.code, 1).success  # whose version is later than the one made up


def test_while_redis_can_not_tell_what_was_shown_the_primary_answers(stack: ReplicaStack, witness: Witness) -> None:
    witness.known_as_standby()
    with stack.replay_held():
        witness.call_voter("primary")
        assert witness.names() == ["standby"]
        stack["redis"].freeze()
        try:
            assert witness.names() == ["primary"]
        finally:
            stack["redis"].thaw()


@pytest.mark.parametrize("follows", [True, False])
def test_only_a_standby_of_the_same_database_is_read(
    replica_stack: ReplicaStack, witness: Witness, database_url: str, follows: bool
) -> None:
    # Given a standby of the primary, or of another one whose polls have the same ids
    primary, standby = replica_stack.dsn if follows else database_url, replica_stack.env["REPLICA_URL"]
    loaded = load()
    addresses = msgspec.structs.replace(loaded.database, url=primary, replica_url=standby)
    settings = msgspec.structs.replace(loaded, database=addresses)
    metrics = WorkerMetrics(settings, "test")
    gate = DatabaseGate(open_database(settings.database, "replica-tests"), metrics)
    reads = ReplicaReads(settings, gate, metrics, "replica-tests")
    # When something is read
    reads.start()
    in_use = "instances.worker-1-test.replica.in_use"
    wait_until(lambda: in_use in metrics.take().gauges, SOON_S, "nobody looked at the standby")
    port = reads.read(_poll_id(replica_stack, witness), 0, _port)
    # Then the right one answers
    assert port == urlsplit(standby if follows else primary).port
    reads.close()
    gate.close()


def test_a_standby_is_read_once_the_address_that_led_to_a_primary_leads_to_it(
    replica_stack: ReplicaStack, witness: Witness
) -> None:
    # Given an address that leads to what is no standby, such as one that was promoted
    address = Address()
    address.move(urlsplit(replica_stack.dsn).port or 0)
    parts = urlsplit(replica_stack.env["REPLICA_URL"])
    user = parts.netloc.rpartition("@")[0]
    loaded = load()
    addresses = msgspec.structs.replace(
        loaded.database, url=replica_stack.dsn, replica_url=f"postgresql://{user}@127.0.0.1:{address.port}/votemill"
    )
    settings = msgspec.structs.replace(loaded, database=addresses)
    metrics = WorkerMetrics(settings, "test")
    gate = DatabaseGate(open_database(settings.database, "replica-tests"), metrics)
    reads = ReplicaReads(settings, gate, metrics, "replica-tests")
    reads.start()
    in_use = "instances.worker-1-test.replica.in_use"
    wait_until(lambda: in_use in metrics.take().gauges, SOON_S, "nobody looked at it")
    poll_id = _poll_id(replica_stack, witness)
    assert reads.read(poll_id, 0, _port) == urlsplit(replica_stack.dsn).port
    # When it leads to a standby: then that is read
    address.move(parts.port or 0)
    wait_until(lambda: reads.read(poll_id, 0, _port) == parts.port, SOON_S, "the standby is not read")
    reads.close()
    gate.close()
    address.close()


def _poll_id(stack: ReplicaStack, witness: Witness) -> int:
    return int(stack.on("postgres", "SELECT id FROM polls WHERE room_code = %s", witness.room.code))


def _port(db: Database) -> int:
    """Of the server that answers."""
    with db.transaction():
        return db.execute("SELECT inet_server_port()").fetchone()[0]
