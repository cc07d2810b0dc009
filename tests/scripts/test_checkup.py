"""What scripts/doctor makes of what it finds."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import msgspec
import pytest
import redis

from models import accounts
from models.runtime.settings import load
from scripts.checkup import broker, cache, database
from scripts.checkup.__main__ import ask, lines, verdict
from scripts.checkup.backups import _judged
from scripts.checkup.broker import POLICIES, definitions, differing
from scripts.checkup.findings import Finding, Here, Status, clock, numbers

pytestmark = pytest.mark.proves("FR-018")


def here() -> Here:
    return Here(load())


def test_the_worst_finding_is_the_exit_status() -> None:
    for statuses, code in {
        (Status.OK, Status.NOTE): 0,
        (Status.OK, Status.WARNING): 1,
        (Status.OK, Status.UNKNOWN): 1,
        (Status.WARNING, Status.FAILED, Status.OK): 2,
    }.items():
        assert verdict([Finding("x", status, "y") for status in statuses]) == code


def test_a_question_without_an_answer_holds_nobody_up() -> None:
    def hangs(_here: Here) -> Iterator[Finding]:
        yield Finding("first", Status.OK, "answered")
        time.sleep(60)

    def breaks(_here: Here) -> Iterator[Finding]:
        yield Finding("second", Status.OK, "answered")
        raise ValueError("of no use")

    began = time.monotonic()
    found = ask({"hangs": hangs, "breaks": breaks}, here(), deadline_s=1)
    assert time.monotonic() - began < 30
    assert [(one.check, one.status) for one in found] == [
        ("first", "ok"), ("hangs", "unknown"), ("second", "ok"), ("breaks", "unknown"),
    ]  # fmt: skip
    assert "no answer within 1 s" in found[1].found and "of no use" in found[3].found


def test_passwords_are_hidden_whatever_says_them() -> None:
    settings = load()
    secret = msgspec.structs.replace(settings.redis, url="redis://:p%40ss-word@127.0.0.1/0")
    hidden = Here(msgspec.structs.replace(settings, redis=secret), broker_api="http://guest:api-word@broker:15672")
    said = hidden.hide("redis://:p%40ss-word@127.0.0.1 and p@ss-word\nand api-word")
    assert said == "redis://:(hidden)@127.0.0.1 and (hidden) and (hidden)"


@pytest.mark.parametrize(
    ("theirs", "status"),
    [(100.5, "ok"), (102.3, "warning"), (99.2, "warning"), (94.0, "failed"), (110.0, "failed"), (101.4, "ok")],
)
def test_a_clock_is_judged_by_how_far_it_is_beyond_the_time_of_asking(theirs: float, status: str) -> None:
    assert clock("Redis", theirs, before=100, after=101).status == status


def test_a_clock_that_is_off_is_seen_at_every_server(base_url: str, amqp_url: str) -> None:
    # Given our clock is a minute ahead of all servers'
    ahead = Here(load(), clock=lambda: time.time() + 60)
    found = {
        one.check: one for ask_server in (database.check, cache.check, broker.workers) for one in ask_server(ahead)
    }
    clocks = {check: one for check, one in found.items() if check.endswith("clock")}
    assert {"PostgreSQL clock", "Redis clock"} < clocks.keys()
    assert any(check.startswith("worker ") for check in clocks)
    for one in clocks.values():
        assert one.status == "failed" and -62 < float(one.found.split()[0]) < -50, one


def test_definitions_are_read_from_the_management_interface() -> None:
    told = json.loads(POLICIES.read_text()) | {
        "permissions": [
            {"user": user, "configure": rights[0], "write": rights[1], "read": rights[2]}
            for user, rights in accounts.PERMISSIONS.items()
        ]
    }
    asked = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

    def look() -> dict[str, tuple[str, str]]:
        with HTTPServer(("127.0.0.1", 0), Answers) as server:
            threading.Thread(target=server.handle_request).start()
            api = f"http://some:one@127.0.0.1:{server.server_port}"  # pragma: allowlist secret
            return {one.check: (one.status, one.found) for one in definitions(Here(load(), broker_api=api))}

    assert {status for status, _ in look().values()} == {"ok"}
    assert asked == [("/api/definitions", "Basic c29tZTpvbmU=")]
    # When somebody may read what he shouldn't
    told["permissions"][0]["read"] = ".*"
    assert look()["RabbitMQ accounts"] == ("failed", f"{accounts.NODE} has other rights, or none")
    # When there are no accounts of ours
    told["permissions"] = []
    assert look()["RabbitMQ accounts"][0] == "note"
    # And where nothing can tell them, that is said
    (found,) = definitions(here())
    assert found.status == "unknown" and "export_definitions" in found.advice


def test_accounts_in_redis_are_compared_with_those_that_are_wanted(redis_url: str) -> None:
    def look() -> tuple[str, str]:
        found = {one.check: (one.status.value, one.found) for one in cache.check(here())}
        return found["Redis accounts"]

    assert look() == ("ok", "each has the rights of its role")
    client = redis.Redis.from_url(redis_url)
    client.execute_command("ACL", "SETUSER", accounts.RETENTION, "+flushall")
    try:
        assert look() == ("failed", f"{accounts.RETENTION} has other rights, or none")
    finally:
        client.execute_command("ACL", "SETUSER", accounts.RETENTION, "-flushall")
        client.close()


def test_people_see_what_to_do() -> None:
    told = lines(Finding("disk of /", Status.WARNING, "0.1 GB are free", "make room"))
    assert [line.split() for line in told] == [
        ["!", "disk", "of", "/", "0.1", "GB", "are", "free"], ["→", "make", "room"],
    ]  # fmt: skip


def test_an_old_backup_is_named() -> None:
    for age_d, status in ((0.5, "ok"), (3, "warning"), (9, "failed")):
        told = [{"backup": [{"timestamp": {"stop": time.time() - age_d * 86_400}}, {"timestamp": {"stop": 0}}]}]
        assert _judged(json.dumps(told), here()).status == status
    assert _judged("[]", here()).found == "there is none"


def test_versions_are_compared_by_number() -> None:
    assert numbers("3.10.8-1.1") == (3, 10, 8, 1, 1)
    assert numbers("3.10.8") > numbers("3.9.29") and numbers("2.6.12-1+deb12u2") == (2, 6, 12)


def test_policies_are_compared_with_those_that_are_wanted() -> None:
    wanted = json.loads(POLICIES.read_text())["policies"]
    assert list(differing(wanted)) == []
    assert list(differing(wanted[1:])) == ["votemill-votes is missing"]
    short = [wanted[0] | {"definition": {"max-length": 5}}, *wanted[1:]]
    assert list(differing(short)) == ["votemill-votes is different"]
