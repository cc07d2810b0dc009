"""What is written of security events, and how little of an attack, with the clock handed in."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import pytest

from models.runtime.settings import load
from models.wire.commands import AuditEntry, RecordAudit
from socket_tier.audit import Audit
from socket_tier.metrics import NodeMetrics
from socket_tier.refusals import BrokerUnavailable, Invalid, RateLimited, poll_not_found

ADDRESS = "192.0.2.1"


@dataclass
class Stage:
    """An audit log with a budget of five and one a second, a clock, and the broker's end of the queue."""

    now: float = 1000.0
    broker_away: bool = False
    stored: list[AuditEntry] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = load()
        few = msgspec.structs.replace(settings.audit, entries_burst=5, entries_per_s=1, coalesce_s=10)
        metrics = NodeMetrics(settings.metrics, "node", "test")
        metrics.count = self.counted.__setitem__  # type: ignore[method-assign, assignment]
        self.audit = Audit(self, few, metrics, clock=lambda: self.now)  # type: ignore[arg-type]

    async def send(self, command: RecordAudit) -> None:
        if self.broker_away:
            raise BrokerUnavailable
        self.stored += command.entries

    async def passes(self, seconds: float) -> list[AuditEntry]:
        """Let time pass; what was stored meanwhile."""
        before = len(self.stored)
        self.now += seconds
        await self.audit.send()
        return self.stored[before:]


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="votemill.security"):
        yield caplog


@pytest.mark.proves("FR-012")
async def test_an_event_is_in_the_log_at_once_and_in_the_table_soon(
    stage: Stage, logged: pytest.LogCaptureFixture
) -> None:
    stage.audit.note("invalid_host_token", outcome="refused", action="join", room_code="ABC234", address=ADDRESS)
    (record,) = logged.records
    assert (record.message, record.room_code, record.levelname) == ("invalid_host_token", "ABC234", "WARNING")  # type: ignore[attr-defined]
    (entry,) = await stage.passes(1)
    assert (entry.event, entry.action, entry.room_code, entry.outcome) == (
        "invalid_host_token",
        "join",
        "ABC234",
        "refused",
    )


@pytest.mark.proves("FR-012")
async def test_an_address_is_kept_only_as_a_hash_that_its_key_makes(
    stage: Stage, logged: pytest.LogCaptureFixture
) -> None:
    stage.audit.note("invalid_input", outcome="refused", address=ADDRESS)
    stage.audit.note("invalid_input", outcome="refused", address="192.0.2.2")
    one, other = await stage.passes(1)
    assert one.address == stage.audit.hashed(ADDRESS) != other.address
    assert ADDRESS not in repr((one, [vars(record) for record in logged.records]))


@pytest.mark.proves("FR-012", "FR-014")
async def test_what_is_repeated_is_written_once_and_then_counted(
    stage: Stage, logged: pytest.LogCaptureFixture
) -> None:
    # Given somebody who tries the same a thousand times
    for _ in range(1000):
        stage.audit.note("invalid_input", outcome="refused", action="invalid_nickname", address=ADDRESS)
    assert len(await stage.passes(1)) == len(logged.records) == 1
    # When it is summed up
    (summary,) = await stage.passes(9)
    # Then the rest is one entry, and the next try is news again
    assert (summary.event, summary.details) == ("invalid_input", {"repeated": "999"})
    stage.audit.note("invalid_input", outcome="refused", action="invalid_nickname", address=ADDRESS)
    assert len(await stage.passes(0)) == 1
    # And a single event is not written twice
    assert await stage.passes(20) == []


@pytest.mark.proves("FR-012", "FR-014")
async def test_an_attack_from_everywhere_fills_no_disk_and_hides_no_host(
    stage: Stage, logged: pytest.LogCaptureFixture
) -> None:
    # Given tries from ten thousand addresses at once
    for number in range(10_000):
        stage.audit.note("rate_limited", outcome="refused", address=f"198.51.{number // 250}.{number % 250}")
    # When a host acts meanwhile
    stage.audit.note("poll_created", outcome="ok", room_code="ABC234", address=ADDRESS)
    # Then there is the budget's five, and the host
    written = await stage.passes(1)
    assert [entry.event for entry in written] == ["rate_limited"] * 5 + ["poll_created"]
    # And how many there were of the rest
    (summary,) = await stage.passes(10)
    assert (summary.event, summary.details) == ("audit_over_budget", {"rate_limited": "9995"})
    assert len(logged.records) == 7
    assert await stage.passes(20) == []


@pytest.mark.proves("FR-012", "SC-009")
async def test_what_must_be_on_record_needs_no_budget_and_is_durable_or_refused(stage: Stage) -> None:
    for _ in range(20):
        await stage.audit.record("deployment", outcome="ok", action="staging votemill:1", address=ADDRESS, by="a\x00b")
    assert [entry.details for entry in stage.stored] == [{"by": "a\ufffdb"}] * 20
    stage.broker_away = True
    with pytest.raises(BrokerUnavailable):
        await stage.audit.record("deployment", outcome="ok", action="staging votemill:1", address=ADDRESS)


async def test_what_a_host_does_twice_is_written_twice(stage: Stage) -> None:
    for _ in range(2):
        stage.audit.note("state_change_asked", outcome="ok", action="open", room_code="ABC234")
    assert len(await stage.passes(1)) == 2


async def test_entries_wait_for_no_broker_and_are_counted(stage: Stage, logged: pytest.LogCaptureFixture) -> None:
    stage.broker_away = True
    stage.audit.note("invalid_input", outcome="refused", address=ADDRESS)
    assert await stage.passes(1) == []
    assert stage.counted == {"audit.not_stored": 1}
    assert logged.records[0].message == "invalid_input"


async def test_what_merely_cant_be_done_now_is_no_security_event(stage: Stage) -> None:
    for refusal in (poll_not_found(), BrokerUnavailable(), Invalid("Room is full", "room_full", status=409)):
        stage.audit.refusal(refusal, ADDRESS)
    assert await stage.passes(1) == []
    stage.audit.refusal(RateLimited(1, "polls-per-address", 20, 40), ADDRESS)
    stage.audit.refusal(Invalid("Invalid nickname", "invalid_nickname"), ADDRESS)
    assert [(entry.event, entry.action) for entry in await stage.passes(1)] == [
        ("rate_limited", "polls-per-address"),
        ("invalid_input", "invalid_nickname"),
    ]
