"""Redis calls of one node, sent together: what is asked while one round trip is under way goes with the next."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from models.runtime import tls
from models.runtime.settings import RedisSettings
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import CacheUnavailable

log = logging.getLogger(__name__)

_PER_ROUND = 500
_MOST_WAITING = 20_000
# A hung Redis costs a time-out a round: with a pause after a failure it costs few, and the heartbeat probes.
_PAUSE_AFTER_FAILURE_S = 0.5
_STARVED_S = 0.1
_MOST_TURNS = 5


class Script:
    """A Lua script, known to Redis by its digest."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class _Call(NamedTuple):
    command: tuple[Any, ...]
    script: Script | None
    answer: asyncio.Future[Any]


class RedisPipeline:
    """One round trip at a time, up to ``_PER_ROUND`` calls each.

    A round has a deadline that also holds when Redis hangs in mid-answer. After a failure calls fail at once for a
    moment, so that nobody queues behind a server that is away.
    """

    def __init__(self, settings: RedisSettings, metrics: NodeMetrics) -> None:
        self._metrics = metrics
        self._deadline_s = settings.timeout_s * 2
        # No socket_timeout: the deadline of a round holds for the answer, too.
        self._redis: Redis = Redis.from_url(
            settings.url,
            socket_timeout=None,
            socket_connect_timeout=settings.timeout_s,
            **tls.redis_options(settings),
        )
        self._waiting: list[_Call] = []
        self._rounds: asyncio.Task[None] | None = None
        self._closed_until = 0.0

    async def call(self, *command: Any, script: Script | None = None) -> Any:
        """The answer to one command; for a script ``command`` is the number of keys, the keys and the arguments.

        :raises CacheUnavailable: Redis is away, hung or refused the command
        """
        if self.paused or len(self._waiting) >= _MOST_WAITING:
            raise CacheUnavailable()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(_Call(command, script, answer))
        if self._rounds is None:
            self._rounds = loop.create_task(self._run(), name="redis-rounds")
        return await answer

    async def close(self) -> None:
        if self._rounds is not None:
            await self._rounds
        await self._redis.aclose()

    async def _run(self) -> None:
        try:
            while self._waiting:
                calls, self._waiting = self._waiting[:_PER_ROUND], self._waiting[_PER_ROUND:]
                try:
                    await self._round(calls)
                except Exception as error:
                    # Also what redis-py lets through, such as uvloop's RuntimeError on a connection that was reset:
                    # whoever waits must be answered.
                    self._failed(calls, error)
        finally:
            self._rounds = None

    @property
    def paused(self) -> bool:
        """Whether calls fail at once, since one has failed a moment ago."""
        return time.monotonic() < self._closed_until

    async def _round(self, calls: list[_Call]) -> None:
        began = time.monotonic()
        answers = await self._in_time(self._ask(calls))
        self._metrics.timing_ms("cache.round_ms", (time.monotonic() - began) * 1000)
        for call, answer in zip(calls, answers, strict=True):
            if call.answer.done():
                continue
            if isinstance(answer, RedisError):
                self._count_failed(1, "server")
                call.answer.set_exception(CacheUnavailable())
            else:
                call.answer.set_result(answer)

    async def _in_time(self, asking: Coroutine[Any, Any, list[Any]]) -> list[Any]:
        """:raises TimeoutError: no answer within the deadline

        A starved event loop runs its timers before it reads what has long arrived, so a wait that ended much too late
        says nothing about Redis: it is given another turn.
        """
        task = asyncio.create_task(asking, name="redis-round")
        for _ in range(_MOST_TURNS):
            started = time.monotonic()
            done, _pending = await asyncio.wait({task}, timeout=self._deadline_s)
            if done:
                return task.result()
            if time.monotonic() - started < self._deadline_s + _STARVED_S:
                break
        task.cancel()
        await asyncio.wait({task}, timeout=self._deadline_s)
        raise TimeoutError("Redis did not answer in time")

    async def _ask(self, calls: list[_Call]) -> list[Any]:
        answers = await self._execute(calls)
        # Redis forgets scripts when it restarts. They are idempotent, and those that ran are not run again.
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            for source in {call.script.source for call in calls if call.script is not None}:
                await self._redis.script_load(source)
            again = await self._execute([calls[i] for i in unknown])
            for i, answer in zip(unknown, again, strict=True):
                answers[i] = answer
        return answers

    async def _execute(self, calls: list[_Call]) -> list[Any]:
        pipe = self._redis.pipeline(transaction=False)
        for call in calls:
            if call.script is None:
                pipe.execute_command(*call.command)
            else:
                pipe.execute_command("EVALSHA", call.script.digest, *call.command)
        return await pipe.execute(raise_on_error=False)

    def _failed(self, calls: list[_Call], error: BaseException) -> None:
        self._closed_until = time.monotonic() + _PAUSE_AFTER_FAILURE_S
        failed, self._waiting = [*calls, *self._waiting], []
        timed_out = isinstance(error, TimeoutError)
        self._count_failed(len(failed), "timeout" if timed_out else "server")
        log.warning("cache_failed", extra={"calls": len(failed), "error": tls.explained("redis", error)})
        for call in failed:
            if not call.answer.done():
                refusal = CacheUnavailable()
                refusal.timed_out = timed_out
                refusal.__cause__ = error
                call.answer.set_exception(refusal)
                call.answer.exception()  # read once here: a caller that went away is no error

    def _count_failed(self, calls: int, kind: str) -> None:
        self._metrics.count("cache.failed", calls)
        self._metrics.count(f"errors.cache.{kind}", calls)
