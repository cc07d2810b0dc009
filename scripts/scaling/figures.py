"""What the load is, from where it can be had without Graphite.

Workers: RabbitMQ says how much waits, and their heartbeats, which go to all nodes, how long it has waited. Nodes: Redis
has what each has last told. Whoever doesn't know raises Unknown, and nothing is changed.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pika
import pika.exceptions
import redis

from models.runtime.settings import BrokerSettings, ScalerSettings
from models.wire import names
from models.wire.loads import NodeLoad
from models.wire.notices import Notice, WorkerHeartbeat
from scripts.scaling.decision import Load
from workers.connection import parameters

log = logging.getLogger(__name__)

# What the workers of each group take. Reports (audit) may wait.
QUEUES = {"votes": (names.VOTES_QUEUE,), "host": (names.HOST_QUEUE, names.MEMBERS_QUEUE)}
_LOOK_EVERY_S = 1.0
_PAUSE_S = 2.0  # before the next try to connect
_BEATS_KEPT = 60
_HEARTBEATS_KEPT = 10_000  # of a queue that is read all the time; beyond it the oldest go
_TROUBLE = (pika.exceptions.AMQPError, OSError, AssertionError)


class Unknown(Exception):
    """There are no figures to go by; the message says why."""


@dataclass(frozen=True)
class Measured:
    """A load, and the figures that it was made of, for the log."""

    load: Load
    figures: dict[str, float]


def of_workers(
    count: int, beats: Collection[Collection[WorkerHeartbeat]], waiting: int, rules: ScalerSettings
) -> Measured:
    """``beats``: the last ones of each worker, none of them empty; ``waiting``: messages in its queues.

    :raises Unknown: nobody reports, or the database keeps all of them from working
    """
    latest = [list(each)[-1] for each in beats]
    if not latest:
        raise Unknown("no worker reports")
    if away := [beat.worker for beat in latest if beat.database != "connected"]:
        raise Unknown(f"{', '.join(sorted(away))}: the database is away, which more workers don't change")
    waited_s = max(beat.waited_s or 0.0 for each in beats for beat in each)
    cpu = sum(max(beat.cpu_share or 0.0 for beat in each) for each in beats)
    pressure = max(waited_s / rules.age_target_s, waiting / (max(1, count) * rules.depth_target))
    incomplete = "" if len(latest) == count else f"{len(latest)} of {count} workers report"
    if any(beat.cpu_share is None for beat in latest):
        incomplete = "workers of an earlier version don't tell enough"
    spread = _spread(pressure, count, cpu / rules.worker_cpu_target)
    figures = {"waited_s": round(waited_s, 3), "waiting": waiting, "reporting": len(latest), "cpu_share": round(cpu, 3)}
    return Measured(Load(count, pressure, spread, incomplete), figures)


def of_nodes(count: int, loads: Collection[NodeLoad], silent: int, rules: ScalerSettings) -> Measured:
    """``silent``: nodes that live and have told nothing.

    :raises Unknown: nobody reports
    """
    if not loads:
        raise Unknown("no node reports")
    connections = sum(load.connections for load in loads)
    lag_s = median(load.lag_s for load in loads)  # one that hangs is no reason for more
    share = connections / rules.node_connections_target
    pressure = max(share / max(1, count), lag_s / rules.node_lag_target_s)
    incomplete = ""
    if silent or len(loads) != count:
        incomplete = f"{len(loads)} of {count} nodes report"
    elif leaving := [load.name for load in loads if load.draining]:
        incomplete = f"{', '.join(sorted(leaving))} is being stopped"
    spread = _spread(lag_s / rules.node_lag_target_s, count, share)
    figures = {"connections": connections, "lag_s": round(lag_s, 4), "reporting": len(loads)}
    return Measured(Load(count, pressure, spread, incomplete), figures)


def _spread(pressure: float, count: int, work: float) -> float:
    """The pressure on one less: ``work``, in what one of them is meant to do, is done by the others."""
    return max(pressure * count, work) / (count - 1) if count > 1 else math.inf


class QueueFigures:
    """Looks at RabbitMQ and listens to the workers' heartbeats, on a thread of its own."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._name = f"scaler.{uuid4().hex}"
        self._beats: dict[str, deque[tuple[float, WorkerHeartbeat]]] = {}
        self._waiting: Mapping[str, int] = {}
        self._looked_at = -math.inf
        self._trouble = "not connected yet"
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="queue-figures", daemon=True)
        self.start = self._thread.start

    def use(self, settings: BrokerSettings) -> None:
        """From the next connection on."""
        self._settings = settings

    def close(self) -> None:
        """A broker that hangs holds nobody up."""
        self._closing.set()
        self._thread.join(2 * _LOOK_EVERY_S)

    def measure(self, group: str, count: int, rules: ScalerSettings) -> Measured:
        """:raises Unknown:"""
        with self._lock:
            oldest = time.monotonic() - rules.stale_s
            if self._looked_at < oldest:
                raise Unknown(f"RabbitMQ tells nothing: {self._trouble}")
            fresh = [[beat for at, beat in kept if at >= oldest] for kept in self._beats.values()]
            of_group = [each for each in fresh if each and set(QUEUES[group]) <= set(each[-1].queues)]
            waiting = sum(self._waiting[queue] for queue in QUEUES[group])
        return of_workers(count, of_group, waiting, rules)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._watch()
            except _TROUBLE as error:
                trouble = str(error) or type(error).__name__
                if trouble != self._trouble:
                    log.warning("queues_not_read", extra={"error": trouble})
                with self._lock:
                    self._trouble = trouble
            self._closing.wait(_PAUSE_S)

    def _watch(self) -> None:
        """Until something goes wrong."""
        connection = pika.BlockingConnection(parameters(self._settings, "scaler"))
        try:
            channel = connection.channel()
            # Gone with the connection, and bounded while this thread hangs.
            limit = {"x-max-length": _HEARTBEATS_KEPT}
            channel.queue_declare(self._name, exclusive=True, auto_delete=True, arguments=limit)
            channel.queue_bind(self._name, names.NODES_EXCHANGE)
            channel.basic_consume(self._name, self._heard, auto_ack=True)
            while not self._closing.is_set():
                self._look(channel)
                connection.process_data_events(_LOOK_EVERY_S)
        finally:
            if connection.is_open:
                connection.close()

    def _look(self, channel: Any) -> None:
        queues = [queue for group in QUEUES.values() for queue in group]
        waiting = {queue: channel.queue_declare(queue, passive=True).method.message_count for queue in queues}
        with self._lock:
            self._waiting, self._looked_at = waiting, time.monotonic()

    def _heard(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        try:
            notice = msgspec.json.decode(body, type=Notice)
        except msgspec.MsgspecError:
            return  # of a later version
        if isinstance(notice, WorkerHeartbeat):
            with self._lock:
                kept = self._beats.setdefault(notice.worker, deque(maxlen=_BEATS_KEPT))
                kept.append((time.monotonic(), notice))
                self._forget()

    def _forget(self) -> None:
        """Workers that have been silent for longer than any setting calls fresh."""
        long_ago = time.monotonic() - 3600
        for worker in [worker for worker, kept in self._beats.items() if kept[-1][0] < long_ago]:
            del self._beats[worker]


class NodeFigures:
    """Reads what the nodes have told Redis."""

    def __init__(self, client: redis.Redis, node_timeout_s: float) -> None:
        self._redis = client
        self._node_timeout_s = node_timeout_s

    def measure(self, count: int, rules: ScalerSettings) -> Measured:
        """:raises Unknown: nobody reports

        :raises redis.RedisError:
        """
        seconds, microseconds = self._redis.time()
        since = int(seconds) + int(microseconds) / 1e6 - self._node_timeout_s
        alive: list[bytes] = self._redis.zrangebyscore(names.NODES_ALIVE_KEY, since, "+inf")  # type: ignore[assignment]
        keys = [names.node_load_key(UUID(hex=node.decode())) for node in alive]
        told: list[bytes | None] = self._redis.mget(keys) if keys else []  # type: ignore[assignment]
        loads = [load for each in told if each is not None and (load := _decoded(each)) is not None]
        return of_nodes(count, loads, len(keys) - len(loads), rules)


def _decoded(told: bytes) -> NodeLoad | None:
    """None: it is of a version that tells something else."""
    try:
        return msgspec.json.decode(told, type=NodeLoad)
    except msgspec.MsgspecError:
        return None
