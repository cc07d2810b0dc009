"""``python -m socket_tier``: one node, until SIGTERM or SIGINT."""

import asyncio
import logging
import signal

import uvloop
from aiohttp import web

from models.runtime import collector, logs
from models.runtime.settings import Settings, load_or_exit
from socket_tier.app import Node
from socket_tier.connections import Runner
from socket_tier.draining import drain

log = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Run a node; after the signal move its sockets elsewhere, answer what is held, and stop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    node = Node(settings)
    runner = Runner(node.app, node.connections, shutdown_timeout=2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.node.host, settings.node.port, backlog=settings.node.backlog)
        await site.start()
        log.info("node_listening", extra={"host": settings.node.host, "port": settings.node.port})
        await stop.wait()
        log.info("node_draining")
        await drain(node)
    finally:
        # Also when the port is taken: what runs by then would keep the process alive, without anybody hearing of it.
        await runner.cleanup()
    log.info("node_stopped")


def main() -> None:
    settings = load_or_exit(unused={"database", "worker"})
    collector.calm()
    logs.configure(settings.log, service="votemill-node", instance=settings.node.name, environment=settings.environment)
    uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
