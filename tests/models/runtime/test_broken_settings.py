"""Each broken configuration stops the start with exit code 78 and a message that names the key and what is expected."""

import ssl
from pathlib import Path

import pytest
import trustme

from models.runtime import tls
from models.runtime.settings import EX_CONFIG, SETTINGS_FILE, SettingsError, load, load_or_exit

pytestmark = pytest.mark.usefixtures("bare_environment")

# What production needs beside the file; each case below breaks one thing.
PRODUCTION = {
    "VOTEMILL_ENV": "production",
    "VOTEMILL_DATABASE__URL": "postgresql://votemill:of-this-test@database/votemill",  # pragma: allowlist secret
    "VOTEMILL_BROKER__URL": "amqp://votemill:of-this-test@broker/%2F",  # pragma: allowlist secret
    "VOTEMILL_DATABASE__PLAIN_ALLOWED": "true",
    "VOTEMILL_BROKER__PLAIN_ALLOWED": "true",
    "VOTEMILL_SECURITY__SIGNING_KEYS": '@json ["a-signing-key-of-this-test-and-no-other"]',
    "VOTEMILL_SECURITY__ORIGINS": '@json ["https://polls.example"]',
    "VOTEMILL_AUDIT__ADDRESS_KEY": "an-address-key-of-this-test-and-no-other",
}

