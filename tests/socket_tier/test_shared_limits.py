"""Two nodes' limits over one Redis, and what holds when it is away."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import pytest

from models.runtime.settings import BudgetSettings, Settings, load
from scripts.stack.ports import LOOPBACK, any_free
from socket_tier.limits import Allowance, Limits
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import RateLimited
from socket_tier.shared_limits import SharedLimits
from tests.models.stalling_proxy import StallingProxy
from tests.socket_tier.waiting import eventually

pytestmark = pytest.mark.usefixtures("redis_url")  # that of the stack, which the settings name
BURST = 10


@dataclass
class Node:
    limits: Limits
    shared: SharedLimits
    counted: list[str]

    def grant(self, address: str, times: int) -> None:
        for _ in range(times):
            self.limits.join(address)

    def refuses(self, address: str) -> bool:
        try:
            self.limits.join(address)
        except RateLimited:
            return True
        return False

    async def round(self) -> None:
        self.limits.refill(time.monotonic())
        await self.shared.pay()

    def allowance(self, address: str) -> Allowance:
        (found,) = [allowance for allowance in self.limits._awake if allowance.subject == address]
        return found


@asynccontextmanager
async def node(per_s: float = 0.001, redis_url: str | None = None) -> AsyncIterator[Node]:
    settings: Settings = load()
    few = msgspec.structs.replace(
        settings.limits, unlimited=False, joins_per_address=BudgetSettings(burst=BURST, per_s=per_s)
    )
    redis = msgspec.structs.replace(settings.redis, url=redis_url or settings.redis.url)
    counted: list[str] = []
    metrics = NodeMetrics(settings.metrics, "node", "test")
    metrics.count = lambda name, by=1: counted.append(name)  # type: ignore[method-assign, assignment]
    limits = Limits(few, metrics)
    shared = SharedLimits(redis, limits, metrics)
    try:
        yield Node(limits, shared, counted)
    finally:
        await shared.close()


@pytest.fixture
def address() -> str:
    """Nobody has been seen there before."""
    return f"test-{uuid4().hex}"


@pytest.mark.proves("FR-009", "FR-030")
async def test_what_one_node_has_granted_counts_on_the_other(address: str) -> None:
    async with node() as one, node() as other:
        # Given an address that has used all but two of its limit at one node
        one.grant(address, BURST - 2)
        await one.round()
        # When it goes to another, which knows nothing of that
        other.grant(address, 3)
        await other.round()
        # Then it is refused there from the next round on
        assert other.refuses(address)
        # And a second address isn't
        assert not other.refuses(f"{address}-neighbour")


@pytest.mark.proves("FR-009")
async def test_a_node_with_much_to_pay_pays_what_fits(address: str) -> None:
    async with node() as one, node() as other:
        one.grant(address, 6)
        other.grant(address, 7)
        await one.round()
        await other.round()
        assert (other.allowance(address).debt, other.allowance(address).overdrawn) == (7, True)
        # When the next round comes
        await other.round()
        # Then the four that are left of ten are paid, and three are owed
        assert (other.allowance(address).debt, other.allowance(address).overdrawn) == (3, True)


@pytest.mark.proves("FR-009")
async def test_a_refused_address_is_let_in_again_when_the_window_has_passed(address: str) -> None:
    async with node(per_s=BURST) as one, node(per_s=BURST) as other:
        one.grant(address, BURST)
        other.grant(address, BURST)
        await one.round()
        await other.round()
        assert other.refuses(address)

        async def let_in() -> bool:
            await other.round()
            return not other.refuses(address)

        await eventually(let_in, "let in again")


@pytest.mark.proves("FR-009", "FR-038")
async def test_without_redis_each_node_limits_by_itself(address: str) -> None:
    async with node(redis_url=f"redis://{LOOPBACK}:{any_free()}/0") as alone:
        alone.grant(address, BURST - 1)
        await alone.round()
        # Then it is counted, nobody is refused for it, and the local limit holds
        assert alone.counted == ["limits.not_shared"]
        assert not alone.refuses(address)
        assert alone.refuses(address)
        # And Redis isn't asked again at once
        await alone.round()
        assert alone.counted.count("limits.not_shared") == 1


@pytest.mark.proves("FR-009", "FR-037")
async def test_a_hung_redis_ends_a_round_and_what_was_owed_is_forgiven(address: str, redis_url: str) -> None:
    target = urlsplit(redis_url)
    assert target.hostname is not None and target.port is not None
    with StallingProxy(target.hostname, target.port) as proxy:
        through_proxy = redis_url.replace(f"{target.hostname}:{target.port}", f"{LOOPBACK}:{proxy.port}")
        async with node(redis_url=through_proxy) as alone:
            alone.grant(address, 2)
            await alone.round()
            assert alone.counted == []
            alone.grant(address, 2)
            proxy.stall()
            await alone.round()
            assert alone.counted == ["limits.not_shared"]
            assert alone.allowance(address).debt == 0
