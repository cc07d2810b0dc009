"""Each account may do what its role does, and the servers refuse it everything else."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pika
import pika.exceptions
import pytest
import redis

from models import accounts
from models.database import DatabaseUnavailable, open_database
from models.migrations.runner import migrate_up
from models.runtime.settings import DatabaseSettings
from models.wire import names
from scripts.faults.guest import Guest
from scripts.loadtest import rest
from scripts.scaling.figures import NodeFigures, QueueFigures, Unknown
from scripts.stack.services import rabbitmq
from scripts.stack.supervision import wait_until
from tests.own_stack import on_own_servers
from tests.replica.superuser import ask
from tests.secured.conftest import HOST_WORKER, NODE, SecuredStack
from workers.after_restore import reinstate
from workers.cache import open_redis
from workers.connection import parameters
from workers.database_gate import DatabaseGate
from workers.fan_out import FanOut
from workers.metrics import WorkerMetrics
from workers.notices import Notices
from workers.outbox import Outbox
from workers.retention import Retention
from workers.rooms import Rooms

pytestmark = [on_own_servers, pytest.mark.timeout(300), pytest.mark.proves("FR-024")]
SOON_S = 30

# What an intruder who has an account's password would try.
OWNERS_OWN = (
    "DROP TABLE votes",
    "ALTER TABLE votes ADD COLUMN more text",
    "TRUNCATE votes",
    "CREATE TABLE mine (anything text)",
    "UPDATE audit_log SET actor = ''",
    "DELETE FROM schema_migration",
    "SET ROLE votemill",
    "SELECT pg_read_file('/etc/passwd')",
)
FORBIDDEN_SQL = [
    *((account, sql) for account in accounts.GROUPS for sql in OWNERS_OWN),
    (accounts.VOTES_WORKER, "DELETE FROM votes"),
    (accounts.VOTES_WORKER, "UPDATE polls SET question = ''"),
    (accounts.VOTES_WORKER, "INSERT INTO state_changes (poll_id) VALUES (1)"),
    (accounts.VOTES_WORKER, "SELECT id FROM audit_log"),
    (accounts.HOST_WORKER, "UPDATE votes SET option_index = 0"),
    (accounts.HOST_WORKER, "INSERT INTO votes (poll_id) VALUES (1)"),
    (accounts.HOST_WORKER, "UPDATE tallies SET votes = '{}'"),
    (accounts.RETENTION, "UPDATE votes SET option_index = 0"),
    (accounts.RETENTION, "UPDATE polls SET state = 'closed'"),
    (accounts.RETENTION, "SELECT FROM hosts"),
    (accounts.OPERATOR, "DELETE FROM audit_log"),
    (accounts.OPERATOR, "UPDATE votes SET option_index = 0"),
]

Act = Callable[[Any], object]


def get(queue: str) -> Act:
    return lambda channel: channel.basic_get(queue)


def send(exchange: str, key: str) -> Act:
    def act(channel: Any) -> None:
        channel.confirm_delivery()
        channel.basic_publish(exchange, key, b"forged")

    return act


def listen(exchange: str, key: str) -> Act:
    def act(channel: Any) -> None:
        channel.queue_declare("node.0123", exclusive=True)
        channel.queue_bind("node.0123", exchange, key)

    return act


FORBIDDEN_AMQP: list[tuple[str, str, Act]] = [
    *((accounts.NODE, f"reads {queue}", get(queue)) for queue in ("votes", "audit", "votes.DQ", "votes.dead")),
    (accounts.NODE, "listens to commands", listen(names.COMMANDS_EXCHANGE, "votes")),
    (accounts.NODE, "writes past the commands", send("", "votes.dead")),
    (accounts.NODE, "answers for a worker", send("", "node.0123")),
    (accounts.NODE, "deletes votes", lambda channel: channel.queue_delete("votes")),
    (accounts.NODE, "empties votes", lambda channel: channel.queue_purge("votes")),
    (accounts.NODE, "deletes an exchange", lambda channel: channel.exchange_delete(names.COMMANDS_EXCHANGE)),
    *((accounts.VOTES_WORKER, f"reads {queue}", get(queue)) for queue in ("host", "votes.dead")),
    *((accounts.HOST_WORKER, f"reads {queue}", get(queue)) for queue in ("votes", "host.dead")),
    *(
        (account, "makes a queue", lambda channel: channel.queue_declare("votes.mine"))
        for account in (accounts.NODE, accounts.VOTES_WORKER, accounts.HOST_WORKER)
    ),
    *((accounts.SCALER, f"reads {queue}", get(queue)) for queue in ("votes", "host.dead")),
    (accounts.SCALER, "sends a command", send(names.COMMANDS_EXCHANGE, "votes")),
    (accounts.SCALER, "tells all nodes something", send(names.NODES_EXCHANGE, "")),
    (accounts.SCALER, "empties votes", lambda channel: channel.queue_purge("votes")),
    (accounts.HOST_WORKER, "deletes a node's queue", lambda channel: channel.queue_delete("node.0123")),
]

FORBIDDEN_IN_REDIS = [
    *(
        (account, command)
        for account in accounts.RULES
        if account != accounts.OPERATOR
        for command in ("FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "MONITOR", "SET other x", "SUBSCRIBE other")
    ),
    (accounts.NODE, "SET turn:sweep 1"),
    (accounts.NODE, "SCAN 0"),
    (accounts.VOTES_WORKER, f"HSET {names.SETTINGS_KEY} version 1"),
    (accounts.VOTES_WORKER, "HGETALL browser:0123"),
    (accounts.VOTES_WORKER, "DEL room:ABC234"),
    (accounts.HOST_WORKER, f"HSET {names.SETTINGS_KEY} version 1"),
    (accounts.HOST_WORKER, f"ZADD {names.NODES_ALIVE_KEY} 1 0123"),
    (accounts.RETENTION, "HGETALL room:ABC234"),
    (accounts.SCALER, "HGETALL room:ABC234"),
    (accounts.SCALER, "SET node:0123:load x"),
    (accounts.SCALER, f"HSET {names.SETTINGS_KEY} version 1"),
    (accounts.RETENTION, "PUBLISH other x"),
]


class Story(NamedTuple):
    """What a whole poll left behind: what its host got, who was connected, and what the servers refused."""

    export: str
    connected: dict[str, set[str]]
    refused: list[Any]


@pytest.fixture(scope="module")
def story(stack: SecuredStack) -> Story:
    client = redis.Redis.from_url(stack.env["REDIS_URL"])
    client.acl_log_reset()
    log = stack.folder.log("postgres")
    before = len(log.read_text())
    room = rest.open_room(stack.base, 1, 3)
    guests = [Guest(stack.base) for _ in range(3)]
    for number, guest in enumerate(guests):
        assert guest.join(room.code, f"Guest {number}").success
        assert guest.vote(room.code, 0).success
        assert guest.vote(room.code, number).success
    wait_until(lambda: all(guest.results.totals == b"1,1,1" for guest in guests), SOON_S, "no totals on the screens")
    assert all(guest.hears(names.VOTE_RECORDED, SOON_S) for guest in guests)
    rest.change_state(stack.base, room, "closed")
    wait_until(lambda: rest.totals(stack.base, room.code).final, SOON_S, "the totals do not become final")
    for guest in guests:
        guest.close()
    connected = {
        "database": database_users(stack),
        "broker": broker_users(stack),
        "redis": {client_["user"] for client_ in client.client_list()} - {accounts.OPERATOR},
    }
    refused = [line for line in log.read_text()[before:].splitlines() if "permission denied" in line]
    story = Story(export(stack.base, room), connected, [*client.acl_log(), *refused])
    client.close()
    return story


def database_users(stack: SecuredStack) -> set[str]:
    """Of our processes' sessions; each must be encrypted."""
    sql = "FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE application_name LIKE '%%worker-%%'"
    assert ask(stack.folder.path, stack.dsn, f"SELECT bool_and(ssl AND version IN ('TLSv1.2', 'TLSv1.3')) {sql}")
    return set(ask(stack.folder.path, stack.dsn, f"SELECT array_agg(usename::text) {sql}"))


