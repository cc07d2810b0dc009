"""The catalogue: what is broken, which alert must come of it, and how it is mended."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import trustme

from models.runtime import signing_keys
from models.wire import names
from scripts.alarm_drill.bench import Bench, as_root, meanwhile
from scripts.faults.guest import Guest
from scripts.faults.victim import Victim
from scripts.loadtest import rest
from scripts.stack import certificates, packages, ports
from scripts.stack.data_folders import write_for_server
from scripts.stack.program import launch_file
from scripts.stack.run_folder import ROOT, write_private
from scripts.stack.services import rabbitmq
from scripts.stack.services.haproxy import answers_ready
from scripts.stack.supervision import wait_until

_FAKETIME = "*/faketime/libfaketimeMT.so.1"
_LOCKED_S = 3.0


@dataclass(frozen=True)
class Fault:
    """``hold(bench)`` is a context: it breaks something, and mends it in the end."""

    name: str
    alert: str
    hold: Callable[[Bench], AbstractContextManager[None]]


CATALOGUE: dict[str, Fault] = {}


def _fault(alert: str) -> Callable[[Callable[[Bench], Iterator[None]]], Callable[[Bench], Iterator[None]]]:
    """Into the catalogue, by the function's name."""

    def add(work: Callable[[Bench], Iterator[None]]) -> Callable[[Bench], Iterator[None]]:
        name = work.__name__.replace("_", "-")
        CATALOGUE[name] = Fault(name, alert, contextmanager(work))
        return work

    return add


def _kill(*victims: str) -> Callable[[Bench], Iterator[None]]:
    def work(bench: Bench) -> Iterator[None]:
        for victim in victims:
            bench.stack[victim].kill_and_hold_down()
        yield
        for victim in victims:
            bench.stack[victim].bring_back()

    return work


def _freeze(victim: str) -> Callable[[Bench], Iterator[None]]:
    def work(bench: Bench) -> Iterator[None]:
        bench.stack[victim].freeze()
        yield
        bench.stack[victim].thaw()

    return work


for _name, _alert, _work in (
    ("postgres-killed", "BreakerOpen", _kill("postgres")),
    ("postgres-hung", "BreakerOpen", _freeze("postgres")),
    ("redis-killed", "RedisAway", _kill("redis")),
    ("redis-hung", "RedisFails", _freeze("redis")),
    ("rabbitmq-killed", "BrokerAway", _kill("rabbitmq")),
    ("rabbitmq-hung", "BrokerAway", _freeze("rabbitmq")),
    ("node-killed", "ProcessSilent", _kill("node-2")),
    ("node-hung", "ProcessSilent", _freeze("node-2")),
    ("worker-killed", "NoWorkers", _kill("worker-1")),
    ("worker-hung", "ProcessSilent", _freeze("worker-1")),
    ("votes-pile-up", "Backlog", _kill("worker-1")),
    ("all-workers-killed", "NoWorkers", _kill("worker-1", "host-worker-1")),
    ("statsd-killed", "NoData", _kill("statsd")),
    ("carbon-killed", "NoData", _kill("carbon")),
    ("graphite-killed", "GraphiteUnread", _kill("graphite")),
):
    CATALOGUE[_name] = Fault(_name, _alert, contextmanager(_work))


@_fault("BrokerAway")
def rabbitmq_disk_alarm(bench: Bench) -> Iterator[None]:
    def limit(amount: str) -> None:
        with bench.log("disk-alarm") as out:
            if rabbitmq.run_ctl(bench.stack.folder, ["set_disk_free_limit", amount], out) != 0:
                raise RuntimeError(f"rabbitmqctl failed; see {out.name}")

    limit("1000000GB")
    yield
    limit("200MB")


@_fault("ServerErrors")
def requests_fail(bench: Bench) -> Iterator[None]:
    """Rooms whose snapshot nobody can read: a status of 500 for whoever asks."""
    key = names.room_key("ZZZZZ2")

    def ask() -> None:
        with suppress(rest.RestError):
            rest.call(bench.node, "GET", "/api/polls/ZZZZZ2")

    with bench.redis() as client:
        client.hset(key, mapping={"version": "1", "snapshot": "[1, 2"})
        with meanwhile(ask, 0.1):
            yield
        client.delete(key)


