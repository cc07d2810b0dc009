"""scripts/capacity: the arithmetic from measured costs to numbers of servers."""

import msgspec
import pytest

from scripts.benchmarks import capacity, costs
from scripts.benchmarks.capacity import Assumptions, Audience, estimate, node_load
from scripts.benchmarks.costs import Costs, NotMeasured, derive

COST = Costs(
    measured_at="2026-01-01",
    machine={"cores": 2},
    note="invented",
    node_us_per_vote=30,
    worker_us_per_vote=6,
    postgres_us_per_vote=12,
    rabbitmq_us_per_vote=3,
    node_us_per_message=0,
    worker_us_per_message=0,
    postgres_us_per_message=0,
    rabbitmq_us_per_message=0,
    node_us_per_frame=10,
    node_us_per_join=500,
    node_us_per_idle_second=1,
    node_kb_per_connection=30,
)


def test_a_small_audience_needs_one_of_each_and_a_cluster_of_three():
    result = estimate(Audience(voters=500, rooms=5, burst_s=10), COST)
    assert (result.of("nodes").count, result.of("workers").count, result.of("brokers").count) == (1, 1, 3)


def test_slow_voting_is_bound_by_connections():
    result = estimate(Audience(voters=150_000, rooms=1_500, burst_s=100_000), COST, Assumptions(tick_s=10))
    assert result.of("nodes").count == 10
    assert result.of("nodes").because.startswith("connections")


def test_little_memory_means_more_nodes():
    audience = Audience(voters=150_000, rooms=1_500, burst_s=100_000)
    result = estimate(audience, COST, Assumptions(tick_s=10, node_memory_gb=0.15))
    assert result.of("nodes").count == 30


@pytest.mark.parametrize("burst_s", [0.2, 0.5])
def test_a_burst_is_bound_by_cpu_and_one_node_less_would_not_do(burst_s):
    audience, assumed = Audience(voters=1_000_000, rooms=100, burst_s=burst_s), Assumptions()
    count = estimate(audience, COST, assumed).of("nodes").count
    assert node_load(audience, COST, assumed, count) <= assumed.busy < node_load(audience, COST, assumed, count - 1)


def test_workers_have_the_time_until_totals_must_be_complete():
    audience = Audience(voters=1_000_000, rooms=100, burst_s=2)
    assert estimate(audience, COST, Assumptions(settle_s=3)).of("workers").count == 2  # 200 000/s x 6 µs / 60 %
    assert estimate(audience, COST, Assumptions(settle_s=0)).of("workers").count == 5


def test_votes_that_come_alone_cost_a_message_each():
    cost = msgspec.structs.replace(COST, worker_us_per_message=600, rabbitmq_us_per_message=500)
    slow = Audience(voters=600_000, rooms=1_000, burst_s=60)  # 40 nodes by connections, 250 votes/s each
    alone, together = (
        estimate(slow, cost, Assumptions(batch_wait_s=wait_s, settle_s=0, connections_per_node=15_000))
        for wait_s in (0.0, 0.036)
    )
    assert alone.of("nodes").count == together.of("nodes").count == 40
    assert alone.of("workers").count == 11  # 10 000/s x 606 µs / 60 %
    assert together.of("workers").count == 2  # ten votes share a message
    assert alone.of("brokers").count > together.of("brokers").count


def test_under_load_batches_are_larger():
    assumed = Assumptions(batch_wait_s=0.004, busy_votes=32, batch_wait_busy_s=0.01)
    sizes = [round(capacity.votes_per_message(rate, assumed)) for rate in (0, 1_000, 7_000, 10_000, 1_000_000)]
    assert sizes == [1, 5, 29, 101, 500]


def test_one_room_breaks_at_the_row_lock_and_many_at_the_database():
    one = estimate(Audience(voters=1_000_000, rooms=1, burst_s=10), COST).first_to_break
    many = estimate(Audience(voters=10_000_000, rooms=10_000, burst_s=10), COST).first_to_break
    assert (one.what, one.limit) == ("polls", 80_000 * 13)
    assert many.what == "database cores"


def test_the_shipped_costs_are_readable_and_carry_their_origin(capsys):
    assert capacity.main(["--voters", "10000", "--rooms", "100"]) == 0
    shown = capsys.readouterr().out
    assert costs.read().measured_at in shown
    assert "Assumed:" in shown


def test_what_breaks_is_told_and_is_the_exit_status(capsys):
    assert capacity.main(["--voters", "50000000", "--burst-s", "1"]) == 1
    assert "BREAKS" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--voters", "0"], ["--voters", "5", "--burst-s", "0"], ["--rooms", "2"]])
def test_senseless_audiences_are_refused(words):
    with pytest.raises(SystemExit):
        capacity.main(words)


def test_costs_are_medians_of_our_own_turns_and_frames_are_not_counted_twice():
    def turn(side: str, node_us: float, others_us: float = 5.0, messages: int = 10) -> dict[str, object]:
        cpu_us = {"node": node_us, "worker": others_us, "postgres": others_us, "rabbitmq": others_us}
        return {"side": side, "cpu_us": cpu_us, "votes": 1000, "frames": 500, "messages": messages}

    report = {
        "measured_at": "now",
        "machine": {},
        "load_average_at_end": [0.1],
        "durability": "fsync=on",
        "raw": {
            "votes": [turn("votemill", 20.0, 1.0), turn("noop", 99.0)],
            "equal-rate": [turn("votemill", 69.0, 58.0, 108), turn("insert", 999.0, 999.0)],
            "crowd": [turn("votemill", 30.0, 9.0), turn("votemill", 34.0, 9.0), turn("votemill", 31.0, 9.0)],
            "crowd-waves": [{"side": "votemill", "cpu_us": 500.0, "kb": 30.0}],
            "crowd-broadcasts": [{"side": "votemill", "us_per_frame": 8.0, "idle_cores": 0.01, "members": 10_000}],
        },
    }
    derived = derive(report)
    assert (derived.node_us_per_message, derived.worker_us_per_message, derived.rabbitmq_us_per_message) == (500,) * 3
    # Ten votes of a thousand bring their batch's message
    assert (derived.node_us_per_vote, derived.worker_us_per_vote, derived.node_us_per_frame) == (22.0, 4.0, 8.0)
    assert derived.node_us_per_idle_second == 1.0
    assert msgspec.json.decode(msgspec.json.encode(derived), type=Costs) == derived
    with pytest.raises(NotMeasured):
        derive({**report, "raw": {}})