def broker_users(stack: SecuredStack) -> set[str]:
    """Of our processes' connections, which have names; each must be encrypted."""
    with stack.folder.log("list-connections").open("w+") as out:
        assert (
            rabbitmq.run_ctl(stack.folder, ["--silent", "list_connections", "user", "ssl", "client_properties"], out)
            == 0
        )
        out.seek(0)
        users, encrypted = zip(*(line.split()[:2] for line in out if '"votemill ' in line), strict=True)
    assert set(encrypted) == {"true"}
    return set(users)


def export(base: rest.Base, room: rest.Room) -> str:
    request = urllib.request.Request(f"{base.url}/api/polls/{room.code}/results.csv")
    request.add_header("Authorization", f"Bearer {room.host_token}")
    with urllib.request.urlopen(request, timeout=15) as answer:
        text: str = answer.read().decode()
        return text


def test_a_whole_poll_needs_no_more_than_these_accounts_may(story: Story) -> None:
    assert len(story.export.splitlines()) == 4
    assert story.refused == []
    workers = {accounts.VOTES_WORKER, accounts.HOST_WORKER}
    assert story.connected == {
        "database": workers,
        "broker": workers | {accounts.NODE},
        "redis": workers | {accounts.NODE},
    }


@pytest.mark.parametrize(("account", "sql"), FORBIDDEN_SQL, ids=[" ".join(case) for case in FORBIDDEN_SQL])
def test_postgresql_refuses_what_is_not_the_roles(stack: SecuredStack, account: str, sql: str) -> None:
    database = open_database(stack.settings_as(account).database, "test")
    try:
        with pytest.raises(DatabaseUnavailable, match=r"permission denied|must be owner"), database.transaction():
            database.execute(sql)
            raise AssertionError("it may")
    finally:
        database.close()


