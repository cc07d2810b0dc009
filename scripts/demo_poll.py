"""A lively poll to look at: hundreds of people arrive, vote, and change their minds; then the poll is closed."""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import secrets
import sys
from array import array
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from scripts.loadtest import rest
from scripts.loadtest.__main__ import read_env_file
from scripts.loadtest.schedule import ClosedLoop
from scripts.loadtest.voter import Counts, Seat, Voter

QUESTION = "What should tonight's last talk be about?"
OPTIONS = ("Durability", "Scaling out", "Operations at night", "Accessible pages")
_ARRIVAL_S = 40.0
_MIND_S = 8.0  # how long a person stays with a choice, on average
_MOOD_S = 45.0  # after so long another option is the favourite
_PULSE_S = 1.0
_HANDSHAKES = 20
_FIRST = """
Ada Alan Barbara Claude Dennis Donald Edsger Frances Grace Hedy Joan John Katherine Ken Leslie Linus Margaret Mary Radia
Tim
""".split()  # noqa: SIM905
_LAST = """
Allen Borg Clarke Dijkstra Goldberg Hamilton Hopper Johnson Keller Knuth Lamport Liskov Lovelace Perlman Ritchie Shannon
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Mood:
    """What the room likes: each option's weight goes up and down in its own time."""

    since: float

    def pick(self, options: int) -> int:
        turn = (monotonic() - self.since) / _MOOD_S
        weights = [
            1 + 0.9 * math.sin(turn * math.tau / options - index * math.tau / options) for index in range(options)
        ]
        return random.choices(range(options), weights)[0]


class Guest(Voter):
    """Arrives some time, votes a moment later, and again whenever the mood changes its mind."""

    mood: Mood

    def next_option(self, present: int) -> int:
        return self.mood.pick(self.seat.options)

    async def live(self, arrival_s: float) -> None:
        await asyncio.sleep(random.random() * arrival_s)
        await self.come_in()
        await asyncio.sleep(0.5 + random.random() * 2)
        while not self.gone():
            if self.able():
                self.cast(monotonic())
            await asyncio.sleep(random.expovariate(1 / _MIND_S) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--voters", type=int, default=300, help="how many people come (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=180, help="how long they vote (default %(default)s)")
    parser.add_argument("--url", help="node or balancer (default: BASE_URL of the run)")
    parser.add_argument("--run-dir", type=Path, default=Path(".run"), help="the run to fill (default %(default)s)")
    wanted = parser.parse_args()
    if not 1 <= wanted.voters <= 2000 or wanted.seconds <= 0:
        parser.error("--voters must be 1 to 2000, --seconds positive")
    url = wanted.url or read_env_file(wanted.run_dir / "env").get("BASE_URL")
    if not url:
        print("✗ nothing runs: scripts/up first, or name a node with --url", file=sys.stderr)
        return 2
    try:
        base = rest.parse_base(url)
        room = rest.open_poll(base, QUESTION, OPTIONS)
    except (ValueError, KeyError, rest.RestError) as error:
        print(f"✗ {error}", file=sys.stderr)
        return 2
    print(f"Big screen  {base.url}/screen/{room.code}")
    print(f"Join        {base.url}/j/{room.code}")
    print(f"Host        {base.url}/host/{room.code}#{room.host_token}", flush=True)
    with suppress(KeyboardInterrupt):
        asyncio.run(fill(base, room, wanted.voters, wanted.seconds))
    rest.change_state(base, room, "closed")
    print("\nThe poll is closed. The pages show the final result.")
    return 0


async def fill(
    base: rest.Base, room: rest.Room, voters: int, seconds: float, arrival_s: float = _ARRIVAL_S
) -> list[Guest]:
    """Let ``voters`` people come and vote for ``seconds``; then all go. The guests, to be asked what they did."""
    counts, gate, run = Counts(), asyncio.Semaphore(_HANDSHAKES), secrets.token_hex(4)
    mood = Mood(monotonic())
    guests = []
    for index, name in enumerate(_names(voters)):
        seat = Seat(index, room.code, room.options, base.host, base.port)
        guest = Guest(seat, run, ClosedLoop(), counts, array("d"), gate, nickname=name)
        guest.mood = mood
        guests.append(guest)
    ends_at = monotonic() + seconds
    lives = [
        asyncio.create_task(guest.live(min(arrival_s, seconds / 2)), name=f"guest-{guest.seat.index}")
        for guest in guests
    ]
    try:
        while (left_s := ends_at - monotonic()) > 0 and not all(guest.gone() for guest in guests):
            await asyncio.sleep(min(_PULSE_S, left_s))
            for guest in guests:
                guest.check_pulse(monotonic())
            _tell(counts, voters, left_s)
    finally:
        for life in lives:
            life.cancel()
        ended = await asyncio.gather(*lives, return_exceptions=True)
        for guest in guests:
            guest.leave()
    for error in ended:
        if isinstance(error, Exception):
            raise error
    if counts.problem and not counts.acked:
        print(f"\n! nobody could vote: {counts.problem}", file=sys.stderr)
    return guests


def _names(voters: int) -> list[str]:
    pairs = [f"{first} {last}" for first in _FIRST for last in _LAST]
    random.shuffle(pairs)
    return [
        pairs[index % len(pairs)] + (f" {index // len(pairs) + 1}" if index >= len(pairs) else "")
        for index in range(voters)
    ]


def _tell(counts: Counts, voters: int, left_s: float) -> None:
    if sys.stdout.isatty():
        print(f"\r{counts.joined} of {voters} are here, {counts.acked} votes, {left_s:.0f} s left ", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
