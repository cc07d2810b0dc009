"""TLS to the three servers: our processes speak to none that they don't trust, and say which setting is to blame."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import trustme

from models.database import DatabaseUnavailable, open_database
from models.runtime.certificates import CertificateWatch
from models.runtime.settings import EX_CONFIG
from scripts.stack import certificates, ports
from scripts.stack.data_folders import write_for_server
from scripts.stack.program import pid_file
from scripts.stack.run_folder import ROOT
from scripts.stack.services import rabbitmq
from socket_tier.amqp.link import Link
from socket_tier.metrics import NodeMetrics
from socket_tier.redis_pipeline import RedisPipeline
from socket_tier.refusals import CacheUnavailable
from tests.own_stack import on_own_servers
from tests.secured.conftest import HOST_WORKER, SecuredStack
from tests.socket_tier.waiting import eventually
from workers.metrics import WorkerMetrics
from workers.outbox import Outbox

pytestmark = [on_own_servers, pytest.mark.timeout(300), pytest.mark.proves("FR-024", "FR-028")]

SERVERS = ("database", "broker", "redis")
UNKNOWN_CA = "ca_file: none of these CAs has signed the server's certificate, or it has expired"
EXPIRED = "ca_file: the server's certificate, or one of these, has expired"
OTHER_NAMES = "url: the server's certificate is for other names"
WANTS_OURS = "certificate_file: the server wants a certificate that its own CAs have signed"
TLS_ALONE = "ca_file: must be set if the server takes TLS alone"
PLAIN = {"ca_file": "", "certificate_file": "", "key_file": ""}


class Knocks:
    """Tries to connect as our processes do; what they then say to whoever reads their logs."""

    def __init__(self, stack: SecuredStack, caplog: pytest.LogCaptureFixture) -> None:
        self._settings = stack.settings_of(HOST_WORKER)
        self._caplog = caplog

    def url(self, name: str) -> str:
        url: str = getattr(self._settings, name).url
        return url

    async def at(self, name: str, **changed: Any) -> list[str]:
        """Nothing where everybody gets in."""
        server = msgspec.structs.replace(getattr(self._settings, name), **changed)
        self._caplog.clear()
        return list(filter(None, await getattr(self, f"_{name}")(server)))

    async def until(self, name: str, *, let_in: bool) -> list[str]:
        """Again and again until it is so."""
        for _ in range(600):
            if bool(complaints := await self.at(name)) != let_in:
                return complaints
            await asyncio.sleep(0.05)
        raise AssertionError(f"{name} is as it was: {complaints}")

    async def _database(self, server: Any) -> list[str]:
        database = open_database(server, "test")
        try:
            database.probe()
            return []
        except DatabaseUnavailable as error:
            return [str(error)]
        finally:
            database.close()

    async def _broker(self, server: Any) -> list[str]:
        """A node's link and a worker's outbox."""
        opened = asyncio.Event()
        link = Link(server, "test", on_channel=lambda _channel: opened.set(), on_lost=opened.clear)
        running = asyncio.create_task(link.run())
        await eventually(lambda: opened.is_set() or self._said("broker_connect_failed"), "an answer to the node")
        await link.close()
        await running
        outbox = Outbox(server, WorkerMetrics(self._settings, "test"), "test")
        outbox.start()
        sent = asyncio.create_task(asyncio.to_thread(outbox.send_confirmed, "votemill.nodes", "", b"{}"))
        await eventually(lambda: sent.done() or self._said("outbox_trouble"), "an answer to the worker")
        await asyncio.to_thread(outbox.close)
        await asyncio.gather(sent, return_exceptions=True)
        return [self._said("broker_connect_failed"), self._said("outbox_trouble")]

    async def _redis(self, server: Any) -> list[str]:
        """A node's; workers differ from it in nothing but that they wait for each answer."""
        pipeline = RedisPipeline(server, NodeMetrics(self._settings.metrics, "node", "test"))
        try:
            assert await pipeline.call("PING")
        except CacheUnavailable:
            assert self._said("cache_failed")
        finally:
            await pipeline.close()
        return [self._said("cache_failed")]

    def _said(self, event: str) -> str:
        return next((record.error for record in self._caplog.records if record.message == event), "")  # type: ignore[attr-defined]


@pytest.fixture
def knocks(stack: SecuredStack, caplog: pytest.LogCaptureFixture) -> Knocks:
    return Knocks(stack, caplog)


@contextmanager
def showing(stack: SecuredStack, name: str, good_for: timedelta) -> Iterator[None]:
    """A server that runs on with a certificate that its CA has made for so long from now on."""
    ca_file, ca_key = (certificates.make(stack.folder) / file for file in (certificates.CA, "ca.key"))
    ca = trustme.CA.from_pem(ca_file.read_bytes(), ca_key.read_bytes())
    end = datetime.now(UTC) + good_for
    leaf = ca.issue_cert(ports.LOOPBACK, not_before=end - timedelta(days=90), not_after=end)
    data = (stack.folder.data / {"database": "postgres", "broker": "rabbitmq"}.get(name, name)).resolve()
    made = {".pem": leaf.cert_chain_pems[0].bytes().decode(), ".key": leaf.private_key_pem.bytes().decode()}
    before = {end: (data / f"{certificates.SERVER}{end}").read_text() for end in made}
    # New connections would have to trust what they are to change.
    client = redis.Redis.from_url(stack.env["REDIS_URL"], single_connection_client=True)

    def show(texts: dict[str, str], version: str) -> None:
        for ending, text in texts.items():
            write_for_server(data / f"{certificates.SERVER}{ending}", text)
            write_for_server(data / f"{version}{ending}", text)
        if name == "database":
            os.kill(int(pid_file(stack.folder, "postgres").read_text()), signal.SIGHUP)
        elif name == "broker":
            assert rabbitmq.run_ctl(stack.folder, ["eval", "ssl:clear_pem_cache()."]) == 0
        else:
            files = [f"{data}/{version}{ending}" for ending in texts]
            client.execute_command("CONFIG", "SET", "tls-cert-file", files[0], "tls-key-file", files[1])

    try:
        client.ping()
        show(made, "other")
        yield
    finally:
        show(before, "first")
        client.close()


