"""Questions that are asked while something is away."""

from __future__ import annotations

import http.client
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from models.poll_store import CODE_ALPHABET
from scripts.faults.guest import Answer, Guest
from scripts.loadtest.rest import Base, Room

_DECIDED_WITHIN_S = 60.0


@dataclass(frozen=True)
class Reply:
    """An HTTP answer; ``took_s`` from the sending."""

    status: int
    body: dict[str, Any]
    retry_after: str | None
    took_s: float


def http_call(base: Base, method: str, path: str, body: object = None, token: str = "") -> Reply:
    """One HTTP call, whatever its status; an answer that takes more than 15 s is an error."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection = http.client.HTTPConnection(base.host, base.port, timeout=15)
    started = time.monotonic()
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        return Reply(response.status, answer, response.headers.get("Retry-After"), time.monotonic() - started)
    finally:
        connection.close()


def new_poll(base: Base) -> Reply:
    """Try to create a poll."""
    return http_call(base, "POST", "/api/polls", {"question": "Now?", "options": ["Yes", "No", "Later", "Never"]})


def change_state(base: Base, room: Room, state: str) -> Reply:
    """Try to open or close a poll."""
    return http_call(base, "POST", f"/api/polls/{room.code}/state", {"newState": state}, room.host_token)


def read_poll(base: Base, code: str) -> Reply:
    """A poll as this node tells it."""
    return http_call(base, "GET", f"/api/polls/{code}")


def decided(guest: Guest, room: str, nickname: str) -> Answer:
    """A join's first answer that is not to come again."""
    deadline = time.monotonic() + _DECIDED_WITHIN_S
    while True:
        answer = guest.join(room, nickname)
        if not answer.comes_back_later:
            return answer
        assert time.monotonic() < deadline, answer
        time.sleep(0.5)


def unknown_code() -> str:
    """A room code that no cache has; one in a billion belongs to a poll."""
    return "".join(secrets.choice(CODE_ALPHABET) for _ in range(6))


def assert_put_off(reply: Reply, within_s: float) -> None:
    """503 with Retry-After and a text for people, in time."""
    assert reply.status == 503, reply
    assert reply.retry_after and float(reply.retry_after) > 0, reply
    assert reply.body["success"] is False and reply.body["error"] and reply.body["correlationId"], reply
    assert reply.took_s < within_s, reply