@pytest.mark.parametrize("sql", OWNERS_OWN[:-2])
def test_the_owner_may_do_what_they_may_not(stack: SecuredStack, sql: str) -> None:
    """Else the refusals would prove nothing."""
    database = open_database(owner_of(stack), "test")
    try:
        with pytest.raises(ZeroDivisionError), database.transaction():
            database.execute(sql)
            raise ZeroDivisionError  # nothing of it stays
    finally:
        database.close()


def owner_of(stack: SecuredStack) -> DatabaseSettings:
    return msgspec.structs.replace(stack.settings_of(HOST_WORKER).database, url=stack.env["DATABASE_URL"])


def test_a_node_has_no_way_into_postgresql(stack: SecuredStack) -> None:
    # It isn't even told where it is
    assert not [name for name in stack.given_to(NODE) if name.startswith("VOTEMILL_DATABASE__")]
    database = open_database(stack.settings_as(accounts.NODE).database, "test")
    try:
        with pytest.raises(DatabaseUnavailable, match="password authentication failed"):
            database.probe()
    finally:
        database.close()


@pytest.mark.parametrize(
    ("account", "act"),
    [(account, act) for account, _, act in FORBIDDEN_AMQP],
    ids=[f"{account} {what}" for account, what, _ in FORBIDDEN_AMQP],
)
def test_rabbitmq_refuses_what_is_not_the_roles(stack: SecuredStack, account: str, act: Act) -> None:
    connection = pika.BlockingConnection(parameters(stack.settings_as(account).broker, "test"))
    try:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            act(connection.channel())
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("account", "command"), FORBIDDEN_IN_REDIS, ids=[" ".join(case) for case in FORBIDDEN_IN_REDIS]
)
def test_redis_refuses_what_is_not_the_roles(stack: SecuredStack, account: str, command: str) -> None:
    client = open_redis(stack.settings_as(account).redis)
    try:
        assert client.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command.split())
    finally:
        client.close()


