"""Answers to one node, and notices to all of them."""

from uuid import UUID

import msgspec

from models.wire import names
from models.wire.notices import CommandFailed, Notice
from workers.outbox import Outbox


class Notices:
    """Speaks to nodes over AMQP. Safe to use from any thread."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def answer(self, node_id: UUID, notice: Notice) -> None:
        """To one node, soon and without a promise: a node that is gone asks again, or nobody does."""
        self._outbox.send("", names.reply_queue(node_id), msgspec.json.encode(notice))

    def answer_surely(self, node_id: UUID, notice: Notice) -> None:
        """To one node; returning means that its queue has it.

        :raises Unroutable: the node is gone
        :raises Unconfirmed: RabbitMQ is away
        """
        self._outbox.send_confirmed("", names.reply_queue(node_id), msgspec.json.encode(notice))

    def refuse(self, node_id: UUID, request_id: UUID, code: str, error: str, retry_after_s: float = 0) -> None:
        self.answer(node_id, CommandFailed(request_id, code, error, retry_after_s))

    def tell_all(self, notice: Notice) -> None:
        """To all nodes, soon and without a promise."""
        self._outbox.send(names.NODES_EXCHANGE, "", msgspec.json.encode(notice))

    def tell_all_surely(self, notice: Notice) -> None:
        """To all nodes; returning means that RabbitMQ has it.

        :raises Unconfirmed: it may or may not have arrived; say it again
        """
        self._outbox.send_confirmed(names.NODES_EXCHANGE, "", msgspec.json.encode(notice))
