"""Figures on their way to StatsD: all of them, in few packets, and nobody waits for it or fails without it."""

import re
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from models.runtime import metrics as client
from models.runtime.metrics import Metrics, Names
from models.runtime.settings import load


class Some(Metrics):
    names = Names(
        {**client.COUNTERS, "votes": "", "never": "", "refusals.*": ""},
        {"rooms": "", "queues.votes": ""},
        {"ack_ms": "", "screen_ms": ""},
    )


class StatsD:
    """Hears packets on a port of its own."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(5)
        self.port = self.socket.getsockname()[1]
        self.packets: list[bytes] = []

    def hear(self) -> dict[str, str]:
        """Everything that has come: what was sent over this very machine is here when the sender returns."""
        self.socket.setblocking(False)
        while True:
            try:
                self.packets.append(self.socket.recv(65536))
            except BlockingIOError:
                break
        return dict(line.split(":", 1) for packet in self.packets for line in packet.decode().splitlines())

    def away(self) -> None:
        self.socket.close()

    def back(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", self.port))
        self.packets.clear()


@pytest.fixture
def statsd() -> Iterator[StatsD]:
    statsd = StatsD()
    yield statsd
    statsd.socket.close()


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Metrics] = []

    def make(host: str, port: int = 8125, instance: str = "node-1") -> Some:
        settings = msgspec.structs.replace(load().metrics, statsd_host=host, statsd_port=port, prefix="votemill")
        made.append(Some(settings, "node", instance))
        return made[-1]

    yield make
    for metrics in made:
        metrics.close()


def test_figures_are_added_up_and_sent_under_their_names(make: Any, statsd: StatsD) -> None:
    metrics = make("127.0.0.1", statsd.port, instance="rack 7/node.example.org")
    for _ in range(3):
        metrics.count("votes", 2)
    metrics.count("refusals.room_full")
    metrics.gauge("rooms", 7)
    metrics.gauge("queues.votes", 12, everywhere=True)
    metrics.timing_ms("ack_ms", 1.234)
    metrics.timing_ms("ack_ms", 20)
    metrics.flush()
    heard = statsd.hear()
    assert heard["votemill.node.votes"] == "6|c"
    assert heard["votemill.node.refusals.room_full"] == "1|c"
    assert heard["votemill.node.instances.rack-7-node-example-org.rooms"] == "7|g"
    assert heard["votemill.node.queues.votes"] == "12|g"
    assert heard["votemill.node.ack_ms"] == "1.23|ms:20.00|ms"


def test_what_has_not_happened_is_sent_as_zero_and_a_level_until_it_is_unknown(make: Any, statsd: StatsD) -> None:
    metrics = make("127.0.0.1", statsd.port)
    metrics.gauge("rooms", 7)
    metrics.flush()
    assert statsd.hear()["votemill.node.never"] == "0|c"
    statsd.packets.clear()
    metrics.flush()
    assert statsd.hear() == {"votemill.node.instances.node-1.rooms": "7|g"}
    statsd.packets.clear()
    metrics.gauge("rooms", None)
    metrics.flush()
    assert statsd.hear() == {}


def test_many_timings_become_few_packets_that_pass_any_network(make: Any, statsd: StatsD) -> None:
    metrics = make("127.0.0.1", statsd.port)
    computed = []
    metrics.timings_ms("ack_ms", (computed.append(number) or float(number) for number in range(5000)))
    metrics.timings_ms("ack_ms", iter([99999.0]))
    metrics.flush()
    statsd.hear()
    sent = re.findall(rb"[:]([\d.]+)\|ms", b"\n".join(statsd.packets))
    # Beyond what is kept, nothing is even computed.
    assert len(sent) == len(computed) == 200
    assert len(statsd.packets) < 4
    assert max(map(len, statsd.packets)) <= 1400


@pytest.mark.parametrize("timings", [1, 100, 200])  # one packet, two, three
@pytest.mark.parametrize("host", ["no-such-host.invalid", "127.0.0.1"])
def test_without_a_statsd_nobody_notices_but_a_counter(make: Any, statsd: StatsD, host: str, timings: int) -> None:
    # Given a StatsD that is away, or whose host has no address; the kernel tells of it between packets, or afterwards
    statsd.away()
    metrics = make(host, statsd.port)
    # When figures are sent again and again
    for _ in range(20):
        metrics.count("votes")
        metrics.timings_ms("ack_ms", [1000.0] * timings)
        metrics.timings_ms("screen_ms", [1000.0] * (timings // 2))
        metrics.flush()
    # Then nothing was raised; and when StatsD is back, and its host's name known, it hears how often it was missed
    statsd.back()
    metrics._settings = msgspec.structs.replace(metrics._settings, statsd_host="127.0.0.1")
    metrics._open_until = 0.0
    metrics.count("votes", 5)
    metrics.flush()
    heard = statsd.hear()
    assert heard["votemill.node.metrics.not_sent"] == "20|c"
    assert heard["votemill.node.votes"] == "5|c"
    statsd.packets.clear()
    metrics.flush()
    assert statsd.hear() == {}


def test_switched_off_nothing_is_kept_and_nothing_sent(make: Any) -> None:
    metrics = make("")
    for number in range(1000):
        metrics.count("votes")
        metrics.timing_ms("ack_ms", number)
        metrics.gauge("rooms", number)
    taken = metrics.take()
    metrics.send(taken)
    assert (taken.counts, taken.gauges, taken.timings) == ({}, {}, {})


def test_a_name_that_is_not_listed_is_noticed_at_once(make: Any) -> None:
    metrics = make("127.0.0.1", 9)
    for use in (
        lambda: metrics.count("voted"),
        lambda: metrics.gauge("room", 1),
        lambda: metrics.timing_ms("ack", 1),
        lambda: metrics.count("refusals.Not Listed"),
    ):
        with pytest.raises(AssertionError):
            use()
