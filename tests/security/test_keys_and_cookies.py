"""Keys that are rotated under running nodes, the host modes, and cookies, on two nodes set up for it.

The first is as in production: cookies are secure, and only the token makes a host. On the second everybody in a room is
its host. Both sign with the keys of one file, and limit votes over minutes, so that no test has to hurry.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from functools import partial
from io import StringIO
from pathlib import Path
from uuid import uuid4

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from itsdangerous import TimestampSigner, URLSafeTimedSerializer

from models.runtime.signing_keys import KeyFile, SigningKey, read
from scripts.signing_keys import main
from tests.security.conftest import ROOT, Audited, GuardedNode, guarded_node
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually

FORWARDED = "X-Forwarded-For"
MONTH_S = 2_592_000


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secrets") / "keys.json"
    file.write_bytes(msgspec.json.encode(KeyFile((SigningKey("first-key-" + uuid4().hex, datetime.now(UTC)),))))
    file.chmod(0o640)
    return file


@pytest.fixture(scope="module")
def nodes(run_dir: Path, key_file: Path) -> Iterator[list[GuardedNode]]:
    keys = {"SECURITY__SIGNING_KEYS_FILE": str(key_file), "LIMITS__VOTES_PER_SESSION_WINDOW_S": "300"}
    strict = {"SECURITY__SECURE_COOKIES": "true", "SECURITY__HOST_AUTH": "token", "NODE__PUBLIC_URL": ""}
    with ExitStack() as running:
        yield [
            running.enter_context(guarded_node(run_dir, "keys-1", **keys, **strict)),
            running.enter_context(guarded_node(run_dir, "keys-2", **keys, SECURITY__HOST_AUTH="off")),
        ]


@pytest_asyncio.fixture
async def poll(rest: Rest, nodes: list[GuardedNode]) -> Poll:
    """A poll whose tokens are signed with the newest key of the file."""
    return await rest.create(url=nodes[0].url)


def run_keys(file: Path, *words: str, code: int = 0) -> str:
    """What ``scripts/keys`` says of a file."""
    with pytest.MonkeyPatch.context() as patch, StringIO() as told, redirect_stdout(told), redirect_stderr(told):
        patch.setenv("VOTEMILL_SECURITY__SIGNING_KEYS_FILE", str(file))
        assert ended(words) == code, told.getvalue()
        return told.getvalue()


def ended(words: tuple[str, ...]) -> int:
    try:
        return main(words)
    except SystemExit as exit:
        return int(exit.code or 0)


def shown(file: Path, *words: str) -> list[tuple[str, str]]:
    """Each key's fingerprint and what it does. No key is told."""
    told = run_keys(file, *words)
    assert not [key for key in read(file) if key.key in told]
    return [(line.split()[0], line.split()[1]) for line in told.splitlines()[1:]]


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


@contextmanager
def spoilt(file: Path) -> Iterator[None]:
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    try:
        yield
    finally:
        file.write_bytes(good)


@pytest.mark.proves("FR-012", "FR-024")
async def test_a_rotation_drops_no_connection_and_no_token(
    rest: Rest, new_browser: NewBrowser, nodes: list[GuardedNode], poll: Poll, key_file: Path, audited: Audited
) -> None:
    # Given a participant at each node, and a key
    (before,) = [key.fingerprint for key in read(key_file)]
    browsers = [await new_browser(node.url).connect() for node in nodes]
    joined = [await browser.join(poll.code, f"Voter {number}") for number, browser in enumerate(browsers)]
    assert (await rest.change(poll, "open", url=nodes[1].url)).status == 200
    # When an operator puts a new one in front that signs in a moment, and then takes over
    (after, does), old = shown(key_file, "rotate", "--signs-in", "1.5")
    assert (does, old) == ("verifies", (before, "signs"))
    assert mode(key_file) == 0o640
    for name in (node.name for node in nodes):

        async def taken(name: str = name) -> bool:
            row = await audited("signing_keys_changed", action=name)
            return bool(row["outcome"] == "ok" and row["details"]["keys"] == f"{after} {before}")

        await eventually(taken, f"{name} to sign with the new key")
    assert shown(key_file)[0] == (after, "signs")
    # Then every connection is the one it was, and every token of before is good at both nodes
    for (browser, node), me in zip(zip(browsers, reversed(nodes), strict=True), joined, strict=True):
        assert browser.connections == 1
        assert (await browser.vote(poll.code, me, 0))["success"]
        elsewhere = await new_browser(node.url).connect()
        nickname = f"Voter {joined.index(me)}"
        again = await elsewhere.join(poll.code, nickname, me["participantToken"])
        assert (again["reconnected"], again["participantId"]) == (True, me["participantId"])
        # And what is signed from now on is good at both as well
        third = await new_browser(nodes[0].url).connect()
        assert (await third.join(poll.code, nickname, again["participantToken"]))["reconnected"]
    assert (await rest.change(poll, "closed", url=nodes[0].url)).status == 200
    # And when the old key has leaked and is dropped, its tokens are worth nothing
    run_keys(key_file, "drop", "00000000", code=2)
    assert shown(key_file, "drop", before) == [(after, "signs")]

    async def refused() -> bool:
        return (await rest.change(poll, "open", url=nodes[1].url)).status == 403

    await eventually(refused, "the old key to be gone")
    run_keys(key_file, "drop", after, code=2)


