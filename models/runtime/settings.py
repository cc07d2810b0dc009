"""The only reader of settings.toml and the environment.

Environments (development, test, staging, production) are chosen by ``VOTEMILL_ENV``; a variable such as
``VOTEMILL_BATCH__MAX_VOTES`` overrides ``[batch] max_votes``. Secrets may come from elsewhere, as ``[secrets]`` says;
``models.runtime.secrets`` tells running processes of new ones. Everything is validated at start: all problems are
reported together, with the key and what is expected. What each key means stands beside it in settings.toml.
"""

import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from models.runtime import reading
from models.runtime.contradictions import DEPLOYED, contradictions
from models.runtime.expectations import is_secret, nearest
from models.runtime.secrets.providers import SecretsRefused, gaps, open_provider, read_at_start, usable
from models.runtime.signing_keys import KeyRing, SigningKey

EX_CONFIG = 78  # sysexits.h
ENVIRONMENTS = ("development", "test", *DEPLOYED)
SETTINGS_FILE = Path(__file__).resolve().parents[2] / "settings.toml"
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0, le=1_000_000)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Text = Annotated[str, Meta(min_length=1)]

# Never shown, neither by a message nor by scripts/config.
_HIDDEN = {"secret": True}
Secret = Annotated[str, Meta(extra=_HIDDEN)]
Key = Annotated[str, Meta(min_length=32, extra=_HIDDEN)]
Keys = Annotated[
    list[Key | SigningKey],
    Meta(min_length=1, description="a list of at least 1, each text of at least 32 characters", extra=_HIDDEN),
]


def _address(form: str, pattern: str) -> Meta:
    """A URL with a password in it."""
    return Meta(pattern=pattern, description=form, extra=_HIDDEN)