@_fault("DatabaseSlow")
def slow_statements(bench: Bench) -> Iterator[None]:
    """Somebody's transaction holds the tally of the poll that is voted in, again and again: for the poll's own row
    nobody would wait for long."""
    tally = "SELECT FROM tallies WHERE poll_id = (SELECT id FROM polls WHERE room_code = %s) FOR UPDATE"

    def lock() -> None:
        with bench.superuser() as cursor:
            cursor.execute(tally, (bench.room.code,))
            time.sleep(_LOCKED_S)

    with meanwhile(lock, 0.2):
        yield


@_fault("VoterFails")
def balancer_killed(bench: Bench) -> Iterator[None]:
    """All of ours is well, and nobody gets in: only the synthetic voter notices."""
    voter = {"VOTEMILL_PROBE__URL": bench.stack.env["BASE_URL"], "VOTEMILL_PROBE__EVERY_S": "2"}
    env = bench.env_of("worker-1") | voter
    balancer = Victim(bench.stack.folder, "haproxy", lambda: answers_ready(bench.stack.base.port))
    with bench.log("probe") as out, bench.beside("scripts.probing", env=env, out=out):
        balancer.kill_and_hold_down()
        try:
            yield
        finally:  # unlike the others it isn't the stack's to mend
            balancer.bring_back()


@_fault("PoolFilling")
def pool_filling(bench: Bench) -> Iterator[None]:
    """Hosts' commands wait for a lock, each with a connection of its own."""

    def lock() -> None:
        with bench.superuser() as cursor:
            cursor.execute("LOCK TABLE polls IN ACCESS EXCLUSIVE MODE")
            time.sleep(_LOCKED_S)

    def create() -> None:
        with suppress(rest.RestError):
            rest.call(bench.node, "POST", "/api/polls", {"question": "Filling?", "options": ["a", "b"]})

    with meanwhile(lock, 0.2), meanwhile(create, 0.1, threads=24):
        yield


@_fault("TallyWrong")
def tally_wrong(bench: Bench) -> Iterator[None]:
    room = rest.open_room(bench.node, 2, 2)
    bench.change(
        "UPDATE tallies SET votes = '{7,0}' WHERE poll_id = (SELECT id FROM polls WHERE room_code = %s)", room.code
    )
    yield
    bench.script(str(ROOT / "scripts" / "recount"), "--fix")


@_fault("DeadLetters")
def dead_letter(bench: Bench) -> Iterator[None]:
    """A vote that the database refuses for its own sake."""
    room = rest.open_room(bench.node, 3, 2)
    guest = Guest(bench.node)
    try:
        guest.join(room.code, "Poisonous")
        condition = f"CHECK (participant_id <> '{guest.participant_id}')"
        bench.change(f"ALTER TABLE votes ADD CONSTRAINT poison {condition} NOT VALID")
        if not guest.vote(room.code, 0).success or not guest.hears("vote-rejected", 20):
            raise RuntimeError("the vote was not buried")
    finally:
        bench.change("ALTER TABLE votes DROP CONSTRAINT IF EXISTS poison")
        guest.close()
    yield
    bench.script(str(ROOT / "scripts" / "dead-letters"), "requeue", "--all")


@_fault("ListenerDeaf")
def listener_deaf(bench: Bench) -> Iterator[None]:
    """Subscribed, and nothing is published any more: connections stay open and silent."""
    with bench.redis() as client:
        client.execute_command("ACL", "SETUSER", "default", "-publish")
        yield
        client.execute_command("ACL", "SETUSER", "default", "+publish")


@_fault("ReadOnly")
def left_read_only(bench: Bench) -> Iterator[None]:
    token = bench.stack.folder.secret("admin-token")
    rest.call(bench.node, "PUT", "/api/config/settings", {"shed.read_only": True}, token)
    yield
    rest.call(bench.node, "PUT", "/api/config/settings", {"shed.read_only": None}, token)


@_fault("DiskFilling")
def disk_full(bench: Bench) -> Iterator[None]:
    """One of the disks that are watched, 4 MB small."""
    disk = disk_of(bench.stack.folder.path)
    as_root("mount", "-t", "tmpfs", "-o", "size=4m,mode=777", "tmpfs", disk)
    try:
        (disk / "full").write_bytes(bytes(3_900_000))
        yield
    finally:
        as_root("umount", "--lazy", disk)