@pytest.mark.proves("FR-012", "FR-024")
async def test_a_key_file_that_is_spoilt_leaves_the_keys_as_they_are_and_is_on_record(
    rest: Rest, nodes: list[GuardedNode], poll: Poll, key_file: Path, audited: Audited
) -> None:
    with spoilt(key_file):
        await audited("signing_keys_unusable", action=nodes[0].name)
        assert (await rest.change(poll, "open", url=nodes[0].url)).status == 200
        run_keys(key_file, "rotate", code=78)


@pytest.mark.proves("FR-012", "FR-013", "US2.3")
async def test_a_token_that_has_expired_is_refused_and_on_record(
    rest: Rest,
    new_browser: NewBrowser,
    nodes: list[GuardedNode],
    poll: Poll,
    key_file: Path,
    address: str,
    audited: Audited,
) -> None:
    # Given tokens as they were signed a month and a bit ago
    joined = await (await new_browser(nodes[0].url).connect()).join(poll.code, "Ada")
    old_host = aged(key_file, "host", poll.host_token)
    old_ada = aged(key_file, "participant", joined["participantToken"])
    # When somebody shows them
    headers = {"Authorization": f"Bearer {old_host}", FORWARDED: address}
    answer = await rest.request(
        "POST", f"/api/polls/{poll.code}/state", url=nodes[0].url, json={"newState": "open"}, headers=headers
    )
    browser = await new_browser(nodes[0].url, headers={FORWARDED: address}).connect()
    ack = await browser.call("join-room", {"roomCode": poll.code, "nickname": "Ada", "participantToken": old_ada})
    # Then they stand for nobody
    assert (answer.status, answer.body["code"]) == (403, "not_host")
    assert (ack["success"], ack["code"]) == (False, "nickname_taken")
    for event in ("state_change_refused", "invalid_participant_token"):
        assert (await audited(event, address=address))["details"]["reason"] == "expired"


def aged(file: Path, kind: str, token: str) -> str:
    """The same token, signed longer ago than tokens live."""

    class LongAgo(TimestampSigner):
        def get_timestamp(self) -> int:
            return super().get_timestamp() - MONTH_S - 100

    (key, *_) = [key.key for key in read(file)]
    now = URLSafeTimedSerializer(key, salt=kind)
    return str(URLSafeTimedSerializer(key, salt=kind, signer=LongAgo).dumps(now.loads(token)))


@pytest.mark.proves("FR-013", "US2.3")
async def test_with_tokens_only_the_token_makes_a_host_and_without_authorisation_everybody_in_the_room_is(
    new_browser: NewBrowser, rest: Rest, nodes: list[GuardedNode], poll: Poll, address: str, audited: Audited
) -> None:
    strict, open_ = nodes
    # Given a browser without the token at a node that asks for it
    browser = await new_browser(strict.url, headers={FORWARDED: address}).connect()
    assert (await browser.call("join", poll.code))["role"] == "viewer"
    assert (await browser.change(poll.code, "open"))["error"] == "Only host can change poll state"
    row = await audited("state_change_refused", address=address, room_code=poll.code)
    assert row["details"]["reason"] == "missing"
    assert (await browser.change(poll.code, "open", hostToken=poll.host_token))["success"]
    # And one at a node that asks for nothing: in the room it may, from outside it may not
    other = await new_browser(open_.url).connect()
    assert not (await other.change(poll.code, "closed"))["success"]
    await other.join(poll.code, "Ada")
    assert (await other.change(poll.code, "closed"))["success"]
    # A token that is shown must be a good one all the same
    assert not (await other.change(poll.code, "open", hostToken="x"))["success"]


