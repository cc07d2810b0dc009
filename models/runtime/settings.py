"""The only reader of settings.toml and the environment.

Environments (development, test, staging, production) are chosen by ``VOTEMILL_ENV``; a variable such as
``VOTEMILL_BATCH__MAX_VOTES`` overrides ``[batch] max_votes``. Everything is validated at start: all problems are
reported together, with the key and what is expected. What each key means stands beside it in settings.toml.
"""

import ipaddress
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
from dynaconf import Dynaconf
from dynaconf.utils.parse_conf import parse_conf_data
from msgspec import Meta

EX_CONFIG = 78  # sysexits.h
ENVIRONMENTS = ("development", "test", "staging", "production")
SETTINGS_FILE = Path(__file__).resolve().parents[2] / "settings.toml"

Seconds = Annotated[float, Meta(gt=0, le=3600)]
Count = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Text = Annotated[str, Meta(min_length=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of settings.toml."""


class DatabaseSettings(Section):
    url: Annotated[str, Meta(pattern=r"^postgres(ql)?://")]
    replica_url: Annotated[str, Meta(pattern=r"^(postgres(ql)?://.*)?$")]
    replica_max_lag_s: Seconds
    pool_size: Count
    pool_wait_s: Seconds
    connect_timeout_s: Seconds
    statement_timeout_s: Seconds
    call_deadline_s: Seconds


class BrokerSettings(Section):
    url: Annotated[str, Meta(pattern=r"^amqps?://")]
    window_messages: Count
    publish_timeout_s: Seconds
    heartbeat_s: Annotated[int, Meta(ge=2, le=300)]
    reconnect_max_s: Seconds
    reply_timeout_s: Seconds

    @property
    def urls(self) -> list[str]:
        """The addresses in ``url``: one for each broker of a cluster."""
        return [url.strip() for url in self.url.split(",")]


class RedisSettings(Section):
    url: Annotated[str, Meta(pattern=r"^rediss?://|^unix://")]
    timeout_s: Seconds
    reconnect_max_s: Seconds
    room_ttl_s: Count


class NodeSettings(Section):
    name: Text
    host: Text
    port: Port
    public_url: str
    drain_s: Annotated[float, Meta(ge=0, le=600)]
    backlog: Count
    max_packet_bytes: Count
    max_event_bytes: Count
    max_body_bytes: Count
    max_token_chars: Count
    max_command_id_chars: Annotated[int, Meta(ge=1, le=1000)]
    transport: Annotated[str, Meta(pattern="^(direct|stock)$")]
    connect_deadline_s: Seconds
    slow_client_skip_bytes: Count
    slow_client_drop_bytes: Count
    ping_interval_s: Seconds
    ping_timeout_s: Seconds


class BatchSettings(Section):
    max_votes: Annotated[int, Meta(ge=1, le=10_000)]
    max_wait_s: Annotated[float, Meta(ge=0, le=1)]
    busy_votes: Count
    max_wait_busy_s: Annotated[float, Meta(ge=0, le=1)]
    capacity_votes: Count
    receipts: Count


class RoomSettings(Section):
    tick_s: Seconds
    tick_per_member_s: Annotated[float, Meta(ge=0, le=0.01)]
    results_per_s: Count
    announce_up_to: Count
    host_announcements_per_s: Count
    count_interval_s: Seconds
    leave_grace_s: Annotated[float, Meta(ge=0, le=10)]
    max_participants: Count
    negative_cache_s: Seconds
    node_timeout_s: Seconds


class PollSettings(Section):
    question_max: Count
    option_max: Count
    options_min: Annotated[int, Meta(ge=2)]
    options_max: Annotated[int, Meta(ge=2, le=100)]
    nickname_max: Count
    retention_days: Count


class WorkerSettings(Section):
    name: Text
    threads: Annotated[int, Meta(ge=3)]
    prefetch: Count
    vote_threads: Count
    vote_prefetch: Count
    merge_votes: Count
    merge_wait_s: Annotated[float, Meta(ge=0, le=1)]
    tick_s: Seconds
    sweep_s: Seconds
    heartbeat_s: Seconds
    outage_hold_s: Annotated[float, Meta(gt=0, le=1500)]
    straggler_wait_s: Seconds
    shutdown_s: Seconds


class SecuritySettings(Section):
    signing_keys: Annotated[list[Annotated[str, Meta(min_length=32)]], Meta(min_length=1)]
    token_max_age_s: Count
    host_auth: Annotated[str, Meta(pattern="^(token|claim|off)$")]
    claim_window_s: Seconds
    origins: list[str]
    extra_origins: list[str]
    trusted_proxies: list[str]
    secure_cookies: bool
    admin_token: str


class BudgetSettings(Section):
    """``burst`` at once, and then ``per_s`` a second."""

    burst: Count
    per_s: Annotated[float, Meta(gt=0)]


class LimitSettings(Section):
    unlimited: bool
    votes_per_session: Annotated[int, Meta(ge=1, le=1000)]
    votes_per_session_window_s: Seconds
    events_per_session: BudgetSettings
    connections_per_address: BudgetSettings
    joins_per_address: BudgetSettings
    votes_per_address: BudgetSettings
    polls_per_address: BudgetSettings
    requests_per_address: BudgetSettings
    joins_per_room: BudgetSettings
    votes_per_room: BudgetSettings
    requests_per_room: BudgetSettings


class AuditSettings(Section):
    address_key: Annotated[str, Meta(min_length=32)]
    entries_burst: Count
    entries_per_s: Annotated[float, Meta(gt=0)]
    coalesce_s: Seconds
    retention_days: Count


class RetentionSettings(Section):
    archive: Annotated[str, Meta(pattern=r"^(/.*|s3://[^/]+(/.*)?)?$")]
    s3_endpoint: Annotated[str, Meta(pattern=r"^(https?://.+)?$")]
    participants_days: Count
    batch_rows: Annotated[int, Meta(ge=1, le=10_000)]
    pause_s: Annotated[float, Meta(ge=0, le=10)]


class BackupSettings(Section):
    archive_timeout_s: Annotated[int, Meta(ge=1, le=3600)]
    full_kept: Count


class ShedSettings(Section):
    newcomers_lag_s: Seconds
    newcomers_buffer_share: Annotated[float, Meta(gt=0, le=1)]
    votes_lag_s: Seconds


class LogSettings(Section):
    level: Annotated[str, Meta(pattern="^(DEBUG|INFO|WARNING|ERROR)$")]
    json: bool


class MetricSettings(Section):
    statsd_host: str
    statsd_port: Port
    prefix: Text
    flush_s: Seconds


class Settings(msgspec.Struct, frozen=True):
    """All settings of one process. Built by ``load``; tests build variants with ``msgspec.structs.replace``."""

    environment: str
    database: DatabaseSettings
    broker: BrokerSettings
    redis: RedisSettings
    node: NodeSettings
    batch: BatchSettings
    room: RoomSettings
    poll: PollSettings
    worker: WorkerSettings
    security: SecuritySettings
    limits: LimitSettings
    audit: AuditSettings
    retention: RetentionSettings
    backup: BackupSettings
    shed: ShedSettings
    log: LogSettings
    metrics: MetricSettings


SECTIONS: dict[str, type[Section]] = {
    field.name: field.type for field in msgspec.structs.fields(Settings) if field.name != "environment"
}


class SettingsError(Exception):
    """The settings can't be used. ``problems`` holds one line per key."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(settings_file: Path = SETTINGS_FILE) -> Settings:
    """Read and validate everything.

    :raises SettingsError: with every problem at once
    """
    environment = os.environ.get("VOTEMILL_ENV", "development")
    if environment not in ENVIRONMENTS:
        raise SettingsError([f"VOTEMILL_ENV: expected one of {', '.join(ENVIRONMENTS)}, got {environment!r}"])
    source = Dynaconf(
        settings_files=[str(settings_file)],
        environments=True,
        env=environment,
        envvar_prefix="VOTEMILL",
        env_switcher="VOTEMILL_ENV",
    )
    try:
        raw = {key.lower(): value for key, value in source.as_dict().items()}
    except Exception as error:  # dynaconf's own errors have no common class, and hold the value: it may be a secret
        raise SettingsError([_unreadable(error)]) from None
    raw.pop("env", None)
    problems = [f"{name}: unknown section" for name in raw if name not in SECTIONS]
    sections: dict[str, Any] = {}
    for name, kind in SECTIONS.items():
        sections[name] = _section(name, kind, raw.get(name, {}), problems)
    if not problems:
        settings = Settings(environment=environment, **sections)
        problems = contradictions(settings)
        if not problems:
            return settings
    raise SettingsError(problems)


def load_or_exit() -> Settings:
    """``load``, or print every problem to stderr and exit with 78 (EX_CONFIG)."""
    try:
        return load()
    except SettingsError as error:
        for problem in error.problems:
            print(f"settings: {problem}", file=sys.stderr)
        sys.exit(EX_CONFIG)


def contradictions(settings: Settings) -> list[str]:
    """What single keys can't show: settings that are each valid but don't go together."""
    problems = []
    if not settings.security.origins and not settings.security.extra_origins:
        problems.append("security.origins: an empty list would switch origin checks off; name the allowed origins")
    if settings.database.replica_url == settings.database.url:
        problems.append("database.replica_url: must name a standby, not the primary of database.url")
    for network in settings.security.trusted_proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            problems.append(f"security.trusted_proxies: {error}")
    if settings.worker.outage_hold_s < settings.database.call_deadline_s:
        problems.append("worker.outage_hold_s: must be at least database.call_deadline_s")
    if settings.poll.options_min > settings.poll.options_max:
        problems.append("poll.options_min: must not exceed poll.options_max")
    if settings.environment == "production":
        if settings.limits.unlimited:
            problems.append("limits.unlimited: refused in production")
        if "*" in settings.security.origins + settings.security.extra_origins:
            problems.append("security.origins: '*' is refused in production")
        if any(key.startswith("development-") for key in settings.security.signing_keys):
            problems.append("security.signing_keys: the development default is refused in production")
        if settings.audit.address_key.startswith("development-"):
            problems.append("audit.address_key: the development default is refused in production")
        if not settings.security.secure_cookies:
            problems.append("security.secure_cookies: must be true in production")
    return problems


def _unreadable(error: Exception) -> str:
    """Which variable dynaconf stumbled over, and never what is in it."""
    for name, value in os.environ.items():
        if name.startswith("VOTEMILL_"):
            try:
                parse_conf_data(value, tomlfy=True)
            except Exception:
                return f"{name}: can't be read ({type(error).__name__}); its value is not shown"
    return f"a value can't be read ({type(error).__name__}); it is not shown"


def _section(name: str, kind: type[Section], raw: Any, problems: list[str]) -> Section | None:
    if not isinstance(raw, dict):
        problems.append(f"{name}: expected a table")
        return None
    values = {str(key).lower(): value for key, value in raw.items()}
    known = {field.name: field.type for field in msgspec.structs.fields(kind)}
    found = len(problems)
    problems += [f"{name}.{key}: unknown key" for key in values if key not in known]
    converted = {}
    for key, expected in known.items():
        if key not in values:
            problems.append(f"{name}.{key}: missing")
            continue
        try:
            converted[key] = msgspec.convert(_plain(values[key]), expected)
        except msgspec.ValidationError as error:
            problems.append(f"{name}.{key}: {error}")
    return kind(**converted) if len(problems) == found else None


def _plain(value: Any) -> Any:
    """Dynaconf's boxes as plain Python values."""
    if isinstance(value, dict):
        return {str(key).lower(): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
