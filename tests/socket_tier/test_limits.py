"""Rate limits as one node decides them, with the clock handed in where time matters."""

import gc
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from models.runtime.settings import BudgetSettings, LimitSettings, load
from socket_tier import limits as module
from socket_tier.limits import Allowance, Bucket, Limits, SessionVotes
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import RateLimited

ADDRESS, OTHER = "192.0.2.1", "192.0.2.2"
ROOM = "ABC234"


@pytest.mark.proves("FR-009", "US2.2", "SC-011")
def test_a_session_is_refused_from_its_eleventh_vote_in_ten_seconds() -> None:
    # Given somebody who votes ten times in nine seconds
    votes = SessionVotes(10, 10)
    assert [votes.wait_s(100 + second) for second in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)] == [0.0] * 10
    # When the eleventh comes before the first is ten seconds old
    # Then it waits until then
    assert votes.wait_s(109.5) == pytest.approx(0.5)
    # And being refused costs nothing: one more is taken for each that is ten seconds old
    assert votes.wait_s(110) == 0
    assert votes.wait_s(110.5) == pytest.approx(0.5)
    assert votes.wait_s(111) == 0


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    # Given a bucket of three that is refilled twice a second
    bucket = Bucket(BudgetSettings(burst=3, per_s=2))
    # When four ask at once
    waits = [bucket.wait_s(100.0) for _ in range(4)]
    # Then the fourth waits half a second
    assert waits == [0, 0, 0, 0.5]
    # And is given its token then, and not a moment before
    assert bucket.wait_s(100.25) == pytest.approx(0.25)
    assert bucket.wait_s(100.5) == 0
    assert bucket.wait_s(100.5) == pytest.approx(0.5)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = Bucket(BudgetSettings(burst=2, per_s=1000))
    assert bucket.wait_s(0.0) == 0
    assert [bucket.wait_s(1_000_000.0) > 0 for _ in range(3)] == [False, False, True]


@dataclass
class Stage:
    """Limits of which some are small, and a clock that only ``passes``."""

    limits: Limits
    now: float = 1000.0

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.limits.refill(self.now)


def limits_of(**changes: Any) -> Limits:
    settings = load()
    changed: LimitSettings = msgspec.structs.replace(settings.limits, **{"unlimited": False, **changes})
    return Limits(changed, NodeMetrics(settings.metrics, "node", "test"))


@pytest.fixture
def stage() -> Stage:
    few = {name: BudgetSettings(burst=2, per_s=0.5) for name in ("polls_per_address", "joins_per_room")}
    votes = {name: BudgetSettings(burst=100, per_s=10) for name in ("votes_per_address", "votes_per_room")}
    stage = Stage(limits_of(**few, **votes))
    stage.passes(0)
    return stage


@pytest.mark.proves("FR-009", "US2.2")
def test_one_address_doesnt_use_up_anothers_share(stage: Stage) -> None:
    limits = stage.limits
    for _ in range(2):
        limits.create_poll(ADDRESS)
    with pytest.raises(RateLimited) as refused:
        limits.create_poll(ADDRESS)
    assert 0 < refused.value.retry_after_s <= 2
    assert refused.value.status == 429
    assert (refused.value.limit, refused.value.most, refused.value.window_s) == ("polls-per-address", 2, 4)
    limits.create_poll(OTHER)
    limits.join(ADDRESS)


@pytest.mark.proves("FR-009")
def test_an_allowance_comes_back_with_time(stage: Stage) -> None:
    limits = stage.limits
    for _ in range(2):
        limits.new_participant(ROOM)
    stage.passes(1)
    with pytest.raises(RateLimited):
        limits.new_participant(ROOM)
    stage.passes(1)
    limits.new_participant(ROOM)
    with pytest.raises(RateLimited):
        limits.new_participant(ROOM)
    stage.passes(3600)
    for _ in range(2):
        limits.new_participant(ROOM)
    with pytest.raises(RateLimited):
        limits.new_participant(ROOM)


@pytest.mark.proves("FR-009")
def test_a_room_or_address_at_its_limit_takes_nothing_from_the_session(stage: Stage) -> None:
    limits = stage.limits
    own, address, room = SessionVotes(1, 10), limits.address_votes(ADDRESS), limits.room_votes(ROOM)
    # Given a room whose votes are used up by others
    for _ in range(100):
        limits.vote(None, limits.address_votes(OTHER), room)
    # When somebody else votes there
    with pytest.raises(RateLimited) as refused:
        limits.vote(own, address, room)
    # Then the room is named, and neither the session nor the address has lost a vote
    assert refused.value.limit == "votes-per-room"
    stage.passes(0)
    assert address.debt == 0
    limits.vote(own, address, limits.room_votes("XYZ789"))
    # And a session at its own limit takes nothing from the address
    before = address.left
    with pytest.raises(RateLimited) as refused:
        limits.vote(own, address, limits.room_votes("XYZ789"))
    assert (refused.value.limit, address.left) == ("votes-per-session", before)


