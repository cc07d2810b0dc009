"""Host tokens: whose is good for which poll, and how a host who has lost control of one takes the poll over.

A generation is the time of its takeover, so that a database that was restored to before that doesn't give it once more.
And a token of a later generation than the poll's is proof of a takeover that the database has lost, or has not applied
yet: whoever shows it makes the tokens of before void again.
"""

import logging
import time
from dataclasses import dataclass
from uuid import UUID, uuid4

from models.runtime.clock import now_us
from models.runtime.correlation import correlation_id
from models.runtime.tokens import HostToken, InvalidToken, Tokens
from models.wire.commands import RevokeHosts
from models.wire.polls import PollSnapshot
from socket_tier.audit import Audit
from socket_tier.commands import Commands, NoAnswer
from socket_tier.refusals import Refused
from socket_tier.rooms import Room
from socket_tier.tasks import Tasks

log = logging.getLogger(__name__)

_FIRST_S = 1_577_836_800  # 2020: generations, as seconds since then, fit their column until 2088
_REPEATS_KEPT = 10_000
_REPEAT_AFTER_S = 5.0

OTHER_POLL, REVOKED = "other_poll", "revoked"


@dataclass(frozen=True, slots=True)
class Renewed:
    """The token that alone is good from now on. ``pending``: the others are good until a worker has applied it."""

    token: str
    pending: bool


class HostTokens:
    def __init__(self, *, node_id: UUID, tokens: Tokens, commands: Commands, audit: Audit, tasks: Tasks) -> None:
        self._node_id = node_id
        self._tokens = tokens
        self._commands = commands
        self._audit = audit
        self._tasks = tasks
        self._repeated: dict[tuple[int, int], float] = {}  # poll and generation -> until when it is not sent again

    def issue(self, poll: PollSnapshot) -> str:
        """The token of a poll's host."""
        return self._tokens.sign_host(HostToken(poll.poll_id, poll.token_generation))

    def generation(self, text: str, room: Room) -> int:
        """The generation of a token that controls this poll now.

        :raises InvalidToken: it doesn't
        """
        token = self._tokens.read_host(text)
        if token.poll_id != room.poll.poll_id:
            raise InvalidToken(OTHER_POLL)
        if token.generation < room.poll.token_generation:
            raise InvalidToken(REVOKED)
        if token.generation > room.poll.token_generation:
            self._revoke_again(token, room)
        return token.generation

    def _revoke_again(self, token: HostToken, room: Room) -> None:
        lost, now = (token.poll_id, token.generation), time.monotonic()
        if now < self._repeated.get(lost, 0):
            return
        if len(self._repeated) >= _REPEATS_KEPT:
            self._repeated.clear()
        self._repeated[lost] = now + _REPEAT_AFTER_S
        log.warning("revocation_repeated", extra={"poll_id": token.poll_id, "room_code": room.code})
        self._tasks.start(self._send_again(lost), "revoke-again")

    async def _send_again(self, lost: tuple[int, int]) -> None:
        try:
            await self._commands.send(RevokeHosts(uuid4(), self._node_id, *lost, correlation_id=correlation_id.get()))
        except Refused as refusal:
            log.warning("revocation_not_repeated", extra={"poll_id": lost[0], "code": refusal.code})

    async def renew(self, room: Room, address: str) -> Renewed:
        """Revoke every host token and every browser that hosts this poll, on all nodes; participants notice nothing.

        Carried out once the command is durable, so the new token is the answer also when no worker confirms it now:
        with another answer a host would be left with a token that is about to end.

        :raises Refused: nothing has changed
        """
        generation = max(room.poll.token_generation + 1, now_us() // 1_000_000 - _FIRST_S)
        command = RevokeHosts(
            uuid4(), self._node_id, room.poll.poll_id, generation, self._audit.hashed(address), correlation_id.get()
        )
        pending = False
        try:
            await self._commands.request(command, command.command_id)
        except NoAnswer:
            pending = True
        self._audit.note("host_tokens_revoked", outcome="ok", room_code=room.code, address=address)
        return Renewed(self._tokens.sign_host(HostToken(room.poll.poll_id, generation)), pending)
