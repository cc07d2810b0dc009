"""Signed tokens: a node verifies them without asking anybody.

The first key signs, all keys verify, so keys are rotated by prepending a new one; a key stays in the list as long as
the longest token lives.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer

from models.runtime import clock
from models.runtime.signing_keys import fingerprint

T = TypeVar("T")

FORGED, EXPIRED = "forged", "expired"
_TOKEN = re.compile(r"[A-Za-z0-9_.-]+")


class _Signer(TimestampSigner):
    """Goes by the time that all processes share, and not by this machine's."""

    def get_timestamp(self) -> int:
        return clock.now_us() // 1_000_000


class InvalidToken(Exception):
    """``reason``: ``forged`` (also damaged, or made for another purpose) or ``expired``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ParticipantToken:
    """Names one participant of one poll.

    ``generation`` is the poll's when it was made. It revokes nothing: whoever takes a poll over turns no voter away.
    """

    poll_id: int
    participant_id: UUID
    nickname: str
    generation: int


@dataclass(frozen=True, slots=True)
class HostToken:
    """Controls one poll. ``generation`` below the poll's own means revoked."""

    poll_id: int
    generation: int


class Tokens:
    """Makes and verifies every kind of token. Kinds can't be mistaken for each other: each has a salt of its own.

    Signatures are compared in constant time (itsdangerous does). ``key_ids`` tell keys apart without telling them, the
    signing one first.
    """

    def __init__(self, keys: Sequence[str], max_age_s: int) -> None:
        self._max_age_s = max_age_s
        self.use(keys)

    def use(self, keys: Sequence[str]) -> None:
        """Sign with the first of these from now on, and verify with all of them."""
        # itsdangerous signs with the last key of its list.
        secrets = list(reversed(keys))
        self.key_ids = " ".join(fingerprint(key) for key in keys)
        self._participant = URLSafeTimedSerializer(secrets, salt="participant", signer=_Signer)
        self._host = URLSafeTimedSerializer(secrets, salt="host", signer=_Signer)
        self._browser = URLSafeTimedSerializer(secrets, salt="browser", signer=_Signer)

    def sign_participant(self, token: ParticipantToken) -> str:
        return self._participant.dumps(
            [token.poll_id, token.participant_id.hex, token.nickname, token.generation],
        )

    def read_participant(self, text: str) -> ParticipantToken:
        """:raises InvalidToken:"""
        return self._read(
            self._participant,
            text,
            lambda value: ParticipantToken(value[0], UUID(value[1]), value[2], value[3]),
        )

    def sign_host(self, token: HostToken) -> str:
        return self._host.dumps([token.poll_id, token.generation])

    def read_host(self, text: str) -> HostToken:
        """:raises InvalidToken:"""
        return self._read(self._host, text, lambda value: HostToken(value[0], value[1]))

    def sign_browser(self, browser_id: UUID) -> str:
        """The cookie's value."""
        return self._browser.dumps(browser_id.hex)

    def read_browser(self, text: str) -> UUID:
        """:raises InvalidToken:"""
        return self._read(self._browser, text, UUID)

    def _read(self, serializer: URLSafeTimedSerializer, text: str, made_of: Callable[[Any], T]) -> T:
        # base64's decoder passes over whatever is not of its alphabet: one token would have any number of spellings.
        if not _TOKEN.fullmatch(text):
            raise InvalidToken(FORGED)
        try:
            value, signed_at = serializer.loads(text, return_timestamp=True)
        except BadData as error:
            raise InvalidToken(FORGED) from error
        # Not itsdangerous' own max_age: it refuses what was signed a moment ago by a machine whose clock is ahead.
        if clock.now_us() / 1e6 - signed_at.timestamp() > self._max_age_s:
            raise InvalidToken(EXPIRED)
        return made_of(value)
