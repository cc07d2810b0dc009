"""A poll that the database has no more, as after a restore: told to its room, refused clearly, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import psycopg2
import pytest
import redis

from models.wire import names
from tests.socket_tier.browsers import Ack, Browser
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually

_TABLES = ("tallies", "votes", "participants", "rejected_votes", "poll_batches", "poll_flushes")
_GONE = {"error": "Poll not found", "code": "poll_not_found"}
_PATIENCE_S = 30


class Storage:
    """The database, going back."""

    def __init__(self, url: str, cache: redis.Redis) -> None:
        self._url = url
        self._cache = cache

    def lose(self, poll: Poll) -> int:
        """What a restore leaves of a poll that was made after its moment. The id it had."""
        ((poll_id,),) = self.run("DELETE FROM polls WHERE room_code = %s RETURNING id", poll.code)
        for table in _TABLES:
            self.run(f"DELETE FROM {table} WHERE poll_id = %s", poll_id)
        return int(poll_id)

    def give_code(self, poll: Poll, code: str) -> None:
        """Let a poll have another room code, as if it had been made with it; Redis knows of neither."""
        self.run("UPDATE polls SET room_code = %s WHERE room_code = %s", code, poll.code)
        keys = (names.room_key, names.nicknames_key, names.choices_key, names.claim_key)
        self._cache.delete(*(key(each) for key in keys for each in (code, poll.code)))

    def run(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        connection = psycopg2.connect(self._url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


@pytest.fixture
def storage(database_url: str, redis_url: str) -> Storage:
    return Storage(database_url, redis.Redis.from_url(redis_url))


@pytest.fixture
def seat(new_browser: NewBrowser) -> Callable[..., object]:
    """Puts a new browser into a poll at a node: as participant with that name, or as host without."""

    async def seat(poll: Poll, url: str, name: str | None = None, **more: str) -> tuple[Browser, Ack]:
        browser = await new_browser(url, **more).connect()
        if name is not None:
            return browser, await browser.join(poll.code, name)
        ack = await browser.call("join", {"roomCode": poll.code, "hostToken": poll.host_token})
        assert ack["role"] == "host"
        return browser, ack

    return seat


async def until_gone(browser: Browser) -> None:
    assert await browser.hears("poll-gone", within_s=_PATIENCE_S)
    assert browser.heard("poll-state-changed")[-1]["state"] == "closed"


@pytest.mark.proves("FR-006", "FR-039")
async def test_a_vote_in_a_lost_poll_tells_the_whole_room(
    rest: Rest, poll: Poll, storage: Storage, seat: Callable, node_urls: list[str]
) -> None:
    # Given a poll in use on two nodes
    host, _ = await seat(poll, node_urls[0])
    ada, seat_of_ada = await seat(poll, node_urls[0], "Ada")
    bob, _ = await seat(poll, node_urls[0], "Bob")
    cleo, seat_of_cleo = await seat(poll, node_urls[1], "Cleo")
    # When the database has lost it, and somebody at each node votes
    poll_id = storage.lose(poll)
    assert (await ada.vote(poll.code, seat_of_ada, 1))["success"]
    # Then the vote is rejected, and everybody there learns why
    assert (await ada.hears("vote-rejected", within_s=_PATIENCE_S))["code"] == "poll_not_found"
    for browser in (host, ada, bob):
        await until_gone(browser)
    await cleo.vote(poll.code, seat_of_cleo, 1)
    await until_gone(cleo)
    # And all that is asked for from then on is refused with the reason
    answers = [
        await ada.vote(poll.code, seat_of_ada, 2),
        await cleo.vote(poll.code, seat_of_cleo, 2),
        await host.change(poll.code, "closed"),
        await host.change(poll.code, "closed", hostToken=poll.host_token),
        await bob.call("join-room", {"roomCode": poll.code, "nickname": "Bob"}),
    ]
    for answer in answers:
        assert {key: answer[key] for key in _GONE} == _GONE
    for url in node_urls:
        assert (await rest.get(f"/api/polls/{poll.code}", url=url)).status == 404
    # And nothing of it is stored
    for table in ("votes", "tallies", "poll_batches"):
        assert storage.run(f"SELECT count(*) FROM {table} WHERE poll_id = %s", poll_id) == [(0,)], table


@pytest.mark.proves("FR-006", "FR-039")
@pytest.mark.parametrize("call", ["POST state", "POST host-token", "GET results.csv", "GET results.json", ""])
async def test_whatever_the_host_of_a_lost_poll_asks_for_tells_the_whole_room(
    rest: Rest, poll: Poll, storage: Storage, seat: Callable, node_urls: list[str], call: str
) -> None:
    host, _ = await seat(poll, node_urls[0])
    ada, _ = await seat(poll, node_urls[0], "Ada")
    storage.lose(poll)
    if call:
        method, path = call.split()
        headers = {"Authorization": f"Bearer {poll.host_token}"}
        options = {"headers": headers} | ({"json": {"newState": "closed"}} if path == "state" else {})
        answer = await rest.request(method, f"/api/polls/{poll.code}/{path}", url=node_urls[0], **options)
        assert (answer.status, answer.body["code"]) == (404, "poll_not_found")
    else:
        assert (await host.change(poll.code, "closed"))["code"] == "poll_not_found"
    for browser in (host, ada):
        await until_gone(browser)


@pytest.mark.proves("FR-006", "FR-013")
async def test_who_was_in_a_lost_poll_is_nobody_in_the_next_one_with_its_code(
    rest: Rest, storage: Storage, seat: Callable, new_browser: NewBrowser, node_urls: list[str]
) -> None:
    # Given a poll whose host and voter are connected to one node, the only one that knows it, with their cookies
    poll = await rest.create(url=node_urls[0])
    jars = {"host": uuid4().hex, "ada": uuid4().hex}
    host, _ = await seat(poll, node_urls[0], jar=jars["host"])
    ada, seat_of_ada = await seat(poll, node_urls[0], "Ada", jar=jars["ada"])
    assert (await host.change(poll.code, "open"))["success"]
    # When the database loses it, and the next poll gets its code
    storage.lose(poll)
    stranger = await rest.create("Whose poll?", url=node_urls[1])
    storage.give_code(stranger, poll.code)
    stranger = Poll(poll.code, stranger.host_token, stranger.options)
    for url in (node_urls[1], node_urls[0]):
        shown = await rest.get(f"/api/polls/{poll.code}", url=url)
        assert shown.body["question"] == "Whose poll?"
    # Then the sockets of the lost one are out of the room before anything else is asked for
    for answer in (
        await host.change(poll.code, "open"),
        await host.change(poll.code, "open", hostToken=poll.host_token),
        await ada.vote(poll.code, seat_of_ada, 1),
    ):
        assert not answer["success"], answer
    await until_gone(host)
    await until_gone(ada)
    # And neither cookies nor tokens bring anybody back in
    again = await new_browser(node_urls[0], jar=jars["host"]).connect()
    assert not (await again.change(poll.code, "open"))["success"]
    for token, path in ((poll.host_token, "results.csv"), (poll.host_token, "results.json")):
        headers = {"Authorization": f"Bearer {token}"}
        assert (await rest.get(f"/api/polls/{poll.code}/{path}", headers=headers)).status == 403
    assert (await rest.change(poll, "open")).status == 403
    back = await new_browser(node_urls[0], jar=jars["ada"]).connect()
    request = {"roomCode": poll.code, "nickname": "Ada", "participantToken": seat_of_ada["participantToken"]}

    async def let_in() -> Ack | None:
        answer = await back.call("join-room", request)
        return answer if "retryAfter" not in answer else None  # Redis has only just got the room back

    joined = await eventually(let_in, "a join of a room that was restored", _PATIENCE_S)
    assert joined["success"], joined
    assert (joined["reconnected"], joined["previousVote"]) == (False, None)
    assert joined["participantId"] != seat_of_ada["participantId"]
    # And the poll is its host's, with nothing in it
    assert (await rest.read(stranger, node_urls[0]))["state"] == "waiting"
    assert (await rest.change(stranger, "open", url=node_urls[1])).status == 200
    assert (await back.vote(poll.code, joined, 2))["success"]

    async def counted() -> bool:
        return (await rest.read(stranger))["votes"] == [0, 0, 1]

    await eventually(counted, "the vote of the new poll alone", _PATIENCE_S)