def test_who_has_no_password_learns_nothing_but_that_redis_is_there(stack: SecuredStack) -> None:
    settings = stack.settings_of(NODE).redis
    anonymous = msgspec.structs.replace(settings, url=f"rediss://{settings.url.rpartition('@')[2]}")
    client = open_redis(anonymous)
    try:
        assert client.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("room:ABC234")
    finally:
        client.close()


@pytest.mark.proves("FR-005")
@pytest.mark.parametrize("account", [accounts.RETENTION, accounts.HOST_WORKER])
def test_retention_lets_a_poll_go_with_its_account(stack: SecuredStack, account: str) -> None:
    # Given a poll with a vote that is past its retention
    room = rest.open_room(stack.base, 1, 2)
    guest = Guest(stack.base)
    assert guest.join(room.code, "Somebody").success and guest.vote(room.code, 1).success
    assert guest.hears(names.VOTE_RECORDED, SOON_S)
    guest.close()
    expire = "UPDATE polls SET expires_at = now() - interval '1 day', version = 1 WHERE room_code = %s RETURNING id"
    poll_id = ask(stack.folder.path, stack.dsn, expire, room.code)
    # When retention runs
    settings = stack.settings_as(account)
    metrics = WorkerMetrics(settings, "test")
    gate = DatabaseGate(open_database(settings.database, "test"), metrics)
    client = open_redis(settings.redis)
    try:
        gone = Retention(settings, gate, Rooms(client, 60), FanOut(client), metrics, threading.Event()).round()
    finally:
        client.close()
        gate.close()
    # Then nothing of it is left
    assert gone is not None and (gone["polls"], gone["votes"], gone["failed"]) == (1, 1, 0)
    assert ask(stack.folder.path, stack.dsn, "SELECT count(*) FROM votes WHERE poll_id = %s", poll_id) == 0


@pytest.mark.proves("FR-029")
def test_the_scaler_sees_all_that_it_goes_by_with_its_account(stack: SecuredStack) -> None:
    settings = stack.settings_as(accounts.SCALER)
    queues, client = QueueFigures(settings.broker), open_redis(settings.redis)
    queues.start()

    def seen() -> bool:
        try:
            return all(queues.measure(tier, 1, settings.scaler).load.count == 1 for tier in ("votes", "host"))
        except Unknown:
            return False

    try:
        wait_until(seen, SOON_S, "no figures of the workers")
        rooms = Rooms(client, 60)
        assert rooms.lead("scaler", "test", 1) and rooms.lead("scaler", "test", 1)
        assert rooms.changed_settings().version >= 0
        nodes = NodeFigures(client, settings.room.node_timeout_s).measure(1, settings.scaler)
        assert nodes.figures["reporting"] == 1 and not nodes.load.incomplete
    finally:
        queues.close()
        client.close()


def test_after_a_restore_a_host_workers_account_is_enough(stack: SecuredStack, story: Story) -> None:
    settings = stack.settings_as(accounts.HOST_WORKER)
    metrics = WorkerMetrics(settings, "test")
    gate = DatabaseGate(open_database(settings.database, "test"), metrics)
    outbox = Outbox(settings.broker, metrics, "test")
    outbox.start()
    client = open_redis(settings.redis)
    try:
        reinstated = reinstate(gate, Rooms(client, 60), Notices(outbox))
    finally:
        client.close()
        outbox.close()
        gate.close()
    assert reinstated.polls >= 1


def test_a_right_that_is_not_written_down_is_taken_away_by_the_next_migration(stack: SecuredStack) -> None:
    # Given a right that somebody has granted by hand
    ask(stack.folder.path, stack.dsn, "GRANT DELETE ON votes TO votemill_votes")
    allowed = "SELECT has_table_privilege('votemill_votes_worker', 'votes', 'DELETE')"
    assert ask(stack.folder.path, stack.dsn, allowed)
    # When scripts/migrate up has nothing to do
    assert migrate_up(owner_of(stack)) == []
    # Then it is gone, and what the role needs is still there
    assert not ask(stack.folder.path, stack.dsn, allowed)
    assert ask(stack.folder.path, stack.dsn, allowed.replace("DELETE", "UPDATE"))
