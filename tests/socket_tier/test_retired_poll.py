"""The end of a poll's retention, as its room sees it: one in use lives on, and whoever is in one that goes is told."""

import asyncio
import os
import sys

import psycopg2
import pytest

from tests.socket_tier.browsers import Browser
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Poll, Rest


def change(database_url: str, statement: str, poll: Poll) -> None:
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(statement, (poll.code,))
    connection.close()


async def retire(database_url: str, poll: Poll, *, quiet: bool) -> None:
    """Run retention after the poll's time; ``quiet``: and long after anything has changed in it."""
    changed = ", version = 1" if quiet else ""
    change(database_url, f"UPDATE polls SET expires_at = now() - interval '1 hour'{changed} WHERE room_code = %s", poll)
    environment = os.environ | {"VOTEMILL_DATABASE__URL": database_url}
    run = await asyncio.create_subprocess_exec(sys.executable, "-m", "workers.retention", env=environment)
    assert await run.wait() == 0


async def voter(new_browser: NewBrowser, url: str, poll: Poll, name: str) -> tuple[Browser, dict[str, object]]:
    browser = await new_browser(url).connect()
    joined = await browser.join(poll.code, name)
    assert (await browser.vote(poll.code, joined, 0))["success"]
    await browser.hears("vote-recorded", optionIndex=0)
    return browser, joined


@pytest.mark.proves("FR-005")
async def test_a_poll_that_is_being_voted_in_outlives_its_retention(
    new_browser: NewBrowser, rest: Rest, poll: Poll, node_urls: list[str], database_url: str
) -> None:
    assert (await rest.change(poll, "open")).status == 200
    ada, joined = await voter(new_browser, node_urls[0], poll, "Ada")
    await retire(database_url, poll, quiet=False)
    assert (await ada.vote(poll.code, joined, 2))["success"]
    await ada.hears("vote-recorded", optionIndex=2)
    # And whoever comes finds it, at any node
    for url in node_urls:
        assert (await rest.read(poll, url=url))["state"] == "open"
        await (await new_browser(url).connect()).join(poll.code, f"at {url[-5:]}")


@pytest.mark.proves("FR-005")
async def test_the_room_of_a_poll_that_is_gone_is_told_and_takes_no_votes(
    new_browser: NewBrowser, rest: Rest, poll: Poll, node_urls: list[str], database_url: str
) -> None:
    assert (await rest.change(poll, "open")).status == 200
    voters = [await voter(new_browser, url, poll, f"v{number}") for number, url in enumerate(node_urls)]
    await retire(database_url, poll, quiet=True)
    for browser, joined in voters:
        await browser.hears("poll-state-changed", roomCode=poll.code, newState="closed")
        refused = await browser.vote(poll.code, joined, 2)
        assert (refused["success"], refused.get("code")) == (False, "poll_not_found")
        assert not browser.heard("vote-rejected")
    for url in node_urls:
        assert (await rest.get(f"/api/polls/{poll.code}", url=url)).status == 404


@pytest.mark.proves("FR-005")
async def test_a_node_that_was_not_told_acks_no_more_votes_once_one_is_refused(
    new_browser: NewBrowser, rest: Rest, poll: Poll, node_urls: list[str], database_url: str
) -> None:
    assert (await rest.change(poll, "open")).status == 200
    ada, joined = await voter(new_browser, node_urls[0], poll, "Ada")
    change(database_url, "DELETE FROM polls WHERE room_code = %s", poll)
    assert (await ada.vote(poll.code, joined, 1))["success"]
    await ada.hears("vote-rejected", code="poll_not_found")
    await ada.hears("poll-state-changed", newState="closed")
    assert (await ada.vote(poll.code, joined, 2))["code"] == "poll_not_found"
