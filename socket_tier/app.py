"""The composition root: makes every part of a node, and starts and stops what runs, in order."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

from aiohttp import web

from models.runtime.clock import clock
from models.runtime.live_settings import LiveSettings
from models.runtime.logs import Singles, lost_lines
from models.runtime.secrets.watch import SecretWatch
from models.runtime.settings import Settings
from models.runtime.tokens import Tokens
from models.wire import notices
from models.wire.commands import RegisterParticipants, Registration
from socket_tier import pages
from socket_tier.addresses import TrustedProxies
from socket_tier.admin import Admin
from socket_tier.after_restore import AfterRestore
from socket_tier.amqp.link import Link
from socket_tier.amqp.notices import NoticeInbox
from socket_tier.amqp.publisher import Publisher
from socket_tier.audit import Audit
from socket_tier.batcher import Batcher
from socket_tier.cache import Cache
from socket_tier.choices import Choices
from socket_tier.clock_watch import ClockWatch
from socket_tier.commands import Commands
from socket_tier.connections import Connections
from socket_tier.events import Events
from socket_tier.expectations import pass_over_unknown_expectations
from socket_tier.fanout import Fanout
from socket_tier.graphs import Graphs
from socket_tier.health import Health, Readiness, Workers
from socket_tier.host_tokens import HostTokens
from socket_tier.hosting import Hosting
from socket_tier.http import BODIES, SOCKET_IO_PATH, Edge, security_headers
from socket_tier.joining import Joining
from socket_tier.key_watch import KeyWatch
from socket_tier.limits import Limits
from socket_tier.lost_polls import LostPolls
from socket_tier.metrics import NodeMetrics
from socket_tier.nicknames import Nicknames
from socket_tier.payloads import Payloads
from socket_tier.presence import Presence
from socket_tier.redis_pipeline import RedisPipeline
from socket_tier.refusals import Invalid, RateLimited, Refused
from socket_tier.rest import Rest
from socket_tier.rooms import Rooms
from socket_tier.screens import Screens
from socket_tier.server import SocketServer
from socket_tier.sessions import Sessions
from socket_tier.shared_limits import SharedLimits
from socket_tier.shedding import Shedding
from socket_tier.socket_rooms import SocketRooms
from socket_tier.state_changes import StateChanges
from socket_tier.state_commands import StateCommands
from socket_tier.tasks import Tasks, keep_running
from socket_tier.transport.engine import DirectEngine
from socket_tier.transport.lane import VoteLane
from socket_tier.unfinished import Bodies, Unfinished
from socket_tier.upkeep import Upkeep
from socket_tier.vote_buffer import VoteBuffer
from socket_tier.vote_log import VoteLog
from socket_tier.voting import VoteResults, Voting

log = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 5.0


class Node:
    """One node's parts. ``create`` wires them; ``app`` is what aiohttp runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.node_id: UUID = uuid4()
        self.metrics = NodeMetrics(settings.metrics, "node", settings.node.name)
        self.keys = settings.security.key_ring()
        self.tokens = Tokens(self.keys.usable(), settings.security.token_max_age_s)
        self.tasks = Tasks()
        self.sessions = Sessions()
        self.readiness = Readiness()
        self.workers = Workers()
        self.limits = Limits(settings.limits, self.metrics)
        self.singles = Singles(settings.log.singles_per_s)
        self.vote_log = VoteLog(settings.log, self.singles)

        # RabbitMQ
        self.publisher = Publisher(settings.broker, self.metrics)
        self.inbox = NoticeInbox(
            settings.broker,
            self.node_id,
            self.publisher,
            self.metrics,
            on_notice=self._on_notice,
            on_hearing=lambda hearing: self.rooms.hearing_changed(hearing),
            on_gap=self._on_missed_notices,
        )
        self.commands = Commands(self.publisher, settings.broker.reply_timeout_s, lambda: self.inbox.address)
        self.buffer = VoteBuffer(
            self.publisher, settings.batch, self.node_id, self.metrics, self.vote_log, lambda: self.inbox.address
        )
        self.registrations: Batcher[Registration] = Batcher(
            self.publisher,
            lambda items: RegisterParticipants(tuple(items), reply_to=self.inbox.address),
            max_items=settings.batch.max_votes,
            max_wait_s=settings.batch.max_wait_s,
            capacity=settings.batch.capacity_votes,
        )
        self.audit = Audit(self.commands, settings.audit, self.metrics)
        self.key_watch = KeyWatch(self.keys, self.tokens, self.audit, settings.node.name)
        self.shedding = Shedding(settings.shed, self.buffer.share_held, self.metrics)
        self.shedding.knows_time = False

        # Redis
        self.redis = RedisPipeline(settings.redis, self.metrics)
        self.shared_limits = SharedLimits(settings.redis, self.limits, self.metrics)
        self.cache = Cache(self.redis, settings.redis.room_ttl_s)
        timeout_s = settings.broker.publish_timeout_s
        self.nicknames = Nicknames(
            self.cache,
            self.node_id,
            self.metrics,
            # A refused join has given its nickname back by then, unless the answer never came.
            reserve_s=timeout_s * 2,
            # A node that is not dead, and has nothing left that waits for its confirm.
            settle_s=max(settings.room.node_timeout_s, timeout_s + 1),
        )
        self.clock_watch = ClockWatch(clock, self.cache, self.metrics, settings.clock.max_error_s)
        self.live = LiveSettings(settings)
        self.admin = Admin(settings.security.admin_token, self.cache, self.live, self.audit)
        self.fanout = Fanout(
            settings.redis,
            self.redis,
            self.metrics,
            route=lambda *news: self.sockets.take(*news) or self.screens.take(*news),
            on_hearing=self._on_hearing,
        )
        self.rooms = Rooms(self.cache, self.commands, self.node_id, settings.room, self.limits, self.metrics)
        self.choices = Choices(self.cache, self.commands, self.node_id)
        self.presence = Presence(
            self.cache, self.commands, self.fanout, self.rooms, self.tasks, self.node_id, settings.room
        )
        self.screens = Screens(self.rooms, self.fanout, self.presence, self.live, self.tasks, self.metrics)

        # Browsers
        self.bodies = Bodies(
            Unfinished(settings.node.max_unfinished_bytes), settings.node.body_deadline_s, self._cut_off
        )
        self.proxies = TrustedProxies(settings.security.trusted_proxies)
        self.connections = Connections(
            settings.node,
            self.limits.open_connections_per_address,
            self.proxies,
            self._cut_off,
            security_headers(settings.security),
        )
        self.server = SocketServer(settings, self.fanout, self.limits, self.bodies)
        self.sockets = SocketRooms(
            self.server, self.fanout, self.screens.ticker, self.rooms, self.tasks, self.limits.rooms_per_session
        )
        self.states = StateChanges(
            rooms=self.rooms,
            cache=self.cache,
            commands=self.commands,
            buffer=self.buffer,
            fanout=self.fanout,
            ticker=self.screens.ticker,
            tasks=self.tasks,
            node_id=self.node_id,
        )
        self.joining = Joining(
            settings=settings,
            cache=self.cache,
            rooms=self.rooms,
            presence=self.presence,
            choices=self.choices,
            nicknames=self.nicknames,
            registrations=self.registrations,
            tokens=self.tokens,
            audit=self.audit,
            limits=self.limits,
            shedding=self.shedding,
            sockets=self.sockets,
            metrics=self.metrics,
        )
        self.lost_polls = LostPolls(
            self.rooms, self.sessions, self.sockets, self.joining, self.fanout, self.tasks, self.metrics
        )
        self.after_restore = AfterRestore(self.rooms, self.choices, self.states, self.sessions, self.registrations)
        self.host_tokens = HostTokens(
            node_id=self.node_id, tokens=self.tokens, commands=self.commands, audit=self.audit, tasks=self.tasks
        )
        self.hosting = Hosting(
            security=settings.security,
            node_id=self.node_id,
            rooms=self.rooms,
            cache=self.cache,
            commands=self.commands,
            host_tokens=self.host_tokens,
            sessions=self.sessions,
            sockets=self.sockets,
            state_commands=StateCommands(self.commands, self.cache, self.states, self.tasks),
            tasks=self.tasks,
            shedding=self.shedding,
            audit=self.audit,
        )
        self.voting = Voting(
            rooms=self.rooms,
            joining=self.joining,
            buffer=self.buffer,
            choices=self.choices,
            limits=self.limits,
            shedding=self.shedding,
            audit=self.audit,
            metrics=self.metrics,
            sockets=self.sockets,
        )
        self.server.on_malformed = self._malformed
        self.server.on_dropped = self._dropped
        if isinstance(self.server.eio, DirectEngine):
            self.server.eio.lane = VoteLane(
                self.buffer,
                self.choices,
                self.shedding,
                self.settings.node.max_command_id_chars,
                on_first_vote=self.sockets.voted,
            )
            self.server.eio.on_owed = self.screens.pay
        self.vote_results = VoteResults(
            self.buffer, self.sessions, self.rooms, self.choices, self.fanout, self.metrics, self.vote_log
        )
        self.payloads = Payloads(settings)
        Events(
            payloads=self.payloads,
            server=self.server,
            sessions=self.sessions,
            sockets=self.sockets,
            rooms=self.rooms,
            cache=self.cache,
            commands=self.commands,
            joining=self.joining,
            hosting=self.hosting,
            voting=self.voting,
            limits=self.limits,
            audit=self.audit,
            metrics=self.metrics,
            node_id=self.node_id,
            singles=self.singles,
        ).register()
        self.upkeep = Upkeep(
            settings,
            self.node_id,
            commands=self.commands,
            cache=self.cache,
            workers=self.workers,
            sessions=self.sessions,
            shedding=self.shedding,
            presence=self.presence,
            key_watch=self.key_watch,
            audit=self.audit,
            admin=self.admin,
            clock_watch=self.clock_watch,
            metrics=self.metrics,
            levels=self._levels,
        )
        self.live.watch(self._take_over)
        self.secrets = SecretWatch(settings, self.metrics)
        self.secrets.watch(self._take_over_secrets)
        for link in self._links:
            link.on_failed_login = self.secrets.ask_soon
        self.app = self._web()

    def _take_over(self, settings: Settings) -> None:
        """An operator has changed some."""
        self.limits.change(settings.limits)
        self.shedding.settings = settings.shed
        room = settings.room
        self.screens.ticker.change(room.tick_s, room.tick_per_member_s, room.results_per_s)
        self.vote_log.settings = settings.log
        self.singles.most_per_s = settings.log.singles_per_s

    @property
    def _links(self) -> tuple[Link, ...]:
        return self.publisher.link, self.inbox.link

    def _take_over_secrets(self, settings: Settings) -> None:
        """The store has others: for connections from now on, and for whoever comes with a token."""
        for link in self._links:
            link.use(settings.broker)
        self.keys.use(settings.security.listed_keys)
        self.admin.token = settings.security.admin_token

    def _web(self) -> web.Application:
        edge = Edge(self.settings, self.proxies, self.tokens, self.limits, self.audit, self.metrics, self.singles)
        pass_over_unknown_expectations()
        app = web.Application(middlewares=[edge.middleware], client_max_size=self.settings.node.max_body_bytes)
        app[BODIES] = self.bodies
        app.on_response_prepare.append(edge.prepare)
        self.server.attach(app, socketio_path=SOCKET_IO_PATH.strip("/"))
        health = Health(
            publisher=self.publisher,
            inbox=self.inbox,
            cache=self.cache,
            workers=self.workers,
            sessions=self.sessions,
            rooms=self.rooms,
            clock_watch=self.clock_watch,
        )
        rest = Rest(
            settings=self.settings,
            payloads=self.payloads,
            node_id=self.node_id,
            rooms=self.rooms,
            cache=self.cache,
            commands=self.commands,
            hosting=self.hosting,
            workers=self.workers,
            host_tokens=self.host_tokens,
            admin=self.admin,
            audit=self.audit,
            limits=self.limits,
            shedding=self.shedding,
        )
        app.add_routes(rest.routes())
        app.add_routes(self.admin.routes())
        graphs = Graphs(self.settings.metrics, self.admin)
        app.add_routes(graphs.routes())
        app.router.add_get("/api/health", health.handle)
        app.router.add_get("/api/health/ready", self.readiness.ready)
        app.router.add_get("/api/health/live", self.readiness.live)
        app.add_routes(pages.Site().routes())
        # Unwound in reverse: the buffer drains while the publisher still lives.
        app.cleanup_ctx.extend(
            [
                self._run_secrets,
                self._run_connections,
                graphs.run,
                self._run_publisher,
                self._run_redis,
                self._run_fanout,
                self._run_inbox,
                self._run_presence,
                self._run_votes,
            ]
        )
        return app

    # Lifecycles, in the order in which they start.

    async def _run_secrets(self, _app: web.Application) -> AsyncIterator[None]:
        self.secrets.start(asyncio.get_running_loop().call_soon_threadsafe)
        yield
        self.secrets.close()

    async def _run_connections(self, _app: web.Application) -> AsyncIterator[None]:
        running = keep_running(self.connections.run(), "connections")
        yield
        await _stop([running])

    async def _run_publisher(self, _app: web.Application) -> AsyncIterator[None]:
        running = keep_running(self.publisher.run(), "publisher")
        yield
        await self.publisher.drain(_STOP_TIMEOUT_S)
        await self.publisher.close()
        await running

    async def _run_redis(self, _app: web.Application) -> AsyncIterator[None]:
        running = keep_running(self.shared_limits.run(), "shared-limits")
        yield
        await _stop([running])
        await self.shared_limits.close()
        await self.redis.close()

    async def _run_fanout(self, _app: web.Application) -> AsyncIterator[None]:
        # The listener would otherwise start with the first connection, and miss what came before it.
        self.server.manager_initialized = True
        self.fanout.initialize()
        yield
        await self.fanout.close()

    async def _run_inbox(self, _app: web.Application) -> AsyncIterator[None]:
        self.rooms.hearing_changed(False)
        running = keep_running(self.inbox.run(), "notices")
        yield
        await self.inbox.close()
        await running

    async def _run_presence(self, _app: web.Application) -> AsyncIterator[None]:
        running = [
            keep_running(work, name)
            for name, work in (
                ("presence-heartbeat", self.presence.run_heartbeat()),
                ("presence-repairs", self.presence.run_repairs()),
                ("participant-counts", self.presence.run_counts()),
                ("host-feed", self.presence.host_feed.run()),
            )
        ]
        yield
        await _stop(running)
        await self.tasks.close(_STOP_TIMEOUT_S)

    async def _run_votes(self, _app: web.Application) -> AsyncIterator[None]:
        running = [
            keep_running(work, name)
            for name, work in (
                ("choices", self.choices.run()),
                ("nicknames", self.nicknames.run()),
                ("vote-results", self.vote_results.run()),
                ("unanswered", self.buffer.run_asking()),
                ("timed-closes", self.states.run_clock()),
                ("readiness", self._become_ready()),
                *self.upkeep.loops(),
            )
        ]
        yield
        await self.buffer.close(_STOP_TIMEOUT_S)
        self.registrations.flush()
        await self.choices.write()
        await self.nicknames.write()
        await self.upkeep.say_alive(stopped=True)
        await _stop(running)
        await asyncio.to_thread(self.metrics.flush)
        self.metrics.close()

    async def _become_ready(self) -> None:
        await self.inbox.consuming.wait()
        await self.publisher.connected.wait()
        await self.clock_watch.known.wait()
        self.shedding.knows_time = True
        await self.upkeep.become_known()
        self.buffer.begin()
        if self.readiness.reason == "starting":
            self.readiness.reason = None
        log.info("node_ready", extra={"node_id": str(self.node_id)})
        self.key_watch.tell()

    # What arrives.

    def _on_notice(self, notice: notices.Notice) -> None:
        match notice:
            case notices.RegistrationsStored():
                self.nicknames.stored(notice.participant_ids)
            case notices.BatchApplied():
                self.vote_results.applied(notice)
            case notices.StateChanged():
                self.states.changed(notice)
            case notices.HostsRevoked():
                self.hosting.revoked(notice)
            case notices.DatabaseRestored():
                self.tasks.start(self.after_restore.run(), "after-restore")
            case notices.PollClosing():
                self.states.closing(notice)
            case notices.WorkerHeartbeat():
                self.workers.heard(notice)
                self.clock_watch.heard(notice)
                self.buffer.database_away(self.workers.database_away())
            case _:
                self.commands.answered(notice.request_id, notice)

    def _on_missed_notices(self) -> None:
        self.rooms.may_have_missed()
        self.buffer.answers_missed()
        self.states.catch_up()

    def _on_hearing(self, hearing: bool) -> None:
        """The fan-out is lost or back: say so, and repair what was missed."""
        self.screens.tell_hearing(hearing)
        if hearing:
            self.states.catch_up()

    def _malformed(self, sid: str, refusal: Invalid) -> Refused:
        """What the sender of a malformed packet is told: it counts as an event, and too many are refused as such."""
        session = self.sessions.get(sid)
        told: Refused = refusal
        if session is not None:
            try:
                self.limits.event(session.events)
            except RateLimited as limited:
                told = limited
        self.audit.refusal(told, session.address if session is not None else "")
        return told

    def _cut_off(self, reason: str, address: str) -> None:
        """A connection or a body was too slow, too large, one too many or no HTTP."""
        self.metrics.count(f"cut.{reason}")
        event = "invalid_input" if reason == "not_http" else "resource_limit"
        self.audit.note(event, outcome="refused", action=reason, address=address)

    def _dropped(self, reason: str, address: str) -> None:
        """A client is of no use any more. One that has only become silent has done nothing that is worth a record."""
        self.metrics.count(f"clients.dropped_{reason}")
        if reason != "silent":
            self.audit.note("resource_limit", outcome="refused", action=reason, address=address)

    def _levels(self) -> dict[str, float | None]:
        dropped, diverted = lost_lines()
        return {
            "logs.dropped": dropped,
            "logs.diverted": diverted,
            "connections": len(self.sessions),
            "connections.open": len(self.connections),
            "messages.unfinished_bytes": self.bodies.unfinished.held,
            "rooms": len(self.rooms.in_use()),
            "buffer.held_votes": self.buffer.held,
            "publish.in_flight": self.publisher.in_flight,
            "publish.window_share": self.publisher.window_share,
            "publish.away": float(self.publisher.trouble() is not None),
            "notices.away": float(not self.inbox.hearing),
            "cache.paused": float(self.redis.paused),
            "fanout.away": float(not self.fanout.hearing),
            "keys.signing_age_days": self.keys.signing_age_days(),
        }


async def _stop(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
