"""The few REST calls that a load needs, on the standard library; loopback only."""

import http.client
import ipaddress
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

CALL_TIMEOUT_S = 5.0
_LONGEST_RETRY_S = 60.0


class RestError(Exception):
    """No useful answer: nobody there, too slow, not JSON, or a status that isn't a success (its text is in here).

    ``retry_after_s``: the time that a 429 or 503 asked for, else None.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Base:
    """Where a node or balancer listens."""

    url: str
    host: str
    port: int


@dataclass(frozen=True)
class Room:
    """A poll made for the load."""

    code: str
    host_token: str
    options: int


@dataclass(frozen=True)
class Totals:
    """What REST tells about a poll."""

    votes: tuple[int, ...]
    version: int
    final: bool


def parse_base(url: str) -> Base:
    """``http://host:port`` of a server on this machine.

    :raises ValueError: not such an address, or one that isn't loopback: a load tool is no weapon
    """
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url} is not an http:// address")
    port = parts.port or 80
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise ValueError(f"{parts.hostname} does not resolve: {error}") from None
    if not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        raise ValueError(f"{parts.hostname} is not this machine: loads are for loopback addresses only")
    host = parts.hostname if parts.hostname in addresses else sorted(addresses)[0]
    return Base(f"http://{parts.hostname}:{port}", host, port)


def call(base: Base, method: str, path: str, body: object = None, token: str = "") -> dict[str, Any]:
    """One call; its JSON object.

    :raises RestError: see there
    """
    status, headers, answer = _exchange(base, method, path, body, token)
    if 200 <= status < 300:
        return answer
    retry_after_s = _seconds(headers.get("Retry-After")) if status in (429, 503) else None
    raise RestError(f"{method} {path}: {status} {answer.get('error', '')}", retry_after_s)


def call_patiently(base: Base, method: str, path: str, body: object = None, token: str = "") -> dict[str, Any]:
    """Like ``call``, but a 429 or 503 is waited out as the server asks, for at most a minute altogether."""
    gives_up_at = monotonic() + _LONGEST_RETRY_S
    while True:
        try:
            return call(base, method, path, body, token)
        except RestError as error:
            if error.retry_after_s is None or monotonic() + error.retry_after_s > gives_up_at:
                raise
            sleep(max(error.retry_after_s, 0.05))


def open_room(base: Base, number: int, options: int) -> Room:
    """Create a poll and open it for voting."""
    return open_poll(base, f"Load poll {number}", [f"Option {index + 1}" for index in range(options)])


def open_poll(base: Base, question: str, options: Sequence[str], **rules: object) -> Room:
    """Create this poll and open it for voting."""
    wanted = {"question": question, "options": list(options)} | ({"rules": rules} if rules else {})
    poll = call_patiently(base, "POST", "/api/polls", wanted)
    room = Room(str(poll["roomCode"]), str(poll.get("hostToken") or ""), len(options))
    change_state(base, room, "open")
    return room


def change_state(base: Base, room: Room, state: str) -> None:
    """Open or close a poll as its host."""
    call_patiently(base, "POST", f"/api/polls/{room.code}/state", {"newState": state}, room.host_token)


def totals(base: Base, room: str) -> Totals:
    """A poll's totals as this node tells them."""
    answer = call(base, "GET", f"/api/polls/{room}")
    votes = answer.get("votes")
    if not isinstance(votes, list) or not all(isinstance(count, int) for count in votes):
        raise RestError(f"GET /api/polls/{room}: votes are {votes!r}")
    return Totals(tuple(votes), int(answer.get("version") or 0), bool(answer.get("final")))


def _exchange(base: Base, method: str, path: str, body: object, token: str) -> tuple[int, Any, dict[str, Any]]:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection(base.host, base.port, timeout=CALL_TIMEOUT_S)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RestError(f"{method} {base.url}{path}: {error or type(error).__name__}") from None
    finally:
        connection.close()
    return response.status, response.headers, answer if isinstance(answer, dict) else {}


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
