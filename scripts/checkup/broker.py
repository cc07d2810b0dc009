"""RabbitMQ: version, queues and what lies in them, confirms, policies, clock; and the heartbeats of workers."""

from __future__ import annotations

import base64
import json
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import msgspec
import pika
import pika.exceptions
from dramatiq.common import dq_name
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from models import accounts
from models.runtime import tls
from models.wire import names
from models.wire.notices import Notice, WorkerHeartbeat
from scripts.checkup.findings import (
    MAKE_ACCOUNTS,
    ONE_ACCOUNT,
    Finding,
    Here,
    Status,
    clock,
    guarded,
    judged,
    numbers,
    version,
)
from workers import connection, topology

LEAST = (3, 10)
POLICIES = Path(__file__).resolve().parents[2] / "docker" / "rabbitmq" / "policies.json"
_MANY = 1000
# The last is what a broker that hangs causes.
_TROUBLE = (pika.exceptions.AMQPError, OSError, AMQPConnectorException)
_MISMATCH = 406
_ON_ITS_WAY_S = 5.0  # a heartbeat at most; nodes take a worker for dead then
_BACKLOG_ADVICE = "more votes workers (nomad job scale), and look at PostgreSQL"
_ALONE = "quorum queues keep what is acked on three brokers (nomad/examples/rabbitmq.nomad.hcl)"


def check(here: Here) -> Iterator[Finding]:
    settings = here.settings.broker
    alive: list[str] = []
    for url in settings.urls:
        host = urlsplit(url).hostname
        name = "RabbitMQ" if len(settings.urls) == 1 else f"RabbitMQ {host}"
        with _connected(here, msgspec.structs.replace(settings, url=url)) as (opened, error):
            if opened is None:
                advice = "start it, or correct broker.url; without a broker votes are refused with retryAfter"
                yield Finding(name, Status.FAILED, f"not reached: {here.hide(error)}", advice)
                continue
            alive.append(url)
            text = str(opened._impl.server_properties.get("version"))
            yield version(name, numbers(text), text, LEAST)
    if len(settings.urls) == 1:
        yield Finding("RabbitMQ cluster", here.at_fault, "one broker", _ALONE)
    if not alive:
        return
    with _connected(here, msgspec.structs.replace(settings, url=alive[0])) as (opened, _):
        if opened is not None:
            yield from guarded("RabbitMQ queues", _queues(opened), here)
            yield from guarded("RabbitMQ confirms", _confirms(opened), here)


def workers(here: Here) -> Iterator[Finding]:
    """Those whose heartbeats come, of each queue at least one."""
    settings = here.settings
    with _connected(here, settings.broker) as (opened, error):
        if opened is None:
            yield Finding("workers", Status.UNKNOWN, f"no broker to hear them by: {here.hide(error)}")
            return
        beats = _heard(opened, settings.worker.heartbeat_s + 1, here.clock)
    served = {queue for _, beat in beats.values() for queue in beat.queues}
    missing = [queue for queue in names.COMMAND_QUEUES if queue not in served]
    number = f"{len(beats)} alive: {', '.join(sorted(beats))}" if beats else "none is heard"
    found = f"{number}; nobody works on {', '.join(missing)}" if missing else number
    yield judged("workers", not missing, found, Status.FAILED, "start workers (python -m workers votes, host)")
    versions = sorted({beat.version for _, beat in beats.values() if beat.version})
    if versions:
        advice = "only for as long as a deployment takes"
        yield judged("workers' versions", len(versions) == 1, ", ".join(versions), Status.WARNING, advice)
    for name, (at, beat) in sorted(beats.items()):
        for server, state in (("PostgreSQL", beat.database), ("Redis", beat.redis)):
            if state != "connected":
                advice = f"that worker's network, account and settings for {server}"
                yield Finding(f"worker {name}", Status.FAILED, f"can't reach {server}", advice)
        yield clock(f"worker {name}", beat.at_us / 1e6, at - _ON_ITS_WAY_S, at)
        error_s = (beat.clock_error_us or 0) / 1e6
        if not 0 <= error_s <= settings.clock.max_error_s:
            advice = "its way to PostgreSQL: it could not ask for the time since its start, or for hours"
            found = "does not know the time" if error_s < 0 else f"knows the time to {error_s:.1f} s only"
            yield Finding(f"worker {name} time", Status.FAILED, found, advice)


