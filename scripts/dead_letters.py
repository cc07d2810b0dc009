"""Shows the commands that could never be applied, puts them back into their queue, or throws them away.

Exit status: 0 done, 1 none has that id or the broker did not take one, 2 wrong usage or no broker.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pika
import pika.exceptions

from models.runtime import tls
from models.runtime.settings import load_or_exit
from models.wire import names
from workers import connection, topology

_ID_CHARACTERS = 12
_ERROR_CHARACTERS = 100


@dataclass(frozen=True)
class DeadLetter:
    """One message of ``QUEUE.dead``, held by this connection until it is acked. ``headers`` as workers set them."""

    tag: int
    queue: str
    body: bytes
    headers: dict[str, Any]

    @property
    def id(self) -> str:
        """Follows from the content: the same at every listing, also for a body that nobody can decode."""
        return hashlib.sha256(self.body).hexdigest()[:_ID_CHARACTERS]

    def __str__(self) -> str:
        age_s = max(0.0, time.time() - int(self.headers.get("at_us", 0)) / 1e6)
        error = " ".join(str(self.headers.get("error", "")).split())[:_ERROR_CHARACTERS]
        reason = self.headers.get("reason", "unknown")
        return f"{self.id}  {self.queue:<8} {reason:<14} {age_s / 3600:7.1f} h  {self._actor()}  {error}"

    def _actor(self) -> str:
        try:
            return str(json.loads(self.body)["actor_name"])
        except (ValueError, KeyError, TypeError):
            return "?"


def main(words: Sequence[str]) -> int:
    options = parse(words)
    queues = [options.queue] if options.queue else list(names.COMMAND_QUEUES)
    try:
        with broker_channel() as channel:
            letters = [letter for queue in queues for letter in take(channel, queue)]
            if options.action == "list":
                return show(letters)
            chosen = [letter for letter in letters if options.all or letter.id in options.ids]
            return end(channel, chosen, requeue if options.action == "requeue" else drop)
    except (pika.exceptions.AMQPError, OSError) as error:
        print(f"✗ the broker does not answer: {tls.explained('broker', error)}", file=sys.stderr)
        return 2


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/dead-letters", description=__doc__)
    parser.add_argument("action", choices=["list", "requeue", "drop"])
    parser.add_argument("ids", nargs="*", metavar="ID", help="as list shows them")
    parser.add_argument("--all", action="store_true", help="requeue or drop every one of them")
    parser.add_argument("--queue", choices=names.COMMAND_QUEUES, help="only those of one queue (default: of all)")
    options = parser.parse_args(words)
    if options.action != "list" and bool(options.ids) == options.all:
        parser.error(f"{options.action} needs ids, or --all")
    return options


@contextmanager
def broker_channel() -> Iterator[Any]:
    """A channel with confirms. What was taken and not acked is back in its queue when the context ends."""
    opened = pika.BlockingConnection(connection.parameters(load_or_exit().broker, "dead letters"))
    try:
        channel = opened.channel()
        topology.declare(channel)
        channel.confirm_delivery()
        yield channel
    finally:
        if opened.is_open:
            opened.close()


def take(channel: Any, queue: str) -> Iterator[DeadLetter]:
    """Everything in a dead-letter queue, oldest first, unacked."""
    while True:
        method, properties, body = channel.basic_get(names.dead_letter_queue(queue))
        if method is None:
            return
        yield DeadLetter(method.delivery_tag, queue, body, properties.headers or {})


def show(letters: Sequence[DeadLetter]) -> int:
    """One line each."""
    for letter in letters:
        print(letter)
    print(f"{len(letters)} dead letters")
    return 0


def end(channel: Any, letters: Sequence[DeadLetter], act: Callable[[Any, DeadLetter], None]) -> int:
    """Do it to each, and only then ack it: a crash in between repeats a letter and never loses one."""
    for letter in letters:
        try:
            act(channel, letter)
        except (pika.exceptions.UnroutableError, pika.exceptions.NackError) as error:
            print(f"✗ {letter.id} stays: {error!r}", file=sys.stderr)
            return 1
        channel.basic_ack(letter.tag)
    if not letters:
        print("✗ no dead letter has that id", file=sys.stderr)
        return 1
    return 0


def requeue(channel: Any, letter: DeadLetter) -> None:
    """Back to where it came from, unchanged. Applying a command twice is harmless.

    :raises UnroutableError, NackError: the queue is gone, or full
    """
    durable = pika.BasicProperties(delivery_mode=2, content_type="application/json")
    channel.basic_publish("", letter.queue, letter.body, durable, mandatory=True)
    print(f"requeued {letter.id} to {letter.queue}")


def drop(_channel: Any, letter: DeadLetter) -> None:
    """Nothing keeps it from now on but what is printed here."""
    body = letter.body.decode(errors="backslashreplace")
    print(json.dumps({"dropped": letter.id, "queue": letter.queue, "headers": letter.headers, "body": body}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