# The variable without its prefix, its value, and how the message begins or goes on.
BROKEN = [
    # of the wrong type
    ("NODE__PORT", "seventy", "node.port: expected an integer, 0..65535; got 'seventy'"),
    ("BATCH__MAX_VOTES", "2.5", "batch.max_votes: expected an integer, 1..10000; got 2.5"),
    ("BATCH__MAX_WAIT_S", "true", "batch.max_wait_s: expected a number"),
    ("SECURITY__SECURE_COOKIES", "perhaps", "security.secure_cookies: expected true or false"),
    ("SECURITY__ORIGINS", "https://polls.example", "security.origins: expected a list"),
    ("LIMITS__JOINS_PER_ROOM", "7", "limits.joins_per_room: expected a table; got 7"),
    ("LIMITS", "none", "limits: expected a table"),
    # out of range
    ("NODE__PORT", "65536", "node.port: expected an integer, 0..65535; got 65536"),
    ("BATCH__MAX_VOTES", "0", "batch.max_votes: expected an integer, 1..10000; got 0"),
    ("ROOM__TICK_S", "0", "room.tick_s: expected a number, >0..3600"),
    ("ROOM__TICK_S", "nan", "room.tick_s: expected a number, >0..3600"),
    ("WORKER__OUTAGE_HOLD_S", "1501", "worker.outage_hold_s: expected a number, >0..1500"),
    ("LIMITS__JOINS_PER_ROOM__PER_S", "0", "limits.joins_per_room.per_s: expected a number"),
    ("NODE__NAME", "", "node.name: expected text"),
    # no such choice
    ("SECURITY__HOST_AUTH", "perhaps", "security.host_auth: expected one of claim, off, token; got 'perhaps'"),
    ("LOG__LEVEL", "LOUD", "log.level: expected one of DEBUG, ERROR, INFO, WARNING"),
    ("ENV", "prodution", "VOTEMILL_ENV: expected one of development, test, staging, production; got 'prodution'"),
    # misspelt or unknown
    ("BATCH__MAX_VOTE", "5", "batch.max_vote: unknown key; did you mean max_votes?"),
    ("LIMITS__JOINS_PER_ROOM__BRUST", "5", "limits.joins_per_room.brust: unknown key; did you mean burst?"),
    ("WORKR__THREADS", "5", "workr: unknown section; did you mean worker?"),
    ("NODE_PORT", "5", "node_port: unknown section; did you mean VOTEMILL_NODE__PORT?"),
    ("FLUX__CAPACITOR", "5", "flux: unknown section"),
    # the scaler's
    ("SCALER__VOTES__MIN", "9", "scaler.votes.min: must not exceed scaler.votes.max"),
    ("SCALER__DOWN_AFTER_S", "14", "scaler.down_after_s: must be at least scaler.up_after_s"),
    ("SCALER__INTERVAL_S", "6", "scaler.stale_s: must be at least twice scaler.interval_s"),
    ("SCALER__HYSTERESIS", "1", "scaler.hysteresis: expected a number, >0..0.9; got 1"),
    ("NOMAD__URL", "nomad.internal:4646", "nomad.url: expected http(s)://HOST:PORT"),
    ("NOMAD__URL", "http://nomad.internal:4646", "nomad.ca_file: a plain connection to nomad.internal is refused"),
    ("NOMAD__URL", "https://nomad.internal:4646", "nomad.ca_file: must name the CAs"),
    # not an address
    (
        "DATABASE__URL",
        "mysql://u:p@h/x",
        "database.url: expected postgresql://HOST:PORT/NAME",
    ),
    ("BROKER__URL", "amqp://u:p@a/%2F,http://b", "broker.url: expected amqp://"),
    ("REDIS__URL", "localhost", "redis.url: expected redis://"),
    ("NODE__PUBLIC_URL", "polls.example", "node.public_url: expected https://HOST"),
    ("SECURITY__ORIGINS", '@json ["https://polls.example/"]', "security.origins: expected a list, each an origin"),
    *(
        ("SECURITY__EXTRA_ORIGINS", f'@json ["{origin}"]', "security.extra_origins: expected a list, each an origin")
        for origin in ("null", "polls.example", "https://Polls.example", "https://*.example", "ftp://polls.example")
    ),
    ("SECURITY__ORIGINS", '@json ["https://polls.example:443"]', "security.origins: browsers leave the port of"),
    ("SECURITY__TRUSTED_PROXIES", '@json ["10.0.0.1/8"]', "security.trusted_proxies: 10.0.0.1/8 has host bits set"),
    # valid alone, but not together
    ("NODE__KILL_TIMEOUT_S", "30", "node.kill_timeout_s: must be at least node.drain_s + 25"),
    ("WORKER__SHUTDOWN_S", "40", "worker.kill_timeout_s: must be at least worker.shutdown_s + 20"),
    ("DATABASE__STATEMENT_TIMEOUT_S", "12", "database.statement_timeout_s: must be below database.call_deadline_s"),
    ("DATABASE__CONNECT_TIMEOUT_S", "13", "database.connect_timeout_s: must not exceed database.call_deadline_s"),
    ("DATABASE__POOL_SIZE", "17", "database.pool_size: must be at least worker.threads + 2"),
    ("DATABASE__REPLICA_URL", PRODUCTION["VOTEMILL_DATABASE__URL"], "database.replica_url: must name a standby"),
    (
        "DATABASE__URL",
        "postgresql://v:of-this-test@a,b/v?target_session_attrs=any",  # pragma: allowlist secret
        "database.url: target_session_attrs must be",
    ),
    ("WORKER__OUTAGE_HOLD_S", "5", "worker.outage_hold_s: must be at least database.call_deadline_s"),
    ("DATABASE__CALL_DEADLINE_S", "1300", "worker.outage_hold_s: must be at least database.call_deadline_s"),
    ("BATCH__MAX_WAIT_S", "0.03", "batch.max_wait_busy_s: must be at least batch.max_wait_s"),
    ("BATCH__CAPACITY_VOTES", "100", "batch.max_votes: must not exceed batch.capacity_votes"),
    ("WORKER__MERGE_VOTES", "100", "worker.merge_votes: must be at least batch.max_votes"),
    ("NODE__MAX_PACKET_BYTES", "1000", "node.max_event_bytes: must not exceed node.max_packet_bytes"),
    ("NODE__SLOW_CLIENT_DROP_BYTES", "1000", "node.slow_client_skip_bytes: must not exceed"),
    ("SHED__VOTES_LAG_S", "0.1", "shed.newcomers_lag_s: must not exceed shed.votes_lag_s"),
    ("POLL__OPTIONS_MIN", "6", "poll.options_min: must not exceed poll.options_max"),
    ("POLL__RETENTION_DAYS", "60", "security.token_max_age_s: must cover poll.retention_days"),
    # refused where the service is deployed
    ("LIMITS__UNLIMITED", "true", "limits.unlimited: refused in production"),
    ("SECURITY__SECURE_COOKIES", "false", "security.secure_cookies: must be true in production"),
    ("SECURITY__ORIGINS", '@json ["*"]', "security.origins: expected a list, each an origin"),
    ("SECURITY__SIGNING_KEYS_FILE", "/no/such/file", "security.signing_keys_file: /no/such/file: No such file"),
    ("SECURITY__ORIGINS", "@json []", "security.origins: an empty list would switch origin checks off"),
    ("SECURITY__SIGNING_KEYS", "@json []", "security.signing_keys: expected a list of at least 1"),
    (
        "BROKER__URL",
        "amqp://guest:guest@broker/%2F",  # pragma: allowlist secret
        "broker.url: RabbitMQ's default account is refused",
    ),
    ("DATABASE__URL", "postgresql://votemill@database/x", "database.url: an account without password or certificate"),
    ("AUDIT__ADDRESS_KEY", "", "audit.address_key: expected text of at least 32 characters"),
    # of TLS
    ("DATABASE__PLAIN_ALLOWED", "false", "database.ca_file: a plain connection to database is refused in production"),
    ("BROKER__PLAIN_ALLOWED", "false", "broker.ca_file: a plain connection to broker is refused in production"),
    ("REDIS__URL", "redis://10.0.0.7/0", "redis.ca_file: a plain connection to 10.0.0.7 is refused in production"),
    ("BROKER__URL", "amqps://u:p@broker/%2F", "broker.ca_file: must name the CAs"),
    ("REDIS__URL", "rediss://redis/0", "redis.ca_file: must name the CAs"),
    (
        "DATABASE__URL",
        "postgresql://u:p@database/x?sslmode=require",  # pragma: allowlist secret
        "database.ca_file: must name the CAs",
    ),
    ("DATABASE__CA_FILE", "/no/such/file", "database.ca_file: /no/such/file: No such file or directory"),
    ("DATABASE__CA_FILE", __file__, f"database.ca_file: {__file__}: "),
    ("REDIS__URL", "redis://redis:65536/0", "redis.url: a port must be a number, 0..65535"),
    ("REDIS__CERTIFICATE_FILE", "/some/file", "redis.key_file: must be given together with redis.certificate_file"),
]


