"""What must exist in RabbitMQ. A node whose account may declares the same, when it comes first.

Limits (length, overflow, delivery limit) come by broker policy, which can change without declaring anything anew.
"""

import logging
from typing import Any

import pika.exceptions
from dramatiq.common import dq_name

from models.wire import names

log = logging.getLogger(__name__)

_NOT_FOUND = 404
QUORUM = {"x-queue-type": "quorum"}
CLASSIC = {"x-queue-type": "classic"}


def declare(channel: Any) -> None:
    """Declare everything on a blocking channel. Repeating it changes nothing."""
    channel.exchange_declare(names.COMMANDS_EXCHANGE, "direct", durable=True)
    for queue in names.COMMAND_QUEUES:
        declare_queue(channel, queue)
        channel.queue_bind(queue, names.COMMANDS_EXCHANGE, queue)
    channel.exchange_declare(names.NODES_EXCHANGE, "fanout", durable=True)


def declare_queue(channel: Any, queue: str) -> None:
    """One command queue with its delay and dead-letter queues."""
    channel.queue_declare(queue, durable=True, arguments=QUORUM)
    # Never expires: a command that can't be applied waits there until a person decides.
    channel.queue_declare(names.dead_letter_queue(queue), durable=True, arguments=QUORUM)
    _declare_delays(channel.connection, dq_name(queue))


def _declare_delays(connection: Any, queue: str) -> None:
    """The queue of delayed retries. In a cluster its one home may be down: retries wait for it then, nothing else does.

    Classic: on a quorum queue the redeliveries of a long delay count against a delivery limit.
    """
    channel = connection.channel()  # of its own, since the refusal of a declaration closes the channel
    try:
        channel.queue_declare(queue, durable=True, arguments=CLASSIC)
        channel.close()
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code != _NOT_FOUND:
            raise
        log.info("delay_queue_away", extra={"queue": queue, "error": error.reply_text})