DatabaseUrl = Annotated[str, _address("postgresql://HOST:PORT/NAME", r"^postgres(ql)?://.")]
ReplicaUrl = Annotated[
    str,
    _address("postgresql://HOST:PORT/NAME or nothing", r"^(postgres(ql)?://.+)?$"),
]
BrokerUrl = Annotated[
    str,
    _address("amqp://HOST:PORT/%2F, several separated by commas", r"^amqps?://[^, ]+(, *amqps?://[^, ]+)*$"),
]
RedisUrl = Annotated[str, _address("redis://HOST:PORT/0, rediss:// or unix://", r"^(rediss?|unix)://.")]
NomadUrl = Annotated[str, Meta(pattern=r"^https?://[^/ @]+/?$", description="http(s)://HOST:PORT")]
PublicUrl = Annotated[str, Meta(pattern=r"^(https?://[^/ ]+)?$", description="https://HOST without a path, or nothing")]
GraphiteUrl = Annotated[str, _address("http(s)://HOST:PORT or nothing", r"^(https?://[^/ ]+[^ ]*)?$")]
AlertmanagerUrl = Annotated[
    str,
    _address(
        "http(s)://HOST:PORT, several separated by commas, or nothing",
        r"^(https?://[^/, ]+[^, ]*(, *https?://[^/, ]+[^, ]*)*)?$",
    ),
]
ChannelUrl = Annotated[str, _address("http(s)://HOST/PATH or nothing", r"^(https?://[^/ ]+[^ ]*)?$")]
# As browsers send it: lower case, no path, no slash at the end, no wildcard.
Origin = Annotated[
    str,
    Meta(
        pattern=r"^https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?$",
        description="an origin like https://HOST, in lower case, without a path or slash",
    ),
]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of settings.toml."""


class SecretSettings(Section):
    provider: Literal["aws", "environment", "files", "vault"]
    refresh_s: Seconds
    timeout_s: Seconds
    start_wait_s: Annotated[float, Meta(ge=0, le=600)]
    folder: Text
    vault_address: Annotated[str, Meta(pattern=r"^(https?://[^/ ]+/?)?$", description="https://HOST:PORT or nothing")]
    vault_mount: Text
    vault_path: str
    vault_token_file: str
    vault_role_id: str
    vault_secret_id_file: str
    aws_secret: str


class ServerSettings(Section):
    """How we speak to a server; ``models.runtime.tls`` makes connections of it. Plain where ``ca_file`` is empty."""

    url: str
    ca_file: str
    certificate_file: str
    key_file: str
    plain_allowed: bool

    @property
    def urls(self) -> list[str]:
        """Every address in these settings."""
        return [self.url]


class DatabaseSettings(ServerSettings):
    url: DatabaseUrl
    replica_url: ReplicaUrl
    replica_max_lag_s: Seconds
    pool_size: Count
    pool_wait_s: Seconds
    connect_timeout_s: Seconds
    statement_timeout_s: Seconds
    call_deadline_s: Seconds

    @property
    def urls(self) -> list[str]:
        """The primary's and, where there is one, the standby's."""
        return [self.url, *filter(None, [self.replica_url])]


class BrokerSettings(ServerSettings):
    url: BrokerUrl
    window_messages: Count
    publish_timeout_s: Seconds
    heartbeat_s: Annotated[int, Meta(ge=2, le=300)]
    reconnect_max_s: Seconds
    reply_timeout_s: Seconds

    @property
    def urls(self) -> list[str]:
        """The addresses in ``url``: one for each broker of a cluster."""
        return [url.strip() for url in self.url.split(",")]


class RedisSettings(ServerSettings):
    url: RedisUrl
    timeout_s: Seconds
    reconnect_max_s: Seconds
    room_ttl_s: Count


class NodeSettings(Section):
    name: Text
    host: Text
    port: Port
    public_url: PublicUrl
    drain_s: Annotated[float, Meta(ge=0, le=600)]
    kill_timeout_s: Seconds
    backlog: Count
    max_connections: Count
    max_header_bytes: Annotated[int, Meta(ge=4096, le=1_000_000)]
    max_packet_bytes: Count
    max_event_bytes: Count
    max_body_bytes: Count
    max_token_chars: Count
    max_command_id_chars: Annotated[int, Meta(ge=1, le=1000)]
    max_unfinished_bytes: Count
    max_unread_bytes: Count
    header_deadline_s: Seconds
    body_deadline_s: Seconds
    unread_deadline_s: Seconds
    idle_connection_s: Seconds
    transport: Literal["direct", "stock"]
    slow_client_skip_bytes: Count
    slow_client_drop_bytes: Count
    connect_deadline_s: Seconds
    ping_interval_s: Seconds
    ping_timeout_s: Seconds


class ClockSettings(Section):
    max_error_s: Annotated[float, Meta(ge=0.01, le=60)]


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
    close_after_max_s: Count
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
    heartbeat_file: str
    outage_hold_s: Annotated[float, Meta(gt=0, le=1500)]
    straggler_wait_s: Seconds
    shutdown_s: Seconds
    kill_timeout_s: Seconds


class SecuritySettings(Section):
    signing_keys: Keys
    signing_keys_file: str
    token_max_age_s: Count
    host_auth: Literal["token", "claim", "off"]
    claim_window_s: Seconds
    origins: list[Origin]
    extra_origins: list[Origin]
    trusted_proxies: list[str]
    secure_cookies: bool
    admin_token: Secret

    @property
    def all_origins(self) -> tuple[str, ...]:
        """The one list that CORS, Socket.IO and links go by."""
        return tuple(dict.fromkeys((*self.origins, *self.extra_origins)))

    @property
    def listed_keys(self) -> tuple[SigningKey, ...]:
        """``signing_keys``, whatever stands in ``signing_keys_file``."""
        return tuple(key if isinstance(key, SigningKey) else SigningKey(key) for key in self.signing_keys)

    def key_ring(self) -> KeyRing:
        """The signing keys, of the file when there is one.

        :raises KeysUnusable: it can't be read
        """
        return KeyRing(self.listed_keys, Path(self.signing_keys_file) if self.signing_keys_file else None)


class BudgetSettings(Section):
    """``burst`` at once, and then ``per_s`` a second."""

    burst: Count
    per_s: Rate


class LimitSettings(Section):
    unlimited: bool
    open_connections_per_address: Count
    open_sessions_per_address: Count
    rooms_per_session: Count
    votes_per_session: Annotated[int, Meta(ge=1, le=1000)]
    votes_per_session_window_s: Seconds
    events_per_session: BudgetSettings
    connections_per_address: BudgetSettings
    joins_per_address: BudgetSettings
    votes_per_address: BudgetSettings
    polls_per_address: BudgetSettings
    polls_per_address_a_day: BudgetSettings
    requests_per_address: BudgetSettings
    joins_per_room: BudgetSettings
    votes_per_room: BudgetSettings
    requests_per_room: BudgetSettings


class AuditSettings(Section):
    address_key: Key
    entries_burst: Count
    entries_per_s: Rate
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


class ProbeSettings(Section):
    url: PublicUrl
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$", description="letters, digits, _ and -")]
    every_s: Seconds
    deadline_s: Annotated[float, Meta(gt=0, le=10)]
    poll_s: Seconds
    folder: str
    record_bytes: Annotated[int, Meta(ge=10_000)]


class NomadSettings(ServerSettings):
    url: NomadUrl
    token: Secret
    region: str
    namespace: Text
    timeout_s: Seconds


class BoundsSettings(Section):
    """Never fewer than ``min``, never more than ``max``."""

    min: Count
    max: Count


class ScalerSettings(Section):
    interval_s: Seconds
    dry_run: bool
    votes: BoundsSettings
    host: BoundsSettings
    nodes: BoundsSettings
    age_target_s: Seconds
    depth_target: Count
    worker_cpu_target: Annotated[float, Meta(gt=0, le=1)]
    node_connections_target: Count
    node_lag_target_s: Seconds
    hysteresis: Annotated[float, Meta(gt=0, le=0.9)]
    up_after_s: Seconds
    down_after_s: Annotated[float, Meta(gt=0, le=86_400)]
    step_up: Annotated[float, Meta(gt=0, le=10)]
    stale_s: Seconds


class ShedSettings(Section):
    read_only: bool
    newcomers_lag_s: Seconds
    newcomers_buffer_share: Annotated[float, Meta(gt=0, le=1)]
    votes_lag_s: Seconds


class LogSettings(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    json: bool
    vote_sample: Annotated[int, Meta(ge=0)]
    slow_vote_s: Seconds
    singles_per_s: Count
    queue_lines: Annotated[int, Meta(ge=100, le=1_000_000)]
    fallback_folder: str
    fallback_bytes: Annotated[int, Meta(ge=10_000)]


class MetricSettings(Section):
    statsd_host: str
    statsd_port: Port
    prefix: Text
    flush_s: Seconds
    graphite_url: GraphiteUrl
    graphite_timeout_s: Seconds
    watch_folders: list[str]


class AlertSettings(Section):
    alertmanager_url: AlertmanagerUrl
    interval_s: Seconds
    haste: Annotated[float, Meta(ge=1, le=60)]
    runbook_url: str
    group_wait_s: Seconds
    group_interval_s: Seconds
    repeat_s: Annotated[float, Meta(gt=0, le=604_800)]
    webhook_url: ChannelUrl
    slack_url: ChannelUrl
    pagerduty_key: Secret
    mail_to: str
    mail_from: str
    mail_server: Annotated[str, Meta(pattern=r"^([^: ]+:[0-9]+)?$", description="HOST:PORT or nothing")]
    mail_user: str
    mail_password: Secret
    watchdog_url: ChannelUrl


class Settings(msgspec.Struct, frozen=True):
    """All settings of one process. Built by ``load``; tests build variants with ``msgspec.structs.replace``."""

    environment: str
    secrets: SecretSettings
    database: DatabaseSettings
    broker: BrokerSettings
    redis: RedisSettings
    node: NodeSettings
    clock: ClockSettings
    batch: BatchSettings
    room: RoomSettings
    poll: PollSettings
    worker: WorkerSettings
    security: SecuritySettings
    limits: LimitSettings
    audit: AuditSettings
    retention: RetentionSettings
    backup: BackupSettings
    probe: ProbeSettings
    nomad: NomadSettings
    scaler: ScalerSettings
    shed: ShedSettings
    log: LogSettings
    metrics: MetricSettings
    alerts: AlertSettings


SECTIONS: dict[str, type[Section]] = {
    field.name: field.type for field in msgspec.structs.fields(Settings) if field.name != "environment"
}
# What a provider may hold, with its type.
SECRETS: dict[str, Any] = {
    f"{section}.{field.name}": field.type
    for section, kind in SECTIONS.items()
    for field in msgspec.structs.fields(kind)
    if is_secret(field.type)
}


class SettingsError(Exception):
    """The settings can't be used. ``problems`` holds one line per key."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(settings_file: Path = SETTINGS_FILE, environment: str | None = None, unused: Collection[str] = ()) -> Settings:
    """Read and validate everything, for the environment that VOTEMILL_ENV names unless one is given.

    ``unused`` sections may contradict what a deployment needs: who doesn't use a secret shouldn't have to be given it.
    With ``secrets`` among them no provider is asked, which may take a while otherwise (``secrets.start_wait_s``).

    :raises SettingsError: with every problem at once
    """
    environment = environment or os.environ.get("VOTEMILL_ENV", "development")
    if environment not in ENVIRONMENTS:
        known = ", ".join(ENVIRONMENTS)
        raise SettingsError(
            [f"VOTEMILL_ENV: expected one of {known}; got {environment!r}{nearest(environment, ENVIRONMENTS)}"]
        )
    try:
        tables = reading.tables(settings_file)
    except (OSError, ValueError) as error:
        raise SettingsError([f"{settings_file.name}: {error}"]) from error
    problems = reading.unread_tables(tables, ENVIRONMENTS)
    try:
        raw = reading.read(settings_file, environment)
    except reading.Unreadable as error:
        raise SettingsError([*problems, *error.problems]) from None
    defaults = tables.get(reading.DEFAULT, {})
    held = _add_secrets(raw, defaults, environment, problems) if "secrets" not in unused else {}
    sections = reading.convert(SECTIONS, raw, defaults, problems)
    if len(sections) == len(SECTIONS):
        settings = Settings(environment=environment, **sections)
        # Nothing more is to be said of what is wrong, or of secrets that nobody could be asked for.
        wrong = {problem.partition(":")[0] for problem in problems} | (SECRETS.keys() if held is None else set())
        for problem in contradictions(settings):
            key = problem.partition(":")[0]
            if key not in wrong and key.partition(".")[0] not in unused:
                problems.append(problem + _whereabouts(key, settings, held or ()))
        if not problems:
            return settings
    raise SettingsError(problems)


