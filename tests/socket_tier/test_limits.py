"""Token buckets, with the clock handed in."""

import msgspec
import pytest

from models.runtime.settings import load
from socket_tier.limits import Bucket, Limits
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import RateLimited


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    # Given a bucket of three that is refilled twice a second
    bucket = Bucket(per_s=2, burst=3)
    # When four ask at once
    waits = [bucket.wait_s(100.0) for _ in range(4)]
    # Then the fourth waits half a second
    assert waits == [0, 0, 0, 0.5]
    # And is given its token then, and not a moment before
    assert bucket.wait_s(100.25) == pytest.approx(0.25)
    assert bucket.wait_s(100.5) == 0
    assert bucket.wait_s(100.5) == pytest.approx(0.5)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = Bucket(per_s=1000, burst=2)
    assert bucket.wait_s(0.0) == 0
    assert [bucket.wait_s(1_000_000.0) > 0 for _ in range(3)] == [False, False, True]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    monkeypatch.setenv("VOTEMILL_LIMITS__UNLIMITED", "false")
    settings = load()
    few = msgspec.structs.replace(settings.limits, polls_per_address_per_s=0.5, polls_per_address_burst=2)
    return Limits(few, NodeMetrics(settings.metrics, "node", "test"))


@pytest.mark.proves("FR-009", "US2.2")
def test_one_address_doesnt_use_up_anothers_share(limits: Limits) -> None:
    for _ in range(2):
        limits.create_poll("192.0.2.1")
    with pytest.raises(RateLimited) as refused:
        limits.create_poll("192.0.2.1")
    assert 0 < refused.value.retry_after_s <= 2
    assert refused.value.status == 429
    limits.create_poll("192.0.2.2")
    limits.join("192.0.2.1")


def test_without_limits_nothing_is_refused() -> None:
    settings = load()
    free = msgspec.structs.replace(settings.limits, unlimited=True, polls_per_address_burst=1)
    limits = Limits(free, NodeMetrics(settings.metrics, "node", "test"))
    assert limits.vote_bucket() is None
    for _ in range(100):
        limits.create_poll("192.0.2.1")
