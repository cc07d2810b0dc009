"""What a standby costs that must have every commit on its disk, beside the same standby that follows when it can."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.results import Row
from scripts.benchmarks.stage import Stage, StageFailed
from scripts.benchmarks.turns import Side, Turn

VOTERS = 500
_SWITCHED_WITHIN_S = 10.0


@dataclass
class Switched(Side):
    """A side before whose turns something is switched."""

    switch: Callable[[], None] = lambda: None

    def take_turn(self, window_s: float, rate: float | None = None) -> Turn:
        self.switch()
        return super().take_turn(window_s, rate)


def run(bench: Bench) -> list[Row]:
    folder = bench.stage.folder.path
    with Stage(folder.with_name(f"{folder.name}-standby"), "--replica") as stage:
        inner = Bench(stage, False, bench.pairs, bench.share, raw=bench.raw)
        with inner.votemill(VOTERS) as side:

            def switched(name: str, standbys: str, state: str) -> Switched:
                parts = (side.crowd, side.meters, side.settle, side.messages)
                return Switched(name, *parts, switch=lambda: _switch(stage, standbys, state))

            held, free = switched("synchronous", "standby", "sync"), switched("asynchronous", "", "async")
            inner.rounds("synchronous", [held, free])

    def row(what: str, unit: str, figure: Callable[[Turn], float]) -> Row:
        return Row("synchronous", what, unit, [*map(figure, held.turns)], [*map(figure, free.turns)], free.name)

    return [
        row("durable votes", "1/s", lambda turn: turn.votes_per_s),
        row("last commit after the last ack", "s", lambda turn: turn.settled_after_s),
        row("ack p95", "ms", lambda turn: turn.ack_ms["p95"]),
    ]


def _switch(stage: Stage, standbys: str, state: str) -> None:
    """:raises StageFailed: the standby does not become what it should be"""
    stage.administer(f"ALTER SYSTEM SET synchronous_standby_names = '{standbys}'")
    stage.administer("SELECT pg_reload_conf()")
    gives_up_at = time.monotonic() + _SWITCHED_WITHIN_S
    while stage.administer("SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'") != [(state,)]:
        if time.monotonic() > gives_up_at:
            raise StageFailed(f"the standby is not {state}")
        time.sleep(0.1)
