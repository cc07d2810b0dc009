"""How many there should be: within the limits, without going to and fro, and never fewer for more load."""

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.runtime.settings import BoundsSettings, ScalerSettings, load
from models.wire.loads import NodeLoad
from models.wire.notices import WorkerHeartbeat
from scripts.scaling.decision import Decision, Load, Memory, decide
from scripts.scaling.figures import Unknown, of_nodes, of_workers

pytestmark = pytest.mark.proves("FR-029", "SC-012")

RULES: ScalerSettings = msgspec.structs.replace(
    load(environment="test").scaler, up_after_s=10.0, down_after_s=100.0, step_up=1.0, hysteresis=0.2
)
BOUNDS = BoundsSettings(min=1, max=20)
LONG_AGO = Memory(pressed_since=-1e9, relieved_since=-1e9)

pressures = st.floats(0, 1e6) | st.just(math.inf)
counts = st.integers(0, 60)
times = st.none() | st.floats(0, 1000)
loads = st.builds(Load, counts, pressures, pressures, st.sampled_from(["", "one does not report"]))
bounds = st.tuples(st.integers(1, 20), st.integers(0, 20)).map(lambda pair: BoundsSettings(pair[0], sum(pair)))


def of(work: float, count: int) -> Load:
    """What so much work is for each of ``count``; one does 1."""
    return Load(count, work / count, work / (count - 1) if count > 1 else math.inf)


def run(work: float, count: int, bounds: BoundsSettings = BOUNDS, looks: int = 2000) -> list[int]:
    """The counts, look by look, while the work stays the same."""
    memory, seen = Memory(), [count]
    for look in range(looks):
        decision = decide(of(work, count), bounds, RULES, memory, look * 5.0)
        count, memory = decision.count, decision.memory
        if count != seen[-1]:
            seen.append(count)
    return seen


@given(loads, bounds, st.builds(Memory, times, times), st.floats(0, 2000))
def test_a_decision_never_leads_out_of_the_limits(
    load: Load, bounds: BoundsSettings, memory: Memory, now: float
) -> None:
    decision = decide(load, bounds, RULES, memory, now)
    assert decision.count == load.count or bounds.min <= decision.count <= bounds.max
    assert decision.count >= bounds.min
    if load.incomplete:
        assert decision.count >= load.count


@given(st.floats(0, 40), st.integers(1, 20))
def test_work_that_stays_the_same_is_never_answered_by_to_and_fro(work: float, count: int) -> None:
    seen = run(work, count)
    assert seen in (sorted(seen), sorted(seen, reverse=True))
    assert seen[-1] == 20 or work / seen[-1] <= 1 + RULES.hysteresis


@given(loads, bounds, st.builds(Memory, times, times), st.floats(0, 2000), st.floats(1, 100))
def test_more_load_never_asks_for_fewer(
    load: Load, bounds: BoundsSettings, memory: Memory, now: float, factor: float
) -> None:
    more = replace(load, pressure=load.pressure * factor, with_one_less=load.with_one_less * factor)
    assert decide(more, bounds, RULES, memory, now).count >= decide(load, bounds, RULES, memory, now).count


def test_a_load_that_is_too_high_for_long_is_answered_in_proportion_and_at_most_by_a_step() -> None:
    def decided(pressure: float, count: int) -> int:
        return decide(Load(count, pressure, math.inf), BOUNDS, RULES, LONG_AGO, 0.0).count

    assert [decided(1.19, 4), decided(1.21, 4), decided(1.6, 4), decided(50, 4), decided(50, 15)] == [4, 5, 7, 8, 20]
    assert decided(math.inf, 1) == 2


def test_none_is_taken_away_below_the_least_or_while_something_is_unknown() -> None:
    def decided(load: Load, least: int = 1) -> int:
        return decide(load, BoundsSettings(least, 20), RULES, LONG_AGO, 0.0).count

    assert decided(Load(4, 0.0, 0.0)) == 3
    assert decided(Load(4, 0.0, 0.0), least=4) == 4
    assert decided(Load(4, 0.0, 0.0, "3 of 4 report")) == 4
    assert decided(Load(30, 0.0, 0.0, "3 of 4 report")) == 30
    assert (decided(Load(30, 0.0, 0.0)), decided(Load(1, 9.0, 9.0), least=3)) == (20, 3)


