"""What must exist in RabbitMQ. Nodes declare the same command queues with the same arguments; whoever comes first wins.

Limits (length, overflow, delivery limit) come by broker policy, which can change without declaring anything anew.
"""

from typing import Any

from dramatiq.common import dq_name

from models.wire import names

QUORUM = {"x-queue-type": "quorum"}
CLASSIC = {"x-queue-type": "classic"}


def declare(channel: Any) -> None:
    """Declare everything on a blocking channel. Repeating it changes nothing."""
    for queue in names.COMMAND_QUEUES:
        declare_queue(channel, queue)
    channel.exchange_declare(names.NODES_EXCHANGE, "fanout", durable=True)


def declare_queue(channel: Any, queue: str) -> None:
    """One command queue with its delay and dead-letter queues."""
    channel.queue_declare(queue, durable=True, arguments=QUORUM)
    # Never expires: a command that can't be applied waits there until a person decides.
    channel.queue_declare(names.dead_letter_queue(queue), durable=True, arguments=QUORUM)
    # Classic: on a quorum queue the redeliveries of a long delay count against a delivery limit.
    channel.queue_declare(dq_name(queue), durable=True, arguments=CLASSIC)
