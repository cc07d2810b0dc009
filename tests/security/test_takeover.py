"""A host who takes a poll over: whoever hosted it before is nobody now, on every node and in the workers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from uuid import UUID, uuid4

import pika
import psycopg2
import pytest
import redis

from models.wire import names
from models.wire.commands import ChangeState, ClaimHost, ExportRows
from models.wire.envelope import wrap
from models.wire.polls import PollState
from tests.security.conftest import Audited, GuardedNode
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.extra_node import ExtraNode
from tests.socket_tier.rest import Answer, Poll, Rest
from tests.socket_tier.waiting import eventually

THIEF = uuid4()


async def take_over(rest: Rest, poll: Poll, token: str) -> Answer:
    headers = {"Authorization": f"Bearer {token}"}
    return await rest.request("POST", f"/api/polls/{poll.code}/host-token", headers=headers)


def poll_id_of(database_url: str, poll: Poll) -> int:
    connection = psycopg2.connect(database_url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT id FROM polls WHERE room_code = %s", (poll.code,))
            return int(cursor.fetchone()[0])
    finally:
        connection.close()


@pytest.mark.proves("FR-012", "FR-013", "US2.3")
async def test_after_a_takeover_the_old_token_the_old_cookie_and_the_old_socket_control_nothing(
    new_browser: NewBrowser, rest: Rest, node_urls: list[str], guarded_nodes: list[GuardedNode], audited: Audited
) -> None:
    # Given a thief who hosts a poll with its token, and somebody who votes in it
    poll = await rest.open_poll()
    thief = await new_browser(node_urls[-1], jar="thief's").connect()
    assert (await thief.call("join", {"roomCode": poll.code, "hostToken": poll.host_token}))["role"] == "host"
    voter = await new_browser(node_urls[0]).connect()
    joined = await voter.join(poll.code, "Ada")
    # When the host takes it over
    answer = await take_over(rest, poll, poll.host_token)
    assert answer.status == 200
    token = answer.body["hostToken"]
    assert answer.body["hostUrl"].endswith(f"/host/{poll.code}#{token}")
    await audited("host_tokens_revoked", room_code=poll.code)
    # Then the old token is refused everywhere, for everything, and on record with the reason
    urls = [*node_urls, *(node.url for node in guarded_nodes)]
    old = {"Authorization": f"Bearer {poll.host_token}"}
    for url in urls:

        async def refused(url: str = url) -> bool:
            return (await rest.change(poll, "open", url=url)).status == 403

        await eventually(refused, f"the revocation to reach {url}")
        for method, path in (("GET", "results.csv"), ("GET", "results.json"), ("POST", "host-token")):
            assert (await rest.request(method, f"/api/polls/{poll.code}/{path}", url=url, headers=old)).status == 403
    for event in ("state_change_refused", "export_refused", "takeover_refused"):
        assert (await audited(event, room_code=poll.code))["details"]["reason"] == "revoked"
    # And so are the thief's socket, which hosted, and its cookie, in another tab
    tab = await new_browser(node_urls[0], jar="thief's").connect()
    assert (await tab.call("join", poll.code))["role"] == "viewer"
    for socket in (thief, tab):
        assert (await socket.change(poll.code, "closed"))["error"] == "Only host can change poll state"
    # And the thief hears no more of who comes than everybody does, while the host hears all
    host = await new_browser(node_urls[-1]).connect()
    assert (await host.call("join", {"roomCode": poll.code, "hostToken": token}))["role"] == "host"
    # And the voter notices nothing: neither the socket nor, later, the token
    assert (await voter.vote(poll.code, joined, 1))["success"]
    again = await new_browser(node_urls[-1]).connect()
    resumed = await again.join(poll.code, "Ada", joined["participantToken"])
    assert (resumed["reconnected"], resumed["participantId"]) == (True, joined["participantId"])
    for url in urls:
        assert (await rest.change(poll, "open", token=token, url=url)).status == 200
    assert (await host.change(poll.code, "closed"))["success"]


@pytest.mark.proves("FR-013", "US2.3")
async def test_who_joins_with_the_old_token_during_a_takeover_hears_nothing_that_hosts_hear(
    new_browser: NewBrowser, rest: Rest, node_urls: list[str]
) -> None:
    # Given a poll whose totals are the host's alone
    poll = await rest.open_poll(results="host")
    old_ones = [await new_browser(node_urls[0]).connect() for _ in range(30)]
    voter = await new_browser(node_urls[0]).connect()
    joined = await voter.join(poll.code, "Ada")
    # When many come with the old token at the moment of the takeover
    answer, *_ = await asyncio.gather(
        take_over(rest, poll, poll.host_token),
        *(old.call("join", {"roomCode": poll.code, "hostToken": poll.host_token}) for old in old_ones),
    )
    host = await new_browser(node_urls[0]).connect()
    await host.call("join", {"roomCode": poll.code, "hostToken": answer.body["hostToken"]})
    assert (await voter.vote(poll.code, joined, 1))["success"]
    await host.hears("vote-update", votes=[0, 1, 0])
    # Then the new host sees the totals, and none of those does, in whatever order it all came
    for old in old_ones:
        assert not [update for update in old.heard("vote-update") if any(update["votes"])]


@pytest.mark.proves("FR-013", "US2.3")
async def test_a_worker_refuses_what_a_node_let_through_before_it_had_heard(
    new_browser: NewBrowser,
    rest: Rest,
    node_urls: list[str],
    database_url: str,
    amqp_url: str,
    audited: Audited,
) -> None:
    # Given an open poll that was taken over
    poll = await rest.open_poll()
    poll_id = poll_id_of(database_url, poll)
    voters = [await new_browser(url).connect() for url in node_urls]
    joined = [await voter.join(poll.code, f"Voter {number}") for number, voter in enumerate(voters)]
    token = (await take_over(rest, poll, poll.host_token)).body["hostToken"]
    # When commands arrive of a node that took the old token for good, and asked for an export on the way
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    channel = connection.channel()
    replies = names.reply_queue(THIEF)
    channel.queue_declare(replies, exclusive=True)
    at_us = 2**52
    for command in (
        ChangeState(uuid4(), THIEF, poll_id, PollState.CLOSED, at_us, "thief", token_generation=1),
        ClaimHost(poll_id, THIEF, 1, token_generation=1),
        ExportRows(uuid4(), THIEF, poll_id, at_us, token_generation=1),
    ):
        queue, body = wrap(command)
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))
    # Then both that wait for an answer are refused, and that is on record
    answers: list[bytes] = []

    def answered() -> bool:
        _, _, body = channel.basic_get(replies, auto_ack=True)
        answers.extend([body] if body else [])
        return len(answers) == 2

    await eventually(answered, "two refusals")
    assert all(b'"not_host"' in answer for answer in answers), answers
    assert (await audited("state_change_refused", room_code=poll.code, actor="thief"))["details"]["reason"] == "revoked"
    connection.close()
    # And the poll is open on every node, with the new host as its only one
    for voter, me in zip(voters, joined, strict=True):

        async def votes(voter: object = voter, me: object = me) -> bool:
            return bool((await voter.vote(poll.code, me, 2))["success"])  # type: ignore[attr-defined, arg-type]

        await eventually(votes, "a vote")
    assert (await rest.change(poll, "open", token=token)).status == 200
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT browser_id FROM hosts WHERE poll_id = %s", (poll_id,))
        assert UUID(int=THIEF.int) not in [UUID(str(browser)) for (browser,) in cursor.fetchall()]
    connection.close()


@pytest.mark.proves("FR-006", "FR-013")
async def test_a_takeover_that_a_restore_has_lost_holds_again_and_no_token_of_it_means_another_one(
    rest: Rest, node_urls: list[str], run_dir: Path, database_url: str, redis_url: str
) -> None:
    # Given a poll that was taken over twice, before a restore to a moment before both
    poll = await rest.open_poll()
    first = (await take_over(rest, poll, poll.host_token)).body["hostToken"]
    await asyncio.sleep(1.1)  # a generation is a second
    second = (await take_over(rest, poll, first)).body["hostToken"]
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE polls SET token_generation = 1 WHERE room_code = %s", (poll.code,))
    connection.close()
    redis.Redis.from_url(redis_url).delete(names.room_key(poll.code))
    # When the host shows the token of the last one, at a node that knows nothing of all this
    newcomer = ExtraNode("node-newcomer", run_dir / "log" / "node-newcomer.log")
    try:
        assert (await rest.change(poll, "closed", url=newcomer.url)).status == 200  # all that is known there
        assert (await rest.change(poll, "closed", token=second, url=newcomer.url)).status == 200

        # Then all earlier ones are void again
        async def void() -> bool:
            answers = [await rest.change(poll, "open", token=old, url=newcomer.url) for old in (poll.host_token, first)]
            return [answer.status for answer in answers] == [403, 403]

        await eventually(void, "the takeover to hold again", 30)
    finally:
        newcomer.stop()
    assert (await rest.change(poll, "open", token=second, url=node_urls[0])).status == 200


@pytest.mark.proves("FR-013")
async def test_an_administrator_gives_a_poll_back_to_a_host_who_lost_the_token(rest: Rest, audited: Audited) -> None:
    poll = await rest.create()
    assert (await take_over(rest, poll, "nonsense")).status == 403
    answer = await take_over(rest, poll, os.environ["VOTEMILL_SECURITY__ADMIN_TOKEN"])
    assert answer.status == 200
    assert (await rest.change(poll, "open", token=answer.body["hostToken"])).status == 200
    assert (await audited("takeover_refused", room_code=poll.code))["details"]["reason"] == "forged"