def test_more_come_soon_and_fewer_late() -> None:
    high, low = Load(4, 3.0, 4.0), Load(4, 0.1, 0.13)

    def first_change(load: Load) -> float:
        memory = Memory()
        for second in range(1000):
            decision = decide(load, BOUNDS, RULES, memory, float(second))
            memory = decision.memory
            if decision.count != load.count:
                return second
        pytest.fail("never")

    assert first_change(high) == RULES.up_after_s
    assert first_change(low) == RULES.down_after_s


def test_a_moment_of_load_makes_the_time_of_rest_begin_anew() -> None:
    quiet, busy = Load(4, 0.1, 0.13), Load(4, 1.0, 1.3)
    memory = decide(quiet, BOUNDS, RULES, Memory(), 0.0).memory
    memory = decide(busy, BOUNDS, RULES, memory, 99.0).memory
    again = decide(quiet, BOUNDS, RULES, memory, 101.0)
    assert again.count == 4
    assert decide(quiet, BOUNDS, RULES, again.memory, 202.0) == Decision(3, "one less will do", Memory())


def beat(name: str, waited_s: float | None, cpu: float | None, database: str = "connected") -> list[WorkerHeartbeat]:
    return [WorkerHeartbeat(name, 1, ("votes",), database, 1.0, "connected", waited_s, cpu)]


def test_workers_are_pressed_by_what_waits_long_and_by_how_much_waits() -> None:
    rules = msgspec.structs.replace(RULES, age_target_s=2.0, depth_target=100, worker_cpu_target=0.5)
    beats = [beat("a", 0.5, 0.1), beat("b", 6.0, 0.2)]
    assert of_workers(2, beats, 100, rules).load == Load(2, 3.0, 6.0)
    assert of_workers(2, [beat("a", 0.0, 0.1), beat("b", 0.0, 0.2)], 400, rules).load.pressure == 2.0
    # The others would have to do what the one did
    assert of_workers(2, [beat("a", 0.0, 0.4), beat("b", 0.0, 0.4)], 0, rules).load == Load(2, 0.0, 1.6)


def test_workers_are_taken_away_only_when_all_report() -> None:
    assert of_workers(3, [beat("a", 0.0, 0.0)], 0, RULES).load.incomplete == "1 of 3 workers report"
    assert "earlier version" in of_workers(1, [beat("a", None, None)], 0, RULES).load.incomplete
    with pytest.raises(Unknown, match="no worker reports"):
        of_workers(3, [], 500, RULES)
    with pytest.raises(Unknown, match="b: the database is away"):
        of_workers(2, [beat("a", 9.0, 0.1), beat("b", 0.0, 0.1, "disconnected")], 9000, RULES)


def test_nodes_are_pressed_by_connections_and_by_a_late_event_loop() -> None:
    rules = msgspec.structs.replace(RULES, node_connections_target=100, node_lag_target_s=0.1)
    two = [NodeLoad("node-1", 100, 0.01, False), NodeLoad("node-2", 200, 0.01, False)]
    measured = of_nodes(2, two, 0, rules)
    assert (measured.load.pressure, measured.load.with_one_less) == (1.5, 3.0)
    late = [NodeLoad("node-1", 1, 0.4, False), NodeLoad("node-2", 1, 0.4, False)]
    assert of_nodes(2, late, 0, rules).load.pressure == 4.0


def test_no_node_is_taken_away_while_another_leaves_or_is_silent() -> None:
    staying = NodeLoad("node-1", 1, 0.0, False)
    leaving = NodeLoad("node-2", 1, 0.0, True)
    assert of_nodes(2, [staying, leaving], 0, RULES).load.incomplete == "node-2 is being stopped"
    assert of_nodes(2, [staying], 1, RULES).load.incomplete == "1 of 2 nodes report"
    assert of_nodes(2, [staying, staying], 0, RULES).load.incomplete == ""
    with pytest.raises(Unknown):
        of_nodes(2, [], 2, RULES)
