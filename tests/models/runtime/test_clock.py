"""The shared time, by a monotonic clock and a wall clock handed in."""

import pytest

from models.runtime.clock import SharedClock

SECOND_US = 1_000_000
NOON_US = 1_800_000_000 * SECOND_US


class Machine:
    """Its clocks, in microseconds, and the shared clock that a process keeps there."""

    def __init__(self, wall_us: int = NOON_US) -> None:
        self.monotonic_us, self.wall_us = 5_000_000, wall_us
        self.clock = SharedClock(lambda: self.monotonic_us * 1000, lambda: self.wall_us * 1000)

    def passes(self, s: float) -> None:
        self.monotonic_us += round(s * SECOND_US)
        self.wall_us += round(s * SECOND_US)

    def measure(self, ahead_us: int, took_us: int = 200, error_us: float = 0) -> None:
        """The shared time is so much ahead of noon plus this machine's running time."""
        asked_ns = self.monotonic_us * 1000
        self.monotonic_us += took_us
        there_us = NOON_US + ahead_us + self.monotonic_us - took_us // 2
        self.clock.learn(there_us, asked_ns, self.monotonic_us * 1000, error_us)

    def ahead_us(self) -> int:
        return self.clock.now_us() - NOON_US - self.monotonic_us


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_before_the_first_measurement_the_wall_clock_is_the_guess_and_known_to_be_one(machine: Machine) -> None:
    assert machine.clock.now_us() == machine.wall_us
    assert machine.clock.error_us() is None


@pytest.mark.parametrize("off_s", [2, -2, 600, -600, 40 * 86_400, -86_400])
def test_after_a_measurement_the_wall_clock_changes_nothing(off_s: int) -> None:
    # Given a machine whose wall clock is wrong, and whose process has guessed by it
    machine = Machine(wall_us=NOON_US + off_s * SECOND_US)
    machine.clock.now_us()
    # When it measures, its wall clock is set back and forth, and time passes
    machine.measure(ahead_us=0)
    for step_s in (-600, 4000):
        machine.wall_us += step_s * SECOND_US
        machine.passes(1)
        # Then it has the shared time
        assert machine.ahead_us() == 0


def test_the_error_is_half_of_the_round_trip_and_grows_until_the_next(machine: Machine) -> None:
    machine.measure(ahead_us=0, took_us=10_000, error_us=300)
    assert machine.clock.error_us() == pytest.approx(5_301, abs=1)
    machine.passes(10)
    assert machine.clock.error_us() == pytest.approx(6_301, abs=1)
    machine.measure(ahead_us=0, took_us=200)
    assert machine.clock.error_us() == pytest.approx(101, abs=1)


def test_a_better_measurement_is_kept_while_worse_ones_agree_with_it(machine: Machine) -> None:
    machine.measure(ahead_us=0, took_us=200)
    machine.passes(1)
    machine.measure(ahead_us=20_000, took_us=50_000)
    assert machine.ahead_us() == 0
    # It is old at last
    machine.passes(300)
    machine.measure(ahead_us=10_000, took_us=50_000)
    assert machine.ahead_us() == 10_000


def test_a_clock_that_was_set_is_believed_when_nothing_speaks_for_the_old_time_any_more(machine: Machine) -> None:
    # Given a time that was measured, and a moment in which another is told
    machine.measure(ahead_us=0)
    machine.passes(1)
    machine.measure(ahead_us=600 * SECOND_US)
    machine.passes(1)
    machine.measure(ahead_us=0)
    # Then it makes no difference
    assert machine.ahead_us() == 0
    # When it is told again and again
    for _ in range(4):
        assert machine.ahead_us() == 0
        machine.passes(1)
        machine.measure(ahead_us=600 * SECOND_US)
    # Then it holds
    assert machine.ahead_us() == 600 * SECOND_US


def test_time_waits_where_it_would_have_to_go_back(machine: Machine) -> None:
    # Given a time that turns out to be five seconds ahead
    machine.measure(ahead_us=0)
    latest = machine.clock.now_us()
    for _ in range(4):
        machine.passes(1)
        latest = machine.clock.now_us()
        machine.measure(ahead_us=-5 * SECOND_US)
    # Then it stands still for as long, and goes on
    for _ in range(3):
        assert machine.clock.now_us() == latest
        machine.passes(1)
    machine.passes(3)
    assert machine.ahead_us() == -5 * SECOND_US