def definitions(here: Here) -> Iterator[Finding]:
    """The queues' limits and the accounts' rights, which only rabbitmqctl or the management interface can tell."""
    found = _definitions(here)
    if found is None:
        advice = (
            "compare `rabbitmqctl export_definitions -` with docker/rabbitmq/policies.json and models/accounts.py, or"
            " name the broker's management interface with --broker-api; --without definitions leaves this out"
        )
        yield Finding("RabbitMQ definitions", Status.UNKNOWN, "nothing here can tell them", advice)
        return
    wrong = list(differing(found["policies"]))
    text = "; ".join(wrong) or "the queues' limits are as in docker/rabbitmq/policies.json"
    advice = "scripts/broker-policies (--node NAME on the broker's machine): without limits a backlog fills the disk"
    yield judged("RabbitMQ policies", not wrong, text, Status.FAILED, advice)
    rights = {one["user"]: (one["configure"], one["write"], one["read"]) for one in found["permissions"]}
    if not accounts.PERMISSIONS.keys() & rights.keys():
        yield Finding("RabbitMQ accounts", here.at_fault, ONE_ACCOUNT, MAKE_ACCOUNTS)
        return
    wrong = [name for name, wanted in accounts.PERMISSIONS.items() if rights.get(name) != wanted]
    text = "; ".join(f"{name} has other rights, or none" for name in wrong) or "each has the rights of its role"
    yield judged("RabbitMQ accounts", not wrong, text, Status.FAILED, MAKE_ACCOUNTS)


def broker_clock(here: Here) -> Iterator[Finding]:
    """By rabbitmqctl, where the broker is ours."""
    if here.run_dir is not None:
        before = here.clock()
        theirs = int(_ctl(here.run_dir, "eval", "os:system_time(millisecond)."))
        yield clock("RabbitMQ", theirs / 1000, before, here.clock())


def differing(found: list[dict[str, Any]]) -> Iterator[str]:
    """What is missing or different among a broker's policies."""
    for wanted in json.loads(POLICIES.read_text())["policies"]:
        there = [policy for policy in found if policy["name"] == wanted["name"]]
        if not there:
            yield f"{wanted['name']} is missing"
            continue
        if there[0]["definition"] != wanted["definition"] or there[0]["pattern"] != wanted["pattern"]:
            yield f"{wanted['name']} is different"


def _definitions(here: Here) -> dict[str, Any] | None:
    told: dict[str, Any] | None = None
    if here.broker_api:
        # With the account of the address, or broker.url's.
        api, ours = urlsplit(here.broker_api), urlsplit(here.settings.broker.urls[0])
        login = f"{unquote(api.username or ours.username or '')}:{unquote(api.password or ours.password or '')}"
        where = api._replace(netloc=api.netloc.rpartition("@")[2], path="/api/definitions").geturl()
        token = base64.b64encode(login.encode()).decode()
        request = urllib.request.Request(where, headers={"Authorization": f"Basic {token}"})
        with urllib.request.urlopen(request, timeout=5) as answer:  # nosec B310: the operator's own address
            told = json.load(answer)
    elif here.run_dir is not None:
        told = json.loads(_ctl(here.run_dir, "export_definitions", "-", "--silent"))
    return told