def _add_secrets(
    raw: dict[str, Any], defaults: dict[str, Any], environment: str, problems: list[str]
) -> Collection[str] | None:
    """Put what the provider holds among the values that are to be checked; its names, or None when it couldn't be
    asked."""
    misfits: list[str] = []  # named with those of all sections
    found = reading.convert({"secrets": SecretSettings}, {"secrets": raw.get("secrets", {})}, defaults, misfits)
    if misfits:
        return None
    settings: SecretSettings = found["secrets"]
    if missing := gaps(settings, deployed=environment in DEPLOYED):
        problems += missing
        return None
    try:
        values, unknown = usable(
            read_at_start(open_provider(settings, SECTIONS), settings.start_wait_s), SECRETS, SECTIONS
        )
    except SecretsRefused as error:
        problems.append(str(error))
        return None
    problems += unknown
    for name, value in values.items():
        section, _, key = name.partition(".")
        if (variable := reading.variable(section, key)) in os.environ:
            problems.append(f"{name}: given twice, by {variable} and by secrets.provider; take one of them away")
        elif isinstance(raw.setdefault(section, {}), dict):
            raw[section][key] = value
    return values


def _whereabouts(key: str, settings: Settings, held: Collection[str]) -> str:
    provider = settings.secrets.provider
    return f"; {provider} holds none" if key in SECRETS and key not in held and provider != "environment" else ""


def load_or_exit(unused: Collection[str] = ()) -> Settings:
    """``load``, or print every problem to stderr and exit with 78 (EX_CONFIG)."""
    try:
        return load(unused=unused)
    except SettingsError as error:
        for problem in error.problems:
            print(f"settings: {problem}", file=sys.stderr)
        sys.exit(EX_CONFIG)