@pytest.fixture
def production(bare_environment: None, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in PRODUCTION.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.usefixtures("production")
def test_what_each_case_starts_from_is_right() -> None:
    assert load().environment == "production"


@pytest.mark.proves("FR-028", "SC-010")
@pytest.mark.parametrize(("name", "value", "message"), BROKEN, ids=[f"{name}={value}" for name, value, _ in BROKEN])
def test_a_broken_setting_stops_the_start_and_is_named(
    production: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, message: str
) -> None:
    # Given settings of which all but one are right
    production.setenv(f"VOTEMILL_{name}", value)
    # When a process starts, then it says which one, and nothing else
    with pytest.raises(SystemExit) as stopped:
        load_or_exit()
    assert stopped.value.code == EX_CONFIG
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"settings: {message}"), line


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with ca.pem, a certificate own.pem and its key own.key."""
    ca = trustme.CA()
    own = ca.issue_cert("votemill@client.invalid")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    own.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
    own.private_key_pem.write_to_path(tmp_path / "own.key")
    return tmp_path


@pytest.mark.proves("FR-028")
def test_with_tls_to_all_servers_production_starts(production: pytest.MonkeyPatch, certificates: Path) -> None:
    for section in ("DATABASE", "BROKER", "REDIS"):
        production.setenv(f"VOTEMILL_{section}__PLAIN_ALLOWED", "false")
        production.setenv(f"VOTEMILL_{section}__CA_FILE", str(certificates / "ca.pem"))
        production.setenv(f"VOTEMILL_{section}__CERTIFICATE_FILE", str(certificates / "own.pem"))
        production.setenv(f"VOTEMILL_{section}__KEY_FILE", str(certificates / "own.key"))
    production.setenv("VOTEMILL_BROKER__URL", "amqps://u:p@one/%2F,amqps://u:p@two/%2F")  # pragma: allowlist secret
    production.setenv("VOTEMILL_REDIS__URL", "rediss://redis/0")
    settings = load()
    context = tls.context(settings.broker)
    assert context and context.check_hostname and context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.proves("FR-028")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CERTIFICATE_FILE", "ca.pem", "broker.certificate_file: "),  # of another key
        ("KEY_FILE", "none.key", "broker.key_file: "),
        ("URL", "amqps://u:p@one/%2F,amqp://u:p@two/%2F", "broker.url: must begin with amqps://"),
        ("URL", "amqps://u:p@one/%2F?ssl_options=None", "broker.url: must leave the checks of TLS to broker.ca_file"),
    ],
)
def test_what_would_weaken_or_break_tls_stops_the_start(
    production: pytest.MonkeyPatch, certificates: Path, name: str, value: str, message: str
) -> None:
    right = {"CA_FILE": "ca.pem", "CERTIFICATE_FILE": "own.pem", "KEY_FILE": "own.key"} | {name: value}
    for key, file in right.items():
        production.setenv(f"VOTEMILL_BROKER__{key}", file if key == "URL" else str(certificates / file))
    if name != "URL":
        production.setenv("VOTEMILL_BROKER__URL", "amqps://u:p@broker/%2F")  # pragma: allowlist secret
    with pytest.raises(SettingsError) as error:
        load()
    (problem,) = error.value.problems
    assert problem.startswith(message)


@pytest.mark.proves("FR-024", "FR-028")
@pytest.mark.parametrize("without", ["DATABASE__URL", "BROKER__URL", "SECURITY__SIGNING_KEYS", "AUDIT__ADDRESS_KEY"])
@pytest.mark.parametrize("environment", ["staging", "production"])
def test_no_deployment_starts_with_a_default_secret(
    production: pytest.MonkeyPatch, environment: str, without: str
) -> None:
    production.setenv("VOTEMILL_ENV", environment)
    production.delenv(f"VOTEMILL_{without}")
    with pytest.raises(SettingsError) as error:
        load()
    (problem,) = error.value.problems
    assert problem.startswith(without.replace("__", ".").lower()) and environment in problem


@pytest.mark.proves("FR-024")
def test_who_does_not_use_a_secret_need_not_have_it(production: pytest.MonkeyPatch) -> None:
    production.delenv("VOTEMILL_DATABASE__URL")
    assert load(unused={"database"}).environment == "production"


@pytest.mark.proves("FR-024")
def test_a_secret_is_not_shown_when_it_is_wrong(production: pytest.MonkeyPatch) -> None:
    for name in ("SECURITY__SIGNING_KEYS", "DATABASE__URL", "BROKER__URL", "REDIS__URL", "AUDIT__ADDRESS_KEY"):
        production.setenv(f"VOTEMILL_{name}", "hunter2")
    with pytest.raises(SettingsError) as error:
        load()
    assert len(error.value.problems) == 5 and "hunter2" not in str(error.value)


@pytest.mark.proves("FR-028")
def test_a_contradiction_is_reported_together_with_a_wrong_type(production: pytest.MonkeyPatch) -> None:
    production.setenv("VOTEMILL_NODE__PORT", "seventy")
    production.setenv("VOTEMILL_NODE__KILL_TIMEOUT_S", "5")
    production.setenv("VOTEMILL_SECURITY__SECURE_COOKIES", "false")
    with pytest.raises(SettingsError) as error:
        load()
    keys = [problem.partition(":")[0] for problem in error.value.problems]
    assert keys == ["node.port", "node.kill_timeout_s", "security.secure_cookies"]


@pytest.mark.proves("FR-028")
def test_a_message_is_not_held_until_the_broker_takes_the_consumer_for_hung(production: pytest.MonkeyPatch) -> None:
    production.setenv("VOTEMILL_WORKER__OUTAGE_HOLD_S", "1500")
    production.setenv("VOTEMILL_DATABASE__CALL_DEADLINE_S", "300")
    with pytest.raises(SettingsError, match=r"worker\.outage_hold_s: .* consumer time-out"):
        load()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[staging.poll]", "[stagin.poll]", "[stagin]: unknown environment; did you mean staging?"),
        ("pool_size = 20", "pool_sise = 20", "database.pool_size: missing; expected an integer, 1.."),
        ("pool_size = 20", "pool_size = ", "settings.toml: Invalid value"),
    ],
)
@pytest.mark.proves("FR-028")
def test_a_mistake_in_the_file_is_named(
    production: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str, message: str
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(SETTINGS_FILE.read_text().replace(old, new))
    with pytest.raises(SettingsError) as error:
        load(file)
    assert any(problem.startswith(message) for problem in error.value.problems), error.value.problems


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"settings\.toml"):
        load(tmp_path / "settings.toml")
