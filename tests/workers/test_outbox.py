"""The outbox when its login fails."""

import msgspec
import pytest

from models.runtime.settings import Settings
from tests.workers.conftest import eventually
from workers.metrics import WorkerMetrics
from workers.outbox import Outbox, Unconfirmed


@pytest.mark.proves("FR-024")
def test_a_login_that_fails_is_told_and_another_account_used_the_next_time(settings: Settings) -> None:
    stranger = msgspec.structs.replace(settings.broker, url=settings.broker.url.replace("://", "://nobody-", 1))
    outbox = Outbox(msgspec.structs.replace(stranger, publish_timeout_s=1), WorkerMetrics(settings, "test"), "test")
    told: list[str] = []
    outbox.on_failed_login = lambda: told.append("failed")
    outbox.start()
    try:
        with pytest.raises(Unconfirmed):
            outbox.send_confirmed("amq.fanout", "", b"for nobody")
        assert told
        outbox.use(settings.broker)
        eventually(lambda: sent(outbox))
    finally:
        outbox.close()


def sent(outbox: Outbox) -> bool:
    try:
        outbox.send_confirmed("amq.fanout", "", b"for nobody")
    except Unconfirmed:
        return False
    return True