@pytest.mark.parametrize("name", SERVERS)
async def test_who_shows_what_the_other_side_trusts_gets_in(knocks: Knocks, name: str) -> None:
    assert await knocks.at(name) == []


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_of_an_unknown_ca_is_not_spoken_to(knocks: Knocks, tmp_path: Path, name: str) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    complaints = await knocks.at(name, ca_file=str(tmp_path / "ca.pem"))
    assert complaints and all(f"{name}.{UNKNOWN_CA}" in complaint for complaint in complaints)


@pytest.mark.parametrize("name", SERVERS)
async def test_a_certificate_for_another_name_is_not_enough(knocks: Knocks, name: str) -> None:
    complaints = await knocks.at(name, url=knocks.url(name).replace(ports.LOOPBACK, "localhost"))
    assert complaints and all(f"{name}.{OTHER_NAMES}" in complaint for complaint in complaints)


@pytest.mark.parametrize("name", SERVERS)
async def test_an_expired_certificate_is_refused(stack: SecuredStack, knocks: Knocks, name: str) -> None:
    with showing(stack, name, timedelta(minutes=-1)):
        complaints = await knocks.until(name, let_in=False)
        # libpq tells no more than that it was not verified
        words = UNKNOWN_CA if name == "database" else EXPIRED
        assert complaints and all(f"{name}.{words}" in complaint for complaint in complaints)
        # ... so the settings' own check does
        check = [sys.executable, "-m", "scripts.configuration", "check", "--servers"]
        env = stack.given_to(HOST_WORKER) | {"PATH": os.environ["PATH"]}
        done = await asyncio.to_thread(subprocess.run, check, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == EX_CONFIG and f"{name}.{EXPIRED}" in done.stdout, done
    await knocks.until(name, let_in=True)


@pytest.mark.parametrize("name", SERVERS)
async def test_plain_text_is_refused_where_tls_is_required(knocks: Knocks, name: str) -> None:
    # psycopg2 tries TLS by itself unless it is told not to
    url = knocks.url(name).replace("amqps:", "amqp:").replace("rediss:", "redis:")
    complaints = await knocks.at(name, **PLAIN, url=url + ("?sslmode=disable" if name == "database" else ""))
    assert complaints and all(f"{name}.{TLS_ALONE}" in complaint for complaint in complaints)


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_that_wants_our_certificate_takes_nobody_without_it(knocks: Knocks, name: str) -> None:
    # The end of the connection can overtake its reason, but not each time
    for _ in range(50):
        complaints = await knocks.at(name, certificate_file="", key_file="")
        assert complaints
        if any(f"{name}.{WANTS_OURS}" in complaint for complaint in complaints):
            return
    raise AssertionError(complaints)


async def test_a_server_without_tls_is_not_spoken_to(knocks: Knocks, base_url: str) -> None:
    # The balancer answers in plain text, as a broker or Redis without TLS would
    address = base_url.removeprefix("http://")
    (complaint,) = await knocks.at("redis", url=f"rediss://{address}/0")
    assert "redis.ca_file: is set, but the server speaks no TLS" in complaint


def test_a_connection_is_kept_and_used_again(stack: SecuredStack) -> None:
    """Were a ticket of the TLS session taken for the server's goodbye, each transaction would connect anew."""
    database = open_database(stack.settings_of(HOST_WORKER).database, "test")
    backends = set()
    for _ in range(5):
        with database.transaction():
            backends.add(database.execute("SELECT pg_backend_pid()").fetchone()[0])
    database.close()
    assert len(backends) == 1


@pytest.mark.proves("FR-017")
def test_a_gauge_tells_how_long_certificates_are_good(stack: SecuredStack, caplog: pytest.LogCaptureFixture) -> None:
    settings = stack.settings_of(HOST_WORKER)
    servers = {name: getattr(settings, name) for name in SERVERS}
    # Given a certificate that is good for ten days more
    with showing(stack, "redis", timedelta(days=10)):
        gauges: dict[str, float] = {}
        CertificateWatch(servers, gauges.__setitem__).round()
    # Then a gauge says so, for each server
    assert set(gauges) == {"tls.database_days_left", "tls.broker_days_left", "tls.redis_days_left"}
    assert 9.9 < gauges["tls.redis_days_left"] <= 10 < gauges["tls.broker_days_left"]
    assert not caplog.records
    # And of one that has expired the log tells
    with showing(stack, "redis", timedelta(minutes=-1)):
        CertificateWatch(servers, gauges.__setitem__).round()
    assert [record.error for record in caplog.records if EXPIRED in record.error]  # type: ignore[attr-defined]
