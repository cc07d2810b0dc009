"""Every kind of token, id and session against every object and action that isn't its own: nothing changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest

from models.runtime.settings import load
from models.runtime.tokens import Tokens
from tests.security.conftest import Audited, GuardedNode
from tests.socket_tier.browsers import POLLING_ONLY, Ack, Browser
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually

FORWARDED = "X-Forwarded-For"
State = list[tuple[Any, ...]]


@pytest.fixture
def node(guarded_nodes: list[GuardedNode]) -> GuardedNode:
    return guarded_nodes[0]


@pytest.fixture
def stored(database_url: str) -> Callable[..., State]:
    """What the database has of polls: state, generation, hosts, and who voted for what."""

    def read(*polls: Poll) -> State:
        connection = psycopg2.connect(database_url)
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT room_code, state, token_generation, (SELECT count(*) FROM hosts WHERE poll_id = p.id),"
                    " ARRAY(SELECT (participant_id, option_index)::text FROM votes WHERE poll_id = p.id ORDER BY 1),"
                    " (SELECT votes FROM tallies WHERE poll_id = p.id)"
                    " FROM polls p WHERE room_code = ANY(%s) ORDER BY room_code",
                    ([poll.code for poll in polls],),
                )
                return cursor.fetchall()
        finally:
            connection.close()

    return read


@dataclass
class Scene:
    """An attacker with everything of their own, and a victim's poll with a victim in it who has voted."""

    mine: Poll
    theirs: Poll
    attacker: Browser
    me: Ack
    victim: Ack


@pytest.fixture
async def scene(rest: Rest, new_browser: NewBrowser, node: GuardedNode, address: str) -> Scene:
    mine, theirs = [await rest.open_poll() for _ in range(2)]
    attacker = await new_browser(node.url, headers={FORWARDED: address}).connect()
    assert (await attacker.call("join", {"roomCode": mine.code, "hostToken": mine.host_token}))["role"] == "host"
    me = await attacker.join(mine.code, "Mallory")
    victims = await new_browser(node.url).connect()
    victim = await victims.join(theirs.code, "Ada")
    assert (await victims.vote(theirs.code, victim, 0))["success"]
    await victims.hears("vote-recorded")
    return Scene(mine, theirs, attacker, me, victim)


def tokens_of(scene: Scene) -> dict[str, tuple[str, str]]:
    """Whatever an attacker may hold or make up, with the reason on record for which it hosts nothing."""
    tokens = Tokens(load().security.key_ring().usable(), load().security.token_max_age_s)
    host, body = scene.theirs.host_token, scene.theirs.host_token.split(".")
    return {
        "made up": ("nonsense", "forged"),
        "own poll's": (scene.mine.host_token, "other_poll"),
        "own participant's": (scene.me["participantToken"], "forged"),
        "victim's participant's": (scene.victim["participantToken"], "forged"),
        "a cookie's": (tokens.sign_browser(uuid4()), "forged"),
        "payload exchanged": (".".join([scene.mine.host_token.split(".")[0], *body[1:]]), "forged"),
        "time exchanged": (".".join([body[0], "aaaaaa", body[2]]), "forged"),
        "signature exchanged": (".".join([*body[:2], scene.mine.host_token.split(".")[2]]), "forged"),
        "cut off": (host[:-6], "forged"),
        "not text": ("\xff\xfe", "forged"),
        "foreign key's": (Tokens(["f" * 32], 10**9).sign_browser(uuid4()), "forged"),
    }


