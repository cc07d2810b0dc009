"""Takes over rotated signing keys while the node runs: no connection and no token is dropped by it."""

import logging

from models.runtime.signing_keys import KeyRing, KeysUnusable
from models.runtime.tokens import Tokens
from socket_tier.audit import Audit

log = logging.getLogger(__name__)


class KeyWatch:
    """``refresh`` is called about once a second."""

    def __init__(self, ring: KeyRing, tokens: Tokens, audit: Audit, node_name: str) -> None:
        self._ring = ring
        self._tokens = tokens
        self._audit = audit
        self._node_name = node_name
        self._in_use = ring.usable()

    def tell(self) -> None:
        """Put on record which keys this node starts with."""
        self._note("signing_keys_in_use")

    def refresh(self) -> None:
        """Use the keys that are due by now: by the clock, or since the file has changed. Each change is on record."""
        try:
            self._ring.refresh()
        except KeysUnusable as error:
            log.error("signing_keys_unusable", extra={"error": str(error)})
            self._audit.note("signing_keys_unusable", outcome="refused", action=self._node_name)
        usable = self._ring.usable()
        if usable != self._in_use:
            self._in_use = usable
            self._tokens.use(usable)
            self._note("signing_keys_changed")

    def _note(self, event: str) -> None:
        """The signing key's fingerprint stands first."""
        self._audit.note(event, outcome="ok", action=self._node_name, keys=self._tokens.key_ids)