@pytest.mark.proves("FR-011", "FR-013")
async def test_outside_development_cookies_cant_be_planted_read_or_sent_in_the_clear(
    nodes: list[GuardedNode], poll: Poll, rest: Rest, new_browser: NewBrowser
) -> None:
    strict = nodes[0]
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        for path in ("/socket.io/?EIO=4&transport=polling", "/"):
            async with session.get(strict.url + path) as response:
                (cookie,) = response.headers.getall("Set-Cookie")
                assert "Strict-Transport-Security" in response.headers
            name, _, attributes = cookie.partition("=")
            value, *attributes_list = [part.strip() for part in attributes.split(";")]
            # The prefix makes browsers refuse it from a subdomain, or from a page that isn't secure
            assert name == "__Host-votemill"
            flags = {part.partition("=")[0].lower(): part.partition("=")[2] for part in attributes_list}
            assert flags.keys() >= {"secure", "httponly", "path", "max-age"} and "domain" not in flags
            assert (flags["samesite"], flags["path"]) == ("Lax", "/")
        # Session fixation: a victim's browser with an attacker's cookie under the name that can be planted
        async with session.get(strict.url + "/", headers={"Cookie": f"votemill={value}"}) as response:
            assert "__Host-votemill" in response.headers["Set-Cookie"]
        async with session.get(strict.url + "/", headers={"Cookie": f"__Host-votemill={value}"}) as response:
            assert "Set-Cookie" not in response.headers


@pytest.mark.proves("FR-007")
async def test_a_host_header_gets_into_no_link(rest: Rest, nodes: list[GuardedNode]) -> None:
    # At a node that wasn't told how it is reached, a link leads to an origin of the list, whatever a client claims
    new = {"question": "Tea?", "options": ["Yes", "No"]}
    for host in ("evil.example", "evil.example:80", "localhost:3000@evil.example"):
        answer = await rest.request("POST", "/api/polls", url=nodes[0].url, json=new, headers={"Host": host})
        assert "evil" not in answer.text
    answer = await rest.request("POST", "/api/polls", url=nodes[0].url, json=new, headers={"Host": "127.0.0.1:3000"})
    assert answer.body["joinUrl"] == f"http://127.0.0.1:3000/j/{answer.body['roomCode']}"


@pytest.mark.proves("FR-009", "FR-012", "SC-011", "US2.2")
async def test_a_spammer_who_connects_anew_gets_no_fresh_allowance(
    rest: Rest, new_browser: NewBrowser, nodes: list[GuardedNode], poll: Poll, address: str, audited: Audited
) -> None:
    # Given an open poll whose host hears who comes and goes
    node = nodes[0]
    host = await new_browser(node.url).connect()
    assert (await host.call("join", {"roomCode": poll.code, "hostToken": poll.host_token}))["role"] == "host"
    assert (await host.change(poll.code, "open"))["success"]
    token, granted = None, 0
    for times_gone in (1, 2):
        # When a spammer votes by two connections at once, leaves, and comes back as the same participant
        tabs = [await new_browser(node.url, headers={FORWARDED: address}).connect() for _ in range(2)]
        for tab in tabs:
            joined = await tab.join(poll.code, "Spammer", token)
            token = joined["participantToken"]
            for _ in range(4):
                granted += (await tab.vote(poll.code, joined, granted % 3))["success"]
        for tab in tabs:
            await tab.close()
        gone = partial(host.heard, "participant-left", nickname="Spammer")
        await eventually(lambda gone=gone, times=times_gone: len(gone()) == times, "the spammer to be gone")
    # Then it has had ten votes all in all
    assert granted == 10
    await audited("rate_limited", action="votes-per-session", address=address)


def test_the_command_shows_the_keys_of_a_stack_and_says_what_it_needs(run_dir: Path, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("VOTEMILL_SECURITY")}
    command = [ROOT / "scripts" / "keys", "--run-dir", run_dir]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and " signs " in done.stdout, done.stderr
    assert "security.signing_keys_file" in run_keys(tmp_path / "none", code=78)