@pytest.mark.proves("FR-012", "FR-013", "US2.3")
async def test_no_token_but_the_polls_own_hosts_it_by_any_way(
    rest: Rest,
    node: GuardedNode,
    scene: Scene,
    new_address: Callable[[], str],
    stored: Callable[..., State],
    audited: Audited,
) -> None:
    code, before = scene.theirs.code, stored(scene.theirs, scene.mine)
    records: list[tuple[str, str, str, str]] = []
    for name, (token, reason) in tokens_of(scene).items():
        # Given each of them, from an address of its own
        address = new_address()
        headers = {FORWARDED: address, "Authorization": f"Bearer {token}"}
        # When it is shown with every call that only a host may make
        for method, path, event, options in (
            ("POST", "state", "state_change_refused", {"json": {"newState": "closed"}}),
            ("GET", "results.csv", "export_refused", {}),
            ("GET", "results.json", "export_refused", {}),
            ("POST", "host-token", "takeover_refused", {}),
        ):
            answer = await rest.request(method, f"/api/polls/{code}/{path}", url=node.url, headers=headers, **options)
            # Then each is refused
            assert (answer.status, answer.body["code"]) == (403, "not_host"), (name, path)
            records.append((event, address, code, reason))
        assert (await rest.get("/api/config/log-level", url=node.url, headers=headers)).status == 403
        records.append(("admin_refused", address, "", ""))
        # And the same with the events, from a socket that hosts another poll
        ack = await scene.attacker.call("join", {"roomCode": code, "hostToken": token})
        # Of what isn't of a token's characters it needs no key to say that it is none
        assert (ack["success"], ack["code"]) == (False, "invalid_token" if name != "not text" else "invalid_payload")
        for state in ("closed", "waiting"):
            ack = await scene.attacker.change(code, state, hostToken=token)
            assert (ack["success"], ack["code"]) == (False, "not_host" if name != "not text" else "invalid_payload")
    # And without any token
    for state in ("closed", "waiting"):
        assert not (await scene.attacker.change(code, state))["success"]
    # And an administrator's token is no host's
    admin = os.environ["VOTEMILL_SECURITY__ADMIN_TOKEN"]
    assert (await rest.change(scene.theirs, "closed", token=admin, url=node.url)).status == 403
    assert stored(scene.theirs, scene.mine) == before
    # And each is on record
    for event, address, room_code, reason in records:
        row = await audited(event, address=address, room_code=room_code)
        assert (row["outcome"], row["details"].get("reason", "")) == ("refused", reason), event


@pytest.mark.proves("FR-007", "FR-012", "FR-013")
@pytest.mark.parametrize("way", ["python", POLLING_ONLY])
async def test_no_vote_counts_but_the_sockets_own_in_its_own_open_poll(
    rest: Rest,
    node: GuardedNode,
    new_browser: NewBrowser,
    new_address: Callable[[], str],
    stored: Callable[..., State],
    audited: Audited,
    way: str,
) -> None:
    # Given somebody who is in an open poll and in a closed one, and a victim who voted in a third
    mine, shut, theirs = [await rest.open_poll() for _ in range(3)]
    address = new_address()
    attacker = await new_browser(node.url, headers={FORWARDED: address}, kind=way).connect()
    victims = await new_browser(node.url).connect()
    in_mine, in_shut = await attacker.join(mine.code, "Mallory"), await attacker.join(shut.code, "Mallory")
    victim = await victims.join(theirs.code, "Ada")
    assert (await victims.vote(theirs.code, victim, 0))["success"]
    beside = await victims.join(mine.code, "Bo")
    assert (await rest.change(shut, "closed", url=node.url)).status == 200
    await attacker.hears("poll-state-changed", roomCode=shut.code, newState="closed")
    await victims.hears("vote-recorded")
    before = stored(theirs, shut)
    # When the attacker votes in each with each id that there is
    ids = {"mine": in_mine, "shut": in_shut, "victim": victim, "beside": beside}
    ids["nobody"] = {"participantId": str(uuid4())}
    ids["nothing"] = {"participantId": "x"}
    for room, poll in (("mine", mine), ("shut", shut), ("theirs", theirs)):
        for name, who in ids.items():
            if (room, name) == ("mine", "mine"):
                continue
            ack = await attacker.vote(poll.code, who, 1)
            # Then it is refused: as foreign, or since its own poll is closed
            wanted = "voting_not_open" if (room, name) == ("shut", "shut") else "foreign_participant"
            wanted = "not_joined" if room == "theirs" else wanted
            assert (ack["success"], ack["code"]) == (False, wanted), (room, name)
    for poll in (mine, shut, theirs):
        row = await audited("foreign_participant", address=address, room_code=poll.code)
        assert (row["outcome"], row["action"]) == ("refused", "submit-vote")
    # And with the victim's id and the victim's own token, from another browser and under another name
    token = victim["participantToken"]
    ack = await attacker.call("join-room", {"roomCode": mine.code, "nickname": "Ada", "participantToken": token})
    assert ack["participantId"] not in {victim["participantId"], in_mine["participantId"]}
    row = await audited("invalid_participant_token", address=address, room_code=mine.code)
    assert row["details"]["reason"] == "other_poll"
    # And nothing is in the database but the victim's vote, and the attacker's own
    assert (await attacker.vote(mine.code, ack, 2))["success"]
    await eventually(lambda: "2)" in str(stored(mine)), "the attacker's own vote")
    assert stored(theirs, shut) == before
    ((*_, votes, tally),) = stored(mine)
    assert votes == [f"({ack['participantId']},2)"] and tally == [0, 0, 1]


