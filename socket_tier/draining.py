"""Moves a node's sockets elsewhere before it stops."""

import asyncio
import logging
from collections.abc import Sequence

from socket_tier.app import Node
from socket_tier.transport.direct_socket import DirectSocket

log = logging.getLogger(__name__)

_BALANCER_NOTICE_S = 1.2  # two failed checks half a second apart, see the balancer's configuration
_SOCKETS_PER_S = 500  # a join costs a node more than a millisecond, and the node that takes them has votes as well
_STEP_S = 0.05
_ANSWERS_S = 1.0
_LOOK_EVERY_S = 0.01


async def drain(node: Node) -> None:
    """Become unready, wait until the balancer has seen it, close the sockets spread over some seconds.

    Closing the transport makes browsers reconnect after about half a second; a Socket.IO disconnect packet would make
    them stay away. Takes at most ``drain_s`` seconds.
    """
    node.readiness.reason = "draining"
    node.presence.moving = True
    if not len(node.sessions) and not len(node.connections):
        return
    try:
        async with asyncio.timeout(node.settings.node.drain_s):
            await asyncio.sleep(_BALANCER_NOTICE_S)
            await _close_sockets(node)
    except TimeoutError:
        log.warning("drain_timed_out", extra={"sockets": len(node.sessions)})


async def _close_sockets(node: Node) -> None:
    """At an even pace, faster when there are more of them than there is time for."""
    sockets = list(node.server.eio.sockets)
    time_s = max(_STEP_S, node.settings.node.drain_s - _BALANCER_NOTICE_S - 2 * _ANSWERS_S)
    steps = max(1, round(min(len(sockets) / _SOCKETS_PER_S, time_s) / _STEP_S))
    async with asyncio.TaskGroup() as closing:
        for step in range(steps):
            closing.create_task(_close(node, sockets[step::steps]), name="close-sockets")
            await asyncio.sleep(_STEP_S)
    log.info("node_drained", extra={"sockets": len(sockets)})


async def _close(node: Node, eio_sids: Sequence[str]) -> None:
    """Take nothing more from these, answer what was taken, and end their transports."""
    sockets = [node.server.eio.sockets.get(eio_sid) for eio_sid in eio_sids]
    direct = [socket for socket in sockets if isinstance(socket, DirectSocket)]
    for socket in direct:
        socket.stop_listening()
    await node.buffer.settle(_ANSWERS_S)
    for _ in range(round(_ANSWERS_S / _LOOK_EVERY_S)):
        if not any(socket.busy for socket in direct):
            break
        await asyncio.sleep(_LOOK_EVERY_S)
    for eio_sid in eio_sids:
        node.server.go_away(eio_sid)
