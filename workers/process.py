"""What one worker process is made of, and the order in which it starts and stops."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import dramatiq
from dramatiq.middleware import TimeLimit

from models.database import open_database
from models.runtime.certificates import CertificateWatch
from models.runtime.clock import clock
from models.runtime.live_settings import LiveSettings
from models.runtime.logs import Singles, lost_lines
from models.runtime.process_levels import ProcessLevels
from models.runtime.secrets.watch import SecretWatch
from models.runtime.settings import Settings
from models.wire import names
from models.wire.commands import ROUTES, NodeHeartbeat, VoteBatch
from workers.actors import Lane
from workers.actors.audit import AuditActors
from workers.actors.host import HostActors
from workers.actors.members import MemberActors
from workers.actors.votes import VoteActors
from workers.broker import CommandBroker
from workers.cache import open_redis
from workers.choices import ChoiceWriter
from workers.database_gate import DatabaseGate
from workers.dead_letters import DeadLetters
from workers.encoder import CommandEncoder
from workers.fan_out import FanOut
from workers.finals import Finals
from workers.heartbeat import PROBE_EVERY_S, Heartbeat, Probe, Waits
from workers.holdings import Holdings
from workers.metrics import WorkerMetrics
from workers.middleware import Context, Lifecycle, SafeRetries
from workers.notices import Notices
from workers.outbox import Outbox
from workers.periodic import Periodic
from workers.queue_watch import QueueWatch
from workers.replica import ReplicaReads
from workers.requests import Requests
from workers.results import ResultsPublisher
from workers.retention import Retention
from workers.rooms import Rooms
from workers.shared_time import TimeTeller
from workers.sweep import Sweep
from workers.tally_check import TallyCheck
from workers.timed_closes import TimedCloses
from workers.vote_flusher import LOCK_WAIT_S, VoteFlusher

log = logging.getLogger(__name__)

# What each kind of worker process takes. Votes have processes of their own, so that they never delay a host.
ROLES = {
    "votes": (names.VOTES_QUEUE,),
    "host": (names.HOST_QUEUE, names.MEMBERS_QUEUE, names.AUDIT_QUEUE),
}

# An actor that waits out an outage answers by itself; this ends one that does not.
_BEYOND_HOLD_S = 60


@dataclass(frozen=True)
class _Part:
    name: str
    start: Callable[[], None]
    close: Callable[[], None]


class WorkerProcess:
    """Builds everything for one role, without connecting; ``start`` and ``stop`` run the background threads."""

    def __init__(self, settings: Settings, role: str) -> None:
        self.settings = settings
        self.role = role
        self._parts: list[_Part] = []
        self.metrics = WorkerMetrics(settings, role)
        self._process_levels = ProcessLevels(settings.metrics.watch_folders)
        self._waits = Waits()
        self.singles = Singles(settings.log.singles_per_s)
        name = f"{settings.worker.name} {role}"
        self.secrets = SecretWatch(settings, self.metrics)
        database = open_database(settings.database, name, lock_wait_s=LOCK_WAIT_S if role == "votes" else 0)
        self.gate = DatabaseGate(database, self.metrics)
        client = open_redis(settings.redis)
        self.rooms = Rooms(client, settings.redis.room_ttl_s)
        self.fan_out = FanOut(client)
        self.outbox = Outbox(settings.broker, self.metrics, name)
        self.notices = Notices(self.outbox)
        self.dead_letters = DeadLetters(self.outbox, self.metrics)
        self.results = ResultsPublisher(self.gate, self.rooms, self.fan_out, self.metrics, settings.worker.tick_s)
        self.broker = self._open_broker()
        self.secrets.watch(lambda changed: self.outbox.use(changed.broker))
        self.secrets.watch(lambda changed: self.broker.use(changed.broker))
        self.secrets.watch(lambda changed: database.use(changed.database.url))
        self.outbox.on_failed_login = self.secrets.ask_soon  # it connects all the time, to tell that it is alive
        database.on_failed_login(self.secrets.ask_soon)
        # In order of dependence: what is listed last stops first.
        self._part("secrets", self.secrets.start, self.secrets.close)
        self._part("outbox", self.outbox.start, self.outbox.close)
        self._part("results", self.results.start, self.results.close)
        self._add_background()
        if role == "votes":
            self._add_votes()
        else:
            self._add_host()

    def start(self) -> None:
        for part in self._parts:
            part.start()
        log.info("worker_started", extra={"role": self.role, "queues": ",".join(ROLES[self.role])})

    def stop(self) -> None:
        """In reverse order: whoever stores stops before the results, and the results before the outbox."""
        for part in reversed(self._parts):
            part.close()
        self.gate.close()
        self.metrics.flush()
        self.metrics.close()
        log.info("worker_stopped", extra={"role": self.role})

    def _open_broker(self) -> CommandBroker:
        hold_s = self.settings.worker.outage_hold_s
        middleware = [
            Lifecycle(self.start, self.stop),
            Context(self.metrics, self._waits),
            TimeLimit(time_limit=(hold_s + self.settings.database.call_deadline_s + _BEYOND_HOLD_S) * 1000),
            SafeRetries(self.metrics),
        ]
        worker = self.settings.worker
        votes = self.role == "votes"
        prefetch = worker.vote_prefetch if votes else worker.prefetch
        # One vote worker takes all as long as it keeps up, and the next what is left: shared out evenly, each one's
        # transactions would fold fewer votes, and wait for the others' row locks. The youngest is first, so that those
        # which a deployment is about to stop have nothing in hand.
        priority = time.time_ns() // 1_000_000 if votes else None
        dramatiq.set_encoder(CommandEncoder())
        broker = CommandBroker(self.settings, middleware, self.dead_letters, self.metrics, prefetch, priority)
        dramatiq.set_broker(broker)
        return broker

    def _add_votes(self) -> None:
        choices = ChoiceWriter(self.gate, self.rooms, self.metrics)
        self.vote_flusher = flusher = VoteFlusher(
            self.settings.worker, self.gate, self.dead_letters, self.metrics, self.results.mark, choices.note,
            self.broker.stopping,
        )  # fmt: skip
        VoteActors(flusher, self.notices, self.fan_out, choices, self.metrics, self.singles).declare(self.broker)
        self._part("choices", choices.start, choices.close)
        self._part("vote-flusher", flusher.start, flusher.close)
        self._tell_holding(VoteBatch)

    def _add_host(self) -> None:
        settings = self.settings
        requests = Requests(self.notices, self.metrics)
        # Joins and reports never take the last two threads: those are the hosts'.
        lane = Lane(settings.worker.threads - 2)
        replica = ReplicaReads(settings, self.gate, self.metrics, f"{settings.worker.name} replica")
        self.secrets.watch(replica.use)
        members = MemberActors(
            settings.worker, self.gate, replica, self.rooms, self.notices, requests, self.metrics, self.broker.stopping
        )
        host = HostActors(
            self.gate, self.rooms, self.results, self.notices, requests, self.metrics,
            retention_days=settings.poll.retention_days,
        )  # fmt: skip
        host.declare(self.broker)
        members.declare(self.broker, lane)
        AuditActors(self.gate).declare(self.broker, lane)
        self._part("replica", replica.start, replica.close)
        self._part("registrations", members.start, members.close)
        finals = Finals(settings, self.gate, self.results, self.notices, self.metrics)
        self._tell_holding(NodeHeartbeat)
        self._part("finals-levels", lambda: None, finals.close)
        self._periodic("finals", Finals.EVERY_S, finals.round)
        self._periodic("timed-closes", TimedCloses.EVERY_S, TimedCloses(self.gate, host, self.metrics).round)
        retention = Retention(settings, self.gate, self.rooms, self.fan_out, self.metrics, self.broker.stopping)
        self.secrets.watch(lambda changed: retention.use(changed.database))
        self._periodic("retention", Retention.EVERY_S, retention.round)
        queues = QueueWatch(settings.broker, self.metrics, f"{settings.worker.name} {self.role}")
        self._part("queue-watch", queues.start, queues.close)
        tallies = TallyCheck(self.gate, self.rooms, self.metrics, f"{settings.worker.name}/{self.role}")
        self._periodic("tally-check", TallyCheck.EVERY_S, tallies.round)

    def _tell_holding(self, command: type) -> None:
        """Of the queue of this command."""
        holdings = Holdings(self.gate, self.broker.holding(ROUTES[command][1]))
        self._periodic(f"holdings-{self.role}", Holdings.EVERY_S, holdings.round)

    def _add_background(self) -> None:
        settings = self.settings.worker
        live = LiveSettings(self.settings)
        live.watch(self._take_over)
        probe = Probe(self.gate, self.metrics)
        # One name per process, not per instance: a worker's two roles report separately.
        heartbeat = Heartbeat(
            f"{settings.name}/{self.role}",
            ROLES[self.role],
            probe,
            self.rooms,
            self.results,
            self.notices,
            live,
            self._waits,
            settings.heartbeat_file,
        )
        teller = TimeTeller(clock, self.rooms, self.metrics, self.settings.clock.max_error_s)
        sweep = Sweep(self.gate, self.rooms, self.results, self.metrics, settings.sweep_s)
        servers = {"database": self.settings.database, "broker": self.settings.broker, "redis": self.settings.redis}
        certificates = CertificateWatch(servers, self.metrics.gauge)
        self._periodic("certificates", CertificateWatch.EVERY_S, certificates.round)
        self._periodic("probe", PROBE_EVERY_S, probe.round)
        self._periodic("time", TimeTeller.EVERY_S, teller.round)
        self._periodic("heartbeat", settings.heartbeat_s, heartbeat.round)
        self._periodic("sweep", settings.sweep_s, sweep.round)
        self._periodic("metrics", self.settings.metrics.flush_s, self._report)

    def _take_over(self, settings: Settings) -> None:
        """An operator has changed some."""
        self.results.change(settings.worker.tick_s)
        self.singles.most_per_s = settings.log.singles_per_s

    def _report(self) -> None:
        dropped, diverted = lost_lines()
        levels: dict[str, float] = {"logs.dropped": dropped, "logs.diverted": diverted}
        levels |= {"results.waiting": self.results.waiting, "outbox.waiting": self.outbox.waiting}
        for name, level in (levels | self.gate.levels() | self._process_levels.read()).items():
            self.metrics.gauge(name, level)
        self.metrics.flush()

    def _periodic(self, name: str, every_s: float, round_: Callable[[], object]) -> None:
        periodic = Periodic(name, every_s, round_, self.metrics)
        self._part(name, periodic.start, periodic.close)

    def _part(self, name: str, start: Callable[[], None], close: Callable[[], None]) -> None:
        self._parts.append(_Part(name, start, close))