@pytest.mark.proves("FR-005", "FR-012", "FR-013")
async def test_a_captured_vote_played_again_counts_once_and_only_on_its_own_socket(
    rest: Rest, node_urls: list[str], new_browser: NewBrowser, stored: Callable[..., State], audited: Audited
) -> None:
    # Given a vote that was sent
    poll = await rest.open_poll()
    voter, thief = [await new_browser(url).connect() for url in (node_urls[0], node_urls[-1])]
    joined = await voter.join(poll.code, "Ada")
    request = {"roomCode": poll.code, "participantId": joined["participantId"], "optionIndex": 1}
    assert (await voter.call("submit-vote", {**request, "commandId": "one"}))["success"]
    # When it is played again: where it came from, by another participant, and by nobody
    for _ in range(5):
        assert (await voter.call("submit-vote", {**request, "commandId": "one"}))["success"]
    assert (await thief.call("submit-vote", request))["code"] == "not_joined"
    await thief.join(poll.code, "Mallory")
    assert (await thief.call("submit-vote", request))["code"] == "foreign_participant"
    await audited("foreign_participant", room_code=poll.code)
    # Then there is one vote
    await rest.change(poll, "closed")
    await voter.hears("vote-update", final=True)
    ((*_, votes, tally),) = stored(poll)
    assert (votes, tally) == ([f"({joined['participantId']},1)"], [0, 1, 0])


@pytest.mark.proves("FR-012", "FR-013")
@pytest.mark.parametrize("planted", ["made up", "an id", "another kind"])
async def test_a_session_that_somebody_else_chose_is_nobodys(
    rest: Rest, node: GuardedNode, scene: Scene, address: str, audited: Audited, planted: str
) -> None:
    # Given a cookie or a session id that an attacker has planted in a victim's browser
    values = {"made up": "aaaa.bbbb.cccc", "an id": uuid4().hex, "another kind": scene.me["participantToken"]}
    value = values[planted]
    headers = {"Cookie": f"votemill={value}", FORWARDED: address}
    # When the victim opens the page
    answer = await rest.get("/", url=node.url, headers=headers)
    # Then the browser gets an identity that nobody knew before
    given = answer.headers["set-cookie"].partition("=")[2].partition(";")[0]
    settings = load().security
    assert value not in given
    assert UUID(int=Tokens(settings.key_ring().usable(), settings.token_max_age_s).read_browser(given).int).version == 7
    assert (await audited("invalid_cookie", address=address))["details"]["reason"] == "forged"
    # And a transport session under a chosen name doesn't come to be
    chosen = f"/socket.io/?EIO=4&transport=polling&sid={uuid4().hex[:20]}"
    assert (await rest.get(chosen, url=node.url)).status == 400