@_fault("ClockSkew")
def clock_skew(bench: Bench) -> Iterator[None]:
    """PostgreSQL's clock is three seconds ahead of everybody else's."""
    file = launch_file(bench.stack.folder, "postgres")
    before = file.read_text()
    described = json.loads(before)
    library = next(Path("/usr/lib").glob(_FAKETIME))
    described["env"] |= {"LD_PRELOAD": str(library), "FAKETIME": "+3s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    write_private(file, json.dumps(described))
    try:
        bench.stack["postgres"].restart()
        yield
    finally:
        write_private(file, before)
        bench.stack["postgres"].restart()


@_fault("LogsDiverted")
def log_sink_full(bench: Bench) -> Iterator[None]:
    """A worker whose stdout is a full disk, and which has something to tell of each vote."""
    folder = {
        "VOTEMILL_LOG__FALLBACK_FOLDER": str(bench.stack.folder.logs / "diverted"),
        "VOTEMILL_LOG__LEVEL": "DEBUG",
    }
    with Path("/dev/full").open("w") as out, _extra_worker(bench, "full", out, **folder):
        yield


@_fault("CertificateExpires")
def certificate_expires(bench: Bench) -> Iterator[None]:
    """Redis gets a certificate of three days, and a node looks at it; then its own again."""
    folder = bench.stack.folder
    data = (folder.data / "redis").resolve()
    place = certificates.make(folder)
    ca = trustme.CA.from_pem((place / certificates.CA).read_bytes(), (place / "ca.key").read_bytes())
    short = ca.issue_cert(ports.LOOPBACK, not_after=datetime.now(UTC) + timedelta(days=3))

    def use(certificate: str, key: str) -> None:
        write_for_server(data / f"{certificates.SERVER}.pem", certificate)
        write_for_server(data / f"{certificates.SERVER}.key", key)
        bench.stack["redis"].restart()
        bench.stack["node-2"].restart()

    use(short.cert_chain_pems[0].bytes().decode(), short.private_key_pem.bytes().decode())
    yield
    use(*((place / f"{certificates.SERVER}.{end}").read_text() for end in ("pem", "key")))


@_fault("KeysOld")
def keys_old(bench: Bench) -> Iterator[None]:
    """Nobody has rotated the signing keys for a year; the running nodes read the file again."""
    file = bench.stack.folder.secrets / "signing-keys.json"
    before = file.read_text()
    keys = json.loads(before)
    for key in keys["keys"]:
        key["created_at"] = (datetime.now(UTC) - timedelta(days=365)).isoformat()
    write_private(file, json.dumps(keys))
    signing_keys.read(file)
    yield
    write_private(file, before)


@_fault("SecretsFailing")
def secrets_failing(bench: Bench) -> Iterator[None]:
    """A node that is given its secrets as files, of which one is spoilt."""
    folder = bench.stack.folder.path / "drill-secrets"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    env = bench.env_of("node-1")
    for name in ("broker.url", "redis.url", "security.admin_token", "audit.address_key"):
        write_private(folder / name, env.pop(f"VOTEMILL_{name.replace('.', '__')}".upper()))
    env |= {
        "VOTEMILL_NODE__NAME": "drill-secrets",
        "VOTEMILL_NODE__PORT": str(ports.any_free()),
        "VOTEMILL_SECRETS__PROVIDER": "files",  # pragma: allowlist secret
        "VOTEMILL_SECRETS__FOLDER": str(folder),
        "VOTEMILL_SECRETS__REFRESH_S": "2",
        "VOTEMILL_NODE__DRAIN_S": "0.5",
    }
    with bench.log("secrets") as out, bench.beside("socket_tier", env=env, out=out):
        port = int(env["VOTEMILL_NODE__PORT"])
        wait_until(lambda: answers_ready(port), 60, "the node is not ready", bench.stack.folder.log("drill-secrets"))
        write_private(folder / "broker.url", "no address at all")
        yield


@contextmanager
def _extra_worker(bench: Bench, name: str, out: IO[Any], **more: str) -> Iterator[None]:
    env = bench.env_of("worker-1") | {"VOTEMILL_WORKER__NAME": f"drill-{name}"} | more
    with bench.beside("workers", "votes", env=env, out=out):
        yield


def disk_of(run_dir: Path) -> Path:
    """The folder whose disk is filled."""
    return run_dir / "disk"


def prepare(run_dir: Path) -> None:
    """What the faults need, before scripts/up."""
    disk_of(run_dir).mkdir(parents=True, exist_ok=True)
    (run_dir / "log").mkdir(exist_ok=True)
    packages.install_missing(["faketime"], run_dir / "log" / "packages.log")
