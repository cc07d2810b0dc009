"""A crowd of slow clients in a process of its own: whoever is ended comes again a beat later."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe

import uvloop

from scripts.loadtest.crowd import most_voters_per_process
from scripts.slowclients.kinds import KINDS
from scripts.slowclients.wire import Ended, Target

_COME_WITHIN_S = 3.0
_STARTS_WITHIN_S = 30.0


class SlowCrowdFailed(Exception):
    """The process died, or did not answer."""


@contextmanager
def slow_crowd(target: Target, kinds: Sequence[str], count: int) -> Iterator[Counter[str]]:
    """``count`` clients of each kind, from the entry to the exit. Then the counter tells how often they were ended."""
    ends: Counter[str] = Counter()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_main, args=(theirs, target, kinds, count))
    process.start()
    theirs.close()
    try:
        _hear(ours)
        yield ends
        ours.send(None)
        ends.update(_hear(ours))
    finally:
        process.terminate()
        process.join()


def _hear(pipe: Pipe) -> Counter[str]:
    try:
        if pipe.poll(_STARTS_WITHIN_S):
            told: Counter[str] = pipe.recv()
            return told
    except (EOFError, OSError) as error:
        raise SlowCrowdFailed(f"the slow clients' process died: {error!r}") from None
    raise SlowCrowdFailed("the slow clients' process does not answer")


def _main(pipe: Pipe, target: Target, kinds: Sequence[str], count: int) -> None:
    most_voters_per_process()
    uvloop.run(_run(pipe, target, kinds, count))


async def _run(pipe: Pipe, target: Target, kinds: Sequence[str], count: int) -> None:
    ends: Counter[str] = Counter()
    clients = [
        asyncio.create_task(_again_and_again(kind, target, ends), name=kind) for kind in kinds for _ in range(count)
    ]
    await asyncio.sleep(_COME_WITHIN_S + 1)
    pipe.send(Counter())
    await asyncio.to_thread(pipe.recv)
    pipe.send(ends)
    await asyncio.to_thread(pipe.recv)  # until this process is ended
    del clients


async def _again_and_again(kind: str, target: Target, ends: Counter[str]) -> None:
    await asyncio.sleep(random.random() * _COME_WITHIN_S)
    while True:
        try:
            await KINDS[kind](target)
        except (Ended, OSError):
            ends[kind] += 1
        await asyncio.sleep(target.beat_s)
