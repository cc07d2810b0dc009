"""What every line works with: the stage, the peer, how long and how often to measure, and where raw figures go."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from scripts.benchmarks.crowd import Crowd, seats
from scripts.benchmarks.meters import Meter
from scripts.benchmarks.peer import Peer
from scripts.benchmarks.stage import Stage
from scripts.benchmarks.turns import Side, Turn, stored_by
from scripts.loadtest.rest import Room
from scripts.stack.progress import say


@dataclass
class Bench:
    """``share``: by which numbers of connections, rows and seconds are multiplied (1, or less for a quick look).
    ``prepared_peer``: the peer's statements are prepared, which few teams do."""

    stage: Stage
    with_peer: bool
    pairs: int
    share: float = 1.0
    prepared_peer: bool = False
    raw: dict[str, list[object]] = field(default_factory=dict)

    def scaled(self, count: int) -> int:
        """A number of connections or rows, smaller for a quick look."""
        return max(50, int(count * self.share))

    @property
    def window_s(self) -> float:
        """How long a turn votes."""
        return 5.0 if self.share == 1.0 else 2.0

    def keep(self, line: str, figures: object) -> None:
        """Raw figures for the JSON file."""
        self.raw.setdefault(line, []).append(figures)

    def rounds(self, line: str, sides: Sequence[Side], rate: float | None = None) -> None:
        """A B A B ...: each side's turns, interleaved, after a warm-up that nobody counts."""
        for side in sides:
            side.take_turn(min(1.0, self.window_s / 2), rate)
            side.turns.clear()
        for number in range(1, self.pairs + 1):
            for side in sides:
                self.tell(line, number, side.take_turn(self.window_s, rate))

    def tell(self, line: str, number: int, turn: Turn) -> None:
        """One turn is over."""
        self.keep(line, turn.as_json())
        refused = f"  {turn.refused} refused" if turn.refused else ""
        used = " ".join(f"{name} {spent:.1f}" for name, spent in turn.cpu_us.items())
        say(
            f"  {line} {number}: {turn.side:<18} {turn.votes_per_s:>7.0f} votes/s  "
            f"ack p95 {turn.ack_ms['p95']:.1f} ms  µs per vote: {used}{refused}"
        )

    @contextmanager
    def votemill(
        self, voters: int, rooms: int = 1, nodes: Sequence[int] = (1,), name: str = "votemill"
    ) -> Iterator[Side]:
        """A seated crowd in new rooms, on some of the nodes; gone, and the rooms closed, at the end."""
        opened = self.stage.open_rooms(rooms)
        with self.votemill_in(opened, voters, nodes, name) as side:
            yield side
        self.stage.close_rooms(opened)

    @contextmanager
    def votemill_in(
        self,
        rooms: Sequence[Room],
        voters: int,
        nodes: Sequence[int] = (1,),
        name: str = "votemill",
        *,
        seated: bool = True,
    ) -> Iterator[Side]:
        """A crowd for these rooms; not ``seated`` when it is to come in later."""
        codes = [room.code for room in rooms]
        with Crowd.fitting(voters) as crowd:
            if seated:
                crowd.gather(seats(self.addresses(nodes), codes, 0, voters, secrets.token_hex(3)))
            yield Side(
                name,
                crowd,
                self.meters(nodes),
                stored_by(self.stage, codes),
                self.stage.batches_stored,
                self.addresses(nodes),
            )
            crowd.leave()

    def addresses(self, nodes: Sequence[int]) -> list[tuple[str, int]]:
        """Of some of the nodes, by number."""
        everywhere = self.stage.addresses(max(nodes))
        return [everywhere[number - 1] for number in nodes]

    def meters(self, nodes: Sequence[int] = (1,), workers: int = 1) -> dict[str, Meter]:
        """Every process that has a part in a vote; nodes and workers beyond the first under names of their own."""
        named = {"node" if len(nodes) == 1 else f"node-{number}": f"node-{number}" for number in nodes}
        named |= {"worker" if workers == 1 else f"worker-{n}": f"worker-{n}" for n in range(1, workers + 1)}
        named |= {name: name for name in ("postgres", "rabbitmq", "redis")}
        return {name: self.stage.meter(process) for name, process in named.items()}

    @contextmanager
    def peers(self, modes: Sequence[str], voters: int, *, seated: bool = True) -> Iterator[list[Side]]:
        """A peer per mode, each with a crowd of its own; none when there is no Node.js."""
        with ExitStack() as together:
            yield [together.enter_context(self._peer(mode, voters, seated)) for mode in modes] if self.with_peer else []

    @contextmanager
    def _peer(self, mode: str, voters: int, seated: bool) -> Iterator[Side]:
        log = self.stage.folder.log("peer")
        with (
            Peer(mode, self.stage.peer_database(), log, prepared=self.prepared_peer) as peer,
            Crowd.fitting(voters) as crowd,
        ):
            if seated:
                crowd.gather(seats([peer.address], [], 0, voters, ""))
            meters = {"node": peer.meter}
            if mode != "noop":
                meters["postgres"] = self.stage.meter("postgres")
            yield Side(mode, crowd, meters, addresses=[peer.address])
            crowd.leave()