@pytest.mark.proves("FR-009")
def test_all_sessions_of_an_address_share_its_allowance_also_after_a_pause(stage: Stage) -> None:
    # Given two sessions that have been quiet for long
    first = stage.limits.address_votes(ADDRESS)
    second = stage.limits.address_votes(ADDRESS)
    stage.limits.vote(None, first, stage.limits.room_votes(ROOM))
    for _ in range(3):
        stage.passes(3600)
    assert (first.left, first.wake(), first.left) == (0, True, 100)
    # When the one votes
    first.left -= 1
    # Then the other has less
    assert second.left == 99


@pytest.mark.proves("FR-014")
def test_what_is_kept_of_addresses_is_bounded_and_ends(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_AWAKE", 100)
    limits = stage.limits
    # When requests come from very many addresses
    for number in range(10_000):
        limits.request(f"198.51.{number // 250}.{number % 250}")
    gc.collect()
    # Then only so many are kept
    assert len(limits._awake) == 100
    assert len(limits._known) == 100
    # And none once they have been quiet
    for _ in range(2):
        stage.passes(3600)
    gc.collect()
    assert len(limits._awake) == len(limits._known) == 0


def test_those_who_owe_most_of_their_limit_come_first(stage: Stage) -> None:
    limits = stage.limits
    for _ in range(30):
        limits.request(ADDRESS)  # 30 of 1000
    limits.new_participant(ROOM)  # 1 of 2
    stage.passes(0.4)
    assert [(debtor.policy.name, debtor.debt) for debtor in limits.debtors(5)] == [
        ("joins-per-room", 1),
        ("requests-per-address", 30),
    ]
    assert len(limits.debtors(1)) == 1


def test_who_is_overdrawn_elsewhere_is_refused_here(stage: Stage) -> None:
    # Given a room that other nodes have granted all there is
    limits = stage.limits
    limits.new_participant(ROOM)
    stage.passes(0.4)
    (debtor,) = limits.debtors(5)
    debtor.overdraw()
    # When time passes
    stage.passes(3600)
    # Then it is refused until its debt is paid, and told when that may be
    with pytest.raises(RateLimited) as refused:
        limits.new_participant(ROOM)
    assert refused.value.retry_after_s == 2
    debtor.overdrawn = False
    stage.passes(2)
    limits.new_participant(ROOM)


@pytest.mark.proves("FR-009", "FR-014")
def test_the_rooms_of_one_address_have_a_limit_for_the_day_too(stage: Stage) -> None:
    # Given an address that creates polls all day, within what it may in a moment
    limits = limits_of(polls_per_address_a_day=BudgetSettings(burst=3, per_s=3 / 86_400))
    for _ in range(3):
        limits.create_poll(ADDRESS)
        stage.passes(3600)
    # Then the next one has to wait for tomorrow, and a neighbour hasn't
    with pytest.raises(RateLimited) as refused:
        limits.create_poll(ADDRESS)
    assert (refused.value.limit, refused.value.most, refused.value.window_s) == ("polls-per-address-a-day", 3, 86_400)
    limits.create_poll(OTHER)


@pytest.mark.proves("FR-009", "FR-014")
def test_an_address_has_so_many_open_sessions_and_no_more() -> None:
    limits = limits_of(open_sessions_per_address=2)
    for _ in range(2):
        limits.connect(ADDRESS)
        limits.session_opened(ADDRESS)
    with pytest.raises(RateLimited) as refused:
        limits.connect(ADDRESS)
    assert (refused.value.limit, refused.value.most) == ("open-sessions-per-address", 2)
    limits.connect(OTHER)
    # When one ends
    limits.session_closed(ADDRESS)
    limits.connect(ADDRESS)
    # Then nothing is remembered of who has none
    limits.session_closed(ADDRESS)
    assert not limits._open_sessions


def test_without_limits_nothing_is_refused() -> None:
    limits = limits_of(unlimited=True, polls_per_address=BudgetSettings(burst=1, per_s=0.1))
    assert limits.session_votes() is None
    assert limits.session_events() is None
    endless: Allowance = limits.address_votes(ADDRESS)
    for _ in range(100):
        limits.create_poll(ADDRESS)
        limits.vote(None, endless, limits.room_votes(ROOM))
    limits.refill(1e9)
    assert limits.debtors(5) == []
