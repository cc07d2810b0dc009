"""Who is there: one event per net change, and counts that are true on every node."""

import asyncio

import pytest

from tests.socket_tier.browsers import Browser, both_transports, every_client
from tests.socket_tier.conftest import NewBrowser
from tests.socket_tier.rest import Poll, Rest
from tests.socket_tier.waiting import eventually

SETTLED_S = 2.5  # longer than the grace of a reload: whatever was going to be said has been said


@every_client
async def test_a_join_and_a_leave_are_one_event_each_for_the_whole_room(
    new_browser: NewBrowser, host: Browser, poll: Poll, node_urls: list[str], rest: Rest
) -> None:
    # Given somebody in the room, at the other node
    bo = await new_browser(node_urls[-1]).connect()
    await bo.join(poll.code, "Bo")
    # When Ada comes and goes
    ada = await new_browser(node_urls[0]).connect()
    await ada.join(poll.code, "Ada")
    for browser in (host, bo):
        joined = await browser.hears("participant-joined", nickname="Ada")
        assert joined["count"] == 2
    await ada.close()
    # Then everybody is told once of either, with the count after it
    for browser in (host, bo):
        left = await browser.hears("participant-left", nickname="Ada")
        assert left["count"] == 1
    await asyncio.sleep(0.5)
    for browser in (host, bo):
        assert len(browser.heard("participant-joined", nickname="Ada")) == 1
        assert len(browser.heard("participant-left", nickname="Ada")) == 1
    assert (await rest.read(poll))["participantCount"] == 1


@pytest.mark.parametrize(("kind", "transport"), [("js-websocket", "direct"), ("python", "direct"), ("python", "stock")])
async def test_two_tabs_are_one_participant(
    new_browser: NewBrowser, host: Browser, poll: Poll, node_urls: list[str], rest: Rest
) -> None:
    # Given one participant with a tab at each node
    tabs = [await new_browser(url, jar="Ada's").connect() for url in node_urls]
    for tab in tabs:
        await tab.join(poll.code, "Ada")
    # When one tab is closed, and long afterwards the other
    await tabs[0].close()
    await asyncio.sleep(SETTLED_S)
    # Then she has joined once and not left
    assert len(host.heard("participant-joined")) == 1
    assert not host.heard("participant-left")
    assert (await rest.read(poll))["participantCount"] == 1
    # And leaves with the second
    await tabs[1].close()
    await host.hears("participant-left", nickname="Ada", count=0)


@every_client
@pytest.mark.parametrize("at", ["the same node", "another node"])
async def test_a_quick_reload_is_no_event(
    new_browser: NewBrowser, host: Browser, poll: Poll, node_urls: list[str], at: str
) -> None:
    # Given a participant
    before = await new_browser(node_urls[0], jar="Ada's").connect()
    joined = await before.join(poll.code, "Ada")
    await host.hears("participant-joined", nickname="Ada")
    # When the page is reloaded
    await before.close()
    after = await new_browser(node_urls[0] if at == "the same node" else node_urls[-1], jar="Ada's").connect()
    again = await after.join(poll.code, "Ada", joined["participantToken"])
    await asyncio.sleep(SETTLED_S)
    # Then nobody is told anything
    assert again["participantId"] == joined["participantId"]
    assert len(host.heard("participant-joined")) == 1
    assert not host.heard("participant-left")


@both_transports
async def test_who_comes_back_after_a_leave_has_joined_again(
    new_browser: NewBrowser, host: Browser, poll: Poll
) -> None:
    for times in (1, 2):
        ada = await new_browser(jar="Ada's").connect()
        await ada.join(poll.code, "Ada")
        await eventually(lambda n=times: len(host.heard("participant-joined")) == n, "joined")
        await ada.close()
        await eventually(lambda n=times: len(host.heard("participant-left")) == n, "left")


async def test_a_host_and_a_viewer_are_not_counted(
    new_browser: NewBrowser, host: Browser, poll: Poll, rest: Rest
) -> None:
    viewer = await new_browser().connect()
    await viewer.call("join", {"roomCode": poll.code, "viewer": True})
    await asyncio.sleep(0.5)
    assert not host.heard("participant-joined")
    assert (await rest.read(poll))["participantCount"] == 0


@both_transports
async def test_in_a_large_room_hosts_hear_each_join_and_the_room_hears_counts(
    new_browser: NewBrowser, host: Browser, poll: Poll, node_urls: list[str]
) -> None:
    # Given a room of more than fifty, half of it at each node
    first = await new_browser(node_urls[1]).connect()
    await first.join(poll.code, "v0")
    names = [f"v{number}" for number in range(1, 58)]
    browsers = [new_browser(node_urls[number % 2]) for number in range(len(names))]
    await asyncio.gather(*(browser.connect() for browser in browsers))
    for browser, name in zip(browsers, names, strict=True):
        await browser.join(poll.code, name)
    # Then the host hears of every one, once
    await eventually(lambda: len(host.heard("participant-joined")) >= 58, "58 joins")
    assert sorted(event["nickname"] for event in host.heard("participant-joined")) == sorted(["v0", *names])
    # And the others hear of the first fifty and then the count, at most twice a second
    await first.hears("participant-count", count=58)
    assert len(first.heard("participant-joined")) <= 50
    assert not {event["nickname"] for event in first.heard("participant-joined")} & {"v52", "v55", "v57"}
    times = [event.at for event in first.events if event.name == "participant-count"]
    for time in times:
        assert sum(time <= other < time + 1.0 for other in times) <= 3
