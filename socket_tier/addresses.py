"""Who is asking: the client's address behind proxies, and what counts as one address for limits."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

_IPV6_HOME = 64  # bits: the smallest network that one customer is given, all of it to use at will


class TrustedProxies:
    """Reads X-Forwarded-For only as far as trusted proxies have written it.

    ``networks`` are addresses or networks (``10.0.0.0/8``).
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(network) for network in networks)

    def client_address(self, peer: str | None, forwarded: Sequence[str]) -> str:
        """The address nearest to us that is no trusted proxy; empty when the peer has none (a Unix socket).

        ``forwarded`` holds every X-Forwarded-For line in its order: a proxy may add its own below a client's. Each hop
        to the left is only a claim of the hop to its right, so the first one that isn't trusted is the last believed.
        """
        address = _parsed(peer or "")
        if address is None:
            return peer or ""
        for hop in reversed(",".join(forwarded).split(",")):
            if not self._trusts(address):
                break
            named = _parsed(hop.strip())
            if named is None:
                break
            address = named
        return str(address)

    def trusts(self, address: str) -> bool:
        """Whether an address is one of a trusted proxy."""
        parsed = _parsed(address)
        return parsed is not None and self._trusts(parsed)

    def _trusts(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(address in network for network in self._networks)


@lru_cache(maxsize=10_000)
def limited_as(address: str) -> str:
    """What shares one limit: an IPv4 address, or the /64 of an IPv6 address, whose owner has all the others in it."""
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(parsed), _IPV6_HOME), strict=False))
    return address


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address as proxies write it: bare, with a port, in brackets, or IPv4 inside IPv6."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
