"""Whose address counts behind proxies."""

import pytest

from socket_tier.addresses import TrustedProxies, limited_as

CLIENT, LIAR, PROXY, INNER = "203.0.113.9", "198.51.100.1", "192.0.2.1", "10.1.2.3"


@pytest.mark.proves("FR-009")
@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        (CLIENT, [], CLIENT),
        (CLIENT, [LIAR], CLIENT),  # nobody trusts the peer
        (PROXY, [], PROXY),
        (PROXY, [CLIENT], CLIENT),
        (PROXY, [f"{LIAR}, {CLIENT}"], CLIENT),  # the client's own claim stands to the left of what the proxy saw
        (PROXY, [LIAR, CLIENT], CLIENT),  # a proxy that adds a line of its own below the client's
        (PROXY, [LIAR, f"{CLIENT}, {INNER}"], CLIENT),  # two proxies of ours
        (PROXY, [f"{LIAR}, {PROXY}"], LIAR),
        (INNER, [f"{INNER}, {PROXY}"], INNER),  # all of them ours: the farthest
        (PROXY, ["nonsense"], PROXY),
        (PROXY, [f"{LIAR}, nonsense, {INNER}"], INNER),  # what can't be read ends what is believed
        (PROXY, [""], PROXY),
        (PROXY, [f"{CLIENT}:52110"], CLIENT),
        (f"::ffff:{PROXY}", [f"::ffff:{CLIENT}"], CLIENT),
        (PROXY, ["[2001:DB8::1]:443"], "2001:db8::1"),
        (None, [CLIENT], ""),
    ],
)
def test_the_nearest_address_that_is_not_trusted_is_the_clients(
    peer: str | None, forwarded: list[str], address: str
) -> None:
    proxies = TrustedProxies([PROXY, "10.0.0.0/8"])
    assert proxies.client_address(peer, forwarded) == address


@pytest.mark.proves("FR-009")
def test_all_addresses_of_one_ipv6_customer_share_a_limit() -> None:
    assert limited_as("2001:db8:1:2::1") == limited_as("2001:db8:1:2:ffff::9") != limited_as("2001:db8:1:3::1")
    assert limited_as("192.0.2.1") != limited_as("192.0.2.2")
