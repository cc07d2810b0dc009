"""Emits to browsers through the Socket.IO Redis manager, without its silence: a failed publish raises."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import redis
import socketio

from models.wire import names


@dataclass(frozen=True, slots=True)
class Emission:
    event: str
    payload: dict[str, Any]
    room: str


class _Json:
    """What python-socketio wants of a JSON module; nodes use the like."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> bytes:
        return msgspec.json.encode(value)

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        return msgspec.json.decode(text)


class _Encoder(socketio.RedisManager):
    """The manager itself, except that it hands its messages over instead of publishing them.

    Its own ``_publish`` tries twice, logs and returns: the caller never learns that nobody was told.
    """

    def __init__(self) -> None:
        super().__init__(channel=names.FANOUT_CHANNEL, write_only=True, json=_Json)
        self.messages: list[bytes] = []

    def _publish(self, data: Any) -> None:
        self.messages.append(self.json.dumps(data))


class FanOut:
    """Tells all nodes to emit. Safe to use from any thread."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._encoder = _Encoder()
        self._lock = threading.Lock()

    def emit(self, emissions: Sequence[Emission]) -> None:
        """In one round trip.

        :raises redis.RedisError: some or all were not sent; repeat them
        """
        if not emissions:
            return
        pipe = self._redis.pipeline(transaction=False)
        for message in self._encoded(emissions):
            pipe.publish(names.FANOUT_CHANNEL, message)
        pipe.execute()

    def _encoded(self, emissions: Sequence[Emission]) -> list[bytes]:
        with self._lock:
            self._encoder.messages = []
            for emission in emissions:
                self._encoder.emit(emission.event, emission.payload, room=emission.room)
            return self._encoder.messages