def _ctl(run_dir: Path, *arguments: str) -> str:
    from scripts.stack.run_folder import RunFolder  # neither is in the image
    from scripts.stack.services import rabbitmq

    with tempfile.TemporaryFile("w+") as out:
        code = rabbitmq.run_ctl(RunFolder(run_dir), list(arguments), out)
        out.seek(0)
        said = out.read().strip()
    if code:
        raise OSError(said or f"rabbitmqctl ended with {code}")
    return said


def _queues(opened: pika.BlockingConnection) -> Iterator[Finding]:
    for queue in names.COMMAND_QUEUES:
        yield from _queue(opened, queue)
        dead, _ = _declared(opened, names.dead_letter_queue(queue))
        advice = "scripts/dead-letters list shows each with its reason; requeue or drop"
        if dead:
            yield Finding(f"dead letters of {queue}", Status.WARNING, f"{dead} commands", advice)


def _queue(opened: pika.BlockingConnection, queue: str) -> Iterator[Finding]:
    name = f"queue {queue}"
    try:
        waiting, consumers = _declared(opened, queue)
        for each, arguments in (
            (queue, topology.QUORUM),
            (names.dead_letter_queue(queue), topology.QUORUM),
            (dq_name(queue), topology.CLASSIC),
        ):
            opened.channel().queue_declare(each, durable=True, arguments=arguments)
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code == _MISMATCH:
            advice = "empty it, delete it, and restart a worker, which declares it"
            yield Finding(name, Status.FAILED, f"not as it should be: {error.reply_text}", advice)
        else:
            yield Finding(name, Status.FAILED, error.reply_text, "start a worker, which declares the queues")
        return
    found = f"durable, quorum; {waiting} commands wait, {consumers} consumers"
    if not consumers:
        yield Finding(name, Status.FAILED, found, "start workers that take from it")
    else:
        yield judged(name, waiting <= _MANY, found, Status.WARNING, _BACKLOG_ADVICE)


def _declared(opened: pika.BlockingConnection, queue: str) -> tuple[int, int]:
    """Messages that are ready, and consumers, of a queue that is there."""
    method = opened.channel().queue_declare(queue, passive=True).method
    return method.message_count, method.consumer_count


def _confirms(opened: pika.BlockingConnection) -> Iterator[Finding]:
    channel, queue = opened.channel(), f"node.doctor-{uuid4().hex}"
    channel.queue_declare(queue, exclusive=True)
    channel.confirm_delivery()
    began = time.monotonic()
    channel.basic_publish("", queue, b"", mandatory=True)
    yield Finding(
        "RabbitMQ confirms", Status.OK, f"a publish was confirmed in {(time.monotonic() - began) * 1000:.0f} ms"
    )


def _heard(opened: Any, for_s: float, now: Callable[[], float]) -> dict[str, tuple[float, WorkerHeartbeat]]:
    """The heartbeats of a moment, each with the time of its arrival."""
    channel, queue, decoder = opened.channel(), f"node.doctor-{uuid4().hex}", msgspec.json.Decoder(Notice)
    channel.queue_declare(queue, exclusive=True)
    channel.queue_bind(queue, names.NODES_EXCHANGE)
    beats: dict[str, tuple[float, WorkerHeartbeat]] = {}
    until = time.monotonic() + for_s
    for _, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=0.2):
        if body is not None:
            try:
                notice = decoder.decode(body)
            except msgspec.MsgspecError:
                notice = None  # of a later version
            if isinstance(notice, WorkerHeartbeat):
                beats[notice.worker] = now(), notice
        if time.monotonic() > until:
            break
    channel.cancel()
    return beats


@contextmanager
def _connected(here: Here, settings: Any) -> Iterator[tuple[Any, Any]]:
    """A connection, or the reason why there is none."""
    try:
        opened = pika.BlockingConnection(connection.parameters(settings, "doctor"))
    except _TROUBLE as error:
        yield None, tls.explained("broker", error) or type(error).__name__
        return
    try:
        yield opened, None
    finally:
        if opened.is_open:
            opened.close()
