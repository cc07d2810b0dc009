"""Moves a node's sockets elsewhere before it stops."""

import asyncio
import logging

from socket_tier.app import Node

log = logging.getLogger(__name__)

_BALANCER_NOTICE_S = 1.2  # two failed checks half a second apart, see the balancer's configuration
_SPREAD_MAX_S = 2.0
_SOCKETS_PER_S = 2000  # what the remaining nodes take without a queue


async def drain(node: Node) -> None:
    """Become unready, wait until the balancer has seen it, close the sockets spread over a moment.

    Closing the transport makes browsers reconnect after about half a second; a Socket.IO disconnect packet would make
    them stay away. Takes at most ``drain_s`` seconds.
    """
    node.readiness.reason = "draining"
    node.presence.moving = True
    if not len(node.sessions):
        return
    try:
        async with asyncio.timeout(node.settings.node.drain_s):
            await asyncio.sleep(_BALANCER_NOTICE_S)
            await _close_sockets(node)
    except TimeoutError:
        log.warning("drain_timed_out", extra={"sockets": len(node.sessions)})


async def _close_sockets(node: Node) -> None:
    sockets = list(node.server.eio.sockets)
    loop = asyncio.get_running_loop()
    started = loop.time()
    spread_s = min(_SPREAD_MAX_S, len(sockets) / _SOCKETS_PER_S)
    for position, eio_sid in enumerate(sockets, 1):
        node.server.go_away(eio_sid)
        ahead_s = started + position * spread_s / len(sockets) - loop.time()
        if ahead_s > 0:
            await asyncio.sleep(ahead_s)
    log.info("node_drained", extra={"sockets": len(sockets)})
