"""What single keys can't show: settings that are each valid but don't go together, or not in this environment."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from models.runtime import tls
from models.runtime.signing_keys import KeysUnusable

if TYPE_CHECKING:
    from models.runtime.settings import Settings

DEPLOYED = ("staging", "production")
_IMPLIED_PORTS = {"http": ":80", "https": ":443"}
_OF_NO_VALUE = "development-"  # how the secrets in settings.toml begin

# Name and password without a character that ends them for one library or another; hosts, of PostgreSQL several.
_CODED = r"%[0-9A-Fa-f]{2}"
_NAME, _PASSWORD, _PART = (rf"(?:[^%@/?#\[\]\s{more}]|{_CODED})*" for more in (":", "", ":,"))
_HOST = rf"(?:\[[\w:.%]+\]|{_PART})(?::\d*)?"
_ADDRESS = re.compile(
    rf"\w+://(?:{_NAME}(?::{_PASSWORD})?@)?{_HOST}(?:,{_HOST})*(?:[/?](?:[^%@\s]|{_CODED})*)?", re.ASCII
)

_SESSION_ATTRS = re.compile(r"[?&]target_session_attrs=([^&]*)")
_WRITABLE_SESSIONS = ("read-write", "primary")

# After its sockets are gone a node still settles votes and confirms, and a worker its last transaction; each step has a
# limit of its own, and these are their sums, in seconds.
NODE_STOPS_WITHIN_S = 25
WORKER_STOPS_WITHIN_S = 20

_CONSUMER_TIMEOUT_S = 1800  # RabbitMQ closes the channel of a consumer that holds a message for longer
_TIME_LIMIT_BEYOND_HOLD_S = 60
_DAY_S = 86_400


def contradictions(settings: Settings) -> list[str]:
    """One line for each, beginning with the key to change."""
    production = settings.environment == "production"
    problems = [*_addresses(settings)]
    if not problems:  # else a part of a password could be taken for a host, and be told
        problems += tls.contradictions("database", settings.database, production)
        problems += tls.contradictions("broker", settings.broker, production)
        problems += tls.contradictions("redis", settings.redis, production)
        problems += tls.contradictions("nomad", settings.nomad, production)
    problems += [*_edge(settings), *_times(settings), *_sizes(settings), *_scaling(settings)]
    if settings.alerts.mail_to and not (settings.alerts.mail_from and settings.alerts.mail_server):
        problems.append("alerts.mail_to: needs alerts.mail_from and alerts.mail_server")
    if settings.environment in DEPLOYED:
        problems += _deployed(settings)
    if production and settings.limits.unlimited:
        problems.append("limits.unlimited: refused in production")
    return problems


def _addresses(settings: Settings) -> Iterator[str]:
    """What a library would take for something else, and tell in an error: a piece of a password as host or port."""
    addresses = [("database.url", settings.database.url), ("database.replica_url", settings.database.replica_url)]
    addresses += [("broker.url", url) for url in settings.broker.urls] + [("redis.url", settings.redis.url)]
    for key, url in addresses:
        if url and not _ADDRESS.fullmatch(url):
            yield f"{key}: in a name or password, characters such as @ / ? # [ ] % must be percent-encoded"
    if (wanted := _SESSION_ATTRS.search(settings.database.url)) and wanted[1] not in _WRITABLE_SESSIONS:
        yield "database.url: target_session_attrs must be read-write (the default) or primary, since votes are written"


def _edge(settings: Settings) -> Iterator[str]:
    security = settings.security
    if not security.all_origins:
        yield "security.origins: an empty list would switch origin checks off; name the allowed origins"
    if len({key.key for key in security.listed_keys}) < len(security.listed_keys):
        yield "security.signing_keys: the same key stands there twice"
    for origin in security.all_origins:
        if origin.endswith(_IMPLIED_PORTS[origin.partition(":")[0]]):
            yield f"security.origins: browsers leave the port of {origin} out"
    try:
        security.key_ring()
    except KeysUnusable as error:
        yield f"security.signing_keys_file: {error}"
    for network in security.trusted_proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            yield f"security.trusted_proxies: {error}"
    if security.token_max_age_s < settings.poll.retention_days * _DAY_S:
        yield "security.token_max_age_s: must cover poll.retention_days, or a poll outlives its host's token"
    if settings.database.replica_url == settings.database.url:
        yield "database.replica_url: must name a standby, not the primary of database.url"


def _times(settings: Settings) -> Iterator[str]:
    node, worker, database = settings.node, settings.worker, settings.database
    if node.kill_timeout_s < node.drain_s + NODE_STOPS_WITHIN_S:
        yield f"node.kill_timeout_s: must be at least node.drain_s + {NODE_STOPS_WITHIN_S}, or a drain ends in a kill"
    if worker.kill_timeout_s < worker.shutdown_s + WORKER_STOPS_WITHIN_S:
        yield f"worker.kill_timeout_s: must be at least worker.shutdown_s + {WORKER_STOPS_WITHIN_S}"
    if database.statement_timeout_s >= database.call_deadline_s:
        yield "database.statement_timeout_s: must be below database.call_deadline_s, so that the server gives up first"
    if database.connect_timeout_s > database.call_deadline_s:
        yield "database.connect_timeout_s: must not exceed database.call_deadline_s"
    if worker.outage_hold_s < database.call_deadline_s:
        yield "worker.outage_hold_s: must be at least database.call_deadline_s"
    elif worker.outage_hold_s + database.call_deadline_s + _TIME_LIMIT_BEYOND_HOLD_S >= _CONSUMER_TIMEOUT_S:
        yield "worker.outage_hold_s: with database.call_deadline_s too near RabbitMQ's consumer time-out of 1800 s"
    if settings.batch.max_wait_s > settings.batch.max_wait_busy_s:
        yield "batch.max_wait_busy_s: must be at least batch.max_wait_s"
    if settings.shed.newcomers_lag_s > settings.shed.votes_lag_s:
        yield "shed.newcomers_lag_s: must not exceed shed.votes_lag_s: votes are shed last"


def _sizes(settings: Settings) -> Iterator[str]:
    node, batch, worker = settings.node, settings.batch, settings.worker
    if settings.poll.options_min > settings.poll.options_max:
        yield "poll.options_min: must not exceed poll.options_max"
    if batch.max_votes > batch.capacity_votes:
        yield "batch.max_votes: must not exceed batch.capacity_votes"
    if worker.merge_votes < batch.max_votes:
        yield "worker.merge_votes: must be at least batch.max_votes, the votes of one message"
    if settings.database.pool_size < worker.threads + 2:
        yield "database.pool_size: must be at least worker.threads + 2, for the flusher and the publisher"
    if node.max_event_bytes > node.max_packet_bytes:
        yield "node.max_event_bytes: must not exceed node.max_packet_bytes"
    if node.slow_client_skip_bytes > node.slow_client_drop_bytes:
        yield "node.slow_client_skip_bytes: must not exceed node.slow_client_drop_bytes"


def _scaling(settings: Settings) -> Iterator[str]:
    scaler = settings.scaler
    for tier, bounds in (("votes", scaler.votes), ("host", scaler.host), ("nodes", scaler.nodes)):
        if bounds.min > bounds.max:
            yield f"scaler.{tier}.min: must not exceed scaler.{tier}.max"
    if scaler.down_after_s < scaler.up_after_s:
        yield "scaler.down_after_s: must be at least scaler.up_after_s: too few is worse than too many"
    if scaler.stale_s < 2 * scaler.interval_s:
        yield "scaler.stale_s: must be at least twice scaler.interval_s, or figures are stale at every look"


def _deployed(settings: Settings) -> Iterator[str]:
    """What is for development only: secrets that everybody knows, and doors that are open."""
    security, environment = settings.security, settings.environment
    if any(key.key.startswith(_OF_NO_VALUE) for key in security.listed_keys) and not security.signing_keys_file:
        yield f"security.signing_keys: the development default is refused in {environment}"
    if settings.audit.address_key.startswith(_OF_NO_VALUE):
        yield f"audit.address_key: the development default is refused in {environment}"
    if any("guest:guest@" in url for url in settings.broker.urls):
        yield f"broker.url: RabbitMQ's default account is refused in {environment}"
    if _trusts_everybody(settings.database.url) and not settings.database.certificate_file:
        yield f"database.url: an account without password or certificate is refused in {environment}"
    if not security.secure_cookies:
        yield f"security.secure_cookies: must be true in {environment}"


def _trusts_everybody(url: str) -> bool:
    """A server on the network that asks for nothing; one behind a Unix socket knows its peer."""
    parts = urlsplit(url)
    return bool(parts.hostname) and not parts.password and "sslcert=" not in parts.query
