"""Host tokens: whose is good for which poll, and how a host who has lost control of one takes the poll over."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from models.runtime.correlation import correlation_id
from models.runtime.tokens import HostToken, InvalidToken, Tokens
from models.wire.commands import RevokeHosts
from models.wire.polls import PollSnapshot
from socket_tier.audit import Audit
from socket_tier.commands import Commands, NoAnswer
from socket_tier.rooms import Room

OTHER_POLL, REVOKED = "other_poll", "revoked"


@dataclass(frozen=True, slots=True)
class Renewed:
    """The token that alone is good from now on. ``pending``: the others are good until a worker has applied it."""

    token: str
    pending: bool


class HostTokens:
    def __init__(self, *, node_id: UUID, tokens: Tokens, commands: Commands, audit: Audit) -> None:
        self._node_id = node_id
        self._tokens = tokens
        self._commands = commands
        self._audit = audit

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
        return token.generation

    async def renew(self, room: Room, address: str) -> Renewed:
        """Revoke every host token and every browser that hosts this poll, on all nodes; participants notice nothing.

        Carried out once the command is durable, so the new token is the answer also when no worker confirms it now:
        with another answer a host would be left with a token that is about to end.

        :raises Refused: nothing has changed
        """
        generation = room.poll.token_generation + 1
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
