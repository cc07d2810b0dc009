"""10 000 voters in one room all vote within one second: the slowest ack, and when all screens show all votes."""

import time
from collections.abc import Callable

from scripts.benchmarks.bench import Bench
from scripts.benchmarks.crowd import Seen
from scripts.benchmarks.results import Aim, Row
from scripts.benchmarks.turns import TurnInvalid, check, spread
from scripts.benchmarks.voter import OPTIONS
from scripts.stack.progress import say

VOTERS = 10_000
WITHIN_S = 1.0
_SHOWN_S = 30.0


def run(bench: Bench) -> list[Row]:
    voters = bench.scaled(VOTERS)
    slowest, shown = [], []
    with bench.votemill(voters) as ours:
        for number in range(1, bench.pairs + 1):
            lost = ours.crowd.look(choices=False).lost
            voted = ours.crowd.burst(WITHIN_S)
            check(voted, ours.crowd.look(choices=False).lost - lost)
            slowest.append(spread(voted)["max"] / 1000)
            shown.append(_everywhere(ours.crowd.look, voters) - voted.began_at)
            bench.keep("burst", {"voters": voters, "ack_ms": spread(voted), "shown_after_s": shown[-1]})
            say(f"  burst {number}: slowest ack {slowest[-1]:.2f} s, on every screen after {shown[-1]:.2f} s")
            time.sleep(1.5)
    what = f"{voters} votes within {WITHIN_S:.0f} s"
    return [
        Row("burst", f"{what}: slowest ack", "s", slowest, aims=(Aim("ours", "<=", 2),)),
        Row("burst", f"{what}: last totals on every screen", "s", shown, aims=(Aim("ours", "<=", 3),)),
    ]


def _everywhere(look: Callable[[], Seen], voters: int) -> float:
    """When the last screen began to show what all acked votes add up to (monotonic seconds)."""
    screens, gives_up_at = 0, time.monotonic() + _SHOWN_S
    while time.monotonic() < gives_up_at:
        seen = look()
        counts = [0] * OPTIONS
        for option in seen.choices.values():
            counts[option] += 1
        screens, since = seen.totals.get(",".join(map(str, counts)).encode(), (0, 0.0))
        if screens == voters:
            return since
        time.sleep(0.1)
    raise TurnInvalid(f"the last totals are on {screens} of {voters} screens after {_SHOWN_S:.0f} s")
